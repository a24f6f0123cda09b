"""Cut a video into the clips of an official frozen evaluation: some segments, each seen in some views.

Source: `src/datasets/video_dataset.py` of the official V-JEPA 2 code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..config.choices import Decoder
from ..config.model import ModelConfig, PreprocessConfig
from ..config.protocols import Augmentation, ClipSet
from ..errors import ConfigError, InputError
from .inputs import FrameSource, is_image, open_numbered
from .probe_views import random_image, random_view, shorten, square_views
from .sampling import frames_of_part
from .transforms import resize_and_crop

Clip = tuple[np.ndarray, dict[str, Any]]
"""Pixels `uint8 [T, 3, crop, crop]`; `frames`, `start_seconds` and `end_seconds`."""


def segment_indices(num_available: int, clip_set: ClipSet, generator: np.random.Generator | None = None) -> np.ndarray:
    """Choose the frames of a clip in each segment of a video.

    A clip spans `num_frames * frame_step` frames. Where segments are longer, it lies within its own. In a shorter video
    the clips overlap, and in one that is shorter than a clip they are the same, with its end repeated.

    Args:
        num_available: frames of the video, at least 1.
        generator: draws where in its segment a clip lies; None: in the middle.

    Returns:
        int64 `[segments, num_frames]`.
    """
    count, step, segments = clip_set.num_frames, clip_set.frame_step, clip_set.segments
    span, length = count * step, num_available // segments
    numbers = np.arange(segments)[:, None]
    if length > span:
        spare = length - span
        starts = [spare // 2] * segments if generator is None else generator.integers(0, spare, segments).tolist()
        inside = [np.minimum(np.linspace(start, start + span, count), start + span - 1) for start in starts]
        return np.stack(inside).astype(np.int64) + numbers * length
    last = min(span, num_available) - 1
    moments = np.full(count, float(last))
    moments[: last // step] = np.linspace(0, last, last // step)
    shift = (num_available - span) // (segments - 1) if num_available > span else 0
    indices: np.ndarray = np.clip(moments, 0, max(last - 1, 0)).astype(np.int64) + numbers * shift
    return indices


@dataclass(frozen=True, kw_only=True)
class VideoPart:
    """A video, or a part of it."""

    video: object
    """A path, or whatever else `encode` takes for one video."""
    id: str
    """What is drawn for it depends on this."""
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentLoader:
    """Cut a video into the clips of a `ClipSet`; small enough to send to a decoding process."""

    preprocess: PreprocessConfig
    clip_set: ClipSet
    augmentation: Augmentation | None = None
    decoder: Decoder = "pyav"

    @classmethod
    def for_model(
        cls,
        config: ModelConfig,
        preprocess: PreprocessConfig,
        clip_set: ClipSet,
        *,
        augmentation: Augmentation | None = None,
        decoder: Decoder = "pyav",
    ) -> SegmentLoader:
        """Return what cuts videos into clips for a model.

        Raises:
            ConfigError: the model does not take clips of that length.
        """
        count, tubelet = clip_set.num_frames, config.tubelet_size
        if config.is_image_model or count % tubelet:
            takes = "images" if config.is_image_model else f"tubelets of {tubelet} frames"
            raise ConfigError(f"the protocol reads clips of {count} frames, and this model encodes {takes}")
        return cls(preprocess=preprocess, clip_set=clip_set, augmentation=augmentation, decoder=decoder)

    @property
    def clip_lengths(self) -> tuple[int, ...]:
        """How many frames a clip may have."""
        return (self.clip_set.num_frames,)

    def clips(self, part: VideoPart, first: int = 0) -> Iterator[Clip]:
        """Yield the clips of a video from number `first` on, the segments of one view or pass after the other.

        Raises:
            InputError: not a video, or a part outside of it.
            VideoDecodeError: a file that cannot be decoded.
        """
        augmentation, segments = self.augmentation, self.clip_set.segments
        if augmentation is None or part.id not in augmentation.ids:
            for number, clip in enumerate(self.fixed_views(part)):
                if number >= first:
                    yield clip
            return
        for number in range(first // segments, augmentation.passes):
            clips = self.random_view(part, number, seed=augmentation.seed)
            for segment, clip in enumerate(clips):
                if number * segments + segment >= first:
                    yield clip

    def fixed_views(self, part: VideoPart) -> Iterator[Clip]:
        """Yield the clips of a test: those of all segments in the first view, then in the next."""
        clip_set, crop = self.clip_set, self.preprocess
        generator = _generator(clip_set.seed, part.id) if clip_set.official_sampling else None
        held: list[tuple[torch.Tensor, dict[str, Any]]] = []
        with open_numbered(part.video, decoder=self.decoder) as source:
            for indices in self._indices(source, part, generator):
                needed, places = np.unique(indices, return_inverse=True)
                if clip_set.views == 1:
                    sizes = {"resize_size": crop.resize_size, "crop_size": crop.crop_size}
                    frames = [
                        resize_and_crop(frame, **sizes, crop_offset=crop.crop_offset) for frame in source.read(needed)
                    ]
                else:
                    frames = [shorten(frame, side=crop.crop_size) for frame in source.read(needed)]
                held.append((torch.cat(frames)[torch.from_numpy(places)], _describe(source, indices)))
        views = [[clip] if clip_set.views == 1 else list(square_views(clip, views=clip_set.views)) for clip, _ in held]
        for view in range(clip_set.views):
            for segment, (_, about) in enumerate(held):
                yield views[segment][view].contiguous().numpy(), about

    def random_view(self, part: VideoPart, number: int, *, seed: int) -> Iterator[Clip]:
        """Yield the clips of all segments, each augmented at random, as training clips are; `number` of the pass."""
        generator = _generator(seed, f"{number} {part.id}")
        with open_numbered(part.video, decoder=self.decoder) as source:
            for indices in self._indices(source, part, generator):
                needed, places = np.unique(indices, return_inverse=True)
                drawn = int(generator.integers(1 << 62))
                frames = [frame[0].permute(1, 2, 0).contiguous().numpy() for frame in source.read(needed)]
                if is_image(part.video):
                    clip = random_image(frames[0], self.preprocess, seed=drawn)
                else:
                    clip = random_view(frames, self.preprocess, seed=drawn)
                yield clip[torch.from_numpy(places)].contiguous().numpy(), _describe(source, indices)

    def _indices(self, source: FrameSource, part: VideoPart, generator: np.random.Generator | None) -> np.ndarray:
        seconds = np.append(source.timestamps, source.end_seconds)
        if not source.is_timed and (part.start_seconds is not None or part.end_seconds is not None):
            raise InputError(
                f"{source.name} has no frame rate, which parts in seconds need; cut out the part as a file"
            )
        first, last = frames_of_part(seconds, part.start_seconds, part.end_seconds)
        return first + segment_indices(last - first, self.clip_set, generator)


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed} {name}".encode(errors="surrogateescape"), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _describe(source: FrameSource, indices: np.ndarray) -> dict[str, Any]:
    times = np.append(source.timestamps, source.end_seconds)
    span = (float(times[indices.min()]), float(times[indices.max() + 1])) if source.is_timed else (None, None)
    return {"frames": indices.tolist(), "start_seconds": span[0], "end_seconds": span[1]}
