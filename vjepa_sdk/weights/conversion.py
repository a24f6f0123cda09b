"""Say what a conversion did, and turn copies that others made into directories of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..config.model import ModelConfig, PreprocessConfig
from ..models.encoder import VideoEncoder
from ..models.predictor import Predictor
from .cards import model_card
from .copies import recognise
from .directory import save_model_directory
from .layout import TensorSource
from .tensors import Stored, check_stored, expected_shapes, load_module

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did with every tensor."""

    out: Path
    kind: Literal["model", "probe"]
    architecture: str
    """Published model the source was taken for, or `custom`."""
    mapped: dict[str, tuple[str, ...]]
    """Tensors of our layout, and those of the other layout that they are made of."""
    dropped: dict[str, str]
    """What was left out, and why."""
    network_isolated: bool | None
    """Whether the process that read a pickle had no network; None: no pickle was read."""


def mapped(
    modules: Mapping[str, nn.Module], sources: Mapping[str, Mapping[str, TensorSource]]
) -> dict[str, tuple[str, ...]]:
    """Return for every tensor of ours those that it is made of."""
    return {
        f"{key}.{name}": sources[key][name].names for key, module in modules.items() for name in module.state_dict()
    }


def convert_copy(
    source: Path,
    out: Path,
    stored: Mapping[str, Stored],
    *,
    arch: str | ModelConfig | None,
    data: Mapping[str, Any],
    provenance: Mapping[str, Any],
    dropped: Mapping[str, str],
    isolated: bool | None,
) -> ConversionReport:
    """Write a model that is recognised by the names and shapes of its tensors.

    Args:
        stored: what it holds.
        arch: what it is, where that cannot be told.
        data: what the `config.json` beside it says, empty if there is none.
        provenance: what is known of it beforehand.
        dropped: what was left out already, and why.
        isolated: whether the process that read a pickle had no network.
    """
    copy = recognise(source, {name: tensor.shape for name, tensor in stored.items()}, data, arch=arch)
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {
            key: Predictor(copy.config) if key == "predictor" else VideoEncoder(copy.config) for key in copy.networks
        }
    sources = {key: copy.sources(key, module.state_dict()) for key, module in modules.items()}
    expected = {name: shape for key in modules for name, shape in expected_shapes(modules[key], sources[key]).items()}
    kept = {name: tensor for name, tensor in stored.items() if name not in copy.dropped}
    check_stored(source, expected, kept, remedy="name the right architecture with arch= (--arch)")
    for key, module in modules.items():
        load_module(module, sources=sources[key], stored=stored, device=_CPU, dtype=None)
    facts = {**provenance, **copy.provenance}
    save_model_directory(
        out,
        config=copy.config,
        preprocess=PreprocessConfig.for_crop(copy.config.img_size),
        modules=modules,
        encoder_weights=copy.encoder_weights,
        provenance=facts,
        card=model_card(copy.config, provenance=facts),
    )
    return ConversionReport(
        out, "model", copy.architecture, mapped(modules, sources), {**dropped, **copy.dropped}, isolated
    )
