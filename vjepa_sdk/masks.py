"""Choose what is hidden: blocks that cover the same area in every frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .errors import InputError

_MAX_TRIES = 100


@dataclass(frozen=True)
class Masks:
    """Index lists of one batch: mask set i shows `context[i]` and hides `target[i]`."""

    context: tuple[Tensor, ...]
    """For each mask set `int64 [B, K]`, ascending places of visible tokens in the (t, h, w) grid."""
    target: tuple[Tensor, ...]
    """For each mask set `int64 [B, M]`, ascending places of tokens to predict."""


@dataclass(frozen=True, kw_only=True)
class MultiBlockMasking:
    """Hide the union of random blocks (V-JEPA section 3.2; V-JEPA 2 `src/masks/multiseq_multiblock3d.py`).

    All blocks of a batch have one size; each sample places its own. `equalize` gives the index lists of a batch one
    length. `"truncate"` cuts each list at the shortest, as the official code does: late frames lose tokens. `"columns"`
    drops randomly chosen spatial positions, in all frames at once, so that context and target stay the same area
    in every frame.
    """

    grid: tuple[int, int, int]
    num_blocks: int
    spatial_scale: tuple[float, float]
    aspect_ratio: tuple[float, float]
    temporal_scale: tuple[float, float]
    equalize: Literal["columns", "truncate"]

    def __call__(self, batch_size: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw context `int64 [B, K]` and target `int64 [B, M]` indices; disjoint within each sample.

        Raises:
            InputError: the blocks keep hiding the whole grid, or nothing is left in common to a batch.
        """
        block = self._block_size(generator)
        visible = torch.stack([self._visible(block, generator) for _ in range(batch_size)])
        if self.equalize == "columns":
            columns = visible[:, 0].flatten(1)
            context = self._equal_columns(columns, generator)
            return context, self._equal_columns(~columns, generator)
        flat = visible.flatten(1)
        return _truncated(flat), _truncated(~flat)

    def _block_size(self, generator: torch.Generator) -> tuple[int, int, int]:
        frames, rows, columns = self.grid
        draws = torch.rand(3, generator=generator).tolist()
        duration, area, aspect = (
            low + draw * (high - low)
            for draw, (low, high) in zip(
                draws, (self.temporal_scale, self.spatial_scale, self.aspect_ratio), strict=True
            )
        )
        tokens = int(rows * columns * area)
        height = min(rows, max(1, round(math.sqrt(tokens * aspect))))
        width = min(columns, max(1, round(math.sqrt(tokens / aspect))))
        return max(1, int(frames * duration)), height, width

    def _visible(self, block: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Return which tokens one sample shows, bool [frames, rows, columns], at least one of them."""
        for _ in range(_MAX_TRIES):
            visible = torch.ones(self.grid, dtype=torch.bool)
            for _ in range(self.num_blocks):
                t, h, w = (
                    int(torch.randint(0, size - length + 1, (), generator=generator))
                    for size, length in zip(self.grid, block, strict=True)
                )
                visible[t : t + block[0], h : h + block[1], w : w + block[2]] = False
            if visible.any():
                return visible
        raise InputError(
            f"{self.num_blocks} blocks of {block} tokens hid the whole grid {self.grid} {_MAX_TRIES} times; "
            "lower num_blocks or spatial_scale, or use larger frames"
        )

    def _equal_columns(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Keep as many of the chosen columns [B, rows * columns] as the batch has in common, over all frames."""
        frames, rows, columns = self.grid
        count = int(chosen.sum(dim=1).min())
        # unchosen columns score below every chosen one, so the top `count` are a random choice among the chosen
        scores = torch.rand(chosen.shape, generator=generator).masked_fill(~chosen, -1.0)
        places = scores.topk(count, dim=1).indices.sort(dim=1).values
        offsets = torch.arange(frames) * rows * columns
        return (places[:, None, :] + offsets[None, :, None]).flatten(1)


def _truncated(chosen: Tensor) -> Tensor:
    """Cut each sample's ascending places at the shortest list of the batch."""
    count = int(chosen.sum(dim=1).min())
    return torch.stack([row.nonzero().squeeze(1)[:count] for row in chosen])
