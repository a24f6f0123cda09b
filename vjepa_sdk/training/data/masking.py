"""Draw the masks of a step: a function of seed and step alone."""

from __future__ import annotations

import torch

from ...config.training import MaskConfig, TrainConfig
from ...models.masks import Masks, draw_mask_set
from .order import derive_seed

_CLIP_MASKS, _IMAGE_MASKS = 11, 12


def draw_masks(config: TrainConfig, *, batch_size: int, step: int, forward_pass: int = 0) -> Masks:
    """Draw the masks of clips; they depend on seed, step and number of the forward pass alone."""
    keys = (config.seed, _CLIP_MASKS, step, forward_pass)
    return _draw(config.masks, config.model.grid, batch_size, keys)


def draw_image_masks(config: TrainConfig, *, batch_size: int, step: int, forward_pass: int = 0) -> Masks:
    """Draw the masks of the stills that `config.images` adds."""
    if config.images is None:
        raise ValueError("config.images is None: there are no stills to mask")
    side = config.images.img_size // config.model.patch_size
    keys = (config.seed, _IMAGE_MASKS, step, forward_pass)
    return _draw(config.images.masks, (1, side, side), batch_size, keys)


def _draw(masks: tuple[MaskConfig, ...], grid: tuple[int, int, int], batch_size: int, keys: tuple[int, ...]) -> Masks:
    pairs = [
        draw_mask_set(masks[index], grid=grid, batch_size=batch_size, generator=_generator(*keys, index))
        for index in _turn(masks, keys)
    ]
    return Masks(tuple(context for context, _ in pairs), tuple(target for _, target in pairs))


def _turn(masks: tuple[MaskConfig, ...], keys: tuple[int, ...]) -> list[int]:
    """Return the numbers of the mask sets that a pass predicts for: all, or one where they take turns."""
    shares = [mask.share for mask in masks if mask.share is not None]
    if not shares:
        return list(range(len(masks)))
    return torch.multinomial(torch.tensor(shares), 1, generator=_generator(*keys, len(masks))).tolist()


def _generator(*keys: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(*keys))
