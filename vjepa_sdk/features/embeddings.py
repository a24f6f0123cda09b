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
from typing import Any

import numpy as np

INDEX, ERRORS, INPUTS, META = "index.jsonl", "errors.jsonl", "inputs.jsonl", "meta.json"
"""How the names of the files beside the features end."""
META_SUFFIX = f".{META}"


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


def embedding_files(path: Path) -> dict[str, Path]:
    """Return the files of an output by name: the features, and what is beside them."""
    paths = (path, *(sidecar(path, name) for name in (INDEX, ERRORS, INPUTS, META)))
    return {file.name: file for file in paths if file.is_file()}


def sidecar(path: Path, name: str) -> Path:
    """Return the path of a file beside the features, for example with `index.jsonl`."""
    return path.with_suffix(f".{name}")
