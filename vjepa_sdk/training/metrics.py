"""Log a run's metrics: one line of JSON each, whole or absent."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import WriteError
from ..runtime.files import write_text

logger = logging.getLogger(__name__)

_FLAGS = os.O_WRONLY | os.O_CREAT
for _name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW"):
    _FLAGS |= getattr(os, _name, 0)


class MetricsLog:
    """Append to `metrics.jsonl`; lines that a full disk refuses are kept and written with a later one."""

    def __init__(self, path: Path, *, last_step: int) -> None:
        """Open the file and forget what an interrupted run logged after its last checkpoint.

        Raises:
            WriteError: it cannot be opened.
        """
        try:
            _drop_after(path, last_step)
            self._descriptor = os.open(path, _FLAGS, 0o666)
        except OSError as error:
            raise WriteError(f"{path}: cannot be written ({error.strerror}); check disk and permissions") from error
        self._path, self._size, self._waiting = path, path.stat().st_size, b""

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line; numbers that are not finite become null, which JSON has."""
        self._waiting += (json.dumps({key: _valid(value) for key, value in line.items()}) + "\n").encode()
        try:
            # always at the end of the last whole line: what a full disk cut short is written over
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            written = os.write(self._descriptor, self._waiting)
        except OSError as error:
            logger.warning("%s: cannot be written (%s); kept for the next line", self._path, error.strerror)
            return
        if written == len(self._waiting):
            self._size, self._waiting = self._size + written, b""

    def sync(self) -> None:
        """Force the lines to disk, ahead of a checkpoint that takes them as written."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            logger.warning("%s: cannot be forced to disk (%s)", self._path, error.strerror)


def last_step(path: Path) -> int:
    """Return the step of the last line, 0 if there is none."""
    if not path.exists():
        return 0
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _valid(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _drop_after(path: Path, step: int) -> None:
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_text(path, "".join(kept))
