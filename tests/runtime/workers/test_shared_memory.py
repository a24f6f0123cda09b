"""Arrays that a child hands over in memory shared with its parent: the same bytes, and nothing left or believed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vjepa_sdk.runtime.workers import shared_memory, start, wire
from vjepa_sdk.runtime.workers.pool import WorkerPool

pytestmark = pytest.mark.skipif(not start.can_fork(), reason="children are not forked here, and share no memory")

EDGES = [0, 1, shared_memory.MIN_BYTES - 1, shared_memory.MIN_BYTES, shared_memory.MIN_BYTES + 1, 3 << 20]


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = shared_memory.create()
    assert descriptor is not None
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    ours, theirs = Pipe(duplex=True)
    with ours, theirs:
        yield ours, theirs


def noise(num_bytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, num_bytes, dtype=np.uint8)


def make_noise(request: tuple[int, int]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return noise, or die in the middle of writing it; runs in the children."""
    num_bytes, seed = request
    if seed < 0:
        for descriptor in _shared_by(os.getpid()):
            os.pwrite(descriptor, b"x" * 100, 0)
        os.kill(os.getpid(), signal.SIGKILL)
    return noise(num_bytes, seed), {"seed": seed}


def make_all(count: int) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Yield noise of several sizes; runs in the children."""
    for seed in range(count):
        yield noise(shared_memory.MIN_BYTES + 1000 * seed, seed), {"seed": seed}


def _shared_by(pid: int) -> list[int]:
    """Return the descriptors of shared memory that a process has open."""
    links = Path(f"/proc/{pid}/fd")
    opened = {}
    for link in links.iterdir():
        try:
            opened[int(link.name)] = os.readlink(link)
        except FileNotFoundError:  # of the listing itself
            continue
    return [descriptor for descriptor, target in opened.items() if "memfd:vjepa-worker" in target]


def test_arrays_of_any_size_arrive_as_they_were_sent() -> None:
    requests = [(num_bytes, seed) for seed, num_bytes in enumerate(EDGES * 3)]
    with WorkerPool(make_noise, num_workers=2, deadline_seconds=20.0) as pool:
        for result in pool.map(requests, prefetch=4):
            assert result.array is not None
            np.testing.assert_array_equal(result.array, noise(*result.request), strict=True)


def test_several_results_of_one_request_do_not_overwrite_each_other() -> None:
    with WorkerPool(make_all, num_workers=1, deadline_seconds=20.0) as pool:
        results = [result for result in pool.map([5], prefetch=5) if result.array is not None]
    assert len(results) == 5
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(result.array, noise(shared_memory.MIN_BYTES + 1000 * seed, seed))


def test_children_that_are_killed_leave_no_memory_behind() -> None:
    in_file_system = sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else []
    with WorkerPool(make_noise, num_workers=2, deadline_seconds=20.0) as pool:
        requests = [(1 << 20, -1 if seed % 3 == 1 else seed) for seed in range(9)]
        for result in pool.map(requests, prefetch=2):
            assert (result.error is None) == (result.request[1] >= 0)
        assert 1 <= len(_shared_by(os.getpid())) <= 2
    assert _shared_by(os.getpid()) == []
    assert (sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else []) == in_file_system


def test_a_child_has_no_memory_but_its_own() -> None:
    with WorkerPool(count_shared, num_workers=2, deadline_seconds=20.0, max_tasks_per_worker=2) as pool:
        assert [result.info for result in pool.map(range(6), prefetch=2)] == [{"count": 1}] * 6


def count_shared(_: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Say how many pieces of shared memory a child has."""
    return np.zeros(1), {"count": len(_shared_by(os.getpid()))}


@pytest.mark.parametrize("size", [0, 2 * shared_memory.NUM_BYTES])
def test_a_child_cannot_change_how_much_is_shared(size: int, memory: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(memory, size)


def test_what_was_received_stays_as_it_was(memory: int, ends: tuple[Connection, Connection]) -> None:
    ours, theirs = ends
    wire.send_message(theirs, wire.Message(kind="result", array=noise(1 << 20)), memory)
    received = wire.receive_message(ours, memory).array
    os.pwrite(memory, b"changed", 0)
    np.testing.assert_array_equal(received, noise(1 << 20))


def test_an_array_larger_than_the_memory_takes_the_socket(
    memory: int, ends: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "NUM_BYTES", 40_000)
    monkeypatch.setattr(shared_memory, "write", lambda *_: pytest.fail("it does not fit"))
    ours, theirs = ends
    wire.send_message(theirs, wire.Message(kind="result", array=noise(40_001)), memory)
    np.testing.assert_array_equal(wire.receive_message(ours, memory).array, noise(40_001))


def test_a_child_that_claims_more_than_is_shared_is_refused(memory: int, ends: tuple[Connection, Connection]) -> None:
    ours, theirs = ends
    shape = [shared_memory.NUM_BYTES + 1]
    header = {"kind": "result", "info": {}, "dtype": "uint8", "shape": shape, "is_shared": True}
    theirs.send_bytes(json.dumps(header).encode())
    with pytest.raises(ValueError, match=f"the array has {shape[0]} bytes, more than the {shared_memory.NUM_BYTES}"):
        wire.receive_message(ours, memory)


def test_a_system_without_such_memory_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert shared_memory.create() is None
    with WorkerPool(make_noise, num_workers=1, deadline_seconds=20.0) as pool:
        (result,) = pool.map([(1 << 20, 3)], prefetch=0)
    np.testing.assert_array_equal(result.array, noise(1 << 20, 3))


def test_memory_that_cannot_be_sized_is_not_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(27, "File too large")

    monkeypatch.setattr(os, "ftruncate", refuse)
    assert shared_memory.create() is None
    assert _shared_by(os.getpid()) == []


def test_other_systems_share_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert shared_memory.create() is None
