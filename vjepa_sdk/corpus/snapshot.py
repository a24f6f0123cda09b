"""Say which clips a corpus job works on, and what changed since its plan was frozen."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError
from ..video.images import list_frame_directory
from .lists import ClipSource

_EDGE_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip of a job, and what its file looked like when the plan was frozen."""

    id: str
    path: str
    start_seconds: float | None
    """Where the part of the video starts that was asked for; None: at its start."""
    end_seconds: float | None
    size: int
    """Of the file, or of all files of a frame directory, in bytes."""
    mtime_ns: int
    edges_sha256: str
    """Over the first and last 64 KiB of a file, over names, sizes and times of frames; empty if it cannot be read."""


def describe_clips(sources: Iterable[ClipSource]) -> list[Clip]:
    """Look at files without decoding them; one that cannot be read is described as empty, decoding tells why."""
    looks: dict[str, tuple[int, int, str]] = {}  # many parts may share a file
    clips = []
    for source in sources:
        if source.path not in looks:
            looks[source.path] = _look(source.path)
        size, mtime_ns, digest = looks[source.path]
        clips.append(
            Clip(
                id=source.id,
                path=source.path,
                start_seconds=source.start_seconds,
                end_seconds=source.end_seconds,
                size=size,
                mtime_ns=mtime_ns,
                edges_sha256=digest,
            )
        )
    return clips


def _look(path: str) -> tuple[int, int, str]:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return _look_at_frames(path)
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
            return 0, 0, ""
        with open(path, "rb") as file:
            edges = hashlib.sha256(file.read(_EDGE_BYTES))
            file.seek(max(_EDGE_BYTES, status.st_size - _EDGE_BYTES))
            edges.update(file.read(_EDGE_BYTES))
    except (OSError, InputError):
        return 0, 0, ""
    return status.st_size, status.st_mtime_ns, edges.hexdigest()


def _look_at_frames(directory: str) -> tuple[int, int, str]:
    frames = [(image.name, image.stat()) for image in list_frame_directory(directory)]
    digest = hashlib.sha256()
    for name, status in frames:
        digest.update(json.dumps([name, status.st_size, status.st_mtime_ns]).encode())
    latest = max(status.st_mtime_ns for _, status in frames)
    return sum(status.st_size for _, status in frames), latest, digest.hexdigest()


def inputs_digest(clips: Iterable[Clip]) -> str:
    """Return the sha256 over a set of clips, whatever their order."""
    return sorted_inputs_digest(sorted(clips, key=lambda clip: clip.id))


def sorted_inputs_digest(clips: Iterable[Clip]) -> str:
    """Return the `inputs_digest` of clips that come in the order of their ids, without holding all of them."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(json.dumps(asdict(clip), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def setting_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the settings in `new` that were different, as `key: old -> new`."""
    return [f"{key}: {_short(old.get(key))} -> {_short(value)}" for key, value in new.items() if old.get(key) != value]


def clip_changes(old: Sequence[Clip], new: Sequence[Clip]) -> list[str]:
    """Count the clips that were added, removed and modified, with an example of each."""
    before, after = {clip.id: clip for clip in old}, {clip.id: clip for clip in new}
    groups = {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "modified": sorted(id for id in before.keys() & after.keys() if before[id] != after[id]),
    }
    return [f"inputs: {len(ids)} {what} ({ids[0]})" for what, ids in groups.items() if ids]


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text  # a digest
