"""Draw what self-supervised encoders know of motion against what they know of appearance, as V-JEPA's paper does.

    python examples/motion_vs_appearance.py runs/chart

Pretrains one small encoder in three ways on the same rendered clips: predicting features (V-JEPA, and I-JEPA frame by
frame) and predicting pixels (VideoMAE). Probes of the frozen encoders are asked for shape and texture, and for
direction and speed; beside them stand random weights, raw pixels and frame differences. Writes `chart.svg` and
`results.jsonl`, and prints the table. About 38 minutes of processor time, for three runs of each; stop it at any time,
and run the same command again to go on. `--quick` does a little of everything in seconds, and its numbers mean nothing.

    python examples/motion_vs_appearance.py runs/mine --clips videos.csv

takes real clips instead, listed with the columns path, label[, split, group]: the labels stand for appearance, the
speed at which a clip is played the way
that a view of it goes, and whether it is played forwards or backwards for motion.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from factorial_clips import FPS, PRETRAINING_SEED, label_table, render
from motion_chart import draw, print_tables
from motion_tasks import ClipSet, rendered_sets
from real_clip_tasks import read_list, real_sets
from render_clips import write_video
from videomae import pretrain_videomae

from vjepa_sdk import VJEPA, Probe, TrainConfig, pretrain, train_config
from vjepa_sdk.downstream.attentive import AttentiveOptions, fit_attentive
from vjepa_sdk.downstream.fit import Examples
from vjepa_sdk.downstream.probe_options import grid_of

Row = dict[str, Any]
"""A line of results: see `motion_chart`."""
Pool = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Reading:
    """What is read of clips."""

    encode: Pool
    """Clips `uint8 [n, T, H, W, 3]` to numbers `[n, ...]`, from which all is pooled."""
    methods: dict[str, dict[str, Pool]]
    """By method and probe, how those become what the probe reads."""


@dataclass(frozen=True)
class Settings:
    """How much is done."""

    clips_seen: int
    """By each run of pretraining."""
    training_clips: int
    """Different ones, from which those are cut."""
    probe_clips: int
    """That a probe is fitted to, and as many to test it on."""
    epochs: int
    """Of an attentive probe."""
    seeds: int
    C: float | None = None
    """Of a linear probe; None: chosen on parts of the clips that it is fitted to."""
    clips: str | None = None
    """List of real clips; None: rendered ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="directory for clips, models, results and chart")
    parser.add_argument("--quick", action="store_true", help="do everything in seconds; the numbers mean nothing")
    parser.add_argument("--clips-seen", type=int, default=8000, help="by each run of pretraining, a multiple of 16")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method")
    parser.add_argument("--clips", type=Path, help="CSV of real clips with the columns path, label[, split, group]")
    arguments = parser.parse_args()
    clips = str(arguments.clips.resolve()) if arguments.clips else None
    settings = Settings(arguments.clips_seen, 2048, 1024, 20, arguments.seeds, clips=clips)
    if arguments.quick:
        settings = Settings(32, 32, 64, 1, 1, C=1e-4, clips=clips)
    out: Path = arguments.out
    logging.getLogger("vjepa_sdk").setLevel(logging.ERROR)
    check_settings(out, settings)
    if clips is None:
        render_training_clips(out / "clips", settings)
    rows = measure(out, settings)
    print_tables(rows)
    draw(rows, RENDERED if clips is None else REAL, out / "chart.svg")


def check_settings(out: Path, settings: Settings) -> None:
    """Remember the settings, or refuse to mix results of others with them; more seeds may follow."""
    out.mkdir(parents=True, exist_ok=True)
    path, wanted = out / "settings.json", {**asdict(settings), "seeds": None}
    if not path.exists():
        path.write_text(json.dumps(wanted))
    elif json.loads(path.read_text()) != wanted:
        raise SystemExit(f"{path}: this directory has other settings; choose another, or remove it")


def render_training_clips(directory: Path, settings: Settings) -> None:
    """Write the clips that encoders are pretrained on; their labels are not used."""
    directory.mkdir(exist_ok=True)
    for number, labels in enumerate(label_table(settings.training_clips, seed=PRETRAINING_SEED)):
        path = directory / f"{number:04d}.mp4"
        if not path.exists():
            part = path.with_suffix(".part.mp4")
            write_video(part, render(labels, seed=PRETRAINING_SEED + number), fps=FPS)
            part.rename(path)


def measure(out: Path, settings: Settings) -> list[Row]:
    """Fill all cells, one line of results each; those that are there are not measured again."""
    path = out / "results.jsonl"
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    path.write_text(whole)  # without a line that was being written when the process was killed
    rows = [json.loads(line) for line in whole.splitlines()]
    done = {(row["method"], row["seed"], row["task"], row["probe"]) for row in rows}
    with open(path, "a", encoding="utf-8") as file:
        for seed in range(settings.seeds):
            if settings.clips is None:
                sets = rendered_sets(settings.probe_clips, seed=seed)
            else:
                sets = real_sets(read_list(Path(settings.clips)), seed=seed)
            for read in (pixels, random_weights, vjepa, videomae, ijepa):
                for row in measure_reading(read(out, settings, seed), sets, settings, seed, done):
                    rows.append(row)
                    file.write(json.dumps(row) + "\n")
                    file.flush()
    return rows


Cell = tuple[str, int, str, str]
"""Method, seed, task and probe."""


def measure_reading(
    reading: Reading, sets: list[ClipSet], settings: Settings, seed: int, done: set[Cell]
) -> Iterator[Row]:
    """Yield what each probe of each method reaches in each task, without what is done."""
    for each in sets:
        cells = [
            (method, seed, task, probe)
            for method, pools in reading.methods.items()
            for task in each.labels
            for probe in pools
        ]
        if done.issuperset(cells):
            continue
        train, test = reading.encode(each.train), reading.encode(each.test)
        for method, _, task, probe in (cell for cell in cells if cell not in done):
            pool = reading.methods[method][probe]
            accuracy = ask(probe, (pool(train), pool(test)), each.labels[task], settings=settings, seed=seed)
            guess = most_frequent(*each.labels[task])
            yield {"method": method, "seed": seed, "task": task, "probe": probe, "accuracy": accuracy, "guess": guess}


def ask(
    probe: str,
    features: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    *,
    settings: Settings,
    seed: int,
) -> float:
    """Fit a probe to the first of two parts, and return its share of right answers on the second."""
    (train, test), (train_labels, test_labels) = features, labels
    if not np.ptp(train, axis=0).any():  # as differences of clips that stand still
        return most_frequent(train_labels, test_labels)
    if probe != "attentive":
        return Probe.fit(train, train_labels, C=settings.C, seed=seed).score(test, test_labels, bootstrap=0).accuracy
    names, targets = np.unique(train_labels, return_inverse=True)
    options = AttentiveOptions(
        num_classes=len(names), depth=1, num_heads=None, self_attention="before", epochs=settings.epochs, batch_size=64,
        grid=grid_of((4e-3,), (0.1,)), one_row_a_video=False, class_weight=None, seed=seed,
        device=torch.device("cpu"), show_progress_bar=False,
    )  # fmt: skip
    fitted = fit_attentive(Examples.of(train, np.arange(len(train)), targets), [], options)
    return Probe(fitted.probe, tuple(names)).score(test, test_labels, bootstrap=0).accuracy


def most_frequent(train_labels: np.ndarray, test_labels: np.ndarray) -> float:
    """Return what is right if the most frequent label is always said."""
    names, counts = np.unique(train_labels, return_counts=True)
    return float(np.mean(test_labels == names[counts.argmax()]))


RENDERED = [("shape", "direction"), ("texture", "speed")]
REAL = [("label", "moving window"), ("label", "speed")]
"""Pairs of axes: appearance and motion."""


def pixels(out: Path, settings: Settings, seed: int) -> Reading:
    """Return 12 x 12 grey pixels of each frame, and their differences in time, signed and absolute."""

    def grey(clips: np.ndarray) -> np.ndarray:
        return F.adaptive_avg_pool2d(torch.from_numpy(clips).float().mean(dim=-1) / 255, 12).flatten(2).numpy()

    def differences(frames: np.ndarray) -> np.ndarray:
        change = np.diff(frames, axis=1)
        return np.concatenate([change, abs(change)], axis=1)

    return Reading(
        grey, {"raw pixels": {"linear": lambda frames: frames}, "frame differences": {"linear": differences}}
    )


def random_weights(out: Path, settings: Settings, seed: int) -> Reading:
    """Return features of V-JEPA's encoder before its first step."""
    return of_clips("random weights", VJEPA.untrained(vjepa_config(out, settings, seed).model, seed=seed))


def vjepa(out: Path, settings: Settings, seed: int) -> Reading:
    """Pretrain V-JEPA, and return its features."""
    return of_clips("V-JEPA", trained(vjepa_config(out, settings, seed)))


def videomae(out: Path, settings: Settings, seed: int) -> Reading:
    """Pretrain VideoMAE, and return its features."""
    config = videomae_config(out, settings, seed)
    if not (Path(config.out) / "model" / "config.json").exists():
        pretrain_videomae(config)
    return of_clips("VideoMAE", VJEPA.from_pretrained(Path(config.out) / "model"))


def ijepa(out: Path, settings: Settings, seed: int) -> Reading:
    """Pretrain I-JEPA, and return the features of frames: averaged at each place; and the frames' means in order."""
    model = trained(ijepa_config(out, settings, seed))

    def frames(clips: np.ndarray) -> np.ndarray:
        found = tokens(model, clips.reshape(-1, 1, *clips.shape[2:]))
        return found.reshape(len(clips), -1, *found.shape[2:])

    return Reading(
        frames,
        {
            "I-JEPA, averaged": {
                "attentive": lambda features: features.mean(axis=1),
                "linear": lambda features: features.mean(axis=(1, 2, 3)),
            },
            "I-JEPA, in order": {
                "linear": lambda features: features.mean(axis=(2, 3)),
                "change map": change_map,
            },
        },
    )


def of_clips(method: str, model: VJEPA) -> Reading:
    """Return what probes read of an encoder of clips."""
    pools: dict[str, Pool] = {
        "attentive": lambda features: features,
        "linear": lambda features: features.mean(axis=(1, 2, 3)),
        "change map": change_map,
    }
    return Reading(lambda clips: tokens(model, clips), {method: pools})


def tokens(model: VJEPA, clips: np.ndarray) -> np.ndarray:
    """Encode clips `[n, T, H, W, 3]` into tokens `[n, T', H', W', D]`."""
    parts = torch.from_numpy(clips).permute(0, 1, 4, 2, 3).split(32)
    return torch.cat([model.embed_clips(part, pooling="none") for part in parts]).numpy()


def change_map(features: np.ndarray) -> np.ndarray:
    """Return how far each token is from the one before it, `[n, (T' - 1) H' W']`."""
    return np.linalg.norm(np.diff(features, axis=1), axis=-1).reshape(len(features), -1)


def trained(config: TrainConfig) -> VJEPA:
    """Pretrain, or go on, or take what is there. Of a short run the context encoder is ahead of its average."""
    out = Path(config.out)
    if not (out / "model" / "config.json").exists():
        result = pretrain(config, resume=(out / "config.toml").exists(), show_progress_bar=False)
        if result.model_directory is None:
            raise SystemExit("stopped; run the same command again to go on")
    return VJEPA.from_pretrained(out / "model", weights="context")


def vjepa_config(out: Path, settings: Settings, seed: int) -> TrainConfig:
    """Return the recipe `tiny`, narrower: 0.8 M parameters, 8 frames of 48 px in 144 tokens."""
    return _config(out, settings, "vjepa", seed)


def videomae_config(out: Path, settings: Settings, seed: int) -> TrainConfig:
    """Return the same without what only features need: one level, pixels to guess, tubes to hide."""
    return _config(
        out, settings, "videomae", seed,
        model={"level_layers": [], "predictor_levels": 1, "predictor_context": False},
        objective={"loss": "l2", "context_weight": 0.0, "variance_weight": 0.0, "covariance_weight": 0.0},
        masks=[{"kind": "random_tube", "hidden_share": 0.9}],
    )  # fmt: skip


def ijepa_config(out: Path, settings: Settings, seed: int) -> TrainConfig:
    """Return the same for four frames of each clip: as many tokens and steps, hidden in I-JEPA's blocks."""
    return _config(
        out, settings, "ijepa", seed, frames_of_a_clip=4,
        model={"num_frames": 1, "tubelet_size": 1, "predictor_context": False},
        objective={"loss": "smooth_l1", "context_weight": 0.0},
        masks=[{"kind": "ijepa", "num_blocks": 4, "spatial_scale": [0.15, 0.2], "min_keep": 3}],
    )  # fmt: skip


def _config(
    out: Path,
    settings: Settings,
    name: str,
    seed: int,
    *,
    frames_of_a_clip: int = 1,
    model: Row | None = None,
    objective: Row | None = None,
    masks: list[Row] | None = None,
) -> TrainConfig:
    steps = settings.clips_seen // 16
    shape = {"embed_dim": 128, "depth": 4, "num_heads": 4, "level_layers": [1, 3]}
    predictor = {"predictor_embed_dim": 64, "predictor_depth": 3, "predictor_num_heads": 2}
    data = {
        **_source(out, settings), "cache": str(out / "cache"), "cache_short_side": 64, "num_workers": 0,
        "frame_stride": [1, 2 if settings.clips is None else 4], "crop_scale": [0.6, 1.0],
    }  # fmt: skip
    return train_config(
        preset="tiny",
        settings={
            "out": str(out / f"{name}-{seed}"), "seed": seed, "device": "cpu", "precision": "bfloat16",
            "steps": steps, "batch_size": 16 * frames_of_a_clip, "save_every": 100, "data": data,
            "model": {**shape, **predictor, **(model or {})}, "objective": objective or {},
            "optim": {"warmup_steps": min(100, steps // 2)}, **({"masks": masks} if masks else {}),
        },
    )  # fmt: skip


def _source(out: Path, settings: Settings) -> Row:
    """Return what is pretrained on; of a list with splits not what is tested on."""
    if settings.clips is None:
        return {"path": str(out / "clips")}
    has_splits = any(row.get("split") for row in read_list(Path(settings.clips)))
    return {"path": settings.clips, "split": "train" if has_splits else None}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; run the same command again to go on") from None
