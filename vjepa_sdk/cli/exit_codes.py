"""What the exit code of a command says, and which error gives which."""

from __future__ import annotations

from ..errors import (
    ConfigError,
    GuardError,
    InputError,
    InUseError,
    OutputError,
    ResumeError,
    StoppedError,
    VJEPAError,
    WriteError,
)

COMPLETE, FAILED, USAGE, SOME_SKIPPED, IN_USE, RESUME_REFUSED, GUARDED, STOPPED = 0, 1, 2, 3, 4, 5, 6, 75

# the first class that fits decides
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (InUseError, IN_USE),
    (WriteError, FAILED),
    (ResumeError, RESUME_REFUSED),
    (GuardError, GUARDED),
    (StoppedError, STOPPED),
    (ConfigError, USAGE),
    (InputError, USAGE),
    (OutputError, USAGE),
    (VJEPAError, FAILED),
)
