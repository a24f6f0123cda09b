"""`vjepa surprise` measures many files, names those that fail, and scores against labels."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import write_video
from sklearn.metrics import roc_auc_score
from tiny_models import VIDEO, save_tiny

from vjepa_sdk import VJEPA, SurpriseNormalizer, surprise_files
from vjepa_sdk.cli import app
from vjepa_sdk.cli.surprise import surprise as command
from vjepa_sdk.corpus.lists import whole
from vjepa_sdk.downstream import surprise_files as module
from vjepa_sdk.downstream.surprise_labels import LabelledScores, read_surprise_labels
from vjepa_sdk.errors import ConfigError, InputError, OutputError, ResumeError, VJEPAError

OPTIONS: dict[str, Any] = {"fps": 5, "num_workers": 0, "show_progress_bar": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("surprise") / "model", dataclasses.replace(VIDEO, num_frames=8)))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    for number in range(3):
        write_video(tmp_path / "clips" / f"{number}.mp4", num_frames=30 + 4 * number)
    return tmp_path / "clips"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vjepa", "surprise", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        app.main()
    return int(end.value.code or 0)


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_give_what_the_model_gives_one_by_one(model: str, clips: Path, tmp_path: Path, num_workers: int) -> None:
    report = surprise_files(clips, tmp_path / "x.csv", model=model, **(OPTIONS | {"num_workers": num_workers}))
    loaded = VJEPA.from_pretrained(model)
    rows = read_csv(tmp_path / "x.csv")
    assert list(rows[0]) == list(module.COLUMNS)
    for video, path in zip(report.videos, sorted(clips.iterdir()), strict=True):
        alone = loaded.surprise(path, fps=5)
        assert (video.path, video.windows, video.floor) == (str(path), len(alone), None)
        assert video.mean == pytest.approx(alone.score(), rel=1e-5)
        assert video.max == pytest.approx(alone.score(reduce_time="max"), rel=1e-5)
        assert (video.peak_seconds, video.peak) == (alone.peak[0], pytest.approx(alone.peak[1], rel=1e-5))
        mine = [row for row in rows if row["path"] == str(path)]
        values = [float(row["surprise"] or "nan") for row in mine]
        np.testing.assert_allclose(values, alone.timeline, rtol=1e-5)
        np.testing.assert_allclose([float(row["start_seconds"]) for row in mine], alone.tubelet_start_seconds)
        assert {row["p_value"] for row in mine} == {""}


def test_formats_hold_the_same(model: str, clips: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for suffix in module.SUFFIXES:
        surprise_files(clips, tmp_path / f"x{suffix}", model=model, **OPTIONS)
    table = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    for row, line, cells in zip(table, lines, read_csv(tmp_path / "x.csv"), strict=True):
        assert list(row) == list(line) == list(cells)
        assert (row["path"], row["p_value"]) == (line["path"], line["p_value"]) == (cells["path"], None)
        assert row["surprise"] == (None if line["surprise"] is None else pytest.approx(line["surprise"]))
        assert cells["surprise"] == ("" if line["surprise"] is None else str(line["surprise"]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_files_are_named_and_the_rest_is_done(
    model: str,
    clips: Path,
    tmp_path: Path,
    num_workers: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (clips / "0a\n.mp4").write_bytes(b"no video")
    whole_file = (clips / "2.mp4").read_bytes()
    (clips / "1a.mp4").write_bytes(whole_file[: len(whole_file) // 2])
    write_video(clips / "2a.mp4", num_frames=9)
    out = tmp_path / "x.csv"
    assert run(monkeypatch, clips, "--model", model, "--fps", 5, "--out", out, "--num-workers", num_workers) == 3
    printed = capsys.readouterr()
    assert [line.split("\t")[0] for line in printed.out.splitlines()] == [str(clips / f"{n}.mp4") for n in range(3)]
    for name in (r"0a\n.mp4: ", "1a.mp4: ", "2a.mp4: has 4 frames at fps=5, too short for a window of 8"):
        assert f"vjepa: skipped {clips}/{name}" in printed.err
    assert "vjepa: 3 of 6 videos skipped" in printed.err
    assert {row["path"] for row in read_csv(out)} == {str(clips / f"{n}.mp4") for n in range(3)}


def test_where_nothing_can_be_measured_nothing_is_written(model: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VJEPAError, match=r"none of 1 videos could be measured; .*a.mp4: "):
        surprise_files(tmp_path / "a.mp4", tmp_path / "x.csv", model=model, **OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_parts_of_a_list_are_clips_of_their_own(model: str, clips: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts.csv"
    parts.write_text("id,path,start_seconds,end_seconds\nfirst,clips/2.mp4,0,2\nsecond,clips/2.mp4,1.4,3.4\n")
    report = surprise_files(parts, tmp_path / "x.csv", model=model, **OPTIONS)
    assert [video.id for video in report.videos] == ["first", "second"]
    starts = [float(row["start_seconds"]) for row in read_csv(tmp_path / "x.csv") if row["id"] == "second"]
    np.testing.assert_allclose(starts, 1.4 + 0.4 * np.arange(5))


def test_hostile_names_stay_what_they_are(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "c").mkdir()
    name = '=1+1"\x1b[2J\n,<img onerror=x>\udcff.mp4'
    write_video(tmp_path / "plain.mp4", num_frames=30).rename(tmp_path / "c" / name)
    assert run(monkeypatch, tmp_path / "c", "--model", model, "--fps", 5, "--out", tmp_path / "x.csv", "-q") == 0
    assert {row["path"] for row in read_csv(tmp_path / "x.csv")} == {str(tmp_path / "c" / name)}
    assert "\x1b" not in (printed := capsys.readouterr().out) and len(printed.splitlines()) == 1


# outputs


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out": "x.txt"}, ConfigError, r"the suffix '.txt' must be one of .csv, .jsonl, .parquet"),
        ({"out": "no/x.csv"}, OutputError, "its directory does not exist"),
        ({"out": "old.csv"}, OutputError, r"exists; pass overwrite=True \(--overwrite\)"),
        ({"fit_normal": "old.safetensors"}, OutputError, "exists; pass overwrite=True"),
        ({"fit_normal": "n.npz"}, ConfigError, "the suffix '.npz' must be .safetensors"),
        ({"fit_normal": "n.safetensors", "normal": "m.safetensors"}, ConfigError, "exclude each other; pass one"),
        ({"normal": "m.safetensors"}, InputError, "does not exist"),
        ({"labels": "l.csv"}, InputError, r"l.csv: cannot be read \(No such file or directory\)"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], error: Any, message: str
) -> None:
    for name in ("old.csv", "old.safetensors"):
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(VJEPA, "from_pretrained", None)  # would fail with a TypeError
    with pytest.raises(error, match=message):
        surprise_files(clips, **OPTIONS, **{name: tmp_path / value for name, value in options.items()})
    assert (tmp_path / "old.csv").read_text() == "old"


def test_an_existing_output_is_replaced_if_asked(model: str, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("old")
    surprise_files(clips, tmp_path / "x.csv", model=model, overwrite=True, **OPTIONS)
    assert read_csv(tmp_path / "x.csv")


def test_an_interruption_leaves_no_file_and_130(model: str, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", num_frames=3000)
    arguments = ["surprise", "clips", "--model", model, "--fps", "10", "--out", "x.csv", "--batch-size", "1"]
    # a shell lets what it runs in the background ignore interruptions
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from vjepa_sdk.cli.app import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".x.csv.*.tmp")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips"]


# normal footage


def test_normal_footage_is_fitted_once_and_compared_with_later(
    model: str, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "n.safetensors"
    assert run(monkeypatch, clips, "--model", model, "--fps", 5, "--fit-normal", path, "--num-workers", 0) == 0
    assert capsys.readouterr().out == f"{path}: 15 windows of 3 videos\n"
    expected = SurpriseNormalizer.fit(VJEPA.from_pretrained(model), sorted(clips.iterdir()), fps=5)
    stored = SurpriseNormalizer.load(path)
    np.testing.assert_allclose(stored.median, expected.median, rtol=1e-5)
    surprise_files(clips, tmp_path / "x.csv", model=model, normal=path, **OPTIONS)
    p_values = [float(row["p_value"]) for row in read_csv(tmp_path / "x.csv") if row["surprise"]]
    assert 0 < min(p_values) and max(p_values) <= 1
    options = OPTIONS | {"num_workers": 2, "fit_normal": tmp_path / "m.safetensors"}
    both = surprise_files(clips, tmp_path / "y.csv", model=model, **options)
    assert (both.fitted_videos, both.fitted_windows, len(both.videos)) == (3, 15, 3)
    assert (tmp_path / "y.csv").read_bytes() == (tmp_path / "x.csv").read_bytes()
    with pytest.raises(ResumeError, match=r"other settings \(fps 5.0 -> 4.0\)"):
        surprise_files(clips, model=model, normal=path, **(OPTIONS | {"fps": 4}))


def test_a_damaged_video_is_no_normal_footage(model: str, clips: Path, tmp_path: Path) -> None:
    (clips / "1a.mp4").write_bytes(b"no video")
    report = surprise_files(clips, model=model, fit_normal=tmp_path / "n.safetensors", **OPTIONS)
    assert [failure["path"] for failure in report.failures] == [str(clips / "1a.mp4")]
    assert report.fitted_videos == 3


# labels


def test_labels_of_videos_give_areas_and_pairs(model: str, clips: Path, tmp_path: Path) -> None:
    write_video(clips / "3.mp4", num_frames=30)
    write_video(clips / "4.mp4", num_frames=30)
    labels = tmp_path / "l.csv"
    labels.write_text(
        "path,label,pair\nclips/0.mp4,0,a\nclips/1.mp4,1,a\nclips/2.mp4,1,b\nclips/3.mp4,0,b\ngone.mp4,0,\n"
    )
    report = surprise_files(clips, model=model, labels=labels, **OPTIONS)
    means, highest = ([getattr(video, name) for video in report.videos[:4]] for name in ("mean", "max"))
    assert report.metrics is not None
    assert report.metrics["relative_accuracy"] == ((means[0] < means[1]) + (means[3] < means[2])) / 2
    assert report.metrics["auroc"] == roc_auc_score([0, 1, 1, 0], highest)
    assert (report.metrics["videos"], report.metrics["pairs"]) == (4, 2)
    assert (report.metrics["videos_without_label"], report.metrics["labels_without_video"]) == (1, 1)


def test_labels_of_parts_give_areas_of_frames(
    model: str, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "l.csv"
    labels.write_text(
        "path,start_seconds,end_seconds\nclips/0.mp4,1,1.5\nclips/0.mp4,2,9\nclips/1.mp4,,\nclips/2.mp4,0.5,2\n"
    )
    arguments = (clips, "--model", model, "--fps", 5, "--labels", labels, "--num-workers", 0)
    assert run(monkeypatch, *arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    scores, truth, parts = [], [], []
    spans = {0: [(1, 1.5), (2, 9)], 1: [], 2: [(0.5, 2)]}
    for number, intervals in spans.items():
        alone = VJEPA.from_pretrained(model).surprise(clips / f"{number}.mp4", fps=5)
        for place, value in enumerate(alone.timeline):
            for frame in (0, 1):
                seconds = (2 * place + frame) / 5 + 1e-12
                if not np.isnan(value):
                    scores.append(value)
                    truth.append(int(any(a <= seconds < b for a, b in intervals)))
                    parts.append(number)
    scores, truth, parts = map(np.array, (scores, truth, parts))
    assert found["rows"] == len(scores) and found["rows_left_out"] == 3 * 2
    assert found["micro_auc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    each = [roc_auc_score(truth[parts == n], scores[parts == n]) for n in (0, 2)]
    assert found["macro_auc"] == pytest.approx(np.mean(each), abs=1e-9)
    assert (found["macro_videos"], found["macro_videos_left_out"]) == (2, 1)
    assert found["per_video_macro_auc"] == pytest.approx(found["macro_auc"])
    assert run(monkeypatch, *arguments) == 0
    assert f"macro_auc\t{found['macro_auc']:.4f}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\na,1\n", "its header must name path or id"),
        ("path,class\na,1\n", "its header must name label, or start_seconds and end_seconds"),
        ("path,label\na,2\n", r"l.csv:2: label '2' must be 1 for impossible or abnormal, else 0"),
        ("path,label\na,1\na,0\n", "l.csv:3: this video has another label above"),
        ("path,label\n,1\n", "l.csv:2: names no path"),
        ("path,label,pair\na,1,x\nb,1,x\n", r"pair 'x' has labels \[1, 1\]; it must have one possible and one"),
        ("path,label,pair\na,1,x\n", r"pair 'x' has labels \[1\]"),
        ("path,start_seconds,end_seconds\na,2,1\n", "'2' to '1' must be seconds, the first below the second"),
        ("path,start_seconds,end_seconds\na,,1\n", "'' to '1' must be seconds"),
        ("path,start_seconds,end_seconds\na,0,inf\n", "'0' to 'inf' must be seconds"),
        ('path,label\n"a,1\n', "is no CSV"),
    ],
)
def test_labels_that_say_nothing_are_refused_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_surprise_labels(tmp_path / "l.csv")


def test_labels_are_found_by_id_first(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("id,path,label\nfirst,,1\n,b.mp4,0\n")
    labels = read_surprise_labels(tmp_path / "l.csv")
    assert labels.key_of(dataclasses.replace(whole(tmp_path / "x.mp4"), id="first")) == "first"
    assert labels.key_of(whole(tmp_path / "b.mp4")) == str(tmp_path / "b.mp4")
    assert labels.key_of(whole(tmp_path / "c.mp4")) is None
    with pytest.raises(InputError, match="the labels name none of these videos"):
        LabelledScores(labels).metrics()


# the command


def test_every_option_of_the_command_is_a_keyword_of_the_call() -> None:
    spelt = set(inspect.signature(command).parameters) - {"as_json", "quiet", "verbose"}
    assert spelt == set(inspect.signature(surprise_files).parameters) - {"show_progress_bar"}


def test_the_command_hands_every_option_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def record(*arguments: Any, **keywords: Any) -> Any:
        given.update(keywords, inputs=arguments[0], out=arguments[1])
        raise InputError("enough")

    monkeypatch.setattr(module, "surprise_files", record)
    options = {
        "--out": "x.csv", "--model": "me/m", "--revision": "r", "--protocol": "grasp", "--num-frames": 4, "--fps": 3,
        "--frame-step": 2, "--stride-tubelets": 2, "--context": "0.5,0.75", "--reduce": 2, "--horizon": 1,
        "--targets": "past", "--crop": "squash", "--fit-normal": "n", "--normal": "o", "--labels": "l",
        "--source-fps": 7, "--batch-size": 3, "--decoder": "decord", "--device": "cpu", "--num-workers": 5,
        "--deadline-seconds": 9,
    }  # fmt: skip
    words = [str(word) for pair in options.items() for word in pair]
    assert run(monkeypatch, str(tmp_path), *words, "--floor", "--follow-symlinks", "--overwrite", "-q") == 2
    expected = {name.removeprefix("--").replace("-", "_"): value for name, value in options.items()}
    expected |= {
        "context": (0.5, 0.75),
        "inputs": [str(tmp_path)],
        "floor": True,
        "follow_symlinks": True,
        "overwrite": True,
    }
    paths = {name: Path(expected[name]) for name in ("out", "fit_normal", "normal", "labels")}
    assert given == expected | paths | {"show_progress_bar": False}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--context", "a half", "context=a half must be shares of a window such as 0.25,0.5"),
        ("--reduce", "max", "reduce=max must be min, mean, or the tubelets of one context"),
    ],
)
def test_words_that_are_none_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    message: str,
) -> None:
    assert run(monkeypatch, str(tmp_path), option, value) == 2
    assert message in capsys.readouterr().err


def test_what_a_taken_over_process_sends_is_checked(model: str, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, frames = np.arange(17) / 5, np.zeros((16, 3, 32, 32), np.uint8)
    for sent, reason in (
        ([seconds[::-1].copy(), frames], "something other than frames"),
        ([seconds.astype(np.float32), frames], "something other than frames"),
        ([seconds, frames.astype(np.float32)], "something other than frames"),
        ([seconds, frames[:, :, :16]], "something other than frames"),
        ([seconds, frames, frames], "something other than frames"),
        ([seconds, frames[:9]], "9 of 16 frames"),
    ):
        monkeypatch.setattr(module._ReadFrames, "__call__", lambda self, clip, sent=sent: iter((a, {}) for a in sent))
        with pytest.raises(VJEPAError, match=reason):
            surprise_files(clips / "0.mp4", model=model, **OPTIONS)
