"""Archives with many bad files, and many rows: everything bad is listed, nothing good changes, nothing grows."""

from __future__ import annotations

import os
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import lines
from media import write_audio, write_video
from PIL import Image

from vjepa_sdk import VJEPA
from vjepa_sdk.cli import app, exit_codes
from vjepa_sdk.inference.embed.job import embed_files


def _middle(data: bytes, replacement: Callable[[int], bytes]) -> bytes:
    """Replace the pictures but the first and last few bytes of them."""
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    first, last = start + size // 4, start + size
    return data[:first] + replacement(last - first) + data[last:]


DAMAGE: dict[str, tuple[Callable[[bytes, Path], bytes], str]] = {
    "empty": (lambda data, parts: b"", r"is empty \(0 bytes\)"),
    "text": (lambda data, parts: b"not a video\n" * 40, "is not a video of a known format"),
    "html": (lambda data, parts: b"<!DOCTYPE html><h1>404</h1>", "is an XML or HTML document, not a video"),
    "playlist": (lambda data, parts: b"#EXTM3U\nother.mp4\n", "is an HLS playlist, not a video"),
    "image": (lambda data, parts: (parts / "still.png").read_bytes(), "is a PNG image, not a video"),
    "audio": (lambda data, parts: (parts / "sound.mp4").read_bytes(), "has no video stream, it holds audio only"),
    "cut": (lambda data, parts: data[: len(data) // 2], "is truncated or corrupt"),
    "no index": (lambda data, parts: data.replace(data[data.index(b"moov") :], b"moov"), "has no video stream"),
    "zeros": (lambda data, parts: _middle(data, bytes), "truncated or corrupt|no frame that can"),
    "noise": (lambda data, parts: _middle(data, random.Random(0).randbytes), "truncated or corrupt|no frame that"),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten distinct videos, and what takes the place of some."""
    directory = tmp_path_factory.mktemp("parts")
    for number in range(10):
        write_video(directory / f"{number}.mp4", num_frames=12 + number)
    Image.new("RGB", (64, 48)).save(directory / "still.png")
    write_audio(directory / "sound.mp4")
    return directory


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["vjepa", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        app.main()
    return int(exit_.value.code or 0)


@pytest.mark.parametrize(
    ("num_clips", "num_bad", "num_workers"), [(60, 10, 0), pytest.param(1000, 100, 2, marks=pytest.mark.soak)]
)
def test_bad_clips_are_all_listed_and_change_no_other_row(
    parts: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_clips: int,
    num_bad: int,
    num_workers: int,
) -> None:
    (directory := tmp_path / "archive").mkdir()
    names = [f"{number:04d}.mp4" for number in range(num_clips)]
    for number, name in enumerate(names):
        shutil.copy(parts / f"{number % 10}.mp4", directory / name)
    options = ("--model", model, "--num-workers", str(num_workers), "-q")
    assert run(monkeypatch, "embed", directory, "--out", tmp_path / "clean.npy", *options) == exit_codes.COMPLETE
    kinds = list(DAMAGE)
    bad = dict(zip(random.Random(0).sample(names, num_bad), kinds * num_bad, strict=False))
    for name, kind in bad.items():
        path = directory / name
        path.write_bytes(DAMAGE[kind][0](path.read_bytes(), parts))
    out = tmp_path / "feats.npy"
    assert run(monkeypatch, "embed", directory, "--out", out, *options) == exit_codes.SOME_SKIPPED
    failures = {Path(line["path"]).name: line["reason"] for line in lines(out, "errors.jsonl")}
    assert failures.keys() == bad.keys()
    for name, kind in bad.items():
        assert re.search(DAMAGE[kind][1], failures[name]), (kind, failures[name])
    good = [number for number, name in enumerate(names) if name not in bad]
    assert np.load(out).tobytes() == np.load(tmp_path / "clean.npy")[good].tobytes()
    assert [Path(line["path"]).name for line in lines(out, "index.jsonl")] == [names[number] for number in good]
    code = run(monkeypatch, "embed", directory, "--out", tmp_path / "few.npy", "--max-failures", "5%", *options)
    assert code == exit_codes.FAILED
    assert run(monkeypatch, "check", directory, "--num-workers", str(num_workers), "-q") == exit_codes.SOME_SKIPPED


class Usage:
    """Measure this process while it works."""

    def __init__(self) -> None:
        self.rows, self.megabytes, self.descriptors, self.shared = [], [], [], []

    def measure(self, rows: int) -> None:
        self.rows.append(rows)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.megabytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        self.descriptors.append(len(os.listdir("/proc/self/fd")))
        # only what this process has mapped: others use shared memory as well
        self.shared.append(Path("/proc/self/maps").read_text().count("/dev/shm/"))

    def slope(self) -> float:
        """Return the megabytes that every thousand rows cost, once warm."""
        warm = len(self.rows) // 3
        return float(np.polyfit(self.rows[warm:], self.megabytes[warm:], 1)[0]) * 1000


@pytest.mark.parametrize("rows_are", ["parts", "windows"])
@pytest.mark.parametrize(
    ("num_rows", "num_workers", "limit"),
    # a few rows are measured roughly; that finds frames which are kept, 230 MB for a thousand rows
    [(800, 0, 40.0), pytest.param(10_000, 2, 1.0, marks=pytest.mark.soak)],
)
def test_memory_descriptors_and_shared_memory_do_not_grow(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_rows: int,
    num_workers: int,
    limit: float,
    rows_are: str,
) -> None:
    each = num_rows // 50
    starts = [part / each for part in range(each)]
    with open(tmp_path / "clips.csv", "w") as manifest:
        manifest.write("path,start_seconds,end_seconds\n")
        for number in range(50):
            write_video(tmp_path / f"{number}.mp4", num_frames=20, width=160, height=120)
            parts = [(start, start + 0.5) for start in starts] if rows_are == "parts" else [("", "")]
            manifest.writelines(f"{number}.mp4,{start},{end}\n" for start, end in parts)
    options = {"window_seconds": 0.5, "stride_seconds": 1.5 / (each - 1), "tail": "drop"}
    usage, rows = Usage(), 0

    def stub(self: VJEPA, batch: torch.Tensor, *, pooling: str, layers: object) -> torch.Tensor:
        nonlocal rows
        rows += len(batch)
        if rows % 40 == 0:
            usage.measure(rows)
        return batch.float().mean(dim=(1, 2, 3, 4))[:, None].expand(-1, 24)

    monkeypatch.setattr(VJEPA, "embed_clips", stub)
    result = embed_files(
        tmp_path / "clips.csv",
        tmp_path / "feats.npy",
        model=model,
        num_workers=num_workers,
        **(options if rows_are == "windows" else {}),
    )
    assert (result.rows, result.failed) == (num_rows, 0)
    print(f"{usage.slope():.2f} MB per 1,000 rows, {result.rows / result.seconds:.0f} rows/s")
    assert usage.slope() < limit
    warm = len(usage.rows) // 3
    assert max(usage.descriptors[warm:]) - min(usage.descriptors[warm:]) <= 2 * num_workers  # while one is replaced
    assert set(usage.shared) == {usage.shared[0]}
