"""The untrusted side: load a task, then answer requests until the parent closes the connection."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any

import numpy as np

from ...errors import one_line
from ..host import collector_at_rest
from ..sandbox import confine, die_with, limit_memory
from .wire import DTYPES, GO_ON, Channel, Kind, Message, Request, Task, send_message

FORK, FORK_SHARING = b"fork", b"fork sharing"
MAX_TASK_BYTES = 4 << 30  # of memory, beyond what the process has when it starts; on Linux


def run_task(task: Task[Request], request: Request) -> Iterator[Message]:
    """Run a task in this process; yield what it says, the last message included."""
    try:
        returned = task(request)
        if isinstance(returned, tuple):
            yield _with_array("result", returned)
            return
        for item in returned:
            yield Message(kind="alive") if item is None else _with_array("item", item)
    except MemoryError as error:
        yield Message(kind="error", error=f"{one_line(error)}; pass fewer or smaller frames")
    except Exception as error:
        yield Message(kind="error", error=one_line(error))
    else:
        yield Message(kind="end")


def _with_array(kind: Kind, result: tuple[np.ndarray, dict[str, Any]]) -> Message:
    array, info = result
    if not isinstance(array, np.ndarray) or array.dtype.name not in DTYPES:
        found = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"a task must return an array of {', '.join(sorted(DTYPES))}, got {found}")
    # as it will arrive in the parent
    return Message(kind=kind, array=np.ascontiguousarray(array), info=json.loads(json.dumps(info)))


def serve(descriptor: int, parent_pid: int) -> None:
    """Be a child: confine this process, load the task, and answer requests until the connection ends."""
    _settle(parent_pid)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(descriptor) as connection:
        task = _load(connection)
        if task is not None:
            _answer_requests(connection, task)


def nurse(descriptor: int, parent_pid: int, *preload: str) -> None:
    """Be the process that children are forked from: load modules and the task, and fork and reap as the parent says.

    It says `ready` or `error` once. Asked to `FORK`, which a descriptor of a connection follows, or to `FORK_SHARING`,
    after which comes that of shared memory, too, it answers the child's number; sent such a number, it answers how that
    child ended, or `GO_ON` if it has not.
    """
    if sys.platform != "linux":
        raise NotImplementedError("processes are forked on Linux only")
    _settle(parent_pid)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # children of a program that ignores it would end unheard
    with collector_at_rest():
        for name in preload:
            importlib.import_module(name)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(descriptor) as connection:
        task = _load(connection)
        if task is None:
            return
        gc.freeze()  # what is loaded stays shared with children: collecting garbage does not touch it
        send_message(connection, Message(kind="ready"))
        while True:
            request = connection.recv_bytes()
            if request in (FORK, FORK_SHARING):
                connection.send_bytes(_fork(connection, task, shares_memory=request == FORK_SHARING))
            else:
                pid, status = os.waitpid(int(request), os.WNOHANG)
                connection.send_bytes(str(os.waitstatus_to_exitcode(status)).encode() if pid else GO_ON)


def _fork(connection: Connection, task: Task[Any], *, shares_memory: bool) -> bytes:
    """Fork a child that serves the descriptor that comes; return its number."""
    if sys.platform != "linux":
        raise NotImplementedError("processes are forked on Linux only")
    descriptor, nurse_pid = recv_handle(connection), os.getpid()
    memory = recv_handle(connection) if shares_memory else None
    pid = os.fork()
    if pid:
        os.close(descriptor)
        if memory is not None:
            os.close(memory)
        return str(pid).encode()
    try:
        die_with(nurse_pid)
        os.setsid()  # what it sends to its process group reaches no other
        connection.close()
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(descriptor) as own:
            _answer_requests(own, task, memory)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _settle(parent_pid: int) -> None:
    confine(parent_pid)
    for name in ("SIGINT", "SIGUSR1"):  # batch systems send them to every process of a job
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _load(connection: Connection) -> Task[Any] | None:
    """Load the task that the parent sends; say what is wrong, and return None, where that fails."""
    try:
        task: Task[Any] = pickle.loads(connection.recv_bytes())
    except Exception as error:
        send_message(connection, Message(kind="error", error=one_line(error)))
        return None
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # parallelism is the number of children
    return task


def _answer_requests(connection: Connection, task: Task[Any], memory: int | None = None) -> None:
    limit_memory(MAX_TASK_BYTES)
    send_message(connection, Message(kind="ready"))
    while True:
        _answer_request(connection, task, memory)


def _answer_request(connection: Channel, task: Task[Any], memory: int | None = None) -> None:
    for message in run_task(lambda pickled: task(pickle.loads(pickled)), connection.recv_bytes()):
        send_message(connection, message, memory)
        if not message.is_last:
            connection.recv_bytes()  # the word to go on
