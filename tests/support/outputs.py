"""Outputs of `vjepa embed`, written without a model: rows and names are given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vjepa_sdk.features.formats import Row, write_features
from vjepa_sdk.runtime.files import sha256_of


def write_output(path: Path, rows: np.ndarray, names: Sequence[str] | None = None) -> Path:
    """Write an output: rows `[N, D]`, and for each a clip of one second; without names `0.mp4` and so on."""
    names = names or [f"{number}.mp4" for number in range(len(rows))]
    index = [
        {"row": row, "id": name, "path": name, "start_seconds": 0.0, "end_seconds": 1.0, "frames": [0], "size": None}
        for row, name in enumerate(names)
    ]
    with open(path, "wb") as file:
        lines = [Row(entry, row) for entry, row in zip(index, rows, strict=True)]
        shapes = [row.shape for row in rows]
        write_features(file, lines, suffix=path.suffix, shapes=shapes, dtype="float32", columns={})
    path.with_suffix(".index.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in index))
    meta = {"output": path.name, "rows": len(rows), "sha256": sha256_of(path), "model": {"name": "tiny"}}
    path.with_suffix(".meta.json").write_text(json.dumps({**meta, "settings": {"decoder": "pyav"}}))
    return path


def clustered(*sizes: int, dim: int = 8, spread: float = 0.1, seed: int = 0) -> np.ndarray:
    """Return rows float32 `[sum(sizes), D]` around as many centres as there are sizes, one after the other."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(len(sizes), dim))
    rows = np.repeat(centres, sizes, axis=0) + spread * rng.normal(size=(sum(sizes), dim))
    return rows.astype(np.float32)
