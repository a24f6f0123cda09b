"""One run at a time owns an output, whatever becomes of the others and whatever lies in the lock's place."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import SoftFileLock

import vjepa_sdk
from vjepa_sdk.errors import InUseError, OutputError
from vjepa_sdk.inference.embed.workspace import Workspace
from vjepa_sdk.runtime import lock
from vjepa_sdk.runtime.lock import Lock, RemovableLock
from vjepa_sdk.training.resume import claimed

ROOT = Path(vjepa_sdk.__file__).parents[1]

OWNER = """
import os, subprocess, sys, time
from vjepa_sdk.runtime.lock import Lock
with Lock(sys.argv[1]):
    if sys.argv[2] == "forks":
        child = os.fork()
    if sys.argv[2] == "starts":
        child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, close_fds=False).pid
    if sys.argv[2] == "is alone":
        child = os.getpid()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.2)
    return tmp_path / "run" / "lock"


@pytest.mark.parametrize("kind", ["is alone", "forks", "starts"])
def test_a_killed_owner_frees_its_lock_though_its_children_live(kind: str, path: Path) -> None:
    path.parent.mkdir()
    command, env = [sys.executable, "-c", OWNER, str(path), kind], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as owner:
        assert owner.stdout
        child = int(owner.stdout.readline())
        with pytest.raises(InUseError, match=rf"run: in use by process {owner.pid} on .*; wait for it or choose anoth"):
            Lock(path).__enter__()
        owner.kill()
        owner.wait()
        with Lock(path):
            if child != owner.pid:
                os.kill(child, signal.SIGKILL)  # which fails if it is not alive


def test_an_owner_that_has_not_signed_is_another_process(path: Path) -> None:
    path.parent.mkdir()
    with Lock(path):
        path.write_bytes(b"")
        with pytest.raises(InUseError, match="run: in use by another process; wait for it"):
            Lock(path).__enter__()


def test_the_file_stays_for_the_next_owner(path: Path) -> None:
    path.parent.mkdir()
    with Lock(path):
        inode = path.stat().st_ino
    with Lock(path):
        assert path.stat().st_ino == inode


@pytest.mark.parametrize("fate", ["deleted", "renamed"])  # renamed: what NFS does to an open file that is deleted
def test_a_lock_won_on_a_file_that_is_gone_does_not_count(
    fate: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, fates = fcntl.flock, [fate]

    def lose(descriptor: int, operation: int) -> None:
        if fates:
            path.unlink() if fates.pop() == "deleted" else path.rename(path.with_name("aside"))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lose)
    with RemovableLock(path):
        assert not fates
        assert path.read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"
        with pytest.raises(InUseError):
            RemovableLock(path).__enter__()


def test_a_link_in_the_place_of_the_lock_is_not_followed(path: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    path.parent.mkdir()
    path.symlink_to(precious)
    for content in (None, "mine"):
        if content is not None:
            precious.write_text(content)
        with pytest.raises(OutputError, match="run: holds lock, which is no file of a job; move it away"):
            Workspace(path.parent).__enter__()
        with pytest.raises(OutputError, match=r"run: cannot be written \(Too many levels of symbolic links\)"):
            claimed(path.parent, resume=False).__enter__()
        assert (precious.read_text() if precious.exists() else None) == content


def test_a_system_that_locks_no_files_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "FileLock", SoftFileLock)  # what filelock has then
    with Workspace(tmp_path / "x.npy.work") as work:
        work.start({})
        work.clear()
    assert not (tmp_path / "x.npy.work").exists()
    assert "this system locks no files, so nothing keeps a second run out" in caplog.text


@pytest.mark.parametrize("content", ["my notes on locks", "process of law\n", "\0" * 2000])
def test_a_file_that_is_no_lock_is_not_signed(content: str, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(content)
    with pytest.raises(OutputError, match="its file lock is not the lock of a job; move it away"):
        Lock(tmp_path / "lock").__enter__()
    assert (tmp_path / "lock").read_text() == content
