"""Configurations refuse what cannot work, and survive TOML."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from vjepa_sdk.config.documents import read_toml, to_toml
from vjepa_sdk.config.model import ModelConfig, PreprocessConfig
from vjepa_sdk.config.recipes import RECIPES, SHAPES, train_config
from vjepa_sdk.config.schema import from_dict, to_dict
from vjepa_sdk.config.training import DataConfig, MaskConfig, ObjectiveConfig, OptimConfig, TrainConfig
from vjepa_sdk.errors import ConfigError
from vjepa_sdk.training.step import hyperparameters


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_a_round_trip_through_toml(name: str) -> None:
    recipe = RECIPES[name]
    assert from_dict(TrainConfig, tomllib.loads(to_toml(recipe))) == recipe


@pytest.mark.parametrize("cls", [ModelConfig, MaskConfig, ObjectiveConfig, DataConfig, OptimConfig, TrainConfig])
def test_what_may_be_none_is_none_by_default(cls: type) -> None:
    # TOML has no null: a value left out of a file must mean None
    for item in dataclasses.fields(cls):
        if "None" in str(item.type):
            assert item.default is None, item.name


def test_model_presets_have_the_official_shapes() -> None:
    shapes = {name: (model.embed_dim, model.depth, model.num_heads) for name, model in SHAPES.items()}
    assert shapes == {
        "vit_tiny": (192, 12, 3),
        "vit_small": (384, 12, 6),
        "vit_base": (768, 12, 12),
        "vit_large": (1024, 24, 16),
        "vit_huge": (1280, 32, 16),
        "vit_giant": (1408, 40, 22),
        "vit_gigantic": (1664, 48, 26),
    }
    assert int(1408 * SHAPES["vit_giant"].mlp_ratio) == 6144
    assert int(1664 * SHAPES["vit_gigantic"].mlp_ratio) == 8192


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().depth = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 7}, "num_frames=7 must be a multiple of tubelet_size=2; pass 6 or 8"),
        ({"num_frames": 1}, "num_frames=1 must be a multiple of tubelet_size=2; pass 2"),
        ({"img_size": 100}, "img_size=100 must be a multiple of patch_size=16; pass 96 or 112"),
        ({"embed_dim": 100}, "embed_dim=100 must be a multiple of num_heads=16; pass 96 or 112"),
        ({"embed_dim": 768, "num_heads": 256}, "gives heads of 3 channels; RoPE needs an even number of at least 6"),
        ({"depth": 0}, "depth=0 must lie between 1 and 256; pass 1"),
        ({"depth": 2**63}, "depth=9223372036854775808 must lie between"),
        ({"depth": "12"}, "depth='12' must be an integer"),
        ({"depth": True}, "depth=True must be an integer"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio=nan must be a number"),
        ({"position": "learned"}, "position='learned' must be one of 'rope', 'sincos'"),
        ({"level_layers": (3, 5)}, r"level_layers=\[3, 5\] must rise and end with the last block; end it with 23"),
        ({"predictor_levels": 2}, "predictor_levels=2 must be 1 or the number of level_layers; pass 1 or 1"),
        ({"embed_dim": 16384, "depth": 256}, "parameters; at most 8,000,000,000 are allowed"),
    ],
)
def test_model_config_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**changes)  # type: ignore[arg-type]


def test_preprocess_config_refuses_a_crop_larger_than_the_frame() -> None:
    with pytest.raises(ConfigError, match="resize_size=64 must lie between 96 and"):
        PreprocessConfig(resize_size=64, crop_size=96)


def test_columns_need_blocks_that_last_the_whole_clip() -> None:
    with pytest.raises(ConfigError, match="pass equalize='truncate'"):
        MaskConfig(temporal_scale=(0.5, 1.0))


def test_context_loss_needs_a_predictor_that_returns_context() -> None:
    with pytest.raises(ConfigError, match=r"set model\.predictor_context=true"):
        TrainConfig(objective=ObjectiveConfig(context_weight=0.5))


def test_each_mask_set_needs_its_mask_token() -> None:
    with pytest.raises(ConfigError, match="num_mask_tokens=1 must be at least the number of mask sets; pass 2"):
        TrainConfig(model=ModelConfig(num_mask_tokens=1))


def test_stride_must_be_an_interval() -> None:
    with pytest.raises(ConfigError, match=r"frame_stride=\(4, 2\) must be \(low, high\)"):
        DataConfig(frame_stride=(4, 2))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
        ("lr=1", "unknown key 'lr'; did you mean 'optim.lr'?"),
        ("img_size=1", "unknown key 'img_size'; did you mean 'model.img_size'?"),
        ("modell.depth=1", "unknown key 'modell'; did you mean 'model'?"),
        ("optim=3", r"optim=3 must be a table; write \[optim\]"),
        ("optim.lr", "--set 'optim.lr' must be key=value"),
        ("optim.lr.x=1", "'lr' is not a section"),
        ("model.num_frames=7", "model.num_frames=7 must be a multiple of tubelet_size=2"),
        ("precision=fp8", "precision='fp8' must be one of 'float32', 'bfloat16'"),
    ],
)
def test_bad_settings_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_config(overrides=[override])


def test_unknown_recipe_lists_what_exists() -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'huge'; available: tiny, "):
        train_config(preset="huge")


def test_settings_take_precedence_over_file_over_recipe(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("steps = 7\nseed = 3\n[optim]\nlr = 1e-3\n")
    config = train_config(path=path, settings={"seed": 4}, overrides=["optim.warmup_steps=2"])
    assert (config.steps, config.seed, config.optim.lr, config.optim.warmup_steps) == (7, 4, 1e-3, 2)
    assert config.model == RECIPES["tiny"].model


def test_integers_are_read_as_numbers_where_numbers_are_expected() -> None:
    assert train_config(overrides=["optim.lr=1"]).optim.lr == 1.0


def test_broken_toml_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("steps = ")
    with pytest.raises(ConfigError, match=r"broken\.toml: not valid TOML"):
        read_toml(path)


def test_missing_toml_names_the_file() -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot read the configuration"):
        read_toml("absent.toml")


def test_missing_values_are_named() -> None:
    with pytest.raises(ConfigError, match="PreprocessConfig lacks resize_size, crop_size; add it"):
        from_dict(PreprocessConfig, {})


def test_plain_data_leaves_out_what_is_unset() -> None:
    assert "rope_grid" not in to_dict(ModelConfig())


@pytest.mark.parametrize(
    "unset", ["images=none", "data.fps=none", "micro_batch_size=none", "objective.context_ramp=none"]
)
def test_none_unsets_what_a_recipe_sets_for_good(unset: str, tmp_path: Path) -> None:
    config = train_config(preset="vjepa2.1-vitl16", overrides=[unset, "optim.schedule_scale=2"])
    value: object = config
    for name in unset.removesuffix("=none").split("."):
        value = getattr(value, name)
    assert value is None
    # the file of a run says the same when it is read over its recipe again
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert train_config(path=tmp_path / "config.toml") == config


def test_what_was_unset_can_be_set_again() -> None:
    config = train_config(preset="vjepa2.1-vitl16", settings={"images": "none"}, overrides=["images.batch_size=64"])
    assert config.images is not None and config.images.batch_size == 64


def test_texts_and_settings_that_every_run_has_cannot_be_unset() -> None:
    assert train_config(overrides=["data.split=none"]).data.split == "none"
    with pytest.raises(ConfigError, match=r"optim.lr='none' must be a number"):
        train_config(overrides=["optim.lr=none"])


def test_a_stride_beside_the_frame_rate_of_a_recipe_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"frame_stride=\[2, 2\] has no effect beside data.fps=4.0 of the recipe vjepa2"
    ):
        train_config(preset="vjepa2-vitl16", overrides=["data.frame_stride=[2,2]"])
    both = train_config(preset="vjepa2-vitl16", overrides=["data.frame_stride=[2,2]", "data.fps=none"])
    assert (both.data.fps, both.data.frame_stride) == (None, (2, 2))
    assert train_config(preset="tiny", overrides=["data.fps=4"]).data.fps == 4.0


def test_a_date_in_a_file_is_a_wrong_type(tmp_path: Path) -> None:
    (path := tmp_path / "run.toml").write_text("seed = 2020-01-01")
    with pytest.raises(ConfigError, match="seed=.* must be an integer"):
        train_config(path=path)


def test_official_recipes_have_the_published_hyperparameters() -> None:
    first, second, cooldown, levels, stills = (
        RECIPES[name]
        for name in ("vjepa-vitl16", "vjepa2-vitl16", "vjepa2-vitl16-cooldown", "vjepa2.1-vitl16", "ijepa-vith14")
    )
    assert {recipe.batch_size for recipe in (first, second, cooldown, levels)} == {3072} and stills.batch_size == 2048
    assert [recipe.steps for recipe in (first, second, cooldown, stills)] == [90_000, 240_000, 12_000, 187_500]
    assert (first.objective.ema_start, first.objective.ema_end, first.optim.schedule_scale) == (0.998, 1.0, 1.25)
    assert (cooldown.model.num_frames, cooldown.optim.schedule) == (64, "linear")
    assert all(mask.equalize == "truncate" for recipe in (first, second, cooldown, levels) for mask in recipe.masks)
    assert levels.images is not None and levels.images.weight == 0.5 and levels.objective.context_ramp == (15000, 30000)
    assert (stills.objective.loss, stills.masks[0].num_blocks, stills.model.patch_size) == ("smooth_l1", 4, 14)


# ranks, clips and stills of a rank in `configs/train_2_1/*`; half of the ranks take stills, the others the clips of all
RANKS = {
    "vjepa2.1-vitl16": (128, 24, 72),
    "vjepa2.1-vitg16": (128, 24, 72),
    "vjepa2.1-vitgigantic16": (256, 12, 36),
    "vjepa2.1-vitl16-cooldown": (256, 12, 72),
    "vjepa2.1-vitg16-cooldown": (256, 12, 72),
    "vjepa2.1-vitgigantic16-cooldown": (512, 6, 36),
}


@pytest.mark.parametrize("name", RANKS)
def test_recipes_with_stills_have_the_batches_of_the_official_ranks(name: str) -> None:
    (ranks, clips, stills), recipe = RANKS[name], RECIPES[name]
    assert recipe.images is not None
    assert (recipe.batch_size, recipe.micro_batch_size) == (ranks * clips, 2 * clips)
    assert (recipe.images.batch_size, recipe.images.micro_batch_size) == (ranks // 2 * stills, stills)


def test_official_cooldown_ends_at_its_published_learning_rate() -> None:
    # the released file lays 12,000 steps into a decay of 15,000: 1.058e-4 rather than 1e-6
    recipe = RECIPES["vjepa2-vitl16-cooldown"]
    assert hyperparameters(recipe, recipe.steps - 1).lr == pytest.approx(1.058e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "random_tube", "num_blocks": 3}, "num_blocks=3 has no effect on kind='random_tube'; leave it out"),
        ({"hidden_share": 0.5}, "hidden_share=0.5 has no effect on kind='multiblock'"),
        ({"kind": "ijepa", "max_keep": 5}, "max_keep=5 has no effect on kind='ijepa'"),
        ({"max_temporal_keep": 0.5}, r"max_temporal_keep=0.5 must be 1.0 with equalize='columns'"),
        ({"max_temporal_keep": 0.0, "equalize": "truncate"}, "max_temporal_keep=0.0 must be a share above 0"),
        ({"complement": "both"}, "complement='both' must be one of 'target', 'context'"),
    ],
)
def test_mask_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MaskConfig(**changes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size=10", "micro_batch_size=4"], "batch_size=10 must be a multiple of micro_batch_size=4"),
        (["save_every=10", "keep_every=15"], "keep_every=15 must be a multiple of save_every=10"),
        (["objective.context_ramp=[5, 5]"], r"objective.context_ramp=\(5, 5\) must be \(start, end\)"),
        (["images.batch_size=4"], "images needs a model that embeds stills; set model.image_tokenizer=true"),
        (["data.path=clips", "data.sources=[{path='a.csv'}]"], r"data.path='clips' excludes sources; move it into"),
        (["data.sources=[{path='a.csv', weight=0.0}]"], "weight=0.0 of 'a.csv' must be above 0; leave the source out"),
    ],
)
def test_run_settings_that_cannot_work_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_config(preset="tiny", overrides=overrides)


def test_mask_blocks_of_stills_are_refused_for_clips() -> None:
    with pytest.raises(ConfigError, match="masks: kind='ijepa' hides blocks of stills; clips take kind='multiblock'"):
        TrainConfig(masks=(MaskConfig(kind="ijepa"),))


TURNS = (MaskConfig(kind="future", share=3.0), MaskConfig(num_blocks=2, share=1.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"masks": (MaskConfig(kind="future", context_steps=(2, 8)),)},
            "leaves no future to clips of 8 time steps; pass at",
        ),
        (
            {"masks": (TURNS[0], MaskConfig())},
            "share must be set for all mask sets, which then take turns, or for none",
        ),
        ({"masks": TURNS}, "have one mask token; set objective.mask_token='shared'"),
    ],
)
def test_mask_sets_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "future", "context_steps": (3, 2)}, r"context_steps=\(3, 2\) must be \(low, high\)"),
        ({"kind": "future", "num_blocks": 3}, "num_blocks=3 has no effect on kind='future'"),
        ({"context_steps": (2, 2)}, r"context_steps=\(2, 2\) has no effect on kind='multiblock'"),
        ({"share": 0.0}, "share=0.0 must be above 0"),
    ],
)
def test_settings_of_future_masks_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MaskConfig(**changes)
