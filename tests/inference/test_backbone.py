"""The encoder as a module in someone else's loop."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from media import numbered_frame, write_video
from tiny_models import VIDEO, save_tiny

from vjepa_sdk import VJEPA
from vjepa_sdk.errors import ConfigError, InputError


@pytest.fixture
def model(tmp_path: Path) -> VJEPA:
    return VJEPA.from_pretrained(save_tiny(tmp_path / "model"), device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "a.mp4", num_frames=8)


@pytest.mark.parametrize("pooling", ["mean", "temporal", "grid", "change", "none"])
@pytest.mark.parametrize("layers", [None, (0, 1)])
def test_features_are_those_of_encode(model: VJEPA, clip: Path, pooling: str, layers: Sequence[int] | None) -> None:
    backbone = model.backbone()
    pixels = backbone.transform(clip)[None]
    expected = model.embed_clips(pixels, pooling=pooling, layers=layers)  # type: ignore[arg-type]
    found = backbone(pixels, pooling=pooling, layers=layers)
    assert torch.equal(found, expected) and found.dtype == torch.float32 and found.requires_grad
    if layers is None:
        np.testing.assert_array_equal(found[0].detach().numpy(), model.encode(clip, pooling=pooling))  # type: ignore[call-overload]


def test_floats_from_0_to_1_are_the_pixels(model: VJEPA, clip: Path) -> None:
    backbone = model.backbone()
    pixels = backbone.transform(clip)[None]
    torch.testing.assert_close(backbone(pixels.float() / 255), backbone(pixels))


def test_every_weight_gets_a_gradient_and_the_model_learns_with_it(model: VJEPA, clip: Path) -> None:
    backbone = model.backbone()
    before = model.encode(clip)
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    backbone(backbone.transform(clip)[None]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    optimizer.step()
    assert not np.allclose(model.encode(clip), before)


def test_the_transform_travels_to_the_workers_of_a_loader(model: VJEPA, clip: Path) -> None:
    transform = pickle.loads(pickle.dumps(model.backbone().transform))
    assert torch.equal(transform(clip), model.backbone().transform(clip))
    frames = np.stack([numbered_frame(number) for number in range(8)])
    assert transform(frames).shape == (4, 3, 32, 32)


def test_a_copy_of_the_backbone_leaves_the_model_as_it_is(model: VJEPA, clip: Path) -> None:
    before = model.encode(clip)
    own = copy.deepcopy(model.backbone())
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(model.encode(clip), before)


def test_grid_and_size_say_what_comes(model: VJEPA, clip: Path) -> None:
    backbone = model.backbone()
    pixels = backbone.transform(clip)[None]
    assert backbone.grid(pixels) == VIDEO.grid == tuple(backbone(pixels, pooling="none").shape[1:4])
    assert backbone.embed_dim == model.embed_dim == backbone(pixels).shape[1]


def test_wrong_clips_and_poolings_are_told(model: VJEPA) -> None:
    backbone = model.backbone()
    with pytest.raises(InputError, match=r"clips must be \[\.\.\., T, 3, H, W\]"):
        backbone(torch.zeros(1, 3, 4, 32, 32))
    with pytest.raises(ConfigError, match="pooling='max' must be one of"):
        backbone(torch.zeros(1, 4, 3, 32, 32), pooling="max")


def test_a_model_moves_to_another_dtype_and_back(model: VJEPA, clip: Path) -> None:
    exact = model.encode(clip)
    assert model.dtype == torch.float32
    assert model.to(dtype=torch.bfloat16) is model and model.dtype == torch.bfloat16
    rough = model.encode(clip)
    assert rough.dtype == np.float32 and 0 < np.abs(rough - exact).max() < 0.1
    assert model.predictor is not None
    assert {parameter.dtype for parameter in model.predictor.parameters()} == {torch.bfloat16}
    assert model.to(torch.device("cpu")).device == torch.device("cpu")


def test_a_model_moves_to_no_place_that_is_not_there(model: VJEPA) -> None:
    with pytest.raises(ConfigError, match="dtype=torch.int8 must be a floating-point dtype"):
        model.to(dtype=torch.int8)
    with pytest.raises(ConfigError, match="device"):
        model.to("nowhere")
    assert model.dtype == torch.float32
