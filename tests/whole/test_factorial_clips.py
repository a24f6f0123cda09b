"""The clips of the chart are what they claim, and the example that draws it runs, stops and goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import VIDEO

from vjepa_sdk.config.training import ObjectiveConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))

from factorial_clips import (  # noqa: E402
    SHAPES,
    SPEEDS,
    TEXTURES,
    Labels,
    first_frame,
    label_table,
    render,
    shuffled,
    speed_table,
)
from intuitive_scenes import quiet_noise  # noqa: E402
from motion_tasks import rendered_sets  # noqa: E402
from render_clips import DIRECTIONS  # noqa: E402
from videomae import PixelReconstruction  # noqa: E402

OPPOSITE = {
    "right": "left", "down-right": "up-left", "down": "up", "down-left": "up-right",
    "left": "right", "up-left": "down-right", "up": "down", "up-right": "down-left",
}  # fmt: skip


def where_it_moves(clip: np.ndarray, *, seed: int) -> np.ndarray:
    """Return where frames differ from the background, the first thing that is drawn, bool [T, 96, 96]."""
    background = quiet_noise(np.random.default_rng(seed)).round().astype(np.uint8)
    return np.asarray((clip != background).any(axis=-1))


@pytest.mark.parametrize("count", [256, 512])
def test_every_label_is_independent_of_the_others(count: int) -> None:
    table = label_table(count, seed=1)
    assert len(table) == count
    for first, second in combinations(("direction", "shape", "texture"), 2):
        counts = Counter((getattr(labels, first), getattr(labels, second)) for labels in table)
        sizes = [len({getattr(labels, name) for labels in table}) for name in (first, second)]
        # all combinations, each equally often: the chi-squared statistic is 0
        assert len(counts) == sizes[0] * sizes[1] and len(set(counts.values())) == 1
    assert table != label_table(count, seed=2)


def test_every_speed_comes_equally_often() -> None:
    assert Counter(labels.speed for labels in speed_table(20, seed=3)) == dict.fromkeys(SPEEDS, 5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_clip_backwards_is_the_clip_of_the_opposite_direction(direction: str) -> None:
    for seed in range(20):
        shape, texture = SHAPES[seed % 8], TEXTURES[seed % 4]
        clip = render(Labels(direction, shape, texture), seed=seed)
        assert clip.shape == (16, 96, 96, 3) and clip.dtype == np.uint8
        assert np.array_equal(clip[::-1], render(Labels(OPPOSITE[direction], shape, texture), seed=seed))
        assert not np.array_equal(clip, clip[::-1])


def test_a_shape_goes_where_its_direction_says() -> None:
    """Follow the centre of what differs from the background."""
    ways = {"right": (0, 1), "down": (1, 0), "up-left": (-1, -1)}
    for name, way in ways.items():
        is_shape = where_it_moves(render(Labels(name, "disc", "checks"), seed=4), seed=4)
        # on a ring, the mean place is an angle
        angles = [
            np.unwrap(
                [np.angle((frame.sum(axis) * np.exp(2j * np.pi * np.arange(96) / 96)).sum()) for frame in is_shape]
            )
            for axis in (1, 0)
        ]
        moved = [(each[-1] - each[0]) * 96 / (2 * np.pi) for each in angles]
        assert np.array_equal(np.sign(np.round(moved)), way)


def test_what_leaves_at_one_side_enters_at_the_other() -> None:
    for seed in range(5):
        sizes = where_it_moves(render(Labels("up-right", "square", "stripes"), seed=seed), seed=seed).sum(axis=(1, 2))
        assert sizes.min() == sizes.max() > 50


def test_halfway_the_shape_is_at_one_place_whatever_the_direction() -> None:
    for seed in range(5):
        halves = [
            where_it_moves(render(Labels(name, "star", "dots"), seed=seed)[7:9], seed=seed).any(axis=0)
            for name in DIRECTIONS
        ]
        assert (np.all(halves, axis=0).sum() / np.any(halves, axis=0).sum()) > 0.5


@pytest.mark.parametrize("name", ["shape", "texture"])
def test_no_two_shapes_or_textures_are_the_same(name: str) -> None:
    values = SHAPES if name == "shape" else TEXTURES
    labels = [Labels("left", each, "checks") if name == "shape" else Labels("left", "disc", each) for each in values]
    clips = [render(each, seed=7) for each in labels]
    assert all((one != other).any() for one, other in combinations(clips, 2))


def test_controls_keep_the_frames_and_lose_the_motion() -> None:
    clips = np.stack([render(labels, seed=seed) for seed, labels in enumerate(label_table(256, seed=0)[:6])])
    still, mixed = first_frame(clips), shuffled(clips, seed=0)
    assert (still == clips[:, :1]).all() and still.shape == clips.shape
    orders = []
    for one, other in zip(mixed, clips, strict=True):
        frames = [frame.tobytes() for frame in other]
        orders.append(tuple(frames.index(frame.tobytes()) for frame in one))
        assert Counter(frame.tobytes() for frame in one) == Counter(frames)
    assert len(set(orders)) == len(clips)


def test_clips_to_test_on_are_others_than_those_to_fit_to() -> None:
    sets = rendered_sets(64, seed=0)
    assert [list(each.labels) for each in sets] == [
        ["shape", "texture", "direction"], ["speed"], ["direction, first frame"], ["direction, shuffled"],
    ]  # fmt: skip
    clips = [clip.tobytes() for each in sets[:2] for part in (each.train, each.test) for clip in part]
    assert len(set(clips)) == len(clips) == 4 * 64
    assert sets[0].train.shape == (64, 8, 48, 48, 3) and sets[0].train.dtype == np.uint8


def test_the_targets_of_pixel_reconstruction_are_normalised_tubelets() -> None:
    network = PixelReconstruction(VIDEO, ObjectiveConfig())
    t, p, side = VIDEO.tubelet_size, VIDEO.patch_size, VIDEO.img_size
    clips = torch.rand(2, 3, VIDEO.num_frames, side, side, generator=torch.Generator().manual_seed(0))
    targets = network.targets(clips)
    tubelet = clips[1, :, t : 2 * t, :p, p : 2 * p].flatten(1).T
    place = (side // p) ** 2 + 1
    expected = (tubelet - tubelet.mean(0)) / tubelet.std(0)
    assert torch.allclose(targets[1, place], expected.flatten(), atol=1e-4)


def test_the_example_runs_once_and_goes_on_from_there(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "motion_vs_appearance.py", tmp_path / "out", "--quick"]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    results = tmp_path / "out" / "results.jsonl"
    lines = results.read_text().splitlines()
    cells = [json.loads(line) for line in lines]
    assert {cell["method"] for cell in cells} == {
        "V-JEPA", "I-JEPA, averaged", "I-JEPA, in order", "VideoMAE", "random weights", "raw pixels",
        "frame differences",
    }  # fmt: skip
    assert "| direction, first frame | direction, shuffled |" in first.stdout
    assert (tmp_path / "out" / "chart.svg").read_text().count("V-JEPA")
    results.write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:20])
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert results.read_text().splitlines() == lines and again.stdout == first.stdout
    refused = subprocess.run([*command[:-1]], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "this directory has other settings" in refused.stderr
