"""Write and read features as Parquet: a table with the index's columns and the features, for databases.

Columns: `row`, `id`, `path`, `window` (of videos cut into windows), `start_seconds`, `end_seconds`, `frames`,
`decoder`, those that a list of clips brought along, and `embedding`. `embedding` is a list of fixed length where all
rows have one shape, else of any length; a row of several axes is flattened, and `shape` says how.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate, chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import ConfigError
from .columns import Kind

_GROUP_BYTES, _GROUP_ROWS = 16 << 20, 16384

_Row = tuple[Mapping[str, Any], np.ndarray]


def check_installed() -> None:
    """Raise ConfigError unless pyarrow is there."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ConfigError(".parquet needs pyarrow; install it with `pip install 'vjepa-sdk[parquet]'`") from error


def write_parquet(
    file: IO[bytes],
    rows: Iterable[_Row],
    *,
    shapes: Sequence[Sequence[int]],
    dtype: str,
    columns: Mapping[str, Kind],
) -> None:
    """Write rows in groups of a size that depends on their shape alone.

    Args:
        rows: entry of the index and values of each.
        shapes: of each row.
        columns: those that a list brought along; of several kinds or nested they are written as text in JSON.
    """
    import pyarrow as pa
    from pyarrow import parquet as pq

    distinct = {tuple(shape) for shape in shapes}
    length = math.prod(next(iter(distinct))) if len(distinct) == 1 else -1
    has_shape = length < 0 or len(next(iter(distinct))) > 1
    largest = max((math.prod(shape) for shape in distinct), default=1) * np.dtype(dtype).itemsize
    group = max(1, min(_GROUP_ROWS, _GROUP_BYTES // max(1, largest)))
    value = pa.float32() if dtype == "float32" else pa.float16()
    remaining = iter(rows)
    first = next(remaining, None)
    kinds = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string(), "json": pa.string()}
    fields = {
        "row": pa.int64(),
        "id": pa.string(),
        "path": pa.string(),
        **({"window": pa.int64()} if first is not None and "window" in first[0] else {}),
        "start_seconds": pa.float64(),
        "end_seconds": pa.float64(),
        "frames": pa.list_(pa.int64()),
        "decoder": pa.string(),
        **{name: kinds[kind] for name, kind in columns.items()},
        **({"shape": pa.list_(pa.int32())} if has_shape else {}),
        "embedding": pa.list_(value, length),
    }
    schema = pa.schema(list(fields.items()))
    with pq.ParquetWriter(pa.PythonFile(file, mode="w"), schema) as writer:
        pending: list[_Row] = []
        for row in chain([] if first is None else [first], remaining):
            pending.append(row)
            if len(pending) == group:
                writer.write_table(_table(pending, schema, dtype, columns), row_group_size=group)
                pending = []
        if pending:
            writer.write_table(_table(pending, schema, dtype, columns), row_group_size=group)


def _table(rows: list[_Row], schema: Any, dtype: str, kinds: Mapping[str, Kind]) -> Any:
    import pyarrow as pa

    values = np.concatenate([np.ascontiguousarray(row, dtype).reshape(-1) for _, row in rows])
    kind = schema.field("embedding").type
    flat = pa.array(values, kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        embedding = pa.FixedSizeListArray.from_arrays(flat, kind.list_size)
    else:
        embedding = pa.ListArray.from_arrays(np.cumsum([0, *(row.size for _, row in rows)], dtype=np.int32), flat)
    columns = []
    for field in schema:
        if field.name == "embedding":
            columns.append(embedding)
        elif field.name == "shape":
            columns.append(pa.array([list(row.shape) for _, row in rows], field.type))
        else:
            cells = [entry.get(field.name) for entry, _ in rows]
            columns.append(pa.array([cell_of(cell, kinds.get(field.name)) for cell in cells], field.type))
    return pa.table(columns, schema=schema)


def cell_of(value: Any, kind: Kind | None) -> Any:
    """Return a value of the index as a table holds it: what is not UTF-8 in names of files is escaped."""
    if value is None or kind == "float":  # whole numbers among others
        return value if value is None else float(value)
    if kind == "json":
        return json.dumps(value)
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


@contextmanager
def open_parquet(path: Path) -> Iterator[Callable[[int], np.ndarray]]:
    """Lend what reads a row by its number; the groups of the last few stay in memory."""
    from pyarrow import parquet as pq

    with pq.ParquetFile(path) as file:
        columns = [name for name in ("embedding", "shape") if name in file.schema_arrow.names]
        sizes = (file.metadata.row_group(number).num_rows for number in range(file.num_row_groups))
        firsts = [0, *accumulate(sizes)]
        group = lru_cache(maxsize=2)(lambda number: file.read_row_group(number, columns=columns).combine_chunks())

        def read(row: int) -> np.ndarray:
            number = bisect_right(firsts, row) - 1
            table = group(number)
            cell = {name: table.column(name)[row - firsts[number]] for name in columns}
            values: np.ndarray = cell["embedding"].values.to_numpy(zero_copy_only=False)
            return values.reshape(cell["shape"].as_py()) if "shape" in cell else values

        yield read


def iter_parquet(path: Path) -> Iterator[np.ndarray]:
    """Read the features back, row by row."""
    from pyarrow import parquet as pq

    with pq.ParquetFile(path) as file:
        has_shape = "shape" in file.schema_arrow.names
        for batch in file.iter_batches(batch_size=1024, columns=["embedding", *(["shape"] if has_shape else [])]):
            embeddings = batch.column("embedding")
            shapes = batch.column("shape").to_pylist() if has_shape else [None] * len(embeddings)
            for cell, shape in zip(embeddings, shapes, strict=True):
                values = cell.values.to_numpy(zero_copy_only=False)
                yield values if shape is None else values.reshape(shape)
