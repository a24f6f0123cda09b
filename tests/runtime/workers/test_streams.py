"""Tasks that yield results one by one."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vjepa_sdk.errors import VideoDecodeError
from vjepa_sdk.runtime.workers import dispatcher
from vjepa_sdk.runtime.workers.pool import TaskResult, WorkerPool
from vjepa_sdk.runtime.workers.wire import WorkerResult


@dataclass(frozen=True)
class Count:
    """Yield 0, 1, ...; what happens before a number, separated by semicolons, is given by `before`."""

    name: str
    count: int
    before: dict[int, str] = field(default_factory=dict)
    log: str = ""

    def run(self) -> Iterator[WorkerResult | None]:
        for number in range(self.count):
            for event in self.before.get(number, "").split(";"):
                kind, _, rest = event.strip().partition(" ")
                if kind == "live":
                    yield None
                elif kind == "sleep":
                    time.sleep(float(rest))
                elif kind == "refuse":
                    raise VideoDecodeError("a.mp4: is damaged")
                elif kind == "end":
                    raise EOFError("what decoders raise at the end of a file")
                elif kind == "die" or (kind == "die-once" and not Path(rest).exists()):
                    Path(rest or os.devnull).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                elif kind == "chatter":
                    threading.Timer(float(rest), _send_unasked).start()
            if self.log:
                with open(self.log, "a") as file:
                    file.write(f"{number}\n")
            yield np.array([number]), {"name": self.name}


def _send_unasked() -> None:
    """Write an answer to the parent, as a process taken over by a hostile file may at any time."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode):
                message = b'{"kind": "error", "info": {}, "error": "made up"}'
                os.write(int(name), struct.pack("!i", len(message)) + message)


def count(request: Count) -> Iterator[WorkerResult | None]:
    return request.run()


def _pool(num_workers: int, **options: Any) -> WorkerPool[Count]:
    return WorkerPool(count, num_workers=num_workers, **{"deadline_seconds": 20.0, **options})


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, WorkerPool[Count]]]:
    pools = {num_workers: _pool(num_workers) for num_workers in (0, 1, 2)}
    yield pools
    for pool in pools.values():
        pool.close()


def _story(results: Iterator[TaskResult[Count]]) -> list[tuple[str, int | str | None]]:
    return [
        (result.request.name, int(result.array[0]) if result.array is not None else result.error) for result in results
    ]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_each_request_gives_its_results_and_then_an_end(
    num_workers: int, prefetch: int, pools: dict[int, WorkerPool[Count]]
) -> None:
    requests = [Count("a", 3), Count("b", 0), Count("c", 7)]
    story = _story(pools[num_workers].map(requests, prefetch=prefetch))
    assert story == [(r.name, number) for r in requests for number in [*range(r.count), None]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_only_the_end_of_a_request_is_marked_as_last(num_workers: int, pools: dict[int, WorkerPool[Count]]) -> None:
    results = pools[num_workers].map([Count("a", 2), Count("b", 2, {1: "refuse"})], prefetch=1)
    assert [result.is_last for result in results] == [False, False, True, False, True]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("event", "error"), [("refuse", "a.mp4: is damaged"), ("end", "EOFError: what decoders raise at the end of a file")]
)
def test_an_error_ends_its_request_and_no_other(
    num_workers: int, event: str, error: str, pools: dict[int, WorkerPool[Count]]
) -> None:
    story = _story(pools[num_workers].map([Count("a", 9, {1: event}), Count("b", 1)], prefetch=2))
    assert story == [("a", 0), ("a", error), ("b", 0), ("b", None)]


def _num_produced(log: Path) -> int:
    """Wait until a child produces nothing more."""
    seen = -1
    while seen != (seen := len(log.read_text().splitlines()) if log.exists() else 0) or not seen:
        time.sleep(0.3)
    return seen


def test_a_child_works_ahead_as_far_as_it_may(tmp_path: Path, pools: dict[int, WorkerPool[Count]]) -> None:
    log = tmp_path / "log"
    results = pools[1].map([Count("a", 50, log=str(log))], prefetch=5)
    next(results)
    assert _num_produced(log) == 1 + 5
    next(results)
    assert _num_produced(log) == 2 + 5
    assert len(list(results)) == 48 + 1


@pytest.mark.parametrize("how", ["map", "map_unordered"])
def test_results_of_later_requests_fill_no_more_than_the_room_there_is(
    tmp_path: Path, pools: dict[int, WorkerPool[Count]], how: str
) -> None:
    log = tmp_path / "log"
    results = getattr(pools[2], how)([Count(name, 50, log=str(log)) for name in "abc"], prefetch=5)
    next(results)
    assert _num_produced(log) <= 1 + 5 + 2  # each child may hold one more, so that the caller never waits for another
    assert len(list(results)) == 3 * 51 - 1


def test_later_requests_leave_room_for_the_one_whose_results_are_taken(
    tmp_path: Path, pools: dict[int, WorkerPool[Count]]
) -> None:
    first = Count("a", 50, {1: "sleep 1"}, log=str(tmp_path / "first"))  # so that the other takes what it can get
    results = pools[2].map([first, Count("b", 50, log=str(tmp_path / "second"))], prefetch=8)
    next(results)
    assert _num_produced(tmp_path / "second") == 4
    time.sleep(1.0)
    assert _num_produced(tmp_path / "first") == 1 + 4
    assert len(list(results)) == 49 + 1 + 51


def test_a_request_that_is_run_again_repeats_nothing(tmp_path: Path) -> None:
    with _pool(1, crash_retries=1) as pool:
        story = _story(pool.map([Count("a", 6, {4: f"die-once {tmp_path / 'mark'}"}), Count("b", 1)], prefetch=1))
    assert story == [*(("a", number) for number in [*range(6), None]), ("b", 0), ("b", None)]


def test_a_child_that_dies_twice_ends_its_request(tmp_path: Path) -> None:
    with _pool(1, crash_retries=1) as pool:
        story = _story(pool.map([Count("a", 6, {2: "die"}), Count("b", 1)], prefetch=3))
    reason = "decoder process was killed (signal 9), probably for lack of memory; use fewer workers"
    assert story == [("a", 0), ("a", 1), ("a", reason), ("b", 0), ("b", None)]


def test_a_child_that_is_killed_while_it_waits_is_replaced(tmp_path: Path) -> None:
    request = Count("a", 4, log=str(tmp_path / "log"))
    with _pool(1, crash_retries=1) as pool:
        results = pool.map([request], prefetch=0)
        first = next(results)
        _num_produced(tmp_path / "log")
        assert pool._dispatcher is not None
        pool._dispatcher._workers[0].process.kill()
        assert _story(iter([first, *results])) == [("a", number) for number in [0, 1, 2, 3, None]]


def test_the_deadline_is_for_each_result() -> None:
    slow = {number: "sleep 0.7" for number in range(3)}
    with _pool(1, deadline_seconds=1.5) as pool:
        story = _story(pool.map([Count("a", 3, slow), Count("b", 3, {1: "sleep 60"})], prefetch=0))
    assert story[:4] == [("a", 0), ("a", 1), ("a", 2), ("a", None)]
    assert story[4:] == [
        ("b", 0),
        ("b", "no result within 1.5 s; the decoder hangs on this file, or needs more deadline_seconds"),
    ]


def test_results_that_never_end_have_a_deadline_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "DEADLINES_PER_REQUEST", 3)
    drip = dict.fromkeys(range(1000), "live; sleep 0.2")
    started = time.monotonic()
    with _pool(1, deadline_seconds=0.5, crash_retries=1) as pool:
        story = _story(pool.map([Count("a", 1000, drip), Count("b", 1)], prefetch=0))
    assert time.monotonic() - started < 15  # and not 200
    assert ("a", 2) in story and ("a", 900) not in story
    assert story[-3:] == [
        ("a", "no end within 1.5 s of work on this file; it has none, or needs more deadline_seconds"),
        ("b", 0),
        ("b", None),
    ]


def test_the_time_for_all_results_grows_with_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "DEADLINES_PER_REQUEST", 1)
    slow = dict.fromkeys(range(5), "sleep 0.3")
    with _pool(1, deadline_seconds=0.8, num_bytes_of=lambda _: 5 << 20) as pool:
        assert _story(pool.map([Count("a", 5, slow)], prefetch=0))[-1] == ("a", None)


def test_time_in_which_the_caller_takes_nothing_does_not_count(tmp_path: Path) -> None:
    with _pool(1, deadline_seconds=1.0) as pool:
        results = pool.map([Count("a", 4)], prefetch=1)
        first = next(results)
        time.sleep(1.5)
        assert _story(iter([first, *results])) == [("a", number) for number in [0, 1, 2, 3, None]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_signs_of_life_are_no_results(num_workers: int, pools: dict[int, WorkerPool[Count]]) -> None:
    requests = [Count("a", 2, {0: "live; live", 1: "live"}), Count("b", 1)]
    story = _story(pools[num_workers].map(requests, prefetch=1))
    assert story == [("a", 0), ("a", 1), ("a", None), ("b", 0), ("b", None)]


def test_a_deadline_starts_anew_with_a_sign_of_life() -> None:
    requests = [Count("a", 1, {0: "sleep 0.8; live; sleep 0.8"}), Count("b", 1, {0: "live; sleep 1.6; live"})]
    with _pool(1, deadline_seconds=1.4) as pool:
        (_, first), (_, end), (_, error) = _story(pool.map(requests, prefetch=0))
    assert (first, end) == (0, None)
    assert str(error).startswith("no result within 1.4 s")


def test_a_request_that_is_run_again_after_signs_of_life_repeats_nothing(tmp_path: Path) -> None:
    with _pool(1, crash_retries=1) as pool:
        story = _story(pool.map([Count("a", 3, {0: "live", 2: f"live; die-once {tmp_path / 'mark'}"})], prefetch=1))
    assert story == [("a", 0), ("a", 1), ("a", 2), ("a", None)]


@pytest.mark.parametrize("event", ["", "live"])
def test_a_request_that_never_ends_is_given_up(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "MAX_MESSAGES", 4)
    endless = Count("a", 1_000_000_000, {1: "; ".join([event] * 9)})
    with _pool(1) as pool:
        *_, (name, error) = _story(pool.map([endless, Count("b", 0)], prefetch=1))[:-1]
    assert (name, error) == ("a", "decoder process sent more than it was asked for")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_answer_that_nobody_asked_for_costs_its_process_only() -> None:
    with _pool(1) as pool:
        assert _story(pool.map([Count("a", 1, {0: "chatter 0.3"})], prefetch=0)) == [("a", 0), ("a", None)]
        time.sleep(0.8)
        assert _story(pool.map([Count("b", 1)], prefetch=0)) == [("b", 0), ("b", None)]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_unordered_results_are_those_of_each_request_in_their_order(
    num_workers: int, prefetch: int, pools: dict[int, WorkerPool[Count]]
) -> None:
    requests = [Count("a", 5), Count("b", 0), Count("c", 9, {4: "refuse"}), Count("d", 3)]
    story = _story(pools[num_workers].map_unordered(requests, prefetch=prefetch))
    expected = {"a": [*range(5), None], "b": [None], "c": [*range(4), "a.mp4: is damaged"], "d": [*range(3), None]}
    assert {name: [what for other, what in story if other == name] for name in expected} == expected
    assert len(story) == sum(map(len, expected.values()))


def test_a_slow_request_holds_no_unordered_one_up(pools: dict[int, WorkerPool[Count]]) -> None:
    slow, fast = Count("slow", 2, {1: "sleep 1.5"}), Count("fast", 20)
    story = _story(pools[2].map_unordered([slow, fast], prefetch=2))
    assert story.index(("fast", None)) < story.index(("slow", 1))


class _Gone:
    """The connection to a child that dies just before it is told to go on."""

    def __init__(self, connection: Any) -> None:
        self.fileno, self.recv_bytes, self.close = connection.fileno, connection.recv_bytes, connection.close

    def send_bytes(self, data: bytes) -> None:
        raise BrokenPipeError


def test_a_child_that_died_while_it_waited_for_the_caller_is_replaced() -> None:
    with _pool(1, crash_retries=1) as pool:
        results = pool.map([Count("a", 3)], prefetch=0)
        assert next(results).array == [0]
        assert pool._dispatcher is not None
        (worker,) = pool._dispatcher._workers
        worker.connection = _Gone(worker.connection)  # type: ignore[assignment]
        closer = threading.Timer(15, pool.close)  # where nobody is started, nothing else ends the wait
        closer.start()
        assert [result.array is None for result in results] == [False, False, True]
        closer.cancel()
