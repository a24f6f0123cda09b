"""How the features of an encoder are computed: in which precision, and compiled or not."""

from __future__ import annotations

import copy
import logging
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config.choices import Precision
from ..models.block import Block
from ..models.encoder import VideoEncoder
from ..models.pixels import Pixels
from ..models.precision import check_precision, in_precision, lower

logger = logging.getLogger(__name__)

WORTH = 0.9
"""`auto` takes bfloat16 if a block takes at most this share of the time."""
_TOKENS, _ROUNDS = 1024, 5


class Computation:
    """Encode clips with the weights of an encoder.

    A network is made for a precision, or to be compiled, at the first call, and again once the weights have changed.
    """

    def __init__(self, encoder: VideoEncoder, *, precision: Precision, is_compiled: bool) -> None:
        check_precision(precision)
        self._encoder, self._is_compiled = encoder, is_compiled
        self.precision: Precision = fastest_precision(encoder) if precision == "auto" else precision
        """In which the blocks compute; never `auto`."""
        self._is_plain = self.precision == "float32" and not is_compiled
        self._made_of: tuple[tuple[int, int], ...] = ()
        if not self._is_plain:
            self._made = self._make()

    @torch.no_grad()
    def tokens(self, clips: Tensor | Pixels) -> Tensor:
        """Return the output of the last block under its norm, float32 `[B, N, D]`."""
        tokens: Tensor = self._network()(clips)
        return tokens.float()

    @torch.no_grad()
    def tokens_after(self, clips: Tensor | Pixels, layers: Sequence[int], *, norm: bool = True) -> list[Tensor]:
        """Return the tokens after chosen blocks, each float32 `[B, N, D]`."""
        outputs = self._network().get_intermediate_layers(clips, tuple(layers), norm=norm)
        return [tokens.float() for tokens in outputs]

    def _network(self) -> VideoEncoder:
        if self._is_plain:
            return self._encoder
        if self._made_of != _state_of(self._encoder):
            self._made = self._make()
        return self._made

    def _make(self) -> VideoEncoder:
        network = in_precision(self._encoder, self.precision)
        self._made_of = _state_of(self._encoder)
        if self._is_compiled:
            for block in network.blocks:
                block.compile()
        return network


def fastest_precision(encoder: VideoEncoder) -> Precision:
    """Return `bfloat16` if a block of the encoder is quicker in it here, else `float32`; says which, and why."""
    weight = encoder.patch_embed.proj.weight
    if weight.dtype != torch.float32:
        logger.info("precision=auto: the weights stay %s", str(weight.dtype).removeprefix("torch."))
        return "float32"
    full = encoder.blocks[0]
    assert isinstance(full, Block)
    half = copy.deepcopy(full)
    lower(half, "bfloat16")
    # not the random numbers of the caller
    tokens = torch.linspace(-2, 2, _TOKENS * encoder.config.embed_dim, device=weight.device).view(1, _TOKENS, -1)
    ratio = statistics.median(_seconds(half, tokens) / _seconds(full, tokens) for _ in range(_ROUNDS))
    chosen: Precision = "bfloat16" if ratio <= WORTH else "float32"
    logger.info("precision=auto: %s; a block takes %.2f of the time in bfloat16", chosen, ratio)
    return chosen


@torch.no_grad()
def _seconds(block: Block, tokens: Tensor) -> float:
    started = time.perf_counter()
    block(tokens)
    if tokens.is_cuda:
        torch.cuda.synchronize(tokens.device)
    return time.perf_counter() - started


def _state_of(encoder: VideoEncoder) -> tuple[tuple[int, int], ...]:
    """Return what changes when weights are trained, loaded or moved."""
    # what was loaded in inference mode cannot change, and is not counted
    return tuple((each.data_ptr(), 0 if each.is_inference() else each._version) for each in encoder.parameters())
