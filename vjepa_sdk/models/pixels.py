"""Clips whose pixels are normalised only once they are cut into tubelets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """Cropped pixels, which an encoder takes instead of normalised clips, for the same bits.

    Cutting uint8 moves a quarter of the bytes, and no clip of floats is held beside its tubelets.
    """

    frames: Tensor
    """uint8 `[B, T, 3, H, W]`."""
    mean: Sequence[float]
    """Of each channel, on the scale from 0 to 1."""
    std: Sequence[float]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def ndim(self) -> int:
        """Axes of the clips."""
        return self.frames.ndim

    @property
    def shape(self) -> torch.Size:
        """Of the normalised clips: `[B, 3, T, H, W]`."""
        batch, frames, channels, *size = self.frames.shape
        return torch.Size([batch, channels, frames, *size])

    @property
    def device(self) -> torch.device:
        """Where the pixels are, and the tubelets will be."""
        return self.frames.device

    def tubelets(self, kernel: tuple[int, int, int]) -> Tensor:
        """Cut into tubelets of (frames, rows, columns) and normalise: float32 `[B, N, 3 * kernel]`, channels first.

        Scaled to [0, 1] and standardised as `video.transforms.normalize` does, operation by operation.
        """
        batch, channels, *size = self.shape
        (t, p, q), (frames, rows, columns) = kernel, (n // k for n, k in zip(size, kernel, strict=True))
        cut = self.frames.view(batch, frames, t, channels, rows, p, columns, q).permute(0, 1, 4, 6, 3, 2, 5, 7)
        flat = cut.reshape(batch, frames * rows * columns, channels * t * p * q)
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=self.device).repeat_interleave(t * p * q)
            for values in (self.mean, self.std)
        )
        return flat.float().div_(255).sub_(mean).div_(std)
