"""Read checkpoints in the test's own process: the child that `convert` starts takes seconds to import torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vjepa_sdk.weights import unpickle_child
from vjepa_sdk.weights.tensors import Stored, read_headers


@contextmanager
def _unpickled(source: Path, *, near: Path) -> Iterator[tuple[dict[str, Stored], dict[str, Any]]]:
    with tempfile.TemporaryDirectory(dir=near.parent) as directory:
        out = Path(directory) / "tensors.safetensors"
        facts = unpickle_child._extract(str(source), str(out))
        yield read_headers([out]), {**facts, "network_isolated": False}


@contextmanager
def in_this_process() -> Iterator[None]:
    """Make `convert` and `initialize` read without a child until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("weights.convert", "training.initialize"):
            patch.setattr(f"vjepa_sdk.{module}.unpickled", _unpickled)
        yield
