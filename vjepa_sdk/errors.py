"""Say what went wrong, in one line, with the value, the rule and the remedy.

VJEPAError
├── ConfigError        an option, configuration value or name is not valid          (also a ValueError)
├── InputError         a video, image, array or index handed to the library is wrong (also a ValueError)
├── VideoDecodeError   a file exists but its frames cannot be read                  (also an OSError)
├── WeightsError       a model directory or weights file cannot be loaded           (also an OSError)
├── CheckpointError    a training run cannot be saved or resumed                    (also an OSError)
│   └── ResumeError    something that matters changed since it was saved
├── OutputError        an output exists, is missing its directory or cannot be used (also an OSError)
│   ├── InUseError     another live run owns it
│   └── WriteError     the disk is full, read-only or failing
├── GuardError         training was stopped before weights were damaged             (also a RuntimeError)
└── StoppedError       a signal stopped the work; what is done is kept, call again to go on
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAX_LINE = 2000


class VJEPAError(Exception):
    """Base class of every error that vjepa-sdk raises on purpose."""


class ConfigError(VJEPAError, ValueError):
    """An option, configuration value or name is not valid."""


class InputError(VJEPAError, ValueError):
    """A video, image, array or index handed to the library is wrong."""


class VideoDecodeError(VJEPAError, OSError):
    """A file's frames cannot be read; the message names the file and the reason."""


class WeightsError(VJEPAError, OSError):
    """A model directory or weights file cannot be loaded."""


class CheckpointError(VJEPAError, OSError):
    """A training run cannot be saved or resumed."""


class OutputError(VJEPAError, OSError):
    """An output exists, its directory is missing, or another run uses it."""


class GuardError(VJEPAError, RuntimeError):
    """Training was stopped by a guard; weights on disk are intact."""


class StoppedError(VJEPAError):
    """A signal stopped the work; what is done is kept, call again to go on."""


class WriteError(OutputError):
    """The disk is full, read-only or failing; what was written before is intact."""


class InUseError(OutputError):
    """Another live run owns this output."""


class ResumeError(CheckpointError):
    """A run cannot be continued because something that matters changed."""


@contextmanager
def naming(place: str | Path) -> Iterator[None]:
    """Say in every error of the block which file or repository it is about."""
    try:
        yield
    except VJEPAError as error:
        raise type(error)(f"{place}: {error}") from error.__cause__


def counted(count: int, what: str) -> str:
    """Return a number of things: `1 clip`, `1,200 clips`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def printable(path: object) -> str:
    """Escape what could drive a terminal or break a line: names come from strangers."""
    text = str(path)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException | str) -> str:
    """Return what an error says as one printable line of at most 2,000 characters; the class too if it is not ours."""
    text = " ".join(str(error).split())
    if not isinstance(error, VJEPAError | str):
        text = f"{type(error).__name__}: {text}"
    # values from a stranger's file are repeated in messages, and can be long
    return printable(text if len(text) <= _MAX_LINE else f"{text[:_MAX_LINE]}...")
