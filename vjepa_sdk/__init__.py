"""Turn video into features with joint-embedding predictive models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    # `as` tells type checkers that a name is public
    from .config.model import ModelConfig as ModelConfig
    from .config.model import PreprocessConfig as PreprocessConfig
    from .config.recipes import train_config as train_config
    from .config.registry import ModelInfo as ModelInfo
    from .config.registry import list_models as list_models
    from .config.training import TrainConfig as TrainConfig
    from .corpus.check import CheckedFile as CheckedFile
    from .corpus.check import check_files as check_files
    from .corpus.find import FoundClips as FoundClips
    from .corpus.find import find_clips as find_clips
    from .corpus.lists import ClipSource as ClipSource
    from .downstream.duplicates import DuplicateReport as DuplicateReport
    from .downstream.duplicates import find_duplicates as find_duplicates
    from .downstream.nearest import semantic_search as semantic_search
    from .downstream.outliers import OutlierScores as OutlierScores
    from .downstream.outliers import outlier_scores as outlier_scores
    from .downstream.search import Hit as Hit
    from .downstream.search import SearchIndex as SearchIndex
    from .downstream.surprise import SurpriseNormalizer as SurpriseNormalizer
    from .downstream.surprise_files import SurpriseReport as SurpriseReport
    from .downstream.surprise_files import surprise_files as surprise_files
    from .downstream.surprise_scores import SurpriseEvent as SurpriseEvent
    from .downstream.surprise_scores import find_events as find_events
    from .downstream.surprise_scores import surprise_metrics as surprise_metrics
    from .errors import VJEPAError as VJEPAError
    from .features.embeddings import Embeddings as Embeddings
    from .features.video_features import VideoFeatures as VideoFeatures
    from .hub.locate import load_embeddings as load_embeddings
    from .hub.publish import push as push
    from .hub.publish import write_card as write_card
    from .hub.upload import PushReport as PushReport
    from .inference.embed.job import EmbedResult as EmbedResult
    from .inference.embed.job import embed_files as embed_files
    from .inference.probe import Probe as Probe
    from .inference.surprise import Surprise as Surprise
    from .inference.vjepa import VJEPA as VJEPA
    from .training.plan.estimate import Plan as Plan
    from .training.plan.estimate import plan as plan
    from .training.trainer import PretrainResult as PretrainResult
    from .training.trainer import pretrain as pretrain
    from .video.reader import read_video as read_video
    from .video.sampling import sample_indices as sample_indices

# once more, for Python: torch takes seconds to import, and only a name that needs it pays
_HOMES = {
    "CheckedFile": "corpus.check",
    "ClipSource": "corpus.lists",
    "DuplicateReport": "downstream.duplicates",
    "EmbedResult": "inference.embed.job",
    "Embeddings": "features.embeddings",
    "FoundClips": "corpus.find",
    "Hit": "downstream.search",
    "ModelConfig": "config.model",
    "ModelInfo": "config.registry",
    "OutlierScores": "downstream.outliers",
    "Plan": "training.plan.estimate",
    "PreprocessConfig": "config.model",
    "PretrainResult": "training.trainer",
    "Probe": "inference.probe",
    "PushReport": "hub.upload",
    "SearchIndex": "downstream.search",
    "Surprise": "inference.surprise",
    "SurpriseEvent": "downstream.surprise_scores",
    "SurpriseNormalizer": "downstream.surprise",
    "SurpriseReport": "downstream.surprise_files",
    "TrainConfig": "config.training",
    "VJEPA": "inference.vjepa",
    "VJEPAError": "errors",
    "VideoFeatures": "features.video_features",
    "check_files": "corpus.check",
    "embed_files": "inference.embed.job",
    "find_clips": "corpus.find",
    "find_duplicates": "downstream.duplicates",
    "find_events": "downstream.surprise_scores",
    "list_models": "config.registry",
    "load_embeddings": "hub.locate",
    "outlier_scores": "downstream.outliers",
    "plan": "training.plan.estimate",
    "pretrain": "training.trainer",
    "push": "hub.publish",
    "read_video": "video.reader",
    "sample_indices": "video.sampling",
    "semantic_search": "downstream.nearest",
    "surprise_files": "downstream.surprise_files",
    "surprise_metrics": "downstream.surprise_scores",
    "train_config": "config.recipes",
    "write_card": "hub.publish",
}

if not TYPE_CHECKING:
    # with these a type checker would believe in any name, or in none: it reads no `__all__` that is computed
    __all__ = ["__version__", *_HOMES]

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return ["__version__", *_HOMES]
