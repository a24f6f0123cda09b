"""A probe is trained from labels to numbers through the command line: resumed, compared, saved, used."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import write_video
from tiny_models import save_tiny

from vjepa_sdk import Probe, embed_files, evaluate_probe, load_embeddings, predict_files, train_probe
from vjepa_sdk.cli import app
from vjepa_sdk.downstream import labelled_features, probe_encoding
from vjepa_sdk.downstream.labelled_features import PIXELS, take_apart
from vjepa_sdk.errors import (
    ConfigError,
    InputError,
    InUseError,
    OutputError,
    ResumeError,
    VideoDecodeError,
    WriteError,
)
from vjepa_sdk.inference.embed.job import EmbedResult
from vjepa_sdk.inference.embed.options import Baselines, EmbedOptions

NUM_CLIPS = 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model, short and long videos with the label of their kind, features of them, and one damaged file."""
    root = tmp_path_factory.mktemp("probes")
    save_tiny(root / "model")
    (root / "clips").mkdir()
    rows = []
    for number in range(NUM_CLIPS):
        kind = "wide" if number % 2 else "tall"
        size = {"width": 64, "height": 48} if number % 2 else {"width": 48, "height": 64}
        path = write_video(
            root / "clips" / f"{number:02d}.mp4", num_frames=6 + number % 5, options={"crf": str(5 + number)}, **size
        )
        rows.append({"path": f"clips/{path.name}", "label": kind, "value": number % 2 + 0.25})
    (root / "bad.mp4").write_bytes(b"no video")
    write_table(root / "labels.csv", rows)
    write_table(root / "bad.csv", [*rows, {"path": "bad.mp4", "label": "wide", "value": 1}])
    embed_files(root / "clips", root / "feats.npy", model=root / "model", num_workers=0)
    return root


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vjepa", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        app.main()
    return int(exit_.value.code or 0)


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "probe"
    train_probe(corpus / "labels.csv", out=out, model=corpus / "model", num_workers=0, folds=4)
    return out


def test_the_command_prints_a_table_beside_random_weights_pixels_and_the_most_frequent_class(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model", corpus / "model", "--folds", 4, "--num-workers", 0, "--random-inits", 2)
    code = run(monkeypatch, "probe", "train", corpus / "labels.csv", "--out", tmp_path / "p", *options)
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert "linear probe on model, 2 classes, 40 train / 40 test videos in 40 groups" in lines[0]
    assert lines[1].split() == ["top-1", "balanced", "macro-F1"]
    assert [line[:14].strip() for line in lines[2:6]] == [
        "trained encode",
        "random weights",
        "raw pixels",
        "most frequent",
    ]
    assert "against the same network with random weights" in lines[6] or lines[6].startswith("No better than")
    assert not (tmp_path / "p.cache").exists()
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "predictions.csv",
    ]


def test_the_probe_that_is_saved_knows_its_model_its_fit_and_its_scores(trained: Path, corpus: Path) -> None:
    probe = Probe.from_pretrained(trained)
    sha256 = load_embeddings(corpus / "feats.npy").meta["model"]["sha256"]
    assert probe.source.model["sha256"] == sha256
    assert probe.fitted["classes"] == {"tall": 20, "wide": 20}
    assert probe.scores["metrics"]["accuracy"] > 0.9
    assert [row["what"] for row in probe.scores["table"]][:3] == ["trained encoder", "random weights", "raw pixels"]
    card = (trained / "README.md").read_text()
    assert "| random weights |" in card and sha256 in card


def test_the_features_are_those_of_the_embedding_job_and_give_the_same_probe(corpus: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"num_workers": 0, "folds": 4, "random_inits": 1}
    made = train_probe(corpus / "labels.csv", out=tmp_path / "a", model=corpus / "model", **common)
    found = train_probe(corpus / "labels.csv", out=tmp_path / "b", features=corpus / "feats.npy", **common)
    assert made.rows == found.rows
    one, other = (Probe.from_pretrained(tmp_path / name) for name in "ab")
    rows = load_embeddings(corpus / "feats.npy")
    assert (one.predict_proba(rows) == other.predict_proba(rows)).all()


def test_without_a_baseline_features_are_enough_and_no_video_is_needed(corpus: Path, tmp_path: Path) -> None:
    for name in ("feats.npy", "feats.index.jsonl", "feats.meta.json", "labels.csv"):
        (tmp_path / name).write_bytes((corpus / name).read_bytes())
    (tmp_path / "labels.csv").write_text((corpus / "labels.csv").read_text().replace("clips/", f"{corpus}/clips/"))
    report = train_probe(
        tmp_path / "labels.csv", out=tmp_path / "p", features=tmp_path / "feats.npy", baseline=False, folds=4
    )
    assert report.difference is None and [row.what for row in report.rows] == ["trained encoder", "most frequent class"]
    assert "Not compared with random weights" in str(report)
    assert Probe.from_pretrained(tmp_path / "p").fitted["baseline"] is False


@pytest.mark.parametrize("kind", ["knn", "attentive", "regression"])
def test_the_other_kinds_train_test_and_predict_too(kind: Any, corpus: Path, tmp_path: Path) -> None:
    column = "value" if kind == "regression" else "label"
    report = train_probe(
        corpus / "labels.csv",
        out=tmp_path / "p",
        model=corpus / "model",
        kind=kind,
        label_column=column,
        num_workers=0,
        random_inits=1,
        epochs=3,
        learning_rates=(1e-3, 3e-3),
        weight_decays=(0.1,),
    )
    assert report.num_test == 8 and report.num_train == 32
    assert [row.what for row in report.rows][1:3] == ["random weights", "raw pixels"]
    said = predict_files(tmp_path / "p", corpus / "clips", num_workers=0).predictions
    tested = list(csv.DictReader((tmp_path / "p" / "predictions.csv").open()))
    by_path = {Path(each.path).name: each for each in said}
    for row in tested:
        each = by_path[Path(row["path"]).name]
        if kind == "regression":
            assert each.value == pytest.approx(float(row["predicted"]), abs=1e-4)
        else:
            assert each.labels[0][1] == pytest.approx(float(row["probability"]), abs=2e-3)


def test_a_damaged_clip_is_left_out_of_both_sides_counted_and_named(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(monkeypatch, "probe", "train", corpus / "bad.csv", "--out", tmp_path / "p", "--model", corpus / "model",
               "--folds", 4, "--num-workers", 0, "--random-inits", 1)  # fmt: skip
    printed = capsys.readouterr()
    assert code == 3
    assert "note: left out of train and test, without features: 1 clip" in printed.out and "bad.mp4" in printed.err
    with pytest.raises(VideoDecodeError, match="1 of 41 clips"):
        train_probe(corpus / "bad.csv", out=tmp_path / "q", model=corpus / "model", num_workers=0, max_failures=0.0)


def test_a_class_that_lost_all_its_clips_is_an_error(corpus: Path, tmp_path: Path) -> None:
    rows = [*csv.DictReader((corpus / "labels.csv").open()), {"path": "bad.mp4", "label": "odd", "value": "1"}]
    table = write_table(corpus / "odd.csv", rows)
    with pytest.raises(InputError, match="no clip labelled odd has features, all 1 failed"):
        train_probe(table, out=tmp_path / "p", model=corpus / "model", num_workers=0, baseline=False)


def test_shuffled_labels_score_chance_through_the_whole_pipeline(corpus: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader((corpus / "labels.csv").open()))
    labels = np.random.default_rng(3).permutation([row["label"] for row in rows])
    shuffled = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
    report = train_probe(
        write_table(corpus / "shuffled.csv", shuffled), out=tmp_path / "p", features=corpus / "feats.npy", folds=5,
        baseline=False,
    )  # fmt: skip
    low, high = report.scores.intervals["accuracy"]
    assert low <= 0.5 <= high


def test_a_group_on_two_sides_is_refused_before_anything_is_encoded(corpus: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader((corpus / "labels.csv").open()))
    torn = [{**row, "split": ("train", "test")[n % 3 == 0], "group": n // 2} for n, row in enumerate(rows)]
    table = write_table(corpus / "torn.csv", torn)
    with pytest.raises(ConfigError, match="groups have clips in two splits"):
        train_probe(table, out=tmp_path / "p", model=tmp_path / "absent")
    allowed = train_probe(
        table, out=tmp_path / "p", features=corpus / "feats.npy", baseline=False, allow_group_overlap=True
    )
    assert "some may be on two sides" in allowed.notes[0]


def test_near_copies_across_the_split_are_counted(corpus: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader((corpus / "labels.csv").open()))
    splits = [{**row, "split": "test" if number < 10 else "train"} for number, row in enumerate(rows)]
    report = train_probe(
        write_table(corpus / "splits.csv", splits), out=tmp_path / "p", features=corpus / "feats.npy", baseline=False
    )
    assert any("test videos have a near copy in train" in note for note in report.notes)


def test_choosing_on_the_test_is_said(corpus: Path, tmp_path: Path) -> None:
    report = train_probe(
        corpus / "labels.csv", out=tmp_path / "p", features=corpus / "feats.npy", baseline=False, select="test"
    )
    assert any("best-on-test" in note for note in report.notes)


def test_few_examples_and_untested_classes_are_said(corpus: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader((corpus / "labels.csv").open()))
    rows[0]["label"] = "rare"
    report = train_probe(
        write_table(corpus / "rare.csv", rows), out=tmp_path / "p", features=corpus / "feats.npy", baseline=False
    )
    assert any("fewer than 5 videos to learn from: rare (1)" in note for note in report.notes)
    assert any("without a test video, of which these numbers say nothing: rare" in note for note in report.notes)


def test_a_run_that_is_killed_goes_on_where_it_was(corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vjepa_sdk", "probe", "train", str(corpus / "labels.csv"), "--out", "p"]
    command += ["--model", str(corpus / "model"), "--num-workers", "1", "--random-inits", "1", "-q"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    work = tmp_path / "p.cache" / "features.npy.work" / "plan.json"
    while not work.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert work.exists() and not (tmp_path / "p").exists()
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "linear probe on model" in finished.stdout and not (tmp_path / "p.cache").exists()


@pytest.mark.parametrize("command", ["train", "eval", "predict"])
def test_a_signal_is_exit_code_75_and_says_how_to_go_on(
    command: str, corpus: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def stop(options: object, inputs: object, out: Path) -> EmbedResult:
        return EmbedResult(out=out, rows=3, failed=0, interrupted=True)

    for home in (labelled_features, probe_encoding):
        monkeypatch.setattr(home, "run_job", stop)
    arguments: dict[str, tuple[object, ...]] = {
        "train": (corpus / "labels.csv", "--out", tmp_path / "p", "--model", corpus / "model"),
        "eval": (trained, corpus / "labels.csv"),
        "predict": (trained, corpus / "clips"),
    }
    assert run(monkeypatch, "probe", command, *arguments[command]) == 75
    assert "run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("error", [WriteError("the disk is full"), InUseError("another run works on it")])
def test_a_full_disk_is_no_reason_to_start_over(
    error: OutputError, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(options: EmbedOptions, inputs: object, out: Path) -> EmbedResult:
        calls.append(options.overwrite)
        raise error

    monkeypatch.setattr(labelled_features, "run_job", fail)
    with pytest.raises(type(error), match=str(error)):
        train_probe(corpus / "labels.csv", out=tmp_path / "p", model=corpus / "model", overwrite=True)
    assert calls == [False] and list(tmp_path.iterdir()) == []


def test_an_output_that_is_there_is_not_touched(corpus: Path, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="mine: holds something other than a probe; choose another --out"):
        train_probe(corpus / "labels.csv", out=tmp_path / "mine", overwrite=True)
    with pytest.raises(OutputError, match="holds a probe already; choose another --out, or pass --overwrite"):
        train_probe(corpus / "labels.csv", out=trained)
    (tmp_path / "p.cache").mkdir()
    (tmp_path / "p.cache" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"p\.cache: holds thesis\.txt, which is no file of a probe's cache"):
        train_probe(corpus / "labels.csv", out=tmp_path / "p", overwrite=True)
    (tmp_path / "q.cache").symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match=r"q\.cache: is in the place of a probe's cache"):
        train_probe(corpus / "labels.csv", out=tmp_path / "q", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_cache_of_other_settings_is_refused_or_made_anew(corpus: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"out": tmp_path / "p", "model": corpus / "model", "num_workers": 0, "random_inits": 1}
    train_probe(corpus / "labels.csv", keep_cache=True, **common)
    assert load_embeddings(tmp_path / "p.cache" / "features.npy").meta["settings"]["pooling"] == "mean"
    with pytest.raises((ResumeError, OutputError), match="pooling"):
        train_probe(corpus / "labels.csv", pooling="temporal", **{**common, "out": tmp_path / "q", **rename(tmp_path)})
    report = train_probe(corpus / "labels.csv", pooling="temporal", overwrite=True, **{**common, "out": tmp_path / "q"})
    assert report.num_test == 8


def rename(place: Path) -> dict[str, Any]:
    os.rename(place / "p.cache", place / "q.cache")
    return {}


def test_the_command_scores_a_probe_on_other_labels(
    corpus: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "probe", "eval", trained, corpus / "labels.csv", "--num-workers", 0, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scores"]["metrics"]["accuracy"] == 1.0 and found["num_test"] == NUM_CLIPS
    assert [row["what"] for row in found["rows"]] == ["trained encoder", "most frequent class"]
    assert found["notes"][1] == "40 of these videos were fitted to: what the probe says of them is no test"


def test_only_what_was_fitted_to_counts_as_seen(corpus: Path, tmp_path: Path) -> None:
    train_probe(corpus / "labels.csv", out=tmp_path / "p", features=corpus / "feats.npy", baseline=False)
    tested = list(csv.DictReader((tmp_path / "p" / "predictions.csv").open()))
    table = write_table(tmp_path / "tested.csv", [{"path": row["path"], "label": row["label"]} for row in tested])
    notes = evaluate_probe(tmp_path / "p", table, features=corpus / "feats.npy").notes
    assert not any("were fitted to" in note for note in notes)


def test_labels_that_a_probe_does_not_know_are_an_error_or_count_as_wrong(corpus: Path, trained: Path) -> None:
    rows = list(csv.DictReader((corpus / "labels.csv").open()))
    strange = [{**row, "label": "square" if number < 4 else row["label"]} for number, row in enumerate(rows)]
    table = write_table(corpus / "strange.csv", strange)
    with pytest.raises(InputError, match="1 labels are unknown to the probe, such as 'square'; it knows tall, wide"):
        evaluate_probe(trained, table, features=corpus / "feats.npy")
    report = evaluate_probe(trained, table, features=corpus / "feats.npy", unknown="wrong")
    assert report.scores.accuracy == pytest.approx(36 / 40)


def test_one_line_a_video_says_its_labels(
    corpus: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / 'new\nline "q".mp4').write_bytes((corpus / "clips" / "01.mp4").read_bytes())
    (clips / "bad.mp4").write_bytes(b"no video")
    out = tmp_path / "said.csv"
    arguments = ("probe", "predict", trained, clips, "-k", 2, "--num-workers", 0, "--out", out)
    assert run(monkeypatch, *arguments) == 3
    printed = capsys.readouterr()
    line = printed.out.splitlines()
    assert len(line) == 1 and line[0].split("\t")[:2] == [f'{clips}/new\\nline "q".mp4', "wide"]
    assert "bad.mp4" in printed.err
    row = next(iter(csv.DictReader(out.open(newline=""))))
    assert row["path"].endswith('new\nline "q".mp4') and row["label_1"] == "wide" and row["label_2"] == "tall"
    assert run(monkeypatch, *arguments) == 2
    assert "exists; choose another --out, or pass --overwrite" in capsys.readouterr().err
    assert run(monkeypatch, *arguments, "--overwrite", "--min-probability", 1.0) == 3
    assert capsys.readouterr().out.split("\t")[1] == "?"


def test_windows_are_named_too_after_the_video_they_are_of(corpus: Path, trained: Path) -> None:
    video = corpus / "clips" / "04.mp4"
    first, *windows = predict_files(trained, video, window_seconds=0.4, num_workers=0).predictions
    assert first.start_seconds is None and [each.start_seconds for each in windows] == [0.0, 0.4, 0.8]
    mean = np.mean([dict(each.labels)["tall"] for each in windows])
    assert dict(first.labels)["tall"] == pytest.approx(mean, abs=1e-5)


def test_the_model_that_a_probe_names_must_be_that_one_still(corpus: Path, trained: Path, tmp_path: Path) -> None:
    save_tiny(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match="other is another model; pass that one as model"):
        predict_files(trained, corpus / "clips" / "00.mp4", model=tmp_path / "other", num_workers=0)


def test_baselines_of_windows_match_the_rows_they_are_compared_with(corpus: Path, tmp_path: Path) -> None:
    embed_files(corpus / "clips", tmp_path / "w.npy", model=corpus / "model", window_seconds=0.4, num_workers=0)
    report = train_probe(
        corpus / "labels.csv", out=tmp_path / "p", features=tmp_path / "w.npy", folds=4, random_inits=1,
        num_workers=0, keep_cache=True,
    )  # fmt: skip
    assert report.num_test == NUM_CLIPS and len(report.rows) == 4
    cached = load_embeddings(tmp_path / "p.cache" / "features.npy")
    kinds = take_apart(cached, Baselines(trained=False, random_inits=1), tubelet_size=2)
    assert len(kinds[PIXELS]) == len(load_embeddings(tmp_path / "w.npy").index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "tree"}, "kind='tree' must be"),
        ({"C": -1.0}, r"C=-1\.0 must be above 0"),
        ({"folds": 1}, "folds=1 must be at least 2"),
        ({"random_inits": 0}, "random_inits=0 must be at least 1; pass baseline=False"),
        ({"kind": "attentive", "pooling": "mean"}, "pooling=mean leaves nothing to attend to"),
        ({"folds": 3, "select": "test"}, "select='test' and folds exclude each other"),
        ({"label_column": "value"}, "is a number, not a class; pass kind='regression'"),
        ({"label_column": "path", "kind": "regression"}, "must be a number for kind='regression'"),
    ],
)
def test_options_that_are_not_valid_are_named(corpus: Path, tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_probe(corpus / "labels.csv", out=tmp_path / "p", model=corpus / "model", **options)
