"""Open features of any size: rows that stay on disk, and what each of them is, read when it is asked for."""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..corpus.lists import default_id, read_rows
from ..errors import InputError, printable
from ..features.columns import OURS
from ..features.embeddings import INDEX, META, Embeddings, sidecar
from ..features.formats import iter_rows, load_npy
from ..hub.client import HubOptions
from ..hub.locate import locate_output
from ..runtime.files import disk_errors
from ..weights.provenance import origin_of
from .nearest import as_matrix, release

logger = logging.getLogger(__name__)

_ENTRY = {"id", "path", "start_seconds", "end_seconds"}


class IndexFile:
    """The lines of an `.index.jsonl`; a line is parsed when it is asked for, so that millions need no memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise ValueError("it has no rows")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        ends = []
        for first in range(0, len(self._bytes), 16 << 20):
            part = np.frombuffer(self._bytes[first : first + (16 << 20)], np.uint8)
            ends.append(np.flatnonzero(part == ord("\n")) + first + 1)
            release(self._bytes)
        self._starts = np.concatenate([[0], *ends])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not 0 <= row < len(self):
            raise IndexError(row)
        try:
            entry = json.loads(self._bytes[self._starts[row] : self._starts[row + 1]])
        except ValueError as error:
            raise InputError(f"{printable(self._path)}: line {row + 1} is damaged ({error}); embed again") from error
        if not isinstance(entry, dict) or not _ENTRY <= entry.keys():
            raise InputError(f"{printable(self._path)}: line {row + 1} lacks one of {', '.join(sorted(_ENTRY))}")
        return entry

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))


@dataclass(frozen=True)
class Features:
    """Rows of features, and what each of them is."""

    name: str
    """What errors call them."""
    rows: np.ndarray
    """float32 or float16 `[N, D]`, mapped from disk where they come from a file."""
    index: IndexFile | Sequence[Mapping[str, Any]]
    """What row i is; empty for an array."""
    meta: Mapping[str, Any]
    """Model, settings and versions; empty for an array."""
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    """Further columns, by id and by absolute path."""

    def __len__(self) -> int:
        return len(self.rows)

    def entry(self, row: int) -> dict[str, Any]:
        """Return what a row is, with the columns of its labels."""
        return self._joined(self.index[row])

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield what each row is, in order."""
        return map(self._joined, self.index)

    def column(self, name: str) -> list[Any]:
        """Return the values of a column, one a row; None where the labels lack a row.

        Raises:
            InputError: no such column; the message names those that there are.
        """
        self.check_columns([name])
        return [entry.get(name) for entry in self.entries()]

    def check_columns(self, names: Sequence[str]) -> None:
        """Raise InputError for a column that there is not; the message names those that there are."""
        for name in names:
            if name not in self._columns:
                raise InputError(f"{self.name}: has no column {name!r}; it has {', '.join(self._columns) or 'none'}")

    @cached_property
    def _columns(self) -> list[str]:
        first = list(self.index[0]) if len(self.index) else []
        return first + [name for name in next(iter(self.labels.values()), {}) if name not in first]

    def _joined(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        # what the index has of a list's columns may be older than these
        further = {name: value for name, value in (self.labels_of(entry) or {}).items() if name not in OURS}
        return {**entry, **further}

    def labels_of(self, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the further columns of a row: those of its id, else those of its file."""
        if not self.labels:
            return None
        keys = (entry["id"], os.path.abspath(entry["id"]), os.path.abspath(entry["path"]))
        return next((self.labels[key] for key in keys if key in self.labels), None)


AnyFeatures = np.ndarray | Embeddings | Features | str | Path
"""An array `[N, D]`, what `load_embeddings` returns, or a file that `vjepa embed` wrote."""


def open_features(features: AnyFeatures, *, labels: str | Path | None = None) -> Features:
    """Open features without reading them: those of a `.npy` are mapped, other formats are copied row by row to a
    temporary file, which is.

    Args:
        features: one vector a row.
        labels: CSV with a column `path` or `id` and others, which are added to those of the index.

    Raises:
        InputError: a file is missing or damaged, rows are no single vectors, or no row has labels.
        ConfigError: a suffix that is none of the formats, or a model or repository that the hub does not know.
        WriteError: there is no room for a temporary file.
    """
    if isinstance(features, Features):
        opened = features
    elif isinstance(features, Embeddings):
        opened = Features("features", as_matrix(features.features), features.index, features.meta)
    elif isinstance(features, np.ndarray):
        opened = Features("features", as_matrix(features), [], {})
    else:
        opened = _open_file(locate_output(features, HubOptions()))
    return opened if labels is None else _with_labels(opened, Path(labels))


def _open_file(path: Path) -> Features:
    try:
        meta = json.loads(sidecar(path, META).read_bytes())
        index = IndexFile(sidecar(path, INDEX))
        rows = load_npy(path, mmap_mode="r") if path.suffix == ".npy" else _copied(path)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: does not exist; `vjepa embed --out {path}` writes it") from error
    except InputError:
        raise
    except Exception as error:  # numpy, zipfile and safetensors raise half a dozen classes on damaged files
        raise InputError(f"{path}: is damaged or not written by `vjepa embed` ({error})") from error
    if not isinstance(meta, dict) or meta.get("output") != path.name or len(rows) != len(index):
        raise InputError(
            f"{path}: has {len(rows)} rows, but its index has {len(index)} lines and belongs to "
            f"{meta.get('output') if isinstance(meta, dict) else None!r}; keep the files of one run together"
        )
    return Features(printable(path), as_matrix(rows), index, {**meta, **origin_of(path.parent)})


def _copied(path: Path) -> np.ndarray:
    """Copy rows into a temporary file that has no name, and map it."""
    found = iter_rows(path)
    first = next(found)
    as_matrix(first[None])
    with tempfile.TemporaryFile() as file:
        count = 0
        for row in (r for part in ([first], found) for r in part):
            if row.shape != first.shape or row.dtype != first.dtype:
                raise InputError(
                    f"{path}: row {count} has shape {row.shape} and others {first.shape}; embed them apart"
                )
            with disk_errors(Path(tempfile.gettempdir())):
                file.write(np.ascontiguousarray(row).tobytes())
            count += 1
        file.flush()
        return np.memmap(file, first.dtype, "r", shape=(count, *first.shape))


def _with_labels(features: Features, path: Path) -> Features:
    if not len(features.index):
        raise InputError(f"{printable(path)}: are labels of files, and an array names none; pass a file of features")
    joined = replace(features, labels=_read_labels(path))
    missing = sum(joined.labels_of(entry) is None for entry in features.index)
    if missing == len(features):
        example = printable(features.index[0]["path"])
        raise InputError(
            f"{printable(path)}: has no line for any row of {features.name}, such as {example}; its paths are relative "
            "to it"
        )
    if missing:
        logger.warning("%s has no line for %d of %d rows", printable(path), missing, len(features))
    return joined


def _read_labels(path: Path) -> dict[str, Mapping[str, Any]]:
    if path.suffix.lower() != ".csv":
        raise InputError(f"{printable(path)}: must be a .csv whose header has a column path; save it as one")
    labels: dict[str, Mapping[str, Any]] = {}
    for number, line in read_rows(path):
        columns = {name: value for name, value in line.items() if name is not None}
        try:
            start, end = (float(columns.get(name) or "nan") for name in ("start_seconds", "end_seconds"))
        except ValueError as error:
            raise InputError(
                f"{printable(path)}: line {number}: seconds must be numbers ({error}); correct it"
            ) from error
        place = os.path.abspath(path.parent / columns["path"])
        part = default_id(place, *(None if math.isnan(second) else second for second in (start, end)))
        key = columns.get("id") or part
        if labels.setdefault(key, columns) != columns:
            raise InputError(f"{printable(path)}: line {number}: {printable(key)} has other values before; correct it")
    return labels
