"""Learn a model's shape from its directory, without its weights and, for our own layout, without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import ModelConfig, PreprocessConfig
from .errors import ConfigError
from .registry import MODELS
from .schema import from_dict, read_json


@dataclass(frozen=True)
class Shape:
    """What a model takes, and how much it returns."""

    config: ModelConfig
    preprocess: PreprocessConfig

    def values_per_row(self, pooling: str, num_frames: int, *, num_layers: int = 1) -> int:
        """Return how many numbers one row holds at most."""
        values = self.config.embed_dim * num_layers
        if pooling != "mean":
            values *= max(1, num_frames // self.config.tubelet_size)
        if pooling == "none":
            values *= (self.preprocess.crop_size // self.config.patch_size) ** 2
        return values


def local_directory(model: str) -> Path | None:
    """Return the directory of a model that is on this disk already, None for what must be looked up elsewhere."""
    directory = Path(os.path.expanduser(model))
    if model and directory.is_dir():
        return directory
    known = MODELS.get(model)
    return known.directory if known is not None and known.is_bundled else None


def read_shape(directory: Path) -> Shape:
    """Read the shape of the model in a directory, ours or transformers'.

    Raises:
        ConfigError: its configuration is missing or not valid.
    """
    data = read_json(directory / "config.json")
    if "model_type" in data:
        return _transformers_shape(directory, data)
    for key in ("model", "preprocess"):
        if not isinstance(data.get(key, {}), dict):
            raise ConfigError(f"{directory / 'config.json'}: {key}={data[key]!r} must be an object")
    config = from_dict(ModelConfig, data.get("model", {}), where="model.")
    return Shape(config, from_dict(PreprocessConfig, data.get("preprocess", {}), where="preprocess."))


def _transformers_shape(directory: Path, data: dict[str, Any]) -> Shape:
    from . import transformers_layout  # imports torch

    config = transformers_layout.read_config(data)
    found = [path for name in transformers_layout.PROCESSOR_NAMES if (path := directory / name).is_file()]
    return Shape(config, transformers_layout.read_preprocess(data, read_json(found[0]) if found else {}, config))
