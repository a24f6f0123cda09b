"""Damage videos as disks and networks do, read them, and count the frames that are wrong without a word.

Run as `python silent_damage.py --mutants 1000` for the table of docs/damaged-files.md, on scenes that it renders; with
`--clips DIRECTORY` on scenes from videos of yours, and `--healthy DIRECTORY ...` to count good files that are refused.
"""

from __future__ import annotations

import argparse
import functools
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from vjepa_sdk.config.choices import Decoder
from vjepa_sdk.corpus.check import check_files
from vjepa_sdk.runtime.workers.pool import WorkerPool
from vjepa_sdk.runtime.workers.wire import WorkerResult
from vjepa_sdk.video.reader import read_video

BLOCK_SIZES = (16, 64, 256, 512, 1024, 4096)


@dataclass(frozen=True)
class Format:
    """A codec in a container."""

    codec: str
    suffix: str
    options: dict[str, str] = field(default_factory=dict)
    pixel_format: str = "yuv420p"
    fps: int = 15

    def write(self, path: Path, frames: Sequence[np.ndarray]) -> Path:
        """Encode frames `uint8 [H, W, 3]`, a key frame every 24."""
        with av.open(str(path), "w") as container:
            stream = container.add_stream(self.codec, rate=self.fps, options=self.options)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt, stream.gop_size = self.pixel_format, 24
            stream.codec_context.thread_count = 1
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        return path


_X265 = {"x265-params": "log-level=error:pools=none"}
_VPX = {"deadline": "realtime", "cpu-used": "8", "b": "400k"}
_SVT = {"preset": "11", "svtav1-params": "lp=1", "crf": "35"}
FORMATS = {
    "H.264, MP4": Format("libx264", ".mp4"),
    "H.264, Matroska": Format("libx264", ".mkv"),
    "H.264, MPEG-TS": Format("libx264", ".ts"),
    "HEVC, MP4": Format("libx265", ".mp4", _X265),
    "HEVC, Matroska": Format("libx265", ".mkv", _X265),
    "VP9, MP4": Format("libvpx-vp9", ".mp4", _VPX),
    "VP9, WebM": Format("libvpx-vp9", ".webm", _VPX),
    "VP8, WebM": Format("libvpx", ".webm", _VPX),
    "AV1, MP4": Format("libsvtav1", ".mp4", _SVT),
    "AV1, WebM": Format("libsvtav1", ".webm", _SVT),
    "MPEG-4, MP4": Format("mpeg4", ".mp4", {"b": "600k"}),
    "MPEG-4, AVI": Format("mpeg4", ".avi", {"b": "600k"}),
    "MPEG-2, MPEG-PS": Format("mpeg2video", ".mpg", {"b": "800k"}, fps=25),
    "MJPEG, MOV": Format("mjpeg", ".mov", {"b": "2M"}, "yuvj420p"),
}


def scene(seed: int, *, num_frames: int = 40, width: int = 160, height: int = 120) -> list[np.ndarray]:
    """Draw what cameras see: a textured background that pans, something that moves before it, and grain."""
    chance = np.random.default_rng(seed)
    background, thing = _texture(chance, 2 * height, 2 * width), _texture(chance, height // 3, width // 4)
    way = chance.uniform(-1.5, 1.5, 2)
    frames = []
    for number in range(num_frames):
        top, left = (np.array([height, width]) / 2 + number * way).astype(int) % [height, width]
        image = background[top : top + height, left : left + width].copy()
        y, x = int((height - 40) * (0.5 + 0.5 * np.sin(number / 9 + seed))), int((width - 40) * (number % 30) / 30)
        image[y : y + thing.shape[0], x : x + thing.shape[1]] = thing
        frames.append((image + chance.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8))
    return frames


def _texture(chance: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return noise whose power falls as in photographs, float `[height, width, 3]`."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")) + 0.01
    spectrum = np.fft.rfft2(chance.normal(size=(3, height, width))) / frequency
    noise = np.fft.irfft2(spectrum, s=(height, width))
    return np.moveaxis(128 + 50 * noise / noise.std(), 0, 2)


def _zeros(data: bytearray, chance: random.Random) -> None:
    start, end = _block(data, chance)
    data[start:end] = bytes(end - start)


def _ones(data: bytearray, chance: random.Random) -> None:
    start, end = _block(data, chance)
    data[start:end] = b"\xff" * (end - start)


def _lost(data: bytearray, chance: random.Random) -> None:
    start, end = _block(data, chance)
    del data[start : len(data) if chance.random() < 0.5 else end]


def _stray(data: bytearray, chance: random.Random) -> None:
    start, end = _block(data, chance)
    source = chance.randrange(len(data) - (end - start) + 1)
    data[start:end] = chance.randbytes(end - start) if chance.random() < 0.5 else data[source : source + end - start]


def _flip(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at] ^= 1 << chance.randrange(8) if chance.random() < 0.5 else chance.randrange(1, 256)


def _block(data: bytearray, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(data))
    return start, min(len(data), start + chance.choice(BLOCK_SIZES))


DAMAGES: dict[str, Callable[[bytearray, random.Random], None]] = {
    "zeros": _zeros,
    "ones": _ones,
    "lost": _lost,
    "stray": _stray,
    "flip": _flip,
}


@dataclass(frozen=True)
class Mutant:
    """A damaged copy of a video."""

    path: Path
    original: Path
    damage: str


@dataclass(frozen=True)
class Outcome:
    """What reading a mutant gave."""

    damage: str
    is_refused: bool
    wrong_frames: int
    """That differ from the original's, or are missing, without an error."""
    levels: int
    """By how many grey levels at most."""


@dataclass(frozen=True)
class _Compare:
    """Read a mutant and its original; runs in the decoding processes, which a mutant may crash."""

    decoder: Decoder

    def __call__(self, mutant: Mutant) -> WorkerResult:
        expected = _frames(mutant.original, self.decoder)
        frames = read_video(mutant.path, decoder=self.decoder)
        if frames.shape[1:] != expected.shape[1:]:
            return np.array([len(expected), 255]), {}
        shown = min(len(frames), len(expected))
        difference = np.abs(frames[:shown].astype(np.int16) - expected[:shown]).max(axis=(1, 2, 3), initial=0)
        missing = abs(len(frames) - len(expected))
        return np.array([int((difference > 0).sum()) + missing, int(difference.max(initial=0))]), {}


@functools.lru_cache(maxsize=8)
def _frames(path: Path, decoder: Decoder) -> np.ndarray:
    return read_video(path, decoder=decoder)


def measure(originals: Sequence[Path], *, count: int, seed: int, decoder: Decoder = "pyav") -> list[Outcome]:
    """Read `count` mutants of these videos, equally many of each kind of damage."""
    outcomes = []
    with (
        tempfile.TemporaryDirectory() as directory,
        WorkerPool(_Compare(decoder), num_workers=1, deadline_seconds=60.0) as pool,
    ):
        for result in pool.map(_mutants(originals, count, seed, Path(directory)), prefetch=4):
            wrong, levels = (0, 0) if result.array is None else result.array.tolist()
            outcomes.append(Outcome(result.request.damage, result.array is None, wrong, levels))
            result.request.path.unlink()
    return outcomes


def _mutants(originals: Sequence[Path], count: int, seed: int, directory: Path) -> Iterator[Mutant]:
    chance, damages = random.Random(seed), list(DAMAGES)
    for number in range(count):
        original, damage = chance.choice(originals), damages[number % len(damages)]
        data = bytearray(original.read_bytes())
        DAMAGES[damage](data, chance)
        path = directory / f"{number}{original.suffix}"
        path.write_bytes(data)
        yield Mutant(path, original, damage)


def silent_share(outcomes: Sequence[Outcome], damage: str | None = None) -> float:
    """Return which share of the mutants, or of those with one kind of damage, was read with wrong frames."""
    counted = [outcome for outcome in outcomes if damage in (None, outcome.damage)]
    return sum(outcome.wrong_frames > 0 for outcome in counted) / len(counted)


def write_scenes(form: Format, directory: Path, scenes: Sequence[Sequence[np.ndarray]]) -> list[Path]:
    """Encode scenes in one format."""
    name = f"{form.codec}{form.suffix}"
    return [form.write(directory / f"{number}_{name}", frames) for number, frames in enumerate(scenes)]


def main() -> None:
    """Print the table in Markdown, and how many good files are refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=1000, help="of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder", choices=["pyav", "decord"], default="pyav")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), help=", ".join(FORMATS))
    parser.add_argument("--clips", type=Path, help="directory of videos to take scenes from")
    parser.add_argument("--healthy", type=Path, nargs="*", default=[], help="directories of good videos")
    given = parser.parse_args()
    scenes = [scene(number) for number in range(6)] if given.clips is None else _scenes_of(given.clips, given.seed)
    print("| codec, container | silently wrong | " + " | ".join(DAMAGES) + " | worst |\n" + "|---" * 8 + "|")
    for name in given.formats:
        with tempfile.TemporaryDirectory() as directory:
            originals = write_scenes(FORMATS[name], Path(directory), scenes)
            outcomes = measure(originals, count=given.mutants, seed=given.seed, decoder=given.decoder)
        shares = [f"{100 * silent_share(outcomes, damage):.1f} %" for damage in (None, *DAMAGES)]
        worst = max(outcome.levels for outcome in outcomes)
        print(f"| {name} | {' | '.join(shares)} | {worst} |", flush=True)
    if given.healthy:
        checked = check_files(given.healthy, full=True, decoder=given.decoder)
        bad = [file for file in checked if not file.is_good]
        print(
            f"{len(bad)} of {len(checked)} good files refused",
            *(f"{file.path}: {file.reason}" for file in bad),
            sep="\n",
        )


def _scenes_of(directory: Path, seed: int) -> list[np.ndarray]:
    """Return the first frames of some videos, with sides that every codec takes."""
    paths = random.Random(seed).sample(sorted(path for path in directory.iterdir() if path.is_file()), 12)
    scenes = [read_video(path)[:60] for path in paths]
    return [frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2] for frames in scenes]


if __name__ == "__main__":
    import silent_damage  # under its own name, since the decoding processes import it

    silent_damage.main()
