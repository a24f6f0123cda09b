"""Say which clips a corpus job works on, and what changed since its plan was frozen."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_EDGE_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip of a job, and what its file looked like when the plan was frozen."""

    path: str
    size: int
    """Of the file, in bytes."""
    mtime_ns: int
    edges_sha256: str
    """Over the first and last 64 KiB; empty if the file cannot be read."""


def describe_clip(path: str | os.PathLike[str]) -> Clip:
    """Look at a file without decoding it; one that cannot be read is described as empty, decoding tells why."""
    unreadable = Clip(path=os.fspath(path), size=0, mtime_ns=0, edges_sha256="")
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
            return unreadable
        with open(path, "rb") as file:
            edges = hashlib.sha256(file.read(_EDGE_BYTES))
            file.seek(max(_EDGE_BYTES, status.st_size - _EDGE_BYTES))
            edges.update(file.read(_EDGE_BYTES))
    except OSError:
        return unreadable
    return Clip(path=os.fspath(path), size=status.st_size, mtime_ns=status.st_mtime_ns, edges_sha256=edges.hexdigest())


def setting_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the settings in `new` that were different, as `key: old -> new`."""
    return [f"{key}: {_short(old.get(key))} -> {_short(value)}" for key, value in new.items() if old.get(key) != value]


def clip_changes(old: Sequence[Mapping[str, Any]], new: Sequence[Clip]) -> list[str]:
    """Count the clips that were added, removed and modified, with an example of each.

    Args:
        old: clips as plain data, as in a plan.
    """
    before, after = {clip["path"]: dict(clip) for clip in old}, {clip.path: asdict(clip) for clip in new}
    groups = {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "modified": sorted(path for path in before.keys() & after.keys() if before[path] != after[path]),
    }
    return [f"inputs: {len(paths)} {what} ({paths[0]})" for what, paths in groups.items() if paths]


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text  # a digest
