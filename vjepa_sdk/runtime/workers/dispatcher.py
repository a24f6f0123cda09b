"""Own the child processes: start them, watch them, kill and replace them, hand out requests, collect results."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import pickle
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from ...errors import VJEPAError, one_line
from . import start
from .start import Nursery, Process, StartError, can_fork, ended_for_another, reason_of_death, spawn
from .watchdog import Watchdog
from .wire import GO_ON, Message, receive_message

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3  # in a row; the kernel may kill a new process for lack of memory and let the next one live
MAX_MESSAGES = 5_000_000  # that answer one request; who sends more never ends
DEADLINES_PER_REQUEST = 60  # for all results of a request, and one more for each MiB that it reads
MAX_LOSSES = 3  # of one request with the process that children are forked from
MAX_DEATHS = 10  # of different requests, one after the other; then the requests are not to blame
WATCHDOG_SECONDS = 600.0
_KILL_SECONDS = 5.0


def dump_stacks() -> None:
    """Write what every thread of this process is doing to the process's stderr."""
    faulthandler.dump_traceback(file=2)  # the descriptor: sys.stderr may be replaced by an object without one


class Ticket:
    """Stand for one request until its results are in."""

    def __init__(self, request: Any, num_bytes: int = 0) -> None:
        self.request = request
        self.num_deadlines = DEADLINES_PER_REQUEST + num_bytes / (1 << 20)
        """So long may its results take together."""
        self.pickled = pickle.dumps(request)  # here, so that an unpicklable request fails in its caller
        self.results: deque[Message] = deque()
        """Those that wait for the caller."""
        self.num_results = 0
        self.num_crashes = self.num_losses = 0  # of its child alone, and of it with all others


class _Worker:
    """One child and what it is doing."""

    def __init__(self, process: Process, connection: Connection, memory: int | None) -> None:
        self.process, self.connection = process, connection
        self.memory = memory
        """That it shares with this process."""
        self.deadline = time.monotonic() + start.START_UP_SECONDS
        self.is_ready = False
        self.ticket: Ticket | None = None
        self.asked_at = self.seconds_left = math.inf
        """Since when it is at work on its ticket, and how long it may have been then, all in all."""
        self.num_results = self.num_messages = 0
        """Of the ticket; messages are results and signs of life."""
        self.is_paused = False
        """It has sent a result and waits to be asked for the next."""
        self.num_tasks = 0

    def kill(self) -> None:
        self.process.kill()
        try:
            self.process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:  # it waits in the kernel, for a file server that is gone: nothing ends that
            logger.warning("process %d does not end when killed and is left behind", self.process.pid)
        self.connection.close()
        if self.memory is not None:
            os.close(self.memory)
            self.memory = None

    def exit_status(self) -> int | None:
        """Reap a child that closed its connection."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)  # its own status says more than that of our SIGKILL
        self.kill()
        return self.process.returncode


class Dispatcher:
    """Own the children. Its thread starts them, because Linux ends a child with the thread that started it."""

    def __init__(
        self,
        pickled_task: bytes,
        num_workers: int,
        deadline_seconds: float,
        max_tasks_per_worker: int,
        crash_retries: int,
        nursery: Nursery | None,
    ) -> None:
        self._pickled_task = pickled_task
        self._num_workers = num_workers
        self._deadline_seconds = deadline_seconds
        self._max_tasks_per_worker = max_tasks_per_worker
        self._crash_retries = crash_retries
        self._num_failed_starts = 0
        self._num_deaths = 0
        self._last_message = time.monotonic()
        self._workers: list[_Worker] = []
        self._nursery = nursery
        self._is_starting = False
        self._waiting: deque[Ticket] = deque()
        self.prefetch = 0
        """Results of tasks that yield more of which so many may wait for the caller."""
        self._num_held = 0
        self._taken: Ticket | None = None
        """Whose results the caller takes."""
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._is_stopping = False
        self._woken, self._wake = Pipe(duplex=False)
        self._is_woken = threading.Event()
        self._watchdog = Watchdog()
        self._thread = threading.Thread(target=self._dispatch, name="vjepa-workers", daemon=True)
        self._thread.start()

    def submit(self, request: Any, num_bytes: int = 0) -> Ticket:
        """Have a request run that reads so many bytes."""
        ticket = Ticket(request, num_bytes)
        self._waiting.append(ticket)
        self._wake_up()
        return ticket

    def run_next(self, request: Any) -> Message:
        """Run a request ahead of those that wait, and return its result: the caller is waiting for it."""
        ticket = Ticket(request)
        self._waiting.appendleft(ticket)
        self._wake_up()
        return self.next_result([ticket])[1]

    def _wake_up(self) -> None:
        # once until it is noticed: a full pipe would block for ever, should the thread have ended
        with self._changed:  # that closes it
            if not (self._is_woken.is_set() or self._wake.closed):
                self._is_woken.set()
                self._wake.send_bytes(b".")

    def next_result(self, tickets: Sequence[Ticket]) -> tuple[Ticket, Message]:
        """Wait for a result of any of these tickets; the first of them that has one gives it."""
        # Deadlines see to it that answers keep coming; this finds a thread that no longer watches them.
        patience = max(WATCHDOG_SECONDS, 3 * (self._deadline_seconds + start.START_UP_SECONDS))
        if self._taken is not tickets[0]:
            self._taken = tickets[0]
            self._wake_up()  # there is more room for this one
        with self._changed:
            self._last_message = time.monotonic()
            while (ticket := next((each for each in tickets if each.results), None)) is None:
                if self._failure is not None:
                    raise VJEPAError(f"worker processes failed: {one_line(self._failure)}") from self._failure
                if self._is_stopping:
                    raise VJEPAError("this WorkerPool was closed by another thread before all results had come")
                silent = time.monotonic() - self._last_message
                if silent >= patience:
                    dump_stacks()
                    raise VJEPAError(
                        f"no result from {self._num_workers} worker processes for {silent:.0f} s; the stacks of all "
                        "threads are on stderr; check that the storage answers, then run again"
                    )
                self._changed.wait(patience - silent)
            message = ticket.results.popleft()
            self._num_held -= not message.is_last
        if not message.is_last:
            self._wake_up()  # there is room for another
        return ticket, message

    def stop(self) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._wake_up()
        for worker in list(self._workers):
            worker.process.kill()  # now, so that the thread does not wait for an answer under way
        if (nursery := self._nursery) is not None and self._is_starting:
            nursery.kill()
        if threading.current_thread() is not self._thread:  # where garbage collection closes a dropped iterator
            self._thread.join((1 + len(self._workers)) * _KILL_SECONDS)
        if not self._thread.is_alive():
            with self._changed:
                self._wake.close()
                self._woken.close()

    def _dispatch(self) -> None:
        try:
            while not self._is_stopping:
                self._go_on()  # first: it may find that a child is dead, whose task then waits for a new one
                self._start_workers()
                self._hand_out()
                self._wait_for_events()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        finally:
            for worker in self._workers:
                worker.kill()
            self._close_nursery()
            self._watchdog.end()

    def _start_workers(self) -> None:
        idle = sum(worker.ticket is None for worker in self._workers)
        missing = min(len(self._waiting) - idle, self._num_workers - len(self._workers))
        while missing > 0 and not self._is_stopping:
            try:
                self._workers.append(_Worker(*self._start()))
                missing -= 1
            except StartError as error:
                self._count_failed_start(str(error))

    def _start(self) -> tuple[Process, Connection, int | None]:
        if not can_fork():
            return *spawn(self._pickled_task), None
        self._is_starting = True
        try:
            if self._nursery is None:
                self._nursery = Nursery()
            if self._is_stopping:
                raise StartError("it is no longer needed")
            return self._nursery.fork(self._pickled_task)
        except BaseException:
            self._close_nursery()
            raise
        finally:
            self._is_starting = False

    def _close_nursery(self) -> None:
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

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
            worker.ticket, worker.num_results, worker.num_messages = ticket, 0, 0
            worker.seconds_left = ticket.num_deadlines * self._deadline_seconds
            self._start_clock(worker)

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
                worker.connection.send_bytes(GO_ON)
            except OSError:
                self._end(worker, reason_of_death(worker.exit_status()), is_death=True)
                continue
            worker.is_paused = False
            self._start_clock(worker)

    def _start_clock(self, worker: _Worker) -> None:
        worker.asked_at = time.monotonic()
        worker.deadline = worker.asked_at + min(self._deadline_seconds, worker.seconds_left)

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
            with self._watchdog.killing(worker.process, max(1.0, remaining)):
                message = receive_message(worker.connection, worker.memory)
        except (EOFError, OSError):
            self._end(worker, reason_of_death(worker.exit_status()), is_death=True)
            return
        except ValueError as violation:
            self._end(worker, f"decoder process sent an invalid answer: {one_line(violation)}")
            return
        if not worker.is_ready:
            self._greet(worker, message)
            return
        is_asked_for = worker.ticket is not None and not worker.is_paused and worker.num_messages < MAX_MESSAGES
        if message.kind == "ready" or not is_asked_for:
            self._end(worker, "decoder process sent more than it was asked for")
            return
        self._num_deaths = 0
        self._take(worker, message)
        worker.num_tasks += message.is_last
        if worker.num_tasks >= self._max_tasks_per_worker:
            self._discard(worker)

    def _greet(self, worker: _Worker, message: Message) -> None:
        """Hear what a child says first: that it is ready, or why the task cannot be loaded."""
        if message.kind == "error":
            raise VJEPAError(f"the task cannot be loaded in a worker process: {message.error}")
        if message.kind != "ready":
            self._end(worker, f"it said {message.kind!r} before it was ready")
            return
        worker.is_ready, worker.deadline = True, math.inf
        self._num_failed_starts = 0

    def _give_up(self, worker: _Worker) -> None:
        ticket = worker.ticket
        if not worker.is_ready:
            self._end(worker, f"it was not ready within {start.START_UP_SECONDS:g} s")
            return
        if ticket is not None and worker.seconds_left < self._deadline_seconds:
            ticket.num_crashes = self._crash_retries  # all of that time again would tell no more
            seconds = ticket.num_deadlines * self._deadline_seconds
            error = f"no end within {seconds:g} s of work on this file; it has none"
        else:
            error = f"no result within {self._deadline_seconds:g} s; the decoder hangs on this file"
        self._end(worker, f"{error}, or needs more deadline_seconds")

    def _end(self, worker: _Worker, error: str, *, is_death: bool = False) -> None:
        """Replace a worker that failed; its task, and only that, is run again or fails with it."""
        self._discard(worker)
        if self._is_stopping:
            return
        if not worker.is_ready:
            self._count_failed_start(error)
        elif worker.ticket is not None and ended_for_another(worker.process) and worker.ticket.num_losses < MAX_LOSSES:
            worker.ticket.num_losses += 1
            self._waiting.appendleft(worker.ticket)
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
            self._take(worker, Message(kind="error", error=error))

    def _count_failed_start(self, error: str) -> None:
        if self._is_stopping:
            return
        self._num_failed_starts += 1
        if self._num_failed_starts == MAX_FAILED_STARTS:
            raise VJEPAError(
                f"a worker process did not start, {MAX_FAILED_STARTS} times in a row: {error}; "
                "num_workers=0 runs without any"
            )
        logger.warning("a worker process did not start: %s; starting another", error)

    def _discard(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.kill()

    def _take(self, worker: _Worker, message: Message) -> None:
        """Take a message that answers a worker's request: its caller gets it, but for signs of life."""
        ticket, worker.deadline = worker.ticket, math.inf
        assert ticket is not None  # what is sent without being asked for ends a worker before
        worker.seconds_left -= time.monotonic() - worker.asked_at
        worker.num_messages += 1
        worker.is_paused = not message.is_last
        if message.kind == "alive":
            return
        worker.num_results += 1
        if message.is_last:
            worker.ticket = None
        with self._changed:
            self._last_message = time.monotonic()
            if message.is_last or worker.num_results > ticket.num_results:  # else a task that is run again repeats it
                ticket.results.append(message)
                ticket.num_results += 1
                self._num_held += not message.is_last
            self._changed.notify_all()
