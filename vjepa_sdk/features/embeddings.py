"""Write and read files of features: the rows, and beside them what each row is.

feats.npy            one row for each good clip; also .npz, .safetensors (one array for each row) and .parquet
feats.index.jsonl    line i describes row i
feats.errors.jsonl   clips that failed, with the reason
feats.inputs.jsonl   every clip that was asked for, its file, and how many rows it gave
feats.meta.json      model, settings, versions, and the sha256 of feats.npy
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, InputError
from .columns import brought_along, kinds_of
from .parquet import cell_of, check_installed

if TYPE_CHECKING:
    import pandas
    import pyarrow

INDEX, ERRORS, INPUTS, META = "index.jsonl", "errors.jsonl", "inputs.jsonl", "meta.json"
"""How the names of the files beside the features end."""
META_SUFFIX = f".{META}"


@dataclass(frozen=True, repr=False, eq=False)
class Embeddings:
    """Features of a set of clips."""

    features: np.ndarray
    """float32 or float16 `[rows, ...]`; if the rows differ in shape, an object array of `rows` arrays."""
    index: list[dict[str, Any]]
    """What row i is: `id`, `path`, `start_seconds`, `end_seconds`, `frames` (their numbers in the video), `decoder`,
    `size` (of the file, in bytes); and the further columns of the list that named it."""
    meta: dict[str, Any]
    """Model, settings and versions; of an output from the hub also `repository` and `commit`."""

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        is_ragged = self.features.dtype == object
        each = "arrays" if is_ragged else f"{list(self.features.shape[1:])} {self.features.dtype}"
        name = (self.meta.get("model") or {}).get("name")
        return f"Embeddings({len(self)} rows of {each}{f', by {name}' if name else ''})"

    @property
    def ids(self) -> list[str]:
        """What each row is called: a path, with `#t=start,end` where it is a part; or the id that a list gave it."""
        return [entry["id"] for entry in self.index]

    @property
    def paths(self) -> list[str]:
        """The file of each row."""
        return [entry["path"] for entry in self.index]

    @property
    def labels(self) -> list[Any]:
        """What the list of clips had in its column `label`, for each row; None where it had nothing.

        Raises:
            InputError: there was no such column.
        """
        if not any("label" in entry for entry in self.index):
            raise InputError("the features come without labels; pass labels, or embed a list with a column label")
        return [entry.get("label") for entry in self.index]

    def to_arrow(self) -> pyarrow.Table:
        """Return index and features as a table; of rows with several axes, `embedding` is flat and `shape` says how.

        Raises:
            ConfigError: pyarrow is not installed.
        """
        check_installed()
        import pyarrow as pa

        kinds = kinds_of(map(brought_along, self.index))
        index = [{key: cell_of(value, kinds.get(key)) for key, value in entry.items()} for entry in self.index]
        table = pa.Table.from_pylist(index)
        rows = [np.asarray(row) for row in self.features]
        if any(row.ndim > 1 for row in rows):
            table = table.append_column("shape", pa.array([row.shape for row in rows]))
        return table.append_column("embedding", pa.array([row.reshape(-1) for row in rows]))

    def to_pandas(self) -> pandas.DataFrame:
        """Return index and features as a data frame; `embedding` holds an array for each row.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ConfigError("to_pandas needs pandas; install it with `pip install pandas`") from error
        return pd.DataFrame(self.index).assign(embedding=[np.asarray(row) for row in self.features])


def embedding_files(path: Path) -> dict[str, Path]:
    """Return the files of an output by name: the features, and what is beside them."""
    paths = (path, *(sidecar(path, name) for name in (INDEX, ERRORS, INPUTS, META)))
    return {file.name: file for file in paths if file.is_file()}


def sidecar(path: Path, name: str) -> Path:
    """Return the path of a file beside the features, for example with `index.jsonl`."""
    return path.with_suffix(f".{name}")
