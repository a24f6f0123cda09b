"""The untrusted side: load a task, then answer requests until the parent closes the connection."""

from __future__ import annotations

import contextlib
import json
import pickle
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ...errors import one_line
from ..sandbox import confine, limit_memory
from .wire import DTYPES, Channel, Kind, Message, Request, Task, send_message

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
    confine(parent_pid)
    for name in ("SIGINT", "SIGUSR1"):  # batch systems send them to every process of a job
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(descriptor) as connection:
        try:
            task = pickle.loads(connection.recv_bytes())
        except Exception as error:
            send_message(connection, Message(kind="error", error=one_line(error)))
            return
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # parallelism is the number of children
        limit_memory(MAX_TASK_BYTES)
        send_message(connection, Message(kind="ready"))
        while True:
            _answer_request(connection, task)


def _answer_request(connection: Channel, task: Task[Any]) -> None:
    for message in run_task(lambda pickled: task(pickle.loads(pickled)), connection.recv_bytes()):
        send_message(connection, message)
        if not message.is_last:
            connection.recv_bytes()  # the word to go on
