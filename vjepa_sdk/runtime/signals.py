"""Turn the first SIGINT, SIGTERM or SIGUSR1 into a request to stop, so that a run can save its state."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

# SIGUSR1, which Windows lacks, is what batch systems send ahead of a time limit (Slurm: --signal=USR1@60)
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopRequest:
    """Whether a signal asked the run to stop."""

    def __init__(self) -> None:
        self.is_requested = False
        self._is_interrupting = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take the first signal as a request; the second interrupts at once."""
        self.is_requested = True
        for each in _SIGNALS:
            signal.signal(each, signal.default_int_handler)
        logger.warning("%s: saving what is done; run again to go on", signal.Signals(number).name)
        if self._is_interrupting:
            raise KeyboardInterrupt

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let the first signal end the block at once, with KeyboardInterrupt: for waits that may be long."""
        if self.is_requested:
            raise KeyboardInterrupt
        self._is_interrupting = True
        try:
            yield
        finally:
            self._is_interrupting = False


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Handle SIGINT, SIGTERM and SIGUSR1 while the block runs; outside the main thread, which alone may, do nothing."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    handlers = {number: signal.signal(number, stop.handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
