"""Similarities are cosines of tokens with the one at the point, and a page finds the same without us."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from media import write_video
from outlines import Outline
from tiny_models import VIDEO, save_tiny

from vjepa_sdk import VJEPA
from vjepa_sdk.cli import app
from vjepa_sdk.errors import ConfigError, InputError
from vjepa_sdk.viz import similarity
from vjepa_sdk.viz.similarity import SimilarityMaps, similarity_map
from vjepa_sdk.viz.tokens import encode_volume

AT = (0.4, 0.6, 0.45)


@pytest.fixture(scope="module")
def model() -> VJEPA:
    return VJEPA.untrained(VIDEO, device="cpu")


@pytest.fixture(scope="module")
def maps(model: VJEPA) -> SimilarityMaps:
    return similarity_map(model, video(), at=AT, source_fps=10)


def video() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 40, 56, 3), dtype=np.uint8)


def cosines(rows: np.ndarray, row: int) -> np.ndarray:
    """Loop over rows, in float64: nothing is shared with the code that is tested."""
    a = rows[row].astype(np.float64)
    return np.array([float(np.dot(a, b)) / float(np.sqrt(np.dot(a, a) * np.dot(b, b))) for b in rows.astype(float)])


@pytest.mark.parametrize("metric", ["cosine", "centered"])
def test_values_are_cosines_with_the_token_at_the_point(model: VJEPA, metric: similarity.Metric) -> None:
    maps = similarity_map(model, video(), at=AT, metric=metric, source_fps=10)
    tokens = encode_volume(model, video(), source_fps=10).tokens.reshape(-1, 24)
    rows = tokens if metric == "cosine" else tokens - tokens.mean(axis=0)
    row = int(np.ravel_multi_index(maps.point.token, maps.values.shape[:3]))
    assert maps.values.ravel() == pytest.approx(cosines(rows, row), abs=1e-5)
    assert maps.values.ravel()[row] == pytest.approx(1, abs=1e-6)


def test_the_token_is_the_one_that_covers_the_point(model: VJEPA) -> None:
    # 40 x 56 pixels become 36 x 50, of which the model sees the middle 32 x 32: two rows and columns of tokens
    top, left, bottom, right = encode_volume(model, video(), source_fps=10).crop
    for i in range(2):
        for j in range(2):
            x, y = left + (right - left) * (j + 0.5) / 2, top + (bottom - top) * (i + 0.5) / 2
            found = similarity_map(model, video(), at=(0.75, x, y), source_fps=10)
            assert found.point.token == (3, i, j)
    edge = similarity_map(model, video(), at=(0.8, right, bottom), source_fps=10)
    assert edge.point.token == (3, 1, 1)


def test_a_point_that_the_model_does_not_see_is_refused(model: VJEPA) -> None:
    for at, message in (
        ((0.4, 0.01, 0.5), r"x=0.01 must lie in what the model sees, from 0.1\d\d to 0.8\d\d of the frame"),
        ((0.4, 0.5, 1.2), r"y=1.2 must lie in what the model sees"),
        ((3.0, 0.5, 0.5), "3 s must lie in what is encoded, from 0 to 0.8 s"),
        ((float("nan"), 0.5, 0.5), "nan s must lie in"),
    ):
        with pytest.raises(InputError, match=message):
            similarity_map(model, video(), at=at, source_fps=10)
    with pytest.raises(ConfigError, match="metric='dot' must be one of cosine, centered"):
        similarity_map(model, video(), at=AT, metric="dot", source_fps=10)  # type: ignore[arg-type]


def test_the_square_is_bold_only_while_the_token_lasts(maps: SimilarityMaps) -> None:
    (top, left), (height, width) = maps.crop_box()
    _, row, column = maps.point.token
    y, x = top + (row + 0.5) * height / 2, left + (column + 0.5) * width / 2
    changed = []
    for number in range(8):
        same = np.abs(maps.outlined(number).astype(int) - maps.volume.frames[number]).sum(axis=2) == 0
        assert same[round(y), round(x)]
        changed.append(int((~same).sum()))
    assert min(changed[4:6]) > max(changed[:4] + changed[6:])


def test_a_page_holds_numbers_whose_products_are_the_similarities(maps: SimilarityMaps, tmp_path: Path) -> None:
    outline = Outline(maps.save(tmp_path / "a.html", command=["vjepa"]).read_bytes())
    data = json.loads(outline.data)
    numbers = np.frombuffer(base64.b64decode(data["numbers"]), "<f2").reshape(data["grid"]).astype(np.float64)
    moment, x, y = data["point"]
    assert (moment, x, y) == (maps.point.token[0], AT[1], AT[2]) and len(data["frames"]) == len(numbers) == 4
    found = numbers @ numbers[maps.point.token]
    assert found == pytest.approx(maps.values[..., 0], abs=0.002)
    assert "differ from the exact ones by at most 0.00" in outline.text


def test_a_page_says_how_far_off_fewer_components_are(
    maps: SimilarityMaps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "KEPT_COMPONENTS", 2)
    outline = Outline(maps.save(tmp_path / "a.html", command=["vjepa"]).read_bytes())
    data = json.loads(outline.data)
    numbers = np.frombuffer(base64.b64decode(data["numbers"]), "<f2").reshape(-1, 2).astype(np.float64)
    exact = maps.directions().astype(np.float64)
    errors = np.abs(numbers @ numbers.T - exact @ exact.T)
    assert f"by at most {errors.max():.4f}, {errors.mean():.4f} on average" in outline.text


def test_a_long_video_keeps_fewer_moments(
    maps: SimilarityMaps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "_PAGE_BYTES", maps.values.size * 24 * 2)
    outline = Outline(maps.save(tmp_path / "a.html", command=["vjepa"]).read_bytes())
    data = json.loads(outline.data)
    moment = data["point"][0]
    assert len(data["frames"]) == len(data["seconds"]) < 4
    assert data["seconds"][moment] == pytest.approx(maps.volume.tubelet_seconds[maps.point.token[0]])
    assert f"It keeps {len(data['frames'])} of 4 moments, to stay below 15 MB." in outline.text


def test_numbers_and_pictures_are_written(maps: SimilarityMaps, tmp_path: Path) -> None:
    with np.load(maps.save(tmp_path / "a.npz"), allow_pickle=False) as stored:
        assert np.array_equal(stored["similarity"], maps.values[..., 0])
    for suffix in (".png", ".gif", ".mp4", ".html"):
        first, second = (maps.save(tmp_path / f"{i}{suffix}").read_bytes() for i in range(2))
        assert first == second


def test_the_command_names_the_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(Path("model"))
    write_video(Path("a.mp4"))
    for at, code, printed in (
        ("0.4,0.5,0.5", None, "a.png: 20 frames, cosine similarity with 0.40 s, x 0.50, y 0.50\n"),
        ("0.4,0.5", 2, "vjepa: --at 0.4,0.5 must be seconds, x and y, such as 1.2,0.5,0.4\n"),
    ):
        words = ["viz", "similarity", "a.mp4", "--model", "model", "--at", at, "-o", "a.png"]
        monkeypatch.setattr(sys, "argv", ["vjepa", *words])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        assert exit_.value.code in (code, code or 0)
        out, err = capsys.readouterr()
        assert (out or err) == printed
