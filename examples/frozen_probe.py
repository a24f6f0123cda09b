"""Ask what frozen features know: a ridge probe on motion, and on any labelled set of videos.

    python examples/frozen_probe.py
    python examples/frozen_probe.py --labels videos.csv --split test

Four kinds of features are compared: the trained encoder, the same network with random weights, raw pixels and pixel
differences between frames. Random weights are the bar: features that do not clear it have learnt nothing for the task.

Motion: rendered clips in which one shape, or the whole view, moves in one of eight directions (chance 0.125); shape,
place, speed and textures say nothing about the direction. Each seed renders new clips.

Labels: a CSV with the columns `path`, `label` and, optionally, `split` and `group`; clips of one group are never on
both sides of a split, and each seed draws new folds.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from render_clips import DIRECTIONS, render_clip, render_pan

from vjepa_sdk import VJEPA

Features = dict[str, np.ndarray]
"""Kinds of features by name, each `[clips, D]`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vjepa-tiny", help="name, directory or hub id")
    parser.add_argument("--weights", choices=("target", "context"), help="which encoder, where both exist")
    parser.add_argument("--labels", type=Path, help="CSV with the columns path, label[, split, group]")
    parser.add_argument("--split", help="use only the rows with this value in the column split")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions, at least 3")
    parser.add_argument("--first-seed", type=int, default=0, help="choose checkpoints on other seeds than you report")
    parser.add_argument("--clips", type=int, default=320, help="rendered clips to train the probe on; as many to test")
    arguments = parser.parse_args()
    if arguments.seeds < 3:
        parser.error(f"--seeds {arguments.seeds} must be at least 3; one number is no result")
    model = VJEPA.from_pretrained(arguments.model, weights=arguments.weights)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    print(f"{model}")
    for name, render in (("moving shape", render_clip), ("moving view", render_pan)):
        print(f"{name}, {len(DIRECTIONS)} directions, {arguments.clips} training and {arguments.clips} test clips")
        _report(model, seeds, partial(_motion_task, model, render=render, count=arguments.clips))
    if arguments.labels:
        clips, labels, groups = _labelled(model, arguments.labels, arguments.split)
        print(f"{arguments.labels.name}: {len(clips)} clips, {len(set(labels))} labels, 5 folds by group")
        _report(model, seeds, lambda seed: (clips, labels, _folds(groups, seed)))


Split = tuple[np.ndarray, np.ndarray]
"""Which clips train a probe and which test it."""


def _report(model: VJEPA, seeds: range, task_of: Callable[[int], tuple[torch.Tensor, np.ndarray, list[Split]]]) -> None:
    accuracies: dict[str, list[float]] = {}
    for seed in seeds:
        clips, labels, splits = task_of(seed)
        for name, features in _kinds(model, clips, seed).items():
            hits = [ridge_probe(features[a], labels[a], features[b]) == labels[b] for a, b in splits]
            accuracies.setdefault(name, []).append(float(np.concatenate(hits).mean()))
    for name, values in accuracies.items():
        low, high = interval(values)
        print(f"  {name:<34} {np.mean(values):.3f}   95 % [{low:.3f}, {high:.3f}]")


def _kinds(model: VJEPA, clips: torch.Tensor, seed: int) -> Features:
    kinds = {}
    for name, network in (("trained", model), ("random", VJEPA.untrained(model.config, seed=seed))):
        tokens = torch.cat([network.embed_clips(part, pooling="none").cpu() for part in clips.split(16)])
        kinds[f"{name} encoder, mean"] = tokens.mean(dim=(1, 2, 3)).numpy()
        # how much each token changes from one tubelet to the next: a map of motion energy, (T' - 1) H' W' numbers
        kinds[f"{name} encoder, change"] = tokens.diff(dim=1).norm(dim=-1).flatten(1).numpy()
    # grey frames of 12 x 12 pixels
    grey = torch.nn.functional.adaptive_avg_pool2d(clips.float().mean(dim=2) / 255.0, 12).flatten(2)
    kinds["raw pixels"] = grey.flatten(1).numpy()
    kinds["frame differences"] = grey.diff(dim=1).flatten(1).numpy()
    return kinds


def ridge_probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fit one ridge regression per class and return the best class of each test row.

    The penalty is chosen by leave-one-out error on the training rows alone.
    """
    classes = np.unique(labels)
    targets = np.where(labels[:, None] == classes, 1.0, -1.0)
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, z = (train - mean) / std, (test - mean) / std
    kernel = x @ x.T / x.shape[1]
    values, vectors = np.linalg.eigh(kernel)
    centre = targets.mean(0)
    best_error, best_weights = np.inf, np.zeros_like(targets)
    for penalty in 10.0 ** np.arange(-4, 3, 0.5):
        inverse = (vectors / (values + penalty)) @ vectors.T
        weights = inverse @ (targets - centre)
        error = float(np.mean((weights / np.diag(inverse)[:, None]) ** 2))
        if error < best_error:
            best_error, best_weights = error, weights
    scores = z @ x.T / x.shape[1] @ best_weights + centre
    return classes[scores.argmax(1)]


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % t-interval of the mean over seeds."""
    quantiles = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
    half = quantiles.get(len(values), 2.262) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def _motion_task(
    model: VJEPA, seed: int, *, render: Callable[..., np.ndarray], count: int
) -> tuple[torch.Tensor, np.ndarray, list[Split]]:
    size, frames, names = model.preprocess.crop_size, model.config.num_frames, list(DIRECTIONS)
    labels = np.array([names[number % len(names)] for number in range(2 * count)])
    clips = [
        render(label, seed=seed * 1_000_000 + number, num_frames=frames, size=size)
        for number, label in enumerate(labels)
    ]
    stacked = torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3)
    return stacked, labels, [(np.arange(count), np.arange(count, 2 * count))]


def _labelled(model: VJEPA, path: Path, split: str | None) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] and (split is None or row["split"] == split)]
    load = model.clip_loader()
    clips = torch.stack([torch.from_numpy(load(path.parent / row["path"])[0]) for row in rows])
    groups = [row.get("group") or str(number) for number, row in enumerate(rows)]
    return clips, np.array([row["label"] for row in rows]), np.array(groups)


def _folds(groups: np.ndarray, seed: int) -> list[Split]:
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    masks = [np.isin(groups, part) for part in np.array_split(names, 5)]
    return [(np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in masks]


if __name__ == "__main__":
    main()
