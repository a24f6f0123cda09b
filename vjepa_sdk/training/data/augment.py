"""Augment a training clip beyond crop and flip; all of this is off in the official pretraining recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...config.model import IMAGENET_MEAN

_ERASED: Any = [round(255 * mean) for mean in IMAGENET_MEAN]


def augment(
    clip: torch.Tensor,
    *,
    color_jitter: float,
    rand_augment: bool,
    random_erasing: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Change colours, apply RandAugment and erase a rectangle, each the same way in all frames.

    Args:
        clip: uint8 [T, 3, H, W].
        color_jitter: brightness, contrast and saturation are scaled by factors within 1 ± this; 0: unchanged.
        rand_augment: apply two random operations of RandAugment (arXiv 1909.13719) at magnitude 9 of 30.
        random_erasing: probability of erasing one rectangle (arXiv 1708.04896), to the colour that normalises to 0.
        generator: the only source of randomness; one number is drawn from it if anything is on.

    Returns:
        uint8 [T, 3, H, W].
    """
    if not (color_jitter or rand_augment or random_erasing):
        return clip
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import ColorJitter, RandAugment, RandomErasing  # type: ignore[attr-defined]

    transforms: list[Callable[[torch.Tensor], torch.Tensor]] = []
    if color_jitter:
        transforms.append(ColorJitter(brightness=color_jitter, contrast=color_jitter, saturation=color_jitter))
    if rand_augment:
        transforms.append(RandAugment(interpolation=InterpolationMode.BILINEAR))
    if random_erasing:
        transforms.append(RandomErasing(random_erasing, value=_ERASED))
    with _global_random_state(int(torch.randint(1 << 62, (), generator=generator))):
        for transform in transforms:
            clip = transform(clip)
    return clip


@contextmanager
def _global_random_state(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator, from which torchvision draws, and put everything back."""
    num_threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(1)  # a frame's mean, for its contrast, depends on how many threads add it up
        try:
            yield
        finally:
            torch.set_num_threads(num_threads)
