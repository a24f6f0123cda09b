"""Load each step's clips and stills, and cut them into the forward passes of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...config.model import PreprocessConfig
from ...config.training import ImagesConfig, TrainConfig
from ...errors import ConfigError
from ...models.masks import Masks
from ...video.transforms import normalize
from ..distributed import Group
from ..step import ForwardPass
from .batches import BadClips, Batch, TrainingData
from .masking import draw_image_masks, draw_masks
from .order import derive_seed

_IMAGES = 20


@dataclass(frozen=True)
class StepBatch:
    """One process's part of a step."""

    parts: tuple[Batch, ...]
    """Clips and, if the run has them, stills."""
    bad_clips: dict[str, Any]
    """State of `BadClips` when the batch was complete; clips count while they are decoded, ahead of their step."""


@dataclass(frozen=True)
class _Stream:
    """The clips or the stills of all steps."""

    data: TrainingData
    micro_batch_size: int
    share: float
    """Of a step's loss."""
    draw_masks: Callable[..., Masks]


class StepLoader:
    """Clips of a run, and stills if it has them, step by step.

    Raises:
        ConfigError: no source of clips or stills is given.
        InputError: a source holds none.
    """

    def __init__(self, config: TrainConfig, *, group: Group, device: torch.device, bad: BadClips) -> None:
        self.config, self.group, self.device, self.bad = config, group, device, bad
        self.preprocess = PreprocessConfig.for_crop(config.model.img_size)
        self._streams = {"clips": _clips(config, bad)}
        if config.images is not None:
            self._streams["images"] = _stills(config, config.images, bad)

    @property
    def paths(self) -> dict[str, list[str]]:
        """All files of `clips` and, if the run has stills, of `images`."""
        return {kind: stream.data.paths for kind, stream in self._streams.items()}

    @property
    def lists(self) -> dict[str, dict[str, Any]]:
        """`digest` and `count` of the same files, by which a resumed run knows that they are still the same."""
        return {
            kind: {"digest": stream.data.digest, "count": len(stream.data.paths)}
            for kind, stream in self._streams.items()
        }

    def open_caches(self, *, show_progress_bar: bool | None = None) -> None:
        """Decode all clips and stills once, where the configuration asks for it, or find that it was done."""
        for stream in self._streams.values():
            stream.data.open_cache(show_progress_bar=show_progress_bar)

    @contextmanager
    def batches(self, *, first_step: int) -> Iterator[Iterator[StepBatch]]:
        """Lend the batches of all steps from one on; the processes that decode them end with the block."""
        batches = [
            stream.data.batches(
                first_step=first_step,
                last_step=self.config.steps,
                rank=self.group.rank,
                world_size=self.group.world_size,
                micro_batch_size=stream.micro_batch_size,
            )
            for stream in self._streams.values()
        ]
        with ExitStack() as stack:
            for each in batches:
                stack.enter_context(closing(each))
            yield (StepBatch(parts, self.bad.state()) for parts in zip(*batches, strict=True))

    def passes(self, batch: StepBatch, *, step: int) -> Iterator[ForwardPass]:
        """Cut a batch into parts that go through the networks one at a time, and draw their masks."""
        world_size = self.group.world_size
        for stream, part in zip(self._streams.values(), batch.parts, strict=True):
            micro_batches = torch.split(part.clips, stream.micro_batch_size)
            weight = stream.share / (len(micro_batches) * world_size)
            for number, clips in enumerate(micro_batches):
                forward_pass = self.group.rank + number * world_size
                masks = stream.draw_masks(self.config, batch_size=len(clips), step=step, forward_pass=forward_pass)
                yield ForwardPass(self._normalized(clips), masks.to(self.device), weight)

    def first_clips(self, batch: StepBatch) -> Tensor:
        """Return the clips of a batch's first forward pass, `[B, 3, T, H, W]`."""
        return self._normalized(batch.parts[0].clips[: self._streams["clips"].micro_batch_size])

    def _normalized(self, clips: Tensor) -> Tensor:
        return normalize(clips.to(self.device), mean=self.preprocess.mean, std=self.preprocess.std)

    def describe(self, batch: StepBatch, forward_pass: int | None) -> list[dict[str, Any]]:
        """Return path, seed and frames of the clips of forward passes that failed, one for each process.

        Args:
            forward_pass: this process's, from 0; None: none of its own. None in all processes: all of the step's.
        """
        micro_batches = []
        for stream, part in zip(self._streams.values(), batch.parts, strict=True):
            facts = zip(part.paths, part.seeds, part.frames, strict=True)
            clips = [{"path": path, "seed": seed, "frames": frames} for path, seed, frames in facts]
            size = stream.micro_batch_size
            micro_batches += [clips[first : first + size] for first in range(0, len(clips), size)]
        if self.group.any(forward_pass is not None):
            micro_batches = [micro_batches[forward_pass]] if forward_pass is not None else []
        mine = [clip for clips in micro_batches for clip in clips]
        return [clip for clips in self.group.gather(mine) for clip in clips]


def _clips(config: TrainConfig, bad: BadClips) -> _Stream:
    data = TrainingData(
        config.data,
        num_frames=config.model.num_frames,
        crop_size=config.model.img_size,
        batch_size=config.batch_size,
        seed=config.seed,
        bad=bad,
    )
    share = 1.0 - (config.images.weight if config.images is not None else 0.0)
    return _Stream(data, config.micro_batch_size or config.batch_size, share, draw_masks)


def _stills(config: TrainConfig, images: ImagesConfig, bad: BadClips) -> _Stream:
    if not images.data.all_sources:
        raise ConfigError(
            "images.data.path is empty; set it to a directory or list of stills, or images=none for clips alone"
        )
    data = TrainingData(
        images.data,
        num_frames=1,
        crop_size=images.img_size,
        batch_size=images.batch_size,
        seed=derive_seed(config.seed, _IMAGES),
        bad=bad,
    )
    return _Stream(data, images.micro_batch_size or images.batch_size, images.weight, draw_image_masks)
