"""One pass gives the features of a model, of random ones of its shape, and raw pixels."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import IMAGE, VIDEO, save_tiny

from vjepa_sdk import VJEPA, embed_files
from vjepa_sdk.config.model import PreprocessConfig
from vjepa_sdk.inference.baselines import WithBaselines, num_pixel_values
from vjepa_sdk.inference.embed.options import Baselines, ComparedOptions, EmbedOptions


def clips(num_frames: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, num_frames, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("pooling", ["mean", "temporal", "grid", "change"])
def test_rows_are_those_of_each_network_alone_side_by_side_and_then_grey_frames(tmp_path: Path, pooling: Any) -> None:
    model = VJEPA.from_pretrained(save_tiny(tmp_path, VIDEO), device="cpu")
    rows = WithBaselines(model, Baselines(trained=True, random_inits=2)).embed_clips(clips(), pooling=pooling)
    networks = [model, *(VJEPA.untrained(VIDEO, seed=seed, device="cpu") for seed in range(2))]
    expected = [network.embed_clips(clips(), pooling=pooling).flatten(1) for network in networks]
    width = expected[0].shape[1]
    for number, each in enumerate(expected):
        assert torch.equal(rows[:, number * width : (number + 1) * width], each)
    pixels = rows[:, 3 * width :]
    assert pixels.shape[1] == num_pixel_values(pooling, num_frames=4, tubelet_size=2) == 4 * 144
    means = clips().float().mean(dim=(2, 3, 4)) / 255
    torch.testing.assert_close(pixels.view(3, 4, 144).mean(2), means, atol=0.02, rtol=0)


def test_tokens_lie_side_by_side_and_each_has_its_grey_values(tmp_path: Path) -> None:
    model = VJEPA.from_pretrained(save_tiny(tmp_path, VIDEO), device="cpu")
    given = clips()
    given[0, 2:4, :, :16, 16:] = 255  # the second tubelet's top right token
    rows = WithBaselines(model, Baselines(trained=False, random_inits=1)).embed_clips(given, pooling="none")
    assert torch.equal(rows[..., :24], VJEPA.untrained(VIDEO, seed=0, device="cpu").embed_clips(given, pooling="none"))
    pixels = rows[..., 24:]
    assert pixels.shape == (3, 2, 2, 2, num_pixel_values("none", num_frames=4, tubelet_size=2))
    assert (pixels[0, 1, 0, 1] == 1).all() and not (pixels[0, 0, 0, 1] == 1).any()


def test_random_networks_see_clips_preprocessed_as_the_model_does(tmp_path: Path) -> None:
    model = VJEPA.from_pretrained(save_tiny(tmp_path, IMAGE), device="cpu")
    odd = replace(PreprocessConfig.for_crop(32), mean=(0.1, 0.2, 0.3))
    shifted = VJEPA(replace(model._pretrained, preprocess=odd), device=model.device)
    rows = WithBaselines(shifted, Baselines(trained=False, random_inits=1)).embed_clips(clips(1))
    expected = VJEPA.untrained(IMAGE, preprocess=odd, seed=0, device="cpu").embed_clips(clips(1))
    assert torch.equal(rows[:, :24], expected)


def test_a_job_with_baselines_has_other_settings_than_one_without() -> None:
    defaults = {name: each.default for name, each in inspect.signature(embed_files).parameters.items()}
    options = {name: defaults[name] for name in inspect.signature(EmbedOptions).parameters if name in defaults}
    baselines = Baselines(trained=True, random_inits=3)
    plain, compared = EmbedOptions(**options), ComparedOptions(**options, baselines=baselines)
    assert compared.settings == {**plain.settings, "baselines": {"trained": True, "random_inits": 3}}
    assert (plain.num_encoders, compared.num_encoders) == (1, 4)


def test_tokens_of_several_blocks_have_pixels_beside_them_too() -> None:
    model = VJEPA.untrained(VIDEO, device="cpu")
    rows = WithBaselines(model, Baselines(trained=True, random_inits=1)).embed_clips(
        clips(), pooling="none", layers=[0, 1]
    )
    one = WithBaselines(model, Baselines(trained=True, random_inits=1)).embed_clips(clips(), pooling="none")
    assert rows.shape == (len(one), 2, *one.shape[1:])
    torch.testing.assert_close(rows[:, 1], one, atol=1e-5, rtol=1e-4)
    assert torch.equal(rows[:, 0, ..., 48:], one[..., 48:])
