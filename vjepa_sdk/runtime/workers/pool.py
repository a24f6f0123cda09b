"""Run slow, untrusted work in replaceable processes.

Decoders hang and crash on some files. Here each task runs in a child process with a deadline; a child that hangs or
dies is killed and replaced, and costs its one task.

A dispatcher thread hands out requests and collects results, so that children work on while the caller computes. What
passes between a child and its parent is in `wire`.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from types import TracebackType
from typing import Any, Generic

import numpy as np

from ...errors import ConfigError, VJEPAError, one_line
from ..host import python_executable
from .child import run_task
from .dispatcher import WATCHDOG_SECONDS, Dispatcher, Ticket, dump_stacks
from .start import Nursery, can_fork
from .wire import Message, Request, Task

logger = logging.getLogger(__name__)

_CLOSED = "this WorkerPool is closed; open a new one"


def can_start_processes() -> bool:
    """Whether this system has what worker processes are made of: sockets to inherit and a signal that ends them."""
    return sys.platform != "win32" and hasattr(socket, "AF_UNIX") and hasattr(signal, "SIGKILL")


@cache
def _say_once() -> None:
    logger.warning(
        "worker processes need Linux or macOS: videos are decoded in this process, one at a time and without a deadline"
    )


@dataclass(frozen=True)
class TaskResult(Generic[Request]):
    """Hold what became of one request, or one of its results."""

    request: Request
    message: Message
    """Its answer, or one of them: `result`, `item`, `end` or `error`."""
    failures: tuple[tuple[Request, str], ...] = ()
    """Requests that `retry` replaced by this one, and their errors."""

    @property
    def array(self) -> np.ndarray | None:
        """None at the end of a request that had items, and of one that failed."""
        return self.message.array

    @property
    def info(self) -> dict[str, Any]:
        """Plain JSON data that belongs to the array."""
        return self.message.info

    @property
    def error(self) -> str | None:
        """Why the request failed, in one line."""
        return self.message.error

    @property
    def is_last(self) -> bool:
        """Whether the request has no further result."""
        return self.message.is_last


class WorkerPool(Generic[Request]):
    """Map a task over requests in child processes; results come back in order of the requests, or as they come.

    Args:
        task: a picklable callable from an importable module: task(request) -> (array, JSON-able dict), or an iterator
            of such pairs; None among them says that it is at work, and its deadline starts anew.
        num_workers: child processes; 0 runs the task in this process, without a deadline, and so does any number on
            Windows.
        deadline_seconds: time for one result, from the moment a started child is asked for it.
        max_tasks_per_worker: a child is replaced after so many tasks, which bounds what a decoder leaks.
        crash_retries: how often a task is run again, in a fresh child, after its child hung or died. A child may be
            killed for no fault of its task; where results must not depend on that, pass 1. Results that the caller has
            already are not repeated.
        num_bytes_of: how much a request reads, where the time for all of its results should grow with that: they may
            take `DEADLINES_PER_REQUEST` deadlines together, and one more for each MiB. Waiting for the caller does not
            count.
        nursery: what `prepare` returned.

    Raises:
        ConfigError: a number is out of range, or this program cannot start worker processes.
    """

    def __init__(
        self,
        task: Task[Request],
        *,
        num_workers: int,
        deadline_seconds: float,
        max_tasks_per_worker: int = 500,
        crash_retries: int = 0,
        num_bytes_of: Callable[[Request], int] | None = None,
        nursery: Nursery | None = None,
    ) -> None:
        num_workers = _settled(num_workers)
        if not deadline_seconds > 0:
            raise ConfigError(f"deadline_seconds={deadline_seconds} must be above 0")
        if max_tasks_per_worker < 1:
            raise ConfigError(f"max_tasks_per_worker={max_tasks_per_worker} must be at least 1")
        self._task = task
        self._num_workers = num_workers
        self._deadline_seconds = deadline_seconds
        self._max_tasks_per_worker = max_tasks_per_worker
        self._crash_retries = crash_retries
        self._nursery = nursery
        self._num_bytes_of = num_bytes_of or (lambda _: 0)
        self._dispatcher: Dispatcher | None = None
        self._is_mapping = False
        self._is_closed = False

    def map(
        self,
        requests: Iterable[Request],
        *,
        prefetch: int,
        retry: Callable[[Request], Request | None] | None = None,
    ) -> Iterator[TaskResult[Request]]:
        """Yield the results of each request, in order.

        Args:
            requests: consumed as needed: at most num_workers + prefetch are unanswered at any time.
            prefetch: results that may wait, finished, for the caller; a task with more goes on when one is taken. Half
                of them are kept for the request whose results the caller takes, so that others cannot hold it up.
            retry: names the request to put in a failed one's place, or None to give up; default: never retry. For
                tasks with one result.

        Raises:
            VJEPAError: worker processes cannot be started, more than `MAX_DEATHS` requests in a row kill theirs, or
                nothing comes from them for `WATCHDOG_SECONDS`, in which case the stacks of all threads are on stderr.
        """
        self._check_is_free(prefetch)
        if self._num_workers == 0:
            return self._map_here(requests, retry)
        return self._map_in_children(requests, prefetch, retry)

    def map_unordered(self, requests: Iterable[Request], *, prefetch: int) -> Iterator[TaskResult[Request]]:
        """Yield the results of all requests as they come, only those of one request in their order; else as `map`."""
        if self._num_workers == 0:
            yield from self.map(requests, prefetch=prefetch)
            return
        self._check_is_free(prefetch)
        with self._mapping(prefetch) as dispatcher:
            remaining, unanswered = iter(requests), list[Ticket]()
            while True:
                room = self._num_workers + prefetch - len(unanswered)
                unanswered += [self._submit(dispatcher, request) for request in islice(remaining, room)]
                if not unanswered:
                    return
                ticket, message = dispatcher.next_result(unanswered)
                if message.is_last:
                    unanswered.remove(ticket)
                yield TaskResult(ticket.request, message)

    def _map_here(
        self, requests: Iterable[Request], retry: Callable[[Request], Request | None] | None
    ) -> Iterator[TaskResult[Request]]:
        for request in requests:
            messages = run_task(self._task, request)
            is_last = False
            while not is_last:
                message = _watched(messages, request)
                if message.kind != "alive":
                    yield _retried(request, message, retry, lambda again: _watched(run_task(self._task, again), again))
                is_last = message.is_last

    def _map_in_children(
        self, requests: Iterable[Request], prefetch: int, retry: Callable[[Request], Request | None] | None
    ) -> Iterator[TaskResult[Request]]:
        with self._mapping(prefetch) as dispatcher:
            unanswered: deque[Ticket] = deque()
            for request in requests:
                unanswered.append(self._submit(dispatcher, request))
                if len(unanswered) == self._num_workers + prefetch:
                    yield from _results(dispatcher, unanswered.popleft(), retry)
            while unanswered:
                yield from _results(dispatcher, unanswered.popleft(), retry)

    def _submit(self, dispatcher: Dispatcher, request: Request) -> Ticket:
        return dispatcher.submit(request, self._num_bytes_of(request))

    def _check_is_free(self, prefetch: int) -> None:
        if prefetch < 0:
            raise ConfigError(f"prefetch={prefetch} must be at least 0")
        if self._is_closed:
            raise VJEPAError(_CLOSED)

    @contextlib.contextmanager
    def _mapping(self, prefetch: int) -> Iterator[Dispatcher]:
        """Have the children at work; a block that ends early leaves none at work on results nobody wants."""
        if self._is_closed:  # between the call of `map` and the first look at its results
            raise VJEPAError(_CLOSED)
        if self._is_mapping:
            raise VJEPAError("this WorkerPool already maps; finish that iteration or open a second pool")
        if self._dispatcher is None:
            self._dispatcher = Dispatcher(
                pickle.dumps(self._task),
                self._num_workers,
                self._deadline_seconds,
                self._max_tasks_per_worker,
                self._crash_retries,
                self._nursery,
            )
            self._nursery = None  # the dispatcher's now
        dispatcher = self._dispatcher
        dispatcher.prefetch = prefetch
        self._is_mapping = True
        is_complete = False
        try:
            yield dispatcher
            is_complete = True
        finally:
            self._is_mapping = False
            if not is_complete:
                self._stop()

    def close(self) -> None:
        """Kill the child processes, and end a `map` under way with VJEPAError; idempotent, and from any thread."""
        self._is_closed = True
        self._stop()

    def _stop(self) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            dispatcher.stop()

    def __enter__(self) -> WorkerPool[Request]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def prepare(num_workers: int, *modules: str) -> Iterator[Nursery | None]:
    """Load modules for the processes of a pool that will be opened in this block, while the caller goes on.

    Yields:
        what that pool takes; None where it has no use for it.

    Raises:
        ConfigError: as `WorkerPool`.
    """
    if _settled(num_workers) == 0 or not can_fork():
        yield None
        return
    nursery = Nursery(modules)
    try:
        yield nursery
    finally:
        nursery.close()


def _settled(num_workers: int) -> int:
    """Return how many processes there will be."""
    if num_workers < 0:
        raise ConfigError(f"num_workers={num_workers} must be at least 0")
    if num_workers and getattr(sys, "frozen", False):
        raise ConfigError(
            "num_workers needs a Python to start, and this program is frozen into one file; pass num_workers=0"
        )
    if num_workers and not can_start_processes():
        _say_once()
        return 0
    if num_workers and python_executable() is None:
        raise ConfigError(
            f"num_workers={num_workers} needs a Python to start, and sys.executable={sys.executable!r} is none; "
            "pass num_workers=0, or set sys.executable"
        )
    return num_workers


def _results(
    dispatcher: Dispatcher, ticket: Ticket, retry: Callable[[Request], Request | None] | None
) -> Iterator[TaskResult[Request]]:
    """Wait for a ticket's results, one by one."""
    is_last = False
    while not is_last:
        _, message = dispatcher.next_result([ticket])
        is_last = message.is_last
        yield _retried(ticket.request, message, retry, dispatcher.run_next)


def _retried(
    request: Request,
    message: Message,
    retry: Callable[[Request], Request | None] | None,
    run: Callable[[Request], Message],
) -> TaskResult[Request]:
    """Put other requests in the place of one that failed, until one succeeds or `retry` names no more."""
    failures: list[tuple[Request, str]] = []
    while message.error is not None and retry is not None:
        replacement = retry(request)
        if replacement is None:
            break
        failures.append((request, message.error))
        request, message = replacement, run(replacement)
    return TaskResult(request, message, tuple(failures))


def _watched(messages: Iterator[Message], request: object) -> Message:
    """Take the next message; nothing can end a task in this process, but it need not hang in silence."""
    watchdog = threading.Timer(WATCHDOG_SECONDS, _report_hang, [request])
    watchdog.daemon = True
    watchdog.start()
    try:
        return next(messages)
    finally:
        watchdog.cancel()


def _report_hang(request: object) -> None:
    dump_stacks()
    logger.error(
        "no result within %g s and num_workers=0, so nothing ends it: %s; num_workers=1 would",
        WATCHDOG_SECONDS,
        one_line(str(request)),
    )
