"""The strangest rows are those farthest from their nearest others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from media import write_video
from tiny_models import save_tiny

from vjepa_sdk import embed_files, outlier_scores
from vjepa_sdk.cli import app
from vjepa_sdk.downstream import outliers
from vjepa_sdk.errors import ConfigError, InputError


def rows(count: int = 50) -> np.ndarray:
    return np.random.default_rng(0).normal(1.0, 1.0, (count, 6)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 49, 100])
def test_distances_are_those_of_brute_force(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "_QUERY_ROWS", 7)
    unit = rows().astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = [np.sort(1 - np.delete(unit @ unit[i], i))[: min(k, 49)].mean() for i in range(50)]
    found = outlier_scores(rows(), k=k)
    assert found.distance == pytest.approx(np.array(expected), abs=1e-6)
    assert found.strangest(3) == np.argsort(-np.array(expected))[:3].tolist()
    assert found.percentile.max() == 100 and found.percentile[found.strangest(2)[1]] == 98


def test_copies_of_a_row_are_not_strange() -> None:
    features = np.concatenate([np.repeat(rows(1), 5, axis=0), -rows(3)[1:]])
    assert outlier_scores(features, k=2).distance[:5] == pytest.approx(np.zeros(5), abs=1e-6)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="k=0 must be at least 1"):
        outlier_scores(rows(), k=0)
    with pytest.raises(ConfigError, match="1 rows have no others to be compared with; pass at least 2"):
        outlier_scores(rows(1))
    with pytest.raises(InputError, match="row 3 is zero"):
        outlier_scores(rows() * (np.arange(50) != 3)[:, None])


def test_the_command_lists_the_strangest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    save_tiny(Path("model"))
    for number in range(4):
        write_video(Path(f"clips/{number}.mp4"), num_frames=20 + 10 * number)
    embed_files(["clips"], "feats.npy", model="model", num_workers=0)
    for extra in ((), ("--json",)):
        monkeypatch.setattr(sys, "argv", ["vjepa", "outliers", "feats.npy", "--count", "2", "-k", "2", *extra])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        assert exit_.value.code in (0, None)
        printed = capsys.readouterr().out
        if extra:
            names = ["distance", "end_seconds", "id", "path", "percentile", "row", "start_seconds"]
            assert [sorted(entry) for entry in json.loads(printed)] == [names] * 2
        else:
            first, second = (line.split("\t") for line in printed.splitlines())
            assert first[1] == "100.0" and second[1] == "75.0" and first[2].startswith("clips/")
