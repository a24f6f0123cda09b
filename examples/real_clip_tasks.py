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
ORDERS = ("forwards", "backwards")
_SHORT_SIDE = 64
"""Of a frame through which a view of 48 pixels goes; larger for a larger view, in proportion."""
_LONGEST = (NUM_FRAMES - 1) * max(SPEEDS.values()) + 1

Row = dict[str, str]
"""A line of the list: `path`, and maybe `label`, `split` and `group`."""


def read_list(path: Path) -> list[Row]:
    """Read a CSV with the columns path, label[, split, group]; paths become absolute."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [{name: value or "" for name, value in row.items()} for row in csv.DictReader(file)]
    if not rows or not {"path", "label"} <= rows[0].keys() or not any(row["label"] for row in rows):
        raise SystemExit(f"{path}: must be a CSV with the columns path and label, which some clips have")
    return [{**row, "path": str((path.parent / row["path"]).resolve())} for row in rows]


def real_sets(rows: list[Row], *, seed: int, size: int = SIZE) -> list[ClipSet]:
    """Return appearance and motion of real clips, as far as there are clips for it; no group is on both sides.

    Args:
        rows: of `read_list`. Where they have no split, half of the groups are tested on.
        seed: decides that, and starts, speeds, orders and directions.
        size: height and width of the views.
    """
    is_test = _tested(rows, seed)
    speeds, orders, directions = (
        _spread(list(names), len(rows), seed + 100 * number)
        for number, names in enumerate((SPEEDS, ORDERS, DIRECTIONS))
    )
    views: dict[str, list[np.ndarray]] = {name: [] for name in ("label", "speed", "order", "moving window")}
    for number, row in enumerate(rows):
        frames, rng = _small(read_video(row["path"]), size * _SHORT_SIDE // SIZE), np.random.default_rng((seed, number))
        if len(frames) < _LONGEST:  # it says nothing about speed
            speeds[number] = orders[number] = ""
        start = int(rng.integers(0, max(1, len(frames) - _LONGEST + 1)))
        views["label"].append(_view(_every(frames, start, 2), (0.0, 0.0), size))
        views["speed"].append(_view(_every(frames, start, SPEEDS.get(speeds[number], 1)), (0.0, 0.0), size))
        step = -1 if orders[number] == "backwards" else 1
        views["order"].append(_view(_every(frames, start, 4), (0.0, 0.0), size)[::step])
        way = np.array(DIRECTIONS[directions[number]]) * rng.uniform(8, _SHORT_SIDE - SIZE) * size / SIZE
        views["moving window"].append(_view(_every(frames, start, 2), way, size))
    labels = {
        "label": np.array([row["label"] for row in rows]), "speed": speeds, "order": orders, "moving window": directions
    }  # fmt: skip
    groups = np.array([row.get("group") or row["path"] for row in rows])
    sets = [_set(name, views[name], labels[name], is_test, groups) for name in views]
    return [each for each in sets if len(each.train) and len(each.test)]


def _set(name: str, clips: list[np.ndarray], labels: np.ndarray, is_test: np.ndarray, groups: np.ndarray) -> ClipSet:
    """Take the clips that have a label; one that cannot be learnt is not tested."""
    train = (labels != "") & ~is_test
    test = is_test & np.isin(labels, labels[train])
    stacked = np.stack(clips)
    return ClipSet(stacked[train], stacked[test], {name: (labels[train], labels[test])}, groups[test])


def _tested(rows: list[Row], seed: int) -> np.ndarray:
    if any(row.get("split") for row in rows):
        return np.array([row.get("split") == "test" for row in rows])
    groups = np.array([row.get("group") or row["path"] for row in rows])
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    return np.isin(groups, names[: len(names) // 2])


def _spread(names: list[str], count: int, seed: int) -> np.ndarray:
    """Give each of so many clips one of the names, each equally often."""
    return np.array(names)[np.random.default_rng(seed).permutation(count) % len(names)]


def _small(frames: np.ndarray, short_side: int) -> np.ndarray:
    """Scale frames `[T, H, W, 3]` to a short side of so many pixels."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    scale = short_side / min(pixels.shape[-2:])
    size = [max(short_side, round(side * scale)) for side in pixels.shape[-2:]]
    smooth: Callable[..., torch.Tensor] = F.interpolate
    return smooth(pixels, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()


def _every(frames: np.ndarray, start: int, stride: int) -> np.ndarray:
    """Take 8 frames; where the video ends before, its last one again and again."""
    return frames[np.minimum(start + stride * np.arange(NUM_FRAMES), len(frames) - 1)]


def _view(frames: np.ndarray, way: np.ndarray | tuple[float, float], size: int) -> np.ndarray:
    """Look through a window of `size` px in the middle that goes so many pixels (down, right)."""
    middle = (np.array(frames.shape[1:3]) - size) / 2
    places = middle + np.linspace(-0.5, 0.5, len(frames))[:, None] * np.asarray(way)
    corners = places.round().astype(int)
    return np.stack([f[y : y + size, x : x + size] for f, (y, x) in zip(frames, corners, strict=True)])
