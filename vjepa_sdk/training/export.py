"""Export what a run has learnt as a model directory, with a card that tells how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config.model import PreprocessConfig
from ..config.training import TrainConfig
from ..models.jepa import JEPA
from ..weights.cards import training_card
from ..weights.directory import save_model_directory
from ..weights.evaluation import read_metrics
from .initialize import Origin


def export_model(jepa: JEPA, config: TrainConfig, *, step: int, num_videos: int, origin: Origin | None) -> Path:
    """Write target encoder, context encoder and predictor to `config.out/model`.

    Args:
        step: optimizer steps done.
        num_videos: files that the run drew its clips from.
        origin: of the run's first weights; None: random ones.

    Raises:
        WriteError: the directory cannot be written.
    """
    provenance: dict[str, Any] = {
        "made_by": "vjepa pretrain",
        "preset": config.preset or "none",
        "steps": step,
        "clips_seen": step * config.batch_size,
        "videos": num_videos,
        "seed": config.seed,
    }
    if config.data.fps is not None:
        provenance["fps"] = config.data.fps
    if origin is not None:
        provenance["initialized_from"] = str(origin)
        if origin.licence is not None:
            provenance["licence"] = origin.licence
    out, preprocess = Path(config.out), PreprocessConfig.for_crop(config.model.img_size)
    return save_model_directory(
        out / "model",
        config=config.model,
        preprocess=preprocess,
        modules={
            "encoder": jepa.target_encoder,
            "context_encoder": jepa.context_encoder,
            "predictor": jepa.predictor,
        },
        encoder_weights="target",
        provenance=provenance,
        card=training_card(
            config, provenance=provenance, preprocess=preprocess, metrics=read_metrics(out / "metrics.jsonl")
        ),
    )
