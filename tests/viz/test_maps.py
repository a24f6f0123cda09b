"""Maps lie where the model looked, keep their colours, and become files that others can read."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vjepa_sdk.errors import ConfigError, InputError, OutputError
from vjepa_sdk.viz.films import to_gif, to_mp4
from vjepa_sdk.viz.maps import FeatureMaps, HeatScale, RGBScale, save_maps
from vjepa_sdk.viz.tokens import TokenVolume


def maps(values: np.ndarray, *, count: int = 6, name: str = "a.mp4") -> FeatureMaps:
    """Lay values `[T', H', W', C]` over the middle half of grey frames, two frames a token."""
    volume = TokenVolume(
        tokens=values[:0],
        frames=np.full((count, 64, 96, 3), 100, np.uint8),
        crop=(0.25, 0.25, 0.75, 0.75),
        frame_seconds=np.arange(count) / 5,
        tubelet_seconds=(0.5 + 2 * np.arange(len(values))) / 5,
        fps=5.0,
        name=name,
    )
    return FeatureMaps(values=values.astype(np.float32), volume=volume, scale=RGBScale(), caption="a caption")


def some(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, 4, 4, 3))


def test_an_overlay_changes_only_what_the_model_saw() -> None:
    found = maps(some())
    assert np.array_equal(found.overlay(alpha=0), found.volume.frames)
    changed = (found.overlay(alpha=1) != found.volume.frames).any(axis=(0, 3))
    assert changed[16:48, 24:72].mean() > 0.99 and changed.sum() == changed[16:48, 24:72].sum()
    half = found.overlay(alpha=0.5).astype(int)
    both = (found.overlay(alpha=1).astype(int) + found.volume.frames) / 2
    assert np.abs(half - both).max() <= 1


def test_a_value_has_one_colour_wherever_and_whenever_it_stands() -> None:
    values = np.zeros((3, 4, 4, 3))
    values[0], values[1:] = 0.7, 0.7
    colours = np.concatenate([colour.reshape(-1, 3) for colour in maps(values).colours()])
    assert (colours == np.rint(255 / (1 + np.exp(-1.4)))).all()


def test_between_tubelets_values_change_evenly() -> None:
    values = np.zeros((2, 2, 2, 1))
    values[1] = 1.0
    found = replace(maps(values, count=4), scale=HeatScale(0.0, 1.0))
    greys = [colour.astype(int).sum() for colour in (frame[0, 0] for frame in found.colours())]
    assert greys == sorted(greys) and greys[0] < greys[1] < greys[2] < greys[3]


def test_background_is_dimmed_to_a_quarter() -> None:
    found = maps(np.full((3, 4, 4, 3), 5.0))
    dim = replace(found, foreground=np.zeros((3, 4, 4), bool))
    assert next(iter(found.colours())).max() == 255 and next(iter(dim.colours())).max() == 64


def test_fewer_components_than_three_are_colours_too() -> None:
    assert RGBScale()(np.zeros((2, 2, 1))).tolist() == [[[0.5, 0.5, 0.5]] * 2] * 2
    scaled = RGBScale(np.array([0.0]), np.array([2.0]))(np.array([[[-1.0], [1.0], [9.0]]]))
    assert scaled[0, :, 0].tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png", ".html", ".npz"])
def test_equal_maps_give_equal_bytes(suffix: str, tmp_path: Path) -> None:
    first, second = (maps(some()).save(tmp_path / f"{i}{suffix}") for i in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_a_film_has_all_frames_at_the_videos_rate(tmp_path: Path) -> None:
    path = maps(some()).save(tmp_path / "a.mp4")
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 5)
        assert len(list(film.decode(stream))) == 6


def test_colours_of_a_film_are_those_of_its_frames() -> None:
    # colours in large fields, for those of H.264 are half as fine as its light
    frame = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (200, 180, 30)]], np.uint8)
    frame = frame.repeat(36, axis=0).repeat(34, axis=1)
    with av.open(io.BytesIO(to_mp4([frame] * 2, fps=5))) as film:
        shown = next(film.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(shown.astype(int) - frame)[4:-4, 4:-4].mean() < 6


@pytest.mark.parametrize("width", [646, 660, 670])
def test_what_memory_holds_does_not_get_into_a_film(width: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 20, 44, 3), dtype=np.uint8)
    frames = frames.repeat(16, axis=1).repeat(16, axis=2)[:, :, :width]
    films = set()
    for value in range(6):
        litter = [np.full((300 + 20 * value, 704, 3), 40 * value, np.uint8) for _ in range(6)]
        del litter
        films.add(to_mp4(frames, fps=5))
    assert len(films) == 1


def test_odd_sizes_are_filmed_too() -> None:
    from vjepa_sdk.viz.films import PanelRow, film_frames

    row = PanelRow("a", np.arange(2), ["x"], lambda: iter([[np.zeros((33, 51, 3), np.uint8)]] * 2))
    frames = list(film_frames([row], caption=""))
    assert all(side % 2 == 0 for side in frames[0].shape[:2]) and to_mp4(frames, fps=29.97)


def test_a_gif_has_one_palette_and_all_frames(tmp_path: Path) -> None:
    with Image.open(maps(some()).save(tmp_path / "a.gif")) as gif:
        assert gif.n_frames == 6 and gif.info["duration"] == 200 and gif.info["loop"] == 0
    frames = [np.full((8, 8, 3), value, np.uint8) for value in (0, 120, 250)]
    assert Image.open(io.BytesIO(to_gif(lambda: frames, count=3, fps=5))).n_frames == 3


def test_numbers_come_back(tmp_path: Path) -> None:
    found = maps(some())
    with np.load(found.save(tmp_path / "a.npz"), allow_pickle=False) as stored:
        assert np.array_equal(stored["values"], found.values)
        assert json.loads(str(stored["meta"])) == {} and stored["frame_seconds"].shape == (6,)


def test_shorter_clips_of_a_film_wait_for_the_longer(tmp_path: Path) -> None:
    path = save_maps([maps(some(), count=6), maps(some(1), count=4, name="b.mp4")], tmp_path / "a.mp4")
    with av.open(str(path)) as film:
        assert len(list(film.decode(video=0))) == 6


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    found = maps(some())
    with pytest.raises(
        ConfigError, match="suffix '.avi' must be one of .mp4, .gif, .png, .html, .npz; rename the output"
    ):
        found.save(tmp_path / "a.avi")
    with pytest.raises(ConfigError, match="alpha=2 must be from 0 to 1"):
        found.save(tmp_path / "a.png", alpha=2)
    with pytest.raises(InputError, match="the numbers of one clip, not of 2"):
        save_maps([found, found], tmp_path / "a.npz")
    found.save(tmp_path / "a.png")
    with pytest.raises(OutputError, match="a.png: exists"):
        found.save(tmp_path / "a.png")


def test_a_page_names_the_clip_as_text(tmp_path: Path) -> None:
    page = (
        maps(some(), name="<img src=x onerror=alert(1)>.mp4").save(tmp_path / "a.html", command=["vjepa"]).read_text()
    )
    assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt;.mp4" in page
