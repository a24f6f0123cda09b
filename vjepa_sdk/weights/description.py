"""Learn what a model is from its directory's `config.json`, without its weights and without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..config.choices import GRID_SIDE, EncoderWeights
from ..config.documents import read_json
from ..config.model import MODEL_FORMAT, ModelConfig, PreprocessConfig
from ..config.registry import KNOWN_MODELS
from ..config.schema import from_dict, unknown
from ..errors import ConfigError, WeightsError, naming
from . import transformers_layout
from .copies import NO_CONFIG, is_copy, recognise
from .layout import CONFIG_NAME

COMPUTE_DTYPES = ("float32", "float16", "bfloat16")
_CONFIG_KEYS = ("compute_dtype", "encoder_weights", "format_version", "model", "preprocess", "provenance")


@dataclass(frozen=True)
class Shape:
    """What a model takes, and how much it returns."""

    config: ModelConfig
    preprocess: PreprocessConfig

    def values_per_row(self, pooling: str, num_frames: int, *, num_layers: int = 1) -> int:
        """Return how many numbers one row holds at most."""
        values = num_layers * (1 if pooling == "change" else self.config.embed_dim)
        if pooling != "mean":
            values *= max(1, num_frames // self.config.tubelet_size)
        if pooling == "grid":
            values *= GRID_SIDE**2
        if pooling in ("none", "change"):
            values *= (self.preprocess.crop_size // self.config.patch_size) ** 2
        return values


def local_directory(model: str) -> Path | None:
    """Return the directory of a model that is on this disk already, None for what must be looked up elsewhere."""
    directory = Path(os.path.expanduser(model))
    if model and directory.is_dir():
        return directory
    known = KNOWN_MODELS.get(model)
    return known.directory if known is not None and known.is_bundled else None


def read_shape(directory: Path) -> Shape:
    """Read the shape of the model in a directory, ours or transformers'.

    Raises:
        ConfigError: its configuration is missing or not valid.
        WeightsError: no such directory.
    """
    data = read_config(directory)
    if is_copy(data):
        return _shape_of_copy(directory, data)
    with naming(directory / CONFIG_NAME):
        if "model_type" not in data:
            return Shape(*check_ours(data))
        config = transformers_layout.read_config(data)
    return Shape(config, read_processor(directory, data, config))


def _shape_of_copy(directory: Path, data: Mapping[str, Any]) -> Shape:
    """Read the headers of a copy, whose configuration alone does not say enough; the only case that takes torch."""
    from .tensors import read_headers, weight_files

    stored = {name: tensor.shape for name, tensor in read_headers(weight_files(directory)).items()}
    config = recognise(directory, stored, data).config
    return Shape(config, PreprocessConfig.for_crop(config.img_size))


def read_processor(directory: Path, data: Mapping[str, Any], config: ModelConfig) -> PreprocessConfig:
    """Read how a model of transformers wants its frames, from the file beside its configuration `data` if there is one.

    Raises:
        ConfigError: that file is not valid.
    """
    found = [path for name in transformers_layout.PROCESSOR_NAMES if (path := directory / name).is_file()]
    processor = read_json(found[0]) if found else {}
    with naming(found[0] if found else directory):
        return transformers_layout.read_preprocess(data, processor, config)


def read_config(directory: Path) -> dict[str, Any]:
    """Read the `config.json` of a model or probe directory, whoever wrote it; NO_CONFIG where safetensors have none.

    Raises:
        ConfigError: it is missing or no JSON object.
        WeightsError: no such directory.
    """
    if directory.is_file():
        raise WeightsError(
            f"{directory}: is a file; pass a model directory, or run `vjepa convert` on an official file"
        )
    if not directory.is_dir():
        raise WeightsError(f"{directory}: no such directory; pass a model directory or a name from `vjepa models`")
    if not (directory / CONFIG_NAME).is_file():
        if any(directory.glob("*.safetensors")):
            return dict(NO_CONFIG)
        raise ConfigError(f"{directory}: holds no {CONFIG_NAME}; pass a directory that vjepa-sdk or transformers saved")
    return read_json(directory / CONFIG_NAME)


def check_model_config(data: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the content of a `config.json` describes a model that can be loaded."""
    if is_copy(data):
        return
    if "model_type" in data:
        transformers_layout.read_config(data)
        transformers_layout.read_encoder_weights(data)
    else:
        check_ours(data)


def check_ours(data: Mapping[str, Any]) -> tuple[ModelConfig, PreprocessConfig]:
    """Read the content of a `config.json` of ours; raise ConfigError if it is not valid."""
    if "format_version" not in data:
        raise ConfigError(
            "has neither format_version nor model_type, so it describes no model that vjepa-sdk or transformers saved; "
            "pass another directory or repository"
        )
    for key in data:
        if key not in _CONFIG_KEYS:
            raise ConfigError(unknown(f"key {key!r}", key, _CONFIG_KEYS))
    if data.get("format_version") != MODEL_FORMAT:
        raise ConfigError(
            f"format_version={data.get('format_version')!r} must be {MODEL_FORMAT}; a newer vjepa-sdk may read it"
        )
    held = data.get("encoder_weights")
    if held not in get_args(EncoderWeights):
        raise ConfigError(f"encoder_weights={held!r} must be 'target' or 'context'")
    for key in ("model", "preprocess", "provenance"):
        if not isinstance(data.get(key, {}), dict):
            raise ConfigError(f"{key}={data[key]!r} must be an object")
    dtype = data.get("compute_dtype")
    if dtype is not None and (not isinstance(dtype, str) or dtype not in COMPUTE_DTYPES):
        raise ConfigError(f"compute_dtype={dtype!r} must be one of {', '.join(COMPUTE_DTYPES)}")
    return (
        from_dict(ModelConfig, data.get("model", {}), where="model."),
        from_dict(PreprocessConfig, data.get("preprocess", {}), where="preprocess."),
    )
