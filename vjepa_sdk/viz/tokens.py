"""Encode a video into one volume of tokens that goes on through all of it, with the frames they stand for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ..config.choices import Decoder
from ..config.model import PreprocessConfig
from ..errors import ConfigError, InputError
from ..inference.vjepa import VJEPA
from ..runtime.progress import progress_bar
from ..video.clips import cut_clips
from ..video.inputs import FrameSource, open_frames
from ..video.resize import resize
from ..video.sampling import frames_at
from ..video.transforms import resize_and_crop

MAX_FPS = 16.0
"""Frames a second that are encoded where nobody asks for a rate: of a faster video every second, third, ... frame."""
MAX_BYTES = 2 << 30
"""Of the tokens of one video, and of its frames."""

_SHOWN_SIDE, _LONGEST_SIDE = 288, 768


@dataclass(frozen=True)
class TokenVolume:
    """Tokens of a whole video, where they lie, and its frames as they are shown."""

    tokens: np.ndarray
    """float32 `[T', H', W', D]`."""
    frames: np.ndarray
    """uint8 `[T, h, w, 3]`: the encoded frames, made smaller, uncropped."""
    crop: tuple[float, float, float, float]
    """What the model sees of a frame: top, left, bottom, right, from 0 to 1 of its height and width."""
    frame_seconds: np.ndarray
    """float64 `[T]`: when each frame is shown."""
    tubelet_seconds: np.ndarray
    """float64 `[T']`: the middle of the frames that a token covers."""
    fps: float
    name: str
    """Path of the video; empty for arrays."""


def encode_volume(
    model: VJEPA,
    video: object,
    *,
    layer: int | None = None,
    fps: float | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    source_fps: float | None = None,
    batch_size: int = 8,
    decoder: Decoder = "pyav",
    show_progress_bar: bool | None = None,
) -> TokenVolume:
    """Encode all of a video in windows that overlap by half, and blend what two windows say of one place.

    A window's weight falls linearly from its middle to its ends. A video shorter than a window repeats its last frame
    for the model; what is encoded of that is dropped.

    Args:
        layer: number of a block, from 0; None: the model's output.
        fps: frames a second to encode; None: the video's own rate, or an even fraction of it of at most `MAX_FPS`.
        start_seconds: where to begin, on the clock of the video's time stamps.
        end_seconds: where to stop.
        source_fps: frame rate of arrays, lists of images and frame directories.

    Raises:
        ConfigError: an image model, a block the model does not have, or a rate that is none.
        InputError: not a video, nothing in the part asked for, or more tokens than `MAX_BYTES`.
        VideoDecodeError: a file that cannot be decoded.
    """
    if model.config.is_image_model:
        raise ConfigError("pictures over time need a video model, this one encodes images; pass another model")
    layers = None if layer is None else model.layer_numbers([layer], name="layer")
    with open_frames(video, source_fps=source_fps, decoder=decoder) as source:
        rate = _rate(source, fps)
        indices, seconds = _sampled(source, rate, start_seconds, end_seconds)
        _check_size(model, len(indices), source.name)
        frames, crops, crop = read_frames(source, indices, model.preprocess, show_progress_bar)
    starts = window_starts(len(crops), model.config.num_frames, model.config.tubelet_size)
    places = np.minimum(starts[:, None] + np.arange(model.config.num_frames), len(crops) - 1)
    windows = cut_clips(iter(crops), places)
    volume = _Blend(len(crops), starts, model.config.num_frames, model.config.tubelet_size)
    with progress_bar("encode", total=len(starts), show=show_progress_bar, unit="window") as bar:
        while batch := list(islice(windows, batch_size)):
            features = model.embed_clips(torch.from_numpy(np.stack(batch)), pooling="none", layers=layers)
            volume.add((features if layers is None else features[:, 0]).cpu().numpy())
            bar.advance(by=len(batch))
    tokens = volume.blended()
    return TokenVolume(
        tokens=tokens,
        frames=frames,
        crop=crop,
        frame_seconds=seconds,
        tubelet_seconds=_middles(seconds, len(tokens), model.config.tubelet_size, rate),
        fps=rate,
        name=os.fspath(video) if isinstance(video, str | os.PathLike) else "",
    )


def window_starts(num_frames: int, length: int, tubelet: int) -> np.ndarray:
    """Return where windows start that overlap by half; the last one ends with the last tubelet.

    Args:
        num_frames: of the video.
        length: of a window, in frames.
    """
    padded = -(-num_frames // tubelet) * tubelet
    last = max(0, padded - length)
    stride = max(tubelet, length // (2 * tubelet) * tubelet)
    starts = np.arange(0, last, stride)
    return np.append(starts, last).astype(np.int64)


class _Blend:
    """Add up windows, each weighted by a triangle over its length."""

    def __init__(self, num_frames: int, starts: np.ndarray, length: int, tubelet: int) -> None:
        self._count, self._starts, self._done = -(-num_frames // tubelet), starts // tubelet, 0
        places = np.arange(length // tubelet) + 0.5
        self._weights = np.minimum(places, places[::-1]).astype(np.float32)
        self._total = np.zeros(max(self._count, int(self._starts[-1]) + len(places)), np.float32)
        self._sums = np.empty(0, np.float32)

    def add(self, windows: np.ndarray) -> None:
        """Add windows `[B, t, H', W', D]`, in their order."""
        if not len(self._sums):
            self._sums = np.zeros((len(self._total), *windows.shape[2:]), np.float32)
        for window in windows:
            start = self._starts[self._done]
            part = slice(start, start + len(window))
            self._sums[part] += self._weights[:, None, None, None] * window
            self._total[part] += self._weights
            self._done += 1

    def blended(self) -> np.ndarray:
        """Return the mean, without what was padded."""
        self._sums /= self._total[:, None, None, None]
        return self._sums[: self._count]


def _rate(source: FrameSource, fps: float | None) -> float:
    if fps is not None:
        if not 0 < fps < 1e4:
            raise ConfigError(f"fps={fps:g} must be a number above 0; pass for example 8")
        return fps
    own = len(source.timestamps) / max(source.end_seconds - float(source.timestamps[0]), 1e-6)
    return own / int(np.ceil(own / MAX_FPS - 1e-6))


def _sampled(source: FrameSource, rate: float, start: float | None, end: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the frames on screen at a steady rate, and those moments."""
    first, last = float(source.timestamps[0]), source.end_seconds
    begin, stop = max(first, first if start is None else start), min(last, last if end is None else end)
    if begin >= stop:
        raise InputError(f"{source.name} runs from {first:g} to {last:g} s, nothing of it is left; pass another part")
    seconds = begin + np.arange(max(1, round((stop - begin) * rate))) / rate
    return frames_at(source.timestamps, seconds), seconds


def _check_size(model: VJEPA, num_frames: int, name: str) -> None:
    config, side = model.config, model.preprocess.crop_size
    tokens = num_frames / config.tubelet_size * (side / config.patch_size) ** 2
    check_frames(num_frames, name, token_bytes=4 * tokens * config.embed_dim)


def check_frames(num_frames: int, name: str, *, token_bytes: float = 0.0) -> None:
    """Raise InputError if so many frames as they are shown, or their tokens, are more than `MAX_BYTES`."""
    size = max(token_bytes, num_frames * _SHOWN_SIDE * _LONGEST_SIDE * 3)
    if size > MAX_BYTES:
        raise InputError(
            f"{name} {num_frames} frames need {size / 2**30:.1f} GiB, more than {MAX_BYTES >> 30} GiB; "
            "pass a lower fps, or a part of it with start_seconds and end_seconds"
        )


def read_frames(
    source: FrameSource, indices: np.ndarray, preprocess: PreprocessConfig, show: bool | None
) -> tuple[np.ndarray, list[np.ndarray], tuple[float, float, float, float]]:
    """Return frames as they are shown `[T, h, w, 3]`, as the model sees them, and which part that is."""
    needed, places = np.unique(indices, return_inverse=True)
    shown: list[np.ndarray] = []
    crops: list[np.ndarray] = []
    crop = (0.0, 0.0, 1.0, 1.0)
    with progress_bar("read", total=len(needed), show=show, unit="frame") as bar:
        for frame in source.read(needed):
            crop = crop_of(frame.shape[-2], frame.shape[-1], preprocess)
            shown.append(_small(frame))
            crops.append(
                resize_and_crop(
                    frame,
                    resize_size=preprocess.resize_size,
                    crop_size=preprocess.crop_size,
                    crop_offset=preprocess.crop_offset,
                ).numpy()[0]
            )
            bar.advance()
    return np.stack([shown[place] for place in places]), [crops[place] for place in places], crop


def crop_of(height: int, width: int, preprocess: PreprocessConfig) -> tuple[float, float, float, float]:
    """Return the part of a frame that `resize_and_crop` keeps: top, left, bottom, right, from 0 to 1."""
    short, size = preprocess.resize_size, preprocess.crop_size
    sides = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
    near = [
        (round((side - size) / 2) if preprocess.crop_offset == "round" else (side - size) // 2) / side for side in sides
    ]
    return near[0], near[1], near[0] + size / sides[0], near[1] + size / sides[1]


def _small(frame: Tensor) -> np.ndarray:
    """Return a frame `[1, 3, H, W]` as `[h, w, 3]`, its short side of 288 pixels unless it is very long."""
    height, width = frame.shape[-2:]
    scale = min(_SHOWN_SIDE / min(height, width), _LONGEST_SIDE / max(height, width))
    # films need even numbers
    size = [max(2, round(side * scale / 2) * 2) for side in (height, width)]
    pixels: np.ndarray = resize(frame, size, antialias=True)[0].permute(1, 2, 0).contiguous().numpy()
    return pixels


def _middles(seconds: np.ndarray, count: int, tubelet: int, rate: float) -> np.ndarray:
    middles: np.ndarray = seconds[0] + (np.arange(count) * tubelet + (tubelet - 1) / 2) / rate
    return middles


def layer_name(model: VJEPA, layer: int | None) -> str:
    """Return what a caption says of the layer."""
    return f"block {model.config.depth - 1 if layer is None else layer} of {model.config.depth}"


def joined(volumes: Sequence[TokenVolume]) -> np.ndarray:
    """Return the tokens of all volumes as rows `[N, D]`."""
    return np.concatenate([volume.tokens.reshape(-1, volume.tokens.shape[-1]) for volume in volumes])
