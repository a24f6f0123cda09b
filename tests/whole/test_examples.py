"""The example scripts do what their first lines say."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import save_tiny

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))

from frozen_probe import interval, ridge_probe  # noqa: E402
from render_clips import DIRECTIONS, render_clip, render_pan  # noqa: E402


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


def test_frozen_probe_prints_every_kind_of_features(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "frozen_probe.py", "--model", save_tiny(tmp_path / "model"), "--clips", "16"]
    labels = ("--labels", EXAMPLES / "clips" / "labels.csv")
    done = subprocess.run([*command, *labels, "--seeds", "3"], capture_output=True, text=True, check=True)
    for title in ("moving shape", "moving view", "labels.csv: 12 clips, 8 labels"):
        assert title in done.stdout
    for kind in ("trained encoder", "random encoder", "raw pixels", "frame differences"):
        assert done.stdout.count(kind) >= 3
    refused = subprocess.run([*command, "--seeds", "2"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "--seeds 2 must be at least 3" in refused.stderr
