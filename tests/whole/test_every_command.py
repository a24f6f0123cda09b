"""What holds for every command that writes something: names, JSON, damage, a full disk, an interruption."""

from __future__ import annotations

import csv
import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from media import write_video
from tiny_models import save_tiny
from tiny_runs import run_config, write_clips

from vjepa_sdk import embed_files, pretrain, train_probe
from vjepa_sdk.cli import app

HOSTILE = "red\x1b[31m\n\"quotes\" 'and' <img src=x onerror=alert(1)>.mp4"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make clips, of which one has a hostile name and one is damaged, and of them a model, features, probes, a run."""
    root = tmp_path_factory.mktemp("ground")
    model, clips = save_tiny(root / "model"), root / "clips"
    clips.mkdir()
    names = [HOSTILE, *(f"{number:02d}.mp4" for number in range(11))]
    for number, name in enumerate(names):
        size = {"width": 64, "height": 48} if number % 2 else {"width": 48, "height": 64}
        write_video(clips / name, num_frames=8, options={"crf": str(5 + number)}, **size)
    rows = [(f"clips/{name}", "wide" if number % 2 else "tall") for number, name in enumerate(names)]
    _write_rows(root / "labels.csv", rows)
    _write_rows(root / "with_damage.csv", [*rows, ("clips/damaged.mp4", "tall")])
    embed_files(clips, root / "feats.npy", model=model, num_workers=0)
    train_probe(root / "labels.csv", out=root / "probe", model=model, num_workers=0, folds=3, random_inits=1)
    train_probe(
        root / "labels.csv",
        out=root / "attentive",
        model=model,
        kind="attentive",
        num_workers=0,
        baseline=False,
        epochs=1,
        learning_rates=(1e-3,),
        weight_decays=(0.1,),
    )
    (root / "few").mkdir()
    pretrain(run_config(write_clips(root / "few"), root / "run"))
    (clips / "damaged.mp4").write_bytes((clips / "00.mp4").read_bytes()[:900])
    return root


def _write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])


# What is written by which command, {clips}, {model} … being files of the ground.
OUTPUTS = {
    "near.csv": "search {clip} --index {feats} --model {model} --out",
    "near.html": "search {clip} --index {feats} --model {model} --html",
    "pairs.csv": "duplicates {feats} --threshold 0.5 --out",
    "keep.txt": "duplicates {feats} --threshold 0.5 --keep",
    "pairs.html": "duplicates {feats} --threshold 0.5 --html",
    "outliers.jsonl": "outliers {feats} --out",
    "outliers.html": "outliers {feats} --html",
    "clusters.csv": "cluster {feats} --method kmeans --out",
    "clusters.html": "cluster {feats} --method kmeans --html",
    "curve.csv": "surprise {clips} --model {model} --fps 10 --num-workers 0 --out",
    "normal.safetensors": "surprise {clips} --model {model} --fps 10 --num-workers 0 --fit-normal",
    "trained": "probe train {with_damage} --model {model} --folds 3 --random-inits 1 --num-workers 0 --out",
    "scores.html": "probe eval {probe} {with_damage} --model {model} --num-workers 0 --html",
    "named.csv": "probe predict {probe} {clips} --model {model} --num-workers 0 --out",
    "pca.mp4": "viz pca {clip} --model {model} --out",
    "pca.html": "viz pca {clip} --model {model} --out",
    "similar.png": "viz similarity {clip} --at 0,0.5,0.5 --model {model} --out",
    "attended.gif": "viz attention {clip} --probe {attentive} --model {model} --out",
    "surprising.html": "viz surprise {clip} --model {model} --fps 10 --out",
    "scores.svg": "viz probe {probe} --out",
    "map.html": "viz embeddings {feats} --method pca --num-workers 0 --out",
    "training.html": "viz run {run} --out",
}
SEES_DAMAGE = ("curve.csv", "normal.safetensors", "trained", "scores.html", "named.csv")


@pytest.fixture(params=OUTPUTS)
def written(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(ground: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return what runs the command that writes a file, in this process, and returns its exit code."""

    def run(out: Path, *more: str) -> int:
        files = {name: ground / name for name in ("clips", "model", "probe", "attentive", "run")}
        files |= {"clip": ground / "clips" / HOSTILE, "feats": ground / "feats.npy"}
        files |= {"with_damage": ground / "with_damage.csv"}
        arguments = [word.format_map(files) for word in OUTPUTS[out.name].split()]
        monkeypatch.setattr(sys, "argv", ["vjepa", *arguments, str(out), *more])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        return int(exit_.value.code or 0)

    return run


def test_hostile_names_damaged_clips_and_json(
    written: str, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / written, "--json", "-q") == (3 if written in SEES_DAMAGE else 0)
    printed = capsys.readouterr()
    assert isinstance(json.loads(printed.out), dict | list)
    assert "\x1b" not in printed.out + printed.err
    assert all(line.startswith("vjepa: ") for line in printed.err.splitlines())
    assert [path.name for path in tmp_path.iterdir()] == [written]
    if written.endswith(".html"):
        assert "<img src=x" not in (tmp_path / written).read_text()


@pytest.mark.parametrize(
    ("error", "codes", "said"),
    [(OSError(errno.ENOSPC, "No space left on device"), {1}, "No space left"), (KeyboardInterrupt(), {130, 75}, "")],
    ids=["full disk", "interrupted"],
)
def test_what_was_there_outlives_a_write_that_fails(
    written: str,
    error: BaseException,
    codes: set[int],
    said: str,
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(tmp_path / written)
    before = contents(tmp_path)
    capsys.readouterr()

    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    assert run(tmp_path / written, "--overwrite", "-q") in codes
    failure = capsys.readouterr().err
    assert said in failure and "Traceback" not in failure
    assert all(line.startswith("vjepa: ") for line in failure.splitlines())
    after = contents(tmp_path)
    assert {name: after.get(name) for name in before} == before
    # what a probe has encoded is kept beside it, to go on with
    assert {name.split("/")[0] for name in after.keys() - before.keys()} <= {f"{written}.cache"}


def contents(directory: Path) -> dict[str, bytes]:
    """Return all files below a directory."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
