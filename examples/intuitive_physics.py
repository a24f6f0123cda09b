"""Train a small model on what is possible, and ask whether the impossible surprises it.

    python examples/intuitive_physics.py runs/physics

Renders scenes (see intuitive_scenes.py), pretrains the recipe `tiny` on the possible videos of some, and measures the
surprise of others: a pair counts as right if the impossible video of the two has the higher score. Beside it stands the
same model with random weights. The score is fixed beforehand, that of arXiv 2502.11831 for pairs: the least error over
contexts, the mean over windows. About a quarter of an hour on two CPU cores; stop it at any time, and run the same
command again to go on. `--quick` does a little of everything in seconds, and its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from intuitive_scenes import FPS, PAIRS, SCENES, Scene, render_scene
from render_clips import write_video

from vjepa_sdk import VJEPA, Surprise, pretrain, train_config

TRAINING_SEED = 100_000
"""From here on scenes are trained on; those before are tested on."""
FRAME_STEP = {"visible": 2, "hidden": 4}
"""Of windows of 8 frames; those of hidden scenes must be longer than the screen is up."""


Row = dict[str, Any]
"""A line of results: one quadruplet and model."""


@dataclass(frozen=True)
class Settings:
    """How much is done."""

    steps: int
    batch_size: int
    training_scenes: int
    """Quadruplets of each kind, whose two possible videos are trained on."""
    quadruplets: int
    """Of each kind, that are tested on."""
    kinds: tuple[str, ...] = tuple(SCENES)
    """Of `SCENES`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="directory for clips, model and results")
    parser.add_argument("--quick", action="store_true", help="do everything in seconds; the numbers mean nothing")
    parser.add_argument("--steps", type=int, default=700, help="optimizer steps")
    parser.add_argument("--quadruplets", type=int, default=12, help="of each kind, that are tested on")
    arguments = parser.parse_args()
    settings = Settings(arguments.steps, 16, 40, arguments.quadruplets)
    if arguments.quick:
        settings = Settings(2, 2, 1, 1, kinds=("teleport", "solidity-control", "hidden-vanish"))
    out: Path = arguments.out
    check_settings(out, settings)
    logging.getLogger("vjepa_sdk.inference").setLevel(logging.ERROR)  # random weights have one encoder
    trained = VJEPA.from_pretrained(train(out, settings))
    models = {"trained": trained, "random": VJEPA.untrained(trained.config, device=str(trained.device))}
    print_tables(measure(out / "results.jsonl", models, settings), settings)


def check_settings(out: Path, settings: Settings) -> None:
    """Remember the settings, or refuse to mix results of others with them."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "settings.json"
    if not path.exists():
        path.write_text(json.dumps(asdict(settings)))
    elif json.loads(path.read_text()) != json.loads(json.dumps(asdict(settings))):
        raise SystemExit(f"{path}: this directory has other settings; choose another, or remove it")


def train(out: Path, settings: Settings) -> Path:
    """Render and pretrain; return the model's directory. What is there already is not done again."""
    if (out / "run" / "model" / "config.json").exists():
        return out / "run" / "model"
    render_training_clips(out / "clips", settings)
    config = train_config(
        preset="tiny",
        overrides=[
            f"steps={settings.steps}",
            f"batch_size={settings.batch_size}",
            f"optim.warmup_steps={min(50, settings.steps // 2)}",
            "optim.lr=1e-3",
            "save_every=100",
            f"data.path={out / 'clips'}",
            f"data.cache={out / 'cache'}",
            "data.cache_short_side=64",
            # nothing moves here but what the scenes are about
            "data.frame_stride=[2, 4]",
            "data.crop_scale=[0.8, 1.0]",
            "data.still=0.0",
            "data.moving_window=0.0",
            "data.sprites=0.0",
            "data.color_jitter=0.0",
            f"out={out / 'run'}",
        ],
    )
    result = pretrain(config, resume=(out / "run" / "config.toml").exists())
    if result.model_directory is None:
        raise SystemExit("stopped; run the same command again to go on")
    return result.model_directory


def render_training_clips(directory: Path, settings: Settings) -> None:
    """Write the possible videos of every kind; the control is none, a ball that turns for no reason."""
    directory.mkdir(exist_ok=True)
    for kind in settings.kinds:
        for number in range(0 if kind == "solidity-control" else settings.training_scenes):
            scene = render_scene(kind, seed=TRAINING_SEED + number)
            for name in ("AA", "BB"):
                path = directory / f"{kind}_{number:03d}_{name}.mp4"
                if not path.exists():
                    write_video(path.with_suffix(".part.mp4"), scene.videos[name], fps=FPS)
                    path.with_suffix(".part.mp4").rename(path)


def measure(path: Path, models: dict[str, VJEPA], settings: Settings) -> list[Row]:
    """Measure all quadruplets, one line of results each; those that are there are not measured again."""
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    path.write_text(whole)  # without a line that was being written when the process was killed
    rows = [json.loads(line) for line in whole.splitlines()]
    done = {(row["model"], row["kind"], row["seed"]) for row in rows}
    with open(path, "a", encoding="utf-8") as file:
        for seed in range(settings.quadruplets):
            for kind in settings.kinds:
                for name, model in models.items():
                    if (name, kind, seed) not in done:
                        rows.append({"model": name, "kind": kind, "seed": seed, **measure_scene(model, kind, seed)})
                        file.write(json.dumps(rows[-1]) + "\n")
                        file.flush()
    return rows


def measure_scene(model: VJEPA, kind: str, seed: int) -> Row:
    """Return scores, whether each pair is right, and whether surprise rises where the event is."""
    scene = render_scene(kind, seed=seed)
    step = FRAME_STEP["hidden" if kind.startswith("hidden") else "visible"]
    found = {
        name: model.surprise(video, frame_step=step, source_fps=FPS, batch_size=16, floor=name == "AA")
        for name, video in scene.videos.items()
    }
    return {
        "scores": {name: surprise.score() for name, surprise in found.items()},
        "floor": found["AA"].floor_score(),
        "right": [found[possible].score() < found[impossible].score() for possible, impossible in PAIRS],
        "located": [is_located(found, scene, possible, impossible) for possible, impossible in PAIRS],
    }


def is_located(found: dict[str, Surprise], scene: Scene, possible: str, impossible: str) -> bool:
    """Whether the window in which the two differ most has the event among its targets."""
    rise = found[impossible].window_scores() - found[possible].window_scores()
    window, moment = int(rise.argmax()), scene.events[impossible] / FPS
    surprise = found[impossible]
    return bool(surprise.context_end_seconds[window, 0] <= moment < surprise.end_seconds[window] and rise[window] > 0)


def print_tables(rows: list[Row], settings: Settings) -> None:
    """Print both shares with intervals over quadruplets, whose two pairs are not independent, and some means."""
    by_model = {
        name: {kind: [row for row in rows if row["kind"] == kind and row["model"] == name] for kind in settings.kinds}
        for name in ("trained", "random")
    }
    for title, right in (
        ("pairs in which the impossible video has the higher score", right_pairs),
        ("quadruplets in which the impossible videos have the higher sum of scores", right_sum),
    ):
        print(f"share of {title}; 95 % intervals over quadruplets")
        print(f"{'':18}{'trained':>19}{'random weights':>19}{'difference':>22}")
        for kind in settings.kinds:
            shares = [np.array([right(row) for row in by_model[name][kind]]) for name in ("trained", "random")]
            cells = [*map(with_interval, shares), with_interval(shares[0] - shares[1], signed=True)]
            print(f"{kind:18}{cells[0]:>19}{cells[1]:>19}{cells[2]:>22}")
    print(
        "the trained model: share of pairs that differ most in a window with the event among its targets; mean error of"
    )
    print("possible videos, and of the guess that nothing changes")
    for kind in settings.kinds:
        mine = by_model["trained"][kind]
        located, floor = np.mean([row["located"] for row in mine]), np.mean([row["floor"] for row in mine])
        error = np.mean([row["scores"]["AA"] for row in mine])
        print(f"{kind:18}{located:>8.2f}{error:>8.3f}{floor:>8.3f}")


def right_pairs(row: Row) -> float:
    """Return the share of a quadruplet's two pairs that are right, as in the paper."""
    return float(np.mean(row["right"]))


def right_sum(row: Row) -> float:
    """Return whether its impossible videos surprise more than its possible ones, taken together.

    Frames are balanced, so that what is hard to predict by its looks alone is on both sides, and cancels out.
    """
    scores = row["scores"]
    return float(scores["AB"] + scores["BA"] > scores["AA"] + scores["BB"])


def with_interval(shares: np.ndarray, *, signed: bool = False) -> str:
    """Return the mean and its percentile bootstrap interval, or no interval of fewer than 10."""
    sign = "+" if signed else ""
    mean = f"{shares.mean():{sign}.2f}"
    if len(shares) < 10:
        return f"{mean} [too few]"
    rng = np.random.default_rng(0)
    means = shares[rng.integers(0, len(shares), (2000, len(shares)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{mean} [{low:{sign}.2f}, {high:{sign}.2f}]"


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; run the same command again to go on") from None
