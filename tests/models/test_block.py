"""The transformer block computes what timm's does, to the last bit."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from vjepa_sdk.config.model import RopeLayout
from vjepa_sdk.models import block
from vjepa_sdk.models.block import Block
from vjepa_sdk.models.positions import rope_table

CPU = torch.device("cpu")


def pair(seed: int = 0) -> tuple[Block, nn.Module]:
    """Return a block of ours and timm's, drawn from the same random numbers."""
    torch.manual_seed(seed)
    ours = Block(48, num_heads=4, mlp_ratio=4.5, norm_eps=1e-6)
    torch.manual_seed(seed)
    theirs = EvaBlock(
        48,
        4,
        mlp_ratio=4.5,
        attn_type="rope",
        num_prefix_tokens=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    return ours, theirs


def test_names_shapes_and_first_values_are_timms() -> None:
    ours, theirs = (block.state_dict() for block in pair())
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("has_rope", [False, True])
def test_the_block_gives_timms_bits_and_gradients(has_rope: bool) -> None:
    ours, theirs = (run(block, has_rope=has_rope) for block in pair())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("has_rope", [False, True])
def test_without_gradients_the_block_gives_timms_bits_in_bfloat16_too(has_rope: bool) -> None:
    with torch.no_grad():
        (ours,), (theirs,) = (run(block.bfloat16(), has_rope=has_rope) for block in pair())
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, theirs)


@pytest.mark.parametrize("has_rope", [False, True])
def test_gradients_in_bfloat16_are_as_near_to_those_of_float32_as_timms(has_rope: bool) -> None:
    exact = run(pair()[0], has_rope=has_rope)
    ours, theirs = (run(block.bfloat16(), has_rope=has_rope) for block in pair())
    for number, truth in enumerate(exact):
        error, usual = (float((each[number].float() - truth).norm()) for each in (ours, theirs))
        assert error <= 1.5 * usual + 0.01 * float(truth.norm())


def run(block: nn.Module, *, has_rope: bool) -> list[Tensor]:
    """Return what a block makes of some tokens, and where gradients are taken theirs and those of its parameters."""
    dtype = next(block.parameters()).dtype
    rope = rope_table((2, 3, 4), 12, layout="tiled", scaled_to=None, device=CPU) if has_rope else None
    tokens = torch.randn(2, 24, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    x = tokens.requires_grad_(torch.is_grad_enabled())
    out: Tensor = block(x, rope=rope)
    if not torch.is_grad_enabled():
        return [out]
    out.float().square().sum().backward()
    gradients = [each.grad for each in (x, *block.parameters())]
    return [out.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["tiled", "interleaved"])
@pytest.mark.parametrize("is_masked", [False, True])
def test_what_is_rotated_in_place_has_the_same_bits(
    dtype: torch.dtype, layout: RopeLayout, is_masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = pair()[0].to(dtype)
    rope = rope_table((2, 3, 4), 12, layout=layout, scaled_to=None, device=CPU)
    if is_masked:  # a table for each clip, as for tokens that are kept
        rope = rope[torch.stack([torch.randperm(24)[:9] for _ in range(2)])].unsqueeze(1)
    tokens = torch.randn(2, rope.shape[-2], 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    table, given = rope.clone(), tokens.clone()
    with torch.no_grad():
        in_place = ours(tokens, rope=rope)
        monkeypatch.setattr(block, "rotate_", block.rotate)
        assert torch.equal(ours(tokens, rope=rope), in_place)
    assert torch.equal(rope, table) and torch.equal(tokens, given)
