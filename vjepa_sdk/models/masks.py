"""Choose what is hidden: blocks that cover the same area in every frame, or the future."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.training import MaskConfig
from ..errors import InputError

_MAX_TRIES = 100

Block = tuple[int, int, int]


@dataclass(frozen=True)
class Masks:
    """Index lists of one batch: mask set i shows `context[i]` and hides `target[i]`."""

    context: tuple[Tensor, ...]
    """For each mask set `int64 [B, K]`, ascending places of visible tokens in the (t, h, w) grid."""
    target: tuple[Tensor, ...]
    """For each mask set `int64 [B, M]`, ascending places of tokens to predict; or `[B, P, M]` for P target blocks, each
    predicted on its own from the same context (I-JEPA)."""

    def to(self, device: torch.device) -> Masks:
        """Return the same lists on a device."""
        return Masks(*(tuple(index.to(device) for index in part) for part in (self.context, self.target)))


def draw_mask_set(
    config: MaskConfig, *, grid: tuple[int, int, int], batch_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw what one mask set shows and hides in each sample of a batch.

    Sources: V-JEPA section 3.2 and `src/masks/{multiblock3d,random_tube}.py`, V-JEPA 2
    `src/masks/multiseq_multiblock3d.py`, I-JEPA section 3 and `src/masks/multiblock.py`.

    Args:
        grid: tokens of a clip as (frames, rows, columns).
        generator: the only source of randomness, on the CPU.

    Returns:
        Context `int64 [B, K]` and target `int64 [B, M]` (`ijepa`: `[B, P, M]`), ascending, disjoint in each sample.

    Raises:
        InputError: the blocks keep hiding the whole grid, or nothing is left in common to a batch.
    """
    if config.kind == "random_tube":
        context, target = _random_tubes(config, grid, batch_size, generator)
    elif config.kind == "ijepa":
        return _ijepa_blocks(config, grid, batch_size, generator)
    elif config.kind == "future":
        context, target = _future(config, grid, batch_size, generator)
    else:
        context, target = _multiblocks(config, grid, batch_size, generator)
    for name, index in (("context", context), ("target", target)):
        if index.shape[1] == 0:
            raise InputError(
                f"the {name}s of {batch_size} samples have no length in common above 0 on the grid {grid}; change "
                "num_blocks or spatial_scale, or use smaller batches"
            )
    return (target, context) if config.invert else (context, target)


def _multiblocks(config: MaskConfig, grid: Block, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hide the union of blocks; all blocks of a batch have one size, each sample places its own."""
    draws = torch.rand(3, generator=generator).tolist()
    duration, area, aspect = (
        low + draw * (high - low)
        for draw, (low, high) in zip(
            draws, (config.temporal_scale, config.spatial_scale, config.aspect_ratio), strict=True
        )
    )
    height, width = _block_sides(grid, area, aspect)
    block = (max(1, int(grid[0] * duration)), min(height, grid[1]), min(width, grid[2]))
    visible = torch.stack([_visible_outside(config, grid, block, generator) for _ in range(batch_size)])
    if config.equalize == "columns":
        columns = visible[:, 0].flatten(1)
        most = None if config.max_keep is None else config.max_keep // grid[0]
        if most == 0:
            raise InputError(
                f"max_keep={config.max_keep} is less than one place in all {grid[0]} frames of the grid, which "
                f"equalize='columns' keeps; pass at least {grid[0]}"
            )
        context = _equal_columns(columns, grid[0], generator, most=most)
        target = _equal_columns(~columns, grid[0], generator)
    else:
        flat = visible.flatten(1)
        context, target = _truncated(flat, most=config.max_keep), _truncated(~flat)
    if config.complement == "target":
        target = _complement(context, math.prod(grid))
    elif config.complement == "context":
        context = _complement(target, math.prod(grid))
    return context, target


def _block_sides(grid: Block, area: float, aspect: float) -> tuple[int, int]:
    """Return height and width in tokens of a block that covers a share of the frame."""
    tokens = int(grid[1] * grid[2] * area)
    return max(1, round(math.sqrt(tokens * aspect))), max(1, round(math.sqrt(tokens / aspect)))


def _visible_outside(config: MaskConfig, grid: Block, block: Block, generator: torch.Generator) -> Tensor:
    """Return which tokens one sample shows, bool [frames, rows, columns], at least one of them."""
    for _ in range(_MAX_TRIES):
        visible = torch.ones(grid, dtype=torch.bool)
        for _ in range(config.num_blocks):
            t, h, w = (
                int(torch.randint(0, size - length + 1, (), generator=generator))
                for size, length in zip(grid, block, strict=True)
            )
            visible[t : t + block[0], h : h + block[1], w : w + block[2]] = False
        visible[max(1, int(grid[0] * config.max_temporal_keep)) :] = False
        if visible.any():
            return visible
    raise InputError(
        f"{config.num_blocks} blocks of {block} tokens hid the whole grid {grid} {_MAX_TRIES} times; "
        "lower num_blocks or spatial_scale, or use larger frames"
    )


def _random_tubes(
    config: MaskConfig, grid: Block, batch_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Show scattered places, the same in every frame, and hide the rest."""
    places = grid[1] * grid[2]
    count = int(places * (1.0 - config.hidden_share))
    order = torch.rand(batch_size, places, generator=generator).argsort(dim=1)
    return _over_frames(order[:, :count], grid), _over_frames(order[:, count:], grid)


def _future(config: MaskConfig, grid: Block, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Show the first time steps, as many in the whole batch, and hide all that comes after."""
    low, high = config.context_steps
    count = int(torch.randint(low, high + 1, (), generator=generator)) * grid[1] * grid[2]
    order = torch.arange(math.prod(grid)).expand(batch_size, -1)
    return order[:, :count], order[:, count:]


def _ijepa_blocks(
    config: MaskConfig, grid: Block, batch_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Hide several blocks of a still; the context is one large block without them."""
    # one draw decides both scale and aspect, as in the official code: large blocks are wide or high ones
    draw = float(torch.rand((), generator=generator))
    scale, aspect = (low + draw * (high - low) for low, high in (config.spatial_scale, config.aspect_ratio))
    target_block = _strictly_inside(grid, _block_sides(grid, scale, aspect))
    low, high = config.context_scale
    context_block = _strictly_inside(grid, _block_sides(grid, low + draw * (high - low), 1.0))
    everywhere = torch.ones(grid[1:], dtype=torch.bool)
    context, target = [], []
    for _ in range(batch_size):
        blocks = [_place(target_block, [everywhere], config.min_keep, generator) for _ in range(config.num_blocks)]
        target.append(torch.stack(blocks))
        context.append(_place(context_block, [~block for block in blocks], config.min_keep, generator))
    flat = torch.stack(target).flatten(2)
    return _truncated(torch.stack(context).flatten(1)), _truncated(flat.flatten(0, 1)).view(*flat.shape[:2], -1)


def _strictly_inside(grid: Block, sides: tuple[int, int]) -> tuple[int, int]:
    return min(sides[0], max(1, grid[1] - 1)), min(sides[1], max(1, grid[2] - 1))


def _place(block: tuple[int, int], regions: list[Tensor], min_keep: int, generator: torch.Generator) -> Tensor:
    """Place a block where more than `min_keep` of its tokens lie in all regions.

    Where the official code finds no place it lets context and target overlap; here that is an error.
    """
    rows, columns = regions[0].shape
    allowed = torch.stack(regions).all(dim=0)
    for _ in range(_MAX_TRIES):
        top, left = (
            int(torch.randint(0, size - length + 1, (), generator=generator))
            for size, length in zip((rows, columns), block, strict=True)
        )
        chosen = torch.zeros(rows, columns, dtype=torch.bool)
        chosen[top : top + block[0], left : left + block[1]] = True
        chosen &= allowed
        if int(chosen.sum()) > min_keep:
            return chosen
    raise InputError(
        f"a block of {block[0]} x {block[1]} tokens on a grid of {rows} x {columns} kept no more than "
        f"min_keep={min_keep} tokens {_MAX_TRIES} times; lower min_keep, num_blocks or spatial_scale"
    )


def _equal_columns(chosen: Tensor, frames: int, generator: torch.Generator, *, most: int | None = None) -> Tensor:
    """Keep as many of the chosen places [B, rows * columns] as the batch has in common, over all frames."""
    count = _common_length(chosen, most)
    # unchosen places score below every chosen one, so the top `count` are a random choice among the chosen
    scores = torch.rand(chosen.shape, generator=generator).masked_fill(~chosen, -1.0)
    return _over_frames(scores.topk(count, dim=1).indices, (frames, chosen.shape[1], 1))


def _over_frames(places: Tensor, grid: Block) -> Tensor:
    """Repeat places of a frame [B, K] over all frames: ascending indices [B, frames * K]."""
    offsets = torch.arange(grid[0]) * (grid[1] * grid[2])
    return (places.sort(dim=1).values[:, None, :] + offsets[None, :, None]).flatten(1)


def _truncated(chosen: Tensor, *, most: int | None = None) -> Tensor:
    """Cut each sample's ascending places at the shortest list of the batch."""
    count = _common_length(chosen, most)
    return torch.stack([row.nonzero().squeeze(1)[:count] for row in chosen])


def _common_length(chosen: Tensor, most: int | None) -> int:
    count = int(chosen.sum(dim=1).min())
    return count if most is None else min(count, most)


def _complement(index: Tensor, size: int) -> Tensor:
    """Return all places below `size` that are not in each sample's list."""
    absent = torch.ones(len(index), size, dtype=torch.bool).scatter_(1, index, False)
    return absent.nonzero()[:, 1].view(len(index), -1)
