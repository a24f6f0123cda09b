"""Name model shapes and training recipes, and resolve a run's configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .config import (
    DataConfig,
    MaskConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
    paper_masks,
)
from .errors import ConfigError
from .schema import from_dict, read_toml, to_dict, unknown, with_overrides


def _shape(dim: int, depth: int, heads: int, ratio: float = 4.0) -> ModelConfig:
    return ModelConfig(embed_dim=dim, depth=depth, num_heads=heads, mlp_ratio=ratio)


MODELS: dict[str, ModelConfig] = {
    "vit_tiny": _shape(192, 12, 3),
    "vit_small": _shape(384, 12, 6),
    "vit_base": _shape(768, 12, 12),
    "vit_large": _shape(1024, 24, 16),
    "vit_huge": _shape(1280, 32, 16),
    "vit_giant": _shape(1408, 40, 22, 48 / 11),
    "vit_gigantic": _shape(1664, 48, 26, 64 / 13),
}
"""Model presets: encoder width, depth and heads of the official factories."""

RECIPES: dict[str, TrainConfig] = {
    "tiny": TrainConfig(
        preset="tiny",
        model=ModelConfig(
            img_size=96,
            num_frames=8,
            embed_dim=192,
            depth=12,
            num_heads=3,
            level_layers=(2, 5, 8, 11),
            predictor_embed_dim=128,
            predictor_depth=4,
            predictor_num_heads=2,
            predictor_levels=4,
            predictor_context=True,
        ),
        masks=(
            MaskConfig(num_blocks=4, spatial_scale=(0.15, 0.15)),
            MaskConfig(num_blocks=1, spatial_scale=(0.6, 0.6)),
        ),
        objective=ObjectiveConfig(
            context_weight=0.5,
            context_distance_weighted=False,
            variance_weight=0.3,
            covariance_weight=0.006,
            ema_start=0.99,
        ),
        data=DataConfig(frame_stride=(1, 6)),
        optim=OptimConfig(
            lr=1.5e-4,
            start_lr=1.5e-5,
            final_lr=1e-6,
            schedule="wsd",
            warmup_steps=100,
            decay_steps=90,
            final_weight_decay=0.04,
            max_grad_norm=3.0,
        ),
        steps=350,
        batch_size=16,
        save_every=50,
    ),
    "vjepa-vitl16": TrainConfig(
        preset="vjepa-vitl16",
        model=dataclasses.replace(
            MODELS["vit_large"], img_size=224, position="sincos", predictor_num_heads=16, num_mask_tokens=2
        ),
        masks=paper_masks("truncate"),
        objective=ObjectiveConfig(ema_start=0.998, ema_end=1.0),
        data=DataConfig(frame_stride=(4, 4), num_workers=8),
        optim=OptimConfig(warmup_steps=12_000, schedule_scale=1.25, max_grad_norm=10.0),
        steps=90_000,
        batch_size=24,
        precision="bfloat16",
        seed=234,
    ),
    "vjepa2-vitl16": TrainConfig(
        preset="vjepa2-vitl16",
        model=dataclasses.replace(MODELS["vit_large"], num_mask_tokens=10),
        masks=paper_masks("truncate"),
        objective=ObjectiveConfig(mask_token="shared", ema_start=0.99925, ema_end=0.99925),
        data=DataConfig(frame_stride=(4, 4), num_workers=8),
        optim=OptimConfig(
            lr=5.25e-4,
            start_lr=1e-4,
            final_lr=5.25e-4,
            schedule="constant",
            warmup_steps=12_000,
            final_weight_decay=0.04,
        ),
        steps=240_000,
        batch_size=24,
        precision="bfloat16",
        seed=239,
    ),
}
"""Recipes for `vjepa pretrain --preset`: hyper-parameters as data."""


def train_config(
    *,
    preset: str | None = None,
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Resolve a training configuration: recipe < TOML file < `settings` < `overrides`.

    Args:
        preset: name of a recipe; None takes the file's `preset`, else `tiny`.
        path: TOML file whose tables are those of `TrainConfig`.
        overrides: `section.key=value` strings.
        settings: plain data merged over the file, for example `{"data": {"path": "clips"}}`.

    Raises:
        ConfigError: an unknown recipe or key, or a value out of range.
    """
    from_file = read_toml(path) if path is not None else {}
    name = preset or from_file.get("preset") or "tiny"
    if name not in RECIPES:
        raise ConfigError(unknown(f"recipe {name!r}", str(name), RECIPES))
    data = _merge(to_dict(RECIPES[name]), {**from_file, "preset": name})
    return from_dict(TrainConfig, with_overrides(_merge(data, settings or {}), overrides))


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
