"""The parts a JEPA network is made of: tubelet embedding, transformer block, token gather."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .block import Block
from .pixels import Pixels


class PatchEmbed3D(nn.Module):
    """Embed tubelets of `tubelet_size` frames by `patch_size` x `patch_size` pixels.

    The weight has the shape and name of the official `Conv3d`; a convolution whose stride is its kernel is one matrix
    product over cut-out tubelets, which is faster and lets tokens be dropped before they are computed.
    """

    def __init__(self, *, patch_size: int, tubelet_size: int, embed_dim: int) -> None:
        super().__init__()
        self.kernel = (tubelet_size, patch_size, patch_size)
        self.proj = nn.Conv3d(3, embed_dim, kernel_size=self.kernel, stride=self.kernel)

    def forward(self, clips: Tensor | Pixels, keep: Tensor | None = None) -> Tensor:
        """Map clips `[B, 3, T, H, W]` to tokens `[B, N, D]`, or to `[B, K, D]` for the tokens `keep` `[B, K]`."""
        weight = self.proj.weight
        if isinstance(clips, Pixels):
            tubelets = clips.tubelets(self.kernel).to(weight.dtype)
        else:
            tubelets = _cut(clips, self.kernel)
        if keep is not None:
            tubelets = gather_tokens(tubelets, keep)
        return F.linear(tubelets, weight.flatten(1), self.proj.bias)


def _cut(clips: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    batch, channels, *size = clips.shape
    (t, p, q), (frames, rows, columns) = kernel, (n // k for n, k in zip(size, kernel, strict=True))
    tubelets = clips.view(batch, channels, frames, t, rows, p, columns, q)
    return tubelets.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, frames * rows * columns, channels * t * p * q)


def gather_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Pick tokens `[B, N, D]` by index `int64 [B, K]`; returns `[B, K, D]`."""
    return tokens.gather(1, indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def transformer_blocks(*, dim: int, depth: int, num_heads: int, mlp_ratio: float, norm_eps: float) -> nn.ModuleList:
    """Return the blocks of a network."""
    return nn.ModuleList(Block(dim, num_heads=num_heads, mlp_ratio=mlp_ratio, norm_eps=norm_eps) for _ in range(depth))


def init_weights(module: nn.Module, blocks: nn.ModuleList, *, rescale: bool, first: int = 1) -> None:
    """Initialise as the official code does: normal with std 0.02, biases zero.

    Args:
        rescale: divide the two output layers of block i by `sqrt(2 (i + 1))`, as V-JEPA 2 does
            (`src/models/vision_transformer.py`). V-JEPA 1 and I-JEPA initialise all layers once more afterwards, which
            undoes it. The official truncation at an absolute +-2 is 100 standard deviations away and truncates nothing.
        first: what the first block counts as.
    """
    if next(module.parameters()).is_meta:  # laid out for weights that will come; torch would load sympy for nothing
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv3d):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if not rescale:
        return
    with torch.no_grad():
        for depth, block in enumerate(blocks, start=first):
            for name in ("attn.proj.weight", "mlp.fc2.weight"):
                block.get_parameter(name).div_(math.sqrt(2.0 * depth))


def run_block(block: nn.Module, x: Tensor, rope: Tensor | None, *, recompute: bool) -> Tensor:
    """Run a block; in training it may forget its activations and compute them again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        kept: Tensor = checkpoint(block, x, rope=rope, use_reentrant=False)
        return kept
    output: Tensor = block(x, rope=rope)
    return output
