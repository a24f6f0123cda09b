"""Encoders that compute in fewer bits than their weights have.

The linear layers of the blocks, and attention between them, compute in 16 or 8 bits; normalisation, the sums over the
blocks and patch embedding stay float32, which costs little and keeps features close.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.choices import Precision
from ..errors import ConfigError
from .block import Block
from .encoder import VideoEncoder

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
_INT8_UNIT = 8


def check_precision(precision: str) -> None:
    """Raise ConfigError unless there is such a precision."""
    if precision not in get_args(Precision):
        raise ConfigError(f"precision={precision!r} must be one of {', '.join(get_args(Precision))}")


def in_precision(encoder: VideoEncoder, precision: Precision) -> VideoEncoder:
    """Return an encoder that has the weights of another one, and whose blocks compute in `precision`.

    What stays float32 shares its memory with the given encoder, the rest is a copy of its own.

    Raises:
        ConfigError: weights that are not float32, or widths that int8 has no product for.
    """
    if precision != "float32" and (held := encoder.patch_embed.proj.weight.dtype) != torch.float32:
        raise ConfigError(
            f"precision={precision} is for weights in float32, these are {str(held).removeprefix('torch.')}; "
            "leave out dtype, or precision"
        )
    with torch.device("meta"):
        network = VideoEncoder(encoder.config)
    network.load_state_dict(encoder.state_dict(), assign=True)
    network.eval().requires_grad_(False)
    if precision != "float32":
        for block in network.blocks:
            assert isinstance(block, Block)
            lower(block, precision)
    return network


def lower(block: Block, precision: Precision) -> None:
    """Replace the linear layers of a block by such as compute in `precision`."""
    for name in _LINEARS:
        linear = block.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        parent, leaf = name.rsplit(".", 1)
        made = Int8Linear(linear) if precision == "int8" else HalfLinear(linear, _HALF[precision])
        setattr(block.get_submodule(parent), leaf, made)


class HalfLinear(nn.Module):
    """A linear layer in 16 bits, whatever it is given."""

    weight: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().to(dtype))
        self.register_buffer("bias", linear.bias.detach().to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., K]` to `[..., M]`."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class Int8Linear(nn.Module):
    """A linear layer whose product is that of 8-bit integers: weights scaled by output channel, inputs by token.

    The scale of each token is its own, so that features do not depend on what else is in the batch; the dynamic
    quantisation of `torch.ao` has one scale for all. This is the arithmetic of torchao's
    `Int8DynamicActivationInt8WeightConfig`, on the same product.
    """

    levels: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        if any(side % _INT8_UNIT for side in weight.shape):
            raise ConfigError(
                f"precision=int8 needs layers whose widths are multiples of {_INT8_UNIT}, one is {list(weight.shape)}; "
                "pass bfloat16"
            )
        scale = _scale_of(weight)
        self.register_buffer("levels", (weight / scale).round_().to(torch.int8).t().contiguous())
        self.register_buffer("scale", scale[:, 0])
        self.register_buffer("bias", linear.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 `[..., K]` to `[..., M]`."""
        rows = x.reshape(-1, x.shape[-1])
        scale = _scale_of(rows)
        product: Tensor = torch._int_mm((rows / scale).round_().to(torch.int8), self.levels)
        return (product * scale).mul_(self.scale).add_(self.bias).view(*x.shape[:-1], -1)


def _scale_of(rows: Tensor) -> Tensor:
    """Return `[N, 1]`: what one level of each row is worth, if its largest number is level 127."""
    largest: Tensor = torch.linalg.vector_norm(rows, ord=float("inf"), dim=-1, keepdim=True)
    return largest.clamp_min_(1e-30).div_(127)
