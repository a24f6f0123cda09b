"""Ask the same of real clips: their labels for appearance; for motion how fast they play, and where a view goes."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from motion_tasks import NUM_FRAMES, SIZE, ClipSet
from render_clips import DIRECTIONS

from vjepa_sdk import read_video

SPEEDS = {"x1": 1, "x2": 2, "x4": 4}
"""Frames from one that is seen to the next."""
_SHORT_SIDE, _SHORTEST = 64, (NUM_FRAMES - 1) * max(SPEEDS.values()) + 1

Row = dict[str, str]
"""A line of the list: `path`, and maybe `label`, `split` and `group`."""


def read_list(path: Path) -> list[Row]:
    """Read a CSV with the columns path, label[, split, group]; paths become absolute."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [{name: value or "" for name, value in row.items()} for row in csv.DictReader(file)]
    if not rows or not {"path", "label"} <= rows[0].keys() or not any(row["label"] for row in rows):
        raise SystemExit(f"{path}: must be a CSV with the columns path and label, which some clips have")
    return [{**row, "path": str((path.parent / row["path"]).resolve())} for row in rows]


def real_sets(rows: list[Row], *, seed: int) -> list[ClipSet]:
    """Return appearance and motion of real clips; no group is on both sides.

    Args:
        rows: of `read_list`. Where they have no split, half of the groups are tested on.
        seed: decides that, and starts and directions.
    """
    is_test = _tested(rows, seed)
    speeds, directions = (_spread(list(names), len(rows), seed) for names in (SPEEDS, DIRECTIONS))
    still, fast, moving = [], [], []
    for number, row in enumerate(rows):
        frames, rng = _small(read_video(row["path"])), np.random.default_rng((seed, number))
        if len(frames) < _SHORTEST:
            raise SystemExit(f"{row['path']}: has {len(frames)} frames and must have {_SHORTEST}; leave it out")
        start = int(rng.integers(0, len(frames) - _SHORTEST + 1))
        still.append(_view(frames[start::2][:NUM_FRAMES], (0.0, 0.0)))
        fast.append(_view(frames[start :: SPEEDS[speeds[number]]][:NUM_FRAMES], (0.0, 0.0)))
        way = np.array(DIRECTIONS[directions[number]]) * rng.uniform(8, _SHORT_SIDE - SIZE)
        moving.append(_view(frames[start::2][:NUM_FRAMES], way))
    labels = np.array([row["label"] for row in rows])
    return [
        _set("label", still, labels, is_test),
        _set("speed", fast, speeds, is_test),
        _set("direction", moving, directions, is_test),
    ]


def _set(name: str, clips: list[np.ndarray], labels: np.ndarray, is_test: np.ndarray) -> ClipSet:
    """Take the clips that have a label; one that cannot be learnt is not tested."""
    train = (labels != "") & ~is_test
    test = is_test & np.isin(labels, labels[train])
    stacked = np.stack(clips)
    return ClipSet(stacked[train], stacked[test], {name: (labels[train], labels[test])})


def _tested(rows: list[Row], seed: int) -> np.ndarray:
    if any(row.get("split") for row in rows):
        return np.array([row.get("split") == "test" for row in rows])
    groups = np.array([row.get("group") or row["path"] for row in rows])
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    return np.isin(groups, names[: len(names) // 2])


def _spread(names: list[str], count: int, seed: int) -> np.ndarray:
    """Give each of so many clips one of the names, each equally often."""
    return np.array(names)[np.random.default_rng(seed).permutation(count) % len(names)]


def _small(frames: np.ndarray) -> np.ndarray:
    """Scale frames `[T, H, W, 3]` to a short side of 64 px."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    scale = _SHORT_SIDE / min(pixels.shape[-2:])
    size = [max(_SHORT_SIDE, round(side * scale)) for side in pixels.shape[-2:]]
    smooth: Callable[..., torch.Tensor] = F.interpolate
    return smooth(pixels, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()


def _view(frames: np.ndarray, way: np.ndarray | tuple[float, float]) -> np.ndarray:
    """Look through a window of 48 px in the middle that goes so many pixels (down, right)."""
    middle = (np.array(frames.shape[1:3]) - SIZE) / 2
    places = middle + np.linspace(-0.5, 0.5, len(frames))[:, None] * np.asarray(way)
    corners = places.round().astype(int)
    return np.stack([f[y : y + SIZE, x : x + SIZE] for f, (y, x) in zip(frames, corners, strict=True)])
