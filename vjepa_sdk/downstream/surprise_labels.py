"""Read what is known of videos, and compare it with their surprise."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..corpus.lists import ClipSource
from ..errors import InputError, printable
from ..inference.surprise import Surprise
from .surprise_scores import surprise_metrics

_MAX_BYTES = 256 << 20

Interval = tuple[float, float]


@dataclass(frozen=True)
class SurpriseLabels:
    """Labels by the path or id of a clip: of whole videos, or of their abnormal parts, never both."""

    videos: dict[str, int]
    """1 for impossible or abnormal, else 0."""
    pairs: dict[str, str]
    """Name of the pair that a video belongs to."""
    intervals: dict[str, list[Interval]]
    """Seconds, from which to which; empty for a video that is normal throughout."""

    @property
    def are_intervals(self) -> bool:
        """Whether parts are labelled."""
        return bool(self.intervals)

    def key_of(self, clip: ClipSource) -> str | None:
        """Return under which name a clip is listed, if it is: its id, else the file that it is."""
        known = self.intervals or self.videos
        return next((key for key in (clip.id, os.path.realpath(clip.path)) if key in known), None)


def read_surprise_labels(path: str | Path) -> SurpriseLabels:
    """Read a CSV with the header `path,label[,pair]`, or `path,start_seconds,end_seconds`, or `id` in place of `path`.

    In the second form each row is a part that is abnormal; a video without any has one row with empty cells. Paths are
    relative to the file.

    Raises:
        InputError: no such file, another header, or a cell that is not valid; the line is named.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: labels have at most {_MAX_BYTES >> 20} MiB; this is another kind of file")
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames or []
            labels = SurpriseLabels({}, {}, {})
            if "path" not in names and "id" not in names:
                raise InputError(f"{path}: its header must name path or id; write path,label or path,start_seconds,...")
            add = _adder(labels, path, names)
            for row in reader:
                add(row, _key(row, path, reader.line_num), f"{printable(path)}:{reader.line_num}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except csv.Error as error:
        raise InputError(f"{path}: is no CSV ({error})") from error
    _check_pairs(labels, path)
    return labels


def _adder(labels: SurpriseLabels, path: Path, names: Sequence[str]) -> Any:
    if "label" in names:
        return lambda row, key, where: _add_label(labels, row, key, where)
    if {"start_seconds", "end_seconds"} <= set(names):
        return lambda row, key, where: _add_interval(labels, row, key, where)
    raise InputError(f"{path}: its header must name label, or start_seconds and end_seconds")


def _key(row: Mapping[str, str | None], path: Path, line: int) -> str:
    if row.get("id"):
        return str(row["id"])
    if not row.get("path"):
        raise InputError(f"{printable(path)}:{line}: names no path")
    return os.path.realpath(path.parent / str(row["path"]))


def _add_label(labels: SurpriseLabels, row: Mapping[str, str | None], key: str, where: str) -> None:
    text = (row["label"] or "").strip()
    if text not in ("0", "1"):
        raise InputError(f"{where}: label {text!r} must be 1 for impossible or abnormal, else 0")
    if labels.videos.setdefault(key, int(text)) != int(text):
        raise InputError(f"{where}: this video has another label above; leave one out")
    if row.get("pair"):
        labels.pairs[key] = str(row["pair"]).strip()


def _add_interval(labels: SurpriseLabels, row: Mapping[str, str | None], key: str, where: str) -> None:
    intervals = labels.intervals.setdefault(key, [])
    start, end = ((row[name] or "").strip() for name in ("start_seconds", "end_seconds"))
    if not start and not end:
        return
    try:
        first, last = float(start), float(end)
    except ValueError:
        first = last = math.nan
    if not (math.isfinite(first) and math.isfinite(last) and first < last):
        raise InputError(f"{where}: {start!r} to {end!r} must be seconds, the first below the second, or both empty")
    intervals.append((first, last))


def _check_pairs(labels: SurpriseLabels, path: Path) -> None:
    members: dict[str, list[int]] = {}
    for key, pair in labels.pairs.items():
        members.setdefault(pair, []).append(labels.videos[key])
    for pair, found in members.items():
        if sorted(found) != [0, 1]:
            raise InputError(
                f"{path}: pair {pair!r} has labels {sorted(found)}; it must have one possible and one impossible video"
            )


@dataclass
class LabelledScores:
    """Collect what labels and surprise say of each video, and compare in the end."""

    labels: SurpriseLabels
    num_unlabelled: int = 0
    """Videos that the labels do not name."""
    _keys: list[str] = field(default_factory=list)
    _means: list[float] = field(default_factory=list)
    _highest: list[float] = field(default_factory=list)
    _frames: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, clip: ClipSource, surprise: Surprise) -> None:
        """Take what is needed of a result."""
        key = self.labels.key_of(clip)
        if key is None:
            self.num_unlabelled += 1
            return
        self._keys.append(key)
        if self.labels.are_intervals:
            self._frames.append(frame_labels(surprise, self.labels.intervals[key]))
        else:
            is_fitted = surprise.timeline_kind == "fitted"
            self._means.append(surprise.score())
            self._highest.append(surprise.peak[1] if is_fitted else surprise.score(reduce_time="max"))

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of `surprise_metrics`.

        Of frames: all of them at once and by video, as they are and scaled in each video. Of videos: areas of the
        highest window (of the timeline's peak, with a normaliser), and with pairs the relative accuracy of the mean
        over windows, both as in the paper.

        Raises:
            InputError: no video has a label, or all have the same.
        """
        if not self._keys:
            raise InputError("the labels name none of these videos; compare their paths")
        found: dict[str, Any] = {"videos": len(self._keys), "videos_without_label": self.num_unlabelled}
        found["labels_without_video"] = len((self.labels.intervals or self.labels.videos).keys() - set(self._keys))
        if self.labels.are_intervals:
            scores, truth = (np.concatenate(parts) for parts in zip(*self._frames, strict=True))
            videos = np.repeat(np.arange(len(self._frames)), [len(part[0]) for part in self._frames])
            scaled = surprise_metrics(scores, truth, video_ids=videos, scaling="per_video")
            found |= surprise_metrics(scores, truth, video_ids=videos)
            return found | {f"per_video_{name}": scaled[name] for name in ("micro_auc", "macro_auc")}
        truth = np.array([self.labels.videos[key] for key in self._keys])
        pairs = self._pairs(truth)
        if len(pairs):
            of_pairs = surprise_metrics(self._means, truth, pairs=pairs)
            found |= {name: of_pairs[name] for name in ("relative_accuracy", "pairs", "ties")}
        return found | surprise_metrics(self._highest, truth)

    def _pairs(self, truth: np.ndarray) -> np.ndarray:
        """Return rows (possible, impossible) of the pairs of which both are there."""
        members: dict[str, dict[int, int]] = {}
        for row, key in enumerate(self._keys):
            if key in self.labels.pairs:
                members.setdefault(self.labels.pairs[key], {})[int(truth[row])] = row
        rows = [(both[0], both[1]) for both in members.values() if len(both) == 2]
        return np.array(rows, np.int64).reshape(-1, 2)


def frame_labels(surprise: Surprise, intervals: Sequence[Interval]) -> tuple[np.ndarray, np.ndarray]:
    """Return score and label of each frame that was looked at, float32 and int64 `[J * tubelet_size]`.

    A frame has the score of its tubelet, and the label 1 if it begins within an interval.
    """
    starts = surprise.frame_seconds[:-1]
    truth = np.zeros(len(starts), np.int64)
    for first, last in intervals:
        truth |= (starts >= first) & (starts < last)
    return np.repeat(surprise.timeline, len(starts) // len(surprise.timeline)), truth
