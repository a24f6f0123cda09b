"""Name model shapes and training recipes, and resolve a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, OutputError
from .documents import read_toml, with_overrides
from .model import ModelConfig
from .schema import from_dict, to_dict, unknown
from .training import DataConfig, ImagesConfig, MaskConfig, ObjectiveConfig, OptimConfig, TrainConfig, paper_masks


def _shape(dim: int, depth: int, heads: int, ratio: float = 4.0) -> ModelConfig:
    return ModelConfig(embed_dim=dim, depth=depth, num_heads=heads, mlp_ratio=ratio)


SHAPES: dict[str, ModelConfig] = {
    "vit_tiny": _shape(192, 12, 3),
    "vit_small": _shape(384, 12, 6),
    "vit_base": _shape(768, 12, 12),
    "vit_large": _shape(1024, 24, 16),
    "vit_huge": _shape(1280, 32, 16),
    "vit_giant": _shape(1408, 40, 22, 48 / 11),
    "vit_gigantic": _shape(1664, 48, 26, 64 / 13),
}
"""Model presets: encoder width, depth and heads of the official factories."""


def _vjepa(encoder: str, *, img_size: int = 224, batch_size: int = 3072, micro_batch_size: int = 24) -> TrainConfig:
    """V-JEPA 1 (arXiv 2404.08471, appendix; `configs/pretrain/*.yaml`): 90,000 steps of VideoMix2M."""
    return TrainConfig(
        model=replace(SHAPES[encoder], img_size=img_size, position="sincos", predictor_num_heads=16),
        masks=paper_masks("truncate"),
        objective=ObjectiveConfig(ema_start=0.998, ema_end=1.0),
        data=DataConfig(index_rule="official", antialias=False, num_workers=8),
        # clipping begins with the epoch after the 40 epochs of warm-up, of 300 steps each
        optim=OptimConfig(warmup_steps=12_000, schedule_scale=1.25, max_grad_norm=10.0, clip_from_step=12_300),
        steps=90_000,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        precision="bfloat16",
        seed=234,
    )


def _vjepa2(encoder: str) -> TrainConfig:
    """V-JEPA 2, first phase (arXiv 2506.09985; `configs/train/*/pretrain-256px-16f.yaml`): 12k + 228k steps."""
    return TrainConfig(
        model=replace(SHAPES[encoder], num_mask_tokens=10),
        masks=paper_masks("truncate"),
        objective=ObjectiveConfig(mask_token="shared", ema_start=0.99925, ema_end=0.99925),
        data=DataConfig(fps=4.0, index_rule="official", antialias=False, num_workers=8),
        optim=OptimConfig(
            lr=5.25e-4,
            start_lr=1e-4,
            final_lr=5.25e-4,
            schedule="constant",
            warmup_steps=12_000,
            final_weight_decay=0.04,
        ),
        steps=240_000,
        batch_size=3072,
        micro_batch_size=24,
        precision="bfloat16",
        activation_checkpointing=True,
        seed=239,
    )


def _cooldown(first: TrainConfig, *, img_size: int, micro_batch_size: int) -> TrainConfig:
    """The last 12,000 steps of V-JEPA 2 and 2.1: 64 frames, linear decay; give the first phase as `init_from`.

    The decay is laid out over 15,000 steps, as in the official files, so it stops well above `final_lr`.
    """
    return replace(
        first,
        model=replace(first.model, img_size=img_size, num_frames=64),
        optim=replace(
            first.optim, start_lr=first.optim.lr, final_lr=1e-6, schedule="linear", warmup_steps=0, schedule_scale=1.25
        ),
        steps=12_000,
        micro_batch_size=micro_batch_size,
    )


def _vjepa21(encoder: str, level_layers: tuple[int, ...], *, micro_batch_size: int, stills: int) -> TrainConfig:
    """V-JEPA 2.1, first phase (arXiv 2603.14482; `configs/train_2_1/*`).

    The length is the paper's 135,000 steps; the released files say 300,000, at a constant learning rate.
    """
    first = _vjepa2(encoder)
    return replace(
        first,
        model=replace(
            SHAPES[encoder],
            rope_layout="interleaved",
            rope_grid=16,
            predictor_rope_grid=16,
            level_layers=level_layers,
            image_tokenizer=True,
            predictor_depth=24,
            predictor_levels=4,
            predictor_context=True,
            num_mask_tokens=8,
        ),
        objective=replace(first.objective, context_weight=0.5, context_ramp=(15_000, 30_000)),
        optim=replace(first.optim, lr=6e-4, final_lr=6e-4),
        images=ImagesConfig(
            data=DataConfig(antialias=False, num_workers=8),
            masks=(MaskConfig(num_blocks=10, equalize="truncate"),),
            batch_size=4608,
            micro_batch_size=stills,
        ),
        steps=135_000,
        micro_batch_size=micro_batch_size,
    )


def _vjepa21_cooldown(first: TrainConfig, *, micro_batch_size: int, stills: int) -> TrainConfig:
    """Clips of 384 and stills of 512 px, as in the paper; the released files say 256, the released weights 384.

    Twice the ranks of the first phase, each with half the clips and as many stills: twice the stills in a step.
    """
    last = _cooldown(first, img_size=384, micro_batch_size=micro_batch_size)
    images = first.images or ImagesConfig()
    return replace(
        last,
        objective=replace(first.objective, context_ramp=None, context_distance_weighted=False),
        images=replace(images, img_size=512, batch_size=2 * images.batch_size, micro_batch_size=stills),
    )


def _ijepa_masks() -> tuple[MaskConfig, ...]:
    return (MaskConfig(kind="ijepa", num_blocks=4, spatial_scale=(0.15, 0.2)),)


def _ijepa(encoder: str, *, patch_size: int) -> TrainConfig:
    """I-JEPA (arXiv 2301.08243, appendix A; `configs/in1k_vith14_ep300.yaml`): 300 epochs of ImageNet-1k."""
    return TrainConfig(
        model=replace(
            SHAPES[encoder],
            img_size=224,
            num_frames=1,
            tubelet_size=1,
            patch_size=patch_size,
            position="sincos",
            predictor_num_heads=16,
            num_mask_tokens=1,
        ),
        masks=_ijepa_masks(),
        objective=ObjectiveConfig(loss="smooth_l1", ema_start=0.996, ema_end=1.0),
        data=DataConfig(crop_aspect_ratio=(3 / 4, 4 / 3), horizontal_flip=False, num_workers=8),
        optim=OptimConfig(lr=1e-3, warmup_steps=25_000),
        steps=187_500,
        batch_size=2048,
        micro_batch_size=128,
        precision="bfloat16",
    )


def _one_gpu(encoder: str, *, micro_batch_size: int, predictor_depth: int = 12) -> TrainConfig:
    """V-JEPA 2's shape and objective for one GPU: a batch of 240 in 20, 12 or 5 passes, masks in columns."""
    first = _vjepa2(encoder)
    return replace(
        first,
        model=replace(SHAPES[encoder], img_size=224, predictor_depth=predictor_depth),
        masks=paper_masks("columns"),
        objective=replace(first.objective, ema_start=0.998, ema_end=1.0),
        data=DataConfig(fps=4.0, num_workers=8),
        optim=OptimConfig(
            lr=3e-4,
            start_lr=3e-5,
            schedule="wsd",
            warmup_steps=2_000,
            decay_steps=5_000,
            final_weight_decay=0.04,
            max_grad_norm=1.0,
        ),
        steps=50_000,
        batch_size=240,
        micro_batch_size=micro_batch_size,
        activation_checkpointing=False,
        seed=0,
    )


def _tiny() -> TrainConfig:
    """One CPU core: nine passes of ten predict the future of small clips, with terms against collapse.

    Two levels and a context loss as in V-JEPA 2.1; the future as in the study of intuitive physics (arXiv 2502.11831).
    """
    return TrainConfig(
        model=ModelConfig(
            img_size=48,
            num_frames=8,
            patch_size=8,
            embed_dim=192,
            depth=6,
            num_heads=6,
            level_layers=(2, 5),
            predictor_embed_dim=96,
            predictor_depth=3,
            predictor_num_heads=3,
            predictor_levels=2,
            predictor_context=True,
            num_mask_tokens=1,
        ),
        masks=(
            MaskConfig(kind="future", context_steps=(2, 2), share=0.9),
            MaskConfig(num_blocks=4, spatial_scale=(0.2, 0.2), share=0.1),
        ),
        objective=ObjectiveConfig(
            context_weight=0.5,
            context_distance_weighted=False,
            variance_weight=0.1,
            covariance_weight=0.005,
            mask_token="shared",
            ema_start=0.99,
            ema_end=0.999,
        ),
        data=DataConfig(frame_stride=(1, 4), still=0.35, moving_window=0.5, sprites=0.35, color_jitter=0.3),
        optim=OptimConfig(
            lr=2e-3,
            start_lr=1e-4,
            final_lr=0.0,
            warmup_steps=150,
            weight_decay=0.05,
            final_weight_decay=0.05,
            betas=(0.9, 0.98),
            max_grad_norm=3.0,
        ),
        steps=4_500,
        batch_size=32,
        log_every=50,
        save_every=500,
    )


def _ijepa_tiny() -> TrainConfig:
    """Two CPU cores: I-JEPA on stills of 12 x 12 tokens, with the terms against collapse of `tiny`."""
    tiny = _tiny()
    return replace(
        tiny,
        model=ModelConfig(
            img_size=96,
            num_frames=1,
            tubelet_size=1,
            patch_size=8,
            position="sincos",
            embed_dim=192,
            depth=12,
            num_heads=3,
            predictor_embed_dim=128,
            predictor_depth=4,
            predictor_num_heads=2,
            num_mask_tokens=1,
        ),
        masks=_ijepa_masks(),
        objective=ObjectiveConfig(loss="smooth_l1", variance_weight=0.3, covariance_weight=0.006, ema_start=0.99),
        data=DataConfig(crop_aspect_ratio=(3 / 4, 4 / 3)),
        optim=OptimConfig(
            lr=1.5e-4,
            start_lr=1.5e-5,
            schedule="wsd",
            warmup_steps=100,
            decay_steps=90,
            final_weight_decay=0.04,
            max_grad_norm=3.0,
        ),
        steps=350,
        log_every=10,
        save_every=50,
    )


def _recipes() -> dict[str, TrainConfig]:
    large, giant, gigantic = (
        _vjepa21("vit_large", (5, 11, 17, 23), micro_batch_size=48, stills=72),
        _vjepa21("vit_giant", (9, 19, 29, 39), micro_batch_size=48, stills=72),
        _vjepa21("vit_gigantic", (11, 23, 37, 47), micro_batch_size=24, stills=36),
    )
    recipes = {
        "tiny": _tiny(),
        "ijepa-tiny": _ijepa_tiny(),
        "vjepa2-vits16-8gb": _one_gpu("vit_small", micro_batch_size=12, predictor_depth=6),
        "vjepa2-vitb16-24gb": _one_gpu("vit_base", micro_batch_size=20),
        "vjepa2-vitl16-80gb": _one_gpu("vit_large", micro_batch_size=48),
        "vjepa-vitl16": _vjepa("vit_large"),
        "vjepa-vith16": _vjepa("vit_huge"),
        "vjepa-vith16-384": _vjepa("vit_huge", img_size=384, batch_size=2400, micro_batch_size=10),
        "vjepa2-vitl16": _vjepa2("vit_large"),
        "vjepa2-vith16": _vjepa2("vit_huge"),
        "vjepa2-vitg16": _vjepa2("vit_giant"),
        "vjepa2-vitl16-cooldown": _cooldown(_vjepa2("vit_large"), img_size=256, micro_batch_size=12),
        "vjepa2-vith16-cooldown": _cooldown(_vjepa2("vit_huge"), img_size=256, micro_batch_size=12),
        "vjepa2-vitg16-cooldown": _cooldown(_vjepa2("vit_giant"), img_size=256, micro_batch_size=6),
        "vjepa2-vitg16-384-cooldown": _cooldown(_vjepa2("vit_giant"), img_size=384, micro_batch_size=6),
        "vjepa2.1-vitl16": large,
        "vjepa2.1-vitg16": giant,
        "vjepa2.1-vitgigantic16": gigantic,
        "vjepa2.1-vitl16-cooldown": _vjepa21_cooldown(large, micro_batch_size=24, stills=72),
        "vjepa2.1-vitg16-cooldown": _vjepa21_cooldown(giant, micro_batch_size=24, stills=72),
        "vjepa2.1-vitgigantic16-cooldown": _vjepa21_cooldown(gigantic, micro_batch_size=12, stills=36),
        "ijepa-vith14": _ijepa("vit_huge", patch_size=14),
    }
    return {name: replace(recipe, preset=name) for name, recipe in recipes.items()}


RECIPES = _recipes()
"""Recipes for `vjepa pretrain --preset`: hyper-parameters as data.

The official ones have the official batch, cut into the batches of one official rank (`micro_batch_size`).
"""


def train_config(
    *,
    preset: str | None = None,
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Resolve a training configuration: recipe < TOML file < `settings` < `overrides`.

    What a recipe sets and may be absent is unset with `none`: `overrides=["images=none"]`.

    Args:
        preset: name of a recipe; None takes the file's `preset`, else `tiny`.
        path: TOML file whose tables are those of `TrainConfig`.
        overrides: `section.key=value` strings.
        settings: plain data merged over the file, for example `{"data": {"path": "clips"}}`.

    Raises:
        ConfigError: an unknown recipe or key, a value out of range, or a stride beside the recipe's frame rate.
    """
    from_file = read_toml(path) if path is not None else {}
    name = preset or from_file.get("preset") or "tiny"
    if name not in RECIPES:
        raise ConfigError(unknown(f"recipe {name!r}", str(name), RECIPES))
    given = _merge({**from_file, "preset": name}, settings or {})
    _check_stride(RECIPES[name], with_overrides(given, overrides))
    return from_dict(TrainConfig, with_overrides(_merge(to_dict(RECIPES[name]), given), overrides))


def settings_of_run(directory: str | Path) -> Path:
    """Return the file that holds the settings of a run in a directory.

    Raises:
        OutputError: there is none.
    """
    path = Path(directory) / "config.toml"
    if not path.is_file():
        raise OutputError(f"{directory}: holds no run to resume; leave out --resume")
    return path


def _check_stride(recipe: TrainConfig, given: Mapping[str, Any]) -> None:
    """Refuse a stride that the recipe's frame rate would leave without effect."""
    data = given.get("data")
    if isinstance(data, Mapping) and "frame_stride" in data and "fps" not in data and recipe.data.fps is not None:
        raise ConfigError(
            f"data.frame_stride={data['frame_stride']} has no effect beside data.fps={recipe.data.fps} of the recipe "
            f"{recipe.preset}; set data.fps=none with it"
        )


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
