"""Turn video into features with joint-embedding predictive models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .config.model import ModelConfig, PreprocessConfig
    from .config.recipes import train_config
    from .config.registry import list_models
    from .config.training import TrainConfig
    from .corpus.check import check_files
    from .errors import VJEPAError
    from .features.video_features import VideoFeatures
    from .hub.locate import load_embeddings
    from .hub.publish import push, write_card
    from .inference.embed.job import embed_files
    from .inference.probe import Probe
    from .inference.vjepa import VJEPA
    from .training.trainer import pretrain

_HOMES = {
    "VJEPA": "inference.vjepa",
    "ModelConfig": "config.model",
    "PreprocessConfig": "config.model",
    "Probe": "inference.probe",
    "TrainConfig": "config.training",
    "VJEPAError": "errors",
    "VideoFeatures": "features.video_features",
    "check_files": "corpus.check",
    "embed_files": "inference.embed.job",
    "list_models": "config.registry",
    "load_embeddings": "hub.locate",
    "pretrain": "training.trainer",
    "push": "hub.publish",
    "train_config": "config.recipes",
    "write_card": "hub.publish",
}

__all__ = [
    "VJEPA",
    "ModelConfig",
    "PreprocessConfig",
    "Probe",
    "TrainConfig",
    "VJEPAError",
    "VideoFeatures",
    "__version__",
    "check_files",
    "embed_files",
    "list_models",
    "load_embeddings",
    "pretrain",
    "push",
    "train_config",
    "write_card",
]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; only a name that needs it pays
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
