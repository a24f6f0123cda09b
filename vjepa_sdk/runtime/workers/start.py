"""Start child processes: on Linux all are forked from one that has loaded the task, elsewhere each starts Python anew.

Loading torch takes longer than decoding many a clip, and 400 MB. A forked child shares what was loaded before, and is
there in milliseconds. The process that is forked is never the caller's, whose threads may hold locks: it does nothing
but load the task, and has one thread. Elsewhere forking is not safe once system libraries are loaded.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Pipe
from multiprocessing.reduction import send_handle
from typing import Any, Protocol

from ...errors import VJEPAError, one_line
from ..host import is_nowhere
from ..sandbox import import_path
from . import child, shared_memory
from .wire import GO_ON, receive_message

START_UP_SECONDS = 120.0  # importing torch on a loaded machine takes long and is nobody's clip's fault
_KILLED = -9
"""Status of a process that SIGKILL ended."""
_POLL_SECONDS, _END_SECONDS = 0.002, 5.0
_PASSED_ON = re.compile(
    r"PATH|HOME|TZ|LANG|LANGUAGE|LC_\w+|TMPDIR|TEMP|TMP|SYSTEMROOT|WINDIR|VIRTUAL_ENV|CONDA_PREFIX"
    r"|(LD|DYLD|PYTHON|OMP|GOMP|KMP|MKL|OPENBLAS|MALLOC|SVT|AV|ASAN|COVERAGE)_?\w*"
)
"""Variables that finding and running Python, torch and FFmpeg may take."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@functools.cache
def can_fork() -> bool:
    """Whether children are forked here: on Linux, where a process can be held by more than its number (5.3, 2019)."""
    if sys.platform != "linux" or not (hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")):
        return False  # a Python that was built with the headers of an older system lacks them on any
    try:
        os.close(_hold(os.getpid()))
    except OSError:
        return False
    return True


_Connection = Any
"""The end of a pipe; its class depends on the system."""


class StartError(Exception):
    """A child could not be started; another try may succeed."""


class Process(Protocol):
    """What a started child is to its owner; `subprocess.Popen` is one."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float) -> int: ...


def spawn(pickled_task: bytes) -> tuple[Process, _Connection]:
    """Start a Python process that loads the task and serves what comes over the connection."""
    process, connection = _start_python(child.serve.__name__)
    with contextlib.suppress(BrokenPipeError):  # it died at once: found when its answer is read
        connection.send_bytes(pickled_task)
    return process, connection


def _start_python(function: str, *arguments: str) -> tuple[subprocess.Popen[bytes], _Connection]:
    """Run a function of `child` in a process of its own, with a connection to it."""
    connection, theirs = Pipe(duplex=True)
    # Not multiprocessing.Process: "fork" copies locks held by torch's threads, and "spawn" runs the user's script
    # a second time in the child.
    start = f"import sys; sys.path[:] = {import_path()!r}; from {child.__name__} import {function}"
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{start}; {function}({theirs.fileno()}, {os.getpid()}, *{arguments!r})"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the parent's results go to stdout
            env=_child_environment(),
            start_new_session=True,  # Ctrl-C is for the parent
            cwd=os.sep if is_nowhere() else None,  # torch cannot be loaded in a directory that was deleted
        )
    return process, connection


def _child_environment() -> dict[str, str]:
    """Pass on what a decoder needs and nothing else: one taken over by a hostile file finds no token."""
    kept = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name.upper())}
    return kept | dict.fromkeys(_THREAD_VARIABLES, "1")


class Nursery:
    """The process that has loaded the task and is forked for each child. One thread uses it; any may kill it.

    Args:
        preload: modules that the task needs; they are being loaded while the caller does something else.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        self._process, self._connection = _start_python(child.nurse.__name__, *preload)
        self._is_ready = False
        self.is_lost = False
        """Whether it was found dead or dumb, and all children with it."""

    def fork(self, pickled_task: bytes) -> tuple[Process, _Connection, int | None]:
        """Start a child for a task, which is the same each time.

        Returns:
            it, the connection to it, and the memory shared with it, if there is any.

        Raises:
            StartError: the process ended, or took too long.
            VJEPAError: it cannot load the task.
        """
        if sys.platform != "linux":
            raise NotImplementedError("see can_fork")
        try:
            if not self._is_ready:
                self._connection.send_bytes(pickled_task)
                self._greet()
            ours, theirs = Pipe(duplex=True)
            with theirs, contextlib.ExitStack() as unused:
                memory = shared_memory.create()
                if memory is not None:
                    unused.callback(os.close, memory)
                self._connection.send_bytes(child.FORK if memory is None else child.FORK_SHARING)
                send_handle(self._connection, theirs.fileno(), self._process.pid)
                if memory is not None:
                    send_handle(self._connection, memory, self._process.pid)
                forked = _Forked(self, int(self._answer()))
                unused.pop_all()
                return forked, ours, memory
        except (EOFError, ConnectionError, ProcessLookupError) as error:
            raise StartError(reason_of_death(self._exit_status())) from error
        except OSError as error:  # here, and not there: too many files are open
            raise StartError(one_line(error)) from error

    def status_of(self, pid: int) -> int | None:
        """Reap a child; return how it ended, None if it has not."""
        try:
            self._connection.send_bytes(str(pid).encode())
            answer = self._answer()
        except (EOFError, OSError, StartError):
            self.is_lost = True
            self.kill()  # an answer that comes late would be taken for that to the next question
            return _KILLED  # as the system ended it with the process it was forked from
        return None if answer == GO_ON else int(answer)

    def kill(self) -> None:
        """End it, and with it, on Linux, all children."""
        self._process.kill()

    def close(self) -> None:
        """End it and reap it."""
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self._connection.close()

    def _greet(self) -> None:
        if not self._connection.poll(START_UP_SECONDS):
            raise StartError(f"it was not ready within {START_UP_SECONDS:g} s")
        try:
            message = receive_message(self._connection)
        except ValueError as violation:
            raise StartError(f"it sent an invalid answer: {violation}") from violation
        if message.kind == "error":
            raise VJEPAError(f"the task cannot be loaded in a worker process: {message.error}")
        self._is_ready = True

    def _answer(self) -> bytes:
        if not self._connection.poll(START_UP_SECONDS):
            raise StartError(f"no answer within {START_UP_SECONDS:g} s")
        answer: bytes = self._connection.recv_bytes()
        return answer

    def _exit_status(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(1.0)
        return None


class _Forked:
    """A child that another process forked, and reaps when asked to."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid, self._nursery = pid, nursery
        self._descriptor = _hold(pid)  # its number may become another's, should that process end
        self._status: int | None = None
        self._lock = threading.Lock()

    @property
    def returncode(self) -> int | None:
        """Minus the signal that ended it, or its exit code; None before `wait` has seen it end."""
        return self._status

    def kill(self) -> None:
        """End it; from any thread."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._status is None:
                _kill(self._descriptor)

    def wait(self, timeout: float) -> int:
        """Wait for its end; from the thread that owns the nursery.

        Raises:
            subprocess.TimeoutExpired: it did not end.
        """
        deadline = time.monotonic() + timeout
        while self._status is None:
            status = self._nursery.status_of(self.pid)
            if status is not None:
                self.kill()  # for one whose nursery was lost, and which may have seen to it that it lives on
                with self._lock:
                    self._status = status
                    os.close(self._descriptor)
                return status
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a worker process", timeout)
            time.sleep(_POLL_SECONDS)
        return self._status

    @property
    def is_orphan(self) -> bool:
        """Whether it ended with the process that it was forked from."""
        return self._nursery.is_lost


def ended_for_another(process: Process) -> bool:
    """Whether a child ended because the one it was forked from did."""
    return isinstance(process, _Forked) and process.is_orphan


def _hold(pid: int) -> int:
    """Return a descriptor of a process."""
    if sys.platform != "linux":
        raise NotImplementedError("see can_fork")
    return os.pidfd_open(pid)


def _kill(descriptor: int) -> None:
    if sys.platform == "linux":
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def reason_of_death(status: int | None) -> str:
    """Say how a child ended."""
    if status is None or status == _KILLED:
        return "decoder process was killed (signal 9), probably for lack of memory; use fewer workers"
    return f"decoder process died (signal {-status})" if status < 0 else f"decoder process died (exit code {status})"
