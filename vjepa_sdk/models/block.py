"""The pre-norm transformer block of all four families, with rotary positions or without.

It computes, and names its parameters, as the official blocks do (`src/models/utils/modules.py` of V-JEPA 2), and gives
the same bits as timm's `EvaBlock`; a test holds it against that. It is ours because importing timm loads torchvision
and `torch._dynamo`, which takes longer than loading torch itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SHORT = 512
"""Tokens up to which the weights of attention, one number for each pair of them, are kept for the backward pass."""


class Block(nn.Module):
    """Attention and an MLP, each of what a LayerNorm gives, each added to its input."""

    def __init__(self, dim: int, *, num_heads: int, mlp_ratio: float, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """Map tokens `[B, N, D]` to `[B, N, D]`; for `rope` see `Attention`."""
        x = x + self.attn(self.norm1(x), rope=rope)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """Mix tokens `[B, N, D]`.

        Args:
            rope: sines, then cosines, `[..., N, 2 * head_dim]`, by which queries and keys are rotated; None: not at
                all.
        """
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # each [B, heads, N, head_dim]
        if rope is not None:
            q, k = _rotated(q, rope), _rotated(k, rope)
        mixed = attend(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return `softmax(q k^T / sqrt(head_dim)) v` for `[B, heads, N, head_dim]`."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad and q.shape[-2] <= _SHORT:
        # PyTorch's fused kernel takes two to four times as long for short sequences in bfloat16 on a CPU
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        mixed: Tensor = scores.softmax(-1) @ v
        return mixed
    return F.scaled_dot_product_attention(q, k, v)


class Mlp(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., D]` to `[..., D]`."""
        hidden = self.fc1(x)
        # in place where nothing is differentiated: the widest tensor of a pass is there once
        is_plain = torch.is_grad_enabled() or torch.compiler.is_compiling()
        out: Tensor = self.fc2(self.act(hidden) if is_plain else torch.ops.aten.gelu_(hidden))
        return out


def _rotated(x: Tensor, rope: Tensor) -> Tensor:
    """Return what `rotate` does, in the dtype of `x`, whose memory may be used up."""
    # where nothing is differentiated, on the processor for which it was measured; a compiler fuses the plain form
    is_plain = torch.is_grad_enabled() or not x.is_cpu or x.dtype == torch.float64 or torch.compiler.is_compiling()
    return (rotate(x, rope) if is_plain else rotate_(x.float(), rope)).type_as(x)


def rotate_(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate float32 `x` in place: the bits of `rotate`, without moving channels, in half the time."""
    sines, cosines = rope.chunk(2, -1)
    # pairs as complex numbers: times i, (a, b) becomes (-b, a) exactly
    turned = torch.view_as_real(torch.view_as_complex(x.view(*x.shape[:-1], -1, 2)) * 1j).flatten(-2)
    return x.mul_(cosines).add_(turned.mul_(sines))


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate pairs of neighbouring channels of `[..., N, head_dim]`, in the precision of the wider of both."""
    sines, cosines = rope.chunk(2, -1)
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).reshape(x.shape)
    return x * cosines + turned * sines
