"""A checkpoint is complete and verified, or it does not exist."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import signal
from pathlib import Path

import pytest
import torch

from vjepa_sdk import checkpoint as module
from vjepa_sdk.checkpoint import Checkpoint, load_latest, optimizer_tensors, restore_optimizer, save_checkpoint
from vjepa_sdk.errors import CheckpointError


def state(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(
        step=step,
        weights={"w": torch.rand(5, 3, generator=generator)},
        optimizer={"0.exp_avg": torch.rand(5, 3, generator=generator)},
        state={"note": step},
    )


def assert_equal(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None and found.step == expected.step and found.state == expected.state
    assert torch.equal(found.weights["w"], expected.weights["w"])
    assert torch.equal(found.optimizer["0.exp_avg"], expected.optimizer["0.exp_avg"])


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(3), keep=2)
    assert_equal(load_latest(tmp_path), state(3))


def test_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, state(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "absent") is None


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_checkpoint_is_set_aside_loudly(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, state(1), keep=2)
    file = save_checkpoint(tmp_path, state(2), keep=2) / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x01
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        assert_equal(load_latest(tmp_path), state(1))
    assert "step-00000002 is damaged" in caplog.text
    assert len(list(tmp_path.glob("step-00000002.damaged-*"))) == 1


def test_nothing_but_damage_is_an_error(tmp_path: Path) -> None:
    (save_checkpoint(tmp_path, state(1), keep=1) / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="all 1 checkpoints are damaged; start a new run"):
        load_latest(tmp_path)


class _Fault:
    """Fail or stop at the k-th of the calls that put bytes and names on disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.left, self.error = at, error
        for owner, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (module, "write_tensors")):
            self._wrap(monkeypatch, owner, name)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        original = getattr(owner, name)

        def call(*arguments: object) -> object:
            self.left -= 1
            if self.left == 0:
                raise self.error
            return original(*arguments)

        monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_fault_at_any_write_leaves_the_old_checkpoint_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    save_checkpoint(tmp_path, state(1), keep=1)
    for at in range(1, 100):
        with monkeypatch.context() as patch:
            fault = _Fault(patch, at, error)
            with contextlib.suppress(CheckpointError, KeyboardInterrupt):
                save_checkpoint(tmp_path, state(2), keep=1)
        found = load_latest(tmp_path)
        assert found is not None
        assert_equal(found, state(found.step))
        if fault.left > 0:
            assert at > 8 and found.step == 2
            return
    pytest.fail("the fault never moved past the end of a save")


def test_full_disk_in_the_middle_of_a_file_leaves_no_litter(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(CheckpointError, match="cannot save"):
            save_checkpoint(tmp_path, state(1), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_names_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _Fault(monkeypatch, 1, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(CheckpointError, match=r"No space left on device\); 120 bytes are needed, .* are free; earlier"):
        save_checkpoint(tmp_path, state(1), keep=1)


def test_optimizer_continues_where_it_was() -> None:
    def run(split: bool) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.ones(4))
        optimizer = torch.optim.AdamW([weight], lr=0.1)
        for step in range(6):
            if split and step == 3:
                saved = optimizer_tensors(optimizer)
                optimizer = torch.optim.AdamW([weight], lr=0.1)
                restore_optimizer(optimizer, saved)
            weight.grad = torch.arange(4.0) * (step + 1)
            optimizer.step()
        return weight.detach()

    assert torch.equal(run(split=True), run(split=False))
