"""Cut the squares that official frozen evaluations show their probes: fixed ones for tests, random ones to learn from.

Sources: `evals/video_classification_frozen/utils.py` and `evals/image_classification_frozen/eval.py` of the official
V-JEPA 2 code. There erased pixels are drawn around the mean of what is normalised; here they are rounded to 8 bits, and
so cut off where no pixel could be.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from ..config.model import PreprocessConfig
from .resize import resize
from .transforms import as_frames, draw_crop

_RAND_AUGMENT = "rand-m7-n4-mstd0.5-inc1"
_SCALE, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
_ERASE = 0.25


def shorten(frame: torch.Tensor, *, side: int) -> torch.Tensor:
    """Resize frames `uint8 [T, 3, H, W]` to a short side, without smoothing, as the official tests with views do."""
    height, width = frame.shape[-2:]
    size = [side, int(side * width / height)] if height <= width else [int(side * height / width), side]
    return resize(frame, size, antialias=False)


def square_views(frames: torch.Tensor, *, views: int) -> Iterator[torch.Tensor]:
    """Yield squares of frames `uint8 [T, 3, H, W]`, from one end of the long side to the other: `views`, at least 2."""
    height, width = frames.shape[-2:]
    side = min(height, width)
    step = (max(height, width) - side) // (views - 1)
    for start in range(0, step * views, step) if step else [0] * views:
        yield frames[..., start : start + side, :] if height > width else frames[..., start : start + side]


def random_view(frames: Sequence[np.ndarray], preprocess: PreprocessConfig, *, seed: int) -> torch.Tensor:
    """Change colours and shapes by RandAugment, cut out a rectangle and erase another, alike in all frames.

    Args:
        frames: `uint8 [H, W, 3]` each.

    Returns:
        uint8 [T, 3, crop_size, crop_size].
    """
    from PIL import Image
    from timm.data.auto_augment import rand_augment_transform

    side = preprocess.crop_size
    options = {"translate_const": int(0.45 * side), "interpolation": Image.Resampling.BICUBIC}
    augment = rand_augment_transform(_RAND_AUGMENT, options)
    changed = []
    for frame in frames:
        with _random_state(seed):  # the same draws for each frame
            changed.append(np.asarray(augment(Image.fromarray(frame))))
    crop = draw_crop(
        *changed[0].shape[:2],
        crop_size=side,
        scale=_SCALE,
        ratio=_RATIO,
        horizontal_flip=False,
        antialias=False,
        generator=torch.Generator().manual_seed(seed),
    )
    return _erase(crop(as_frames(changed)), preprocess, seed=seed + 1)


def random_image(image: np.ndarray, preprocess: PreprocessConfig, *, seed: int) -> torch.Tensor:
    """Augment an image `uint8 [H, W, 3]` as official evaluations of images do, by timm: `uint8 [1, 3, side, side]`."""
    from PIL import Image
    from timm.data.transforms_factory import create_transform

    augment = create_transform(
        input_size=preprocess.crop_size,
        is_training=True,
        auto_augment="original",
        interpolation="bicubic",
        re_prob=_ERASE,
        re_mode="pixel",
        re_count=1,
        mean=preprocess.mean,
        std=preprocess.std,
    )
    with _random_state(seed):
        return _to_pixels(augment(Image.fromarray(image))[None], preprocess)


def _erase(clip: torch.Tensor, preprocess: PreprocessConfig, *, seed: int) -> torch.Tensor:
    """Fill one rectangle with noise, at the same place in all frames, in one clip of four."""
    from timm.data.random_erasing import RandomErasing

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    normalized = (clip.float() / 255 - mean) / std
    with _random_state(seed):  # as one image of many channels, so that there is one rectangle
        erase = RandomErasing(_ERASE, mode="pixel", max_count=1, device="cpu")  # type: ignore[no-untyped-call]
        erased = erase(normalized.flatten(0, 1))
    return _to_pixels(erased.view(normalized.shape), preprocess)


def _to_pixels(normalized: torch.Tensor, preprocess: PreprocessConfig) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return ((normalized * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """Seed the global generators, from which timm draws, and put everything back."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # that of the CPU; `torch.manual_seed` takes a millisecond
        random.seed(seed)
        np.random.seed(seed % (1 << 32))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
