"""Many clips cost little beside decoding and encoding, and a kill at any place loses none of them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import NUM_CLIPS, Embed, contents
from faults import die, faults

from vjepa_sdk.corpus.snapshot import Clip
from vjepa_sdk.inference.embed import batches
from vjepa_sdk.runtime.workers import pool


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode and encode nothing: a row depends on its clip alone."""

    def read(self: Any, clip: Clip) -> tuple[np.ndarray, dict[str, Any]]:
        pixels = np.full((4, 3, 32, 32), int(Path(clip.path).stem) % 251, np.uint8)
        return pixels, {"frames": [0, 1, 2, 3], "start_seconds": 0.0, "end_seconds": 1.0}

    def encode(self: Any, clips: Sequence[np.ndarray | None], *, batch_size: int) -> list[np.ndarray | None]:
        return [None if clip is None else np.full(24, clip[0, 0, 0, 0], np.float32) for clip in clips]

    monkeypatch.setattr(pool, "_watched", lambda messages, request: next(messages))  # a thread for each clip
    monkeypatch.setattr(batches._ClipReader, "__call__", read)
    monkeypatch.setattr(batches.Encoding, "_is_clip", lambda self, decoded: True)
    monkeypatch.setattr(batches.Encoding, "_encode", encode)


def listed(clips: Path, directory: Path, count: int) -> Path:
    """Write a list of hard links of the clips."""
    (directory / "links").mkdir()
    for number in range(count):
        os.link(clips / f"{number % NUM_CLIPS}.mp4", directory / "links" / f"{number:05d}.mp4")
    path = directory / "list.csv"
    path.write_text("path,label\n" + "".join(f"links/{number:05d}.mp4,{number % 7}\n" for number in range(count)))
    return path


@pytest.mark.usefixtures("stubs")
def test_a_job_does_little_for_each_clip(run: Embed, clips: Path, tmp_path: Path) -> None:
    inputs, count = listed(clips, tmp_path, 1000), 1000
    run(tmp_path / "warm.npy", clips)
    started = time.process_time()
    assert run(tmp_path / "feats.npy", inputs, batch_size=64).rows == count
    microseconds = (time.process_time() - started) / count * 1e6
    print(f"{microseconds:.0f} µs a clip")
    assert microseconds < 1500  # ten times what it is: this finds what grows with the square


@pytest.mark.usefixtures("stubs")
def test_a_kill_at_any_of_ten_places_loses_nothing(run: Embed, clips: Path, tmp_path: Path) -> None:
    inputs, whole, out = listed(clips, tmp_path, 100), tmp_path / "whole.npy", tmp_path / "feats.npy"
    with faults(-1, die) as counted:
        run(whole, inputs)
    for at in np.linspace(1, counted.count, 10).astype(int).tolist():
        child = os.fork()
        if child == 0:
            try:
                with faults(at, die):
                    run(out, inputs)
            finally:
                os._exit(1)  # and never run the tests that follow
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert run(out, inputs).rows == 100
        assert contents(out) == contents(whole)
        for path in tmp_path.glob("feats.*"):
            path.unlink()
