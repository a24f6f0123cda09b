"""Turn the first SIGINT, SIGTERM or SIGUSR1 into a request to stop, so that a run can save its state."""

from __future__ import annotations

import ctypes
import logging
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

# SIGUSR1, which Windows lacks, is what batch systems send ahead of a time limit (Slurm: --signal=USR1@60)
_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class StopRequest:
    """Whether a signal asked the run to stop."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self.is_requested = False
        self._numbers = tuple(numbers)
        self._is_interrupting = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take the first signal as a request; the second interrupts at once."""
        self.is_requested = True
        for each in self._numbers:
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
    """Handle SIGINT, SIGTERM and SIGUSR1 while the block runs; outside the main thread, which alone may, do nothing.

    A signal whose handler was not set by Python, but by a host program, a library or `faulthandler`, is left to it:
    Python could not put that handler back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest()
        return
    handlers = {number: signal.getsignal(number) for number in _SIGNALS if not _is_foreign(number)}
    if foreign := [number.name for number in _SIGNALS if number not in handlers]:
        logger.info("%s: left to the handler that another part of this program has set", ", ".join(foreign))
    stop = StopRequest(handlers)
    try:
        for number in handlers:
            signal.signal(number, stop.handle)
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _is_foreign(number: signal.Signals) -> bool:
    """Whether something other than Python handles a signal; Python only knows of handlers older than itself."""
    handler = signal.getsignal(number)
    if handler is None:
        return True
    if handler not in (signal.SIG_DFL, signal.SIG_IGN) or not hasattr(signal, "pthread_sigmask"):
        return False
    # struct sigaction, whatever its size here; it begins with the handler, of which SIG_DFL and SIG_IGN are two values
    action = ctypes.create_string_buffer(1024)
    if ctypes.CDLL(None).sigaction(int(number), None, action) != 0:
        return False
    return ctypes.c_void_p.from_buffer(action).value not in ((None, 0) if handler == signal.SIG_DFL else (1,))
