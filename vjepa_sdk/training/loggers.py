"""Send a run's metrics where people look at them, beside `metrics.jsonl`, which remains the record of the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..errors import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

NAMES = ("tensorboard",)


@runtime_checkable
class MetricsLogger(Protocol):
    """Where metrics go, besides `metrics.jsonl`."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the metrics of a step, all of them finite numbers; steps come in order, each once."""

    def close(self) -> None:
        """The run has ended, or stopped."""


def check_loggers(loggers: Sequence[str | MetricsLogger]) -> None:
    """Refuse what is no logger or not installed, before anything is imported for it.

    Raises:
        ConfigError: the message names the remedy.
    """
    if isinstance(loggers, str):
        raise ConfigError(f"log={loggers!r} must be a list; pass [{loggers!r}]")
    for each in loggers:
        if isinstance(each, str):
            if each not in NAMES:
                raise ConfigError(f"log={each!r} must be one of {', '.join(NAMES)}, or an object with log and close")
            if find_spec("tensorboard") is None:
                raise ConfigError("log='tensorboard' needs it; install it with `pip install 'vjepa-sdk[tensorboard]'`")
        elif not isinstance(each, MetricsLogger):
            raise ConfigError(f"log={type(each).__name__} must have the methods log(step, values) and close()")


class Loggers:
    """Those of a run. One that fails is left out from then on, and the run goes on.

    Args:
        after: steps up to this one were logged by an earlier process, and are not logged again.
    """

    def __init__(self, loggers: Sequence[str | MetricsLogger], out: Path, *, after: int) -> None:
        self._out, self._last = out, after
        self._waiting, self._open = list(loggers), list[MetricsLogger]()

    def __enter__(self) -> Loggers:
        for each in self._waiting:
            if not isinstance(each, str):
                self._open.append(each)
                continue
            try:
                self._open.append(TensorBoard(self._out / "tensorboard"))
            except Exception as error:  # a full disk, or a package that does not fit
                _warn(each, "cannot be opened", error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._open:
            try:
                each.close()
            except Exception as failure:
                _warn(type(each).__name__, "cannot be closed", failure)

    def log(self, line: Mapping[str, Any]) -> None:
        """Send the numbers of a line of `metrics.jsonl`."""
        step = int(line["step"])
        values = {
            name: float(value)
            for name, value in line.items()
            if name != "step" and isinstance(value, int | float) and math.isfinite(value)
        }
        if step <= self._last or not values:
            return
        self._last = step
        for each in list(self._open):
            try:
                each.log(step, values)
            except Exception as error:  # whatever somebody's code and somebody's server raise
                self._open.remove(each)
                _warn(type(each).__name__, f"failed at step {step}", error)


def _warn(name: str, what: str, error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}"
    logger.warning("%s %s (%s); nothing more goes there, metrics.jsonl has all", name, what, reason)


class TensorBoard:
    """Write event files for TensorBoard into a directory."""

    def __init__(self, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: SummaryWriter = SummaryWriter(str(directory))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write a scalar for each value, and hand them to the system: a kill loses none."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
