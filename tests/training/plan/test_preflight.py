"""Before a run starts it is told what it needs, and what cannot work is refused in seconds."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from media import write_audio, write_video
from PIL import Image
from tiny_models import VIDEO

from vjepa_sdk import pretrain, train_config
from vjepa_sdk.cli import app, exit_codes
from vjepa_sdk.config.recipes import RECIPES
from vjepa_sdk.config.training import DataConfig, MaskConfig, TrainConfig
from vjepa_sdk.corpus.survey import sample_headers
from vjepa_sdk.errors import ConfigError, VideoDecodeError, WriteError
from vjepa_sdk.training.distributed import Group
from vjepa_sdk.training.plan import memory
from vjepa_sdk.training.plan import preflight as preflight_module
from vjepa_sdk.training.plan.estimate import plan
from vjepa_sdk.training.plan.memory import available_memory, check_memory
from vjepa_sdk.training.plan.preflight import Forecast, Preflight, measure_speed, preflight
from vjepa_sdk.training.trainer import Trainer

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clips")
    for number in range(3):
        write_video(directory / f"{number}.mp4", num_frames=10, fps=10)
    return directory


def config(clips: Path, out: Path, **changes: object) -> TrainConfig:
    settings = {
        "model": dataclasses.replace(VIDEO, img_size=64),
        "masks": (MaskConfig(num_blocks=2, spatial_scale=(0.3, 0.3)),),
        "data": DataConfig(path=str(clips), frame_stride=(1, 2), num_workers=0),
        "out": str(out),
        "steps": 2,
        "batch_size": 2,
    }
    return TrainConfig(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def all_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, logger="vjepa_sdk.training.plan.preflight")
    level = logging.getLogger("vjepa_sdk").level
    yield
    # the command line sets it for its process, which here goes on with other tests
    logging.getLogger("vjepa_sdk").setLevel(level)


def look(config: TrainConfig, paths: list[Path]) -> Preflight:
    names = [str(path) for path in paths]
    return preflight(config, check_memory(config, CPU), clips=names, device=CPU, steps_left=config.steps)


@pytest.fixture
def has_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def set_memory(size: float) -> None:
        monkeypatch.setattr(memory, "available_memory", lambda device: int(size))

    return set_memory


@pytest.fixture
def has_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def set_free(size: float) -> None:
        monkeypatch.setattr(preflight_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=int(size)))

    return set_free


def test_run_is_told_what_it_needs(clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = look(config(clips, tmp_path / "run"), sorted(clips.iterdir()))
    disk, videos, memory, time = (record.getMessage() for record in caplog.records)
    assert disk.startswith("disk: 2.0 MiB needed for 2 checkpoints of 0.8 MiB and a model of 0.4 MiB, ")
    assert videos == "clips: 3 found, 3 checked; typical 64 x 48, 10 frames"
    assert memory.startswith("memory: about ") and " are needed on cpu, " in memory
    assert time.startswith("time: about ") and " for 2 steps, " in time
    assert found.clips.found == 3 and found.stills is None
    assert 0 < found.step_seconds[0] == found.step_seconds[1] and found.disk_free > found.disk_needed > 0


def test_command_line_shows_it_unless_quiet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clips: Path, tmp_path: Path
) -> None:
    small = (
        "model.img_size=32 model.embed_dim=24 model.num_heads=2 model.depth=2 "
        "model.level_layers=[0,1] model.predictor_embed_dim=12 model.predictor_num_heads=1 "
        "model.predictor_depth=1 steps=1 batch_size=2 data.num_workers=0"
    ).split()
    settings = [part for setting in small for part in ("--set", setting)]
    for quiet, starts in (([], ["disk", "clips", "memory", "time"]), (["-q"], [])):
        caplog.clear()
        out = str(tmp_path / f"run{len(quiet)}")
        monkeypatch.setattr(sys, "argv", ["vjepa", "pretrain", str(clips), "--out", out, *settings, *quiet])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        assert exit_.value.code == exit_codes.COMPLETE
        assert [record.getMessage().split()[0].rstrip(":") for record in caplog.records] == starts


def test_full_disk_is_refused_before_training(
    clips: Path, tmp_path: Path, has_disk: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(clips, tmp_path / "run")
    has_disk(100_000)
    with pytest.raises(WriteError, match=r"are needed for .* 0\.1 MiB are free; free some, lower keep_checkpoints=2"):
        pretrain(run)
    monkeypatch.undo()
    assert pretrain(run).finished


def test_checkpoints_of_the_run_are_not_needed_twice(
    clips: Path, tmp_path: Path, has_disk: Callable[[float], None]
) -> None:
    run = config(clips, tmp_path / "run")
    needed = look(run, sorted(clips.iterdir())).disk_needed
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights.safetensors").write_bytes(bytes(50_000))
    has_disk(needed - 50_000)
    assert look(run, sorted(clips.iterdir())).disk_needed == needed - 50_000


def test_large_model_on_a_small_computer_is_refused_before_it_is_made(
    clips: Path, tmp_path: Path, has_memory: Callable[[float], None]
) -> None:
    has_memory(16 * GIB)
    giant = dataclasses.replace(
        RECIPES["vjepa2-vitg16"], data=DataConfig(path=str(clips)), out=str(tmp_path / "run"), device="cpu"
    )
    with pytest.raises(
        ConfigError,
        match=r"about 40\.\d GiB are needed on cpu, 16\.0 GiB are available; take a smaller model, or",
    ):
        Trainer(giant, Group())


@pytest.mark.parametrize(
    ("preset", "given", "gib", "names"),
    [
        ("vjepa2-vitl16-80gb", [], 16, ["micro_batch_size"]),
        ("vjepa2.1-vitl16", ["images.micro_batch_size=288"], 14, ["micro_batch_size", "images.micro_batch_size"]),
        (
            "vjepa2-vitl16-cooldown",
            ["activation_checkpointing=false"],
            16,
            ["activation_checkpointing", "micro_batch_size"],
        ),
    ],
)
def test_remedy_fits(
    preset: str, given: list[str], gib: float, names: list[str], has_memory: Callable[[float], None]
) -> None:
    has_memory(gib * GIB)
    with pytest.raises(ConfigError, match="are needed on cpu, .* are available; set ") as error:
        check_memory(train_config(preset=preset, overrides=given), CPU)
    settings = str(error.value).partition("; set ")[2].split(" and ")
    assert [setting.partition("=")[0] for setting in settings] == names
    assert check_memory(train_config(preset=preset, overrides=[*given, *settings]), CPU).remedy == ""


def test_doubtful_memory_is_a_warning(
    clips: Path, tmp_path: Path, has_memory: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    run = config(clips, tmp_path / "run")
    has_memory(0.9 * check_memory(run, CPU).needed)
    look(run, sorted(clips.iterdir()))
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "are needed on cpu" in warning and "; if it is too little, " in warning


def test_a_run_that_exceeds_the_memory_by_more_than_a_plan_may_err_is_refused(
    clips: Path, tmp_path: Path, has_memory: Callable[[float], None]
) -> None:
    run = config(clips, tmp_path / "run")
    has_memory(0.8 * check_memory(run, CPU).needed)
    with pytest.raises(ConfigError, match="are needed on cpu, .* are available; "):
        look(run, sorted(clips.iterdir()))


def test_available_memory_is_some_of_what_the_computer_has() -> None:
    meminfo = Path("/proc/meminfo").read_text().split()
    total, swap = (int(meminfo[meminfo.index(name) + 1]) * 1024 for name in ("MemTotal:", "SwapTotal:"))
    assert 0 < available_memory(CPU) <= total + swap


def test_clips_that_cannot_be_opened_are_counted(clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (bad := tmp_path / "bad.mp4").write_text("not a video")
    sample = look(config(clips, tmp_path / "run"), [*sorted(clips.iterdir()), bad]).clips
    assert (sample.found, sample.checked, list(sample.unreadable)) == (4, 4, [str(bad)])
    messages = [record.getMessage() for record in caplog.records]
    assert any("clips: 4 found, 4 checked, 1 cannot be opened (first: " in message for message in messages)
    assert any("more than data.max_bad_fraction=0.1 of the clips" in message for message in messages)


def test_clips_of_which_none_can_be_opened_stop_the_run(tmp_path: Path) -> None:
    (directory := tmp_path / "clips").mkdir()
    (directory / "text.mp4").write_text("not a video")
    write_audio(directory / "sound.mp4")
    run = config(directory, tmp_path / "run")
    with pytest.raises(VideoDecodeError, match=r"none of the 2 clips that were checked can be opened; first: .*\.mp4"):
        pretrain(run)
    assert not (tmp_path / "run" / "config.toml").exists()


def test_unreadable_clips_exit_as_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    monkeypatch.setattr(sys, "argv", ["vjepa", "pretrain", str(tmp_path), "--out", str(tmp_path / "run"), "-q"])
    with pytest.raises(SystemExit) as exit_:
        app.main()
    assert exit_.value.code == exit_codes.FAILED
    assert capsys.readouterr().err.count("\n") == 1


def test_short_clips_are_told(clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    short = write_video(tmp_path / "short.mp4", num_frames=2)
    look(config(clips, tmp_path / "run"), [*sorted(clips.iterdir()), short])
    assert any("1 of 4 clips have fewer frames than num_frames=4" in record.getMessage() for record in caplog.records)


def test_slow_decoding_is_told(
    clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight_module, "measure_speed", lambda config, planned, device: 1e15)
    data = DataConfig(path=str(clips), num_workers=1)
    found = look(config(clips, tmp_path / "run", data=data), sorted(clips.iterdir()))
    assert found.decoding_cores > 1 and found.step_seconds[0] > 1e-3
    assert any("decoding is likely slower than training" in record.getMessage() for record in caplog.records)


def test_a_long_run_is_told_the_range_of_several_probes(
    clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(clips, tmp_path / "run", steps=1000)
    operations = plan(run).operations.total
    probes = iter([1.0, 2.0, 10.0, 5.0, 2.0, 4.0])  # seconds a step; the first decides that the run is long
    monkeypatch.setattr(preflight_module, "measure_speed", lambda *_, **__: operations / next(probes))
    found = look(run, sorted(clips.iterdir()))
    assert found.step_seconds == pytest.approx((2.0, 10.0), rel=0.05)  # with a little decoding, in this process
    said = caplog.records[-1].getMessage()
    assert "33." in said and " minutes to 2.8 hours for 1,000 steps, 2 s to 10 s a step" in said
    assert said.endswith("(by fastest and slowest of 5 probes of one block; three steps will tell)")


def test_the_forecast_is_replaced_by_the_steps_after_the_first(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = iter([100.0, 110.0, 130.0, 160.0, 1000.0])
    monkeypatch.setattr(preflight_module.time, "perf_counter", lambda: next(ends))
    forecast = Forecast()
    for steps_left in range(103, 98, -1):
        forecast.step_done(steps_left)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said == "time: about 33.3 minutes for the 100 steps left, 20 s a step (measured over 3 steps)"


def test_a_run_says_so_after_four_steps_unless_it_is_short(
    clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, said in ((0.0, 1), (60.0, 0)):
        monkeypatch.setattr(preflight_module, "LONG_RUN_SECONDS", limit)
        caplog.clear()
        pretrain(config(clips, tmp_path / f"run{said}", steps=6))
        lines = [record.getMessage() for record in caplog.records]
        assert sum(" for the 2 steps left, " in line for line in lines) == said


def test_finished_run_is_not_looked_at_again(clips: Path, tmp_path: Path, has_disk: Callable[[float], None]) -> None:
    run = config(clips, tmp_path / "run")
    pretrain(run)
    has_disk(0)
    assert pretrain(run, resume=True).finished


def test_speed_is_measured_without_touching_random_numbers(clips: Path, tmp_path: Path) -> None:
    run = config(clips, tmp_path / "run")
    before = torch.get_rng_state()
    assert measure_speed(run, plan(run), CPU) > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_headers_tell_sizes_and_reasons(clips: Path, tmp_path: Path, num_workers: int) -> None:
    (bad := tmp_path / "bad.mp4").write_text("not a video")
    Image.new("RGB", (30, 20)).save(still := tmp_path / "still.png")
    paths = [*map(str, sorted(clips.iterdir())), str(bad), str(still)]
    sample = sample_headers(paths, num_workers=num_workers)
    sizes = sorted((each.num_frames, each.width, each.height, each.fps) for each in sample.headers)
    assert sizes == [(1, 30, 20, 0.0), *[(10, 64, 48, 10.0)] * 3]
    assert list(sample.unreadable) == [str(bad)] and "bad.mp4" in sample.unreadable[str(bad)]
    assert sample.typical is not None and sample.typical.width == 64


def test_headers_are_taken_from_all_over_a_long_list(clips: Path) -> None:
    missing = [f"{number:04}.mp4" for number in range(1000)]
    sample = sample_headers(missing, num_workers=0, limit=10)
    assert sorted(sample.unreadable) == missing[::100]
    assert sample.found == 1000 and sample.typical is None


def test_headers_stop_when_the_time_is_up(clips: Path) -> None:
    assert sample_headers([str(next(clips.iterdir()))] * 50, num_workers=0, seconds=0.0).checked == 1


def test_processes_that_open_clips_load_neither_torch_nor_a_model() -> None:
    check = (
        "import sys, vjepa_sdk.corpus.survey; assert not {'torch', 'timm', 'av'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)
