"""Name the files of a model directory; without torch, for whoever only fetches or lists them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CONFIG_NAME = "config.json"
WEIGHTS_NAME, INDEX_NAME = "model.safetensors", "model.safetensors.index.json"
WEIGHT_NAMES = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
"""Every name that weights have in a directory: one file, or shards and their index."""
CARD = "README.md"
HERE = "path/to/this/directory"
"""Stands in a card for the model's address, until it has one on the hub."""
LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt")
PREDICTIONS = "predictions.csv"
"""Beside a probe that `train_probe` wrote: what it says of the videos that it was tested on."""
EVALUATION_NAME = "evaluation.json"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".tar", ".ckpt", ".pkl", ".npy")


def pickles_among(names: Iterable[str]) -> list[str]:
    """Return the names under which others keep pickled weights, sorted."""
    return sorted(name for name in names if name.endswith(_PICKLE_SUFFIXES))


@dataclass(frozen=True)
class TensorSource:
    """Where one of our tensors lies in a file of another layout."""

    names: tuple[str, ...]
    """Stored tensors which, one after the other along their first axis, make ours."""
    row: int | None = None
    """Ours is only this index of the stored tensor's first axis, ..."""
    rows: int = 1
    """... which has this length."""
    lacks_frame_axis: bool = False
    """Stored `[D, 3, P, P]`, ours `[D, 3, 1, P, P]`: the patch embedding of image models."""

    def stored_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape that each stored tensor must have so that ours has `shape`."""
        if self.row is not None:
            return (self.rows, *shape)
        if self.lacks_frame_axis:
            return (*shape[:2], *shape[3:])
        return (shape[0] // len(self.names), *shape[1:])
