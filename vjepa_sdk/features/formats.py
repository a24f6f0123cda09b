"""Write and read rows of features one by one, as `.npy`, `.npz`, `.safetensors` and `.parquet`."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from ..config.choices import Dtype
from ..errors import ConfigError, InputError
from .columns import Kind

SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
_LITTLE_ENDIAN: dict[Dtype, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


@dataclass(frozen=True)
class Row:
    """One row of an output."""

    entry: dict[str, Any]
    """Its line in the index."""
    values: np.ndarray


def check_suffix(path: Path) -> None:
    """Raise ConfigError unless the suffix names a format that can be written here."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: the suffix {path.suffix!r} must be one of {', '.join(SUFFIXES)}; rename the output")
    if path.suffix == ".parquet":
        from .parquet import check_installed

        check_installed()


def json_line(data: object) -> bytes:
    """Return plain data as one line of a `.jsonl` file; ASCII, so that any file name survives."""
    return json.dumps(data, ensure_ascii=True).encode() + b"\n"


def check_shapes(path: Path, shapes: Iterable[Sequence[int]]) -> None:
    """Raise InputError if the format holds rows of one shape only and these differ."""
    found = sorted({tuple(shape) for shape in shapes})
    if path.suffix == ".npy" and len(found) > 1:
        raise InputError(
            f"{path}: rows must have one shape in .npy, got {' and '.join(map(str, found))}; "
            "write .npz or .safetensors, or embed stills and videos apart"
        )


def to_bytes(values: np.ndarray, dtype: Dtype) -> bytes:
    """Return the values in C order, little endian."""
    return np.ascontiguousarray(values, _LITTLE_ENDIAN[dtype]).tobytes()


def from_bytes(data: bytes, dtype: Dtype, *, shape: Sequence[int], offset: int) -> np.ndarray:
    """Return the array that `to_bytes` put at `offset`."""
    return np.frombuffer(data, _LITTLE_ENDIAN[dtype], count=math.prod(shape), offset=offset).reshape(shape)


def write_features(
    file: IO[bytes],
    rows: Iterable[Row],
    *,
    suffix: str,
    shapes: Sequence[Sequence[int]],
    dtype: Dtype,
    columns: Mapping[str, Kind],
) -> None:
    """Write rows one by one, so that memory does not grow with their number; the bytes depend on the rows alone.

    Args:
        rows: as many as `shapes`.
        shapes: of each row.
        columns: what the entries hold besides what says which row it is; a table has these columns too.
    """
    if suffix == ".parquet":
        from .parquet import write_parquet

        write_parquet(file, ((row.entry, row.values) for row in rows), shapes=shapes, dtype=dtype, columns=columns)
        return
    if suffix == ".npz":
        _write_npz(file, rows, dtype)
        return
    if suffix == ".npy":
        shape = (len(shapes), *(shapes[0] if shapes else ()))
        layout = {"descr": _LITTLE_ENDIAN[dtype].str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, layout)
    else:
        file.write(_safetensors_header(shapes, dtype))
    for row in rows:
        file.write(to_bytes(row.values, dtype))


def iter_rows(path: Path) -> Iterator[np.ndarray]:
    """Read rows one by one, whatever the format.

    Raises:
        InputError, OSError, ValueError and what the formats' libraries raise: damaged files.
    """
    if path.suffix == ".parquet":
        from .parquet import iter_parquet

        yield from iter_parquet(path)
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="np") as file:
            for key in sorted(file.keys()):
                yield file.get_tensor(key)
    elif path.suffix == ".npy":
        yield from load_npy(path, mmap_mode="r")
    else:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("its suffix names another format")
        with loaded:
            for key in sorted(loaded.files):
                yield loaded[key]


@contextmanager
def open_rows(path: Path) -> Iterator[Callable[[int], np.ndarray]]:
    """Lend what reads a row by its number, whatever the format, without those before it.

    Raises:
        as `iter_rows`.
    """
    if path.suffix == ".parquet":
        from .parquet import open_parquet

        with open_parquet(path) as read:
            yield read
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="np") as file:
            yield lambda row: np.asarray(file.get_tensor(_key(row)))
    elif path.suffix == ".npy":
        rows = load_npy(path, mmap_mode="r")
        yield lambda row: np.asarray(rows[row])
    else:
        with np.load(path, allow_pickle=False) as loaded:
            yield lambda row: np.asarray(loaded[_key(row)])


def load_npy(path: Path, *, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    loaded = np.load(path, allow_pickle=False, mmap_mode=mmap_mode)
    if not isinstance(loaded, np.ndarray):
        raise ValueError("its suffix names another format")
    return loaded


def _key(row: int) -> str:
    return f"{row:08d}"


def _write_npz(file: IO[bytes], rows: Iterable[Row], dtype: Dtype) -> None:
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for number, row in enumerate(rows):
            # a ZipInfo of its own: zipfile would write the time of day
            with archive.open(zipfile.ZipInfo(f"{_key(number)}.npy"), "w", force_zip64=True) as member:
                values = np.ascontiguousarray(row.values, _LITTLE_ENDIAN[dtype])
                np.lib.format.write_array(member, values, allow_pickle=False)


def _safetensors_header(shapes: Sequence[Sequence[int]], dtype: Dtype) -> bytes:
    # written by hand, since the library wants all tensors in memory at once
    name, size = ("F32", 4) if dtype == "float32" else ("F16", 2)
    header, start = {}, 0
    for number, shape in enumerate(shapes):
        end = start + size * math.prod(shape)
        header[_key(number)] = {"dtype": name, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def stack_rows(rows: list[np.ndarray]) -> np.ndarray:
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows)
    ragged = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):  # ragged[:] = rows would try to broadcast
        ragged[number] = row
    return ragged
