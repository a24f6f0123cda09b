"""The command line: options reach the library, errors are one line, exit codes mean what they say."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import write_audio, write_video
from tiny_models import save_tiny

import vjepa_sdk
from vjepa_sdk.cli import app, exit_codes
from vjepa_sdk.cli.embed import embed
from vjepa_sdk.config.documents import to_toml
from vjepa_sdk.config.recipes import train_config
from vjepa_sdk.corpus import check
from vjepa_sdk.inference.embed import job
from vjepa_sdk.runtime.lock import Lock
from vjepa_sdk.training import trainer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clips")
    for number in range(3):
        write_video(directory / f"{number}.mp4", num_frames=8)
    return directory


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["vjepa", *map(str, arguments)])
    try:
        app.main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def test_embed_writes_one_row_per_clip(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "feats.npy"
    assert run(monkeypatch, "embed", clips, "--out", out, "--model", model, "--num-workers", "0") == exit_codes.COMPLETE
    printed = capsys.readouterr()
    assert printed.out == f"{out}: 3 rows\n"
    summary = r"vjepa: 3 clips in [\d.]+ s, [\d.e+]+ clips/s; the encoder waited [\d.]+ s for decoding\n"
    assert re.fullmatch(summary, printed.err)
    assert np.load(out).shape == (3, 24)


def test_embed_of_corrupt_clips_skips_them_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model: Path, tmp_path: Path
) -> None:
    (bad := tmp_path / "bad.mp4").write_text("not a video")
    out = tmp_path / "feats.npy"
    code = run(monkeypatch, "embed", clips, bad, "--out", out, "--model", model, "--num-workers", "0")
    assert code == exit_codes.SOME_SKIPPED
    assert "3 rows, 1 skipped" in capsys.readouterr().out
    errors = [json.loads(line) for line in (tmp_path / "feats.errors.jsonl").read_text().splitlines()]
    assert [error["path"] for error in errors] == [str(bad)]


def test_json_is_the_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "feats.npy"
    assert run(monkeypatch, "embed", clips, "--out", out, "--model", model, "--num-workers", "0", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["failed"], result["already_complete"]) == (3, 0, False)


def touch(monkeypatch: pytest.MonkeyPatch, directory: Path, *names: str) -> None:
    """Make a directory with empty files the working directory."""
    for name in names:
        (directory / name).touch()
    monkeypatch.chdir(directory)


def test_every_check_option_is_a_keyword_of_the_library_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []
    touch(monkeypatch, tmp_path, "a", "b")

    def record(*arguments: Any, **keywords: Any) -> None:
        calls.append((arguments, keywords))
        raise SystemExit(0)

    monkeypatch.setattr(check, "check_files", record)
    options = "--full --decoder decord --num-workers 1 --deadline-seconds 9 --follow-symlinks --quiet".split()
    run(monkeypatch, "check", "a", "b", *options)
    [(arguments, keywords)] = calls
    assert arguments == (["a", "b"],)
    assert keywords == {
        "full": True,
        "decoder": "decord",
        "num_workers": 1,
        "deadline_seconds": 9.0,
        "follow_symlinks": True,
        "show_progress_bar": False,
    }


def test_extending_with_other_settings_is_refused_with_its_own_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model: Path, tmp_path: Path
) -> None:
    arguments = ("embed", clips, "--out", tmp_path / "feats.npy", "--model", model, "--num-workers", "0")
    run(monkeypatch, *arguments)
    assert run(monkeypatch, *arguments, "--extend", "--pooling", "none") == exit_codes.RESUME_REFUSED
    assert "pooling: mean -> none" in capsys.readouterr().err


def _inputs(directory: Path) -> dict[str, Path]:
    """One of each input that cannot work."""
    (directory / "empty").mkdir()
    (directory / "text.mp4").write_text("hello")
    (directory / "zero.mp4").touch()
    write_audio(directory / "audio.mp4")
    return {path.name: path for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("bad", "code", "message"),
    [
        ("absent.mp4", exit_codes.USAGE, "absent.mp4: does not exist"),
        ("empty", exit_codes.USAGE, "empty: "),
        ("text.mp4", exit_codes.FAILED, "text.mp4"),
        ("zero.mp4", exit_codes.FAILED, "zero.mp4"),
        ("audio.mp4", exit_codes.FAILED, "audio.mp4"),
    ],
)
def test_unusable_inputs_are_one_line_and_leave_no_features(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: Path,
    tmp_path: Path,
    bad: str,
    code: int,
    message: str,
) -> None:
    _inputs(tmp_path)
    out = tmp_path / "feats.npy"
    assert run(monkeypatch, "embed", tmp_path / bad, "--out", out, "--model", model, "--num-workers", "0") == code
    errors = capsys.readouterr().err
    assert errors.startswith("vjepa: ") and errors.count("\n") == 1 and message in errors
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "missing/feats.npy"), "missing"),
        (("--out", "feats.xyz"), "feats.xyz"),
        (("--out", "feats.npy", "--batch-size", "0"), "batch_size=0"),
        (("--out", "feats.npy", "--model", "vjepa-tinny"), "did you mean 'vjepa-tiny'"),
        (("--out", "feats.npy", "--num-frames", "3"), "num_frames=3"),
        (("--out", "feats.npy", "--device", "tpu"), "device='tpu'"),
        (
            ("--out", "feats.npy", "--max-failures", "5"),
            "max_failures=5 must be a fraction from 0 to 1",
        ),
        (("--out", "feats.npy", "--extend", "--overwrite"), "extend and overwrite exclude each other"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    clips: Path,
    model: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with_model = options if "--model" in options else (*options, "--model", str(model))
    assert run(monkeypatch, "embed", clips, *with_model) == exit_codes.USAGE
    errors = capsys.readouterr().err
    assert errors.startswith("vjepa: ") and errors.count("\n") == 1 and message in errors
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model: Path, tmp_path: Path
) -> None:
    (out := tmp_path / "feats.npy").write_bytes(b"mine")
    assert run(monkeypatch, "embed", clips, "--out", out, "--model", model) == exit_codes.USAGE
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"


def test_the_same_command_again_is_already_complete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model: Path, tmp_path: Path
) -> None:
    arguments = ("embed", clips, "--out", tmp_path / "feats.npy", "--model", model, "--num-workers", "0")
    run(monkeypatch, *arguments)
    assert run(monkeypatch, *arguments) == exit_codes.COMPLETE
    assert "already complete, 3 rows" in capsys.readouterr().out


def test_pretrain_trains_and_exports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, tmp_path: Path
) -> None:
    small = (
        "model.img_size=32 model.embed_dim=24 model.num_heads=2 model.depth=2 "
        "model.level_layers=[0,1] model.predictor_embed_dim=12 model.predictor_num_heads=1 "
        "model.predictor_depth=1 steps=2 batch_size=2 data.num_workers=0"
    ).split()
    settings = [part for setting in small for part in ("--set", setting)]
    out = tmp_path / "run"
    assert run(monkeypatch, "pretrain", clips, "--preset", "tiny", "--out", out, *settings) == exit_codes.COMPLETE
    assert capsys.readouterr().out == f"{out / 'model'}: trained 2 steps\n"
    assert vjepa_sdk.VJEPA.from_pretrained(out / "model").config.depth == 2


def test_pretrain_settings_reach_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[Any] = []
    touch(monkeypatch, tmp_path, "list.csv")

    def record(config: Any, **keywords: Any) -> None:
        found.extend((config, keywords))
        raise SystemExit(0)

    monkeypatch.setattr(trainer, "pretrain", record)
    out = tmp_path / "run"
    options = ("--split", "train", "--out", out, "--set", "optim.lr=3e-4", "--preset", "tiny", "--resume", "-q")
    options += ("--log", "tensorboard")
    run(monkeypatch, "pretrain", "list.csv", *options)
    config, keywords = found
    assert (config.data.path, config.data.split, config.out, config.optim.lr) == ("list.csv", "train", str(out), 3e-4)
    assert keywords == {"resume": True, "log": ["tensorboard"], "show_progress_bar": False}


def test_resume_takes_the_settings_of_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found: list[Any] = []
    touch(monkeypatch, tmp_path, "list.csv", "moved.csv")
    monkeypatch.setattr(trainer, "pretrain", lambda config, **keywords: found.append(config) or sys.exit(0))
    options = ("--preset", "vjepa2-vits16-8gb", "--set", "steps=7", "--set", "micro_batch_size=none")
    run(monkeypatch, "pretrain", "list.csv", "--out", tmp_path, *options)
    (tmp_path / "config.toml").write_text(to_toml(found[0]))
    run(monkeypatch, "pretrain", "--out", tmp_path, "--resume")
    assert found[1] == found[0] and found[0].micro_batch_size is None
    run(monkeypatch, "pretrain", "moved.csv", "--out", tmp_path, "--resume", "--set", "data.num_workers=1")
    moved = dataclasses.replace(found[0].data, path="moved.csv", num_workers=1)
    assert found[2] == dataclasses.replace(found[0], data=moved)
    run(monkeypatch, "pretrain", "list.csv", "--out", tmp_path, "--resume", "--preset", "tiny")
    assert found[3].steps == train_config(preset="tiny").steps


def test_resume_in_a_directory_without_a_run_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, tmp_path: Path
) -> None:
    for options in ((), (clips, "--preset", "tiny")):
        assert run(monkeypatch, "pretrain", *options, "--out", tmp_path / "typo", "--resume") == exit_codes.USAGE
        assert "holds no run to resume; leave out --resume" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--preset", "huge"), exit_codes.USAGE, "unknown recipe 'huge'; available: tiny"),
        (("--set", "optim.lrr=1"), exit_codes.USAGE, "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
        (("--config", "absent.toml"), exit_codes.USAGE, "absent.toml: cannot read the configuration"),
        (("--resume",), exit_codes.USAGE, "holds no run to resume"),
    ],
)
def test_pretrain_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    clips: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    assert run(monkeypatch, "pretrain", clips, "--out", tmp_path / "run", *options) == code
    errors = capsys.readouterr().err
    assert errors.startswith("vjepa: ") and errors.count("\n") == 1 and message in errors


def test_pretrain_in_a_used_directory_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").touch()
    assert run(monkeypatch, "pretrain", clips, "--out", tmp_path) == exit_codes.USAGE
    assert "is not empty; pass --resume to continue it, or choose another --out" in capsys.readouterr().err


def test_locked_output_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch, clips: Path, tmp_path: Path) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        with Lock(tmp_path / "lock"), Lock(tmp_path / "lock"):
            pass

    monkeypatch.setattr(job, "embed_files", refuse)
    assert run(monkeypatch, "embed", clips, "--out", tmp_path / "feats.npy") == exit_codes.IN_USE


def test_models_lists_the_bundled_one_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "models")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[:2]] == ["name", "vjepa-tiny"]
    run(monkeypatch, "models", "--json")
    assert json.loads(capsys.readouterr().out)[0]["name"] == "vjepa-tiny"


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"vjepa-sdk {vjepa_sdk.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pretrain", "clips", "--steps", "4"), "--steps is a key of the configuration: pass --set steps=4"),
        (("pretrain", "clips", "--lr=1e-3"), "--lr is a key of the configuration: pass --set optim.lr=1e-3"),
        (("pretrain", "clips", "--frame-stride"), "pass --set data.frame_stride=..."),
        (("pretrain", "clips", "-o", "x", "--set", "optim.learning_rate=1"), "did you mean 'optim.lr'?"),
        (("embed", ".", "-o", "x.npy", "--num-frames", "7"), "num_frames=7 must be a multiple of tubelet_size=2"),
        (("embed", ".", "-o", "x.npy", "-m", "vjepa-tinny"), "unknown model 'vjepa-tinny'; did you mean 'vjepa-tiny'"),
        (("embed", "."), "Missing option '--out'"),
        (
            ("embed", ".", "-o", "x.npy", "-m", "runs/first/model"),
            "'runs/first/model': no such directory; pass one that",
        ),
        (("embed", ".", "-o", "x.npy", "--fps", "0"), "fps=0.0 must be a number above 0; pass for example 4"),
        (("pretrain", "a.mp4"), "out is empty; pass a directory for the run, for example --out runs/first"),
        (("pretrain", "clips", "-o", "x"), "clips: does not exist; check the spelling or the working directory"),
        (("surprise", "b.mp4"), "b.mp4: does not exist; check the spelling or the working directory"),
        (("surprise", "a.mp4", "-m", "./model"), "model: no such directory; pass a model directory or a name from"),
        (("search", "a.mp4", "--index", "x.npy"), "x.meta.json: does not exist; `vjepa embed --out x.npy` writes it"),
        (("search", "a.mp4", "--index", "x.npy", "-m", "vjepa-tinny"), "unknown model 'vjepa-tinny'; did you mean"),
        (("probe", "train", "clips", "-o", "x"), "clips: does not exist; pass a list of labels or a directory of"),
        (("probe", "predict", "probe", "b.mp4"), "b.mp4: does not exist; check the spelling or the working directory"),
        (("viz", "pca", "b.mp4", "-o", "x.png"), "b.mp4: does not exist; check the spelling or the working directory"),
        (("viz", "pca", "a.mp4", "-o", "x.png", "-m", "vjepa-tinny"), "unknown model 'vjepa-tinny'; did you mean"),
        (("viz", "similarity", "b.mp4", "--at", "0,0,0", "-o", "x.png"), "b.mp4: does not exist; check the spelling"),
        (
            ("viz", "pca", "a.mp4", "-o", "x.txt"),
            "x.txt: the suffix '.txt' must be one of .mp4, .gif, .png, .html, .npz",
        ),
        (("convert", "b.pt", "x"), "b.pt: no such file or directory; check the path"),
        (("check", "b.mp4"), "b.mp4: does not exist; check the spelling or the working directory"),
    ],
)
def test_mistakes_are_told_before_torch_is_loaded(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", num_frames=4)
    code = """
import atexit, sys
from vjepa_sdk.cli.app import main
atexit.register(lambda: print("torch" in sys.modules))
main()
"""
    started = os.times().children_user
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == exit_codes.USAGE and said in done.stderr and done.stdout == "False\n"
    assert os.times().children_user - started < 1.5  # processor seconds from the start of the process
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_unknown_options_are_usage_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "embed", "x", "--outt", "y") == exit_codes.USAGE
    assert run(monkeypatch) == exit_codes.USAGE


def test_names_with_escape_codes_do_not_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(monkeypatch, "embed", tmp_path / "\x1b]0;evil\x07.mp4", "--out", tmp_path / "feats.npy")
    assert "\x1b" not in capsys.readouterr().err


def test_module_runs_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "vjepa_sdk", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"vjepa-sdk {vjepa_sdk.__version__}\n"


def test_convert_writes_a_model_directory_and_says_what_was_dropped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (shape := tmp_path / "shape.toml").write_text(
        "img_size = 64\nnum_frames = 8\nembed_dim = 48\ndepth = 3\nnum_heads = 3\nnum_mask_tokens = 10\n"
        "predictor_embed_dim = 36\npredictor_depth = 2\npredictor_num_heads = 2\n"
    )
    checkpoint = Path(__file__).parents[1] / "golden" / "vjepa2_tiny.pth.tar"
    out = tmp_path / "model"
    assert run(monkeypatch, "convert", checkpoint, out, "--config", shape) == exit_codes.COMPLETE
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: model custom, 120 tensors\n") and "not weights" in printed
    assert vjepa_sdk.VJEPA.from_pretrained(out).config.embed_dim == 48
    assert run(monkeypatch, "convert", out, tmp_path / "theirs", "--layout", "transformers") == exit_codes.COMPLETE
    assert (tmp_path / "theirs" / "video_preprocessor_config.json").is_file()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), exit_codes.USAGE, "the file does not tell its number of heads"),
        (("--arch", "vjepa2-vitl17"), exit_codes.USAGE, "did you mean 'vjepa2-vitl16"),
        (("--arch", "vjepa2-vitl16", "--config", "x.toml"), exit_codes.USAGE, "exclude each other; pass one"),
    ],
)
def test_convert_mistakes_are_one_line_and_write_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    checkpoint = Path(__file__).parents[1] / "golden" / "vjepa2_tiny.pth.tar"
    assert run(monkeypatch, "convert", checkpoint, tmp_path / "model", *options) == code
    errors = capsys.readouterr().err
    assert errors.startswith("vjepa: ") and errors.count("\n") == 1 and message in errors
    assert not (tmp_path / "model").exists()


def test_plan_needs_neither_clips_nor_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--plan", "--preset", "vjepa2-vitl16", "--world-size", "8")
    assert run(monkeypatch, "pretrain", *options) == exit_codes.COMPLETE
    text = capsys.readouterr().out
    assert text.startswith("run         vjepa2-vitl16: 240,000 steps in bfloat16\n")
    assert "3,072 a step, in 16 passes of 24 on each of 8 devices" in text
    assert run(monkeypatch, "pretrain", *options, "--json") == exit_codes.COMPLETE
    planned = json.loads(capsys.readouterr().out)
    assert planned["parameters"]["context_encoder"] == 303_885_312 and planned["world_size"] == 8
    assert list(tmp_path.iterdir()) == []


def test_settings_reach_the_plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "pretrain", "--plan", "--set", "batch_size=8", "--set", "steps=7", "--json")
    planned = json.loads(capsys.readouterr().out)
    assert (planned["steps"], planned["passes"][0]["samples"]) == (7, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--plan", "--world-size", "0"), "world_size=0 must lie between 1 and 1000000; pass 1"),
        (("--world-size", "2"), "--world-size 2 belongs to --plan; to train on several devices start with torchrun"),
        ((), "out is empty; pass a directory for the run"),
    ],
)
def test_plan_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert run(monkeypatch, "pretrain", "list.csv", *options) == exit_codes.USAGE
    errors = capsys.readouterr().err
    assert errors.startswith("vjepa: ") and errors.count("\n") == 1 and message in errors


def test_help_names_every_option_in_full_however_narrow_the_terminal() -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-m", "vjepa_sdk", "embed", "--help"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    options = {name.replace("_", "-") for name in inspect.signature(embed).parameters} - {"inputs", "as-json"}
    assert not {name for name in options if f"--{name} " not in shown}
