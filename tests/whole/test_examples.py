"""The example scripts do what their first lines say."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ridge import ridge_probe
from tiny_models import save_tiny

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))

from motion_chart import interval  # noqa: E402
from render_clips import DIRECTIONS, render_clip, render_pan, write_video  # noqa: E402


@pytest.mark.parametrize("render", [render_clip, render_pan])
def test_rendered_pixels_depend_on_direction_and_seed_alone(render) -> None:  # type: ignore[no-untyped-def]
    clip = render("left", seed=3, num_frames=4, size=48)
    assert clip.shape == (4, 48, 48, 3) and clip.dtype == np.uint8
    assert np.array_equal(clip, render("left", seed=3, num_frames=4, size=48))
    assert not np.array_equal(clip, render("right", seed=3, num_frames=4, size=48))
    assert not np.array_equal(clip, render("left", seed=4, num_frames=4, size=48))


def test_opposite_directions_are_each_other_backwards() -> None:
    assert np.array_equal(render_clip("up", seed=1), render_clip("down", seed=1)[::-1])


def test_labels_of_the_example_clips_name_existing_files() -> None:
    with open(EXAMPLES / "clips" / "labels.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {row["label"] for row in rows} == set(DIRECTIONS)
    assert all((EXAMPLES / "clips" / row["path"]).is_file() for row in rows)


def test_ridge_probe_finds_a_linear_rule_and_no_rule_in_noise() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 600)
    noise = rng.normal(size=(600, 20))
    rule = noise + np.eye(4)[labels] @ rng.normal(size=(4, 20)) * 3
    for features, low, high in ((rule, 0.9, 1.0), (noise, 0.1, 0.4)):
        guesses = ridge_probe(features[:400], labels[:400], features[400:])
        assert low <= np.mean(guesses == labels[400:]) <= high


def test_interval_of_three_seeds_uses_two_degrees_of_freedom() -> None:
    low, high = interval([0.1, 0.2, 0.3])
    assert (low + high) / 2 == pytest.approx(0.2)
    assert high - low == pytest.approx(2 * 4.303 * 0.1 / 3**0.5)


def real_list(directory: Path) -> Path:
    """Write videos long enough to be played at four times their speed, and a list of them."""
    rows = ["path,label,group"]
    for number in range(64):
        way = list(DIRECTIONS)[number % 2]
        write_video(directory / f"{number}.mp4", render_pan(way, seed=number, num_frames=32, size=64))
        rows.append(f"{number}.mp4,{way},{number // 2}")
    (directory / "list.csv").write_text("\n".join(rows) + "\n")
    return directory / "list.csv"


def test_frozen_probe_prints_every_kind_of_features_and_paired_differences(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    command = [sys.executable, EXAMPLES / "frozen_probe.py", "--model", model, "--clips", "64", "--quick"]
    beside = ["--C", "0.01", "--bootstrap", "20", "--beside", f"twin={model}", "--json", tmp_path / "all.json"]
    options = ["--real", real_list(tmp_path), *beside]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    tasks = (
        "shape",
        "texture",
        "direction",
        "speed",
        "moving view",
        "label",
        "playback speed",
        "playback order",
        "moving window",
    )
    (heading,) = (line for line in done.stdout.splitlines() if line.startswith("| features"))
    assert all(task in heading for task in tasks)
    kinds = ("trained encoder", "random weights", "twin", "raw pixels", "frame differences", "absolute differences")
    for kind in kinds:
        assert f"\n| {kind} |" in done.stdout
    rows = json.loads((tmp_path / "all.json").read_text())
    assert all(len(row["seeds"]) == 3 for row in rows)
    by_task = {(row["task"], row["features"]): row["accuracy"] for row in rows}
    assert all(by_task[task, "twin"] == by_task[task, "trained encoder"] for task in tasks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "2"], "--seeds 2 must be 3 to 5"),
        (["--beside", "runs/mine"], "'runs/mine' must be NAME=MODEL"),
        (["--pooling", "max"], "'max' must be some of mean,temporal,grid,change"),
    ],
)
def test_frozen_probe_refuses_what_it_cannot_do(options: list[str], message: str) -> None:
    command = [sys.executable, EXAMPLES / "frozen_probe.py", *options]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and message in refused.stderr
