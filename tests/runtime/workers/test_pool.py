from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from vjepa_sdk.errors import ConfigError, VideoDecodeError, VJEPAError
from vjepa_sdk.runtime import sandbox
from vjepa_sdk.runtime.workers import child, dispatcher, start, wire
from vjepa_sdk.runtime.workers.pool import TaskResult, WorkerPool, prepare

Answer = tuple[np.ndarray, dict[str, Any]]


def act(request: Any) -> Answer:
    """Do what the request says; runs in the children."""
    if isinstance(request, int):
        return np.full((2, 3), request, dtype=np.int32), {"pid": os.getpid()}
    kind, _, rest = str(request).partition(" ")
    if kind == "sleep":
        time.sleep(float(rest))
    elif kind == "signal":
        os.kill(os.getpid(), int(rest))
    elif kind == "signal-group":
        os.kill(0, int(rest))
    elif kind == "exit":
        os._exit(int(rest))
    elif kind == "refuse":
        raise VideoDecodeError("a.mp4: is truncated")
    elif kind == "fail":
        raise KeyError("two\nlines \x1b[0m")
    elif kind == "environment":
        return np.zeros(1), {"value": os.environ.get(rest)}
    elif kind == "connect":
        socket.create_connection(("127.0.0.1", int(rest)), timeout=5).close()
    elif kind == "allocate":
        np.empty(int(rest), np.uint8)
    elif kind == "bad-type":
        return np.array(["text"]), {}
    elif kind == "bad-info":
        return np.zeros(1), {"object": object()}
    elif kind == "dtype":
        return np.arange(6, dtype=rest).reshape(2, 3).T, {}
    elif kind == "empty":
        return np.zeros((0, 3), dtype=np.uint8), {}
    return np.zeros(1), {}


def _pool(num_workers: int = 2, **options: Any) -> WorkerPool[Any]:
    return WorkerPool(act, num_workers=num_workers, **{"deadline_seconds": 20.0, **options})


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[int, WorkerPool[Any]]]:
    """Pools by number of processes, for tests that leave a pool as good as new: starting processes takes time."""
    pools = {num_workers: _pool(num_workers) for num_workers in (0, 1, 2)}
    yield pools
    for pool in pools.values():
        pool.close()


def _values(results: Iterator[TaskResult[Any]]) -> list[int | str | None]:
    return [result.error if result.array is None else int(result.array.flat[0]) for result in results]


def _children() -> set[int]:
    """Return the processes of pools: those that children are forked from, and the children."""
    found, parents = set[int](), [os.getpid()]
    while parents:
        command = ["ps", "-o", "pid=", "--ppid", ",".join(map(str, parents))]
        listing = subprocess.run(command, capture_output=True, text=True).stdout
        parents = [pid for pid in map(int, listing.split()) if _is_alive(pid)]
        found.update(parents)
    return found


def _new_children(before: set[int]) -> set[int]:
    """Wait until there are some: for an instant a new process has no name."""
    deadline = time.monotonic() + 5
    while not (found := _children() - before):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z" and f"from {child.__name__} import" in Path(f"/proc/{pid}/cmdline").read_text()


def _wait_until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + 5
    while any(_is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in pids if _is_alive(pid)]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_requests(num_workers: int, pools: dict[int, WorkerPool[Any]]) -> None:
    requests = ["sleep 0.2", *range(1, 12)]
    results = list(pools[num_workers].map(requests, prefetch=3))
    assert [result.request for result in results] == requests
    assert _values(iter(results)) == [0, *range(1, 12)]


def test_work_happens_in_other_processes(pools: dict[int, WorkerPool[Any]]) -> None:
    pids = {result.info["pid"] for result in pools[2].map(range(4), prefetch=0)}
    assert os.getpid() not in pids


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_arrays_arrive_unchanged_and_writable(num_workers: int, dtype: str, pools: dict[int, WorkerPool[Any]]) -> None:
    (result,) = pools[num_workers].map([f"dtype {dtype}"], prefetch=0)
    assert result.array is not None and result.array.flags.writeable
    np.testing.assert_array_equal(result.array, np.arange(6, dtype=dtype).reshape(2, 3).T, strict=True)


def test_an_empty_array_arrives(pools: dict[int, WorkerPool[Any]]) -> None:
    (result,) = pools[1].map(["empty"], prefetch=0)
    assert result.array is not None and result.array.shape == (0, 3)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ("refuse", "a.mp4: is truncated"),
        ("fail", r"KeyError: 'two\nlines \x1b[0m'"),
        ("bad-type", "TypeError: a task must return an array of"),
        ("bad-info", "TypeError: Object of type object is not JSON serializable"),
    ],
)
def test_a_failing_task_gives_its_reason_in_one_line(
    num_workers: int, request_: str, error: str, pools: dict[int, WorkerPool[Any]]
) -> None:
    first, second = pools[num_workers].map([request_, 5], prefetch=0)
    assert first.array is None and first.error is not None and first.error.startswith(error)
    assert _values(iter([second])) == [5]


def test_a_hanging_task_costs_itself_only() -> None:
    with _pool(deadline_seconds=1.0) as pool:
        started = time.monotonic()
        values = _values(pool.map([1, "sleep 60", 2, 3, "sleep 60", 4], prefetch=2))
        assert time.monotonic() - started < 10
    hang = "no result within 1 s; the decoder hangs on this file, or needs more deadline_seconds"
    assert values == [1, hang, 2, 3, hang, 4]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (f"signal {int(signal.SIGSEGV)}", "decoder process died (signal 11)"),
        (f"signal {int(signal.SIGABRT)}", "decoder process died (signal 6)"),
        (f"signal {int(signal.SIGKILL)}", "decoder process was killed (signal 9), probably for lack of memory"),
        ("exit 3", "decoder process died (exit code 3)"),
    ],
)
def test_a_dying_process_costs_its_task_only(request_: str, error: str, pools: dict[int, WorkerPool[Any]]) -> None:
    values = _values(pools[1].map([1, request_, 2], prefetch=1))
    assert (values[0], values[2]) == (1, 2)
    assert str(values[1]).startswith(error)


def test_deaths_in_a_row_stop_the_run_and_scattered_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "MAX_DEATHS", 2)
    with _pool(1) as pool:
        values = _values(pool.map(["exit 3", "exit 3", 1, "exit 3", "refuse", "exit 3"], prefetch=0))
        assert values.count("decoder process died (exit code 3)") == 4
        with pytest.raises(
            VJEPAError, match=r"3 requests in a row ended .*: decoder process died \(exit code 3\); the"
        ):
            list(pool.map(["exit 3"] * 4, prefetch=0))


def test_a_slow_start_does_not_count_against_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_module.py").write_text(
        "import time\ntime.sleep(0.8)\nimport numpy as np\ndef task(request): return np.zeros(1), {}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import slow_module  # type: ignore[import-not-found]

    with WorkerPool(slow_module.task, num_workers=1, deadline_seconds=0.6) as pool:
        assert _values(pool.map([1], prefetch=0)) == [0]


def test_requests_are_consumed_as_results_are() -> None:
    consumed: list[int] = []

    def requests() -> Iterator[int]:
        for number in range(100):
            consumed.append(number)
            yield number

    with _pool(2) as pool:
        results = pool.map(requests(), prefetch=3)
        for number in range(10):
            assert next(results).request == number
            assert len(consumed) <= number + 5


def test_children_work_while_the_caller_is_busy() -> None:
    with _pool(1) as pool:
        results = pool.map(["sleep 0", *["sleep 0.15"] * 4], prefetch=4)
        next(results)
        time.sleep(1.0)
        started = time.monotonic()
        assert len(list(results)) == 4
        assert time.monotonic() - started < 0.3


def test_processes_are_replaced_after_their_number_of_tasks() -> None:
    with _pool(1, max_tasks_per_worker=3) as pool:
        pids = [result.info["pid"] for result in pool.map(range(9), prefetch=1)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


def test_processes_are_kept_between_maps() -> None:
    with _pool(1) as pool:
        pids = {result.info["pid"] for _ in range(3) for result in pool.map(range(3), prefetch=0)}
    assert len(pids) == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_retry_puts_another_request_in_a_failed_ones_place(num_workers: int, pools: dict[int, WorkerPool[Any]]) -> None:
    results = list(pools[num_workers].map([1, "refuse", 3], prefetch=2, retry=lambda request: 77))
    assert [result.request for result in results] == [1, 77, 3]
    assert results[1].failures == (("refuse", "a.mp4: is truncated"),)
    assert results[0].failures == ()


def test_retry_ends_when_it_names_nothing(pools: dict[int, WorkerPool[Any]]) -> None:
    (result,) = pools[1].map(["refuse"], prefetch=0, retry=lambda request: "fail" if request == "refuse" else None)
    assert result.request == "fail" and str(result.error).startswith("KeyError")
    assert result.failures == (("refuse", "a.mp4: is truncated"),)


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_closing_leaves_no_child() -> None:
    before = _children()
    with _pool() as pool:
        list(pool.map(range(4), prefetch=0))
        pids = _children() - before
        assert len(pids) == (3 if start.can_fork() else 2)
    _wait_until_gone(pids)


@linux
@pytest.mark.parametrize("how", ["close", "forget", "interrupt"])
def test_an_abandoned_iteration_leaves_no_child(how: str) -> None:
    before = _children()
    pool = _pool()
    results = pool.map([1, *["sleep 60"] * 4], prefetch=2)
    next(results)
    pids = _children() - before
    assert pids
    if how == "close":
        results.close()  # type: ignore[attr-defined]
    elif how == "forget":
        del results
        gc.collect()
    else:
        with pytest.raises(KeyboardInterrupt):
            results.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    _wait_until_gone(pids)
    pool.close()


@linux
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_parent_that_dies_takes_its_children_along(how: signal.Signals) -> None:
    code = textwrap.dedent(
        """
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        from test_pool import _children, _pool
        results = _pool().map([1, "sleep 60", "sleep 60"], prefetch=2)
        next(results)
        print(*_children(), flush=True)
        next(results)
        """
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert parent.stdout is not None
    pids = {int(pid) for pid in parent.stdout.readline().split()}
    assert pids
    parent.send_signal(how)
    parent.wait(10)
    parent.stdout.close()
    _wait_until_gone(pids)


@linux
def test_a_child_that_ends_its_process_group_ends_no_other() -> None:
    with _pool(2, deadline_seconds=10.0) as pool:
        values = _values(pool.map(["sleep 0.8", f"signal-group {int(signal.SIGKILL)}", 3], prefetch=1))
    assert (values[0], values[2]) == (0, 3)
    assert str(values[1]).startswith("decoder process was killed (signal 9)")


@linux
@pytest.mark.skipif(not start.can_fork(), reason="no child is forked here")
def test_the_end_of_the_process_that_is_forked_costs_no_task() -> None:
    before = _children()
    with _pool(2, max_tasks_per_worker=5) as pool:
        results = pool.map(["sleep 0", *["sleep 0.3"] * 4], prefetch=2)
        next(results)
        (nursery,) = (pid for pid in _children() - before if _parent_of(pid) == os.getpid())
        os.kill(nursery, signal.SIGKILL)
        assert _values(results) == [0] * 4


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
@pytest.mark.parametrize("place", [(os, "pidfd_open"), (signal, "pidfd_send_signal")], ids=["hold", "send"])
def test_a_python_that_cannot_hold_processes_starts_them_one_by_one(
    place: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(*place)  # as of a Python that was built with old headers
    assert not start.can_fork.__wrapped__()


def test_a_program_that_ignores_the_end_of_children_loses_no_task(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nfrom test_pool import _pool, _values\n"
        "with _pool(1) as pool:\n    print(_values(pool.map([1, 'exit 3', 2], prefetch=1)))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout == "[1, 'decoder process died (exit code 3)', 2]\n", done.stderr


def test_closing_from_another_thread_ends_a_map_that_waits() -> None:
    pool = _pool(1)
    results = pool.map([1, "sleep 60"], prefetch=1)
    next(results)
    closer = threading.Timer(0.3, pool.close)
    closer.start()
    started = time.monotonic()
    with pytest.raises(VJEPAError, match="this WorkerPool was closed by another thread before all results had come"):
        next(results)
    assert time.monotonic() - started < 10
    closer.join()


def test_a_map_that_was_not_begun_starts_no_child_after_closing() -> None:
    pool = _pool(1)
    results = pool.map([1], prefetch=0)
    pool.close()
    with pytest.raises(VJEPAError, match="this WorkerPool is closed; open a new one"):
        next(results)


def test_a_nursery_that_does_not_answer_is_ended_before_it_answers_another_question() -> None:
    nursery = start.Nursery.__new__(start.Nursery)
    nursery._process, nursery._connection = mock.Mock(), mock.Mock(**{"poll.return_value": False})
    assert nursery.status_of(5) == -signal.SIGKILL
    nursery._process.kill.assert_called_once()


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('started')\nfrom test_pool import _pool, _values\n"
        "with _pool(2) as pool:\n    print(_values(pool.map(range(3), prefetch=1)))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout == "started\n[0, 1, 2]\n", done.stderr


def test_secrets_stay_with_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("HF_TOKEN", "SSH_AUTH_SOCK", "DATABASE_URL", "GPG_PASSPHRASE", "MYSQL_PWD", "OPENAI_KEY", "ANYTHING")
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    with _pool(1) as pool:
        said = pool.map([f"environment {name}" for name in (*secrets, "LC_ALL", "PATH")], prefetch=0)
        *withheld, language, path = (result.info["value"] for result in said)
    assert withheld == [None] * len(secrets)
    assert (language, path) == ("C.UTF-8", os.environ["PATH"])


def test_path_objects_among_the_places_to_import_from_harm_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/somewhere"), 5])
    with _pool(1) as pool:
        (said,) = pool.map([7], prefetch=0)
    assert said.array is not None and said.array[0, 0] == 7


def test_a_frozen_program_is_not_started_again_as_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ConfigError, match="this program is frozen into one file; pass num_workers=0"):
        _pool(1)


def test_a_system_without_proc_has_no_limit_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", absent)
    sandbox.limit_memory(1 << 40)


@pytest.mark.skipif(not sandbox.can_isolate_network(), reason="this system does not let a process leave the network")
def test_children_reach_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, _pool(1) as pool:
        port = server.getsockname()[1]
        assert _values(_pool(0).map([f"connect {port}"], prefetch=0)) == [0]
        (error,) = _values(pool.map([f"connect {port}"], prefetch=0))
    assert str(error).startswith("OSError: [Errno 101] Network is unreachable")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_children_get_so_much_memory_and_no_more(pools: dict[int, WorkerPool[Any]]) -> None:
    limit = child.MAX_TASK_BYTES
    values = _values(pools[1].map([f"allocate {limit // 2}", f"allocate {limit + (64 << 20)}", 5], prefetch=0))
    assert (values[0], values[2]) == (0, 5)
    assert re.fullmatch(r".*Unable to allocate .*; pass fewer or smaller frames", str(values[1]))


class _Child:
    """Answer with prepared messages, as a decoder taken over by a hostile file might."""

    def __init__(self, *messages: bytes) -> None:
        self.messages = list(messages)

    def recv_bytes(self, maxlength: int) -> bytes:
        message = self.messages.pop(0)
        if len(message) > maxlength:
            raise OSError("bad message length")
        return message


def _header(**changes: Any) -> bytes:
    return json.dumps({"kind": "result", "dtype": "uint8", "shape": [4], "info": {}} | changes).encode()


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([b"\x80\x04N."], "codec"),  # a pickle
        ([b"[" * 100_000], "nested"),
        ([b"[]"], "not an object"),
        ([_header(info=3)], "not an object"),
        ([_header(kind=None)], "kind 'None' must be one of ready, alive, item, result, end, error"),
        ([_header(kind="last")], "kind 'last' must be one of"),
        ([_header(kind=["result"])], "must be one of"),
        ([_header(kind="item", dtype=None)], "dtype 'None' is not allowed"),
        ([_header(dtype="object")], "dtype 'object' is not allowed"),
        ([_header(dtype=["uint8"])], "is not allowed"),
        ([_header(shape=[-4])], "shape"),
        ([_header(shape=[True])], "shape"),
        ([_header(shape=[1] * 9)], "shape"),
        ([_header(shape="4")], "shape"),
        ([_header(shape=[1 << 40, 1 << 40])], "bytes, more than"),
        ([_header(), b"123"], "3 bytes instead of 4"),
    ],
)
def test_an_answer_that_breaks_the_protocol_is_refused(messages: list[bytes], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        wire.receive_message(_Child(*messages))  # type: ignore[arg-type]


def test_more_bytes_than_announced_are_never_read() -> None:
    with pytest.raises(OSError, match="bad message length"):
        wire.receive_message(_Child(_header(), b"12345"))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["ready", "alive", "end"])
def test_an_array_is_read_where_its_kind_has_one(kind: str) -> None:
    child = _Child(_header(kind=kind), b"1234")
    assert wire.receive_message(child).array is None  # type: ignore[arg-type]
    assert child.messages == [b"1234"]  # which the next read refuses, since it is no header


@pytest.mark.parametrize(("kind", "is_last"), [("item", False), ("alive", False), ("result", True), ("end", True)])
def test_the_kind_tells_whether_a_request_is_done(kind: str, is_last: bool) -> None:
    assert wire.receive_message(_Child(_header(kind=kind), b"1234")).is_last == is_last  # type: ignore[arg-type]


def test_errors_from_a_child_cannot_drive_a_terminal() -> None:
    message = wire.receive_message(_Child(_header(kind="error", error="a\x1b]0;x\n\nb")))  # type: ignore[arg-type]
    assert message.error == r"a\x1b]0;x b"


def test_a_task_that_cannot_be_loaded_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "vanishing_module.py"
    module.write_text("def task(request): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import vanishing_module  # type: ignore[import-not-found]

    module.unlink()
    with (
        WorkerPool(vanishing_module.task, num_workers=1, deadline_seconds=5) as pool,
        pytest.raises(VJEPAError, match="cannot be loaded in a worker process: ModuleNotFoundError"),
    ):
        list(pool.map([1], prefetch=0))


def test_an_error_in_the_requests_reaches_the_caller() -> None:
    def requests() -> Iterator[int]:
        yield 1
        raise RuntimeError("no more")

    with _pool(1) as pool, pytest.raises(RuntimeError, match="no more"):
        list(pool.map(requests(), prefetch=0))


def test_a_closed_pool_says_so() -> None:
    pool = _pool(1)
    pool.close()
    with pytest.raises(VJEPAError, match="is closed"):
        pool.map([1], prefetch=0)


def test_one_pool_maps_once_at_a_time() -> None:
    with _pool(1) as pool:
        first = pool.map([1, 2, 3], prefetch=0)
        next(first)
        with pytest.raises(VJEPAError, match="already maps"):
            next(pool.map([4], prefetch=0))
        assert _values(first) == [2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": -1}, "num_workers=-1 must be at least 0"),
        ({"deadline_seconds": 0.0}, r"deadline_seconds=0\.0 must be above 0"),
        ({"max_tasks_per_worker": 0}, "max_tasks_per_worker=0 must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _pool(**options)


def test_negative_prefetch_is_refused() -> None:
    with _pool(0) as pool, pytest.raises(ConfigError, match="prefetch=-1 must be at least 0"):
        pool.map([1], prefetch=-1)


@pytest.mark.skipif(not start.can_fork(), reason="children are not forked here")
def test_a_prepared_pool_has_loaded_modules_before_it_has_a_task() -> None:
    before = _children()
    with prepare(2, "colorsys") as nursery:
        (loading,) = _new_children(before)
        with WorkerPool(modules_of, num_workers=2, deadline_seconds=20.0, nursery=nursery) as pool:
            (result,) = pool.map(["colorsys"], prefetch=0)
            assert result.info == {"is_loaded": True, "parent": loading}
    _wait_until_gone({loading})


@pytest.mark.skipif(not start.can_fork(), reason="children are not forked here")
def test_a_prepared_pool_that_is_never_opened_leaves_no_process() -> None:
    before = _children()
    with pytest.raises(KeyError), prepare(2, "colorsys"):
        loading = _new_children(before)
        raise KeyError
    _wait_until_gone(loading)


def test_nothing_is_prepared_for_no_processes() -> None:
    with prepare(0, "colorsys") as nursery:
        assert nursery is None


@pytest.mark.skipif(not start.can_fork(), reason="children are not forked here")
def test_the_process_that_is_forked_may_die_without_costing_a_task() -> None:
    before = _children()
    with _pool(1, crash_retries=1, max_tasks_per_worker=2) as pool:
        results = pool.map(range(6), prefetch=0)
        pids = {next(results).info["pid"]}
        (nursery,) = _children() - before - pids
        os.kill(nursery, signal.SIGKILL)
        assert [result.error for result in results] == [None] * 5


def modules_of(name: str) -> Answer:
    """Say whether a module is loaded in a child."""
    return np.zeros(1), {"is_loaded": name in sys.modules, "parent": os.getppid()}
