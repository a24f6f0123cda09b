"""A run learns, logs, stops, resumes to the bit, and refuses what it must not continue."""

from __future__ import annotations

import ast
import dataclasses
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from media import write_video
from tiny_runs import (
    MODEL,
    assert_same_run,
    metrics,
    run_config,
    run_in_two,
    weights,
    with_stills,
    write_clips,
    write_stills,
)

from vjepa_sdk import VJEPA, pretrain
from vjepa_sdk.config.documents import to_toml
from vjepa_sdk.config.schema import from_dict, to_dict
from vjepa_sdk.config.training import DataConfig, ImagesConfig, OptimConfig, SourceConfig, TrainConfig
from vjepa_sdk.errors import CheckpointError, ConfigError, GuardError, InUseError, OutputError, ResumeError
from vjepa_sdk.runtime.lock import Lock
from vjepa_sdk.runtime.signals import StopRequest
from vjepa_sdk.training.data.loader import StepBatch
from vjepa_sdk.training.distributed import Group
from vjepa_sdk.training.resume import changed_settings
from vjepa_sdk.training.trainer import Trainer
from vjepa_sdk.weights.cards import training_card


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def stills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stills(tmp_path_factory.mktemp("stills"))


@pytest.fixture(scope="module")
def whole(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert pretrain(run_config(clips, out)).finished
    return out


def test_every_step_is_logged_with_signs_of_collapse(whole: Path) -> None:
    lines = metrics(whole)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert {"loss", "lr", "encoder_grad_norm", "target_std", "target_effective_rank", "target_mean_cosine"} <= set(
        lines[0]
    )
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_exported_model_holds_both_encoders(whole: Path) -> None:
    target, context = (VJEPA.from_pretrained(whole / "model", weights=name) for name in ("target", "context"))
    assert target.config == MODEL and target.predictor is not None
    assert target.provenance["steps"] == 8
    clip = torch.rand(1, 3, 4, 64, 64)
    assert not torch.equal(target.forward_features(clip), context.forward_features(clip))


def test_card_tells_the_recipe_and_no_paths(whole: Path, clips: Path) -> None:
    card = (whole / "model" / "README.md").read_text()
    assert "warmup_steps = 2" in card and str(clips.parent) not in card and str(whole) not in card


def test_card_keeps_the_names_of_sources_and_no_places() -> None:
    sources = (SourceConfig(path="/home/me/first"), SourceConfig(path="/home/me/second.csv"))
    config = TrainConfig(
        model=dataclasses.replace(MODEL, image_tokenizer=True),
        data=DataConfig(sources=sources),
        images=ImagesConfig(data=DataConfig(path="/home/me/stills"), img_size=64),
        init_from="/home/me/runs/old",
        out="/home/me/runs/new",
    )
    card = training_card(config, provenance={})
    assert "/home" not in card
    assert all(f'"{name}"' in card for name in ("first", "second.csv", "stills", "old"))
    hub = training_card(dataclasses.replace(config, init_from="facebook/vjepa2-vitl-fpc64-256"), provenance={})
    assert 'init_from = "facebook/vjepa2-vitl-fpc64-256"' in hub


def test_clips_may_come_from_several_sources(clips: Path, tmp_path: Path) -> None:
    data = DataConfig(sources=(SourceConfig(path=str(clips)),) * 2, frame_stride=(1, 2), num_workers=0)
    assert run_in_two(run_config(clips, tmp_path / "run", data=data), step=5).finished


def test_resolved_configuration_is_written(whole: Path, clips: Path) -> None:
    assert (whole / "config.toml").read_text() == to_toml(run_config(clips, whole))


def test_same_configuration_gives_the_same_run(whole: Path, clips: Path, tmp_path: Path) -> None:
    pretrain(run_config(clips, tmp_path / "again"))
    assert_same_run(tmp_path / "again", whole)


def test_overfitting_one_batch_lowers_the_loss(clips: Path, tmp_path: Path) -> None:
    steady = run_config(
        clips, tmp_path / "run", steps=60, optim=OptimConfig(lr=3e-3, schedule="constant", start_lr=3e-3)
    )
    pretrain(dataclasses.replace(steady, objective=dataclasses.replace(steady.objective, ema_start=1.0)))
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bfloat16", "activation_checkpointing": True},
        {"precision": "float16"},
        {"batch_size": 4, "micro_batch_size": 2},
    ],
    ids=["plain", "bfloat16", "float16", "stills"],
)
def test_resumed_run_equals_an_uninterrupted_one(
    clips: Path, stills: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    def config(out: Path) -> TrainConfig:
        whole = run_config(clips, out, **changes)
        return with_stills(whole, stills) if "micro_batch_size" in changes else whole

    pretrain(config(tmp_path / "whole"))
    assert run_in_two(config(tmp_path / "run"), step=5).finished
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_what_may_change_on_resume_does_not_change_the_result(clips: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(clips, moved := tmp_path / "moved")
    run_in_two(
        run_config(clips, out := tmp_path / "run"),
        step=5,
        data=DataConfig(path=str(moved), frame_stride=(1, 2), num_workers=1, prefetch=3),
        activation_checkpointing=True,
        preset="tiny",
        save_every=2,
        keep_checkpoints=1,
        keep_every=2,
    )
    assert metrics(out) == metrics(whole)
    a, b = weights(out), weights(whole)
    assert all(torch.equal(a[name], b[name]) for name in b)
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    # the first run kept its newest two, the second the even ones
    assert names == [f"step-0000000{step}" for step in (0, 4, 6, 8)]


def test_finished_run_resumes_as_finished(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain(run_config(clips, out))
    before = metrics(out)
    assert pretrain(run_config(clips, out), resume=True).finished
    assert metrics(out) == before


def test_run_without_its_checkpoints_does_not_start_over(clips: Path, tmp_path: Path) -> None:
    config = run_config(clips, out := tmp_path / "run", steps=3)
    pretrain(config)
    shutil.rmtree(out / "checkpoints")
    before = metrics(out)
    with pytest.raises(CheckpointError, match="did 3 steps or more, but its checkpoints are gone; restore one"):
        pretrain(config, resume=True)
    assert metrics(out) == before


def test_directory_with_content_is_not_overwritten(clips: Path, whole: Path) -> None:
    with pytest.raises(OutputError, match="is not empty; pass --resume to continue it"):
        pretrain(run_config(clips, whole))


def test_directory_without_a_run_is_not_resumed(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no run to resume; leave out --resume"):
        pretrain(run_config(clips, tmp_path / "empty"), resume=True)


def test_changed_configuration_is_refused_with_the_difference(clips: Path, whole: Path) -> None:
    changed = run_config(clips, whole, seed=3, optim=OptimConfig(lr=2e-3, warmup_steps=2, max_grad_norm=1.0))
    with pytest.raises(ResumeError, match=r"optim\.lr: 0\.001 -> 0\.002; seed: 0 -> 3; restore it"):
        pretrain(changed, resume=True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("masks[1].num_blocks=3", "masks[1].num_blocks: 1 -> 3"),
        ("data.sources[0].weight=2.0", "data.sources[0].weight: 1.0 -> 2.0"),
        ("images.data.fps=5.0", "images.data.fps: unset -> 5.0"),
        ("images.micro_batch_size=1", "images.micro_batch_size: unset -> 1"),
        ("data.frame_stride=[1, 3]", "data.frame_stride: [1, 2] -> [1, 3]"),
        ("init_from='other'", "init_from: unset -> other"),
        ("micro_batch_size=1", "micro_batch_size: unset -> 1"),
        ("data.sources[0].path='moved'", ""),
        ("images.data.path='moved'", ""),
        ("images.data.num_workers=5", ""),
        ("data.num_workers=5", ""),
    ],
)
def test_changes_that_matter_are_named(tmp_path: Path, change: str, expected: str) -> None:
    config = with_stills(run_config(tmp_path, tmp_path), tmp_path)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, path="", sources=(SourceConfig(path="here"),))
    )
    data = to_dict(config)
    key, _, value = change.partition("=")
    *sections, name = re.split(r"\.|(?=\[)", key)
    table: Any = data
    for section in sections:
        table = table[int(section[1:-1])] if section.startswith("[") else table[section]
    table[name] = ast.literal_eval(value)
    assert changed_settings(config, from_dict(TrainConfig, data)) == ([expected] if expected else [])


def test_changed_stills_are_refused(clips: Path, stills: Path, tmp_path: Path) -> None:
    shutil.copytree(stills, changing := tmp_path / "stills")
    config = with_stills(run_config(clips, tmp_path / "run", steps=2), changing)
    pretrain(config)
    (changing / "3.png").unlink()
    with pytest.raises(ResumeError, match="the list of images changed from 4 to 3 images"):
        pretrain(config, resume=True)


def test_changed_clips_are_refused(clips: Path, tmp_path: Path) -> None:
    copy = tmp_path / "clips"
    copy.mkdir()
    for path in clips.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "run"
    pretrain(run_config(copy, out, steps=3))
    write_video(copy / "new.mp4", num_frames=6)
    with pytest.raises(ResumeError, match="the list of clips changed from 4 to 5 clips"):
        pretrain(run_config(copy, out, steps=3), resume=True)


def test_second_run_in_one_directory_is_refused(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain(run_config(clips, out, steps=3))
    with Lock(out / "lock"), pytest.raises(InUseError, match=f"in use by process {os.getpid()} on "):
        pretrain(run_config(clips, out, steps=3), resume=True)


def test_loss_that_is_not_finite_stops_before_the_weights_change(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(GuardError, match=r"step \d+: .* must be finite; lower optim\.lr=100; clips: .*\.mp4"):
        pretrain(run_config(clips, out, steps=300, save_every=1, optim=OptimConfig(lr=100.0, start_lr=100.0)))
    assert all(tensor.isfinite().all() for tensor in weights(out).values())


def test_runs_need_clips_and_a_directory(clips: Path, tmp_path: Path) -> None:
    whole = run_config(clips, tmp_path / "run")
    with pytest.raises(ConfigError, match="out is empty; pass a directory"):
        pretrain(dataclasses.replace(whole, out=""))
    with pytest.raises(ConfigError, match=r"data\.path is empty; pass a directory"):
        pretrain(dataclasses.replace(whole, data=DataConfig()))
    stills = with_stills(whole, tmp_path)
    with pytest.raises(ConfigError, match=r"images\.data\.path is empty; set it .* or images=none for clips alone"):
        pretrain(dataclasses.replace(stills, images=dataclasses.replace(stills.images, data=DataConfig())))


def test_run_killed_before_its_first_file_starts_again(clips: Path, tmp_path: Path) -> None:
    (out := tmp_path / "run").mkdir()
    (out / "lock").touch()
    assert pretrain(run_config(clips, out, steps=1)).finished


def test_nothing_is_written_into_a_directory_that_is_not_a_run(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputError, match="is not empty"):
        pretrain(run_config(clips, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_second_signal_interrupts_a_shared_run_while_it_waits_for_clips(clips: Path, tmp_path: Path) -> None:
    def interrupted() -> Iterator[StepBatch]:
        raise KeyboardInterrupt
        yield

    stop = StopRequest()
    stop.is_requested = True
    trainer = Trainer(run_config(clips, tmp_path / "run", micro_batch_size=1), Group(0, 2))
    with pytest.raises(KeyboardInterrupt):
        trainer._next(interrupted(), stop)
