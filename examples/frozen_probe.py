"""Ask what frozen features know of motion and of appearance, beside what has learnt nothing.

    python examples/frozen_probe.py
    python examples/frozen_probe.py --real videos.csv --pooling mean,grid --beside "pixel twin=runs/pixels/model"

Logistic regression is fitted to frozen features of one half of some clips and tested on the other. Features are those
of the model, of the same network and of a larger one with random weights, of other models that are named, raw pixels,
and differences of pixels in time, signed and absolute. Random weights and pixels are the bar: features that do not
clear it have learnt nothing for the task.

Rendered clips ask for shape, texture, direction and speed of something that moves, and where the whole view goes. Real
ones, of a CSV with the columns path, label[, split, group], ask for their labels, how fast and in which order they are
played, and where a view of them goes. Fits are on the rows whose split is not `test`, or on half of the groups.

Each seed draws other clips, or views of them, and other random weights. In brackets are 95 % intervals over seeds and
groups of clips, of one seed's result; the second table has paired differences.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from motion_tasks import NUM_FRAMES, ClipSet, moving_views, rendered_sets, small
from real_clip_tasks import read_list, real_sets

from vjepa_sdk import VJEPA, Probe
from vjepa_sdk.config.recipes import SHAPES
from vjepa_sdk.downstream.scores import Interval, Predictions, paired_difference, pooled_metrics
from vjepa_sdk.inference.pooling import pool_tokens

POOLINGS = ("mean", "temporal", "grid", "change")
SIZE = 96
"""Height and width of clips, which each encoder gets as small as it takes them."""

Pooled = dict[str, np.ndarray]
"""Rows `[clips, D]` by pooling; of pixels under `mean`."""
Answers = dict[tuple[str, str, str], list[Predictions]]
"""What probes said, seed by seed, by pooling, task and features."""
Accuracies = dict[tuple[str, str, str], tuple[float, Interval | None]]
"""Means over seeds, with their intervals, by the same."""


def main() -> None:
    arguments = parse()
    model = VJEPA.from_pretrained(arguments.model)
    print(f"{model}, {arguments.seeds} seeds")
    others = {name: VJEPA.from_pretrained(path) for name, path in arguments.beside}
    answers: Answers = {}
    for seed in range(arguments.seeds):
        random = VJEPA.untrained(model.config, seed=seed)
        networks = {"trained encoder": model, "random weights": random, **others}
        if not arguments.quick:
            shape = replace(SHAPES["vit_tiny"], num_frames=NUM_FRAMES, img_size=SIZE)
            networks["random ViT-T at 96 px"] = VJEPA.untrained(shape, seed=seed)
        for clips in clip_sets(arguments, seed):
            ask(networks, clips, arguments, seed, answers)
    found = {key: pooled_accuracy(several, arguments.bootstrap) for key, several in answers.items()}
    for pooling in arguments.pooling:
        print_table(answers, found, pooling, arguments.bootstrap)
    if arguments.json:
        arguments.json.write_text(json.dumps(list(plain_rows(answers, found)), indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vjepa-tiny", help="name, directory or hub id")
    parser.add_argument("--beside", type=_named, action="append", default=[], metavar="NAME=MODEL", help="others")
    parser.add_argument("--real", type=Path, help="CSV with the columns path, label[, split, group]")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions, 3 to 5")
    parser.add_argument("--clips", type=int, default=512, help="rendered clips to fit to, and as many to test on")
    parser.add_argument("--pooling", type=_poolings, default=("mean",), help=f"some of {','.join(POOLINGS)}")
    parser.add_argument("--bootstrap", type=int, default=1000, help="samples of the groups for the intervals")
    parser.add_argument("--C", type=float, help="of logistic regression; left out: chosen in folds for each probe")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--quick", action="store_true", help="without the larger random network")
    arguments = parser.parse_args()
    if not 3 <= arguments.seeds <= 5:
        parser.error(f"--seeds {arguments.seeds} must be 3 to 5; fewer are no result")
    return arguments


def _named(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not separator or not path:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=MODEL")
    return name, path


def _poolings(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(POOLINGS):
        raise argparse.ArgumentTypeError(f"{text!r} must be some of {','.join(POOLINGS)}")
    return names


def clip_sets(arguments: argparse.Namespace, seed: int) -> Iterator[ClipSet]:
    """Yield clips with labels; of motion without the controls, which prove tasks and not models."""
    yield from rendered_sets(arguments.clips, seed=seed, size=SIZE)[:2]
    yield moving_views(arguments.clips, seed=seed)
    if arguments.real:
        yield from real_sets(read_list(arguments.real), seed=seed, size=SIZE)


def ask(networks: dict[str, VJEPA], clips: ClipSet, arguments: argparse.Namespace, seed: int, answers: Answers) -> None:
    """Fit a probe to each kind of features for each task, and keep what it says of the clips that are tested."""
    readings: dict[str, Callable[[np.ndarray], Pooled]] = {
        **{name: encoder(network, arguments.pooling) for name, network in networks.items()},
        "raw pixels": lambda each: {"mean": grey(each)},
        "frame differences": lambda each: {"mean": np.diff(grey(each), axis=1)},
        "absolute differences": lambda each: {"mean": abs(np.diff(grey(each), axis=1))},
    }
    for name, read in readings.items():
        train, test = read(clips.train), read(clips.test)
        for pooling in set(arguments.pooling) & set(train):
            for task, labels in clips.labels.items():
                said = predictions(train[pooling], test[pooling], labels, clips.groups, arguments.C, seed)
                several = answers.setdefault((pooling, task, name), [])
                several.append(said)
                if len(said.truth) != len(several[0].truth):
                    raise SystemExit(f"{task}: too few clips, not every label is fitted to with every seed; list more")


def predictions(
    train: np.ndarray,
    test: np.ndarray,
    labels: tuple[np.ndarray, np.ndarray],
    groups: np.ndarray | None,
    C: float | None,
    seed: int,
) -> Predictions:
    probe = Probe.fit(train, labels[0], C=C, seed=seed)
    known = groups if groups is not None else np.arange(len(test))
    codes = np.unique(known, return_inverse=True)[1]
    return Predictions(probe.targets_of(list(labels[1])), probe.outputs(test), codes)


def encoder(network: VJEPA, poolings: tuple[str, ...]) -> Callable[[np.ndarray], Pooled]:
    """Return what encodes clips `uint8 [n, 8, 96, 96, 3]` and pools their tokens."""

    def read(clips: np.ndarray) -> Pooled:
        pixels = torch.from_numpy(small(clips, network.preprocess.crop_size)).permute(0, 1, 4, 2, 3)
        tokens = torch.cat([network.embed_clips(part, pooling="none") for part in pixels.split(32)])
        flat, grid = tokens.flatten(1, 3), (tokens.shape[1], tokens.shape[2], tokens.shape[3])
        return {name: pool_tokens(flat, grid, pooling=name).flatten(1).numpy() for name in poolings}

    return read


def grey(clips: np.ndarray) -> np.ndarray:
    """Return 12 x 12 grey pixels of each frame."""
    frames = torch.from_numpy(clips).float().mean(dim=-1) / 255
    return torch.nn.functional.adaptive_avg_pool2d(frames, 12).flatten(2).numpy()


def print_table(answers: Answers, found: Accuracies, pooling: str, bootstrap: int) -> None:
    """Print what each kind of features reaches in each task, and how far the trained encoder is ahead."""
    tasks = list(dict.fromkeys(task for pooled, task, _ in answers if pooled == pooling))
    names = list(dict.fromkeys(name for pooled, _, name in answers if pooled == pooling))
    trained = {task: answers[pooling, task, "trained encoder"] for task in tasks}
    chances = [f"{1 / trained[task][0].outputs.shape[1]:.3f}" for task in tasks]
    print(f"\nlinear probe, pooling {pooling}\n")
    print(_line("features", *tasks), _line(*["---"] * (len(tasks) + 1)), sep="\n")
    for name in names:
        print(_line(name, *(_cell(*found[pooling, task, name]) for task in tasks)))
    print(_line("chance", *chances))
    print("\n" + _line("trained encoder minus", *tasks), _line(*["---"] * (len(tasks) + 1)), sep="\n")
    for name in names[1:]:
        others = (answers[pooling, task, name] for task in tasks)
        pairs = zip(trained.values(), others, strict=True)
        differences = (paired_difference(*pair, "accuracy", bootstrap=bootstrap) for pair in pairs)
        print(_line(name, *(_cell(*difference, sign="+") for difference in differences)))


def pooled_accuracy(several: list[Predictions], bootstrap: int) -> tuple[float, Interval | None]:
    mean, intervals = pooled_metrics(several, bootstrap=bootstrap)
    return mean["accuracy"], intervals.get("accuracy")


def plain_rows(answers: Answers, found: Accuracies) -> Iterator[dict[str, object]]:
    for (pooling, task, name), several in answers.items():
        accuracy, interval = found[pooling, task, name]
        each = [said.metrics()["accuracy"] for said in several]
        yield {
            "pooling": pooling, "task": task, "features": name, "accuracy": accuracy, "interval": interval,
            "seeds": each, "clips": len(several[0].truth), "groups": several[0].num_groups,
        }  # fmt: skip


def _cell(value: float, interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.3f} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
