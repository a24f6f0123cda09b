"""Position tables of other sizes are the official ones."""

from __future__ import annotations

import dataclasses
import math

import pytest
import tiny_models
import torch
from torch import Tensor
from torch.nn import functional as F

from vjepa_sdk.errors import InputError
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.models.positions import Grid, extend_sincos, resize_sincos, sincos_table
from vjepa_sdk.models.predictor import Predictor

VIDEO = dataclasses.replace(tiny_models.VIDEO, position="sincos")


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


def _angle_by_angle(grid: Grid, widths: tuple[int, int, int]) -> Tensor:
    """Write a clip's table out number by number: each axis has its sines, then its cosines."""
    rows = []
    for place in range(math.prod(grid)):
        where = (place // (grid[1] * grid[2]), place // grid[2] % grid[1], place % grid[2])
        row: list[float] = []
        for position, width in zip(where, widths, strict=True):
            angles = [position / 10000 ** (2 * number / width) for number in range(width // 2)]
            row += [*map(math.sin, angles), *map(math.cos, angles)]
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("rounded", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("widths", [(24, 12, 12), (16, 16, 16)], ids=["uniform_power off", "uniform_power"])
def test_the_future_goes_on_by_the_formula_of_the_table(widths: tuple[int, int, int], rounded: torch.dtype) -> None:
    table = _angle_by_angle((4, 3, 2), widths).to(rounded).float()[None]
    longer = extend_sincos(table, old=(4, 3, 2), new=(9, 3, 2), clip_frames=4)
    future = _angle_by_angle((9, 3, 2), widths)[4 * 3 * 2 :]
    torch.testing.assert_close(longer[0, 4 * 3 * 2 :], future, atol=1e-5, rtol=0)
    assert torch.equal(longer[:, : 4 * 3 * 2], table)


def test_a_table_of_no_formula_has_no_future() -> None:
    table = torch.randn(1, 24, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(extend_sincos(table, old=(4, 3, 2), new=(4, 3, 2), clip_frames=4), table)
    with pytest.raises(InputError, match="follows neither sin-cos formula, so it ends with the clip"):
        extend_sincos(table, old=(4, 3, 2), new=(5, 3, 2), clip_frames=4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_tables_stay_float32_whatever_a_network_is_cast_to(dtype: torch.dtype) -> None:
    encoder, predictor = VideoEncoder(VIDEO).to(dtype), Predictor(VIDEO).to(dtype)
    assert torch.equal(encoder.pos_embed[0], sincos_table(VIDEO.grid, VIDEO.embed_dim))
    assert torch.equal(predictor.predictor_pos_embed[0], sincos_table(VIDEO.grid, VIDEO.predictor_embed_dim))
    tokens = encoder(torch.zeros(1, 3, 4, 32, 32, dtype=dtype))
    places = torch.arange(tokens.shape[1])[None]
    predicted = predictor(tokens, places, places, grid=VIDEO.grid)
    assert tokens.dtype == predicted.dtype == dtype
