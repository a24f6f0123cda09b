"""Pictures of surprise show what was measured, when and where it was; what is not predicted has no colours."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from media import write_video
from outlines import HOSTILE, Outline
from PIL import Image
from tiny_models import VIDEO, save_tiny

from vjepa_sdk import VJEPA, SurpriseNormalizer, find_events, surprise_maps
from vjepa_sdk.cli import app
from vjepa_sdk.errors import ConfigError, InputError, OutputError, ResumeError
from vjepa_sdk.viz import tokens
from vjepa_sdk.viz.charts import FOR_FILMS
from vjepa_sdk.viz.page import plain_text
from vjepa_sdk.viz.surprise_page import SurpriseMaps, _Curve


@pytest.fixture(scope="module")
def model() -> VJEPA:
    return VJEPA.untrained(VIDEO, device="cpu")


def video(num_frames: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, 40, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def maps(model: VJEPA) -> SurpriseMaps:
    return surprise_maps(model, video(), fps=10, source_fps=10, threshold=1.0, floor=True, show_progress_bar=False)


def test_maps_hold_what_was_measured(model: VJEPA, maps: SurpriseMaps) -> None:
    found = model.surprise(video(), fps=10, source_fps=10, keep_tokens=True, show_progress_bar=False)
    known = ~np.isnan(found.timeline)
    assert known.tolist() == [False, *[True] * 5] and found.tokens is not None
    assert np.array_equal(maps.surprise.timeline, found.timeline, equal_nan=True)
    assert np.array_equal(maps.values[known, ..., 0], found.tokens[known])
    assert list(maps.events) == find_events(found, threshold=1.0) and maps.events
    default = surprise_maps(model, video(), fps=10, source_fps=10, show_progress_bar=False)
    assert list(default.events) == find_events(found)


def test_frames_without_a_prediction_keep_their_own_colours(maps: SurpriseMaps) -> None:
    frames = maps.overlay(0.6)
    same = [np.array_equal(frame, shown) for frame, shown in zip(frames, maps.volume.frames, strict=True)]
    assert same == [True, True, *[False] * 10]  # a tubelet is two frames


def test_the_line_of_a_film_stands_at_its_moment(maps: SurpriseMaps) -> None:
    curve = _Curve.of(maps, width=480, height=288)
    blue = tuple(int(FOR_FILMS.of["s1"][i : i + 2], 16) for i in (1, 3, 5))
    line = np.flatnonzero((np.abs(curve.picture.astype(int) - blue).sum(axis=2) < 30).any(axis=0))
    ends = [np.flatnonzero((curve.at(second) != curve.picture).any(axis=(0, 2))) for second in (0.2, 1.2)]
    # the curve begins with the first prediction, and ends with the film
    assert ends[0][0] == pytest.approx(line[0], abs=3) and ends[1][-1] == pytest.approx(line[-1], abs=3)
    assert all(len(end) <= 2 for end in ends)


@pytest.mark.parametrize(
    ("crop", "expected"), [("square", (0.0, 0.1875, 1.0, 0.8125)), ("squash", (0.0, 0.0, 1.0, 1.0))]
)
def test_the_frame_is_what_the_model_sees(model: VJEPA, crop: str, expected: tuple[float, ...]) -> None:
    found = surprise_maps(model, video(), fps=10, source_fps=10, crop=crop, show_progress_bar=False)  # type: ignore[arg-type]
    assert found.volume.crop == pytest.approx(expected, abs=0.002)


def test_a_page_holds_the_curve_for_those_with_and_without_script(maps: SurpriseMaps, tmp_path: Path) -> None:
    maps.save(tmp_path / "s.html", command=["vjepa"])
    outline = Outline((tmp_path / "s.html").read_bytes())
    data = json.loads(outline.data)
    known = [None if np.isnan(value) else pytest.approx(float(value), abs=1e-4) for value in maps.surprise.timeline]
    assert data["values"] == known
    assert data["edges"] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]) and len(data["frames"]) == 12
    seconds, peak = maps.surprise.peak
    assert f"Most surprising is the moment at {seconds:.2f} s: {peak:.2f} times what is usual in it." in outline.text
    assert f"{maps.surprise.floor_score():.4f}" in outline.text
    assert all(f"{event.start_seconds:.2f}" in outline.text for event in maps.events)
    assert "script-src 'sha256-" in outline.policy and "svg" in {element for element, _ in outline.elements}


@pytest.mark.parametrize("suffix", [".html", ".png", ".mp4"])
def test_equal_videos_give_equal_bytes(maps: SurpriseMaps, tmp_path: Path, suffix: str) -> None:
    paths = [maps.save(tmp_path / f"{i}{suffix}", command=["vjepa"]) for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_sheet_has_the_curve_below_and_numbers_are_kept(maps: SurpriseMaps, tmp_path: Path) -> None:
    sheet = np.asarray(Image.open(maps.save(tmp_path / "s.png")).convert("RGB"))
    width = sheet.shape[1]
    assert np.array_equal(sheet[-240:], _Curve.of(maps, width=width, height=240).picture)
    held = np.load(maps.save(tmp_path / "s.npz"))
    assert np.array_equal(held["surprise"], maps.surprise.timeline, equal_nan=True)
    assert held["tokens"].shape == (6, 2, 2) and held["tubelet_end_seconds"][-1] == pytest.approx(1.2)


def test_hostile_names_stay_text(model: VJEPA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = write_video(tmp_path / "a.mp4", num_frames=8)
    outlines = []
    for name in ("a.mp4", "<img src=x onerror=alert(1)>.mp4", "line\nbreak<b>.mp4"):
        written.rename(tmp_path / name)
        written = tmp_path / name
        found = surprise_maps(model, name, fps=10, show_progress_bar=False)
        found.save(tmp_path / "s.html", overwrite=True, command=["vjepa", "viz", "surprise", HOSTILE[0]])
        outlines.append(Outline((tmp_path / "s.html").read_bytes()))
        assert plain_text(name) in outlines[-1].text
    assert outlines[0].elements == outlines[1].elements == outlines[2].elements


def test_what_cannot_be_shown_is_refused(model: VJEPA, maps: SurpriseMaps, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"suffix '.csv' must be one of .mp4, .gif, .png, .html, .npz"):
        maps.save("s.csv")
    with pytest.raises(ConfigError, match="alpha=2 must be from 0 to 1"):
        maps.save("s.png", alpha=2)
    with pytest.raises(OutputError, match="missing: does not exist"):
        maps.save("missing/s.png")
    monkeypatch.setattr(tokens, "MAX_BYTES", 1 << 20)
    with pytest.raises(InputError, match=r"12 frames need .* GiB, .*; pass a lower fps, or a part of it"):
        surprise_maps(model, video(), fps=10, source_fps=10)


def test_the_command_draws_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "model")
    write_video(tmp_path / "a.mp4", num_frames=32)
    loaded = VJEPA.from_pretrained(tmp_path / "model", device="cpu")
    normalizer = SurpriseNormalizer.fit(loaded, [tmp_path / "a.mp4"], fps=10)
    normalizer.save(tmp_path / "n.safetensors")

    def run(*options: str) -> str:
        arguments = ["vjepa", "viz", "surprise", "a.mp4", "--model", "model", "-q", *options]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as exit_:
            app.main()
        assert exit_.value.code in (0, None)
        return capsys.readouterr().out

    seconds, peak = loaded.surprise("a.mp4", fps=10).peak
    line = run("--fps", "10", "--threshold", "100", "-o", "s.png")
    assert line == f"s.png: 32 frames, peak {peak:.2f} at {seconds:.2f} s, 0 events\n"
    fitted = loaded.surprise("a.mp4", fps=10, normalizer=normalizer)
    facts = json.loads(run("--fps", "10", "--normal", "n.safetensors", "-o", "s.html", "--json"))
    assert facts["timeline"] == "fitted" and facts["peak"] == pytest.approx(fitted.peak[1])
    assert "standard deviations above normal footage" in (tmp_path / "s.html").read_text()
    with pytest.raises(ResumeError, match="fitted with other settings"):
        surprise_maps(loaded, "a.mp4", fps=5, normalizer=normalizer)
