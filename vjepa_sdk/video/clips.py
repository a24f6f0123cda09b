"""Turn a video into the clips a model takes: one for the whole, or one for each window in a single pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from torch import Tensor

from ..config.choices import Decoder, Tail
from ..config.model import MAX_FRAMES, ModelConfig, PreprocessConfig
from ..errors import ConfigError, InputError
from .inputs import FrameSource, is_image, load_frames, open_frames
from .sampling import Sampling
from .transforms import resize_and_crop
from .windows import Windowing, Windows, as_seconds, plan_windows, settle_windows


def cut_clips(frames: Iterator[np.ndarray], frame_indices: np.ndarray) -> Iterator[np.ndarray]:
    """Put frames together into the clips of windows; a frame is held as long as a window to come needs it.

    Args:
        frames: those at `np.unique(frame_indices)`, in this order.
        frame_indices: int64 `[W, T]`, ascending in every row and every column.

    Yields:
        W times `[T, ...]`.
    """
    needed, places = np.unique(frame_indices, return_inverse=True)
    places = places.reshape(frame_indices.shape)
    last_window = np.zeros(len(needed), dtype=np.int64)
    np.maximum.at(last_window, places, np.arange(len(places))[:, None])
    held: dict[int, np.ndarray] = {}
    num_read = 0
    for window in range(len(places)):
        row: list[int] = places[window].tolist()
        while num_read <= row[-1]:
            held[num_read] = next(frames)
            num_read += 1
        yield np.stack([held[place] for place in row])
        for place in set(row):
            if last_window[place] == window:
                del held[place]


@dataclass(frozen=True)
class WindowedVideo:
    """An open video and its windows."""

    windows: Windows
    source: FrameSource
    preprocess: PreprocessConfig

    def clips(self, first: int = 0, last: int | None = None) -> Iterator[np.ndarray]:
        """Yield the clips of windows `first` up to, not including, `last`, `uint8 [T, 3, crop, crop]`.

        Each frame is decoded and cropped at most once, however windows overlap. Held are only cropped frames that an
        open window still needs.
        """
        indices = self.windows.frame_indices[first:last]
        return cut_clips(map(self._crop, self.source.read(np.unique(indices))), indices)

    def _crop(self, frame: Tensor) -> np.ndarray:
        cropped: np.ndarray = resize_and_crop(
            frame,
            resize_size=self.preprocess.resize_size,
            crop_size=self.preprocess.crop_size,
            crop_offset=self.preprocess.crop_offset,
        ).numpy()[0]
        return cropped


@dataclass(frozen=True, kw_only=True)
class WindowLoader:
    """Open a video as windows; small enough to send to a decoding process."""

    preprocess: PreprocessConfig
    windowing: Windowing
    decoder: Decoder = "pyav"
    source_fps: float | None = None
    """Frame rate of arrays, lists of images and frame directories."""

    @classmethod
    def for_model(
        cls,
        config: ModelConfig,
        preprocess: PreprocessConfig,
        *,
        window_seconds: float | None,
        num_frames: int | None,
        fps: float | None,
        stride_seconds: float | None,
        start_seconds: float | None,
        end_seconds: float | None,
        tail: Tail,
        source_fps: float | None,
        decoder: Decoder,
    ) -> WindowLoader:
        """Return what cuts videos into the windows of a model; for the options see `VJEPA.extract`.

        Raises:
            ConfigError: an option that is not valid, or not for this model.
        """
        _check_rates(fps=fps, source_fps=source_fps)
        if num_frames is not None:
            _check_num_frames(num_frames, config)
        count, length = settle_windows(
            window_seconds=as_seconds("window_seconds", window_seconds),
            num_frames=num_frames,
            fps=fps,
            default_num_frames=config.num_frames,
        )
        _check_num_frames(count, config)
        if config.is_image_model and count != 1:
            raise ConfigError(f"num_frames={count} must be 1, since this model encodes images; pass 1 or leave it out")
        stride = as_seconds("stride_seconds", stride_seconds)
        windowing = Windowing(
            num_frames=count,
            window_seconds=length,
            stride_seconds=length if stride is None else stride,
            tail=tail,
            start_seconds=as_seconds("start_seconds", start_seconds),
            end_seconds=as_seconds("end_seconds", end_seconds),
        )
        return cls(preprocess=preprocess, windowing=windowing, decoder=_checked(decoder), source_fps=source_fps)

    @property
    def clip_lengths(self) -> tuple[int, ...]:
        """How many frames a clip may have."""
        return (self.windowing.num_frames,)

    @contextmanager
    def open(self, video: object) -> Iterator[WindowedVideo]:
        """Lay windows over a video and keep it open for reading.

        Raises:
            InputError: not a video, or it has no window (see `plan_windows`).
            VideoDecodeError: a file that cannot be decoded.
        """
        with open_frames(video, source_fps=self.source_fps, decoder=self.decoder) as source:
            windows = plan_windows(source.timestamps, source.end_seconds, self.windowing, name=source.name)
            yield WindowedVideo(windows, source, self.preprocess)


@dataclass(frozen=True, kw_only=True)
class ClipLoader:
    """Turn one video into the clip a model takes; small enough to send to a decoding process."""

    preprocess: PreprocessConfig
    sampling: Sampling
    tubelet_size: int
    takes_images: bool
    """The model's clips are single images (I-JEPA)."""
    has_image_tokenizer: bool
    """Single images have a path of their own in the model (V-JEPA 2.1)."""

    @classmethod
    def for_model(
        cls,
        config: ModelConfig,
        preprocess: PreprocessConfig,
        *,
        num_frames: int | None,
        fps: float | None,
        source_fps: float | None,
        decoder: Decoder,
    ) -> ClipLoader:
        """Return what turns a video into the clip of a model; for the options see `VJEPA.encode`.

        Raises:
            ConfigError: an option that is not valid, or not for this model.
        """
        count = config.num_frames if num_frames is None else num_frames
        _check_num_frames(count, config)
        _check_rates(fps=fps, source_fps=source_fps)
        return cls(
            preprocess=preprocess,
            sampling=Sampling(num_frames=count, fps=fps, source_fps=source_fps, decoder=_checked(decoder)),
            tubelet_size=config.tubelet_size,
            takes_images=config.is_image_model,
            has_image_tokenizer=config.image_tokenizer,
        )

    @property
    def clip_lengths(self) -> tuple[int, ...]:
        """How many frames a clip may have: that of a video, and that of a still."""
        return self.sampling.num_frames, 1 if self.takes_images or self.has_image_tokenizer else self.tubelet_size

    def __call__(self, video: object) -> tuple[np.ndarray, dict[str, Any]]:
        """Return pixels `uint8 [T, 3, crop, crop]`, and which part of the source they are.

        That is `frames`, their numbers, and `start_seconds` to `end_seconds`, None where the rate is not known.
        """
        still = is_image(video)
        if self.takes_images and not still:
            raise InputError(
                "this model encodes images; pass an image file that is no animation, a PIL image or an array [H, W, 3]"
            )
        sampling = replace(self.sampling, num_frames=1, fps=None) if still else self.sampling
        frames = load_frames(video, sampling, self._crop)
        if still and not (self.takes_images or self.has_image_tokenizer):
            pixels = frames.pixels.expand(self.tubelet_size, -1, -1, -1)
            frames = replace(frames, pixels=pixels, indices=frames.indices * self.tubelet_size)
        seconds = {"start_seconds": frames.start_seconds, "end_seconds": frames.end_seconds}
        return frames.pixels.contiguous().numpy(), {"frames": list(frames.indices), **seconds}

    def _crop(self, frames: Tensor) -> Tensor:
        return resize_and_crop(
            frames,
            resize_size=self.preprocess.resize_size,
            crop_size=self.preprocess.crop_size,
            crop_offset=self.preprocess.crop_offset,
        )


def _check_num_frames(count: int, config: ModelConfig) -> None:
    tubelet = config.tubelet_size
    if not isinstance(count, int) or count > MAX_FRAMES:
        raise ConfigError(f"num_frames={count!r} must be an integer of at most {MAX_FRAMES}; pass fewer")
    if count < 1 or (count % tubelet and not (count == 1 and config.image_tokenizer)):
        below = max(count // tubelet * tubelet, tubelet)
        raise ConfigError(
            f"num_frames={count} must be a multiple of tubelet_size={tubelet}; pass {below} or {below + tubelet}"
        )


def _check_rates(*, fps: float | None, source_fps: float | None) -> None:
    for name, rate in (("fps", fps), ("source_fps", source_fps)):
        if rate is not None and not (isinstance(rate, int | float) and 0 < rate < 1e6):
            raise ConfigError(f"{name}={rate!r} must be a number above 0; pass for example 4")


def _checked(decoder: Decoder) -> Decoder:
    if decoder not in get_args(Decoder):
        raise ConfigError(f"decoder={decoder!r} must be one of {', '.join(get_args(Decoder))}")
    return decoder
