"""Read and write probe directories: ours, and the heads of transformers' classification models."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config.model import MODEL_FORMAT
from ..config.schema import from_dict, to_dict, unknown
from ..errors import ConfigError, WriteError, naming
from ..models.attentive_probe import AttentiveProbe, ProbeConfig
from ..runtime.files import atomic_path, write_json, write_text
from . import transformers_layout
from .cards import probe_card
from .description import read_config
from .layout import CARD, CONFIG_NAME, LICENCES, WEIGHTS_NAME, TensorSource
from .provenance import origin_of
from .tensors import check_stored, expected_shapes, load_module, read_headers, weight_files, write_tensors

logger = logging.getLogger(__name__)

_CONFIG_KEYS = ("format_version", "labels", "probe", "provenance")
_GIANT_DIM, _GIANT_HEADS, _OFFICIAL_HEADS = 1408, 22, 16


@dataclass(frozen=True)
class PretrainedProbe:
    """What a probe directory holds."""

    probe: AttentiveProbe
    labels: tuple[str, ...]
    """Names of the classes; empty where they are not recorded."""
    provenance: Mapping[str, Any]
    """Where the weights come from, as plain JSON data; of a probe from the hub also `repository` and `commit`."""


def load_probe(directory: str | Path, *, device: torch.device, dtype: torch.dtype | None = None) -> PretrainedProbe:
    """Load a probe from a directory that `vjepa convert` wrote, or from a transformers classification model.

    Args:
        directory: holds `config.json` and `model.safetensors` (or shards with an index).
        device: where the weights go.
        dtype: of the weights in memory; None: as stored.

    Raises:
        ConfigError: `config.json` is missing, malformed or describes no probe.
        WeightsError: tensors are missing or do not fit.
    """
    directory = Path(directory)
    data = read_config(directory)
    stored = read_headers(weight_files(directory))
    with naming(directory / CONFIG_NAME):
        config, labels, provenance = (_from_transformers if "model_type" in data else _from_ours)(data)
    if "model_type" in data:
        if (config.embed_dim, data.get("num_attention_heads")) == (_GIANT_DIM, _GIANT_HEADS):
            logger.warning(
                "%s: num_attention_heads=%d is the encoder's; ViT-g probes were trained with %d heads, which are used",
                directory / CONFIG_NAME, _GIANT_HEADS, config.num_heads,
            )  # fmt: skip
        stored = {name: value for name, value in stored.items() if name.startswith(transformers_layout.HEAD_PREFIXES)}
    with torch.device("meta"):
        probe = AttentiveProbe(config)
    locate = transformers_layout.probe_source if "model_type" in data else lambda name: TensorSource((name,))
    sources = {name: locate(name) for name in probe.state_dict()}
    check_stored(directory, expected_shapes(probe, sources), stored, remedy="correct config.json or fetch it again")
    load_module(probe, sources=sources, stored=stored, device=device, dtype=dtype)
    return PretrainedProbe(probe, labels, {**provenance, **origin_of(directory)})


def save_probe(
    directory: str | Path, probe: AttentiveProbe, *, labels: Sequence[str] = (), provenance: Mapping[str, Any]
) -> Path:
    """Write a probe directory; every file appears whole, `config.json` last.

    Raises:
        WriteError: the directory cannot be written.
    """
    directory = Path(directory)
    data = {"format_version": MODEL_FORMAT, "probe": to_dict(probe.config), "provenance": dict(provenance)}
    if labels:
        data["labels"] = list(labels)
    tensors = {name: value.detach().cpu().contiguous() for name, value in probe.state_dict().items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_path(directory / WEIGHTS_NAME) as path:
            write_tensors(path, tensors)
        write_text(directory / CARD, probe_card(to_dict(probe.config), labels=labels, provenance=provenance))
        write_json(directory / "config.json", data)
    except OSError as error:
        raise WriteError(f"{directory}: cannot write the probe ({error.strerror or error})") from error
    return directory


def probe_files(directory: str | Path) -> dict[str, Path]:
    """Return the files that make up a probe directory of ours, by name, after loading it.

    Raises:
        ConfigError: `config.json` is missing, malformed or describes no probe.
        WeightsError: tensors are missing or do not fit.
    """
    directory = Path(directory)
    load_probe(directory, device=torch.device("cpu"))
    paths = [directory / name for name in ("config.json", WEIGHTS_NAME, CARD, *LICENCES)]
    return {path.name: path for path in paths if path.is_file()}


def write_probe_card(directory: Path) -> Path:
    """Write the `README.md` of a probe directory anew, and return its path; raises what `load_probe` does."""
    found = load_probe(directory, device=torch.device("cpu"))
    card = probe_card(to_dict(found.probe.config), labels=found.labels, provenance=found.provenance)
    write_text(directory / CARD, card)
    return directory / CARD


def check_probe_config(data: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the content of a `config.json` describes a probe that can be loaded."""
    _ = _from_transformers(data) if "model_type" in data else _from_ours(data)


def _from_ours(data: Mapping[str, Any]) -> tuple[ProbeConfig, tuple[str, ...], Mapping[str, Any]]:
    if not isinstance(data.get("probe"), dict):
        raise ConfigError("describes no probe; pass a directory that `vjepa convert` made from a probe file")
    for key in data:
        if key not in _CONFIG_KEYS:
            raise ConfigError(unknown(f"key {key!r}", key, _CONFIG_KEYS))
    if data.get("format_version") != MODEL_FORMAT:
        raise ConfigError(
            f"format_version={data.get('format_version')!r} must be {MODEL_FORMAT}; a newer vjepa-sdk may read it"
        )
    config = from_dict(ProbeConfig, data["probe"], where="probe.")
    labels, provenance = data.get("labels", []), data.get("provenance", {})
    if not isinstance(provenance, dict):
        raise ConfigError(f"provenance={provenance!r} must be an object")
    return config, _check_labels(labels, config.num_classes), provenance


def _from_transformers(data: Mapping[str, Any]) -> tuple[ProbeConfig, tuple[str, ...], Mapping[str, Any]]:
    if data["model_type"] != "vjepa2":
        raise ConfigError(f"model_type={data['model_type']!r} must be 'vjepa2'; no other has an attentive probe")
    model = transformers_layout.read_config(data)
    names = data.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    if not isinstance(names, dict) or set(names) != {str(index) for index in range(len(names))}:
        raise ConfigError("id2label must name the classes '0' to 'n - 1'")
    depth = data.get("num_pooler_layers", 3)
    if type(depth) is not int or not 0 <= depth < 64:
        raise ConfigError(f"num_pooler_layers={depth!r} must be an integer from 0 to 63")
    heads = model.num_heads
    if (model.embed_dim, heads) == (_GIANT_DIM, _GIANT_HEADS):
        heads = _OFFICIAL_HEADS
    fields: dict[str, Any] = {"embed_dim": model.embed_dim, "num_classes": len(names), "num_heads": heads}
    fields |= {"depth": depth + 1, "norm_eps": model.norm_eps}
    labels = _check_labels([names[str(index)] for index in range(len(names))], len(names))
    return from_dict(ProbeConfig, fields), labels, {"layout": "transformers vjepa2"}


def _check_labels(labels: object, count: int) -> tuple[str, ...]:
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ConfigError("labels must be a list of texts")
    if labels and len(labels) != count:
        raise ConfigError(f"{len(labels)} labels must be as many as num_classes={count}")
    return tuple(labels)
