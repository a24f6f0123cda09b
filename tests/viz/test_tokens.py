"""A whole video becomes one volume of tokens, and the frames, places and seconds in it are those of the video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from media import read_numbers, write_video
from tiny_models import IMAGE, VIDEO

from vjepa_sdk import VJEPA, PreprocessConfig
from vjepa_sdk.errors import ConfigError, InputError
from vjepa_sdk.video.transforms import resize_and_crop
from vjepa_sdk.viz import tokens
from vjepa_sdk.viz.tokens import crop_of, encode_volume, window_starts


@pytest.fixture(scope="module")
def model() -> VJEPA:
    return VJEPA.untrained(VIDEO, device="cpu")


def frames(count: int, *, height: int = 40, width: int = 56) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_a_video_of_one_window_gives_the_tokens_that_encode_gives(model: VJEPA) -> None:
    video = frames(4)
    volume = encode_volume(model, video, source_fps=8)
    assert np.array_equal(volume.tokens, model.encode(video, pooling="none"))


def test_where_windows_overlap_the_nearer_to_a_middle_weighs_more(model: VJEPA) -> None:
    # windows of 4 frames, 2 tubelets, each of weight one half at both: tubelet 1 lies in two windows
    video = frames(6)
    volume = encode_volume(model, video, source_fps=8)
    first, second = (model.encode(video[i : i + 4], pooling="none") for i in (0, 2))
    expected = np.stack([first[0], (first[1] + second[0]) / 2, second[1]])
    assert volume.tokens == pytest.approx(expected, abs=1e-5)


def test_triangles_weigh_longer_windows() -> None:
    blend = tokens._Blend(12, np.array([0, 4]), length=8, tubelet=2)
    blend.add(np.full((1, 4, 1, 1, 1), 1.0, np.float32))
    blend.add(np.full((1, 4, 1, 1, 1), 3.0, np.float32))
    weights = np.array([0.5, 1.5, 1.5, 0.5])
    both = (weights[2:] * 1 + weights[:2] * 3) / (weights[2:] + weights[:2])
    assert blend.blended().ravel() == pytest.approx([1, 1, *both, 3, 3])


@pytest.mark.parametrize("num_frames", [1, 2, 5, 7, 8, 9, 30, 33])
@pytest.mark.parametrize(("length", "tubelet"), [(8, 2), (6, 2), (2, 2), (4, 1)])
def test_windows_cover_every_tubelet_and_end_with_the_last(num_frames: int, length: int, tubelet: int) -> None:
    starts = window_starts(num_frames, length, tubelet)
    covered = {start + i for start in starts.tolist() for i in range(length)}
    assert covered >= set(range(num_frames))
    assert all(start % tubelet == 0 for start in starts) and (np.diff(starts) > 0).all()
    assert starts[-1] + length < num_frames + max(tubelet, length - num_frames + tubelet)


def test_frames_and_seconds_are_those_on_screen(model: VJEPA, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", num_frames=30, fps=30, width=144, height=96)
    volume = encode_volume(model, video)
    assert volume.fps == pytest.approx(15) and read_numbers(volume.frames) == list(range(0, 30, 2))
    assert volume.frame_seconds == pytest.approx(np.arange(15) / 15)
    assert volume.tubelet_seconds == pytest.approx((0.5 + 2 * np.arange(8)) / 15)
    part = encode_volume(model, video, fps=10, start_seconds=0.5, end_seconds=0.8)
    assert read_numbers(part.frames) == [15, 18, 21] and part.tokens.shape[0] == 2
    assert volume.frames.shape[1:] == (288, 432, 3)


@pytest.mark.parametrize("offset", ["round", "floor"])
@pytest.mark.parametrize("size", [(64, 64), (48, 85), (91, 50), (301, 177)])
def test_the_outline_is_where_the_crop_is(size: tuple[int, int], offset: str) -> None:
    # a picture in which every pixel tells its own place
    height, width = size
    place = np.stack(np.meshgrid(np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij"), -1)
    picture = torch.from_numpy(np.concatenate([place, place[..., :1]], -1).round().astype(np.uint8)).permute(2, 0, 1)
    preprocess = PreprocessConfig(resize_size=54, crop_size=48, crop_offset=offset)  # type: ignore[arg-type]
    seen = resize_and_crop(picture[None], resize_size=54, crop_size=48, crop_offset=offset)[0].float() / 255  # type: ignore[arg-type]
    top, left, bottom, right = crop_of(height, width, preprocess)
    middle = ((top + bottom) / 2, (left + right) / 2)
    assert (float(seen[0].mean()), float(seen[1].mean())) == pytest.approx(middle, abs=0.02)
    corner = (float(seen[0, 0].mean()), float(seen[1, :, 0].mean()))
    assert corner == pytest.approx((top + 0.5 / 54, left + 0.5 / 54), abs=0.03)
    assert 0 <= top < bottom <= 1 and 0 <= left < right <= 1


def test_a_layer_is_that_of_the_encoder(model: VJEPA) -> None:
    video = frames(4)
    expected = model.extract(video, fps=8, source_fps=8, pooling="none", layers=[0]).embeddings[0, 0]
    assert np.array_equal(encode_volume(model, video, source_fps=8, layer=0).tokens, expected)


def test_what_has_no_volume_is_refused(model: VJEPA, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="this one encodes images; pass another model"):
        encode_volume(VJEPA.untrained(IMAGE, device="cpu"), frames(4), source_fps=8)
    with pytest.raises(ConfigError, match="fps=0 must be a number above 0"):
        encode_volume(model, frames(4), source_fps=8, fps=0)
    with pytest.raises(ConfigError, match=r"layer=\[7\] must name blocks of the 2 from 0 to 1"):
        encode_volume(model, frames(4), source_fps=8, layer=7)
    with pytest.raises(InputError, match="runs from 0 to 0.5 s, nothing of it is left"):
        encode_volume(model, frames(4), source_fps=8, start_seconds=3)
    monkeypatch.setattr(tokens, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="4 frames need .* GiB, more than .* pass a lower fps, or a part of it"):
        encode_volume(model, frames(4), source_fps=8)
