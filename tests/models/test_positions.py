"""Position tables of other sizes are the official ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vjepa_sdk.models.positions import Grid, resize_sincos, sincos_table


@pytest.mark.parametrize("new", [(8, 24, 24), (8, 14, 20), (2, 7, 7), (16, 14, 14), (5, 9, 31)])
def test_clip_tables_are_resized_as_vjepa1_does(new: Grid) -> None:
    old, dim = (8, 14, 14), 48
    table = sincos_table(old, dim)[None]
    volume = table.reshape(1, *old, dim).permute(0, 4, 1, 2, 3)
    factors = tuple(n / o for n, o in zip(new, old, strict=True))
    expected = F.interpolate(volume, scale_factor=factors, mode="trilinear").permute(0, 2, 3, 4, 1).reshape(1, -1, dim)
    torch.testing.assert_close(resize_sincos(table, old=old, new=new), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [8, 24, 32])
def test_image_tables_are_resized_bicubically(side: int) -> None:
    table = sincos_table((1, 16, 16), 48)[None]
    image = table.reshape(1, 16, 16, 48).permute(0, 3, 1, 2)
    expected = F.interpolate(image, scale_factor=side / 16, mode="bicubic").permute(0, 2, 3, 1).reshape(1, -1, 48)
    torch.testing.assert_close(resize_sincos(table, old=(1, 16, 16), new=(1, side, side)), expected, atol=1e-5, rtol=0)
