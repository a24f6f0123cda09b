"""SIGKILL of real processes, placed by progress and not by time: the next run ends in the same bytes."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import FILES, Embed, contents

from vjepa_sdk.inference.embed import batches as encoding
from vjepa_sdk.inference.embed import workspace

MODES: dict[str, dict[str, Any]] = {"clips": {}, "windows": {"window_seconds": 0.4, "stride_seconds": 0.2}}
PARTS = {"clips": 5, "windows": 36}  # nine clips, or their 59 windows, two a batch, each batch a part


@dataclass(frozen=True)
class Kill:
    """What a killed run had done."""

    pid: int
    in_time: bool
    """It was killed, and had not ended by itself."""
    events: str
    """In order: `e` a batch is encoded, `[` a part is being written, `]` it is on disk, `p` the output is published."""
    num_decoding: int
    """Decoding processes that it had, with the one that they are forked from."""

    @property
    def place(self) -> str:
        """Where it was hit."""
        return {"e": "work", "[": "commit", "]": "work", "p": "publish", "": "start"}[self.events[-1:]]


class Killer:
    """Run a job in a forked process, which costs no import of torch, and kill it."""

    def __init__(self, run: Embed) -> None:
        self._run = run

    def __call__(self, out: Path, *, after: int, delay: float, group: bool, num_workers: int) -> Kill:
        """Kill a job `delay` seconds after its event number `after`, with its whole process group or alone."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            self._work(out, writer, num_workers)
        os.close(writer)
        events = b""
        while len(events) <= after and (event := os.read(reader, 1)):
            events += event
        time.sleep(delay)
        decoding = len(orphans(child))
        os.killpg(child, signal.SIGKILL) if group else os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        while rest := os.read(reader, 64):
            events += rest
        os.close(reader)
        return Kill(child, os.WIFSIGNALED(status), events.decode(), decoding)

    def _work(self, out: Path, writer: int, num_workers: int) -> None:
        try:
            os.setpgid(0, 0)
            signal.alarm(300)  # rather fail than hang
            encode, commit, publish = (
                encoding.Encoding._encode,
                workspace.Workspace.commit,
                workspace.Workspace.replace_output,
            )
            encoding.Encoding._encode = _telling(encode, writer, after=b"e")
            workspace.Workspace.commit = _telling(commit, writer, before=b"[", after=b"]")  # type: ignore[method-assign]
            workspace.Workspace.replace_output = _telling(publish, writer, before=b"p")  # type: ignore[method-assign]
            os.fsync = lambda descriptor: time.sleep(0.004)  # a slow disk, so that kills hit commits as well
            self._run(out, num_workers=num_workers)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)


def _telling(
    function: Callable[..., object], writer: int, *, before: bytes = b"", after: bytes = b""
) -> Callable[..., object]:
    def wrapped(*args: object, **options: object) -> object:
        os.write(writer, before)
        result = function(*args, **options)
        os.write(writer, after)
        return result

    return wrapped


def orphans(pid: int) -> list[int]:
    """Return the decoding processes of a run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"workers.child import" in command and re.search(rf", {pid}\b".encode(), command):
            found.append(int(entry.name))
    return found


def wait_for_orphans(pid: int) -> float:
    """Return after how many seconds the last decoding process of a killed run is gone."""
    started = time.monotonic()
    while orphans(pid):
        assert time.monotonic() - started < 3.0, "decoding processes outlived their parent"
        time.sleep(0.02)
    return time.monotonic() - started


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def job(run: Embed, mode: str) -> Embed:
    return partial(run, batch_size=2, **MODES[mode])


@pytest.fixture
def kill(job: Embed) -> Killer:
    torch.set_num_threads(1)  # a forked process has no other threads, and OpenMP would wait for them
    return Killer(job)


@pytest.fixture
def whole(job: Embed, tmp_path: Path) -> dict[str, bytes]:
    job(tmp_path / "whole.npy")
    return contents(tmp_path / "whole.npy")


def check_killed(out: Path, whole: dict[str, bytes], killed: Kill) -> None:
    """Check that nothing partial is in sight, and that what was on disk counts."""
    assert not out.exists() or contents(out) == whole
    committed = killed.events.count("]")
    journal = out.with_name(f"{out.name}.work") / "journal.jsonl"
    if "p" not in killed.events and committed:
        assert journal.read_bytes().count(b"\n") >= committed


def check_complete(out: Path, whole: dict[str, bytes]) -> None:
    assert contents(out) == whole
    assert {path.name for path in out.parent.iterdir()} == FILES


@pytest.mark.parametrize("group", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["alone", "group"])
def test_a_killed_job_leaves_no_process_and_ends_in_the_same_bytes(
    job: Embed, kill: Killer, tmp_path: Path, whole: dict[str, bytes], group: bool
) -> None:
    out = tmp_path / "out" / "feats.npy"
    out.parent.mkdir()
    killed = kill(out, after=4, delay=0.0, group=group, num_workers=1)
    assert killed.in_time and killed.num_decoding and not out.exists()
    wait_for_orphans(killed.pid)
    check_killed(out, whole, killed)
    job(out)
    check_complete(out, whole)


@pytest.mark.parametrize("kills", [6, pytest.param(10, marks=pytest.mark.soak)])
def test_a_chain_of_kills_in_one_job_ends_in_the_same_bytes(
    job: Embed, kill: Killer, tmp_path: Path, whole: dict[str, bytes], kills: int
) -> None:
    out, generator = tmp_path / "out" / "feats.npy", random.Random(0)
    out.parent.mkdir()
    for number in range(kills):
        killed = kill(out, after=2, delay=generator.uniform(0, 0.02), group=number % 2 == 0, num_workers=0)
        check_killed(out, whole, killed)
    job(out)
    check_complete(out, whole)


@pytest.mark.soak
def test_100_kills_at_random_progress_end_in_the_same_bytes(
    job: Embed, kill: Killer, tmp_path: Path, whole: dict[str, bytes], mode: str
) -> None:
    generator, places, slowest = random.Random(0), Counter[str](), 0.0
    for number in range(100):
        out = tmp_path / str(number) / "feats.npy"
        out.parent.mkdir()
        after, delay = generator.randrange(3 * PARTS[mode]), generator.uniform(0, 0.03)
        num_workers = 2 if mode == "windows" else 1  # several videos are open at once
        killed = kill(out, after=after, delay=delay, group=number % 2 == 0, num_workers=num_workers)
        slowest = max(slowest, wait_for_orphans(killed.pid))
        places[killed.place if killed.in_time else "too late"] += 1
        check_killed(out, whole, killed)
        job(out)
        check_complete(out, whole)
    print(f"hit {dict(places)}; decoding processes gone within {slowest:.2f} s")
    assert places["work"] + places["commit"] + places["publish"] >= 80
    assert places["commit"] >= 10


def test_a_command_killed_in_mid_run_is_finished_by_the_library(
    run: Embed, clips: Path, model: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """A process that was not forked from this one, the whole way through the command line."""
    program = f"""
        import sys, time
        from vjepa_sdk.cli import app
        from vjepa_sdk.inference.embed import batches, ledger
        ledger.PART_SECONDS, encode = 0.0, batches.Encoding._encode
        def slow(*args, **options):
            time.sleep(0.2)
            return encode(*args, **options)
        batches.Encoding._encode = slow
        sys.argv = ["vjepa", "embed", {str(clips)!r}, "--out", "feats.npy", "--model", {str(model)!r},
                    "--batch-size", "4", "--num-workers", "0"]
        app.main()
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path)
    journal = tmp_path / "feats.npy.work" / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n")):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "feats.npy").exists()
    run(tmp_path / "feats.npy")
    assert contents(tmp_path / "feats.npy") == expected
