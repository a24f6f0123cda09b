"""Kills, full disks, damage and rivals at any moment leave the old or the new state, never a mixture."""

from __future__ import annotations

import errno
import io
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import FILES, Embed, contents

from vjepa_sdk import embed, journal
from vjepa_sdk.api import VJEPA
from vjepa_sdk.embed import EmbedResult
from vjepa_sdk.errors import (
    InUseError,
    OutputError,
)


def test_every_file_is_on_disk_before_it_gets_its_name_and_the_name_before_the_work_goes(
    run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk: set[int] = set()
    renamed: list[str] = []
    replace_file, remove_directory = os.replace, os.rmdir

    def replacing(source: Path, target: Path) -> None:
        assert os.stat(source).st_ino in on_disk, source
        on_disk.discard(os.stat(target.parent).st_ino)
        renamed.append(Path(target).name)
        replace_file(source, target)

    def removing(directory: Path) -> None:
        assert os.stat(directory.parent).st_ino in on_disk
        remove_directory(directory)

    monkeypatch.setattr(os, "fsync", lambda descriptor: on_disk.add(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "replace", replacing)
    monkeypatch.setattr(os, "rmdir", removing)
    run(tmp_path / "feats.npy")
    assert renamed[-1] == "feats.npy"
    assert {"part-00000000", "part-00000004", "part-00000008", "plan.json", "feats.index.jsonl"} < set(renamed)


class TestOneRunAtATime:
    def test_of_eight_starters_one_works_and_the_others_say_so(
        self, run: Embed, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        results: list[EmbedResult] = []
        refusals: list[InUseError] = []
        gate = threading.Barrier(8)

        def start() -> None:
            gate.wait()
            try:
                results.append(run(tmp_path / "feats.npy"))
            except InUseError as error:
                refusals.append(error)

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) + len(refusals) == 8
        assert sum(not result.already_complete for result in results) == 1
        assert contents(tmp_path / "feats.npy") == expected
        assert not (tmp_path / "feats.npy.work").exists()

    def test_the_owner_is_named(self, run: Embed, tmp_path: Path) -> None:
        with (
            journal.Workspace(tmp_path / "feats.npy.work"),
            pytest.raises(InUseError, match=rf"feats\.npy\.work: in use by process {os.getpid()} on "),
        ):
            run(tmp_path / "feats.npy")


class _Faults:
    """Count the calls that change the disk, and do something at the k-th."""

    def __init__(self, patch: pytest.MonkeyPatch, *, at: int, action: Callable[[], None]) -> None:
        self.count, self._at, self._action = 0, at, action
        for name in ("fsync", "replace", "unlink", "mkdir", "rmdir"):
            patch.setattr(os, name, self._counted(getattr(os, name)))
        patch.setattr(os, "open", self._counted(os.open, only=lambda path, flags, *_: flags & os.O_CREAT))
        faults = self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                faults.tick(lambda: super(File, self).write(bytes(data)[: len(data) // 2]))
                return super().write(data)

        fdopen = os.fdopen
        patch.setattr(
            os,
            "fdopen",
            lambda fd, mode, **rest: io.BufferedWriter(File(fd, mode)) if mode == "wb" else fdopen(fd, mode, **rest),
        )
        patch.setattr(journal, "open", lambda path, mode: io.BufferedWriter(File(path, mode)), raising=False)

    def tick(self, before: Callable[[], object] = lambda: None) -> None:
        self.count += 1
        if self.count == self._at:
            before()
            self._action()

    def _counted(self, function: Callable[..., Any], only: Callable[..., Any] = lambda *_: True) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if only(*args):
                self.tick()
            return function(*args, **kwargs)

        return wrapped


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class TestEveryCrashPoint:
    @pytest.fixture
    def job(self, run: Embed, clips: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Embed:
        """Embed three clips in two batches with one failure among them, loading the model once only."""
        torch.set_num_threads(1)  # a forked process has no other threads, and OpenMP would wait for them
        loaded = VJEPA.from_pretrained(model, device="cpu")
        monkeypatch.setattr(embed, "_load_model", lambda directory, options: (loaded, loaded.clip_loader()))
        inputs = [clips / "0.mp4", clips / "1.mp4", clips.parent / "bad.mp4"]
        inputs[2].write_bytes(b"bad")
        return lambda out, **options: run(out, inputs=inputs, batch_size=2, **options)

    @pytest.fixture
    def undisturbed(self, job: Embed, tmp_path: Path) -> dict[str, bytes]:
        job(tmp_path / "undisturbed.npy")
        return contents(tmp_path / "undisturbed.npy")

    @pytest.fixture
    def old(self, job: Embed, tmp_path: Path) -> Path:
        """Return an output of other settings, in a directory of its own."""
        (tmp_path / "old").mkdir()
        job(tmp_path / "old" / "feats.npy", pooling="temporal")
        return tmp_path / "old" / "feats.npy"

    def test_a_disk_that_fails_at_any_call_leaves_the_old_or_the_new_state(
        self,
        job: Embed,
        old: Path,
        undisturbed: dict[str, bytes],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for k in itertools.count(1):
            out = Path(shutil.copytree(old.parent, tmp_path / str(k))) / "feats.npy"
            with monkeypatch.context() as patch:
                faults = _Faults(patch, at=k, action=_disk_full)
                try:
                    job(out, overwrite=True)
                except OutputError as error:
                    assert "No space left on device" in str(error), k
            self._check(out, contents(old), undisturbed)
            job(out, overwrite=out.exists() and contents(out) != undisturbed)
            self._check_complete(out, undisturbed)
            if faults.count < k:
                break
        assert k > 40

    @pytest.mark.parametrize(
        "has_old_output", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["new", "overwrite"]
    )
    def test_a_kill_at_any_call_leaves_the_old_or_the_new_state(
        self, job: Embed, old: Path, undisturbed: dict[str, bytes], tmp_path: Path, has_old_output: bool
    ) -> None:
        for k in itertools.count(1):
            out = tmp_path / str(k) / "feats.npy"
            shutil.copytree(old.parent, out.parent) if has_old_output else out.parent.mkdir()
            status = _in_child(partial(_killed_at, job, out, k))
            self._check(out, contents(old), undisturbed)
            job(out, overwrite=out.exists() and contents(out) != undisturbed)
            self._check_complete(out, undisturbed)
            if status == 0:
                break
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, k
        assert k > 40

    def _check(self, out: Path, old: dict[str, bytes], new: dict[str, bytes]) -> None:
        if out.exists():
            assert contents(out) in (old, new)

    def _check_complete(self, out: Path, new: dict[str, bytes]) -> None:
        assert contents(out) == new
        assert {path.name for path in out.parent.iterdir()} == FILES


def _killed_at(job: Embed, out: Path, k: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _Faults(patch, at=k, action=_die)
        job(out, overwrite=out.exists())


def _in_child(work: Callable[[], None]) -> int:
    """Run in a forked process, which costs no import of torch; return its wait status."""
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    try:
        signal.alarm(60)  # rather fail than hang
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


class TestKill:
    """SIGKILL of a real process, placed by progress and not by time."""

    @pytest.fixture
    def kill_after(self, clips: Path, model: Path) -> Callable[..., bool]:
        program = f"""
            import sys, time
            from vjepa_sdk import encoding
            from vjepa_sdk.embed import embed_files
            encoding.PART_SECONDS, encode = 0.0, encoding._encode
            def slow(*args, **options):
                time.sleep(0.05)
                return encode(*args, **options)
            encoding._encode = slow
            embed_files([{str(clips)!r}], sys.argv[1], model={str(model)!r}, batch_size=4,
                        num_workers=int(sys.argv[2]))
        """

        def start_and_kill(out: Path, *, parts: int, delay: float = 0.0, num_workers: int = 0) -> bool:
            """Kill once so many parts are in the journal; return whether it was in time."""
            wanted = out.with_name(f"{out.name}.work") / "journal.jsonl"
            process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), str(out), str(num_workers)])
            while process.poll() is None:
                if out.exists() or (wanted.exists() and wanted.read_bytes().count(b"\n") >= parts):
                    break
                time.sleep(0.002)
            time.sleep(delay)
            process.kill()
            return process.wait() == -signal.SIGKILL

        return start_and_kill

    def test_a_job_killed_in_mid_run_ends_in_the_same_bytes(
        self,
        run: Embed,
        kill_after: Callable[..., bool],
        tmp_path: Path,
        expected: dict[str, bytes],
    ) -> None:
        assert kill_after(tmp_path / "feats.npy", parts=1)
        assert not (tmp_path / "feats.npy").exists()
        run(tmp_path / "feats.npy")
        assert contents(tmp_path / "feats.npy") == expected

    @pytest.mark.soak
    def test_100_kills_at_random_progress_end_in_the_same_bytes(
        self,
        run: Embed,
        kill_after: Callable[..., bool],
        tmp_path: Path,
        expected: dict[str, bytes],
    ) -> None:
        generator, in_time = random.Random(0), 0
        for number in range(100):
            out = tmp_path / f"{number}.npy"
            in_time += kill_after(out, parts=generator.randrange(3), delay=generator.uniform(0, 0.06), num_workers=1)
            assert not out.exists() or contents(out) == expected
            run(out)
            assert contents(out) == expected
        assert in_time >= 80
