"""Clips that are nearly the same are found in pairs, grouped, and one of each group is kept."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from media import write_video
from outlines import Outline
from tiny_models import save_tiny

from vjepa_sdk import embed_files, find_duplicates, load_embeddings
from vjepa_sdk.cli import app
from vjepa_sdk.config.choices import Metric
from vjepa_sdk.errors import ConfigError, InputError


def rows(count: int = 60, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(1.0, 1.0, (count, dim)).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "centered"])
@pytest.mark.parametrize("block_rows", [1, 7, 4096])
def test_pairs_are_those_of_brute_force(metric: str, block_rows: int) -> None:
    features = rows()
    report = find_duplicates(features, threshold=0.8, metric=metric, block_rows=block_rows)  # type: ignore[arg-type]
    vectors = features.astype(np.float64) - (features.mean(axis=0) if metric == "centered" else 0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = {(a, b): float(vectors[a] @ vectors[b]) for a, b in combinations(range(len(features)), 2)}
    expected = {pair: score for pair, score in scores.items() if score >= 0.8}
    assert len(expected) > 10
    assert {(pair.first, pair.second): pair.score for pair in report.pairs} == pytest.approx(expected, abs=2e-6)
    assert [pair.score for pair in report.pairs] == sorted((pair.score for pair in report.pairs), reverse=True)


@pytest.mark.parametrize("metric", ["cosine", "centered"])
def test_a_pair_just_at_the_threshold_is_found_though_float32_may_not_see_it(metric: Metric) -> None:
    features = np.random.default_rng(1).normal(1.0, 1.0, (12, 700)).astype(np.float32)
    vectors = features.astype(np.float64)
    vectors -= vectors.mean(axis=0) if metric == "centered" else 0
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for first, second in combinations(range(12), 2):
        exact = float(vectors[first] @ vectors[second])
        for threshold, is_found in ((exact - 1e-12, True), (exact + 1e-12, False)):
            report = find_duplicates(features, threshold=threshold, metric=metric)
            assert ((first, second) in {(pair.first, pair.second) for pair in report.pairs}) == is_found


def test_groups_hang_together_and_their_first_row_is_kept() -> None:
    directions = np.array([0, 20, 90, 40, 95, 180]) * np.pi / 180
    features = np.stack([np.cos(directions), np.sin(directions)], axis=1).astype(np.float32)
    report = find_duplicates(features, threshold=float(np.cos(25 * np.pi / 180)), metric="cosine")
    assert report.groups == ((0, 1, 3), (2, 4))  # 0 and 40 degrees hang together by 20
    assert report.keep == (0, 2, 5)


def test_only_pairs_across_two_splits_are_leaks() -> None:
    features = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    report = find_duplicates(features, metric="cosine", across=["train", "test", "train", "train", "test", "train"])
    assert [(pair.first, pair.second) for pair in report.pairs] == [(0, 1), (4, 5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold=1.5 must be a cosine, from -1 to 1"),
        ({"threshold": -1.0, "max_pairs": 10}, "more than max_pairs=10 pairs reach threshold=-1; pass a higher"),
        ({"across": ["a"]}, "across has 1 values and there are 60 rows"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        find_duplicates(rows(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("block_rows", [1, 7, 4096])
def test_the_nearest_of_each_row_is_that_of_brute_force(block_rows: int) -> None:
    vectors = rows().astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors @ vectors.T
    kinds = np.arange(60) % 3
    for across, apart in ((None, ~np.eye(60, dtype=bool)), (kinds.tolist(), kinds[:, None] != kinds)):
        report = find_duplicates(rows(), metric="cosine", across=across, block_rows=block_rows)
        assert report.nearest == pytest.approx(np.where(apart, scores, -1).max(axis=1), abs=1e-6)


def test_rows_without_a_value_leak_into_nothing() -> None:
    features = np.repeat(np.eye(2, dtype=np.float32), 2, axis=0)
    report = find_duplicates(features, metric="cosine", across=["train", None, "train", ""])
    assert report.pairs == () and report.keep == (0, 1, 2, 3) and report.nearest.tolist() == [-1, -1, -1, -1]


@pytest.mark.parametrize(
    ("prefer", "keep"),
    [(None, (0, 2)), ([1, 2, 3, 3], (1, 2)), ([1, None, 2, 4], (0, 3))],
)
def test_the_row_that_is_preferred_is_kept(prefer: Sequence[float] | None, keep: tuple[int, ...]) -> None:
    features = np.repeat(np.eye(2, dtype=np.float32), 2, axis=0)
    assert find_duplicates(features, metric="cosine", prefer=prefer).keep == keep


def test_the_report_is_plain_data_and_one_sentence() -> None:
    report = find_duplicates(np.repeat(np.eye(3, dtype=np.float32), [3, 1, 1], axis=0), metric="cosine")
    assert report.summary == "3 pairs in 1 group; keeping one of each leaves 3 of 5 rows"
    assert json.loads(json.dumps(report.to_json())) == {
        "pairs": [{"score": 1.0, "first": a, "second": b, "same_bytes": False} for a, b in ((0, 1), (0, 2), (1, 2))],
        **{"groups": [[0, 1, 2]], "keep": [0, 3, 4], "rows": 5, "threshold": 0.95, "metric": "cosine"},
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make three videos, a copy of one, features of them, of their windows, and a table of splits."""
    root = tmp_path_factory.mktemp("corpus")
    (root / "clips").mkdir()
    save_tiny(root / "model")
    for number in range(3):
        write_video(root / f"clips/{number}.mp4", num_frames=20 + 10 * number)
    (root / "clips/copy.mp4").write_bytes((root / "clips/1.mp4").read_bytes())
    with contextlib.chdir(root):
        embed_files(["clips"], "feats.npy", model="model", num_workers=0)
        embed_files(["clips"], "windows.npy", model="model", num_workers=0, window_seconds=0.8, stride_seconds=0.4)
    splits = {"0": "train", "1": "=train", "2": "train", "copy": "test"}
    table = "path,split,size\n" + "".join(f"clips/{name}.mp4,{split},{len(name)}\n" for name, split in splits.items())
    (root / "splits.csv").write_text(table)
    return root


@pytest.fixture
def place(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(corpus, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vjepa", *arguments])
    with pytest.raises(SystemExit) as exit_:
        app.main()
    return int(exit_.value.code or 0)


@pytest.mark.usefixtures("place")
def test_the_command_lists_pairs_and_writes_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "duplicates", "feats.npy", "--threshold", "0.9999", "--keep", "keep.txt") == 0
    assert capsys.readouterr().out == (
        "1.0000\tclips/1.mp4\tclips/copy.mp4\tsame bytes\n1 pair in 1 group; keeping one of each leaves 3 of 4 rows\n"
    )
    assert Path("keep.txt").read_text() == "clips/0.mp4\nclips/1.mp4\nclips/2.mp4\n"
    assert embed_files(["keep.txt"], "left.npy", model="model", num_workers=0).rows == 3
    assert run(monkeypatch, "duplicates", "feats.npy", "--keep", "keep.txt") == 2
    assert "keep.txt: exists; choose another --keep" in capsys.readouterr().err
    assert run(monkeypatch, "duplicates", "feats.npy", "--keep", "keep.txt", "--overwrite") == 0
    capsys.readouterr()
    assert run(monkeypatch, "duplicates", "feats.npy", "--threshold", "0.9999", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["groups"] == [[1, 3]] and printed["pairs"][0]["second_path"] == "clips/copy.mp4"
    assert run(monkeypatch, "duplicates", "feats.npy", "--across", "split") == 2
    assert "feats.npy: has no column 'split'; it has row, id, path" in capsys.readouterr().err


@pytest.mark.usefixtures("place")
def test_leaks_name_both_splits_and_the_one_preferred_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("duplicates", "feats.npy", "--labels", "splits.csv", "--across", "split", "--prefer", "split=test")
    files = ("--out", "pairs.csv", "--keep", "keep.csv", "--html", "pairs.html")
    assert run(monkeypatch, *arguments, *files) == 0
    assert capsys.readouterr().out.splitlines()[0].split("\t") == [
        *("1.0000", "clips/1.mp4", "clips/copy.mp4", "=train", "test", "same bytes"),
    ]
    (pair,) = csv.DictReader(Path("pairs.csv").read_text().splitlines())
    assert pair["first_path"] == "clips/1.mp4" and (pair["first_value"], pair["second_value"]) == ("'=train", "test")
    kept = [line["path"] for line in csv.DictReader(Path("keep.csv").read_text().splitlines())]
    assert kept == ["clips/0.mp4", "clips/2.mp4", "clips/copy.mp4"]
    text = Outline(Path("pairs.html").read_bytes()).text
    assert "1 pair in 1 group; keeping one of each leaves 3 of 4 rows." in text and "=train" in text


def test_files_with_equal_bytes_are_pairs_whatever_their_score(place: Path) -> None:
    pairs = find_duplicates("feats.npy", threshold=1.0, metric="cosine").pairs
    assert [(pair.first, pair.second, pair.same_bytes) for pair in pairs][:1] == [(1, 3, True)]
    with open(place / "clips/copy.mp4", "r+b") as file:
        file.write(b"x")
    assert not any(pair.same_bytes for pair in find_duplicates("feats.npy", threshold=0.9, metric="cosine").pairs)
    (place / "clips/copy.mp4").unlink()
    assert not any(pair.same_bytes for pair in find_duplicates("feats.npy", threshold=0.9, metric="cosine").pairs)


def test_windows_of_one_video_are_no_duplicates_of_each_other(place: Path) -> None:
    found = load_embeddings(place / "windows.npy")
    report = find_duplicates(found, threshold=0.0, metric="cosine")
    paths = [entry["path"] for entry in found.index]
    assert len(report.pairs) > 3 and all(paths[pair.first] != paths[pair.second] for pair in report.pairs)
    same = [pair for pair in report.pairs if pair.same_bytes]
    starts = [(found.index[pair.first]["start_seconds"], found.index[pair.second]["start_seconds"]) for pair in same]
    assert len(starts) == paths.count("clips/1.mp4") and all(a == b for a, b in starts)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prefer", "split=none", "--labels", "splits.csv"), "prefer=split=none: no row has this value; correct it"),
        (("--prefer", "split", "--labels", "splits.csv"), "prefer=split: its values must be numbers"),
        (("--labels", "absent.csv"), "absent.csv"),
        (("--keep", "keep.json"), "keep.json: --keep must end in .txt, .csv, .jsonl; rename it"),
        (("--html", "page.txt"), "page.txt: --html must end in .html; rename it"),
        (("--max-pairs", "0", "--threshold", "-1"), "more than max_pairs=0 pairs reach threshold=-1"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    before = sorted(Path().iterdir())
    assert run(monkeypatch, "duplicates", "feats.npy", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and sorted(Path().iterdir()) == before
