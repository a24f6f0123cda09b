"""Run slow, untrusted work in replaceable processes.

Decoders hang and crash on some files. Here each task runs in a child process with a deadline; a child that hangs or
dies is killed and replaced, and costs its one task.

    caller ── request (pickled) ──> child          the parent is trusted
    caller <── JSON header, raw array ── child     the child is not: nothing it sends is unpickled
    caller ── go on ──> child                      a task may have many results; each is asked for

A dispatcher thread hands out requests and collects results, so that children work on while the caller computes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np

from ...errors import ConfigError, VJEPAError, one_line
from ..sandbox import confine, limit_memory

logger = logging.getLogger(__name__)

Request = TypeVar("Request")
WorkerResult = tuple[np.ndarray, dict[str, Any]]
Task = Callable[[Request], WorkerResult | Iterator[WorkerResult | None]]

START_UP_SECONDS = 120.0  # importing torch on a loaded machine takes long and is nobody's clip's fault
MAX_FAILED_STARTS = 3  # in a row; the kernel may kill a new process for lack of memory and let the next one live
MAX_ANSWERS = 5_000_000  # to one request; who sends more never ends
MAX_DEATHS = 10  # of different requests, one after the other; then the requests are not to blame
WATCHDOG_SECONDS = 600.0
_KILL_SECONDS = 5.0
MAX_HEADER_BYTES = 1 << 20
MAX_ARRAY_BYTES = 1 << 32
MAX_TASK_BYTES = 4 << 30  # of memory in a child, beyond what it has when it starts; on Linux
_DTYPES = frozenset({"bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64"})
_SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "ACCESS_KEY", "PRIVATE_KEY")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GO_ON = b""  # no pickle is empty


@dataclass(frozen=True)
class TaskResult(Generic[Request]):
    """Hold what became of one request: an array, or the reason why there is none."""

    request: Request
    array: np.ndarray | None
    info: dict[str, Any]
    error: str | None  # one line
    failures: tuple[tuple[Request, str], ...] = ()  # requests that `retry` replaced by this one, and their errors
    is_last: bool = True
    """Whether the request has no further result. The last of a task that yields results has neither array nor error,
    or the error that ended it."""


class WorkerPool(Generic[Request]):
    """Map a task over requests in child processes; results come back in order of the requests, or as they come.

    Args:
        task: a picklable callable from an importable module: task(request) -> (array, JSON-able dict), or an iterator
            of such pairs; None among them says that it is at work, and its deadline starts anew.
        num_workers: child processes; 0 runs the task in this process, without a deadline.
        deadline_seconds: time for one result, from the moment a started child is asked for it.
        max_tasks_per_worker: a child is replaced after so many tasks, which bounds what a decoder leaks.
        crash_retries: how often a task is run again, in a fresh child, after its child hung or died. A child may be
            killed for no fault of its task; where results must not depend on that, pass 1. Results that the caller has
            already are not repeated.

    Raises:
        ConfigError: a number is out of range, or this platform cannot run worker processes.
    """

    def __init__(
        self,
        task: Task[Request],
        *,
        num_workers: int,
        deadline_seconds: float,
        max_tasks_per_worker: int = 500,
        crash_retries: int = 0,
    ) -> None:
        if num_workers < 0:
            raise ConfigError(f"num_workers={num_workers} must be at least 0")
        if not deadline_seconds > 0:
            raise ConfigError(f"deadline_seconds={deadline_seconds} must be above 0")
        if max_tasks_per_worker < 1:
            raise ConfigError(f"max_tasks_per_worker={max_tasks_per_worker} must be at least 1")
        if num_workers and (sys.platform == "win32" or not sys.executable):
            raise ConfigError(f"num_workers={num_workers} needs a POSIX system with a Python executable; use 0")
        self._task = task
        self._num_workers = num_workers
        self._deadline_seconds = deadline_seconds
        self._max_tasks_per_worker = max_tasks_per_worker
        self._crash_retries = crash_retries
        self._dispatcher: _Dispatcher | None = None
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
            remaining, unanswered = iter(requests), list[_Ticket]()
            while True:
                room = self._num_workers + prefetch - len(unanswered)
                unanswered += [dispatcher.submit(request) for request in islice(remaining, room)]
                if not unanswered:
                    return
                ticket, result = dispatcher.next_result(unanswered)
                if result.is_last:
                    unanswered.remove(ticket)
                yield result

    def _map_here(
        self, requests: Iterable[Request], retry: Callable[[Request], Request | None] | None
    ) -> Iterator[TaskResult[Request]]:
        for request in requests:
            results = _run(self._task, request)
            is_last = False
            while not is_last:
                result = _retried(
                    _watched(results, request), retry, lambda again: _watched(_run(self._task, again), again)
                )
                is_last = result.is_last
                if not _is_sign_of_life(result):
                    yield result

    def _map_in_children(
        self, requests: Iterable[Request], prefetch: int, retry: Callable[[Request], Request | None] | None
    ) -> Iterator[TaskResult[Request]]:
        with self._mapping(prefetch) as dispatcher:
            unanswered: deque[_Ticket] = deque()
            for request in requests:
                unanswered.append(dispatcher.submit(request))
                if len(unanswered) == self._num_workers + prefetch:
                    yield from dispatcher.results(unanswered.popleft(), retry)
            while unanswered:
                yield from dispatcher.results(unanswered.popleft(), retry)

    def _check_is_free(self, prefetch: int) -> None:
        if prefetch < 0:
            raise ConfigError(f"prefetch={prefetch} must be at least 0")
        if self._is_closed:
            raise VJEPAError("this WorkerPool is closed; open a new one")

    @contextlib.contextmanager
    def _mapping(self, prefetch: int) -> Iterator[_Dispatcher]:
        """Have the children at work; a block that ends early leaves none at work on results nobody wants."""
        if self._is_mapping:
            raise VJEPAError("this WorkerPool already maps; finish that iteration or open a second pool")
        if self._dispatcher is None:
            self._dispatcher = _Dispatcher(
                pickle.dumps(self._task),
                self._num_workers,
                self._deadline_seconds,
                self._max_tasks_per_worker,
                self._crash_retries,
            )
        self._dispatcher.prefetch = prefetch
        self._is_mapping = True
        is_complete = False
        try:
            yield self._dispatcher
            is_complete = True
        finally:
            self._is_mapping = False
            if not is_complete:
                self._stop()

    def close(self) -> None:
        """Kill the child processes; idempotent."""
        self._is_closed = True
        self._stop()

    def _stop(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.stop()
            self._dispatcher = None

    def __enter__(self) -> WorkerPool[Request]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_sign_of_life(result: TaskResult[Any] | _Answer) -> bool:
    return result.array is None and not result.is_last


def _retried(
    result: TaskResult[Request],
    retry: Callable[[Request], Request | None] | None,
    run: Callable[[Request], TaskResult[Request]],
) -> TaskResult[Request]:
    failures: list[tuple[Request, str]] = []
    while result.error is not None and retry is not None:
        replacement = retry(result.request)
        if replacement is None:
            break
        failures.append((result.request, result.error))
        result = run(replacement)
    return replace(result, failures=tuple(failures))


def _watched(results: Iterator[TaskResult[Request]], request: Request) -> TaskResult[Request]:
    """Take the next result; nothing can end a task in this process, but it need not hang in silence."""
    watchdog = threading.Timer(WATCHDOG_SECONDS, _report_hang, [request])
    watchdog.daemon = True
    watchdog.start()
    try:
        return next(results)
    finally:
        watchdog.cancel()


def _report_hang(request: object) -> None:
    _dump_stacks()
    logger.error(
        "no result within %g s and num_workers=0, so nothing ends it: %s; num_workers=1 would",
        WATCHDOG_SECONDS,
        one_line(str(request)),
    )


def _dump_stacks() -> None:
    """Write what every thread of this process is doing to the process's stderr."""
    faulthandler.dump_traceback(file=2)  # the descriptor: sys.stderr may be replaced by an object without one


class _Ticket:
    """Stand for one request until its results are in."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.pickled = pickle.dumps(request)  # here, so that an unpicklable request fails in its caller
        self.results: deque[TaskResult[Any]] = deque()
        """Those that wait for the caller."""
        self.num_results = 0
        self.num_crashes = 0


@dataclass(frozen=True)
class _Answer:
    """What a child sent."""

    array: np.ndarray | None = None
    info: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    is_last: bool = True


class _Worker:
    """One child and what it is doing."""

    def __init__(self, pickled_task: bytes) -> None:
        self.connection, theirs = Pipe(duplex=True)
        # Not multiprocessing.Process: "fork" copies locks held by torch's threads, and "spawn" runs the user's script
        # a second time in the child.
        start = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _serve"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{start}; _serve({theirs.fileno()}, {os.getpid()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the parent's results go to stdout
                env=_child_environment(),
                start_new_session=True,  # Ctrl-C is for the parent
            )
        self.deadline = time.monotonic() + START_UP_SECONDS
        self.is_ready = False
        self.ticket: _Ticket | None = None
        self.num_results = self.num_answers = 0
        """Of the ticket; answers are results and signs of life."""
        self.is_paused = False
        """It has sent a result and waits to be asked for the next."""
        self.num_tasks = 0
        with contextlib.suppress(BrokenPipeError):  # it died at once: found when its answer is read
            self.connection.send_bytes(pickled_task)

    def kill(self) -> None:
        self.process.kill()
        try:
            self.process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:  # it waits in the kernel, for a file server that is gone: nothing ends that
            logger.warning("process %d does not end when killed and is left behind", self.process.pid)
        self.connection.close()

    def exit_status(self) -> int | None:
        """Reap a child that closed its connection."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)  # its own status says more than that of our SIGKILL
        self.kill()
        return self.process.returncode


def _child_environment() -> dict[str, str]:
    """Withhold secrets: a decoder taken over by a hostile file has no use for tokens."""
    kept = {k: v for k, v in os.environ.items() if not any(word in k.upper() for word in _SECRET_WORDS)}
    return kept | dict.fromkeys(_THREAD_VARIABLES, "1")


class _Dispatcher:
    """Own the children. Its thread starts them, because Linux ends a child with the thread that started it."""

    def __init__(
        self,
        pickled_task: bytes,
        num_workers: int,
        deadline_seconds: float,
        max_tasks_per_worker: int,
        crash_retries: int,
    ) -> None:
        self._pickled_task = pickled_task
        self._num_workers = num_workers
        self._deadline_seconds = deadline_seconds
        self._max_tasks_per_worker = max_tasks_per_worker
        self._crash_retries = crash_retries
        self._num_failed_starts = 0
        self._num_deaths = 0
        self._last_answer = time.monotonic()
        self._workers: list[_Worker] = []
        self._waiting: deque[_Ticket] = deque()
        self.prefetch = 0
        """Results of tasks that yield more of which so many may wait for the caller."""
        self._num_held = 0
        self._taken: _Ticket | None = None
        """Whose results the caller takes."""
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._is_stopping = False
        self._woken, self._wake = Pipe(duplex=False)
        self._is_woken = threading.Event()
        self._thread = threading.Thread(target=self._dispatch, name="vjepa-workers", daemon=True)
        self._thread.start()

    def submit(self, request: Any) -> _Ticket:
        ticket = _Ticket(request)
        self._waiting.append(ticket)
        self._wake_up()
        return ticket

    def run_next(self, request: Any) -> TaskResult[Any]:
        """Run a request ahead of those that wait: the caller is waiting for it."""
        ticket = _Ticket(request)
        self._waiting.appendleft(ticket)
        self._wake_up()
        return self.next_result([ticket])[1]

    def results(self, ticket: _Ticket, retry: Callable[[Any], Any | None] | None) -> Iterator[TaskResult[Any]]:
        """Wait for a ticket's results, one by one."""
        is_last = False
        while not is_last:
            result = _retried(self.next_result([ticket])[1], retry, self.run_next)
            is_last = result.is_last
            yield result

    def _wake_up(self) -> None:
        # once until it is noticed: a full pipe would block for ever, should the thread have ended
        if not self._is_woken.is_set():
            self._is_woken.set()
            self._wake.send_bytes(b".")

    def next_result(self, tickets: Sequence[_Ticket]) -> tuple[_Ticket, TaskResult[Any]]:
        """Wait for a result of any of these tickets; the first of them that has one gives it."""
        # Deadlines see to it that answers keep coming; this finds a thread that no longer watches them.
        patience = max(WATCHDOG_SECONDS, 3 * (self._deadline_seconds + START_UP_SECONDS))
        if self._taken is not tickets[0]:
            self._taken = tickets[0]
            self._wake_up()  # there is more room for this one
        with self._changed:
            self._last_answer = time.monotonic()
            while (ticket := next((each for each in tickets if each.results), None)) is None:
                if self._failure is not None:
                    raise VJEPAError(f"worker processes failed: {one_line(self._failure)}") from self._failure
                silent = time.monotonic() - self._last_answer
                if silent >= patience:
                    _dump_stacks()
                    raise VJEPAError(
                        f"no result from {self._num_workers} worker processes for {silent:.0f} s; the stacks of all "
                        "threads are on stderr; check that the storage answers, then run again"
                    )
                self._changed.wait(patience - silent)
            result = ticket.results.popleft()
            self._num_held -= not result.is_last
        if not result.is_last:
            self._wake_up()  # there is room for another
        return ticket, result

    def stop(self) -> None:
        self._is_stopping = True
        self._wake_up()
        for worker in list(self._workers):
            worker.process.kill()  # now, so that the thread does not wait for an answer under way
        if threading.current_thread() is not self._thread:  # where garbage collection closes a dropped iterator
            self._thread.join((1 + len(self._workers)) * _KILL_SECONDS)
        if not self._thread.is_alive():
            self._wake.close()
            self._woken.close()

    def _dispatch(self) -> None:
        try:
            while not self._is_stopping:
                self._start_workers()
                self._hand_out()
                self._go_on()
                self._wait_for_events()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        finally:
            for worker in self._workers:
                worker.kill()

    def _start_workers(self) -> None:
        idle = sum(worker.ticket is None for worker in self._workers)
        for _ in range(min(len(self._waiting) - idle, self._num_workers - len(self._workers))):
            self._workers.append(_Worker(self._pickled_task))

    def _hand_out(self) -> None:
        for worker in list(self._workers):
            if not (self._waiting and worker.is_ready and worker.ticket is None):
                continue
            ticket = self._waiting.popleft()
            try:
                worker.connection.send_bytes(ticket.pickled)
            except OSError:  # it died idle: replaced, and nobody's request is lost
                self._waiting.appendleft(ticket)
                self._discard(worker)
                self._start_workers()
                continue
            worker.ticket, worker.num_results, worker.num_answers = ticket, 0, 0
            worker.deadline = time.monotonic() + self._deadline_seconds

    def _go_on(self) -> None:
        """Ask for the next results where there is room; a caller that waits always gets one."""
        for worker in list(self._workers):
            ticket = worker.ticket
            if not worker.is_paused or ticket is None:
                continue
            # a video that is not its turn yet must not leave the one that is without room to be decoded ahead
            room = self.prefetch if ticket is self._taken else self.prefetch // 2
            if ticket.results and self._num_held >= room:
                continue
            try:
                worker.connection.send_bytes(_GO_ON)
            except OSError:
                self._end(worker, _reason_of_death(worker.exit_status()), is_death=True)
                continue
            worker.is_paused, worker.deadline = False, time.monotonic() + self._deadline_seconds

    def _wait_for_events(self) -> None:
        nearest = min((worker.deadline for worker in self._workers), default=math.inf)
        seconds = None if math.isinf(nearest) else max(0.0, nearest - time.monotonic())
        readable = wait([self._woken, *(worker.connection for worker in self._workers)], timeout=seconds)
        if self._woken in readable:
            self._woken.recv_bytes()
            self._is_woken.clear()  # before the next look at the waiting tickets
        for worker in list(self._workers):
            if worker.connection in readable:
                self._receive(worker)
            elif worker.deadline <= time.monotonic():
                self._give_up(worker)

    def _receive(self, worker: _Worker) -> None:
        remaining = min(worker.deadline - time.monotonic(), self._deadline_seconds)
        try:
            with _killed_after(worker.process, max(1.0, remaining)):
                answer = _read_answer(worker.connection)
        except (EOFError, OSError):
            self._end(worker, _reason_of_death(worker.exit_status()), is_death=True)
            return
        except ValueError as violation:
            self._end(worker, f"decoder process sent an invalid answer: {one_line(violation)}")
            return
        if not worker.is_ready:
            if answer.error is not None:
                raise VJEPAError(f"the task cannot be loaded in a worker process: {answer.error}")
            worker.is_ready, worker.deadline = True, math.inf
            self._num_failed_starts = 0
            return
        if worker.is_paused or worker.ticket is None or worker.num_answers == MAX_ANSWERS:
            self._end(worker, "decoder process sent more than it was asked for")
            return
        self._num_deaths = 0
        self._answer(worker, answer)
        worker.num_tasks += answer.is_last
        if worker.num_tasks >= self._max_tasks_per_worker:
            self._discard(worker)

    def _give_up(self, worker: _Worker) -> None:
        if worker.is_ready:
            seconds = f"{self._deadline_seconds:g} s"
            self._end(
                worker, f"no result within {seconds}; the decoder hangs on this file, or needs more deadline_seconds"
            )
        else:
            self._end(worker, f"it was not ready within {START_UP_SECONDS:g} s")

    def _end(self, worker: _Worker, error: str, *, is_death: bool = False) -> None:
        """Replace a worker that failed; its task, and only that, is run again or fails with it."""
        self._discard(worker)
        if self._is_stopping:
            return
        if not worker.is_ready:
            self._num_failed_starts += 1
            if self._num_failed_starts == MAX_FAILED_STARTS:
                raise VJEPAError(
                    f"a worker process did not start, {MAX_FAILED_STARTS} times in a row: {error}; "
                    "num_workers=0 runs without any"
                )
            logger.warning("a worker process did not start: %s; starting another", error)
        elif worker.ticket is not None and worker.ticket.num_crashes < self._crash_retries:
            worker.ticket.num_crashes += 1
            logger.warning("%s; running the task again", error)
            self._waiting.appendleft(worker.ticket)
        elif worker.ticket is not None:
            self._num_deaths = self._num_deaths + 1 if is_death else 0
            if self._num_deaths > MAX_DEATHS:
                raise VJEPAError(
                    f"{self._num_deaths} requests in a row ended their worker process, the last one: {error}; "
                    "the decoder, or this machine, is broken: try num_workers=1, another decoder, or reinstall it"
                )
            self._answer(worker, _Answer(error=error))

    def _discard(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.kill()

    def _answer(self, worker: _Worker, answer: _Answer) -> None:
        ticket, worker.deadline = worker.ticket, math.inf
        assert ticket is not None  # what is sent without being asked for ends a worker before
        worker.num_answers += 1
        worker.is_paused = not answer.is_last
        if _is_sign_of_life(answer):
            return
        worker.num_results += 1
        if answer.is_last:
            worker.ticket = None
        result = TaskResult(ticket.request, answer.array, answer.info, answer.error, is_last=answer.is_last)
        with self._changed:
            self._last_answer = time.monotonic()
            if answer.is_last or worker.num_results > ticket.num_results:  # else a task that is run again repeats it
                ticket.results.append(result)
                ticket.num_results += 1
                self._num_held += not answer.is_last
            self._changed.notify_all()


@contextlib.contextmanager
def _killed_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """Kill a child that stalls in the middle of a message, which ends the read with EOFError."""
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def _read_answer(connection: Connection) -> _Answer:
    """Read one answer from a child, trusting nothing in it.

    Raises:
        ValueError: the answer breaks the protocol.
        EOFError, OSError: the child died, or sent more than it announced.
    """
    try:
        header = json.loads(connection.recv_bytes(MAX_HEADER_BYTES))
    except RecursionError as too_deep:
        raise ValueError("the header is nested too deeply") from too_deep
    if not isinstance(header, dict) or not isinstance(header.get("info"), dict):
        raise ValueError("the header is not an object with info")
    error = header.get("error")
    if error is not None:
        return _Answer(error=one_line(str(error)))
    dtype, shape = header.get("dtype"), header.get("shape")
    if dtype is None:
        return _Answer(info=header["info"], is_last=header.get("is_last") is not False)
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"dtype {str(dtype)[:40]!r} is not allowed")
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("the shape is not a list of at most 8 sizes")
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if num_bytes > MAX_ARRAY_BYTES:
        raise ValueError(f"the array has {num_bytes} bytes, more than {MAX_ARRAY_BYTES}")
    data = connection.recv_bytes(num_bytes)
    if len(data) != num_bytes:
        raise ValueError(f"the array has {len(data)} bytes instead of {num_bytes}")
    array = np.frombuffer(data, dtype=dtype).reshape(shape).copy()
    return _Answer(array, header["info"], is_last=header.get("is_last") is not False)


def _reason_of_death(status: int | None) -> str:
    if status is None or status == -signal.SIGKILL:
        return "decoder process was killed (signal 9), probably for lack of memory; use fewer workers"
    return f"decoder process died (signal {-status})" if status < 0 else f"decoder process died (exit code {status})"


def _run(task: Task[Request], request: Request) -> Iterator[TaskResult[Request]]:
    """Run a task in this process."""
    try:
        returned = task(request)
        is_single = isinstance(returned, tuple)
        for item in [returned] if isinstance(returned, tuple) else returned:
            if item is None:
                yield TaskResult(request, None, {}, None, is_last=False)
                continue
            array, info = item
            if not isinstance(array, np.ndarray) or array.dtype.name not in _DTYPES:
                kind = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
                raise TypeError(f"a task must return an array of {', '.join(sorted(_DTYPES))}, got {kind}")
            # as it will arrive from a child
            plain = json.loads(json.dumps(info))
            yield TaskResult(request, np.ascontiguousarray(array), plain, None, is_last=is_single)
    except MemoryError as error:
        yield TaskResult(request, None, {}, f"{one_line(error)}; pass fewer or smaller frames")
        return
    except Exception as error:
        yield TaskResult(request, None, {}, one_line(error))
        return
    if not is_single:
        yield TaskResult(request, None, {}, None)


def _serve(descriptor: int, parent_pid: int) -> None:
    """Be a child: load the task, then answer requests until the parent closes the connection."""
    confine(parent_pid)
    for number in (signal.SIGINT, signal.SIGUSR1):  # batch systems send them to every process of a job
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(descriptor) as connection:
        try:
            task = pickle.loads(connection.recv_bytes())
        except Exception as error:
            connection.send_bytes(json.dumps({"info": {}, "error": one_line(error)}).encode())
            return
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # parallelism is the number of children
        limit_memory(MAX_TASK_BYTES)
        connection.send_bytes(json.dumps({"info": {}, "error": None}).encode())
        while True:
            _answer_request(connection, task)


def _answer_request(connection: Connection, task: Task[Any]) -> None:
    for result in _run(lambda pickled: task(pickle.loads(pickled)), connection.recv_bytes()):
        header: dict[str, Any] = {"info": result.info, "error": result.error, "is_last": result.is_last}
        if result.array is None:
            connection.send_bytes(json.dumps(header).encode())
        else:
            header |= {"dtype": result.array.dtype.name, "shape": result.array.shape}
            connection.send_bytes(json.dumps(header).encode())
            connection.send_bytes(result.array.reshape(-1).view(np.uint8).data)
        if not result.is_last:
            connection.recv_bytes()  # the word to go on
