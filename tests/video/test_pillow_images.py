"""One picture has the same features by every door."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import IMAGE, VIDEO

from vjepa_sdk import VJEPA
from vjepa_sdk.errors import InputError

SIDE = 40


def photo(path: Path, kind: str) -> Path:
    """Write a picture that is stored otherwise than it is shown."""
    rng = np.random.default_rng(0)
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        image = Image.fromarray(rng.integers(0, 256, (SIDE, 2 * SIDE, 3), dtype=np.uint8))
        image.save(path.with_suffix(".png"), exif=exif)
    elif kind == "alpha":
        pixels = rng.integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
        Image.fromarray(pixels, "RGBA").save(path.with_suffix(".png"))
    else:
        grey = rng.integers(0, 1 << 16, (SIDE, SIDE), dtype=np.uint16)
        Image.fromarray(grey).save(path.with_suffix(".png"))
    return path.with_suffix(".png")


@pytest.mark.parametrize("kind", ["turned", "alpha", "grey of 16 bits"])
def test_an_image_is_what_is_shown_by_path_and_as_pillow_has_it(tmp_path: Path, kind: str) -> None:
    path, model = photo(tmp_path / "a", kind), VJEPA.untrained(IMAGE, device="cpu")
    with Image.open(path) as image:
        image.load()
        expected = model.encode(path)
        assert np.array_equal(model.encode(image), expected)
        assert np.array_equal(model.encode([image, image]), np.stack([expected, expected]))


@pytest.mark.parametrize("kind", ["turned", "alpha"])
def test_frames_are_what_is_shown_in_a_list_and_in_a_directory(tmp_path: Path, kind: str) -> None:
    for number in range(4):
        photo(tmp_path / f"{number}", kind)
    model, paths = VJEPA.untrained(VIDEO, device="cpu"), sorted(tmp_path.iterdir())
    frames = [Image.open(path) for path in paths]
    assert np.array_equal(model.encode(frames), model.encode(tmp_path))
    windows = [model.extract(video, window_seconds=0.4, source_fps=10) for video in (frames, tmp_path)]
    assert np.array_equal(windows[0].embeddings, windows[1].embeddings)


def test_sizes_are_compared_as_they_are_shown(tmp_path: Path) -> None:
    turned = Image.open(photo(tmp_path / "a", "turned"))
    upright = Image.new("RGB", (SIDE, 2 * SIDE))
    model = VJEPA.untrained(VIDEO, device="cpu")
    assert model.encode([turned, upright]).shape == (24,)
    with pytest.raises(InputError, match="the images of one video must have one size"):
        model.encode([turned, Image.new("RGB", (2 * SIDE, SIDE))])


def test_a_file_may_be_named_like_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "a", "alpha").rename("data:2024-01-01.png")
    model = VJEPA.untrained(IMAGE, device="cpu")
    assert model.encode("data:2024-01-01.png").shape == (24,)
    with pytest.raises(InputError, match="is a URL or protocol string, not a file"):
        model.encode("data:2024-01-02.png")
