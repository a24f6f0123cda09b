"""What a child process and its parent send each other; nothing in a child's message is trusted.

parent ── task, then requests (pickled) ──> child     the parent is trusted
parent <── JSON header, raw array ── child            the child is not: nothing it sends is unpickled; large arrays
                                                      take shared memory where there is some
parent ── go on ──> child                             after each message that is not the last of its request
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np

from ...errors import one_line
from . import shared_memory

Request = TypeVar("Request")
WorkerResult = tuple[np.ndarray, dict[str, Any]]
Task = Callable[[Request], WorkerResult | Iterator[WorkerResult | None]]
"""What a child runs: task(request) -> (array, JSON-able dict), or an iterator of such pairs; None among them says that
it is at work."""

MAX_HEADER_BYTES = 1 << 20
MAX_ARRAY_BYTES = 1 << 32
DTYPES = frozenset({"bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64"})
GO_ON = b""  # no pickle is empty

Kind = Literal["ready", "alive", "item", "result", "end", "error"]
"""`ready`: the task is loaded, send requests; `alive`: still at work on the request; `item`: one of its results; and
what ends a request: `result`: its only one, `end`: there are no more items, `error`: it failed."""

_WITH_ARRAY = ("item", "result")
_LAST = ("result", "end", "error")


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a child says."""

    kind: Kind
    array: np.ndarray | None = None
    """Of `item` and `result`."""
    info: dict[str, Any] = field(default_factory=dict)
    """Plain JSON data that belongs to the array."""
    error: str | None = None
    """One line, of `error`."""

    @property
    def is_last(self) -> bool:
        """Whether the request that it answers is done with."""
        return self.kind in _LAST


class Channel(Protocol):
    """Either end of a connection, whatever the system makes it of."""

    def send_bytes(self, buf: bytes | memoryview, /) -> None:
        """Send some bytes as one piece."""

    def recv_bytes(self, maxlength: int | None = None, /) -> bytes:
        """Wait for a piece; OSError if it is longer, EOFError if the other end is gone."""
        ...


def send_message(connection: Channel, message: Message, memory: int | None = None) -> None:
    """Send a message: its header, then the bytes of its array if it has one that is not put in shared memory."""
    header: dict[str, Any] = {"kind": message.kind, "info": message.info, "error": message.error}
    if message.array is None:
        connection.send_bytes(json.dumps(header).encode())
        return
    header |= {"dtype": message.array.dtype.name, "shape": message.array.shape}
    if memory is not None and shared_memory.fits(message.array):
        shared_memory.write(memory, message.array)
        connection.send_bytes(json.dumps(header | {"is_shared": True}).encode())
        return
    connection.send_bytes(json.dumps(header).encode())
    connection.send_bytes(message.array.reshape(-1).view(np.uint8).data)


def receive_message(connection: Channel, memory: int | None = None) -> Message:
    """Read one message of a child, trusting nothing in it.

    Args:
        memory: what it shares with this process.

    Raises:
        ValueError: it breaks the protocol.
        EOFError, OSError: the child died, or sent more than it announced.
    """
    try:
        header = json.loads(connection.recv_bytes(MAX_HEADER_BYTES))
    except RecursionError as too_deep:
        raise ValueError("the header is nested too deeply") from too_deep
    if not isinstance(header, dict) or not isinstance(header.get("info"), dict):
        raise ValueError("the header is not an object with info")
    kind: Kind | None = next((each for each in get_args(Kind) if each == header.get("kind")), None)
    if kind is None:
        raise ValueError(f"kind {str(header.get('kind'))[:40]!r} must be one of {', '.join(get_args(Kind))}")
    if kind == "error":
        return Message(kind=kind, error=one_line(str(header.get("error"))))
    if kind not in _WITH_ARRAY:
        return Message(kind=kind, info=header["info"])
    return Message(kind=kind, array=_receive_array(connection, header, memory), info=header["info"])


def _receive_array(connection: Channel, header: dict[str, Any], memory: int | None) -> np.ndarray:
    dtype, shape = header.get("dtype"), header.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"dtype {str(dtype)[:40]!r} is not allowed")
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("the shape is not a list of at most 8 sizes")
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if num_bytes > MAX_ARRAY_BYTES:
        raise ValueError(f"the array has {num_bytes} bytes, more than {MAX_ARRAY_BYTES}")
    if memory is not None and header.get("is_shared") is True:
        return shared_memory.read(memory, shape, dtype)
    data = connection.recv_bytes(num_bytes)
    if len(data) != num_bytes:
        raise ValueError(f"the array has {len(data)} bytes instead of {num_bytes}")
    return np.frombuffer(data, dtype=dtype).reshape(shape).copy()
