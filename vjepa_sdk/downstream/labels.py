"""Read which clip has which label: from a list, a directory for each class, or a data frame.

labels.csv    columns `path` and `label`, and optional `split` (train, val, test), `group`, `id`, `start_seconds`,
              `end_seconds`; `.jsonl` with the same keys; or the official form without a header, `path number` a line
clips/        a directory for each class: clips/walking/a.mp4 has the label walking
a data frame  of pandas, polars or pyarrow, with the columns of a CSV
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..corpus.find import Images, Links, find_clips
from ..corpus.lists import ClipSource, read_table, source_of
from ..corpus.snapshot import describe_clips
from ..corpus.tables import DataFrame, records_of
from ..errors import ConfigError, InputError, printable
from ..features.columns import brought_along
from ..features.embeddings import INDEX, INPUTS, sidecar

_DIGITS = 12
_CLIP = ("path", "id", "start_seconds", "end_seconds")
SPLITS = ("train", "val", "test")
_SPELLINGS = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val", "dev": "val"}
_SPELLINGS |= {"test": "test", "testing": "test"}


Labels = str | os.PathLike[str] | DataFrame


@dataclass(frozen=True, kw_only=True)
class LabelledClip:
    """One clip with its label."""

    source: ClipSource
    label: str
    split: str | None
    """`train`, `val` or `test`; None: not said."""
    group: str
    """Clips of one group never are on two sides of a split; by default those of one file."""


@dataclass(frozen=True)
class LabelledClips:
    """What a table of labels holds."""

    clips: list[LabelledClip]
    num_without_label: int
    """Rows that were left out because their label is empty."""
    grouped_by: str
    """Where the groups come from, for messages."""


def read_labels(
    labels: Labels,
    *,
    images: Images = "frames",
    links: Links = "refuse",
    label_column: str = "label",
    split_column: str = "split",
    group_column: str = "group",
) -> LabelledClips:
    """Read the labels of clips.

    Args:
        labels: see the module's description; paths in a list are relative to it, those of a data frame to the working
            directory.
        images: what images in directories of classes are.
        links: which symbolic links in them are followed.
        label_column: in lists and data frames.
        split_column: as well; `split` need not be there, another name must. Empty: none.
        group_column: as well; empty: clips of one file are a group.

    Raises:
        InputError: it cannot be read, has no labels, or gives one clip two labels; the line is named.
    """
    if isinstance(labels, str | os.PathLike) and Path(labels).is_dir():
        clips = _of_directories(Path(labels), images, links)
        return LabelledClips(_unique(clips), 0, "files")
    if isinstance(labels, str | os.PathLike):
        path = Path(labels)
        if not path.is_file():
            raise InputError(f"{printable(path)}: does not exist; pass a list of labels or a directory of classes")
        table = read_table(path)
    else:
        path = Path("labels")
        table = list(enumerate(_records(labels), start=1))
    return _of_table(path, table, label_column=label_column, split_column=split_column, group_column=group_column)


def read_labels_of_features(
    features: Path, *, label_column: str, split_column: str, group_column: str
) -> LabelledClips:
    """Return the labels that the list of a file of features had; the columns are as in `read_labels`.

    Raises:
        InputError: it cannot be read, or has none.
    """
    index = sidecar(features, INDEX)
    rows = {row["id"]: row for _, row in read_table(index)}
    # the index tells of windows, and this list of the clips that they are of
    clips = [clip for _, clip in read_table(sidecar(features, INPUTS)) if clip["id"] in rows]
    table = [({**brought_along(rows[clip["id"]]), **{name: clip[name] for name in _CLIP}}) for clip in clips]
    # by its name alone, since paths are relative to the working directory here
    return _of_table(
        Path(index.name),
        list(enumerate(table, start=1)),
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
    )


def fingerprints(clips: Sequence[LabelledClip]) -> list[str]:
    """Return for each clip what tells its file from others, wherever it lies: the start of the digest of its ends.

    Empty where the file cannot be read.
    """
    return [clip.edges_sha256[:_DIGITS] for clip in describe_clips(clip.source for clip in clips)]


def check_classes(labels: Sequence[str]) -> None:
    """Refuse texts that are numbers rather than names of classes.

    Raises:
        ConfigError: they are.
    """
    if all(_is_number(label) for label in labels) and any(not label.lstrip("-").isdigit() for label in labels):
        example = next(label for label in labels if not label.lstrip("-").isdigit())
        raise ConfigError(f"label={example} is a number, not a class; pass kind='regression' (--kind regression)")


def numbers_of(labels: Sequence[str]) -> list[float]:
    """Return labels as numbers.

    Raises:
        ConfigError: one of them is none.
    """
    wrong = next((label for label in labels if not _is_number(label)), None)
    if wrong is not None:
        raise ConfigError(f"label={wrong!r} must be a number for kind='regression'; correct it, or pass kind='linear'")
    return [float(label) for label in labels]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _records(frame: object) -> list[dict[str, Any]]:
    if not isinstance(frame, DataFrame):
        raise InputError(f"labels of type {type(frame).__name__} are neither a path nor a data frame; pass one of them")
    return records_of(frame)


def _of_directories(root: Path, images: Images, links: Links) -> list[LabelledClip]:
    sources = find_clips(root, links=links).clips(images)
    clips = []
    for source in sources:
        parts = Path(source.path).relative_to(root).parts
        # a directory of frames is a clip, not a class
        if len(parts) < 2:
            raise InputError(
                f"{printable(source.path)}: lies beside the directories of the classes, and so has no label; "
                f"move it into one, as {printable(root)}/CLASS/{printable(parts[-1])}"
            )
        clips.append(LabelledClip(source=source, label=_clean(parts[0]), split=None, group=_file_of(source)))
    return clips


def _of_table(
    path: Path, table: Sequence[tuple[int, dict[str, Any]]], *, label_column: str, split_column: str, group_column: str
) -> LabelledClips:
    columns = {str(column) for _, row in table for column in row}
    if label_column not in columns:
        raise InputError(
            f"{printable(path)}: has no column {label_column!r}, only {', '.join(sorted(columns)) or 'nothing'}; "
            "name the column with the labels so"
        )
    for name, default in ((group_column, "group"), (split_column, "split")):
        if name not in ("", default) and name not in columns:
            raise InputError(f"{printable(path)}: has no column {name!r}, only {', '.join(sorted(columns))}")
    clips, num_without = [], 0
    for number, row in table:
        where = f"{printable(path)}: line {number}"
        label = _clean(str(row[label_column])) if row.get(label_column) not in (None, "") else ""
        if not label:
            num_without += 1
            continue
        source = source_of(path, number, row)
        given = row.get(group_column) if group_column else None
        group = _file_of(source) if given in (None, "") else f"{group_column} {_clean(str(given))}"
        clips.append(
            LabelledClip(
                source=source,
                label=label,
                split=_split(where, row.get(split_column) if split_column else None),
                group=group,
            )
        )
    if not clips:
        raise InputError(f"{printable(path)}: no row has a label; fill in the column {label_column!r}")
    by = f"column {group_column!r}" if group_column in columns else "files"
    return LabelledClips(_unique(clips), num_without, by)


def _split(where: str, value: object) -> str | None:
    if value is None or value == "":
        return None
    split = _SPELLINGS.get(str(value).strip().lower())
    if split is None:
        raise InputError(f"{where}: split={str(value)!r} must be one of {', '.join(SPLITS)}; correct it")
    return split


def _clean(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _file_of(source: ClipSource) -> str:
    return os.path.realpath(source.path)


def _unique(clips: Sequence[LabelledClip]) -> list[LabelledClip]:
    """Drop rows that repeat others; refuse a clip with two labels."""
    kept: dict[Mapping[str, Any] | tuple[object, ...], LabelledClip] = {}
    for clip in clips:
        key = (_file_of(clip.source), clip.source.start_seconds, clip.source.end_seconds)
        other = kept.setdefault(key, clip)
        if (other.label, other.split) != (clip.label, clip.split):
            raise InputError(
                f"{printable(clip.source.id)}: has two labels, {printable(other.label)} and {printable(clip.label)}"
                f"{'' if other.label != clip.label else ', in two splits'}; keep one"
            )
    by_id = Counter(clip.source.id for clip in kept.values())
    if twice := next((name for name, count in by_id.items() if count > 1), None):
        raise InputError(f"id {printable(twice)!r} stands for {by_id[twice]} clips; give each its own")
    return list(kept.values())
