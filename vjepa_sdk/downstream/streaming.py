"""Tokens that are made when they are asked for: decoded, augmented and encoded anew each time, and never stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch

from ..config.schema import to_dict
from ..corpus.lists import ClipSource
from ..errors import VideoDecodeError, VJEPAError, printable
from ..features.source import FeatureSource
from ..inference.embed.model import describe_sampling, find_model, load_model, model_sha256
from ..inference.embed.options import EmbedOptions
from ..inference.vjepa import VJEPA
from ..runtime.workers.pool import WorkerPool
from ..runtime.workers.wire import WorkerResult
from ..video.segments import SegmentLoader, VideoPart


@dataclass(frozen=True)
class ViewRequest:
    """Some views of one video, or passes over it."""

    part: VideoPart
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class _ViewReader:
    """Read clips; runs in the decoding processes."""

    load: SegmentLoader

    def __call__(self, wanted: ViewRequest) -> Iterator[WorkerResult | None]:
        augmentation, segments = self.load.augmentation, self.load.clip_set.segments
        if augmentation is not None and wanted.part.id in augmentation.ids:
            for number in wanted.numbers:
                yield from self.load.random_view(wanted.part, number, seed=augmentation.seed)
            return
        clips = list(self.load.fixed_views(wanted.part))
        for number in wanted.numbers:
            yield from clips[number * segments : (number + 1) * segments]


class ViewEncoder:
    """Decode views in other processes and encode them here; a context manager that ends those processes.

    Args:
        options: of an embedding job with a clip set.

    Raises:
        ConfigError: the model does not take such clips.
    """

    def __init__(self, options: EmbedOptions) -> None:
        directory = find_model(options)
        model, loader = load_model(directory, options)
        assert isinstance(loader, SegmentLoader)
        self.model, self.loader, self._options = model, loader, options
        self._layers = None if options.layers is None else model.layer_numbers(options.layers)
        self._pool: WorkerPool[ViewRequest] = WorkerPool(
            _ViewReader(loader),
            num_workers=options.num_workers,
            deadline_seconds=options.deadline_seconds,
            crash_retries=1,
        )
        sampling = describe_sampling(loader)
        self.source = FeatureSource.of_meta(
            {
                "model": {
                    "name": options.model,
                    "sha256": model_sha256(directory),
                    "encoder_weights": model.encoder_weights,
                    "provenance": dict(model.provenance),
                },
                "settings": {**options.settings, **sampling},
                "preprocess": to_dict(model.preprocess),
            }
        )

    def __enter__(self) -> ViewEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()

    @property
    def view_shape(self) -> tuple[int, ...]:
        """Of the tokens of one view: `[segments, (layers,) T', H', W', D]`."""
        config, side = self.model.config, self.loader.preprocess.crop_size // self.model.config.patch_size
        layers = () if self._layers is None else (len(self._layers),)
        tubelets = self.loader.clip_set.num_frames // config.tubelet_size
        return (self.loader.clip_set.segments, *layers, tubelets, side, side, config.embed_dim)

    def num_views(self, id_: str) -> int:
        """Return how many views a clip has, or how many passes there are over it."""
        augmentation = self.loader.augmentation
        is_random = augmentation is not None and id_ in augmentation.ids
        return augmentation.passes if augmentation is not None and is_random else self.loader.clip_set.views

    def read(
        self, requests: Sequence[ViewRequest], model: VJEPA | None = None
    ) -> Iterator[tuple[ViewRequest, np.ndarray | str]]:
        """Yield for each request its tokens, float32 `[views, *view_shape]`, or why there are none.

        Args:
            model: another network of the same shape; None: the model itself.
        """
        decoded: list[tuple[ViewRequest, list[np.ndarray] | str]] = []
        for request, clips in self._decode(requests):
            decoded.append((request, clips))
            if sum(len(each) for _, each in decoded if isinstance(each, list)) >= self._options.batch_size:
                yield from self._encode(decoded, model or self.model)
                decoded = []
        yield from self._encode(decoded, model or self.model)

    def _decode(self, requests: Sequence[ViewRequest]) -> Iterator[tuple[ViewRequest, list[np.ndarray] | str]]:
        """Yield for each request the clips of all its views, or why there are none."""
        segments = self.loader.clip_set.segments
        clips: list[np.ndarray] = []
        for result in self._pool.map(requests, prefetch=2 * self._options.batch_size):
            array, request = result.array, result.request
            if array is not None and self._is_clip(array):
                clips.append(array)
            if not result.is_last:
                continue
            if result.error is not None:
                yield request, result.error.removeprefix(f"{printable(str(request.part.video))}: ")
            elif len(clips) != segments * len(request.numbers):
                yield request, "the decoding process sent something other than its clips"
            else:
                yield request, clips
            clips = []

    def _is_clip(self, array: np.ndarray) -> bool:
        """Check what a decoding process sent: a hostile file may have taken it over."""
        side = self.loader.preprocess.crop_size
        return array.dtype == np.uint8 and array.shape == (self.loader.clip_set.num_frames, 3, side, side)

    def _encode(
        self, decoded: Sequence[tuple[ViewRequest, list[np.ndarray] | str]], model: VJEPA
    ) -> Iterator[tuple[ViewRequest, np.ndarray | str]]:
        """Encode the clips of several requests together."""
        clips = [clip for _, each in decoded if isinstance(each, list) for clip in each]
        size, parts = self._options.batch_size, [np.zeros((0, *self.view_shape[1:]), np.float32)]
        for first in range(0, len(clips), size):
            batch = torch.from_numpy(np.stack(clips[first : first + size]))
            try:
                parts.append(model.embed_clips(batch, pooling="none", layers=self._layers).float().cpu().numpy())
            except torch.OutOfMemoryError as error:
                raise VJEPAError(
                    f"{len(batch)} clips need more memory than there is; take a smaller model or other protocol"
                ) from error
        tokens, taken = np.concatenate(parts), 0
        for request, each in decoded:
            if isinstance(each, str):
                yield request, each
            else:
                yield request, tokens[taken : taken + len(each)].reshape(-1, *self.view_shape)
                taken += len(each)


class StreamedTokens:
    """A table of tokens of which every row is made when it is taken; see `Table`.

    Rows are the views of one clip, or the passes over it, and then those of the next.

    Args:
        clips: what the rows are of.
        model: a network of the same shape; None: the encoder's model.
    """

    def __init__(self, encoder: ViewEncoder, clips: Sequence[ClipSource], model: VJEPA | None = None) -> None:
        self._encoder, self._model = encoder, model
        self._parts = [part_of(clip) for clip in clips]
        counts = [encoder.num_views(clip.id) for clip in clips]
        self.owners = np.repeat(np.arange(len(clips)), counts)
        """int64 `[rows]`: number of the clip that a row is of."""
        self._numbers = np.concatenate([np.arange(count) for count in counts])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all rows."""
        return (len(self.owners), *self._encoder.view_shape)

    def __len__(self) -> int:
        return len(self.owners)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Make rows, float32 `[n, ...]`.

        Raises:
            VideoDecodeError: one of the clips cannot be decoded.
        """
        requests: list[ViewRequest] = []
        for row in rows.tolist():
            part, number = self._parts[self.owners[row]], int(self._numbers[row])
            if requests and requests[-1].part is part:  # one reading gives all of them
                requests[-1] = ViewRequest(part, (*requests[-1].numbers, number))
            else:
                requests.append(ViewRequest(part, (number,)))
        made = []
        for request, tokens in self._encoder.read(requests, self._model):
            if isinstance(tokens, str):
                raise VideoDecodeError(
                    f"{printable(str(request.part.video))}: {tokens}; leave it out of the labels (`vjepa check` finds "
                    "such files), or pass cache='tokens' (--cache tokens), which skips it"
                )
            made.append(tokens)
        return np.concatenate(made)


def part_of(clip: ClipSource) -> VideoPart:
    """Return a clip as what is cut into segments."""
    return VideoPart(video=clip.path, id=clip.id, start_seconds=clip.start_seconds, end_seconds=clip.end_seconds)


def untrained_like(model: VJEPA, seed: int) -> VJEPA:
    """Return the same network with random weights."""
    return VJEPA.untrained(model.config, preprocess=model.preprocess, seed=seed, device=str(model.device))


Failure = dict[str, Any]
"""A clip without features: `id`, `path`, `reason`."""
