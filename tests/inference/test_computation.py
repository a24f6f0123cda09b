"""Features in fewer bits: close to those in float32, whatever else is in the batch, and of the weights of now."""

from __future__ import annotations

import dataclasses
import logging
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from tiny_models import VIDEO, save_tiny
from torch.nn import functional as F

from vjepa_sdk import VJEPA, ModelConfig
from vjepa_sdk.config.choices import Precision
from vjepa_sdk.errors import ConfigError
from vjepa_sdk.inference import computation
from vjepa_sdk.models.block import Block
from vjepa_sdk.models.precision import Int8Linear

ROPE, SINCOS = VIDEO, dataclasses.replace(VIDEO, position="sincos")
CLIPS = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LOW: list[Precision] = ["bfloat16", "float16", "int8"]


def model_in(precision: Precision, config: ModelConfig = ROPE) -> VJEPA:
    model = VJEPA.untrained(config, device="cpu")
    with torch.no_grad():  # as drawn, blocks add next to nothing
        for weight in model.encoder.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)
    return VJEPA(model._pretrained, device=model.device, precision=precision)


@pytest.mark.parametrize("config", [ROPE, SINCOS], ids=["rope", "sincos"])
@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.02), ("float16", 0.002), ("int8", 0.03)])
def test_features_are_close_to_those_in_float32(config: ModelConfig, precision: Precision, bound: float) -> None:
    exact = model_in("float32", config).embed_clips(CLIPS, pooling="none")
    near = model_in(precision, config).embed_clips(CLIPS, pooling="none")
    error = (near - exact).norm() / exact.norm()
    assert near.dtype == torch.float32 and 0 < error < bound


@pytest.mark.parametrize("precision", LOW)
def test_features_do_not_depend_on_neighbours(precision: Precision) -> None:
    model = model_in(precision)
    others = CLIPS.clone()
    others[1:] = 255
    assert torch.equal(model.embed_clips(CLIPS)[0], model.embed_clips(others)[0])


@pytest.mark.parametrize("precision", LOW)
def test_layers_and_raw_tokens_are_in_the_precision_too(precision: Precision) -> None:
    model, clips = model_in(precision), torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(model.get_intermediate_layers(clips)[0], model.forward_features(clips))
    assert not torch.equal(model.forward_features(clips), model_in("float32").forward_features(clips))


def test_a_call_may_have_a_precision_of_its_own() -> None:
    model = model_in("float32")
    frames = CLIPS[0].permute(0, 2, 3, 1).numpy()
    own, told = model.encode(frames, precision="int8"), model_in("int8").encode(frames)
    assert (own == told).all() and (model.encode(frames) != own).any()
    assert model.precision == "float32"


@pytest.mark.parametrize("precision", LOW)
def test_features_are_those_of_weights_that_have_changed_since(precision: Precision) -> None:
    model = model_in(precision)
    before = model.embed_clips(CLIPS)
    with torch.no_grad():
        model.encoder.blocks[0].get_parameter("mlp.fc1.weight").mul_(2)
    after = model.embed_clips(CLIPS)
    assert not torch.equal(after, before)
    fresh = VJEPA(model._pretrained, device=model.device, precision=precision)
    assert torch.equal(after, fresh.embed_clips(CLIPS))


def test_the_weights_that_are_saved_are_the_models_own(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "first")
    model = VJEPA.from_pretrained(directory, device="cpu", precision="int8")
    model.embed_clips(CLIPS)
    again = model.save_pretrained(tmp_path / "second")
    assert (directory / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("ratio", "chosen"), [(0.5, "bfloat16"), (1.5, "float32")])
def test_auto_takes_what_it_measured_and_says_so(
    ratio: float, chosen: Precision, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = iter([ratio, 1.0] * 5)
    monkeypatch.setattr(computation, "_seconds", lambda block, tokens: next(times))
    with caplog.at_level(logging.INFO):
        model = model_in("auto")
    assert model.precision == chosen
    assert f"precision=auto: {chosen}; a block takes {ratio:.2f} of the time in bfloat16" in caplog.text
    assert torch.equal(model.embed_clips(CLIPS), model_in(chosen).embed_clips(CLIPS))


def test_auto_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    encoder = model_in("float32").encoder
    torch.manual_seed(0)
    computation.fastest_precision(encoder)
    assert torch.equal(torch.rand(1), expected)


def test_an_int8_layer_is_the_product_of_rounded_numbers() -> None:
    layer = torch.nn.Linear(16, 24)
    x = torch.randn(40, 16)
    step, unit = (each.abs().amax(1, keepdim=True) / 127 for each in (x, layer.weight.detach()))
    expected = ((x / step).round() * step) @ ((layer.weight / unit).round() * unit).T + layer.bias
    torch.testing.assert_close(Int8Linear(layer)(x), expected.detach(), atol=1e-5, rtol=1e-5)


def test_zeros_stay_zeros_in_int8() -> None:
    layer = torch.nn.Linear(16, 16)
    assert torch.equal(Int8Linear(layer)(torch.zeros(2, 16)), layer.bias.detach().expand(2, -1))


def test_precisions_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision='fp8' must be one of float32, bfloat16"):
        VJEPA.from_pretrained("vjepa-tiny", precision="fp8")  # type: ignore[arg-type]
    directory = save_tiny(tmp_path / "m")
    with pytest.raises(ConfigError, match="precision=int8 is for weights in float32, these are float16; leave out"):
        VJEPA.from_pretrained(directory, dtype=torch.float16, precision="int8", device="cpu")
    odd = dataclasses.replace(ROPE, embed_dim=36, num_heads=6)
    with pytest.raises(ConfigError, match="int8 needs layers whose widths are multiples of 8"):
        model_in("int8", odd)


def test_compiled_features_are_those_of_an_eager_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the graph without the minutes that a C++ compiler takes
    compiled_as = partialmethod(torch.nn.Module.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(Block, "compile", compiled_as)
    directory = save_tiny(tmp_path / "m")
    eager, compiled = (VJEPA.from_pretrained(directory, device="cpu", compile=wanted) for wanted in (False, True))
    for batch in (2, 3):
        near = compiled.embed_clips(CLIPS[:batch], pooling="none")
        torch.testing.assert_close(near, eager.embed_clips(CLIPS[:batch], pooling="none"), atol=1e-5, rtol=0)
    assert F.cosine_similarity(near, eager.embed_clips(CLIPS, pooling="none"), dim=-1).min() > 0.999999
