"""Measure which threshold tells copies of clips from other clips.

    python tests/benchmarks/duplicate_threshold.py [CLIPS] [--model vjepa-tiny] [--count 200]

Copies of every clip are made: re-encoded at a low quality, scaled to half its size, cropped to 90 and to 75 % of each
side, brightened, from 0.3 and 1 second later on, and mirrored. The mean is that of clips and copies. A pair of a clip
and its own copy is right, but for the mirrored one, whose motion is another; a pair of a clip with another, or with a
copy of another, is wrong. CLIPS is a directory; without it, 200 clips of moving shapes are rendered.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import av
import numpy as np

from vjepa_sdk import VJEPA, find_clips, read_video
from vjepa_sdk.config.choices import Metric
from vjepa_sdk.downstream.nearest import mean_of, unit

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from render_clips import DIRECTIONS, render_clip, render_pan, write_video

FPS = 15
THRESHOLDS = (0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.99)


def cropped(share: float) -> Callable[[np.ndarray], np.ndarray]:
    def crop(frames: np.ndarray) -> np.ndarray:
        height, width = (2 * round(share * side / 2) for side in frames.shape[1:3])
        top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
        return frames[:, top : top + height, left : left + width]

    return crop


CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "re-encoded": (lambda frames: frames, 35),
    "half size": (lambda frames: frames[:, ::2, ::2], 26),
    "cropped to 90 %": (cropped(0.9), 26),
    "cropped to 75 %": (cropped(0.75), 26),
    "brightened": (lambda frames: np.clip(frames * 1.2 + 10, 0, 255).astype(np.uint8), 26),
    "0.3 s later": (lambda frames: frames[round(0.3 * FPS) :], 26),
    "1 s later": (lambda frames: frames[FPS:], 26),
    "mirrored": (lambda frames: frames[:, :, ::-1], 26),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="?", type=Path)
    parser.add_argument("--model", default="vjepa-tiny")
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    model = VJEPA.from_pretrained(arguments.model)
    with tempfile.TemporaryDirectory() as place:
        clips = arguments.clips or rendered(Path(place) / "clips", arguments.count)
        paths = [clip.path for clip in find_clips(clips).clips("frames")]
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), arguments.count)).astype(int)]
        originals, copies = encoded(model, paths, Path(place))
    for metric in get_args(Metric):
        report(originals, copies, metric)


def rendered(place: Path, count: int) -> Path:
    place.mkdir()
    names = list(DIRECTIONS)
    for seed in range(count):
        render = (render_clip, render_pan)[seed % 2]
        frames = render(names[seed // 2 % len(names)], seed=50_000 + seed, num_frames=45)
        write_video(place / f"{seed:04d}.mp4", frames)
    return place


def encoded(model: VJEPA, paths: list[str], place: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return features of clips `[n, D]`, and of their copies by change."""
    copies: dict[str, list[np.ndarray]] = {name: [] for name in CHANGES}
    for path in paths:
        with av.open(path) as container:
            num_frames = sum(1 for _ in container.decode(video=0))
        frames = read_video(path, np.arange(num_frames))
        frames = frames[:, : frames.shape[1] // 4 * 4, : frames.shape[2] // 4 * 4]
        for name, (change, crf) in CHANGES.items():
            write(place / "copy.mp4", change(frames), crf=crf)
            copies[name].append(model.encode(place / "copy.mp4"))
    return model.encode(paths, show_progress_bar=False), {name: np.stack(rows) for name, rows in copies.items()}


def write(path: Path, frames: np.ndarray, *, crf: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def report(originals: np.ndarray, copies: dict[str, np.ndarray], metric: Metric) -> None:
    mean = mean_of(np.concatenate([originals, *copies.values()]), metric)
    clips = unit(originals, mean=mean, name="row")
    others = {name: unit(made, mean=mean, name="row") for name, made in copies.items()}
    own = {name: (made * clips).sum(axis=1) for name, made in others.items()}
    apart = ~np.eye(len(clips), dtype=bool)
    wrong = np.concatenate([(clips @ clips.T)[np.triu(apart)], *((clips @ made.T)[apart] for made in others.values())])
    right = np.concatenate([scores for name, scores in own.items() if name != "mirrored"])  # another motion, not a copy
    found, mistaken = ([np.count_nonzero(scores >= t) for t in THRESHOLDS] for scores in (right, wrong))
    print(f"\n{metric}: share of copies found, and of {len(wrong):,} pairs of different clips those taken for copies")
    lines = {
        "threshold": [f"{t:g}" for t in THRESHOLDS],
        **{name: [f"{np.mean(scores >= t):.2f}" for t in THRESHOLDS] for name, scores in own.items()},
        "different": [str(count) for count in mistaken],
        "precision": [f"{a / (a + b):.3f}" if a else "-" for a, b in zip(found, mistaken, strict=True)],
        "recall": [f"{count / len(right):.3f}" for count in found],
    }
    for name, cells in lines.items():
        print(f"{name:>16} " + " ".join(f"{cell:>6}" for cell in cells))


if __name__ == "__main__":
    main()
