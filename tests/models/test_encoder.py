"""The networks take any grid, and what is dropped is never seen."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import VIDEO as TINY

from vjepa_sdk.config.model import ModelConfig
from vjepa_sdk.errors import InputError
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.models.positions import resize_sincos, rope_table, sincos_table
from vjepa_sdk.models.predictor import Predictor

SINCOS = dataclasses.replace(TINY, position="sincos")
LEVELS = dataclasses.replace(
    TINY,
    rope_layout="interleaved",
    rope_grid=16,
    level_layers=(0, 1),
    image_tokenizer=True,
    predictor_levels=2,
    predictor_context=True,
)
CONFIGS = {"rope": TINY, "sincos": SINCOS, "levels": LEVELS}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def encoder(config: ModelConfig) -> VideoEncoder:
    return VideoEncoder(config).eval()


@given(
    name=st.sampled_from(sorted(CONFIGS)),
    batch=st.integers(1, 3),
    tubelets=st.integers(1, 4),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
@torch.no_grad()
def test_any_grid_gives_one_finite_token_per_tubelet(
    name: str, batch: int, tubelets: int, rows: int, columns: int
) -> None:
    clips = torch.rand(batch, 3, tubelets * 2, rows * 16, columns * 16)
    tokens = encoder(CONFIGS[name])(clips)
    assert tokens.shape == (batch, tubelets * rows * columns, 24)
    assert tokens.isfinite().all()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_keeping_all_tokens_equals_keeping_none(name: str) -> None:
    network, clips = encoder(CONFIGS[name]), torch.rand(2, 3, 4, 32, 48)
    everything = torch.arange(12).expand(2, -1)
    torch.testing.assert_close(network(clips, everything), network(clips))


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_order_of_kept_tokens_is_the_order_of_the_output(name: str) -> None:
    network, clips = encoder(CONFIGS[name]), torch.rand(1, 3, 4, 32, 32)
    forward, backward = torch.tensor([[1, 4, 6]]), torch.tensor([[6, 4, 1]])
    torch.testing.assert_close(network(clips, forward), network(clips, backward).flip(1))


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_pixels_of_dropped_tokens_change_nothing(name: str) -> None:
    network, clips = encoder(CONFIGS[name]), torch.rand(1, 3, 4, 32, 32)
    keep = torch.tensor([[0, 1, 2, 4, 5, 6]])  # drops the lower right column of both tubelets
    changed = clips.clone()
    changed[..., 16:, 16:] = torch.rand(16, 16)
    assert torch.equal(network(clips, keep), network(changed, keep))
    assert not torch.equal(network(clips), network(changed))


@torch.no_grad()
def test_levels_end_with_the_plain_output() -> None:
    network, clips = encoder(LEVELS), torch.rand(1, 3, 4, 32, 32)
    torch.testing.assert_close(network.forward_levels(clips)[..., -24:], network(clips))


@torch.no_grad()
def test_last_intermediate_layer_is_the_plain_output() -> None:
    network, clips = encoder(TINY), torch.rand(1, 3, 4, 32, 32)
    first, last = network.get_intermediate_layers(clips, (0, 1))
    assert torch.equal(last, network(clips))
    assert not torch.equal(first, last)


@torch.no_grad()
def test_single_frames_take_their_own_path() -> None:
    assert encoder(LEVELS)(torch.rand(2, 3, 1, 32, 32)).shape == (2, 4, 24)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 3, 32, 32), "frames=3 must be a positive multiple of 2; pass 2 or 4"),
        ((1, 3, 4, 40, 32), "height=40 must be a positive multiple of 16; pass 32 or 48"),
        ((1, 3, 4, 32, 8), "width=8 must be a positive multiple of 16; pass 16 or 32"),
        ((1, 4, 4, 32, 32), r"clips of shape \(1, 4, 4, 32, 32\) must be \[B, 3, T, H, W\]"),
        ((3, 4, 32, 32), r"must be \[B, 3, T, H, W\]; add missing axes"),
    ],
)
def test_sizes_that_do_not_divide_are_named(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder(TINY)(torch.rand(shape))


@torch.no_grad()
def test_predictor_reaches_places_beyond_the_clip() -> None:
    predictor = Predictor(TINY).eval()
    context, shown = torch.rand(1, 4, 24), torch.arange(4)[None]
    future = torch.arange(20, 24)[None]
    prediction = predictor(context, shown, future, grid=(6, 2, 2))
    assert prediction.shape == (1, 4, 24) and prediction.isfinite().all()


@torch.no_grad()
def test_predictor_does_not_depend_on_the_order_of_context_tokens() -> None:
    predictor = Predictor(TINY).eval()
    context, shown, hidden = torch.rand(1, 3, 24), torch.tensor([[0, 2, 5]]), torch.tensor([[1, 7]])
    expected = predictor(context, shown, hidden, grid=(2, 2, 2))
    torch.testing.assert_close(predictor(context.flip(1), shown.flip(1), hidden, grid=(2, 2, 2)), expected)


def test_output_layers_of_deeper_blocks_start_smaller() -> None:
    network = VideoEncoder(dataclasses.replace(TINY, embed_dim=192, num_heads=3, depth=8))
    first, last = (network.blocks[i].get_parameter("mlp.fc2.weight").std() for i in (0, 7))
    assert (first / last).item() == pytest.approx(8**0.5, rel=0.05)


def test_rope_leaves_the_origin_and_spare_channels_unrotated() -> None:
    table = rope_table((2, 3, 3), 32, layout="tiled", scaled_to=None, device=torch.device("cpu"))
    sine, cosine = table.chunk(2, dim=-1)
    assert (sine[0] == 0).all() and (cosine[0] == 1).all()
    assert (sine[:, 30:] == 0).all() and (cosine[:, 30:] == 1).all()


def test_rope_scales_any_grid_to_the_pretrained_one() -> None:
    place = torch.device("cpu")
    native = rope_table((1, 16, 16), 32, layout="interleaved", scaled_to=None, device=place).view(16, 16, 64)
    scaled = rope_table((1, 31, 31), 32, layout="interleaved", scaled_to=16, device=place).view(31, 31, 64)
    torch.testing.assert_close(scaled[::2, ::2], native)


def test_rope_tables_are_computed_once() -> None:
    arguments = {"layout": "tiled", "scaled_to": None, "device": torch.device("cpu")}
    assert rope_table((2, 2, 2), 24, **arguments) is rope_table((2, 2, 2), 24, **arguments)


def test_rope_tables_made_in_inference_mode_serve_training() -> None:
    with torch.inference_mode():
        table = rope_table((3, 5, 7), 24, layout="tiled", scaled_to=None, device=torch.device("cpu"))
    assert not table.is_inference()


def test_sincos_of_the_native_grid_is_not_resized() -> None:
    table = sincos_table((2, 3, 3), 48)[None]
    assert resize_sincos(table, old=(2, 3, 3), new=(2, 3, 3)) is table


@pytest.mark.parametrize(("config", "is_rescaled"), [(TINY, True), (SINCOS, False)])
def test_output_layers_start_small_in_the_families_that_train_so(config: ModelConfig, is_rescaled: bool) -> None:
    block = encoder(dataclasses.replace(config, embed_dim=192, num_heads=3)).blocks[1]
    expected = 0.02 / 2.0 if is_rescaled else 0.02  # sqrt(2 * 2) in the second block
    assert float(block.mlp.fc2.weight.detach().std()) == pytest.approx(expected, rel=0.05)
    assert float(block.mlp.fc1.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_mask_tokens_start_from_zero_but_for_stills() -> None:
    stills = dataclasses.replace(SINCOS, num_frames=1, tubelet_size=1)
    assert all(float(Predictor(config).mask_tokens[0].detach().abs().max()) == 0.0 for config in CONFIGS.values())
    assert 0.01 < float(Predictor(stills).mask_tokens[0].detach().std()) < 0.03
