"""Classify the tokens of a frozen encoder: the attentive probe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.schema import check_multiple, check_range, check_types
from .block import Mlp
from .layers import init_weights, transformer_blocks


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Shape of an attentive probe (V-JEPA section 5, arXiv 2404.08471)."""

    embed_dim: int
    """Channels of the encoder's tokens."""
    num_classes: int
    depth: int = 1
    """One block of cross-attention, and `depth - 1` of self-attention."""
    num_heads: int = 16
    """16 in every official probe, whatever the encoder has."""
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-5
    self_attention: Literal["before", "after"] = "before"
    """Self-attention among the tokens before they are pooled (V-JEPA 2) or on what was pooled (V-JEPA 1)."""
    layers: tuple[int, ...] = ()
    """Encoder blocks, from 0, whose normed tokens are read one after the other; empty: the last block's."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, high in (("embed_dim", 16384), ("num_classes", 1 << 20), ("depth", 64), ("num_heads", 256)):
            check_range(name, getattr(self, name), 1, high)
        check_range("mlp_ratio", self.mlp_ratio, 0.1, 32)
        check_range("norm_eps", self.norm_eps, 1e-15, 1e-2)
        check_multiple("embed_dim", self.embed_dim, "num_heads", self.num_heads)
        for layer in self.layers:
            check_range("layers", layer, 0, 255)


class AttentiveProbe(nn.Module):
    """Pool tokens with one learnt query and classify the result. Parameters have the official names."""

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.config = config
        self.pooler = _AttentivePooler(config)
        self.linear = nn.Linear(config.embed_dim, config.num_classes)  # starts as PyTorch starts it, officially too
        self.pooler.init_weights()

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens `[B, N, D]`, of one or more clips or layers, to logits `[B, num_classes]`."""
        logits: Tensor = self.linear(self.pooler(tokens))
        return logits

    def attention(self, tokens: Tensor) -> Tensor:
        """Return what the query takes of each token, `softmax(q k / sqrt(d))`: `[B, heads, N]`, each head sums to 1.

        Where self-attention comes first, the tokens it weighs are mixed ones: each knows of all others.
        """
        weights: Tensor = self.pooler.attention(tokens)
        return weights


class _AttentivePooler(nn.Module):
    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.comes_first = config.self_attention == "before"
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.cross_attention_block = _CrossAttentionBlock(config)
        self.blocks = transformer_blocks(
            dim=config.embed_dim,
            depth=config.depth - 1,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            norm_eps=config.norm_eps,
        )

    def init_weights(self) -> None:
        """Start as the official poolers do (`src/models/attentive_pooler.py` of both repositories).

        Their loops over the blocks leave a counter behind, by which the output of cross-attention is scaled too.
        """
        if self.query_tokens.is_meta:
            return
        depth, first = len(self.blocks), 1 if self.comes_first else 2
        init_weights(self, self.blocks, rescale=True, first=first)
        nn.init.trunc_normal_(self.query_tokens, std=0.02)
        counter = max(1, depth) if self.comes_first else 1
        with torch.no_grad():
            self.cross_attention_block.mlp.fc2.weight.div_(math.sqrt(2.0 * counter))

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.query_tokens.expand(len(tokens), -1, -1)
        if self.comes_first:
            pooled = self.cross_attention_block(query, self._attend(tokens))
        else:
            pooled = self._attend(self.cross_attention_block(query, tokens))
        first: Tensor = pooled[:, 0]
        return first

    def attention(self, tokens: Tensor) -> Tensor:
        """Return the weights of the cross-attention, `[B, heads, N]`."""
        query = self.query_tokens.expand(len(tokens), -1, -1)
        read = self._attend(tokens) if self.comes_first else tokens
        block = self.cross_attention_block
        weights: Tensor = block.xattn.weights(query, block.norm1(read))
        return weights[:, :, 0]

    def _attend(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, rope=None)
        return x


class _CrossAttentionBlock(nn.Module):
    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.xattn = _CrossAttention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config.embed_dim, int(config.embed_dim * config.mlp_ratio))

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        query = query + self.xattn(query, self.norm1(tokens))
        pooled: Tensor = query + self.mlp(self.norm2(query))
        return pooled


class _CrossAttention(nn.Module):
    """Cross-attention without an output projection, as the official probes compute it."""

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.embed_dim, config.embed_dim)
        self.kv = nn.Linear(config.embed_dim, 2 * config.embed_dim)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        q, k, v = self._heads(query, tokens)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def weights(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Return `softmax(q k / sqrt(d))`, `[B, heads, queries, N]`, in float32."""
        q, k, _ = self._heads(query, tokens)
        weights: Tensor = (q.float() @ k.float().transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
        return weights

    def _heads(self, query: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = (self.num_heads, -1)
        q = self.q(query).unflatten(-1, heads).transpose(1, 2)
        k, v = (x.unflatten(-1, heads).transpose(1, 2) for x in self.kv(tokens).chunk(2, dim=-1))
        return q, k, v
