"""A thumbnail is the middle frame, and a bad file costs its own picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from media import numbered_frame, read_number, write_video
from PIL import Image

from vjepa_sdk.viz import thumbnails
from vjepa_sdk.viz.thumbnails import read_thumbnails


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pictures_are_middle_frames_and_the_bad_have_a_reason(tmp_path: Path, num_workers: int) -> None:
    good = write_video(tmp_path / "a.mp4", num_frames=20, width=192, height=96)
    (bad := tmp_path / "bad\n<img>.mp4").write_bytes(b"no video")
    still = tmp_path / "b.png"
    Image.fromarray(numbered_frame(5, width=192, height=96)).save(still)
    (folder := tmp_path / "frames").mkdir()
    for number in range(4):
        Image.fromarray(numbered_frame(number, width=192, height=96)).save(folder / f"{number}.png")
    entries = [
        {"path": str(good), "frames": [3, 9, 12]},
        {"path": str(bad), "frames": [0]},
        {"path": str(still), "frames": [0]},
        {"path": str(folder), "frames": [0, 2, 3]},
        {"path": str(tmp_path / "missing.mp4")},
    ]
    found = read_thumbnails(entries, num_workers=num_workers, side=96, show_progress_bar=False)
    assert [None if each.pixels is None else read_number(each.pixels) for each in found] == [9, None, 5, 2, None]
    assert found[0].pixels is not None and found[0].pixels.shape == (48, 96, 3)
    assert found[1].reason and "\n" not in found[1].reason and found[4].reason == "does not exist"


def test_a_file_that_hangs_costs_its_own_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "_Read", _Sleeper)
    good = write_video(tmp_path / "a.mp4")
    found = read_thumbnails(
        [{"path": "hang"}, {"path": str(good)}], num_workers=1, deadline_seconds=0.5, show_progress_bar=False
    )
    assert found[0].pixels is None and "0.5 s" in found[0].reason
    assert found[1].pixels is not None


class _Sleeper:
    """Hang on a file called so."""

    def __init__(self, *, side: int, decoder: str) -> None:
        self.side = side

    def __call__(self, wanted: thumbnails._Wanted) -> tuple[np.ndarray, dict[str, object]]:
        import time

        if wanted.path == "hang":
            time.sleep(60)
        return np.zeros((4, 4, 3), np.uint8), {}


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 4), np.uint8), "something other than a picture"),
        (np.zeros((4, 4, 3), np.float32), "something other than a picture"),
        (np.zeros((500, 4, 3), np.uint8), "a picture of another size"),
        (np.zeros((0, 0, 3), np.uint8), "a picture of another size"),
    ],
)
def test_what_a_taken_over_process_sends_is_not_believed(array: np.ndarray, reason: str) -> None:
    checked = thumbnails._checked(thumbnails._Wanted("a.mp4", 0), array, None, 96)
    assert checked.pixels is None and reason in checked.reason
