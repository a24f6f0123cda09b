"""The rendered scenes are what they claim, and the example that uses them runs, stops and goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_models import VIDEO
from tiny_runs import run_config, write_clips

from vjepa_sdk import VJEPA, pretrain
from vjepa_sdk.config.training import DataConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))

from intuitive_scenes import HIDDEN_SWITCH, PAIRS, SCENES, VISIBLE_SWITCH, Scene, render_scene  # noqa: E402

HIDDEN = [name for name in SCENES if name.startswith("hidden")]
VISIBLE = [name for name in SCENES if name not in HIDDEN]


def runs(video: np.ndarray, length: int) -> list[bytes]:
    """Return all stretches of so many frames in a row."""
    return [video[first : first + length].tobytes() for first in range(len(video) - length + 1)]


def is_balanced(scene: Scene, length: int) -> bool:
    """Compare, bit by bit, how often each run of frames occurs in possible and in impossible videos."""
    possible, impossible = (
        Counter(run for name in names for run in runs(scene.videos[name], length)) for names in zip(*PAIRS, strict=True)
    )
    return possible == impossible


@pytest.mark.parametrize("name", SCENES)
def test_every_frame_occurs_as_often_in_possible_as_in_impossible_videos(name: str) -> None:
    for seed in range(6):
        scene = render_scene(name, seed=seed)
        assert {video.shape for video in scene.videos.values()} == {(48, 96, 96, 3)}
        assert {video.dtype for video in scene.videos.values()} == {np.dtype(np.uint8)}
        assert is_balanced(scene, 1)


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("length", [2, 3, 4, 8])
def test_behind_a_screen_every_run_of_eight_frames_is_balanced_too(name: str, length: int) -> None:
    for seed in range(3):
        assert is_balanced(render_scene(name, seed=seed), length)


@pytest.mark.parametrize("name", [name for name in VISIBLE if name != "permanence"])
def test_in_the_open_two_frames_in_a_row_tell(name: str) -> None:
    assert not is_balanced(render_scene(name, seed=0), 2)


@pytest.mark.parametrize(
    ("name", "frames"),
    [(name, {27, 28} if name == "permanence" else {24}) for name in VISIBLE]
    + [(name, {39} if name == "hidden-solidity" else set(range(31, 37))) for name in HIDDEN],
)
def test_the_event_is_the_first_frame_that_differs(name: str, frames: set[int]) -> None:
    for seed in range(6):
        scene = render_scene(name, seed=seed)
        for possible, impossible in PAIRS:
            event, (a, b) = scene.events[impossible], (scene.videos[possible], scene.videos[impossible])
            assert event in frames
            assert np.array_equal(a[:event], b[:event]) and not np.array_equal(a[event], b[event])


@pytest.mark.parametrize("name", SCENES)
def test_halves_are_those_of_the_possible_videos(name: str) -> None:
    videos, switch = render_scene(name, seed=1).videos, HIDDEN_SWITCH if name in HIDDEN else VISIBLE_SWITCH
    for joined, (begin, end) in {"AB": ("AA", "BB"), "BA": ("BB", "AA")}.items():
        assert np.array_equal(videos[joined], np.concatenate([videos[begin][:switch], videos[end][switch:]]))


def test_a_scene_depends_on_its_seed_alone_and_odd_ones_are_mirrored() -> None:
    first, again, other = (render_scene("teleport", seed=seed).videos["AA"] for seed in (2, 2, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    # the ball leaves a still background on its right; mirrored, on its left
    for seed, columns in ((2, slice(80, 96)), (3, slice(0, 16))):
        video = render_scene("vanish", seed=seed).videos["AA"]
        assert (video[0][:, columns] == video[10][:, columns]).all()
        assert not (video[0][:, columns] == video[40][:, columns]).all()


@pytest.mark.parametrize("name", ["teleport", "hidden-vanish"])
def test_pairs_score_alike_up_to_the_event(name: str) -> None:
    model = VJEPA.untrained(VIDEO, device="cpu")
    scene = render_scene(name, seed=0)
    for possible, impossible in PAIRS:
        a, b = (model.surprise(scene.videos[each], fps=7.5, source_fps=15) for each in (possible, impossible))
        is_before = a.end_seconds <= scene.events[impossible] / 15
        assert is_before.any() and np.array_equal(a.errors[is_before], b.errors[is_before], equal_nan=True)
        assert not np.array_equal(a.errors[~is_before], b.errors[~is_before], equal_nan=True)


def test_the_example_runs_once_and_goes_on_from_there(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "intuitive_physics.py", tmp_path / "out"]
    first = subprocess.run([*command, "--quick"], capture_output=True, text=True, check=True)
    results = tmp_path / "out" / "results.jsonl"
    lines = results.read_text().splitlines()
    assert len(lines) == 2 * 3 and "teleport" in first.stdout
    assert {json.loads(line)["model"] for line in lines} == {"trained", "random"}
    results.write_text("\n".join(lines[:4]) + "\n" + lines[4][:20])
    again = subprocess.run([*command, "--quick"], capture_output=True, text=True, check=True)
    assert results.read_text().splitlines() == lines and again.stdout == first.stdout
    refused = subprocess.run([*command, "--steps", "3"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "this directory has other settings" in refused.stderr


def test_a_model_trained_here_says_at_which_rate(tmp_path: Path) -> None:
    clips = write_clips(tmp_path)
    data = DataConfig(path=str(clips), fps=5.0, num_workers=0)
    result = pretrain(run_config(clips, tmp_path / "run", data=data, steps=1), show_progress_bar=False)
    assert result.model_directory is not None
    trained = VJEPA.from_pretrained(result.model_directory, device="cpu")
    assert trained.surprise_meter().settings.fps == 5.0
    assert trained.surprise(clips / "0.mp4").meta["encoders"] == "two"
