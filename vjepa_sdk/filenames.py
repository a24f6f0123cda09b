"""Name the files of a model directory; without torch, for whoever only fetches or lists them."""

from __future__ import annotations

import re
from collections.abc import Iterable

CONFIG_NAME = "config.json"
WEIGHTS_NAME, INDEX_NAME = "model.safetensors", "model.safetensors.index.json"
WEIGHT_NAMES = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
"""Every name that weights have in a directory: one file, or shards and their index."""
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".tar", ".ckpt", ".pkl", ".npy")


def pickles_among(names: Iterable[str]) -> list[str]:
    """Return the names under which others keep pickled weights, sorted."""
    return sorted(name for name in names if name.endswith(_PICKLE_SUFFIXES))
