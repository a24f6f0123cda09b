"""Normal footage is what surprise is compared with, and only what was measured alike."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_models import VIDEO

from vjepa_sdk import VJEPA, SurpriseNormalizer
from vjepa_sdk.downstream import surprise as surprise_file
from vjepa_sdk.downstream.surprise import NormalFootage
from vjepa_sdk.errors import ConfigError, InputError, OutputError, ResumeError
from vjepa_sdk.video.walk import Walk

OPTIONS: dict[str, Any] = {"fps": 5, "source_fps": 10}
CONFIG = dataclasses.replace(VIDEO, num_frames=8)


def noise(num_frames: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def model() -> VJEPA:
    return VJEPA.untrained(CONFIG, device="cpu")


@pytest.fixture(scope="module")
def footage() -> list[np.ndarray]:
    return [noise(60, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def normalizer(model: VJEPA, footage: list[np.ndarray]) -> SurpriseNormalizer:
    return SurpriseNormalizer.fit(model, footage, **OPTIONS)


def test_usual_is_the_median_and_its_absolute_deviation(
    model: VJEPA, footage: list[np.ndarray], normalizer: SurpriseNormalizer
) -> None:
    errors = np.concatenate([model.surprise(video, **OPTIONS).errors for video in footage])
    assert normalizer.num_windows == len(errors) == 3 * 12
    known = errors[~np.isnan(errors)]
    least = 0.05 * 1.4826 * np.median(np.abs(known - np.median(known)))
    for context in range(3):
        for step in range(4):
            values = errors[:, context, step]
            if step <= context:
                assert np.isnan(normalizer.median[context, step])
                continue
            assert normalizer.median[context, step] == pytest.approx(np.median(values), rel=1e-6)
            spread = 1.4826 * np.median(np.abs(values - np.median(values)))
            assert normalizer.spread[context, step] == pytest.approx(max(spread, least), rel=1e-4)


def test_normal_footage_is_around_zero_and_what_is_new_is_far_above(
    model: VJEPA, normalizer: SurpriseNormalizer
) -> None:
    usual = model.surprise(noise(60, seed=9), normalizer=normalizer, keep_tokens=True, **OPTIONS)
    assert usual.timeline_kind == "fitted" and usual.tokens is not None
    assert abs(np.nanmean(usual.timeline)) < 1
    dark = noise(60, seed=9)
    dark[30:] = 0
    other = model.surprise(dark, normalizer=normalizer, **OPTIONS)
    assert np.nanmax(np.abs(other.timeline)) > 2 * np.nanmax(np.abs(usual.timeline))


def test_each_window_is_standardised_by_its_own_context_and_distance(
    model: VJEPA, normalizer: SurpriseNormalizer
) -> None:
    video = noise(16, seed=5)
    found = model.surprise(video, normalizer=normalizer, **OPTIONS)
    values = (found.errors[0] - normalizer.median) / normalizer.spread
    np.testing.assert_allclose(
        found.timeline, [np.nan, *(np.nanmean(values[:, step]) for step in (1, 2, 3))], rtol=1e-5
    )


def test_p_values_are_shares_of_normal_tubelets(
    model: VJEPA, footage: list[np.ndarray], normalizer: SurpriseNormalizer
) -> None:
    timelines = [model.surprise(video, normalizer=normalizer, **OPTIONS).timeline for video in footage]
    normal = np.concatenate([line[~np.isnan(line)] for line in timelines])
    assert normalizer.num_tubelets == len(normal)
    found = model.surprise(noise(60, seed=9), normalizer=normalizer, **OPTIONS)
    p_values = normalizer.p_values(found)
    assert p_values.dtype == np.float32 and np.isnan(p_values[0])
    for value, p in zip(found.timeline[1:], p_values[1:], strict=True):
        share = (normal >= value).mean()
        assert p == pytest.approx(share, abs=1.5 / len(normal))
        assert p > 0


def test_p_values_need_the_same_timeline(model: VJEPA, normalizer: SurpriseNormalizer) -> None:
    for options in ({}, {"normalizer": normalizer, "horizon": 1}):
        found = model.surprise(noise(20, seed=1), **OPTIONS, **options)
        with pytest.raises(ConfigError, match="p-values need a timeline made with this normaliser and horizon=None"):
            normalizer.p_values(found)


def test_few_windows_share_what_is_usual_over_places_and_many_do_not(
    model: VJEPA, footage: list[np.ndarray], normalizer: SurpriseNormalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert normalizer.place_median.shape == (3, 4, 2, 2)
    assert (normalizer.place_median[0, 1] == normalizer.place_median[0, 1, 0, 0]).all()
    monkeypatch.setattr(surprise_file, "MIN_WINDOWS_BY_PLACE", 30)
    own = SurpriseNormalizer.fit(model, footage, **OPTIONS)
    maps = np.concatenate([found for video in footage for found in [_maps(model, video)]])
    np.testing.assert_allclose(own.place_median[0, 3], np.median(maps[:, 0, 3], axis=0), rtol=1e-5)


def _maps(model: VJEPA, video: np.ndarray) -> np.ndarray:
    meter = model.surprise_meter(**OPTIONS)
    with meter.walk.open(video) as walk:
        return np.concatenate([errors for errors, _ in meter.iter_errors(walk)])


def test_the_sample_of_maps_is_bounded_and_fair(model: VJEPA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surprise_file, "_MAX_PLACE_WINDOWS", 20)
    footage = NormalFootage(model.surprise_meter(**OPTIONS))
    for number in range(2000):
        footage._sample(np.array(number))
    assert len(footage._windows) == 20
    assert 600 < np.mean(footage._windows) < 1400


def test_a_video_that_fails_leaves_nothing_behind(model: VJEPA, footage: list[np.ndarray]) -> None:
    def torn() -> Any:
        meter = model.surprise_meter(**OPTIONS)
        with meter.walk.open(footage[0]) as walk:
            for number, frame in enumerate(walk.frames):
                if number == 20:
                    raise InputError("the rest is damaged")
                yield frame

    collected = NormalFootage(model.surprise_meter(**OPTIONS))
    collected.add(_walk(model, footage[0]))
    with pytest.raises(InputError, match="the rest is damaged"):
        collected.add(Walk("torn", np.arange(31) / 5, torn()))
    collected.add(_walk(model, footage[1]))
    expected = SurpriseNormalizer.fit(model, footage[:2], **OPTIONS)
    np.testing.assert_array_equal(collected.normalizer().median, expected.median)
    np.testing.assert_array_equal(collected.normalizer().place_median, expected.place_median)
    assert collected.normalizer().num_windows == expected.num_windows


def _walk(model: VJEPA, video: np.ndarray) -> Walk:
    with model.surprise_meter(**OPTIONS).walk.open(video) as walk:
        return Walk(walk.name, walk.seconds, iter(list(walk.frames)))


# files


def test_a_fresh_process_standardises_alike(model: VJEPA, normalizer: SurpriseNormalizer, tmp_path: Path) -> None:
    path = normalizer.save(tmp_path / "n.safetensors")
    model.save_pretrained(tmp_path / "model")
    np.save(tmp_path / "v.npy", noise(30, seed=4))
    code = f"""
import numpy as np
from vjepa_sdk import VJEPA, SurpriseNormalizer
model = VJEPA.from_pretrained({str(tmp_path / "model")!r}, device="cpu")
normalizer = SurpriseNormalizer.load({str(path)!r})
found = model.surprise(np.load({str(tmp_path / "v.npy")!r}), normalizer=normalizer, fps=5, source_fps=10)
np.savez({str(tmp_path / "found.npz")!r}, timeline=found.timeline, p=normalizer.p_values(found))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    here = model.surprise(noise(30, seed=4), normalizer=normalizer, **OPTIONS)
    with np.load(tmp_path / "found.npz") as there:
        np.testing.assert_array_equal(there["timeline"], here.timeline)
        np.testing.assert_array_equal(there["p"], normalizer.p_values(here))


def test_another_model_and_other_settings_are_refused(normalizer: SurpriseNormalizer, model: VJEPA) -> None:
    other = VJEPA.untrained(CONFIG, seed=1, device="cpu")
    with pytest.raises(ResumeError, match="fitted with another model; fit it again with this one"):
        other.surprise(noise(30, seed=0), normalizer=normalizer, **OPTIONS)
    for options, what in (
        ({"fps": 10}, r"fps 5.0 -> 10.0"),
        ({"num_frames": 4}, r"num_frames 8 -> 4"),
        ({"stride_tubelets": 2}, r"stride_tubelets 1 -> 2"),
        ({"context": (0.5,)}, r"context_tubelets"),
        ({"targets": "past"}, r"targets window -> past"),
        ({"crop": "square"}, r"crop model -> square"),
    ):
        with pytest.raises(ResumeError, match=what):
            model.surprise(noise(30, seed=0), normalizer=normalizer, **(OPTIONS | options))


@pytest.mark.parametrize("damage", ["truncated", "shape", "nan", "spread", "meta", "text"])
def test_files_that_hold_no_normaliser_are_refused_by_name(
    normalizer: SurpriseNormalizer, tmp_path: Path, damage: str
) -> None:
    path = normalizer.save(tmp_path / "n.safetensors")
    arrays, meta = load_file(path), _metadata(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "text":
        path.write_text("no")
    else:
        if damage == "shape":
            arrays["spread"] = arrays["spread"][:, :2].copy()
        elif damage == "nan":
            arrays["median"][0, 3] = np.nan
        elif damage == "spread":
            arrays["spread"][0, 3] = 0
        else:
            meta = {
                "surprise_normalizer": meta["surprise_normalizer"].replace('"format_version": 1', '"format_version": 9')
            }
        save_file(arrays, path, metadata=meta)
    with pytest.raises(InputError, match=r"n.safetensors: holds no normaliser \(.*\); fit it again"):
        SurpriseNormalizer.load(path)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as stored:
        return dict(stored.metadata())


def test_a_normaliser_is_not_written_over(normalizer: SurpriseNormalizer, tmp_path: Path) -> None:
    path = normalizer.save(tmp_path / "n.safetensors")
    with pytest.raises(OutputError, match="exists; pass overwrite=True"):
        normalizer.save(path)
    normalizer.save(path, overwrite=True)
    with pytest.raises(ConfigError, match=r"the suffix '.pkl' must be .safetensors"):
        normalizer.save(tmp_path / "n.pkl")
    with pytest.raises(OutputError, match="its directory does not exist"):
        normalizer.save(tmp_path / "no" / "n.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        SurpriseNormalizer.load(tmp_path / "other.safetensors")


def test_too_little_footage_is_refused(model: VJEPA) -> None:
    with pytest.raises(InputError, match="9 windows of normal footage are too few .* for at least 10"):
        SurpriseNormalizer.fit(model, [noise(48, seed=0)], **OPTIONS)
    with pytest.raises(InputError, match="0 windows"):
        SurpriseNormalizer.fit(model, [], **OPTIONS)
