"""Kills, full disks, damage and rivals at any moment leave the old or the new state, never a mixture."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import FILES, NUM_CLIPS, Embed, contents, interrupt

from vjepa_sdk.cli.exit_codes import IN_USE
from vjepa_sdk.errors import InUseError, OutputError, WriteError
from vjepa_sdk.inference.embed import batches as encoding
from vjepa_sdk.inference.embed import job as embed
from vjepa_sdk.inference.embed import workspace
from vjepa_sdk.inference.embed.job import EmbedResult
from vjepa_sdk.inference.vjepa import VJEPA
from vjepa_sdk.runtime import files


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

    @pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=pytest.mark.soak)])
    def test_of_eight_processes_one_works_and_the_others_give_up_soon(
        self,
        run: Embed,
        tmp_path: Path,
        expected: dict[str, bytes],
        monkeypatch: pytest.MonkeyPatch,
        rounds: int,
    ) -> None:
        torch.set_num_threads(1)
        encode = encoding.Encoding._encode

        def slow(*args: Any, **options: Any) -> Any:
            time.sleep(1.0)  # longer than the others' patience
            return encode(*args, **options)

        monkeypatch.setattr(encoding.Encoding, "_encode", slow)
        for number in range(rounds):
            out = tmp_path / f"{number}.npy"
            gate, opener = os.pipe()
            starters = [_fork(partial(_start, run, out, tmp_path / f"{number}-{i}", (gate, opener))) for i in range(8)]
            os.close(gate)
            os.close(opener)  # which lets all go at once
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in starters]
            assert codes.count(0) == 1, codes
            assert set(codes) <= {0, IN_USE, LATE} and codes.count(IN_USE) > 0, codes
            seconds = [float(path.read_text()) for path in tmp_path.glob(f"{number}-*")]
            assert max(seconds) < 10, "seconds until a rival gave up, on a machine that may be busy"
            assert contents(out) == expected

    def test_the_owner_is_named(self, run: Embed, tmp_path: Path) -> None:
        with (
            workspace.Workspace(tmp_path / "feats.npy.work"),
            pytest.raises(InUseError, match=rf"feats\.npy\.work: in use by process {os.getpid()} on "),
        ):
            run(tmp_path / "feats.npy")


LATE = 9  # a busy machine may start one when the output is complete already


def _start(run: Embed, out: Path, report: Path, gate: tuple[int, int]) -> None:
    os.close(gate[1])
    os.read(gate[0], 1)
    started = time.monotonic()
    try:
        if run(out).already_complete:
            os._exit(LATE)
    except InUseError:
        report.write_text(str(time.monotonic() - started))
        os._exit(IN_USE)


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

        def opened(path: Path, mode: str) -> io.BufferedReader | io.BufferedWriter:
            return io.BufferedReader(File(path, mode)) if mode == "rb" else io.BufferedWriter(File(path, mode))

        for module in (workspace, files):
            patch.setattr(module, "open", opened, raising=False)

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


@dataclass(frozen=True)
class Change:
    """A job that makes an output, replaces one or adds to one; it may be run again after any accident."""

    run: Embed
    options: dict[str, Any]
    old: Path | None
    """A directory with the output as it was before."""
    new: dict[str, bytes]

    def start(self, directory: Path) -> Path:
        """Return the output in a fresh directory, as it was before."""
        if self.old is None:
            directory.mkdir()
        else:
            shutil.copytree(self.old, directory)
        return directory / "feats.npy"

    def check_old_or_new(self, out: Path) -> None:
        if out.exists():
            assert contents(out) in (self.new, *([contents(self.old / "feats.npy")] if self.old else []))

    def go_on(self, out: Path) -> None:
        """Run the job again, without a repair by hand, and find what an undisturbed one gives."""
        is_new = out.exists() and contents(out) == self.new
        self.run(out, **({} if is_new and "overwrite" in self.options else self.options))
        assert contents(out) == self.new
        assert {path.name for path in out.parent.iterdir()} == FILES


class TestEveryCrashPoint:
    @pytest.fixture
    def job(self, run: Embed, clips: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Embed:
        """Embed three clips in two batches with one failure among them, loading the model once only."""
        torch.set_num_threads(1)  # a forked process has no other threads, and OpenMP would wait for them
        loaded = VJEPA.from_pretrained(model, device="cpu")
        loaders = {None: loaded.clip_loader(), 0.2: loaded.window_loader(window_seconds=0.2)}
        monkeypatch.setattr(embed, "load_model", lambda _, options, **__: (loaded, loaders[options.window_seconds]))
        given = [clips / "0.mp4", clips / "1.mp4", clips.parent / "bad.mp4"]
        given[2].write_bytes(b"bad")
        return lambda out, inputs=None, **options: run(out, inputs=inputs or given, batch_size=2, **options)

    @pytest.fixture
    def change(self, request: pytest.FixtureRequest, job: Embed, clips: Path, tmp_path: Path) -> Change:
        """Return a job of a kind: `new` (`windows`: of windows), `overwrite` other settings, `extend` another clip."""
        old = tmp_path / "old" if request.param in ("overwrite", "extend") else None
        if old is not None:
            old.mkdir()
            is_extension = request.param == "extend"
            job(old / "feats.npy", **({"inputs": [clips / "5.mp4"]} if is_extension else {"pooling": "temporal"}))
        options: dict[str, Any] = {} if old is None else {request.param: True}
        if request.param == "windows":
            options = {"window_seconds": 0.2}
        undisturbed = Change(job, options, old, {}).start(tmp_path / "undisturbed")
        job(undisturbed, **options)
        return Change(job, options, old, contents(undisturbed))

    @pytest.mark.parametrize("change", ["overwrite", "extend", "windows"], indirect=True)
    def test_a_disk_that_fails_at_any_call_leaves_the_old_or_the_new_state(
        self, change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for k in itertools.count(1):
            out = change.start(tmp_path / str(k))
            with monkeypatch.context() as patch:
                faults = _Faults(patch, at=k, action=_disk_full)
                try:
                    change.run(out, **change.options)
                except OutputError as error:
                    assert "No space left on device" in str(error), k
            change.check_old_or_new(out)
            change.go_on(out)
            if faults.count < k:
                break
        assert k > 60

    @pytest.mark.parametrize(
        "change",
        ["new", *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("overwrite", "extend", "windows"))],
        indirect=True,
    )
    def test_a_kill_at_any_call_leaves_the_old_or_the_new_state(self, change: Change, tmp_path: Path) -> None:
        for k in itertools.count(1):
            out = change.start(tmp_path / str(k))
            status = _in_child(partial(_killed_at, change, out, k))
            change.check_old_or_new(out)
            change.go_on(out)
            if status == 0:
                break
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, k
        assert k > 60


def _killed_at(change: Change, out: Path, k: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _Faults(patch, at=k, action=_die)
        change.run(out, **change.options)


def _in_child(work: Callable[[], None]) -> int:
    """Run in a forked process, which costs no import of torch; return its wait status."""
    return os.waitpid(_fork(work), 0)[1]


def _fork(work: Callable[[], None]) -> int:
    if child := os.fork():
        return child
    try:
        signal.alarm(120)  # rather fail than hang
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


class TestDisk:
    def test_a_disk_that_fills_up_costs_no_finished_part(self, run: Embed, tmp_path: Path) -> None:
        """The kernel itself refuses to write more than 6,000 bytes into a file: parts fit, the output does not."""
        torch.set_num_threads(1)
        job = partial(run, batch_size=1, pooling="none")

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
            with pytest.raises(WriteError, match=r"cannot write \(File too large\), [\d,]+ bytes are free; what is"):
                job(tmp_path / "feats.npy")

        job(tmp_path / "whole.npy")
        assert _in_child(limited) == 0
        assert not (tmp_path / "feats.npy").exists()
        assert (tmp_path / "feats.npy.work" / "journal.jsonl").read_bytes().count(b"\n") == NUM_CLIPS
        job(tmp_path / "feats.npy")
        assert contents(tmp_path / "feats.npy") == contents(tmp_path / "whole.npy")

    @pytest.mark.soak
    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
    def test_a_small_disk_that_is_really_full(
        self, run: Embed, clips: Path, model: Path, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        (disk := tmp_path / "disk").mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]).returncode:
            pytest.skip("this machine does not let us mount")
        try:
            for ballast in range(8, 64, 8):  # it gets full at another moment each time
                (disk / "ballast").write_bytes(bytes(ballast << 10))
                with contextlib.suppress(WriteError):
                    run(disk / "feats.npy")
                    break
                assert not (disk / "feats.npy").exists()
            (disk / "ballast").unlink()
            run(disk / "feats.npy")
            assert contents(disk / "feats.npy") == expected
        finally:
            subprocess.run(["umount", disk], check=True)

    def test_an_output_that_cannot_be_written_is_refused_at_once(
        self, run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_only(path: Path, *rest: Any) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        monkeypatch.setattr(os, "mkdir", read_only)
        monkeypatch.setattr(embed, "find_clips", None)  # not even the inputs are looked at
        with pytest.raises(WriteError, match=r"feats\.npy\.work: cannot write \(Read-only file system\)"):
            run(tmp_path / "feats.npy")


class TestDamage:
    @pytest.mark.parametrize("count", [12, pytest.param(200, marks=pytest.mark.soak)])
    @pytest.mark.parametrize("rows_are", ["clips", "windows"])
    def test_random_damage_to_the_work_is_repaired(
        self, run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_are: str, count: int
    ) -> None:
        generator = random.Random(0)
        if rows_are == "windows":  # of one video, so that its parts hang together
            run = partial(run, inputs=[clips / f"{NUM_CLIPS - 1}.mp4"], window_seconds=0.4, stride_seconds=0.15)
        run(tmp_path / "whole.npy")
        expected = contents(tmp_path / "whole.npy")
        for number in range(count):
            out = interrupt(run, tmp_path / f"{number}.npy", monkeypatch)
            work = out.with_name(f"{out.name}.work")
            path = generator.choice(sorted(path for path in work.iterdir() if path.name != "lock"))
            data = bytearray(path.read_bytes())
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            path.write_bytes(data)
            run(out)
            assert contents(out) == expected, (number, path.name)
