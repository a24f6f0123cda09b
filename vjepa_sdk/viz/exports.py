"""Write a map of features for other viewers: Embedding Atlas (`.parquet`) and TensorBoard's projector (a directory)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..downstream.nearest import nearest_rows
from ..errors import OutputError
from ..features.parquet import check_installed
from ..runtime.files import atomic_file, disk_errors
from ..runtime.ownership import check_files, is_file_here, is_unfinished, writing
from .films import to_png
from .page import check_output, plain_text
from .thumbnails import Thumbnail

NEIGHBOURS = 15
"""Nearest rows that an atlas lists for each."""

_TILE = 64
_QUERIES = 1024
_CONFIG, _VECTORS, _METADATA, _PICTURES = "projector_config.pbtxt", "vectors.tsv", "metadata.tsv", "sprite.png"
_RESERVED = re.compile("|".join(map(re.escape, (_CONFIG, _VECTORS, _METADATA, _PICTURES))))
_PROJECTOR = f'embeddings {{\n  tensor_path: "{_VECTORS}"\n  metadata_path: "{_METADATA}"\n'
_SPRITE = f'  sprite {{ image_path: "{_PICTURES}" single_image_dim: {_TILE} single_image_dim: {_TILE} }}\n'


@dataclass(frozen=True, eq=False, kw_only=True)
class MapTable:
    """A map as a table: what stands in each of its rows."""

    vectors: np.ndarray
    """float `[n, D]`."""
    points: np.ndarray
    """float32 `[n, 2]`."""
    index: Sequence[Mapping[str, Any]]
    labels: Sequence[str | None]
    pictures: Sequence[Thumbnail]
    """Of every row, or none at all."""


def check_export(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError or ConfigError unless a map can be exported there."""
    if path.suffix.lower() == ".parquet":
        check_installed()
        check_output(path, overwrite=overwrite)
        return
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: is no directory; export to a .parquet or to a directory")
    check_files(path, reserved=_RESERVED, written=_exported)
    if path.is_dir() and not overwrite and any(path.iterdir()) and not is_unfinished(path):
        raise OutputError(f"{path}: is not empty; pass --overwrite, or choose another name")


def _exported(path: Path) -> set[str]:
    """Return the names of the files of an export that is there."""
    try:
        is_ours = is_file_here(path / _CONFIG) and (path / _CONFIG).read_bytes().startswith(_PROJECTOR.encode())
    except OSError:
        return set()
    return {_CONFIG, _VECTORS, _METADATA, _PICTURES} if is_ours else set()


def export_map(table: MapTable, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a map as `.parquet` for Embedding Atlas, or as a directory for TensorBoard's projector.

    The table has the columns path, label, start_seconds, end_seconds, x, y, embedding and neighbors, the nearest rows
    with 1 - cosine. The directory holds vectors.tsv, metadata.tsv, projector_config.pbtxt, and sprite.png where there
    is a picture of every row.

    Raises:
        ConfigError: pyarrow is not installed.
        OutputError: there is something already, or the parent directory does not exist.
        WriteError: the disk refuses.
    """
    path = Path(path)
    check_export(path, overwrite=overwrite)
    if path.suffix.lower() == ".parquet":
        _write_atlas(table, path)
    else:
        _write_projector(table, path)


def _write_atlas(table: MapTable, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    vectors = np.ascontiguousarray(table.vectors, np.float32)
    ids, distances = _neighbours(vectors)
    neighbours = pa.StructArray.from_arrays(
        [pa.array(ids.tolist(), pa.list_(pa.int64())), pa.array(distances.tolist(), pa.list_(pa.float32()))],
        names=["ids", "distances"],
    )
    columns = {
        "path": pa.array([plain_text(entry["path"]) for entry in table.index], pa.string()),
        "label": pa.array([None if label is None else plain_text(label) for label in table.labels], pa.string()),
        "start_seconds": pa.array([entry.get("start_seconds") for entry in table.index], pa.float64()),
        "end_seconds": pa.array([entry.get("end_seconds") for entry in table.index], pa.float64()),
        "x": pa.array(table.points[:, 0], pa.float32()),
        "y": pa.array(table.points[:, 1], pa.float32()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
        "neighbors": neighbours,
    }
    with disk_errors(path, needed=2 * vectors.nbytes), atomic_file(path) as file:
        pq.write_table(pa.table(columns), pa.PythonFile(file, mode="w"))


def _neighbours(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest other rows of each, int64 `[n, k]`, and 1 - cosine, float32 `[n, k]`."""
    ids, distances = [], []
    for first in range(0, len(vectors), _QUERIES):
        block = vectors[first : first + _QUERIES]
        numbers = np.arange(first, first + len(block))
        found, scores = nearest_rows(block, vectors, k=NEIGHBOURS + 1, query_rows=numbers)
        for number, (rows, cosines) in enumerate(zip(found, scores, strict=True), start=first):
            # of many equal rows the row itself may not be among the first
            others = np.flatnonzero(rows != number)[: min(NEIGHBOURS, len(vectors) - 1)]
            ids.append(rows[others])
            distances.append(np.maximum(1.0 - cosines[others], 0.0))
    return np.stack(ids), np.stack(distances)


def _write_projector(table: MapTable, path: Path) -> None:
    vectors = ("\t".join(f"{value:.7g}" for value in row) + "\n" for row in np.asarray(table.vectors, np.float32))
    metadata = ["path\tlabel\tstart_seconds\tend_seconds\n"]
    for entry, label in zip(table.index, table.labels, strict=True):
        seconds = ["" if entry.get(name) is None else f"{entry[name]:g}" for name in ("start_seconds", "end_seconds")]
        # a tab or the end of a line in a name would be one in the file
        metadata.append("\t".join([plain_text(entry["path"]), plain_text(label or ""), *seconds]) + "\n")
    has_sprite = len(table.pictures) == len(table.index)
    content = {_VECTORS: "".join(vectors).encode(), _METADATA: "".join(metadata).encode()}
    if has_sprite:
        content[_PICTURES] = to_png(_sprite(table.pictures))
    content[_CONFIG] = (_PROJECTOR + (_SPRITE if has_sprite else "") + "}\n").encode()
    with (
        disk_errors(path, needed=sum(map(len, content.values()))),
        writing(path, content, reserved=_RESERVED, written=_exported) as old,
    ):
        if _PICTURES in old and not has_sprite:
            (path / _PICTURES).unlink()  # of an export before
        for name, data in content.items():
            with atomic_file(path / name) as file:
                file.write(data)


def _sprite(pictures: Sequence[Thumbnail]) -> np.ndarray:
    """Return one square grid of equal tiles, row by row; a clip without picture has a grey one."""
    side = int(np.ceil(np.sqrt(len(pictures))))
    sprite = np.full((side * _TILE, side * _TILE, 3), 127, np.uint8)
    for number, picture in enumerate(pictures):
        if picture.pixels is None:
            continue
        image = Image.fromarray(picture.pixels)
        image.thumbnail((_TILE, _TILE))
        small = np.asarray(image)
        top = number // side * _TILE + (_TILE - small.shape[0]) // 2
        left = number % side * _TILE + (_TILE - small.shape[1]) // 2
        sprite[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sprite
