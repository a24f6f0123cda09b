"""Render clips in which what moves and how it moves say nothing about each other.

A textured shape crosses a still background. Direction, shape and texture are three independent labels of the same
clips, so that a probe of motion and a probe of appearance read the very same features. What leaves the frame at one
side enters it at the other: wherever the shape is in one frame, it may be going anywhere. A clip of one direction,
played backwards, is bit by bit the clip of the opposite direction and the same seed; features that forget the order of
frames can therefore tell the axis at best, which is one half.

    from factorial_clips import label_table, render
    render(label_table(256, seed=0)[0], seed=0)  # uint8 [16, 96, 96, 3]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from intuitive_scenes import quiet_noise, value_noise
from render_clips import DIRECTIONS

NUM_FRAMES, SIZE, FPS = 16, 96, 15
"""Of every clip: frames, height and width in pixels, frames a second."""
SHAPES = ("disc", "square", "triangle", "ring", "cross", "star", "half-disc", "bar")
TEXTURES = ("stripes", "checks", "dots", "noise")
SPEEDS = {"1": 0.1, "2": 0.2, "4": 0.4, "8": 0.8}
"""Lengths of the way, in widths of the frame, where speed is the label."""
TRAINING_SEED, TEST_SEED, PRETRAINING_SEED = 0, 10_000, 20_000
"""From where on seeds of clips are counted, so that no clip is in two of the sets."""

_LUMINANCE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Labels:
    """What is known of a clip."""

    direction: str
    """A key of `DIRECTIONS`."""
    shape: str
    texture: str
    speed: str | None = None
    """A key of `SPEEDS`; None: the length of the way is drawn."""


def label_table(count: int, *, seed: int) -> list[Labels]:
    """Return labels of which each is independent of the others, in random order.

    Every pair of direction and shape comes equally often, and with every texture equally often.

    Args:
        count: a multiple of 256; other numbers are cut from the next one, and independent only nearly.
    """
    pairs = [(direction, shape) for direction in DIRECTIONS for shape in SHAPES]
    table = [
        Labels(direction, shape, TEXTURES[(index + number) % len(TEXTURES)])
        for number, (direction, shape) in enumerate(pairs)
        for index in range(-(-count // 256) * len(TEXTURES))
    ]
    return [table[place] for place in np.random.default_rng(seed).permutation(len(table))[:count]]


def speed_table(count: int, *, seed: int) -> list[Labels]:
    """Return labels with every speed equally often, if `count` is a multiple of 4, and all others drawn at random."""
    rng = np.random.default_rng(seed)
    names = list(SPEEDS)
    return [
        Labels(*(str(rng.choice(list(each))) for each in (DIRECTIONS, SHAPES, TEXTURES)), names[place % len(names)])
        for place in rng.permutation(count)
    ]


def render(labels: Labels, *, seed: int) -> np.ndarray:
    """Render a clip, uint8 [16, 96, 96, 3].

    Args:
        seed: decides background, size, rotation, colours, place and, unless it is a label, speed; never the direction.
    """
    rng = np.random.default_rng(seed)
    background = quiet_noise(rng, SIZE)
    side = round(rng.uniform(26, 40))
    angle, period, phase = rng.uniform(0, 2 * np.pi), rng.uniform(4, 9), rng.uniform(0, 1, 2)
    colours = _colours(rng, background)
    middle, travel = rng.uniform(0, SIZE, 2), SIZE * rng.uniform(0.2, 0.6)
    if labels.speed is not None:
        travel = SIZE * SPEEDS[labels.speed]
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    x = columns * np.cos(angle) + rows * np.sin(angle)
    y = -columns * np.sin(angle) + rows * np.cos(angle)
    mask = _mask(labels.shape, x / (side / 2), y / (side / 2))
    if labels.texture == "noise":
        weight = _stretched(value_noise(rng, side, cell=4)[..., 0])
    else:
        weight = _pattern(labels.texture, x / period + phase[0], y / period + phase[1])
    sprite = colours[0] + (colours[1] - colours[0]) * weight[..., None]
    inside = np.argwhere(mask)
    frames = np.repeat(background[None], NUM_FRAMES, axis=0)
    for t, frame in enumerate(frames):
        centre = middle + np.array(DIRECTIONS[labels.direction]) * travel * (2 * t - 15) / 30
        # what leaves at one side enters at the other
        down, right = (inside + _half_away(centre) - side // 2).T % SIZE
        frame[down, right] = sprite[mask]
    return frames.round().astype(np.uint8)


def first_frame(clips: np.ndarray) -> np.ndarray:
    """Return clips `[n, T, ...]` that stand still: whoever still tells the direction reads it off a place."""
    return np.repeat(clips[:, :1], clips.shape[1], axis=1)


def shuffled(clips: np.ndarray, *, seed: int) -> np.ndarray:
    """Return clips `[n, T, ...]` with their frames in an order drawn for each: at most the axis can be told."""
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(clips.shape[1]), (len(clips), 1)), axis=1)
    return clips[np.arange(len(clips))[:, None], orders]


def _colours(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """Draw two colours that can be told from each other and from the background, [2, 3]."""
    behind = background.mean(axis=(0, 1)) @ _LUMINANCE
    while True:
        colours = rng.uniform(0, 255, (2, 3))
        one, other = colours @ _LUMINANCE
        if abs(one - other) >= 60 and abs((one + other) / 2 - behind) >= 40:
            return colours


def _mask(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return where a shape is, in coordinates of -1 to 1 that are rotated with it."""
    radius, theta = np.hypot(u, v), np.arctan2(v, u)
    near, far = np.minimum(abs(u), abs(v)), np.maximum(abs(u), abs(v))
    if shape == "star":
        tip = abs(2 * ((5 * theta / (2 * np.pi)) % 1) - 1)
        return np.asarray(radius <= 0.95 * (0.45 + 0.55 * (1 - tip)))
    masks = {
        "disc": radius <= 0.95,
        "square": far <= 0.66,
        "triangle": (v <= 0.47) & (v >= 1.73 * abs(u) - 0.95),
        "ring": (radius >= 0.5) & (radius <= 0.95),
        "cross": (near <= 0.22) & (far <= 0.9),
        "half-disc": (radius <= 0.95) & (v >= 0),
        "bar": (abs(u) <= 0.93) & (abs(v) <= 0.31),
    }
    return np.asarray(masks[shape])


def _pattern(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the share of the second colour, 0 or 1, in coordinates that count periods."""
    patterns = {
        "stripes": np.floor(u) % 2,
        "checks": (np.floor(u) + np.floor(v)) % 2,
        "dots": np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.33,
    }
    return np.asarray(patterns[texture], dtype=float)


def _stretched(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.min()) / np.ptp(values))


def _half_away(values: np.ndarray) -> np.ndarray:
    """Round to the nearest whole numbers, halves away from zero."""
    return np.asarray(np.sign(values) * np.floor(abs(values) + 0.5), dtype=int)
