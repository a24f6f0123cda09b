"""Components are those of a singular value decomposition, and colours mean the same in all of a job."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from tiny_models import VIDEO

from vjepa_sdk import VJEPA
from vjepa_sdk.errors import ConfigError, InputError, OutputError
from vjepa_sdk.viz import pca
from vjepa_sdk.viz.pca import Basis, feature_pca, feature_pca_of, find_foreground, fit_basis, otsu_threshold


@pytest.fixture(scope="module")
def model() -> VJEPA:
    return VJEPA.untrained(VIDEO, device="cpu")


def rows(count: int = 400, width: int = 12) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(count, width)) * np.linspace(4, 0.5, width) + 3).astype(np.float32)


def video(seed: int = 0, count: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 40, 56, 3), dtype=np.uint8)


def test_components_are_those_of_numpys_full_svd() -> None:
    tokens = rows()
    centred = tokens.astype(np.float64) - tokens.astype(np.float64).mean(axis=0)
    _, singular, vectors = np.linalg.svd(centred, full_matrices=False)
    basis = fit_basis(tokens, components=3)
    for mine, theirs in zip(basis.components, vectors, strict=False):
        assert mine == pytest.approx(theirs * np.sign(theirs[np.abs(theirs).argmax()]), abs=1e-4)
    assert basis.explained == pytest.approx(singular[:3] ** 2 / (singular**2).sum(), abs=1e-6)
    values = basis.project(tokens)
    assert values.std(axis=0) == pytest.approx(np.ones(3), abs=1e-4)
    assert values.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-4)


def test_the_entry_of_largest_magnitude_is_positive_whatever_the_sign_of_the_data() -> None:
    for tokens in (rows(), -rows()):
        components = fit_basis(tokens).components
        assert (components[np.arange(3), np.abs(components).argmax(axis=1)] > 0).all()


def test_artefacts_take_no_component_for_themselves() -> None:
    tokens = rows()
    spoiled = np.concatenate([tokens, np.full((3, 12), 500, np.float32)])
    assert fit_basis(spoiled).components == pytest.approx(fit_basis(tokens).components, abs=1e-9)


def test_equal_input_gives_equal_bits(model: VJEPA) -> None:
    first, second = (feature_pca(model, video(), source_fps=8) for _ in range(2))
    assert np.array_equal(first.overlay(), second.overlay())


def test_clips_of_one_job_share_colours(model: VJEPA) -> None:
    alone = feature_pca(model, video(0), source_fps=8)
    first, second = feature_pca_of(model, [video(0), video(1)], source_fps=8)
    assert first.basis is second.basis and not np.array_equal(first.values, alone.values)
    again, same = feature_pca_of(model, [video(0), video(0)], source_fps=8)
    assert np.array_equal(again.values, same.values)


def test_a_basis_that_was_kept_gives_the_same_colours(model: VJEPA, tmp_path: Path) -> None:
    first = feature_pca(model, video(0), source_fps=8, scale="percentile")
    path = first.basis.save(tmp_path / "basis.safetensors")
    again = feature_pca(model, video(0), source_fps=8, scale="percentile", basis=Basis.load(path))
    assert np.array_equal(first.overlay(), again.overlay())
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        first.basis.save(path)


def test_percentiles_are_of_the_whole_job() -> None:
    tokens = rows(1000)
    basis = fit_basis(tokens, components=2)
    values = basis.project(tokens)
    assert np.mean(values < basis.low, axis=0) == pytest.approx([0.01, 0.01], abs=2e-3)
    assert np.mean(values > basis.high, axis=0) == pytest.approx([0.01, 0.01], abs=2e-3)


def test_position_can_be_taken_off(model: VJEPA) -> None:
    clip, grey = video(count=4), np.full((4, 32, 32, 3), 128, np.uint8)
    basis = fit_basis(model.encode(clip, pooling="none").reshape(-1, 24))
    maps = feature_pca(model, clip, source_fps=8, remove="position", basis=basis)
    of_place = model.encode(grey, pooling="none").mean(axis=0)
    expected = basis.project(model.encode(clip, pooling="none") - of_place)
    assert maps.values == pytest.approx(expected, abs=1e-4)
    assert not np.allclose(maps.values, feature_pca(model, clip, source_fps=8, basis=basis).values, atol=1e-2)


def test_a_video_of_one_colour_has_no_components(model: VJEPA) -> None:
    with pytest.raises(InputError, match="all tokens are equal, so they have no components"):
        feature_pca(model, np.full((4, 40, 40, 3), 128, np.uint8), source_fps=8)


@pytest.mark.parametrize("seed", range(5))
def test_otsu_separates_as_well_as_any_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 1, 300), rng.normal(6, 1, 80)])

    def between(threshold: float) -> float:
        low, high = values[values <= threshold], values[values > threshold]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0

    best = max(map(between, np.linspace(values.min(), values.max(), 500)))
    assert between(otsu_threshold(values)) >= 0.98 * best


def test_the_foreground_is_the_side_that_is_rare_at_the_border() -> None:
    values = np.random.default_rng(0).normal(0, 0.1, (4, 10, 10))
    values[:, 3:7, 3:7] += 5
    for sign in (1, -1):
        (mask,) = find_foreground([sign * values]) or [np.empty(0)]
        assert mask[:, 4:6, 4:6].all() and not mask[:, [0, -1]].any() and not mask[:, :, [0, -1]].any()


def test_an_uneven_split_is_no_foreground_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    values = np.zeros((4, 10, 10))
    values[:, 4:6, 4:6] = 1
    with caplog.at_level(logging.WARNING, "vjepa_sdk"):
        assert find_foreground([values]) is None
    assert "of the tokens, which is no foreground; all stays" in caplog.text


def test_components_are_fitted_again_to_the_foreground(model: VJEPA, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = np.random.default_rng(0).random((2, 2, 2)) < 0.7
    monkeypatch.setattr(pca, "find_foreground", lambda values: [inside])
    maps = feature_pca(model, video(count=4), source_fps=8, foreground="auto")
    expected = fit_basis(model.encode(video(count=4), pooling="none")[inside])
    assert maps.basis.components == pytest.approx(expected.components, abs=1e-6)
    assert maps.foreground is inside and maps.meta["foreground"] == "auto"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 4}, "components=4 must be 1, 2 or 3"),
        ({"foreground": "some"}, "foreground='some' must be one of none, auto"),
        ({"scale": "log"}, "scale='log' must be one of sigmoid, percentile"),
        ({"remove": "all"}, "remove='all' must be one of none, position"),
    ],
)
def test_options_that_are_none_are_refused(model: VJEPA, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        feature_pca(model, video(), source_fps=8, **options)  # type: ignore[arg-type]


def test_files_that_hold_no_basis_are_refused(model: VJEPA, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; --save-basis writes one"):
        Basis.load(tmp_path / "missing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="bad.safetensors: holds no basis"):
        Basis.load(tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="tokens of 24 channels do not fit a basis of 12"):
        feature_pca(model, video(), source_fps=8, basis=fit_basis(rows()))
    with pytest.raises(InputError, match="3 tokens are too few for 3 components"):
        fit_basis(rows(3))
