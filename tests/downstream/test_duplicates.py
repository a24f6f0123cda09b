"""Clips that are nearly the same are found in pairs, grouped, and one of each group is kept."""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from media import write_video
from tiny_models import save_tiny

from vjepa_sdk import embed_files, find_duplicates
from vjepa_sdk.cli import app
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


def test_the_command_lists_pairs_and_writes_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    save_tiny(Path("model"))
    for number in range(3):
        write_video(Path(f"clips/{number}.mp4"), num_frames=20 + 10 * number)
    Path("clips/copy.mp4").write_bytes(Path("clips/1.mp4").read_bytes())
    embed_files(["clips"], "feats.npy", model="model", num_workers=0)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["vjepa", *arguments])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        return int(exit_.value.code or 0)

    assert run("duplicates", "feats.npy", "--threshold", "0.9999", "--keep", "keep.txt") == 0
    printed = capsys.readouterr()
    assert printed.out == "1.0000\tclips/1.mp4\tclips/copy.mp4\n"
    assert printed.err == "vjepa: 1 pairs in 1 groups; keeping one of each leaves 3 of 4 rows\n"
    assert embed_files(["keep.txt"], "left.npy", model="model", num_workers=0).rows == 3
    assert run("duplicates", "feats.npy", "--keep", "keep.txt") == 2
    assert "keep.txt: exists; choose another --keep" in capsys.readouterr().err
    assert run("duplicates", "feats.npy", "--threshold", "0.9999", "--json") == 0
    assert json.loads(capsys.readouterr().out)["groups"] == [[1, 3]]
    assert run("duplicates", "feats.npy", "--across", "split") == 2
    assert "the index has no column 'split'; it has row, id, path" in capsys.readouterr().err
