"""Write and read files of features: the rows, and beside them what each row is.

feats.npy            one row for each good clip; also .npz, .safetensors (one array for each row) and .parquet
feats.index.jsonl    line i describes row i
feats.errors.jsonl   clips that failed, with the reason
feats.inputs.jsonl   every clip that was asked for, its file, and how many rows it gave
feats.meta.json      model, settings, versions, and the sha256 of feats.npy
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from .download import fetch_output, origin_of
from .errors import ConfigError, InputError
from .hub_client import is_repository_id

SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")

Dtype = Literal["float32", "float16"]

_LITTLE_ENDIAN: dict[Dtype, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


@dataclass(frozen=True)
class Row:
    """One row of an output."""

    entry: dict[str, Any]
    """Its line in the index."""
    values: np.ndarray


@dataclass(frozen=True)
class Embeddings:
    """Features of a set of clips."""

    features: np.ndarray
    """float32 or float16 `[rows, ...]`; if the rows differ in shape, an object array of `rows` arrays."""
    index: list[dict[str, Any]]
    """What row i is: `id`, `path`, `start_seconds`, `end_seconds`, `frames` (their numbers in the video), `decoder`,
    `size` (of the file, in bytes)."""
    meta: dict[str, Any]
    """Model, settings and versions; of an output from the hub also `repository` and `commit`."""


def load_embeddings(
    path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Embeddings:
    """Load what `embed_files` wrote, in any of its formats, here or from the hub.

    Args:
        path: the file of features, with its `.index.jsonl` and `.meta.json` beside it; or the hub id `owner/name` of a
            dataset repository that `push` made. The other arguments are those of `VJEPA.from_pretrained`.

    Raises:
        ConfigError: a suffix that is none of the formats, or `.parquet` without pyarrow; or the hub does not know the
            repository or grant access.
        InputError: a file is missing, damaged, or they do not belong together.
        WeightsError: it cannot be fetched, or is not what the hub says it is.
    """
    if _is_on_hub(path):
        path = fetch_output(
            str(path),
            suffixes=SUFFIXES,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
    elif revision is not None:
        raise ConfigError(f"{path}: is no hub id, so it has no revision={revision!r}; leave revision out")
    path = Path(path)
    check_suffix(path)
    try:
        meta = json.loads(sidecar(path, "meta.json").read_bytes())
        index = [json.loads(line) for line in sidecar(path, "index.jsonl").read_bytes().splitlines()]
        # .npy in one piece, the others row by row
        features = _load_npy(path) if path.suffix == ".npy" else _stack(list(iter_rows(path)))
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: does not exist; `vjepa embed --out {path}` writes it") from error
    except Exception as error:  # numpy, zipfile and safetensors raise half a dozen classes on damaged files
        raise InputError(f"{path}: is damaged or not written by `vjepa embed` ({error})") from error
    if not isinstance(meta, dict) or meta.get("output") != path.name or len(features) != len(index):
        raise InputError(
            f"{path}: has {len(features)} rows, but its index has {len(index)} lines and belongs to "
            f"{meta.get('output') if isinstance(meta, dict) else None!r}; keep the files of one run together"
        )
    return Embeddings(features, index, {**meta, **origin_of(path.parent)})


def embedding_files(path: Path) -> dict[str, Path]:
    """Return the files of an output by name: the features, and what is beside them."""
    beside = ("index.jsonl", "errors.jsonl", "inputs.jsonl", "meta.json")
    paths = (path, *(sidecar(path, name) for name in beside))
    return {file.name: file for file in paths if file.is_file()}


def _is_on_hub(path: str | Path) -> bool:
    """Whether a text can only be a hub id: no format's suffix, and no such file."""
    return isinstance(path, str) and is_repository_id(path) and not path.endswith(SUFFIXES) and not Path(path).exists()


def check_suffix(path: Path) -> None:
    """Raise ConfigError unless the suffix names a format that can be written here."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: the suffix {path.suffix!r} must be one of {', '.join(SUFFIXES)}; rename the output")
    if path.suffix == ".parquet":
        from .parquet import check_installed

        check_installed()


def sidecar(path: Path, name: str) -> Path:
    """Return the path of a file beside the features, for example with `index.jsonl`."""
    return path.with_suffix(f".{name}")


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
    file: IO[bytes], rows: Iterable[Row], *, suffix: str, shapes: Sequence[Sequence[int]], dtype: Dtype
) -> None:
    """Write rows one by one, so that memory does not grow with their number; the bytes depend on the rows alone.

    Args:
        rows: as many as `shapes`.
        shapes: of each row, at least one.
    """
    if suffix == ".parquet":
        from .parquet import write_parquet

        write_parquet(file, ((row.entry, row.values) for row in rows), shapes=shapes, dtype=dtype)
        return
    if suffix == ".npz":
        _write_npz(file, rows, dtype)
        return
    if suffix == ".npy":
        shape = (len(shapes), *shapes[0])
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
        yield from _load_npy(path, mmap_mode="r")
    else:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("its suffix names another format")
        with loaded:
            for key in sorted(loaded.files):
                yield loaded[key]


def _load_npy(path: Path, *, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
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


def _stack(rows: list[np.ndarray]) -> np.ndarray:
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows)
    ragged = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):  # ragged[:] = rows would try to broadcast
        ragged[number] = row
    return ragged
