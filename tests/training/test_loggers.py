"""Metrics go where they are asked for, each step once, and whoever takes them never stops a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
from tiny_runs import metrics, run_config, write_clips

from vjepa_sdk import MetricsLogger, pretrain
from vjepa_sdk.errors import ConfigError
from vjepa_sdk.training.loggers import Loggers, check_loggers
from vjepa_sdk.training.trainer import Trainer


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


class Recorder:
    def __init__(self, *, fails_at: int | None = None) -> None:
        self.steps: list[int] = []
        self.values: list[Mapping[str, float]] = []
        self.fails_at, self.is_closed = fails_at, False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step == self.fails_at:
            raise ConnectionError("the server is away")
        self.steps.append(step)
        self.values.append(values)

    def close(self) -> None:
        self.is_closed = True


class Killed(BaseException):
    """The process is gone."""


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Read event files with TensorBoard itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_a_logger_is_told_the_numbers_of_every_line(clips: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    assert isinstance(recorder, MetricsLogger)
    pretrain(run_config(clips, tmp_path / "run"), log=[recorder])
    lines = metrics(tmp_path / "run")
    assert recorder.steps == [line["step"] for line in lines] == list(range(1, 9))
    assert [each["loss"] for each in recorder.values] == [line["loss"] for line in lines]
    assert recorder.values[0].keys() == lines[0].keys() - {"step"}
    assert recorder.is_closed


def test_tensorboard_shows_the_run(clips: Path, tmp_path: Path) -> None:
    pretrain(run_config(clips, tmp_path / "run"), log=["tensorboard"])
    found = scalars(tmp_path / "run" / "tensorboard")
    for name in ("loss", "lr", "target_effective_rank"):
        expected = [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in metrics(tmp_path / "run")]
        assert found[name] == expected


def test_a_killed_run_that_goes_on_logs_every_step_once(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, recorder, report = run_config(clips, tmp_path / "run"), Recorder(), Trainer._check_collapse

    def dying(self: Trainer, *arguments: object) -> None:
        report(self, *arguments)  # type: ignore[arg-type]
        if self.step == 5:  # the last checkpoint is of step 3
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "_check_collapse", dying)
        pretrain(config, log=["tensorboard", recorder])
    assert recorder.steps == [1, 2, 3, 4, 5] and recorder.is_closed
    pretrain(config, resume=True, log=["tensorboard", recorder])
    assert recorder.steps == list(range(1, 9))
    assert [step for step, _ in scalars(tmp_path / "run" / "tensorboard")["loss"]] == list(range(1, 9))


def test_one_that_fails_is_named_once_and_the_run_goes_on(
    clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "vjepa_sdk")
    failing, other = Recorder(fails_at=3), Recorder()
    assert pretrain(run_config(clips, tmp_path / "run"), log=[failing, other]).finished
    assert failing.steps == [1, 2] and other.steps == list(range(1, 9))
    told = [record.message for record in caplog.records if "Recorder" in record.message]
    assert len(told) == 1
    assert told[0].startswith(
        "Recorder failed at step 3 (ConnectionError: the server is away); nothing more goes there"
    )


def test_logging_changes_no_bit_of_the_run(clips: Path, tmp_path: Path) -> None:
    pretrain(run_config(clips, tmp_path / "a"), log=["tensorboard"])
    pretrain(run_config(clips, tmp_path / "b"))
    first, second = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "ab")
    assert first == second
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


def test_numbers_that_are_not_finite_and_skipped_steps_are_left_out(tmp_path: Path) -> None:
    with Loggers([recorder := Recorder()], tmp_path, after=0) as loggers:
        loggers.log({"step": 1, "loss": None, "skipped": "loss is nan", "clips": ["a.mp4"]})
        loggers.log({"step": 2, "loss": float("nan"), "lr": 0.5, "is_overflow": False})
    assert (recorder.steps, recorder.values) == ([2], [{"lr": 0.5, "is_overflow": 0.0}])


def test_what_is_no_logger_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="log='wandb' must be one of tensorboard, or an object with log and close"):
        check_loggers(["wandb"])
    with pytest.raises(ConfigError, match=r"log=int must have the methods log\(step, values\) and close\(\)"):
        check_loggers([5])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"log='tensorboard' must be a list; pass \['tensorboard'\]"):
        check_loggers("tensorboard")
    monkeypatch.setattr("vjepa_sdk.training.loggers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"log='tensorboard' needs it; install it with .*vjepa-sdk\[tensorboard\]"):
        check_loggers(["tensorboard"])
