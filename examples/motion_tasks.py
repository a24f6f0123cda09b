"""Ask for motion and for appearance: labelled clips to fit probes to and to test them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from factorial_clips import (
    TEST_SEED,
    TRAINING_SEED,
    Labels,
    first_frame,
    label_table,
    render,
    shuffled,
    speed_table,
)
from render_clips import DIRECTIONS, render_pan

NUM_FRAMES, SIZE = 8, 48
"""Of what the encoders see."""


@dataclass(frozen=True)
class ClipSet:
    """Clips `uint8 [n, 8, 48, 48, 3]` to fit to and to test on, with the labels of some tasks."""

    train: np.ndarray
    test: np.ndarray
    labels: dict[str, tuple[np.ndarray, np.ndarray]]
    """By task, those of `train` and those of `test`."""
    groups: np.ndarray | None = None
    """Of the clips of `test`, those that are not independent of each other; None: they all are."""


def rendered_sets(count: int, *, seed: int, size: int = SIZE) -> list[ClipSet]:
    """Return appearance, motion, and two controls of motion: clips that stand still, and clips out of order.

    Args:
        count: clips to fit to, and as many to test on; a multiple of 256, so that labels are independent.
        seed: below 5; each has clips of its own.
        size: height and width of the clips, at most 96.
    """
    train, test = (_rendered(label_table(count, seed=first), first, size) for first in _firsts(seed))
    tables = (train[1], test[1])
    return [
        ClipSet(train[0], test[0], {name: _labels(tables, name) for name in ("shape", "texture", "direction")}),
        _speeds(count, seed=seed, size=size),
        *(
            ClipSet(change(train[0]), change(test[0]), {f"direction, {name}": _labels(tables, "direction")})
            for name, change in (("first frame", first_frame), ("shuffled", partial(shuffled, seed=seed)))
        ),
    ]


def moving_views(count: int, *, seed: int) -> ClipSet:
    """Return textured planes that move as a whole, as when a camera pans, `uint8 [n, 8, 96, 96, 3]`."""
    names = list(DIRECTIONS)
    labels = np.array([names[number % len(names)] for number in range(2 * count)])
    clips = np.stack(
        [
            render_pan(label, seed=seed * 1_000_000 + number, num_frames=NUM_FRAMES)
            for number, label in enumerate(labels)
        ]
    )
    return ClipSet(clips[:count], clips[count:], {"moving view": (labels[:count], labels[count:])})


def small(clips: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Take 8 frames, first and last included, of so many pixels: `[n, T, H, W, 3]` to `[n, 8, size, size, 3]`."""
    chosen = clips[:, np.linspace(0, clips.shape[1] - 1, NUM_FRAMES).round().astype(int)]
    if chosen.shape[2:4] == (size, size):
        return chosen
    pixels = torch.from_numpy(chosen).permute(0, 1, 4, 2, 3).flatten(0, 1).float()
    smaller = torch.nn.functional.adaptive_avg_pool2d(pixels, size).round().to(torch.uint8)
    return smaller.unflatten(0, chosen.shape[:2]).permute(0, 1, 3, 4, 2).numpy()


def _firsts(seed: int) -> tuple[int, int]:
    return TRAINING_SEED + 2000 * seed, TEST_SEED + 2000 * seed


def _speeds(count: int, *, seed: int, size: int) -> ClipSet:
    train, test = (_rendered(speed_table(count, seed=first), first + 1000, size) for first in _firsts(seed))
    return ClipSet(train[0], test[0], {"speed": _labels((train[1], test[1]), "speed")})


def _rendered(table: Sequence[Labels], first: int, size: int) -> tuple[np.ndarray, Sequence[Labels]]:
    return small(np.stack([render(labels, seed=first + number) for number, labels in enumerate(table)]), size), table


def _labels(tables: tuple[Sequence[Labels], Sequence[Labels]], name: str) -> tuple[np.ndarray, np.ndarray]:
    train, test = (np.array([getattr(labels, name) for labels in table]) for table in tables)
    return train, test
