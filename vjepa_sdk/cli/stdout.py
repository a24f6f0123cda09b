"""A stdout that outlives its reader, and can say any name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextmanager
def patient_stdout() -> Iterator[None]:
    """Let what is printed in the block neither fail nor change the exit code, whoever reads it.

    A reader that went away, as `head` does, gets no more; characters that the encoding lacks are escaped.
    """
    stream = sys.stdout
    if stream is None or not hasattr(stream, "reconfigure"):
        yield
        return
    errors = stream.errors
    stream.reconfigure(errors="backslashreplace")
    sys.stdout = patient = _Patient(stream)
    try:
        yield
    finally:
        patient.flush()
        sys.stdout = stream
        stream.reconfigure(errors=errors)


class _Patient:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._forget_reader()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._forget_reader()

    def _forget_reader(self) -> None:
        # what is buffered would fail again when the process ends
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
