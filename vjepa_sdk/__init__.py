"""Turn video into features with joint-embedding predictive models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    # `as` tells type checkers that a name is public
    from .config.model import ModelConfig as ModelConfig
    from .config.model import PreprocessConfig as PreprocessConfig
    from .config.protocols import ProbeProtocol as ProbeProtocol
    from .config.protocols import list_protocols as list_protocols
    from .config.recipes import train_config as train_config
    from .config.registry import ModelInfo as ModelInfo
    from .config.registry import list_models as list_models
    from .config.training import TrainConfig as TrainConfig
    from .corpus.check import CheckedFile as CheckedFile
    from .corpus.check import check_files as check_files
    from .corpus.find import FoundClips as FoundClips
    from .corpus.find import find_clips as find_clips
    from .corpus.lists import ClipSource as ClipSource
    from .corpus.samples import sample_videos as sample_videos
    from .downstream.clusters import Cluster as Cluster
    from .downstream.clusters import Clusters as Clusters
    from .downstream.clusters import cluster as cluster
    from .downstream.duplicates import DuplicateReport as DuplicateReport
    from .downstream.duplicates import find_duplicates as find_duplicates
    from .downstream.nearest import semantic_search as semantic_search
    from .downstream.outliers import Mislabelled as Mislabelled
    from .downstream.outliers import OutlierScores as OutlierScores
    from .downstream.outliers import label_errors as label_errors
    from .downstream.outliers import outlier_scores as outlier_scores
    from .downstream.probe import Probe as Probe
    from .downstream.probe_report import ProbeReport as ProbeReport
    from .downstream.probe_training import train_probe as train_probe
    from .downstream.probe_use import PredictionReport as PredictionReport
    from .downstream.probe_use import VideoPrediction as VideoPrediction
    from .downstream.probe_use import evaluate_probe as evaluate_probe
    from .downstream.probe_use import predict_files as predict_files
    from .downstream.scores import ProbeScores as ProbeScores
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
    from .inference.backbone import Backbone as Backbone
    from .inference.embed.job import EmbedResult as EmbedResult
    from .inference.embed.job import embed_files as embed_files
    from .inference.embed.merge import MergeResult as MergeResult
    from .inference.embed.merge import merge_embeddings as merge_embeddings
    from .inference.surprise import Surprise as Surprise
    from .inference.vjepa import VJEPA as VJEPA
    from .training.loggers import MetricsLogger as MetricsLogger
    from .training.plan.estimate import Plan as Plan
    from .training.plan.estimate import plan as plan
    from .training.trainer import PretrainResult as PretrainResult
    from .training.trainer import pretrain as pretrain
    from .video.reader import read_video as read_video
    from .video.sampling import sample_indices as sample_indices
    from .viz.attention import AttentionMaps as AttentionMaps
    from .viz.attention import attention_maps as attention_maps
    from .viz.embedding_map import embedding_map as embedding_map
    from .viz.map_page import EmbeddingMap as EmbeddingMap
    from .viz.map_page import draw_embeddings as draw_embeddings
    from .viz.maps import FeatureMaps as FeatureMaps
    from .viz.pca import Basis as Basis
    from .viz.pca import PCAMaps as PCAMaps
    from .viz.pca import feature_pca as feature_pca
    from .viz.probe_page import draw_probe as draw_probe
    from .viz.probe_results import ProbeResults as ProbeResults
    from .viz.run_page import RunCurves as RunCurves
    from .viz.run_page import draw_run as draw_run
    from .viz.similarity import SimilarityMaps as SimilarityMaps
    from .viz.similarity import similarity_map as similarity_map
    from .viz.surprise_page import SurpriseMaps as SurpriseMaps
    from .viz.surprise_page import surprise_maps as surprise_maps

# once more, for Python: torch takes seconds to import, and only a name that needs it pays
_HOMES = {
    "AttentionMaps": "viz.attention",
    "Basis": "viz.pca",
    "CheckedFile": "corpus.check",
    "ClipSource": "corpus.lists",
    "Cluster": "downstream.clusters",
    "Clusters": "downstream.clusters",
    "DuplicateReport": "downstream.duplicates",
    "Backbone": "inference.backbone",
    "EmbedResult": "inference.embed.job",
    "EmbeddingMap": "viz.map_page",
    "Embeddings": "features.embeddings",
    "FeatureMaps": "viz.maps",
    "FoundClips": "corpus.find",
    "Hit": "downstream.search",
    "MergeResult": "inference.embed.merge",
    "MetricsLogger": "training.loggers",
    "Mislabelled": "downstream.outliers",
    "ModelConfig": "config.model",
    "ModelInfo": "config.registry",
    "OutlierScores": "downstream.outliers",
    "PCAMaps": "viz.pca",
    "Plan": "training.plan.estimate",
    "PredictionReport": "downstream.probe_use",
    "PreprocessConfig": "config.model",
    "PretrainResult": "training.trainer",
    "Probe": "downstream.probe",
    "ProbeProtocol": "config.protocols",
    "ProbeReport": "downstream.probe_report",
    "ProbeResults": "viz.probe_results",
    "ProbeScores": "downstream.scores",
    "PushReport": "hub.upload",
    "RunCurves": "viz.run_page",
    "SearchIndex": "downstream.search",
    "SimilarityMaps": "viz.similarity",
    "Surprise": "inference.surprise",
    "SurpriseEvent": "downstream.surprise_scores",
    "SurpriseMaps": "viz.surprise_page",
    "SurpriseNormalizer": "downstream.surprise",
    "SurpriseReport": "downstream.surprise_files",
    "TrainConfig": "config.training",
    "VJEPA": "inference.vjepa",
    "VJEPAError": "errors",
    "VideoFeatures": "features.video_features",
    "VideoPrediction": "downstream.probe_use",
    "attention_maps": "viz.attention",
    "check_files": "corpus.check",
    "cluster": "downstream.clusters",
    "draw_embeddings": "viz.map_page",
    "draw_probe": "viz.probe_page",
    "draw_run": "viz.run_page",
    "embed_files": "inference.embed.job",
    "embedding_map": "viz.embedding_map",
    "evaluate_probe": "downstream.probe_use",
    "feature_pca": "viz.pca",
    "find_clips": "corpus.find",
    "find_duplicates": "downstream.duplicates",
    "find_events": "downstream.surprise_scores",
    "label_errors": "downstream.outliers",
    "list_models": "config.registry",
    "list_protocols": "config.protocols",
    "load_embeddings": "hub.locate",
    "merge_embeddings": "inference.embed.merge",
    "outlier_scores": "downstream.outliers",
    "plan": "training.plan.estimate",
    "predict_files": "downstream.probe_use",
    "pretrain": "training.trainer",
    "push": "hub.publish",
    "read_video": "video.reader",
    "sample_indices": "video.sampling",
    "sample_videos": "corpus.samples",
    "semantic_search": "downstream.nearest",
    "similarity_map": "viz.similarity",
    "surprise_files": "downstream.surprise_files",
    "surprise_maps": "viz.surprise_page",
    "surprise_metrics": "downstream.surprise_scores",
    "train_config": "config.recipes",
    "train_probe": "downstream.probe_training",
    "write_card": "hub.publish",
}

if not TYPE_CHECKING:
    # with these a type checker would believe in any name, or in none: it reads no `__all__` that is computed
    __all__ = ["__version__", *_HOMES]

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        host = importlib.import_module(".runtime.host", __name__)
        host.load_torch_from_anywhere()
        with host.collector_at_rest():
            home = importlib.import_module(f".{_HOMES[name]}", __name__)
        return getattr(home, name)


def __dir__() -> list[str]:
    return ["__version__", *_HOMES]
