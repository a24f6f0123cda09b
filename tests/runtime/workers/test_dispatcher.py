"""Worker processes that do not start, do not end or say nothing: an error in words, never a silent hang."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vjepa_sdk.errors import VJEPAError
from vjepa_sdk.runtime.workers import dispatcher as dispatcher_module
from vjepa_sdk.runtime.workers import pool as pool_module
from vjepa_sdk.runtime.workers import start
from vjepa_sdk.runtime.workers.dispatcher import Dispatcher
from vjepa_sdk.runtime.workers.pool import WorkerPool

Answer = tuple[np.ndarray, dict[str, Any]]


def act(request: str) -> Answer:
    """Do what the request says; runs in the children."""
    kind, _, rest = request.partition(" ")
    if kind == "sleep":
        time.sleep(float(rest))
    elif kind == "once":  # the first time only
        seen = Path(rest.partition(" ")[2])
        if not seen.exists():
            seen.touch()
            os.kill(os.getpid(), int(rest.partition(" ")[0]))
    elif kind == "die":
        os._exit(3)
    return np.zeros(1), {}


def _pool(num_workers: int = 1, **options: Any) -> WorkerPool[str]:
    return WorkerPool(act, num_workers=num_workers, **{"deadline_seconds": 20.0, **options})


def _errors(pool: WorkerPool[str], *requests: str, prefetch: int = 0) -> list[str | None]:
    return [result.error for result in pool.map(requests, prefetch=prefetch)]


def _script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True, params=["forked", "started"])
def how_children_come(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork children, where that is done here, and start them one by one, as it is done elsewhere."""
    if request.param == "started":
        monkeypatch.setattr(dispatcher_module, "can_fork", lambda: False)
    elif not start.can_fork():
        pytest.skip("children are not forked here")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_processes_that_all_die_at_start_are_an_error(
    num_workers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", _script(tmp_path / "python", "exit 1"))
    message = (
        r"a worker process did not start, 3 times in a row: decoder process died \(exit code 1\); "
        "num_workers=0 runs without any"
    )
    with _pool(num_workers) as pool, pytest.raises(VJEPAError, match=message):
        _errors(pool, "a", "b")


def test_processes_that_all_hang_at_start_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", _script(tmp_path / "python", "exec sleep 600"))
    monkeypatch.setattr(start, "START_UP_SECONDS", 0.3)
    with (
        _pool() as pool,
        pytest.raises(VJEPAError, match=r"did not start, 3 times in a row: it was not ready within 0\.3 s"),
    ):
        _errors(pool, "a")


def test_an_executable_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/absent/python")
    with _pool() as pool, pytest.raises(VJEPAError, match=r"worker processes failed: FileNotFoundError: .*/absent/pyt"):
        _errors(pool, "a")


def test_more_requests_than_a_pipe_holds_do_not_hide_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", _script(tmp_path / "python", "exit 1"))
    with _pool() as pool, pytest.raises(VJEPAError, match="3 times in a row"):
        _errors(pool, *["a"] * 30_000, prefetch=30_000)


def test_a_process_that_dies_at_start_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = f'if [ ! -e {tmp_path}/seen ]; then touch {tmp_path}/seen; exit 9; fi; exec {sys.executable} "$@"'
    monkeypatch.setattr(sys, "executable", _script(tmp_path / "python", text))
    with _pool() as pool:
        assert _errors(pool, "a", "b") == [None, None]
    assert "a worker process did not start: decoder process died (exit code 9); starting another" in caplog.text


def test_failed_starts_are_forgiven_after_a_good_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = f'if mkdir {tmp_path}/turn 2>/dev/null; then exit 9; fi; rmdir {tmp_path}/turn; exec {sys.executable} "$@"'
    monkeypatch.setattr(sys, "executable", _script(tmp_path / "python", text))
    with _pool(max_tasks_per_worker=1) as pool:
        assert _errors(pool, *"abcd") == [None] * 4


def test_a_process_that_nothing_can_end_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    immortal = []

    def ignore(process: start.Process) -> None:
        immortal.append(process.pid)

    monkeypatch.setattr(start._Forked, "kill", ignore)
    monkeypatch.setattr(subprocess.Popen, "kill", ignore)
    monkeypatch.setattr(dispatcher_module, "_KILL_SECONDS", 0.2)
    with _pool(deadline_seconds=1.0) as pool:
        assert _errors(pool, "sleep 600", "a") == [
            "no result within 1 s; the decoder hangs on this file, or needs more deadline_seconds",
            None,
        ]
    assert f"process {immortal[0]} does not end when killed and is left behind" in caplog.text
    for pid in set(immortal):
        with contextlib.suppress(ProcessLookupError):  # one that had nothing to do ends by itself
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_a_task_survives_a_crash_that_is_not_its_own(fault: signal.Signals, tmp_path: Path) -> None:
    request = f"once {int(fault)} {tmp_path}/seen"
    with _pool(deadline_seconds=1.5, crash_retries=1) as pool:
        results = list(pool.map(["a", request, "b"], prefetch=2, retry=lambda request: "never"))
    assert [result.request for result in results] == ["a", request, "b"]
    assert [result.error for result in results] == [None, None, None]
    assert (tmp_path / "seen").exists()


def test_a_task_that_crashes_each_time_fails(caplog: pytest.LogCaptureFixture) -> None:
    with _pool(crash_retries=2) as pool, caplog.at_level(logging.WARNING):
        assert _errors(pool, "a", "die", "b") == [None, "decoder process died (exit code 3)", None]
    assert caplog.text.count("running the task again") == 2


def test_silence_from_all_processes_ends_in_an_error_and_stacks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    released = threading.Event()

    def stuck_dispatcher(dispatcher: Dispatcher) -> None:
        if dispatcher._waiting:
            released.wait(60)

    monkeypatch.setattr(Dispatcher, "_start_workers", stuck_dispatcher)
    monkeypatch.setattr(start, "START_UP_SECONDS", 0.05)
    for name, seconds in (("WATCHDOG_SECONDS", 0.5), ("_KILL_SECONDS", 0.05)):
        monkeypatch.setattr(dispatcher_module, name, seconds)
    with (
        _pool(deadline_seconds=0.05) as pool,
        pytest.raises(VJEPAError, match=r"no result from 1 worker processes for \d+ s; the stacks of all threads are"),
    ):
        _errors(pool, "a")
    assert "in stuck_dispatcher" in capfd.readouterr().err
    released.set()


def test_a_task_that_hangs_in_this_process_is_reported(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "WATCHDOG_SECONDS", 0.2)
    with _pool(0) as pool:
        assert _errors(pool, "a", "sleep 1.5", "b") == [None] * 3
    assert "no result within 0.2 s and num_workers=0, so nothing ends it: sleep 1.5; num_workers=1 would" in caplog.text
    assert caplog.text.count("no result within") == 1
    assert "in act" in capfd.readouterr().err
