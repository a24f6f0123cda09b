"""Decode the clips of a run once: small frames in one file, which every run over the same files reads.

CACHE/4f1c09a7d2b83e55/   named after the files and settings
  lock                    held while somebody decodes
  frames.u8               frames `uint8 [h, w, 3]`, one clip after the other
  index.json              where each clip's frames lie; written last, so a directory without it does not count
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...config.documents import read_json
from ...config.training import DataConfig
from ...corpus.lists import whole
from ...corpus.snapshot import describe_clips
from ...errors import ConfigError, OutputError, VideoDecodeError
from ...runtime.files import atomic_path, digest_of, disk_errors, sha256_of, write_json
from ...runtime.lock import Lock, check_lock
from ...runtime.ownership import check_place, is_file_here
from ...runtime.progress import progress_bar
from ...runtime.workers.pool import WorkerPool
from ...video.images import read_image
from ...video.inputs import is_image
from ...video.reader import open_video
from ...video.resize import resize
from ...video.sampling import frames_at
from ...video.transforms import as_frames

logger = logging.getLogger(__name__)

_FORMAT = 1
_GROUP = 64
"""Frames that are made small together."""
_FRAMES, _INDEX = "frames.u8", "index.json"


@dataclass(frozen=True, kw_only=True)
class CachedClip:
    """Where the frames of one clip lie."""

    offset: int = 0
    """Bytes before its first frame."""
    num_frames: int = 0
    height: int = 0
    width: int = 0
    fps: float = 0.0
    """Of the frames that are kept; 0 for a still."""
    error: str | None = None
    """Why it could not be decoded."""


@dataclass(frozen=True)
class FrameCache:
    """Decoded, small frames of many clips; small enough to send to the processes that cut them."""

    path: Path
    clips: dict[str, CachedClip]

    def read(self, path: str) -> tuple[np.ndarray, float]:
        """Return the frames of a clip, `uint8 [N, h, w, 3]`, read from disk as they are looked at, and their rate.

        Raises:
            VideoDecodeError: it could not be decoded.
        """
        clip = self.clips[path]
        if clip.error is not None:
            raise VideoDecodeError(clip.error)
        shape = (clip.num_frames, clip.height, clip.width, 3)
        size = clip.num_frames * clip.height * clip.width * 3
        return self._bytes[clip.offset : clip.offset + size].reshape(shape), clip.fps

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.memmap(self.path, np.uint8, "r")

    def __reduce__(self) -> tuple[type[FrameCache], tuple[Path, dict[str, CachedClip]]]:
        return FrameCache, (self.path, self.clips)  # each process maps the file itself


@dataclass(frozen=True)
class FrameShrinker:
    """Decode a clip into small frames, in groups; runs in the decoding processes."""

    short_side: int
    fps: float | None
    decoder: str

    def __call__(self, path: str) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        """Yield frames `uint8 [K, h, w, 3]` with the rate of those that are kept."""
        if is_image(path):
            yield self._small([read_image(path)]), {"fps": 0.0}
            return
        with open_video(path, decoder=self.decoder) as reader:  # type: ignore[arg-type]
            indices, fps = np.arange(len(reader)), reader.info.fps
            if self.fps is not None and self.fps < fps:
                count = max(1, int(reader.info.duration_seconds * self.fps))
                moments = reader.timestamps[0] + np.arange(count) / self.fps
                indices, fps = np.unique(frames_at(reader.timestamps, moments)), self.fps
            group: list[np.ndarray] = []
            for frame in reader.iter_frames(indices):
                group.append(frame)
                if len(group) == _GROUP:
                    yield self._small(group), {"fps": fps}
                    group = []
            if group:
                yield self._small(group), {"fps": fps}

    def _small(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        pixels = as_frames(frames)
        side = min(pixels.shape[-2:])
        if side > self.short_side:
            size = [max(1, round(length * self.short_side / side)) for length in pixels.shape[-2:]]
            pixels = resize(pixels, size, antialias=True)
        return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def open_cache(config: DataConfig, paths: Sequence[str], *, show_progress_bar: bool | None = None) -> FrameCache:
    """Return the cache of some clips, after decoding them if it is not there, or if files have changed since.

    Args:
        config: `cache` names the directory; `cache_short_side`, `cache_fps` and `cache_gigabytes` say what is kept.

    Raises:
        ConfigError: `config.cache` is not set, or the frames would take more than `cache_gigabytes`.
        InUseError: another process is decoding the same clips.
        OutputError: something else is in the place of the cache, or in it under one of its names.
        WriteError: the disk is full.
    """
    if config.cache is None:
        raise ConfigError("data.cache is not set; pass a directory")
    paths = sorted(set(paths))
    kept = {
        "format": _FORMAT,
        "short_side": config.cache_short_side,
        "fps": config.cache_fps,
        "decoder": config.decoder,
    }
    place = Path(config.cache) / digest_of([kept, [os.path.abspath(path) for path in paths]])[:16]
    files = _digest_of_files(paths)
    found = _read(place, files, paths)
    if found is None:
        with disk_errors(place):
            _check_place(place)
            place.mkdir(parents=True, exist_ok=True)
            with Lock(place / "lock"):
                # whoever held the lock may have made it
                found = _read(place, files, paths) or _build(config, place, files, paths, show_progress_bar)
    size = found.path.stat().st_size
    frames = sum(clip.num_frames for clip in found.clips.values())
    logger.info(
        "cache: %s frames of %s clips, short side %d px, %s, %.2f GB in %s",
        f"{frames:,}", f"{len(paths):,}", config.cache_short_side,
        "all frames" if config.cache_fps is None else f"{config.cache_fps:g} frames/s", size / 1e9, place,
    )  # fmt: skip
    return found


def _check_place(place: Path) -> None:
    """Raise OutputError if the cache's files would replace others: from its first moment on it holds a lock."""
    check_place(place)
    is_ours = place.is_dir() and check_lock(place / "lock")
    for path in (place / _FRAMES, place / _INDEX):
        if os.path.lexists(path) and not (is_ours and is_file_here(path)):
            raise OutputError(f"{path}: is no file of a cache; move it away, or choose another data.cache")


def _digest_of_files(paths: Sequence[str]) -> str:
    """Return the sha256 over size, time and edges of all files."""
    digest = hashlib.sha256()
    for clip in describe_clips(map(whole, paths)):
        digest.update(f"{clip.size} {clip.mtime_ns} {clip.edges_sha256}\n".encode())
    return digest.hexdigest()


def _read(place: Path, files: str, paths: Sequence[str]) -> FrameCache | None:
    """Return a complete cache of these files; None if there is none, or it is not what its index says."""
    if not (place / _INDEX).is_file():
        return None
    index = read_index(place / _INDEX)
    if index is None or index["files"] != files:
        logger.warning("%s: files have changed since they were decoded; decoding them again", place)
        return None
    frames = place / _FRAMES
    if not frames.is_file() or frames.stat().st_size != index["bytes"] or sha256_of(frames) != index["sha256"]:
        logger.warning("%s: is damaged; decoding the clips again", frames)
        return None
    return FrameCache(frames, dict(zip(paths, (CachedClip(**clip) for clip in index["clips"]), strict=True)))


def read_index(path: Path) -> dict[str, Any] | None:
    """Return the index of a cache, None if it is damaged."""
    try:
        index = read_json(path, max_bytes=1 << 30)
    except ConfigError:
        return None
    return index if index.keys() == {"files", "bytes", "sha256", "clips"} else None


def _build(
    config: DataConfig, place: Path, files: str, paths: Sequence[str], show_progress_bar: bool | None
) -> FrameCache:
    (place / _INDEX).unlink(missing_ok=True)
    with atomic_path(place / _FRAMES) as temporary, open(temporary, "xb") as file:
        clips = _decode(config, file, paths, show_progress_bar)
    frames = place / _FRAMES
    index = {
        "files": files,
        "bytes": frames.stat().st_size,
        "sha256": sha256_of(frames),
        "clips": [asdict(clips[path]) for path in paths],
    }
    write_json(place / _INDEX, index)
    return FrameCache(frames, clips)


def _decode(
    config: DataConfig, file: IO[bytes], paths: Sequence[str], show_progress_bar: bool | None
) -> dict[str, CachedClip]:
    """Write the frames of all clips one after the other."""
    shrink = FrameShrinker(config.cache_short_side, config.cache_fps, config.decoder)
    clips: dict[str, CachedClip] = {}
    budget, offset = config.cache_gigabytes * 1e9, 0
    with (
        WorkerPool(
            shrink, num_workers=config.num_workers, deadline_seconds=config.deadline_seconds, crash_retries=1
        ) as pool,
        progress_bar("cache", total=len(paths), show=show_progress_bar, unit="clip") as bar,
    ):
        parts: list[tuple[int, ...]] = []
        for result in pool.map(paths, prefetch=config.prefetch):
            if result.array is not None:
                file.write(result.array.tobytes())
                parts.append(result.array.shape)
                fps = float(result.info["fps"])
                if file.tell() > budget:
                    raise ConfigError(_too_large(config, file.tell(), done=len(clips), total=len(paths)))
            if result.is_last:
                clips[result.request] = _clip(offset, parts, fps if parts else 0.0, result.error)
                parts, offset = [], file.tell()
                bar.advance()
    return clips


def _clip(offset: int, parts: Sequence[tuple[int, ...]], fps: float, error: str | None) -> CachedClip:
    if error is not None or not parts:
        return CachedClip(error=error or "holds no frame")
    if any(first[1:] != second[1:] for first, second in pairwise(parts)):
        return CachedClip(error="its frames change their size")
    return CachedClip(
        offset=offset, num_frames=sum(part[0] for part in parts), height=parts[0][1], width=parts[0][2], fps=fps
    )


def _too_large(config: DataConfig, size: int, *, done: int, total: int) -> str:
    expected = size / max(done, 1) * total / 1e9
    side = max(16, int(config.cache_short_side * (config.cache_gigabytes / expected) ** 0.5))
    return (
        f"cache_gigabytes={config.cache_gigabytes:g} is too little for {total:,} clips of short side "
        f"{config.cache_short_side} px, which take about {expected:.3g}; raise it, or pass cache_short_side={side}"
    )
