"""How often a damaged video is read with wrong frames and no error; `silent_damage.py` prints the table of the docs."""

from __future__ import annotations

from pathlib import Path

import pytest
from silent_damage import DAMAGES, FORMATS, measure, scene, silent_share, write_scenes

# What disks and networks lose is found but where it hits the tables that tell which frames exist, before all in MP4.
# Flipped bits and foreign bytes are found where something can tell them: a checksum, or a decoder that checks the end.
BOUNDS = {  # shares of wrong videos without an error: for each kind of damage in `LOST`, and for all kinds
    "H.264, MP4": (0.005, 0.14),
    "H.264, Matroska": (0.005, 0.005),
    "HEVC, MP4": (0.005, 0.4),
    "HEVC, Matroska": (0.005, 0.005),
    "VP9, MP4": (0.01, 0.01),
    "VP9, WebM": (0.01, 0.01),
    "AV1, MP4": (0.01, 0.02),
}
LOST = ("zeros", "lost")


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", BOUNDS)
def test_few_damaged_videos_are_read_without_a_word(name: str, count: int, tmp_path: Path) -> None:
    originals = write_scenes(FORMATS[name], tmp_path, [scene(number) for number in range(3)])
    outcomes = measure(originals, count=count, seed=count)
    lost, all_kinds = BOUNDS[name]
    for kind in LOST:
        assert silent_share(outcomes, kind) <= max(lost, 1 / (count / len(DAMAGES)))
    assert silent_share(outcomes) <= all_kinds + 0.01
    assert sum(outcome.is_refused for outcome in outcomes) > count / 4
