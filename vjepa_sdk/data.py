"""Feed training clips in an order, and with crops, that depend only on seed and position."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .config import DataConfig
from .errors import GuardError, InputError
from .preprocess import random_resized_crop
from .video import find_videos, open_video
from .workers import WorkerPool

logger = logging.getLogger(__name__)

_ORDER, _CLIP, _REPLACEMENT = range(3)
_MAX_ATTEMPTS = 10
_MIN_TRIED = 50


def derive_seed(*keys: int) -> int:
    """Mix integers into one seed; equal keys give equal seeds on every machine and version."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


def list_clips(path: str | Path, *, split: str | None = None) -> list[Path]:
    """List the clips of a directory or a CSV.

    Args:
        path: directory, searched recursively; or a CSV with the header `path[,split,label,group]`; or the official
            headerless list, one `path label` a line. Paths in a file are relative to it.
        split: only rows whose column `split` has this value.

    Raises:
        InputError: nothing there, or a list without usable rows.
    """
    source = Path(path)
    if source.suffix.lower() != ".csv":
        if split is not None:
            raise InputError(f"split={split!r} needs a CSV with a column 'split', got {source}; leave it out")
        return find_videos([source])
    if not source.is_file():
        raise InputError(f"{source}: no such file; pass a directory of videos or a CSV")
    try:
        names = _names_in_list(source, split)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{source}: not a CSV in UTF-8 ({error}); save it as one") from error
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}); check its permissions") from error
    paths = [source.parent / name for name in names]
    missing = [path for path in paths if not path.is_file()]
    if len(missing) == len(paths):
        raise InputError(
            f"{source}: none of its {len(paths)} clips exists, for example {missing[0]}; paths are relative to the list"
        )
    return paths


def _names_in_list(source: Path, split: str | None) -> list[str]:
    lines = source.read_text(encoding="utf-8-sig").splitlines()
    header = next(csv.reader(lines[:1]), [])
    if "path" not in header:
        if split is not None:
            raise InputError(f"{source}: split={split!r} needs the header path[,split,label,group]; add it")
        names = [line.rsplit(None, 1)[0] for line in lines if line.strip()]
        if not names:
            raise InputError(f"{source}: lists no clips")
        return names
    if split is not None and "split" not in header:
        raise InputError(f"{source}: has no column 'split'; its columns are {', '.join(header)}")
    rows = [(number, row) for number, row in enumerate(csv.DictReader(lines), start=2)]
    chosen = [(number, row["path"]) for number, row in rows if split is None or row["split"] == split]
    for number, name in chosen:
        if not name:
            raise InputError(f"{source}: row {number} has no path; correct it")
    if not chosen:
        splits = sorted({row["split"] or "" for _, row in rows}) if split is not None else []
        hint = f" with split={split!r}; its splits are {', '.join(splits)}" if splits else ""
        raise InputError(f"{source}: lists no clips{hint}")
    return [name for _, name in chosen]


@dataclass(frozen=True)
class ClipRequest:
    """One clip to cut from one video; `seed` decides stride, start, crop and flip."""

    position: int
    attempt: int
    path: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class ClipCutter:
    """Cut a random, augmented clip from a video; runs in the decoding processes."""

    num_frames: int
    crop_size: int
    frame_stride: tuple[int, int]
    crop_scale: tuple[float, float]
    crop_aspect_ratio: tuple[float, float]
    horizontal_flip: bool
    decoder: Literal["pyav", "decord"]

    def __call__(self, request: ClipRequest) -> tuple[np.ndarray, dict[str, Any]]:
        """Return pixels `uint8 [T, 3, H, W]` and the frame indices they come from."""
        generator = torch.Generator().manual_seed(request.seed)
        with open_video(request.path, decoder=self.decoder) as reader:
            indices = self.choose_frames(len(reader), generator)
            frames = torch.from_numpy(reader.get_frames(indices)).permute(0, 3, 1, 2)
        clip = random_resized_crop(
            frames,
            crop_size=self.crop_size,
            scale=self.crop_scale,
            ratio=self.crop_aspect_ratio,
            horizontal_flip=self.horizontal_flip,
            generator=generator,
        )
        return clip.contiguous().numpy(), {"frames": indices.tolist()}

    def choose_frames(self, available: int, generator: torch.Generator) -> np.ndarray:
        """Draw stride and start; the stride shrinks to fit a short video, and then its last frame repeats."""
        low, high = self.frame_stride
        stride = low + int(torch.randint(0, high - low + 1, (), generator=generator))
        stride = min(stride, max(1, (available - 1) // max(1, self.num_frames - 1)))
        span = (self.num_frames - 1) * stride + 1
        start = int(torch.randint(0, max(1, available - span + 1), (), generator=generator))
        return np.minimum(start + stride * np.arange(self.num_frames), available - 1)


@dataclass(frozen=True)
class Batch:
    """Training clips in their final order."""

    clips: Tensor
    """`uint8 [B, T, 3, H, W]`."""
    paths: tuple[str, ...]


@dataclass
class BadClips:
    """Clips that could not be decoded, counted in the order of training."""

    tried: int = 0
    failed: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    """Reason by path, each path once."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"tried": self.tried, "failed": self.failed, "reasons": dict(self.reasons)}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        self.tried, self.failed, self.reasons = state["tried"], state["failed"], dict(state["reasons"])


class TrainingData:
    """Batches of clips; position p of seed s is always the same clip, frames and crop, or the same replacement."""

    def __init__(
        self, config: DataConfig, *, num_frames: int, crop_size: int, batch_size: int, seed: int, bad: BadClips
    ) -> None:
        self.paths = [str(path) for path in list_clips(config.path, split=config.split)]
        self.digest = hashlib.sha256("\n".join(Path(path).name for path in self.paths).encode()).hexdigest()
        self.config, self.batch_size, self.seed, self.bad = config, batch_size, seed, bad
        self.cutter = ClipCutter(
            num_frames=num_frames,
            crop_size=crop_size,
            frame_stride=config.frame_stride,
            crop_scale=config.crop_scale,
            crop_aspect_ratio=config.crop_aspect_ratio,
            horizontal_flip=config.horizontal_flip,
            decoder=config.decoder,
        )

    def batches(self, *, first_step: int, last_step: int) -> Generator[Batch, None, None]:
        """Yield the batches of steps `first_step` up to, not including, `last_step`.

        Raises:
            GuardError: more than `max_bad_fraction` of the clips cannot be decoded, or one position finds none.
        """
        with WorkerPool(
            self.cutter, num_workers=self.config.num_workers, deadline_seconds=self.config.deadline_seconds
        ) as pool:
            results = pool.map(
                self._requests(first_step * self.batch_size, last_step * self.batch_size),
                prefetch=self.config.prefetch,
                retry=self._replacement,
            )
            arrays, paths = [], []
            for result in results:
                self._count(result.failures)
                if result.array is None:
                    raise GuardError(f"{result.error}; {_MAX_ATTEMPTS} clips in a row cannot be decoded")
                arrays.append(torch.from_numpy(result.array))
                paths.append(result.request.path)
                if len(arrays) == self.batch_size:
                    yield Batch(torch.stack(arrays), tuple(paths))
                    arrays, paths = [], []

    def _requests(self, first: int, last: int) -> Iterator[ClipRequest]:
        epoch, order = -1, np.arange(0)
        for position in range(first, last):
            if position // len(self.paths) != epoch:
                epoch = position // len(self.paths)
                order = np.random.default_rng(derive_seed(self.seed, _ORDER, epoch)).permutation(len(self.paths))
            path = self.paths[order[position % len(self.paths)]]
            yield ClipRequest(position, 0, path, derive_seed(self.seed, _CLIP, position, 0))

    def _replacement(self, request: ClipRequest) -> ClipRequest | None:
        """Choose another clip for a position whose clip is bad; a function of seed, position and attempt only."""
        attempt = request.attempt + 1
        if attempt == _MAX_ATTEMPTS:
            return None
        index = derive_seed(self.seed, _REPLACEMENT, request.position, attempt) % len(self.paths)
        seed = derive_seed(self.seed, _CLIP, request.position, attempt)
        return ClipRequest(request.position, attempt, self.paths[index], seed)

    def _count(self, failures: tuple[tuple[ClipRequest, str], ...]) -> None:
        self.bad.tried += 1 + len(failures)
        self.bad.failed += len(failures)
        for request, reason in failures:
            if request.path not in self.bad.reasons:
                logger.warning("bad clip replaced: %s", reason)
                self.bad.reasons[request.path] = reason
        limit = self.config.max_bad_fraction
        if self.bad.tried >= _MIN_TRIED and self.bad.failed > limit * self.bad.tried:
            last = failures[-1][1] if failures else next(iter(self.bad.reasons.values()))
            raise GuardError(
                f"{self.bad.failed} of {self.bad.tried} clips cannot be decoded, more than "
                f"data.max_bad_fraction={limit}; remove them or raise it (last: {last})"
            )
