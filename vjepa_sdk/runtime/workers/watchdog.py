"""Kill a child that stalls in the middle of a message: its parent waits in a read that has no deadline of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .start import Process

_LOOK_SECONDS = 0.25


class Watchdog:
    """Look now and then whether a read takes too long; a timer for each message would cost as much as the message."""

    def __init__(self) -> None:
        self._watched: tuple[Process, float] | None = None
        self._is_ended = threading.Event()
        threading.Thread(target=self._watch, name="vjepa-watchdog", daemon=True).start()

    @contextmanager
    def killing(self, process: Process, seconds: float) -> Iterator[None]:
        """Kill a process if this block takes longer, which ends reads from it with EOFError."""
        self._watched = process, time.monotonic() + seconds
        try:
            yield
        finally:
            self._watched = None

    def end(self) -> None:
        self._is_ended.set()

    def _watch(self) -> None:
        while not self._is_ended.wait(_LOOK_SECONDS):
            watched = self._watched
            if watched is not None and watched[1] <= time.monotonic():
                watched[0].kill()
