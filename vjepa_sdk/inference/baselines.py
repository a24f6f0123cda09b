"""Compute beside the features of a model those of the same network with random weights, and raw pixels.

A number that a probe reaches says something about training only beside what it reaches on these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config.choices import Pooling, Precision
from .embed.options import Baselines
from .vjepa import VJEPA

PIXELS = 12
"""Rows and columns of the grey frames that stand for raw pixels."""
PIXELS_OF_PATCH = 2


class WithBaselines(VJEPA):
    """A model whose rows are features of several networks side by side, and then raw pixels.

    Rows are flat, `[B, num_encoders * F + T * 144]`, unless `pooling` is `none`: then the last axis of
    `[B, T', H', W', ...]` holds the tokens of all networks, and 4 grey values of each frame of the tubelet.
    """

    def __init__(self, model: VJEPA, baselines: Baselines) -> None:
        super().__init__(model._pretrained, device=model.device, name=model.name, directory=model.directory)
        self._networks = [model] if baselines.trained else []
        self._networks += [
            VJEPA.untrained(model.config, preprocess=model.preprocess, seed=seed, device=str(model.device))
            for seed in range(baselines.random_inits)
        ]

    def embed_clips(
        self,
        clips: Tensor,
        *,
        pooling: Pooling = "mean",
        layers: Sequence[int] | None = None,
        precision: Precision | None = None,
    ) -> Tensor:
        """Return rows as described above, for clips `uint8 [B, T, 3, H, W]`."""
        parts = [
            network.embed_clips(clips, pooling=pooling, layers=layers, precision=precision)
            for network in self._networks
        ]
        grey = clips.to(self.device).float().mean(dim=2) / 255.0
        if pooling != "none":
            pixels = F.adaptive_avg_pool2d(grey, PIXELS)
            return torch.cat([part.flatten(1) for part in (*parts, pixels)], dim=1)
        tubelets, rows, columns = parts[0].shape[-4:-1]
        side = PIXELS_OF_PATCH
        cells = F.adaptive_avg_pool2d(grey, (side * rows, side * columns))
        cells = cells.view(len(cells), tubelets, -1, rows, side, columns, side)
        cells = cells.permute(0, 1, 3, 5, 2, 4, 6).flatten(4)
        if layers is not None:  # all blocks saw the same pixels
            cells = cells[:, None].expand(-1, len(layers), -1, -1, -1, -1)
        return torch.cat([*parts, cells], dim=-1)


def num_pixel_values(pooling: Pooling, *, num_frames: int, tubelet_size: int) -> int:
    """Return how many of the last numbers of a row, or of a token, are raw pixels."""
    return tubelet_size * PIXELS_OF_PATCH**2 if pooling == "none" else num_frames * PIXELS**2
