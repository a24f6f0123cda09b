"""Render clips of moving shapes: the same bytes of pixels on every machine, for examples and probes.

    python examples/render_clips.py examples/clips
    python examples/render_clips.py views --views 96
    python examples/render_clips.py scenes --jump

The first writes a dozen small videos of a shape that moves, and `labels.csv` with its direction; the second clips in
which all of the view moves, in a directory for each direction; the third `jump.mp4`, where a square that moves to the
right jumps after two seconds.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import av
import numpy as np

DIRECTIONS = {
    "right": (0, 1),
    "down-right": (1, 1),
    "down": (1, 0),
    "down-left": (1, -1),
    "left": (0, -1),
    "up-left": (-1, -1),
    "up": (-1, 0),
    "up-right": (-1, 1),
}
SHAPES = ("disc", "square", "ring")


def render_clip(direction: str, *, seed: int, num_frames: int = 16, size: int = 96) -> np.ndarray:
    """Render one textured shape that crosses a textured, still background.

    Args:
        direction: a key of `DIRECTIONS`.
        seed: decides shape, colours, textures, place and speed; never the direction.
        num_frames: frames of the clip.
        size: height and width in pixels.

    Returns:
        uint8 [num_frames, size, size, 3].
    """
    rng = np.random.default_rng(seed)
    background = _texture(rng, size)
    sprite = (_texture(rng, 2 * size // 5) * 0.6 + rng.uniform(0, 255, 3) * 0.4).astype(np.float32)
    shape = _shape(SHAPES[rng.integers(len(SHAPES))], len(sprite))[..., None]
    frames = []
    for place in _path(direction, rng, num_frames, size):
        frame = background.copy()
        # where the shape is in the middle of its path says nothing about where it goes
        top, left = np.rint(size / 2 + place - len(sprite) / 2).astype(int)
        rows = slice(max(top, 0), min(top + len(sprite), size))
        columns = slice(max(left, 0), min(left + len(sprite), size))
        inside = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        frame[rows, columns] = np.where(shape[inside], sprite[inside], frame[rows, columns])
        frames.append(frame)
    return np.stack(frames).round().astype(np.uint8)


def render_pan(direction: str, *, seed: int, num_frames: int = 16, size: int = 96) -> np.ndarray:
    """Render a textured plane that moves as a whole, as when a camera pans; arguments as for `render_clip`."""
    rng = np.random.default_rng(seed)
    margin = size // 2
    plane = _texture(rng, size + 2 * margin)
    frames = []
    for place in _path(direction, rng, num_frames, size):
        top, left = np.rint(margin - place).astype(int)  # the view moves against the plane
        frames.append(plane[top : top + size, left : left + size])
    return np.stack(frames).round().astype(np.uint8)


def render_jump(*, num_frames: int = 48, size: int = 96) -> np.ndarray:
    """Render an orange square that moves to the right, a pixel a frame, and jumps down by 40 pixels in frame 30."""
    frames = np.full((num_frames, size, size, 3), 90, np.uint8)
    for number, frame in enumerate(frames):
        top = 10 if number < 30 else 50
        frame[top : top + 36, number : number + 36] = (240, 120, 40)
    return frames


def _path(direction: str, rng: np.random.Generator, num_frames: int, size: int) -> np.ndarray:
    """Return where something is in each frame, in pixels from the centre, [num_frames, 2] as (down, right).

    The way is a fifth to three fifths of the frame long, and stays within half a frame of the centre.
    """
    middle, travel = rng.uniform(-size / 6, size / 6, 2), size * rng.uniform(0.2, 0.6)
    return middle + np.array(DIRECTIONS[direction]) * travel * np.linspace(-0.5, 0.5, num_frames)[:, None]


def write_video(path: Path, frames: np.ndarray, *, fps: int = 15) -> None:
    """Encode frames as H.264, without anything that depends on the machine."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        options = {"crf": "26", "preset": "slow", "threads": "1", "x264-params": "threads=1"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return random colours, coarse and fine, float32 [size, size, 3] in 0..255."""
    octaves = [share * _noise(rng, size, cell=cell) for share, cell in ((0.5, 24), (0.3, 10), (0.2, 4))]
    return np.sum(octaves, axis=0)


def _noise(rng: np.random.Generator, size: int, *, cell: int) -> np.ndarray:
    cells = size // cell + 1
    coarse = rng.uniform(0, 255, (cells + 1, cells + 1, 3))
    places = np.arange(size) / cell
    low, part = places.astype(int), (places % 1.0)[:, None]
    rows = coarse[low] * (1 - part[..., None]) + coarse[low + 1] * part[..., None]
    both = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return both.astype(np.float32)


def _shape(name: str, size: int) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(rows, columns)
    if name == "square":
        return np.ones((size, size), bool)
    return radius < size / 2 if name == "disc" else (radius < size / 2) & (radius > size / 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=Path("examples/clips"), help="directory to write to")
    parser.add_argument("--views", type=int, metavar="N", help="instead: N clips of a moving view, by direction")
    parser.add_argument("--jump", action="store_true", help="instead: jump.mp4, of a square that jumps")
    arguments = parser.parse_args()
    if arguments.jump:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_video(arguments.out / "jump.mp4", render_jump())
        print(f"{arguments.out}: jump.mp4, 48 frames")
    elif arguments.views is None:
        _write_shapes(arguments.out)
    else:
        _write_views(arguments.out, arguments.views)


def _write_shapes(out: Path) -> None:
    """Write a dozen clips, each direction at least once, and their labels."""
    out.mkdir(parents=True, exist_ok=True)
    names = list(DIRECTIONS)
    with open(out / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label"))
        for number in range(12):
            direction = names[number % len(names)]
            name = f"{number:02d}_{direction}.mp4"
            write_video(out / name, render_clip(direction, seed=1000 + number, num_frames=24))
            writer.writerow((name, direction))
    print(f"{out}: 12 clips")


def _write_views(out: Path, count: int) -> None:
    """Write clips in which all of the view moves, into a directory for each direction."""
    names = list(DIRECTIONS)
    for number in range(count):
        direction = names[number % len(names)]
        (out / direction).mkdir(parents=True, exist_ok=True)
        write_video(out / direction / f"{number:04d}.mp4", render_pan(direction, seed=2000 + number))
    print(f"{out}: {count} clips in {min(count, len(names))} directories")


if __name__ == "__main__":
    main()
