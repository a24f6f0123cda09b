"""Make things move that do not: windows that pan and zoom, patches that cross a clip. Off in all official recipes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Box = tuple[float, float, float, float]
"""Top, left, height and width of a rectangle, in pixels."""


def draw_boxes(
    height: int, width: int, *, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[Box, Box]:
    """Draw where a moving window starts and ends: a pan half of the time, else a zoom as well.

    Args:
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        scale: lowest and highest share of the frame's area that a window covers.
        ratio: lowest and highest width / height; drawn uniformly on a logarithmic scale.
    """
    draws = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
    aspect = math.exp(math.log(ratio[0]) + draws[0] * (math.log(ratio[1]) - math.log(ratio[0])))
    shares = [low_high(scale, draws[1]), low_high(scale, draws[2])]
    if draws[3] < 0.5:
        shares[1] = shares[0]
    boxes = []
    for share, (down, right) in zip(shares, ((draws[4], draws[5]), (draws[6], draws[7])), strict=True):
        area = share * height * width
        h, w = min(height, math.sqrt(area / aspect)), min(width, math.sqrt(area * aspect))
        boxes.append((down * (height - h), right * (width - w), h, w))
    return boxes[0], boxes[1]


def low_high(interval: tuple[float, float], draw: float) -> float:
    """Return the number that lies a share `draw` of the way from low to high."""
    return interval[0] + draw * (interval[1] - interval[0])


def moving_window(frames: Tensor, first: Box, last: Box, *, crop_size: int, flip: bool) -> Tensor:
    """Cut a window out of each frame that moves steadily from `first` to `last`; bilinear.

    Args:
        frames: uint8 [T, 3, H, W].
        crop_size: side of the result, in pixels.
        flip: mirror all frames.

    Returns:
        uint8 [T, 3, crop_size, crop_size].
    """
    count, _, height, width = frames.shape
    way = torch.linspace(0.0, 1.0, count)[:, None]
    boxes = torch.tensor(first) + way * (torch.tensor(last) - torch.tensor(first))
    steps = (torch.arange(crop_size) + 0.5) / crop_size
    down = (boxes[:, :1] + boxes[:, 2:3] * steps) / height * 2 - 1
    right = (boxes[:, 1:2] + boxes[:, 3:] * (steps.flip(0) if flip else steps)) / width * 2 - 1
    grid = torch.stack(
        [right[:, None, :].expand(-1, crop_size, -1), down[:, :, None].expand(-1, -1, crop_size)], dim=-1
    )
    moved = F.grid_sample(frames.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8)


def add_sprite(clip: Tensor, *, generator: torch.Generator) -> Tensor:
    """Let a patch of the clip's middle frame, mirrored and with other colours, cross it on a straight line.

    Its shape is a disc, a square or a ring; it covers a twentieth to a fifth of the frame.

    Args:
        clip: uint8 [T, 3, S, S].
    """
    count, _, side, _ = clip.shape
    draws = torch.rand(9, generator=generator, dtype=torch.float64).tolist()
    size = max(4, round(side * low_high((0.25, 0.5), draws[0])))
    top, left = (int(draw * (side - size + 1)) for draw in draws[1:3])
    patch = clip[count // 2, :, top : top + size, left : left + size].flip(-1).roll(1 + int(draws[3] * 2), dims=0)
    patch = 255 - patch if draws[4] < 0.5 else patch
    radius = ((torch.arange(size) - (size - 1) / 2) ** 2).mul(4 / size**2)
    radius = (radius[:, None] + radius).sqrt()
    shape = (radius <= 1.0, torch.ones(size, size, dtype=torch.bool), (radius <= 1.0) & (radius > 0.5))[
        int(draws[4] * 3)
    ]
    angle, travel = 2 * math.pi * draws[5], side * low_high((0.2, 1.0), draws[6])
    middle, way = torch.tensor(draws[7:]) * side, torch.linspace(-0.5, 0.5, count)[:, None]
    corners = (middle + travel * way * torch.tensor([math.sin(angle), math.cos(angle)]) - size / 2).round().long()
    clip = clip.clone()
    for frame, (row, column) in zip(clip, corners.tolist(), strict=True):
        above, before = max(row, 0), max(column, 0)
        seen = shape[above - row : max(side - row, 0), before - column : max(side - column, 0)]
        place = frame[:, above : above + seen.shape[0], before : before + seen.shape[1]]
        cut = patch[:, above - row : above - row + seen.shape[0], before - column : before - column + seen.shape[1]]
        place.copy_(torch.where(seen, cut, place))
    return clip
