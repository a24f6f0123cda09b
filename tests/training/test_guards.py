"""A run skips what would harm it, names it, and stops when it must; a healthy one hears nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import assert_same_run, metrics, run_config, run_in_two, weights, with_stills, write_clips, write_stills

from vjepa_sdk import pretrain
from vjepa_sdk.errors import GuardError, VJEPAError
from vjepa_sdk.models.jepa import JEPA, Losses
from vjepa_sdk.training import trainer
from vjepa_sdk.training.guards import CollapseError, CollapseGuard, Guards, SkippedSteps, Spread
from vjepa_sdk.training.trainer import Trainer


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


class Injection:
    """Put a number that is not finite into some steps of a run, and watch that nothing changes there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str, steps: set[int]) -> None:
        self._kind, self._steps, self.unchanged = kind, steps, list[int]()
        self._step = trainer.train_step
        monkeypatch.setattr(trainer, "train_step", self._train_step)

    def _train_step(self, jepa: JEPA, optimizer: torch.optim.Optimizer, passes: Any, *, step: int, **rest: Any) -> Any:
        if step + 1 not in self._steps:
            return self._step(jepa, optimizer, passes, step=step, **rest)
        before = _digest(jepa, optimizer)
        try:
            return self._spoiled(jepa, optimizer, list(passes), step=step, **rest)
        finally:
            assert _digest(jepa, optimizer) == before
            self.unchanged.append(step + 1)

    def _spoiled(self, jepa: JEPA, optimizer: Any, passes: list[Any], **rest: Any) -> Any:
        if self._kind == "input":
            passes[-1].clips[1, 0, 0] = float("nan")
            return self._step(jepa, optimizer, passes, **rest)
        if self._kind == "gradient":
            hook = jepa.context_encoder.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
            try:
                return self._step(jepa, optimizer, passes, **rest)
            finally:
                hook.remove()
        original = jepa.forward

        def forward(*args: Any, **options: Any) -> Losses:
            losses = original(*args, **options)
            return dataclasses.replace(losses, total=losses.total * float("nan"))

        jepa.forward = forward  # type: ignore[method-assign]
        try:
            return self._step(jepa, optimizer, passes, **rest)
        finally:
            del jepa.forward


def _digest(jepa: JEPA, optimizer: torch.optim.Optimizer) -> str:
    tensors = [*jepa.state_dict().values()]
    tensors += [value for values in optimizer.state_dict()["state"].values() for value in values.values()]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


@pytest.mark.parametrize("count", [1, pytest.param(10, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", ["loss", "gradient", "input"])
def test_step_that_is_not_finite_is_skipped_and_its_clips_named(
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    count: int,
) -> None:
    length = 8 if count == 1 else 40
    steps = set(random.Random(kind).sample(range(2, length, 3), count))
    injection = Injection(monkeypatch, kind, steps)
    result = pretrain(run_config(clips, out := tmp_path / "run", steps=length))
    assert result.finished and result.skipped_steps == count
    assert injection.unchanged == sorted(steps)
    lines = metrics(out)
    assert [line["step"] for line in lines] == list(range(1, length + 1))
    for line in lines:
        if line["step"] in steps:
            assert line["loss"] is None and "must be finite" in line["skipped"]
            assert len(line["clips"]) == 2 and all(str(clips) in name for name in line["clips"])
            assert f"step {line['step']}: " in caplog.text and ", ".join(line["clips"]) in caplog.text
        else:
            assert line["loss"] > 0
    assert lines[-1]["skipped_steps"] == count
    assert all(tensor.isfinite().all() for tensor in weights(out).values())


def test_only_the_part_of_the_batch_that_is_bad_is_named(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = Trainer._advance

    def advance(self: Trainer, batch: Any, *rest: Any) -> str:
        seen.append(batch.parts[0].paths)
        return original(self, batch, *rest)

    monkeypatch.setattr(Trainer, "_advance", advance)
    Injection(monkeypatch, "input", {3})
    pretrain(run_config(clips, out := tmp_path / "run", batch_size=4, micro_batch_size=2, steps=4))
    assert metrics(out)[2]["clips"] == list(seen[2][2:])


def test_bad_still_is_named(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Injection(monkeypatch, "input", {2})
    (stills := tmp_path / "stills").mkdir()
    pretrain(with_stills(run_config(clips, out := tmp_path / "run", steps=3), write_stills(stills)))
    named = metrics(out)[1]["clips"]
    assert len(named) == 3 and all(path.endswith(".png") for path in named)


def test_three_skipped_steps_in_a_row_are_survived(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Injection(monkeypatch, "loss", {3, 4, 5, 7})
    result = pretrain(run_config(clips, tmp_path / "run"))
    assert result.finished and result.skipped_steps == 4


def test_fourth_skipped_step_in_a_row_ends_the_run_with_a_report(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Injection(monkeypatch, "gradient", {4, 5, 6, 7})
    out = tmp_path / "run"
    with pytest.raises(GuardError, match=r"step 7: .*; clips: .*mp4; 4 of the last 1000 .* see .*nan-report.json"):
        pretrain(run_config(clips, out))
    report = json.loads((out / "nan-report.json").read_text())
    assert report["step"] == 7 and report["skipped_steps"] == [4, 5, 6, 7]
    assert [clip["path"] for clip in report["clips"]] == metrics(out)[-1]["clips"]
    assert all(len(clip["frames"]) == 4 and clip["seed"] > 0 for clip in report["clips"])
    assert report["losses_and_schedules"]["loss"] > 0
    assert report["losses_and_schedules"]["encoder_grad_norm"] in ("nan", "inf")
    assert report["losses_and_schedules"]["hyperparameters"]["lr"] > 0
    norms = report["gradient_norms"]
    assert [name for name, norm in norms.items() if isinstance(norm, str)] == ["context_encoder.norm"]
    assert metrics(out)[-1]["step"] == 7


def test_resumed_run_skips_the_same_steps(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Injection(monkeypatch, "input", {2, 3, 5})
    pretrain(run_config(clips, tmp_path / "whole"))
    run_in_two(run_config(clips, tmp_path / "run"), step=4)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert metrics(tmp_path / "run")[-1]["skipped_steps"] == 3


def test_many_skipped_steps_are_too_many_even_apart() -> None:
    skipped = SkippedSteps()
    for step in range(10, 110, 10):
        skipped.add(step)
        assert skipped.in_a_row == 1 and not skipped.are_too_many
    skipped.add(1009)
    assert skipped.are_too_many
    skipped = SkippedSteps(count=10, recent=list(range(10, 110, 10)))
    skipped.add(1010)
    assert not skipped.are_too_many and skipped.count == 11


def spread_of(rank: float, std: float = 0.5) -> Spread:
    return Spread(std=std, effective_rank=rank, mean_cosine=0.5)


def alarms(ranks: list[float], caplog: pytest.LogCaptureFixture) -> list[int]:
    """Return the steps at which a run of such ranks is warned."""
    caplog.clear()
    guard = CollapseGuard()
    for step, rank in enumerate(ranks, start=1):
        guard.check(step, spread_of(rank))
    return [int(record.getMessage().split(":")[0].removeprefix("step ")) for record in caplog.records]


def test_rank_that_halves_warns_once_a_fall(caplog: pytest.LogCaptureFixture) -> None:
    # six of the last ten make the median
    assert alarms([10.0] * 30 + [4.9] * 10, caplog) == [36]
    assert "now use 4.9 dimensions, less than half of the 10.0 before" in caplog.text
    assert alarms([10.0] * 60 + [4.0] * 10 + [9.0] * 30 + [4.0] * 10, caplog) == [66, 106]


@pytest.mark.parametrize(
    "ranks",
    [
        [100.0 * 0.995**step for step in range(400)],
        [10.0 - 5.0 * (step % 3 == 0) - 4.0 * (step % 7 == 0) for step in range(400)],
        [10.0] * 30 + [5.1] * 100,
    ],
    ids=["slow decline", "scatter", "not half"],
)
def test_rank_that_does_not_halve_is_no_alarm(ranks: list[float], caplog: pytest.LogCaptureFixture) -> None:
    assert alarms(ranks, caplog) == []


def test_features_in_one_point_stop_the_run_at_once() -> None:
    guard = CollapseGuard()
    guard.check(1, spread_of(10.0, std=0.5))
    guard.check(2, spread_of(10.0, std=0.5001e-3))
    with pytest.raises(CollapseError, match=r"step 3: the target features collapsed: .* 0\.000499, 0\.5 at first"):
        guard.check(3, spread_of(10.0, std=0.499e-3))


def test_guards_go_on_from_what_a_checkpoint_keeps() -> None:
    guards, again = Guards(), Guards()
    guards.skipped.add(3)
    for step in range(60):
        guards.collapse.check(step, spread_of(step + 1.0))
    again.restore(json.loads(json.dumps(guards.state())))
    assert again == guards


def test_collapse_stops_the_run_and_keeps_the_checkpoints_before(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = trainer.train_step

    def collapsing(jepa: JEPA, *args: Any, **options: Any) -> Any:
        report = step(jepa, *args, **options)
        if options["step"] == 4:
            with torch.no_grad():
                for encoder in (jepa.target_encoder, jepa.context_encoder):
                    encoder.norm.weight.zero_()
                    encoder.norm.bias.copy_(torch.linspace(-1, 1, len(encoder.norm.bias)))
        return report

    monkeypatch.setattr(trainer, "train_step", collapsing)
    out = tmp_path / "run"
    with pytest.raises(GuardError, match=r"step 5: the target features collapsed: .*collapsed/step-00000005"):
        pretrain(run_config(clips, out))
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000000", "step-00000003"]
    assert metrics(out)[-1]["target_std"] < 1e-3
    monkeypatch.undo()
    assert pretrain(run_config(clips, out), resume=True).finished


def test_healthy_run_hears_nothing(clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vjepa_sdk"):
        pretrain(run_config(clips, tmp_path / "run", steps=60))
    assert caplog.text == ""


def test_lack_of_memory_says_what_to_change(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*args: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")

    monkeypatch.setattr(trainer, "train_step", out_of_memory)
    with pytest.raises(VJEPAError, match=r"step 1: .* too little memory \(tried .*\); .*activation_checkpointing=true"):
        pretrain(run_config(clips, tmp_path / "run"))
