"""Read the head of transformers' `IJepaForImageClassification`: a linear layer on the mean of the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config.schema import from_dict
from ..errors import ConfigError
from ..models.vector_probe import LinearProbe, LinearProbeConfig
from .layout import TensorSource
from .tensors import Stored, check_stored, load_module
from .transformers_layout import HEAD_PREFIXES, read_config

_CLASS = "IJepaForImageClassification"


def is_image_classifier(data: Mapping[str, Any]) -> bool:
    """Whether the content of a `config.json` is of I-JEPA with a head."""
    return data.get("model_type") == "ijepa" and _CLASS in (data.get("architectures") or ())


def read_image_classifier(data: Mapping[str, Any]) -> tuple[LinearProbeConfig, tuple[str, ...]]:
    """Return the shape of the head, and the names of its classes; transformers' defaults where they are missing.

    Raises:
        ConfigError: classes that are not named from '0' on.
    """
    names = data.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    if not isinstance(names, dict) or set(names) != {str(index) for index in range(len(names))}:
        raise ConfigError("id2label must name the classes '0' to 'n - 1'")
    labels = [names[str(index)] for index in range(len(names))]
    if not all(isinstance(label, str) for label in labels):
        raise ConfigError("id2label must map to texts")
    fields = {"embed_dim": read_config(data).embed_dim, "num_classes": len(labels), "has_centres": False}
    return from_dict(LinearProbeConfig, fields, where="config."), tuple(labels)


def load_image_classifier(
    directory: Path, data: Mapping[str, Any], stored: Mapping[str, Stored], *, device: torch.device
) -> LinearProbe:
    """Load the head as a linear probe that standardises nothing: what it returns are transformers' logits.

    Raises:
        ConfigError: see `read_image_classifier`.
        WeightsError: the head is missing or does not fit.
    """
    config, _ = read_image_classifier(data)
    head = nn.Linear(config.embed_dim, config.num_classes, device="meta")
    expected = {f"classifier.{name}": tuple(value.shape) for name, value in head.state_dict().items()}
    kept = {name: tensor for name, tensor in stored.items() if name.startswith(HEAD_PREFIXES)}
    check_stored(directory, expected, kept, remedy="correct config.json or fetch it again")
    sources = {name: TensorSource((f"classifier.{name}",)) for name in head.state_dict()}
    load_module(head, sources=sources, stored=kept, device=device, dtype=torch.float32)
    probe = LinearProbe(config).to(device).eval()
    probe.weight = nn.Parameter(head.weight, requires_grad=False)
    probe.bias = nn.Parameter(head.bias, requires_grad=False)
    return probe
