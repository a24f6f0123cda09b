"""`VJEPA.surprise` is the published protocol, and sees nothing it must not see."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media import write_video
from tiny_models import IMAGE, VIDEO, save_tiny
from torch import Tensor

from vjepa_sdk import VJEPA
from vjepa_sdk.config.surprise import PROTOCOLS, settle_surprise
from vjepa_sdk.errors import ConfigError, InputError, WeightsError
from vjepa_sdk.inference import prediction_error
from vjepa_sdk.inference.surprise import Surprise
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.models.layers import gather_tokens
from vjepa_sdk.weights.directory import Pretrained, save_model_directory

LONGER = dataclasses.replace(VIDEO, num_frames=8)
TWO_LEVELS = dataclasses.replace(
    LONGER, level_layers=(0, 1), predictor_levels=2, predictor_context=True, num_mask_tokens=1
)
OPTIONS: dict[str, Any] = {"fps": 5, "source_fps": 10, "batch_size": 3}


def noise(num_frames: int, *, seed: int = 0, size: tuple[int, int] = (40, 52)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, *size, 3), np.uint8)


@pytest.fixture(scope="module")
def model() -> VJEPA:
    return VJEPA.untrained(LONGER, device="cpu")


@pytest.fixture(scope="module", params=[LONGER, TWO_LEVELS], ids=["one level", "two levels"])
def any_model(request: pytest.FixtureRequest) -> VJEPA:
    return VJEPA.untrained(request.param, device="cpu")


def clip_of(model: VJEPA, frames: np.ndarray) -> Tensor:
    """Return frames as the networks take them: `[1, 3, T, H, W]`."""
    pixels = model.clip_loader(num_frames=len(frames))(frames)[0] / 255.0
    mean, std = (np.array(values)[:, None, None] for values in (model.preprocess.mean, model.preprocess.std))
    return torch.from_numpy(((pixels - mean) / std).transpose(1, 0, 2, 3)[None].astype(np.float32))


def features_of(model: VJEPA, clip: Tensor, *, frames: int | None = None) -> np.ndarray:
    """Return the layer-normed features `[N, O]` of a clip, of which only the first frames are seen."""
    grid = model.encoder.grid_of(clip)
    count = (grid[0] if frames is None else frames // 2) * grid[1] * grid[2]
    with torch.no_grad():
        raw = model.encoder.forward_levels(clip, torch.arange(count)[None]).numpy().astype(np.float64)[0]
    levels = raw.reshape(count, model.config.predictor_levels, -1)
    spread = np.sqrt(levels.var(axis=2, keepdims=True) + 1e-5)
    return ((levels - levels.mean(axis=2, keepdims=True)) / spread).reshape(count, -1)


def reference(model: VJEPA, sampled: np.ndarray, contexts: tuple[int, ...], *, stride: int = 1) -> np.ndarray:
    """Return the errors `[W, C, T']` of frames, every one of which is looked at, in loops."""
    length, places = 8, 4
    windows = []
    for first in range(0, len(sampled) - length + 1, 2 * stride):
        clip = clip_of(model, sampled[first : first + length])
        truth = features_of(model, clip)
        window = np.full((len(contexts), length // 2), np.nan)
        for number, context in enumerate(contexts):
            for step in range(context, length // 2):
                hidden = range(context * places, length // 2 * places)
                guess = model.predict(clip, context=range(context * places), target=hidden).numpy()[0]
                rows = slice((step - context) * places, (step - context + 1) * places)
                window[number, step] = np.abs(guess[rows] - truth[step * places : (step + 1) * places]).mean()
        windows.append(window)
    return np.stack(windows)


def test_errors_are_those_of_the_protocol_written_as_loops(any_model: VJEPA) -> None:
    video = noise(30)
    found = any_model.surprise(video, **OPTIONS)
    assert found.contexts == (1, 2, 3)
    expected = reference(any_model, video[::2], found.contexts)
    np.testing.assert_allclose(found.errors, expected, atol=1e-6)
    windows = [[np.mean(row[~np.isnan(row)]) for row in window] for window in expected]
    np.testing.assert_allclose(found.windows, windows, atol=1e-6)
    assert found.score() == pytest.approx(np.mean([min(window) for window in windows]), abs=1e-6)
    assert found.score(reduce_contexts=2, reduce_time="max") == pytest.approx(max(w[1] for w in windows), abs=1e-6)
    assert found.score(reduce_contexts="mean", reduce_time="p95") == pytest.approx(
        np.percentile(np.mean(windows, axis=1), 95), abs=1e-6
    )


def test_windows_lie_a_stride_apart(model: VJEPA) -> None:
    video = noise(40)
    found = model.surprise(video, stride_tubelets=3, context=(0.5,), **OPTIONS)
    np.testing.assert_allclose(found.errors, reference(model, video[::2], (2,), stride=3), atol=1e-6)
    np.testing.assert_allclose(found.start_seconds, [0, 1.2, 2.4])
    np.testing.assert_allclose(found.end_seconds, [1.6, 2.8, 4.0])
    np.testing.assert_allclose(found.context_end_seconds, [[0.8], [2.0], [3.2]])
    np.testing.assert_allclose(found.tubelet_start_seconds, np.arange(10) * 0.4)
    np.testing.assert_allclose(found.tubelet_end_seconds, np.arange(1, 11) * 0.4)


def test_the_context_encoder_sees_and_the_target_encoder_tells(tmp_path: Path) -> None:
    first, second = (VJEPA.untrained(LONGER, seed=seed, device="cpu") for seed in (0, 1))
    assert first.predictor is not None
    save_model_directory(
        tmp_path / "model",
        config=LONGER,
        preprocess=first.preprocess,
        modules={"encoder": first.encoder, "context_encoder": second.encoder, "predictor": first.predictor},
        encoder_weights="target",
        provenance={"fps": 5},
        card="",
    )
    video, places = noise(16), 4
    sight, truth = (
        VJEPA.from_pretrained(tmp_path / "model", weights=name, device="cpu") for name in ("context", "target")
    )
    clip = clip_of(truth, video[::2])
    guess = sight.predict(clip, context=range(2 * places), target=range(2 * places, 4 * places)).numpy()[0]
    expected = np.abs(guess - features_of(truth, clip)[2 * places :]).mean()
    for loaded in (sight, truth):
        found = loaded.surprise(video, context=(0.5,), source_fps=10)
        assert found.meta["encoders"] == "two" and found.meta["settings"]["fps"] == 5
        assert found.score() == pytest.approx(expected, abs=1e-6)


def test_one_encoder_does_both_and_says_so_once(model: VJEPA, caplog: pytest.LogCaptureFixture) -> None:
    fresh = VJEPA.untrained(LONGER, device="cpu")
    with caplog.at_level(logging.WARNING):
        found = [fresh.surprise(noise(16), **OPTIONS) for _ in range(2)]
    assert found[0].meta["encoders"] == "one"
    assert len([record for record in caplog.records if "only the target encoder is there" in record.message]) == 1


def test_the_floor_is_the_last_context_tubelet_held_still(any_model: VJEPA) -> None:
    video, places = noise(16), 4
    found = any_model.surprise(video, floor=True, **OPTIONS)
    clip = clip_of(any_model, video[::2])
    truth = features_of(any_model, clip)
    assert found.floor is not None
    for number, context in enumerate((1, 2, 3)):
        held = features_of(any_model, clip, frames=2 * context)[-places:]
        for step in range(context, 4):
            error = np.abs(held - truth[step * places : (step + 1) * places]).mean()
            assert found.floor[0, number, step] == pytest.approx(error, abs=1e-6)
    assert found.floor_score(reduce_contexts=1) == pytest.approx(np.nanmean(found.floor[0, 0]), abs=1e-6)


# what must not be seen


def leaky(
    encoder: VideoEncoder, predictor: Any, clips: Tensor, *, context: Tensor, target: Tensor, mask_index: int
) -> Tensor:
    """Encode past and future together and cut afterwards, as others do."""
    visible, hidden = (index.expand(len(clips), -1) for index in (context, target))
    encode = encoder if encoder.config.predictor_levels == 1 else encoder.forward_levels
    everything = encode(clips)
    predicted: Tensor = predictor(
        gather_tokens(everything, visible), visible, hidden, grid=encoder.grid_of(clips), mask_index=mask_index
    )
    return predicted.float()


def check_blindness(
    model: VJEPA, *, fixed_frame: int, predict: Callable[..., Tensor] | None = None, **options: Any
) -> None:
    """Replace all frames from one on by noise, and compare, bit by bit, everything that lies before it."""
    original = prediction_error.predict_tokens
    first = noise(120)
    second = np.concatenate([first[:fixed_frame], noise(120 - fixed_frame, seed=1)])
    results: list[Surprise] = []
    predictions: list[list[Tensor]] = []
    for video in (first, second):
        made: list[Tensor] = []

        def recorded(*arguments: Any, made: list[Tensor] = made, **given: Any) -> Tensor:
            made.append((predict or original)(*arguments, **given))
            return made[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prediction_error, "predict_tokens", recorded)
            results.append(model.surprise(video, source_fps=10, keep_tokens=True, batch_size=1, **options))
        predictions.append(made)
    a, b = results
    until = fixed_frame / 10 + 1e-9
    is_past = a.end_seconds <= until
    assert is_past.any() and not is_past.all(), "the test would prove nothing"
    assert np.array_equal(a.errors[is_past], b.errors[is_past], equal_nan=True)
    assert not np.array_equal(a.errors[~is_past], b.errors[~is_past], equal_nan=True)
    # predictions of a window, context after context
    knows_past_only = (a.context_end_seconds <= until).ravel()
    assert (knows_past_only & ~np.repeat(is_past, len(a.contexts))).any(), "the test would prove nothing"
    same = np.array([torch.equal(left, right) for left, right in zip(*predictions, strict=True)])
    assert same[knows_past_only].all(), "a prediction depends on what comes after its context"
    assert not same.all()
    if options.get("targets") == "past":
        ends = a.start_seconds[:, None] + (np.arange(a.errors.shape[2]) + 1) * (a.tubelet_end_seconds[0])
        early = np.broadcast_to((ends <= until)[:, None], a.errors.shape)
        assert np.array_equal(a.errors[early], b.errors[early], equal_nan=True)


CASES = {
    "our own": {"fps": 5},
    "intphys": {"protocol": "intphys"},
    "grasp": {"protocol": "grasp", "frame_step": 2},
    "inflevel": {"protocol": "inflevel", "frame_step": 2},
    "past": {"fps": 5, "targets": "past"},
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_that_must_not_be_seen_is_seen(any_model: VJEPA, name: str) -> None:
    check_blindness(any_model, fixed_frame=80, **CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_a_leak_would_be_found(any_model: VJEPA, name: str) -> None:
    with pytest.raises(AssertionError, match="depends on what comes after its context"):
        check_blindness(any_model, fixed_frame=80, predict=leaky, **CASES[name])


def test_every_protocol_is_among_the_cases() -> None:
    assert {case.get("protocol") for case in CASES.values()} == {None, *PROTOCOLS}


class _Doubled:
    """A normaliser that needs no footage."""

    def check(self, identity: object) -> None:
        pass

    def standardize(self, errors: np.ndarray) -> np.ndarray:
        return 2 * errors

    def standardize_tokens(self, errors: np.ndarray) -> np.ndarray:
        return 2 * errors


def test_with_targets_of_the_past_the_timeline_is_causal(any_model: VJEPA) -> None:
    first = noise(60)
    second = np.concatenate([first[:40], noise(20, seed=1)])
    a, b = (
        any_model.surprise(
            v, targets="past", normalizer=_Doubled(), keep_tokens=True, horizon=1, context=(0.25,), **OPTIONS
        )
        for v in (first, second)
    )
    early = a.tubelet_end_seconds <= 4.0 + 1e-9
    assert a.tokens is not None and b.tokens is not None
    assert np.array_equal(a.timeline[early], b.timeline[early], equal_nan=True)
    assert np.array_equal(a.tokens[early], b.tokens[early], equal_nan=True)
    assert not np.array_equal(a.timeline[~early], b.timeline[~early])


def test_frames_between_those_looked_at_change_nothing(model: VJEPA) -> None:
    video = noise(40)
    other = video.copy()
    other[1::2] = noise(20, seed=1)
    a, b = (model.surprise(v, **OPTIONS) for v in (video, other))
    assert np.array_equal(a.errors, b.errors, equal_nan=True)


def test_what_lies_outside_the_square_or_the_part_asked_for_changes_nothing(model: VJEPA) -> None:
    video = noise(40)
    beside, before, after = video.copy(), video.copy(), video.copy()
    beside[:, :, :6], beside[:, :, 46:] = 0, 0
    before[:10], after[30:] = 0, 0
    options = OPTIONS | {"crop": "square", "start_seconds": 1.0, "end_seconds": 3.0}
    first, *others = (model.surprise(v, **options) for v in (video, beside, before, after))
    for other in others:
        assert np.array_equal(first.errors, other.errors, equal_nan=True)
    assert not np.array_equal(first.errors, model.surprise(noise(40, seed=1), **options).errors, equal_nan=True)


# the curve


@pytest.mark.parametrize("horizon", [None, 1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_timeline_is_the_mean_of_errors_against_what_is_usual_for_their_context_and_distance(
    model: VJEPA, horizon: int | None, stride: int
) -> None:
    found = model.surprise(noise(40), horizon=horizon, stride_tubelets=stride, keep_tokens=True, **OPTIONS)
    usual: dict[tuple[int, int], list[float]] = {}
    for window in found.errors:
        for context, row in zip(found.contexts, window, strict=True):
            for step in range(context, 4):
                usual.setdefault((context, step), []).append(float(row[step]))
    terms: dict[int, list[float]] = {}
    for number, window in enumerate(found.errors):
        for context, row in zip(found.contexts, window, strict=True):
            for step in range(context, 4):
                distance = step - context + 1
                if horizon is None or distance <= horizon:
                    value = float(row[step]) / float(np.median(usual[context, step]))
                    terms.setdefault(number * stride + step, []).append(value)
    expected = [np.mean(terms[place]) if place in terms else math.nan for place in range(len(found.timeline))]
    assert math.isnan(expected[0]) and found.timeline_kind == "relative"
    np.testing.assert_allclose(found.timeline, expected, rtol=1e-6)
    assert found.tokens is not None and found.tokens.shape == (len(expected), 2, 2)
    np.testing.assert_allclose(found.tokens.mean(axis=(1, 2)), expected, rtol=1e-5)
    peak = int(np.nanargmax(expected))
    assert found.peak == (pytest.approx(0.4 * peak + 0.2), pytest.approx(expected[peak], rel=1e-6))


def test_a_normaliser_takes_the_place_of_the_videos_own_median(model: VJEPA) -> None:
    plain = model.surprise(noise(20), context=(0.75,), **OPTIONS)
    fitted = model.surprise(noise(20), context=(0.75,), normalizer=_Doubled(), keep_tokens=True, **OPTIONS)
    assert fitted.timeline_kind == "fitted" and fitted.tokens is not None
    np.testing.assert_allclose(fitted.timeline[3:], 2 * plain.errors[:, 0, 3], rtol=1e-6)
    np.testing.assert_allclose(fitted.tokens.mean(axis=(1, 2))[3:], fitted.timeline[3:], rtol=1e-5)


def test_maps_show_where(model: VJEPA) -> None:
    calm = np.full((24, 32, 32, 3), 90, np.uint8)
    struck = calm.copy()
    struck[12:, 16:, :16] = noise(12, size=(16, 16))
    a, b = (model.surprise(v, keep_tokens=True, normalizer=_Doubled(), **OPTIONS).tokens for v in (calm, struck))
    assert a is not None and b is not None
    places = np.abs(b - a)[-1]
    assert np.unravel_index(places.argmax(), places.shape) == (1, 0)


def test_the_result_is_plain_json(model: VJEPA) -> None:
    found = model.surprise(noise(16), floor=True, keep_tokens=True, **OPTIONS)
    read = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert read["timeline"][0] is None and read["windows"] == [[pytest.approx(float(v)) for v in found.windows[0]]]
    assert repr(found).startswith("Surprise(1 windows, score ")


def test_batch_size_changes_rounding_only(model: VJEPA) -> None:
    single, several = (model.surprise(noise(40), **(OPTIONS | {"batch_size": size})) for size in (1, 5))
    np.testing.assert_allclose(single.errors, several.errors, atol=1e-6)


# which frames and pixels


def test_frames_are_those_of_extract(model: VJEPA, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=33)
    walk = model.surprise_meter(fps=4).walk
    with walk.open(path) as opened:
        frames = np.stack(list(opened.frames))
    rows = model.window_loader(fps=4, stride_seconds=0.5, tail="drop")
    with rows.open(path) as windows:
        clips = list(windows.clips())
    assert len(clips) == 3 and len(frames) == 13
    for number, clip in enumerate(clips):
        np.testing.assert_array_equal(clip, frames[2 * number : 2 * number + 8])
    np.testing.assert_allclose(opened.seconds, np.arange(14) / 4)


def test_a_part_of_a_video_is_a_video(model: VJEPA) -> None:
    video = noise(60)
    whole = model.surprise(video[20:50], **OPTIONS)
    for options in ({"fps": 5}, {"fps": None, "frame_step": 2}):
        part = model.surprise(video, start_seconds=2.0, end_seconds=5.0, **(OPTIONS | options))
        np.testing.assert_array_equal(part.errors, whole.errors)
        np.testing.assert_allclose(part.start_seconds, whole.start_seconds + 2.0)


def test_a_rate_above_the_videos_repeats_frames(model: VJEPA) -> None:
    video = noise(8)
    found = model.surprise(video, **(OPTIONS | {"fps": 20}))
    np.testing.assert_array_equal(
        found.errors, model.surprise(video.repeat(2, axis=0), **(OPTIONS | {"fps": 10})).errors
    )


def test_intphys_looks_at_every_second_of_98_frames_in_17_windows(model: VJEPA) -> None:
    video = noise(105, size=(32, 32))
    found = model.surprise(video, protocol="intphys", source_fps=10)
    assert found.errors.shape == (17, 5, 8) and found.contexts == (1, 2, 3, 4, 5)
    np.testing.assert_allclose(found.frame_seconds, np.append(np.arange(0, 96, 2), 96) / 10)


@pytest.mark.parametrize(("protocol", "box"), [("intphys", (0, 40, 6, 46)), ("inflevel", (0, 40, 0, 52))])
def test_official_pixels_are_resized_without_antialiasing(
    model: VJEPA, protocol: Any, box: tuple[int, int, int, int]
) -> None:
    video = noise(130)
    with model.surprise_meter(protocol=protocol, frame_step=1, source_fps=10).walk.open(video) as walk:
        frame = next(walk.frames)
    top, bottom, left, right = box
    part = torch.from_numpy(video[0, top:bottom, left:right]).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(part, size=(32, 32), mode="bilinear", antialias=False)[0]
    np.testing.assert_allclose(frame, expected.numpy(), atol=1.0)  # ours are rounded to 8 bits


@pytest.mark.parametrize(
    ("num_frames", "expected"), [(4, (1,)), (8, (1, 2, 3)), (16, (1, 2, 3, 4, 5)), (48, (3, 6, 9, 12, 15))]
)
def test_contexts_are_shares_rounded_to_tubelets(num_frames: int, expected: tuple[int, ...], model: VJEPA) -> None:
    assert model.surprise_meter(fps=5, num_frames=num_frames).settings.context_tubelets == expected


# what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "does not say at which rate it was trained; pass fps="),
        ({"fps": 5, "frame_step": 2}, "fps=5.0 and frame_step=2 exclude each other; pass one"),
        ({"fps": 0}, "fps=0.0 must lie between"),
        ({"fps": "fast"}, "fps='fast' must be"),
        ({"fps": 5, "num_frames": 7}, "num_frames=7 must be a multiple of tubelet_size=2, at least 4; pass 6 or 8"),
        ({"fps": 5, "num_frames": 2}, "num_frames=2 must be .*; pass 4 or 6"),
        ({"fps": 5, "num_frames": -8}, "num_frames=-8 must be an integer of at least 4"),
        ({"fps": 5, "stride_tubelets": 0}, "stride_tubelets=0 must lie between 1"),
        ({"fps": 5, "context": ()}, "must be shares of a window, between 0 and 1"),
        ({"fps": 5, "context": (0.5, 1)}, "must be shares of a window, between 0 and 1"),
        ({"fps": 5, "context": (0.9,)}, "leaves nothing to predict of a window of 4 tubelets; pass shares below 0.88"),
        ({"fps": 5, "targets": "future"}, "targets='future' must be one of 'window', 'past'"),
        ({"fps": 5, "crop": "none"}, "crop='none' must be one of"),
        ({"protocol": "intfys"}, "unknown protocol 'intfys'; did you mean 'intphys'"),
        ({"fps": 5, "reduce": 5}, "reduce=5 must be 'min', 'mean', or the tubelets of one context: 1, 2, 3"),
        ({"fps": 5, "horizon": 4}, "horizon=4 must be from 1 to 3 tubelets"),
        ({"fps": 5, "batch_size": 0}, "batch_size=0 must be"),
    ],
)
def test_options_that_make_no_sense_are_refused(model: VJEPA, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model.surprise(noise(40), source_fps=10, **options)


def test_a_video_shorter_than_a_window_is_refused_with_its_length(model: VJEPA) -> None:
    with pytest.raises(InputError, match=r"has 7 frames at fps=5, too short for a window of 8"):
        model.surprise(noise(15), **OPTIONS)
    with pytest.raises(InputError, match=r"has 6 frames with frame_step=2, too short"):
        model.surprise(noise(12), frame_step=2, source_fps=10)
    with pytest.raises(InputError, match=r"has no frame rate, which seconds need; pass source_fps="):
        model.surprise(noise(15), fps=5)


def test_models_that_predict_no_future_are_refused(model: VJEPA, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this model encodes images"):
        VJEPA.from_pretrained(save_tiny(tmp_path / "image", IMAGE)).surprise(noise(16), **OPTIONS)
    distilled = VJEPA.untrained(dataclasses.replace(VIDEO, predictor_out_dim=40), device="cpu")
    with pytest.raises(WeightsError, match="predicts the 40 features of the model it was distilled from"):
        distilled.surprise(noise(16), **OPTIONS)
    bare = Pretrained(LONGER, model.preprocess, model.encoder, None, "target", {})
    with pytest.raises(WeightsError, match="has no predictor"):
        VJEPA(bare, device=torch.device("cpu")).surprise(noise(16), **OPTIONS)


def test_scores_that_were_not_measured_are_refused(model: VJEPA) -> None:
    found = model.surprise(noise(16), **OPTIONS)
    with pytest.raises(ConfigError, match="the floor was not measured; pass floor=True"):
        found.floor_score()
    with pytest.raises(ConfigError, match="reduce_time='median' must be one of mean, max, p95"):
        found.score(reduce_time="median")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="reduce='max' must be"):
        found.window_scores("max")  # type: ignore[arg-type]


def test_what_is_given_goes_before_the_protocol() -> None:
    settings = settle_surprise(
        protocol="intphys",
        num_frames=8,
        fps=6,
        frame_step=None,
        stride_tubelets=1,
        context=(0.5,),
        targets="window",
        crop="model",
        default_num_frames=4,
        default_fps=None,
        tubelet_size=2,
    )
    assert (settings.num_frames, settings.fps, settings.frame_step, settings.max_frames) == (8, 6.0, None, None)
    assert settings.crop == "model"
