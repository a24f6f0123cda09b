"""Pixels that are normalised as tubelets give the bits of clips that are normalised first."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_models import IMAGE, VIDEO

from vjepa_sdk import ModelConfig
from vjepa_sdk.config.model import IMAGENET_MEAN, IMAGENET_STD
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.models.pixels import Pixels
from vjepa_sdk.video.transforms import normalize


@pytest.mark.parametrize("config", [VIDEO, IMAGE, dataclasses.replace(VIDEO, position="sincos")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pixels_give_the_bits_of_normalised_clips(config: ModelConfig, dtype: torch.dtype) -> None:
    encoder = VideoEncoder(config).to(dtype).eval()
    frames = torch.randint(0, 256, (3, config.num_frames, 3, 32, 48), dtype=torch.uint8)
    clips = normalize(frames, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    pixels = Pixels(frames, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    with torch.no_grad():
        assert torch.equal(encoder(pixels), encoder(clips.to(dtype)))
        assert encoder.grid_of(pixels) == encoder.grid_of(clips)


def test_a_view_of_frames_gives_the_bits_of_its_copy() -> None:
    frames = torch.randint(0, 256, (2, 8, 3, 32, 32), dtype=torch.uint8)[:, ::2].transpose(-1, -2)
    kept, copied = (Pixels(each, mean=IMAGENET_MEAN, std=IMAGENET_STD) for each in (frames, frames.contiguous()))
    assert torch.equal(kept.tubelets((2, 16, 16)), copied.tubelets((2, 16, 16)))
