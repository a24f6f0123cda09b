"""Pool tokens into features, and stack what several clips give."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config.choices import GRID_SIDE, Pooling
from ..errors import ConfigError, InputError


def check_pooling(pooling: str, *, batch_size: int) -> None:
    """Raise ConfigError unless features can be pooled so, of so many clips at a time."""
    if pooling not in get_args(Pooling):
        raise ConfigError(f"pooling={pooling!r} must be one of {', '.join(get_args(Pooling))}")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size={batch_size!r} must be an integer of at least 1; pass 1 or more")


def pool_tokens(tokens: Tensor, grid: tuple[int, int, int], *, pooling: Pooling) -> Tensor:
    """Pool tokens `[B, N, D]` of a grid (frames, rows, columns) to float32 `[B, ...]`; see `Pooling`."""
    tokens = tokens.float()
    if pooling == "change" and grid[0] < 2:
        raise ConfigError("pooling=change compares tubelets, and the clip has one; pass more frames, or pooling=mean")
    if pooling == "mean":
        return tokens.mean(dim=1)
    volume = tokens.view(len(tokens), *grid, -1)
    if pooling == "change":
        change: Tensor = volume.diff(dim=1).norm(dim=-1)
        return change
    if pooling == "grid":
        return _cells(volume)
    return volume.mean(dim=(2, 3)) if pooling == "temporal" else volume


def _cells(volume: Tensor) -> Tensor:
    """Return means over 3 x 3 parts of the frame, `[B, T', 3, 3, D]`; they overlap where 3 does not divide it."""
    planes = volume.flatten(0, 1).movedim(-1, 1)
    cells = F.adaptive_avg_pool2d(planes, GRID_SIDE).movedim(1, -1)
    return cells.reshape(*volume.shape[:2], *cells.shape[1:])


def stack_by_shape(clips: list[Tensor]) -> list[Tensor]:
    """Stack clips, in order, into runs of one shape: a still among videos has fewer frames."""
    groups: list[list[Tensor]] = []
    for clip in clips:
        if groups and groups[-1][0].shape == clip.shape:
            groups[-1].append(clip)
        else:
            groups.append([clip])
    return [torch.stack(group) for group in groups]


def stack_rows(rows: list[Tensor]) -> Tensor:
    """Stack the features of clips.

    Raises:
        InputError: they differ in shape.
    """
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) > 1:
        raise InputError(f"stills and videos give features of different shapes {sorted(shapes)}; encode them apart")
    return torch.stack(rows)
