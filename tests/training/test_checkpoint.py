"""A checkpoint is complete and verified, or it does not exist."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import random
import resource
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import fail, faults
from tiny_runs import launcher_in

from vjepa_sdk.errors import CheckpointError, GuardError, OutputError
from vjepa_sdk.training import checkpoint as module
from vjepa_sdk.training.checkpoint import (
    Checkpoint,
    CheckpointSaver,
    load_latest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)


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


def test_checkpoints_of_round_steps_are_kept_for_good(tmp_path: Path) -> None:
    for step in range(1, 8):
        save_checkpoint(tmp_path, state(step), keep=1, keep_every=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-0000000{step}" for step in (3, 6, 7)]


def test_newest_is_the_highest_step_whatever_its_length(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, state(step), keep=2)
    assert_equal(load_latest(tmp_path), state(100_000_000))


def test_checkpoint_that_cannot_be_deleted_costs_room_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, state(1), keep=1)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: fail(errno.EBUSY))
    save_checkpoint(tmp_path, state(2), keep=1)
    assert "cannot be deleted" in caplog.text
    monkeypatch.undo()
    assert_equal(load_latest(tmp_path), state(2))


@pytest.mark.parametrize("kind", ["weights", "optimizer"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_state_that_is_not_finite_is_never_saved(tmp_path: Path, kind: str, value: float) -> None:
    save_checkpoint(tmp_path, state(1), keep=1)
    bad = state(2)
    next(iter(getattr(bad, kind).values()))[2, 1] = value
    with pytest.raises(GuardError, match=r"step 2: the .* must be finite; nothing was saved"):
        save_checkpoint(tmp_path, bad, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_disk_that_returns_other_bytes_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        original(path, {name: tensor + (name == "w") for name, tensor in tensors.items()})

    original = module.write_tensors
    monkeypatch.setattr(module, "write_tensors", write)
    with pytest.raises(CheckpointError, match="weights.safetensors reads back differently from what was written"):
        save_checkpoint(tmp_path, state(1), keep=1)
    assert list(tmp_path.iterdir()) == []


def test_loaded_state_does_not_hang_on_its_file(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, state(1), keep=1) / "weights.safetensors"
    found = load_latest(tmp_path)
    with open(file, "r+b") as stream:
        stream.write(bytes(file.stat().st_size))
    assert_equal(found, state(1))


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


def _damage_at_random(path: Path, generator: random.Random) -> str:
    """Damage one file of a checkpoint; return how."""
    file = generator.choice(sorted(path.iterdir()))
    data = bytearray(file.read_bytes())
    kind = generator.choice(["flip a bit", "cut", "add", "zero a block", "delete"])
    place = generator.randrange(len(data))
    if kind == "flip a bit":
        data[place] ^= 1 << generator.randrange(8)
    elif kind == "cut":
        del data[place:]
    elif kind == "add":
        data += b"\0"
    elif kind == "zero a block":
        data[place : place + 16] = bytes(len(data[place : place + 16]))
        data[place] ^= file.read_bytes()[place] == 0
    file.unlink() if kind == "delete" else file.write_bytes(data)
    return f"{kind} at {place} of {file.name}"


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_any_damage_is_found_and_the_checkpoint_before_is_used(tmp_path: Path, count: int) -> None:
    generator = random.Random(count)
    for number in range(count):
        for step in (1, 2, 3):
            save_checkpoint(directory := tmp_path / str(number), state(step), keep=3)
        num_damaged = generator.choice([1, 1, 2])
        damages = [_damage_at_random(directory / f"step-0000000{3 - i}", generator) for i in range(num_damaged)]
        found = load_latest(directory)
        assert found is not None and found.step == 3 - num_damaged, damages
        assert_equal(found, state(found.step))
        assert len(list(directory.glob("*.damaged-*"))) == num_damaged, damages


def test_another_runs_damaged_checkpoint_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_checkpoint(tmp_path, state(1), keep=2)
    (save_checkpoint(tmp_path, state(2), keep=2) / "state.json").write_text("{")
    (tmp_path / ".step-00000003.abc.tmp").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert_equal(load_latest(tmp_path, set_aside=False), state(1))
    assert "step-00000002 is damaged" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_nothing_but_damage_is_an_error(tmp_path: Path) -> None:
    for step in (1, 2):
        (save_checkpoint(tmp_path, state(step), keep=2) / "state.json").write_text("{")
    for _ in range(2):  # a second attempt must not find a directory without checkpoints, and start over
        with pytest.raises(
            CheckpointError, match=r"all 2 checkpoints are damaged, .* step-00000002 \(state.json differs"
        ):
            load_latest(tmp_path)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_fault_at_any_call_leaves_the_old_checkpoint_or_the_new(tmp_path: Path, error: BaseException) -> None:
    def raise_error() -> None:
        raise error

    for k in itertools.count(1):
        save_checkpoint(directory := tmp_path / str(k), state(1), keep=1)
        with contextlib.suppress(CheckpointError, KeyboardInterrupt), faults(k, raise_error) as counted:
            save_checkpoint(directory, state(2), keep=1)
        found = load_latest(directory)
        assert found is not None, k
        assert_equal(found, state(found.step))
        if counted.count < k:
            assert k > 25 and found.step == 2
            break


SAVE = """
from pathlib import Path
import torch
from faults import Faults, die
from test_checkpoint import state
from vjepa_sdk.training.checkpoint import save_checkpoint
Faults({k}, die)
save_checkpoint(Path({directory!r}), state(2), keep=1)
"""


def test_kill_at_any_call_leaves_the_old_checkpoint_or_the_new(tmp_path: Path) -> None:
    with launcher_in(tmp_path) as launcher:
        for k in itertools.count(1):
            save_checkpoint(directory := tmp_path / str(k), state(1), keep=1)
            launcher.start(SAVE.format(k=k, directory=str(directory)))
            status = launcher.end()
            assert status in (0, -signal.SIGKILL), launcher.output
            found = load_latest(directory)
            assert found is not None, k
            assert_equal(found, state(found.step))
            # loading and the next save sweep up all that a killed one left
            save_checkpoint(directory, state(3), keep=1)
            assert [path.name for path in directory.iterdir()] == ["step-00000003"]
            if status == 0:
                assert k > 25 and found.step == 2
                break


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


def test_full_disk_names_what_is_needed(tmp_path: Path) -> None:
    with (
        faults(1, fail),
        pytest.raises(CheckpointError, match=r"No space left on device\); 120 bytes are needed, .* are free; earlier"),
    ):
        save_checkpoint(tmp_path, state(1), keep=1)


class _Held:
    """Replace `save_checkpoint` by one that waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_end, self.steps, self._original = threading.Event(), list[int](), save_checkpoint
        monkeypatch.setattr(module, "save_checkpoint", self._save)

    def _save(self, directory: Path, checkpoint: Checkpoint, **options: Any) -> Path:
        self.steps.append(checkpoint.step)
        assert self.may_end.wait(60)
        return self._original(directory, checkpoint, **options)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = _Held(monkeypatch)
    with CheckpointSaver(tmp_path, keep=2) as saver:
        saver.save(lambda: state(1))
        saver.check()
        assert list(tmp_path.iterdir()) == []
        held.may_end.set()
        saver.finish()
        assert_equal(load_latest(tmp_path), state(1))


def test_next_save_waits_before_it_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, copied = _Held(monkeypatch), list[int]()

    def copy(step: int) -> Checkpoint:
        copied.append(step)
        return state(step)

    with CheckpointSaver(tmp_path, keep=2) as saver:
        saver.save(lambda: copy(1))
        second = threading.Thread(target=saver.save, args=[lambda: copy(2)])
        second.start()
        second.join(0.2)
        assert second.is_alive() and copied == held.steps == [1]
        held.may_end.set()
        second.join(60)
        saver.finish()
    assert_equal(load_latest(tmp_path), state(2))


def test_leaving_waits_for_the_save_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = _Held(monkeypatch)
    threading.Timer(0.2, held.may_end.set).start()
    with pytest.raises(KeyboardInterrupt), CheckpointSaver(tmp_path, keep=2) as saver:
        saver.save(lambda: state(1))
        raise KeyboardInterrupt
    assert_equal(load_latest(tmp_path), state(1))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_failed_save_is_told_and_survived(tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture) -> None:
    with CheckpointSaver(tmp_path, keep=2) as saver:
        saver.save(lambda: state(1))
        saver.finish()
        with faults(1, lambda: fail(number)):
            saver.save(lambda: state(2))
            saver.save(lambda: state(3))
        assert "step-00000002: cannot save" in caplog.text and "training goes on" in caplog.text
        saver.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_three_failed_saves_in_a_row_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(saver: CheckpointSaver, step: int, write: Callable[..., None]) -> None:
        monkeypatch.setattr(module, "write_tensors", write)
        saver.save(lambda: state(step))
        saver._thread.submit(lambda: None).result()  # the save has ended

    def full(*_: object) -> None:
        fail()

    original = module.write_tensors
    with CheckpointSaver(tmp_path, keep=2) as saver:
        for step, write in enumerate([full, full, original, full, full, full], start=1):
            save(saver, step, write)
            if step < 6:
                saver.check()
        with pytest.raises(CheckpointError, match=r"step-00000006: cannot save .*; 3 saves in a row failed"):
            saver.check()
    assert_equal(load_latest(tmp_path), state(3))


def test_last_save_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "write_tensors", lambda *_: fail())
    with CheckpointSaver(tmp_path, keep=2) as saver, pytest.raises(CheckpointError, match="No space left on device"):
        saver.save(lambda: state(1))
        saver.finish()


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


class TestWhatIsNotACheckpoint:
    """Beside checkpoints lie files of others, and what looks like a checkpoint is none."""

    def test_a_checkpoint_with_a_file_of_somebody_else_is_never_deleted(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        notes = save_checkpoint(tmp_path, state(1), keep=1) / "notes.txt"
        notes.write_text("mine")
        save_checkpoint(tmp_path, state(2), keep=1)
        assert "cannot be deleted (it holds notes.txt, which is no file of a checkpoint)" in caplog.text
        assert notes.read_text() == "mine"
        with pytest.raises(CheckpointError, match="step-00000001: cannot save .it holds notes.txt, which is no file"):
            save_checkpoint(tmp_path, state(1), keep=5)
        assert_equal(load_latest(tmp_path), state(2))

    @pytest.mark.parametrize("name", ["step-00000007", ".step-00000007.0123456789ab.tmp", ".step-of-mine.tmp"])
    @pytest.mark.parametrize("is_link", [False, True])
    def test_another_s_directory_by_the_name_of_a_checkpoint_stays(
        self, tmp_path: Path, name: str, is_link: bool
    ) -> None:
        place, precious = tmp_path / "checkpoints", tmp_path / "precious"
        for step in (1, 2):
            save_checkpoint(place, state(step), keep=2)
        precious.mkdir()
        for file in ("notes.txt", "state.json"):
            (precious / file).write_text("mine")
        (place / name).symlink_to(precious) if is_link else precious.rename(place / name)
        assert_equal(load_latest(place), state(2))
        save_checkpoint(place, state(3), keep=1)
        assert {path.name: path.read_text() for path in (place / name).iterdir()} == {
            "notes.txt": "mine", "state.json": "mine",
        }  # fmt: skip

    def test_a_link_in_the_place_of_the_checkpoints_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "precious" / ".step-00000001.0123456789ab.tmp").mkdir(parents=True)
        (tmp_path / "checkpoints").symlink_to(tmp_path / "precious")
        with pytest.raises(CheckpointError, match="is a symbolic link, which is not followed here"):
            save_checkpoint(tmp_path / "checkpoints", state(1), keep=1)
        with pytest.raises(OutputError, match="is a symbolic link, which is not followed here"):
            load_latest(tmp_path / "checkpoints")
        assert len(list((tmp_path / "precious").iterdir())) == 1
