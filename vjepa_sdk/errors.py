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
└── GuardError         training was stopped before weights were damaged             (also a RuntimeError)
"""

from __future__ import annotations


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


class WriteError(OutputError):
    """The disk is full, read-only or failing; what was written before is intact."""


class InUseError(OutputError):
    """Another live run owns this output."""


class ResumeError(CheckpointError):
    """A run cannot be continued because something that matters changed."""
