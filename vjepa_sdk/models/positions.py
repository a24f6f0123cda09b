"""Tell every token where it is: rotary and sin-cos tables over (frame, row, column)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.model import RopeLayout
from ..errors import InputError

Grid = tuple[int, int, int]
"""Tokens of a clip as (frames, rows, columns)."""


@lru_cache(maxsize=16)
def rope_table(
    grid: Grid,
    head_dim: int,
    *,
    layout: RopeLayout,
    scaled_to: int | None,
    device: torch.device,
) -> Tensor:
    """Return the rotary table of a grid, computed once and kept.

    The head is cut into three equal parts rotated by frame, row and column, and a rest that is not rotated
    (V-JEPA 2, `src/models/utils/modules.py`). The official code tiles the angles over a part instead of interleaving
    them; released V-JEPA 2 weights need that (`layout="tiled"`), V-JEPA 2.1 interleaves.

    Args:
        grid: tokens as (frames, rows, columns); any size, square or not.
        head_dim: channels of one attention head.
        layout: order of the angles within a part.
        scaled_to: rows and columns are scaled to run from 0 to `scaled_to - 1` (V-JEPA 2.1); None: not scaled.
        device: where the table is kept.

    Returns:
        float32 `[frames * rows * columns, 2 * head_dim]`: sines, then cosines, as `block.Attention` takes them.
    """
    part = 2 * (head_dim // 3 // 2)
    frequencies = 10000.0 ** -(torch.arange(part // 2, dtype=torch.float32) / (part / 2))
    angles = []
    for axis, length in enumerate(grid):
        positions = torch.arange(length, dtype=torch.float32)
        if scaled_to is not None and axis > 0:
            # one row or column alone has no scale: it stays at position 0
            positions = positions * ((scaled_to - 1) / max(length - 1, 1))
        angle = positions[:, None] * frequencies
        angle = torch.cat([angle, angle], dim=-1) if layout == "tiled" else angle.repeat_interleave(2, dim=-1)
        shape = [1, 1, 1, part]
        shape[axis] = length
        angles.append(angle.view(shape).expand(*grid, part))
    # the channels left over turn by the angle zero
    angles.append(torch.zeros(*grid, head_dim - 3 * part))
    flat = torch.cat(angles, dim=-1).flatten(0, 2)
    # a table made while encoding must also serve training, which refuses inference tensors
    with torch.inference_mode(False):
        return torch.cat([flat.sin(), flat.cos()], dim=-1).to(device)


def sincos_table(grid: Grid, dim: int, *, uniform_power: bool = True) -> Tensor:
    """Return the fixed sin-cos table that V-JEPA 1 and I-JEPA add to their tokens.

    Clips (`src/models/utils/pos_embs.py`): the axes have channels in the order frame, row, column. Single images:
    columns take the first half of the channels and rows the second, as in I-JEPA.

    Args:
        grid: tokens as (frames, rows, columns).
        dim: channels.
        uniform_power: the three axes of a clip share the channels equally, and the last loses what exceeds `dim`, as in
            all released models; else frames have half of them, and rows and columns a quarter each.

    Returns:
        float32 `[frames * rows * columns, dim]`.
    """
    frames, rows, columns = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in grid), indexing="ij")
    if grid[0] == 1:
        parts = [_sincos(columns, dim // 2), _sincos(rows, dim // 2)]
    else:
        share = -(-dim // 6) * 2
        shares = (share, share, share) if uniform_power else (dim // 2, dim // 4, dim // 4)
        parts = [_sincos(axis, width) for axis, width in zip((frames, rows, columns), shares, strict=True)]
    return torch.from_numpy(np.concatenate(parts, axis=1)[:, :dim].astype(np.float32))


def _sincos(positions: np.ndarray, dim: int) -> np.ndarray:
    frequencies = 10000.0 ** -(np.arange(dim // 2) / (dim / 2.0))
    angles = positions.reshape(-1, 1) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def resize_sincos(table: Tensor, *, old: Grid, new: Grid) -> Tensor:
    """Interpolate a position table `[1, N, D]` to another grid: trilinear for clips, bicubic for images.

    As V-JEPA 1's encoder does (`src/models/vision_transformer.py`, `interpolate_pos_encoding`).
    """
    if old == new:
        return table
    volume = table.view(*old, -1).permute(3, 0, 1, 2)
    if old[0] == new[0] == 1:
        image = F.interpolate(volume[:, 0][None], size=new[1:], mode="bicubic")
        return image.flatten(2).transpose(1, 2)
    clip = F.interpolate(volume[None], size=new, mode="trilinear")
    return clip.flatten(2).transpose(1, 2)


def extend_sincos(table: Tensor, *, old: Grid, new: Grid, clip_frames: int) -> Tensor:
    """Resize a clip's position table, then continue it beyond the clip's `clip_frames` frames, at the same pace.

    The official predictors of V-JEPA 1 end with the clip; what follows it here is the formula the table came from.

    Returns:
        `[1, N, D]` for the grid `new`, whose frames beyond `clip_frames` are the clip's future.

    Raises:
        InputError: a future is asked for, and the table is of no formula.
    """
    clip = (clip_frames, *new[1:])
    seen = resize_sincos(table, old=old, new=clip)
    if new[0] <= clip_frames:
        return seen
    # whole multiples of the clip keep the resized positions on the clip's own lattice
    times = -(-new[0] // clip_frames)
    longer = (old[0] * times, *old[1:])
    formula = sincos_table(longer, table.shape[-1], uniform_power=has_uniform_power(table, old))
    later = formula[table.shape[1] :].to(table)[None]
    future = resize_sincos(torch.cat([table, later], dim=1), old=longer, new=(clip_frames * times, *new[1:]))
    return torch.cat([seen, future[:, seen.shape[1] : new[0] * new[1] * new[2]]], dim=1)


def has_uniform_power(table: Tensor, grid: Grid | None = None) -> bool:
    """Tell by which of its two formulas a clip's table `[1, N, D]` was made.

    Args:
        grid: of the table; None: unknown, and the first token alone tells.

    Raises:
        InputError: by neither.
    """
    known = table[0, : 1 if grid is None else None].detach().float().cpu()
    for uniform_power in (True, False):
        made = sincos_table(grid or (2, 1, 1), table.shape[-1], uniform_power=uniform_power)
        made = made[: 1 if grid is None else None]
        # files may hold tables that were rounded to half precision
        if made.shape == known.shape and torch.allclose(made, known, atol=8e-3, rtol=0):
            return uniform_power
    raise InputError("the table of positions follows neither sin-cos formula, so it ends with the clip it was made for")


class PositionTables(nn.Module):
    """A network whose buffers are position tables: they stay float32, whatever its parameters are cast to.

    Half precision would round sines by up to 0.002, and a copy that is saved would keep that for ever.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, table in exact.items():
            moved = self.get_buffer(name)
            if moved.dtype != table.dtype:
                setattr(self, name, table.to(moved.device))
        return self


def sincos_buffer(grid: Grid, dim: int) -> Tensor:
    # a network laid out on the meta device gets its table from a file, and its grid may be a lie of any size
    if torch.get_default_device().type == "meta":
        return torch.empty(1, math.prod(grid), dim)
    return sincos_table(grid, dim)[None]
