"""An encoder as a layer of one's own network: pixels in, pooled features out, gradients on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config.choices import Pooling
from ..config.model import ModelConfig, PreprocessConfig
from ..models.encoder import VideoEncoder
from ..video.clips import ClipLoader
from ..video.transforms import normalize
from .pooling import check_pooling, pool_tokens


@dataclass(frozen=True)
class ClipTransform:
    """Turn one video into the clip that a model takes. Can be pickled, for the workers of a `DataLoader`."""

    load: ClipLoader

    def __call__(self, video: object) -> Tensor:
        """Return pixels `uint8 [T, 3, crop, crop]` of a path, a directory of frames, images, an array or a tensor.

        Raises:
            InputError: not a video.
            VideoDecodeError: a file that cannot be decoded.
        """
        return torch.from_numpy(self.load(video)[0])


class Backbone(nn.Module):
    """The encoder of a model with what belongs around it. `VJEPA.backbone()` makes it.

    It holds the model's own encoder and not a copy: what a loop of yours does to it, `VJEPA.encode` and
    `VJEPA.save_pretrained` of that model see.
    """

    def __init__(self, encoder: VideoEncoder, preprocess: PreprocessConfig, transform: ClipTransform) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(True)
        self.preprocess = preprocess
        self.transform = transform
        """From a video to one clip, `uint8 [T, 3, crop, crop]`."""

    @property
    def config(self) -> ModelConfig:
        """Shape of the encoder."""
        return self.encoder.config

    @property
    def embed_dim(self) -> int:
        """Features of a token, and of `mean` pooling."""
        return self.config.embed_dim

    def grid(self, clips: Tensor) -> tuple[int, int, int]:
        """Return how many tokens clips `[B, T, 3, H, W]` become: frames, rows, columns."""
        return self.encoder.grid_of(clips.transpose(1, 2))

    def forward(self, clips: Tensor, *, pooling: Pooling = "mean", layers: Sequence[int] | None = None) -> Tensor:
        """Encode clips.

        Args:
            clips: pixels `[B, T, 3, H, W]`, uint8, or floats from 0 to 1. They are normalised here, where the encoder
                is.
            pooling: see `VJEPA.encode`.
            layers: numbers of blocks, from 0; they become the second axis. None: the output, without that axis.

        Returns:
            float32, batch first: `mean` `[B, D]`, `temporal` `[B, T', D]`, `grid` `[B, T', 3, 3, D]`, `change`
            `[B, T' - 1, H', W']`, `none` `[B, T', H', W', D]`.

        Raises:
            ConfigError: a pooling that is not known.
            InputError: clips of another shape, or of a size that does not divide into tokens.
        """
        check_pooling(pooling, batch_size=1)
        weight = self.encoder.patch_embed.proj.weight
        pixels = normalize(clips.to(weight.device), mean=self.preprocess.mean, std=self.preprocess.std)
        grid = self.encoder.grid_of(pixels)
        pixels = pixels.to(weight.dtype)
        if layers is None:
            return pool_tokens(self.encoder(pixels), grid, pooling=pooling)
        outputs = self.encoder.get_intermediate_layers(pixels, tuple(layers))
        return torch.stack([pool_tokens(tokens, grid, pooling=pooling) for tokens in outputs], dim=1)
