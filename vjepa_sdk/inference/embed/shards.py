"""Divide a job among machines: which clips are whose, and where they stand in a batch.

A clip belongs to the share that the sha256 of its id says, so that it stays there when others are added or removed, and
no machine needs to know what the others do. Balance by duration would move clips whenever the inputs grow, and is left
to the law of large numbers: of n clips, shares differ by about sqrt(count / n).

On one machine the bits of a row depend on the shape of its batch and its slot there, not on its neighbours. A share
therefore puts every clip into the slot that it has in the job over all inputs, next to other clips of the share, and
leaves slots empty that no clip of it would fill soon: merged shares are then the same bytes as that job.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...corpus.lists import ClipSource
from ...errors import ConfigError

_LOOKAHEAD = 64
"""Batches whose clips wait for a free slot: more leaves fewer slots empty, but takes clips further out of order."""

_EXPLAINED = "pass it as --shard 3/16, the third of 16 shares"


@dataclass(frozen=True, order=True)
class Shard:
    """The `index`-th of `count` shares, from 1."""

    count: int
    index: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"shard={self} must be one of at least 1 share; {_EXPLAINED}")
        if not 1 <= self.index <= self.count:
            raise ConfigError(f"shard={self} must be from 1/{self.count} to {self.count}/{self.count}; {_EXPLAINED}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, clip_id: str) -> bool:
        """Whether a clip is in this share."""
        return share_of(clip_id, self.count) == self.index


def share_of(clip_id: str, count: int) -> int:
    """Return to which of `count` shares, from 1, a clip belongs.

    It is 1 plus the first 8 bytes of the sha256 of its id, read as a big-endian number, modulo `count`. The id is
    encoded as UTF-8; bytes of file names that are not UTF-8 stay as they are.
    """
    digest = hashlib.sha256(clip_id.encode("utf-8", "surrogateescape")).digest()
    return 1 + int.from_bytes(digest[:8], "big") % count


def read_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """Read `3/16`, or for `auto` what the scheduler says: torchrun's variables or those of a Slurm array.

    Raises:
        ConfigError: it is neither, or the variables are missing, contradict each other or have gaps.
    """
    if text == "auto":
        return _scheduled(environment)
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None:
        raise ConfigError(f"shard={text} must be a share such as 3/16, or auto; {_EXPLAINED}")
    return Shard(index=int(match[1]), count=int(match[2]))


def _scheduled(environment: Mapping[str, str]) -> Shard:
    has_ranks = {"RANK", "WORLD_SIZE"} <= environment.keys()
    has_array = "SLURM_ARRAY_TASK_ID" in environment
    if has_ranks == has_array:
        what = (
            "both RANK and SLURM_ARRAY_TASK_ID are" if has_ranks else "neither RANK and WORLD_SIZE nor an array's are"
        )
        raise ConfigError(f"shard=auto reads one scheduler's variables, but {what} set; {_EXPLAINED}")
    if has_ranks:
        rank, count = _numbers(environment, "RANK", "WORLD_SIZE")
        return Shard(index=rank + 1, count=count)
    task, first, last, count = _numbers(
        environment, *(f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "COUNT"))
    )
    if last - first + 1 != count:  # as --array=1,5,7
        raise ConfigError(
            f"shard=auto needs an array without gaps, not {count} tasks from {first} to {last}; {_EXPLAINED}"
        )
    return Shard(index=task - first + 1, count=count)


def _numbers(environment: Mapping[str, str], *names: str) -> list[int]:
    for name in names:
        if not environment.get(name, "").isdecimal():
            raise ConfigError(f"shard=auto needs {name}, which is {environment.get(name)!r}; {_EXPLAINED}")
    return [int(environment[name]) for name in names]


class ListDigest:
    """The sha256 over what all inputs of a job are called, in its order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.count = 0

    def add(self, clip: ClipSource) -> None:
        """Take the next one."""
        line = json.dumps([clip.id, clip.path, clip.start_seconds, clip.end_seconds])
        self._digest.update(line.encode() + b"\n")
        self.count += 1

    @property
    def facts(self) -> dict[str, Any]:
        """As they stand in plans."""
        return {"all_inputs": self.count, "all_inputs_sha256": self._digest.hexdigest()}


UNSHARDED: dict[str, Any] = {"shard": None, "all_inputs": None, "all_inputs_sha256": None}
"""What the plan of a job over all inputs says where that of a share has a `Share.facts`."""


@dataclass(frozen=True)
class Share:
    """The clips that a job works on, in an order in which those of a batch follow each other."""

    sources: list[ClipSource]
    facts: dict[str, Any]
    """Which share it is, and of what: `shard`, `all_inputs` and `all_inputs_sha256`."""
    slots: Slots | None
    """Of the clips; None: they stand in batches one after the other."""


@dataclass(frozen=True)
class Slots:
    """Where each clip of a job stands in a batch."""

    batch_size: int
    of: Sequence[int]
    """From 0; where they stop to rise, the next batch begins."""

    @classmethod
    def in_turn(cls, num_clips: int, batch_size: int) -> Slots:
        """Fill one batch after the other; a small corpus needs no padding beyond its size."""
        size = max(1, min(batch_size, num_clips))
        return cls(size, [number % size for number in range(num_clips)])

    def batches(self) -> Iterator[range]:
        """Yield the numbers of the clips of each batch."""
        first = 0
        for number in range(1, len(self.of) + 1):
            if number == len(self.of) or self.of[number] <= self.of[number - 1]:
                yield range(first, number)
                first = number


def take_share(sources: Sequence[ClipSource], shard: Shard | None, *, batch_size: int, in_batches: bool) -> Share:
    """Choose what of all inputs a job works on.

    Args:
        sources: all, in the order of the job over all.
        in_batches: whether clips share batches, and not only windows of one video.
    """
    if shard is None:
        return Share(list(sources), UNSHARDED, None)
    digest = ListDigest()
    for source in sources:
        digest.add(source)
    numbers = [number for number, source in enumerate(sources) if shard.holds(source.id)]
    whole = Slots.in_turn(len(sources), batch_size)
    if in_batches:
        numbers = _in_batches(numbers, whole)
    slots = Slots(whole.batch_size, [whole.of[number] for number in numbers])
    return Share([sources[number] for number in numbers], {"shard": str(shard), **digest.facts}, slots)


def _in_batches(numbers: Iterable[int], whole: Slots) -> list[int]:
    """Order clips so that each batch takes the first that waits for each slot."""
    waiting: list[deque[int]] = [deque() for _ in range(whole.batch_size)]
    most, num_waiting = _LOOKAHEAD * whole.batch_size, 0
    ordered: list[int] = []
    left = iter(numbers)
    while True:
        while num_waiting < most and (number := next(left, None)) is not None:
            waiting[whole.of[number]].append(number)
            num_waiting += 1
        if not num_waiting:
            return ordered
        batch = [queue.popleft() for queue in waiting if queue]
        num_waiting -= len(batch)
        ordered += batch
