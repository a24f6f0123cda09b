"""Feed training clips in an order, and with crops, that depend only on seed and position."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...config.schema import check_multiple
from ...config.training import DataConfig
from ...corpus.datasets import list_clips
from ...errors import ConfigError, GuardError
from ...runtime.workers.pool import TaskResult, WorkerPool
from .cache import open_cache
from .cutter import ClipCutter, ClipRequest
from .order import CLIP_KEY, REPLACEMENT_KEY, ClipOrder, derive_seed

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 10
_MIN_TRIED, _WINDOW = 50, 1000
_DEVIATIONS = 5.0  # a count is compared after every clip of a run, so that three come about by chance
_CLIPS_PER_WORKER = 5000  # small clips take milliseconds and a new process seconds


@dataclass(frozen=True)
class Batch:
    """Training clips in their final order."""

    clips: Tensor
    """`uint8 [B, T, 3, H, W]`."""
    paths: tuple[str, ...]
    seeds: tuple[int, ...]
    """What decided each clip's frames, crop and augmentations."""
    frames: tuple[tuple[int, ...], ...]
    """Frame indices of each clip."""


@dataclass
class BadClips:
    """Clips that could not be decoded, counted in the order of training."""

    tried: int = 0
    failed: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    """Reason by path, each path once."""
    recent: list[int] = field(default_factory=list)
    """Which of the last thousand tried failed, as the value of `tried` then."""

    def count(self, failures: Sequence[tuple[str, str]], *, limit: float) -> None:
        """Count one good clip and the bad ones, (path, reason), that it replaces.

        Raises:
            GuardError: more of all clips failed than chance explains if `limit` of them are bad, or more than twice
                that share of the last thousand.
        """
        for path, reason in failures:
            self.tried += 1
            self.failed += 1
            self.recent.append(self.tried)
            if path not in self.reasons:
                logger.warning("bad clip replaced: %s", reason)
                self.reasons[path] = reason
        self.tried += 1
        self.recent = [number for number in self.recent if number > self.tried - _WINDOW]
        if self.tried >= _MIN_TRIED and self.failed > most_bad(limit, self.tried):
            self._refuse(f"{self.failed} of {self.tried}", f"data.max_bad_fraction={limit}", failures)
        if len(self.recent) > max(2 * limit * _WINDOW, most_bad(limit, _WINDOW)):
            self._refuse(f"{len(self.recent)} of the last {_WINDOW}", f"twice data.max_bad_fraction={limit}", failures)

    def _refuse(self, share: str, rule: str, failures: Sequence[tuple[str, str]]) -> None:
        last = failures[-1][1] if failures else next(reversed(self.reasons.values()))
        raise GuardError(f"{share} clips cannot be decoded, more than {rule}; remove them or raise it (last: {last})")

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "tried": self.tried,
            "failed": self.failed,
            "reasons": dict(self.reasons),
            "recent": list(self.recent),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        self.tried, self.failed = state["tried"], state["failed"]
        self.reasons, self.recent = dict(state["reasons"]), list(state["recent"])


def most_bad(limit: float, tried: int) -> float:
    """Return how many of the clips that were tried may be bad if no more than the share `limit` of all are.

    A run sees its clips in a random order: where just `limit` are bad, every other count lies above `limit * tried`.
    """
    return limit * tried + _DEVIATIONS * math.sqrt(limit * (1.0 - limit) * tried)


class TrainingData:
    """Batches of clips; position p of seed s is always the same clip, frames and crop, or the same replacement.

    Raises:
        ConfigError: no source given.
        InputError: a source holds no clips; see `list_clips`.
    """

    def __init__(
        self, config: DataConfig, *, num_frames: int, crop_size: int, batch_size: int, seed: int, bad: BadClips
    ) -> None:
        sources = config.all_sources
        if not sources:
            raise ConfigError("data.path is empty; pass a directory or list of clips, or [[data.sources]] tables")
        self.sources = [
            [str(path) for path in list_clips(source.path, split=source.split, images=num_frames == 1)]
            for source in sources
        ]
        self.paths = [path for paths in self.sources for path in paths]
        names = ("\n".join(map(os.path.basename, paths)) for paths in self.sources)
        self.digest = hashlib.sha256("\n\n".join(names).encode(errors="surrogateescape")).hexdigest()
        self.config, self.batch_size, self.seed, self.bad = config, batch_size, seed, bad
        self.order = ClipOrder([len(paths) for paths in self.sources], [source.weight for source in sources], seed)
        self.cutter = ClipCutter(config=config, num_frames=num_frames, crop_size=crop_size)

    def open_cache(self, *, show_progress_bar: bool | None = None) -> None:
        """Cut clips out of the cache that the configuration names, if any, from now on; see `open_cache`."""
        if self.config.cache is not None:
            cache = open_cache(self.config, self.paths, show_progress_bar=show_progress_bar)
            self.cutter = replace(self.cutter, cache=cache)

    def batches(
        self,
        *,
        first_step: int,
        last_step: int,
        rank: int = 0,
        world_size: int = 1,
        micro_batch_size: int | None = None,
    ) -> Generator[Batch, None, None]:
        """Yield the batches of steps `first_step` up to, not including, `last_step`.

        Args:
            rank: which of the processes that share each step this is.
            world_size: number of processes. A step's batch is cut into micro-batches; a process gets every
                `world_size`-th of them, from number `rank` on, in one `Batch`.
            micro_batch_size: clips in one micro-batch; None: the whole batch is one.

        Raises:
            ConfigError: the micro-batches cannot be shared out equally.
            GuardError: more than `max_bad_fraction` of the clips cannot be decoded, or one position finds none.
        """
        size = micro_batch_size or self.batch_size
        check_shares(self.batch_size, size, world_size)
        first, last = first_step * self.batch_size, last_step * self.batch_size
        walk = zip(range(first, last), self.order.walk(first, last), strict=True)
        requests = (
            self._request(position, 0, source, clip)
            for position, (source, clip) in walk
            if position % self.batch_size // size % world_size == rank
        )
        return self._batches(requests, self.batch_size // world_size)

    def _batches(self, requests: Iterator[ClipRequest], batch_size: int) -> Generator[Batch, None, None]:
        with WorkerPool(
            self.cutter,
            num_workers=self.config.num_workers,
            deadline_seconds=self.config.deadline_seconds,
            max_tasks_per_worker=_CLIPS_PER_WORKER,
            crash_retries=1,
        ) as pool:
            taken: list[TaskResult[ClipRequest]] = []
            for result in pool.map(requests, prefetch=self.config.prefetch, retry=self._replacement):
                failures = [(request.path, reason) for request, reason in result.failures]
                self.bad.count(failures, limit=self.config.max_bad_fraction)
                if result.array is None:
                    raise GuardError(f"{result.error}; {_MAX_ATTEMPTS} clips in a row cannot be decoded")
                taken.append(result)
                if len(taken) == batch_size:
                    yield _batch(taken)
                    taken = []

    def _request(self, position: int, attempt: int, source: int, clip: int) -> ClipRequest:
        seed = derive_seed(self.seed, CLIP_KEY, position, attempt)
        return ClipRequest(position, attempt, source, self.sources[source][clip], seed)

    def _replacement(self, request: ClipRequest) -> ClipRequest | None:
        """Choose another clip of the source for a position whose clip is bad; a function of seed and position only."""
        attempt = request.attempt + 1
        if attempt == _MAX_ATTEMPTS:
            return None
        clip = derive_seed(self.seed, REPLACEMENT_KEY, request.position, attempt) % len(self.sources[request.source])
        return self._request(request.position, attempt, request.source, clip)


def _batch(results: Sequence[TaskResult[ClipRequest]]) -> Batch:
    return Batch(
        clips=torch.stack([torch.from_numpy(result.array) for result in results]),
        paths=tuple(result.request.path for result in results),
        seeds=tuple(result.request.seed for result in results),
        frames=tuple(tuple(result.info["frames"]) for result in results),
    )


def check_shares(batch_size: int, micro_batch_size: int, world_size: int) -> None:
    """Check that a step's micro-batches can be shared out equally.

    Raises:
        ConfigError: they cannot; the message names sizes that can.
    """
    check_multiple("batch_size", batch_size, "micro_batch_size", micro_batch_size)
    check_multiple("batch_size", batch_size, "world_size", world_size)
    if batch_size // micro_batch_size % world_size:
        share = batch_size // world_size
        valid = ", ".join(str(size) for size in range(1, share + 1) if share % size == 0)
        raise ConfigError(
            f"micro_batch_size={micro_batch_size} cuts batch_size={batch_size} into "
            f"{batch_size // micro_batch_size} parts, which world_size={world_size} processes cannot share equally; "
            f"pass a micro_batch_size of {valid}"
        )
