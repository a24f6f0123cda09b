"""The networks, the objective and the training step equal the official code's."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from goldens import TOLERANCE, Golden, load_golden
from torch import Tensor

from vjepa_sdk.models.jepa import distance_to_nearest, layer_norm_levels
from vjepa_sdk.models.layers import gather_tokens
from vjepa_sdk.models.masks import Masks
from vjepa_sdk.models.predictor import Predictor
from vjepa_sdk.training.step import ForwardPass, hyperparameters, make_optimizer, train_step

TRACED = ("vjepa1_tiny", "vjepa2_tiny", "vjepa21_tiny", "ijepa_tiny")
CASES = (*TRACED, "vjepa21_tiny_distilled")


@pytest.fixture(params=TRACED)
def golden(request: pytest.FixtureRequest) -> Golden:
    # V-JEPA 2.1 is trained with positions scaled in the predictor too
    return load_golden(request.param, predictor_rope_grid=16 if request.param == "vjepa21_tiny" else None)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_every_vector_equals_the_official_one(name: str) -> None:
    golden = load_golden(name)
    outputs = _levels_outputs(golden) if golden.jepa.model_config.level_layers else _plain_outputs(golden)
    given = ("input", "index", "teacher_features", "after")
    assert set(outputs) == {key for key in golden.tensors if not any(word in key for word in given)}
    for key, value in outputs.items():
        torch.testing.assert_close(
            value, golden.tensors[key], **TOLERANCE, msg=lambda text, key=key: f"{name}, {key}: {text}"
        )


def _plain_outputs(golden: Golden) -> dict[str, Tensor]:
    """Run a model of V-JEPA 1, V-JEPA 2 or I-JEPA on what its case gives."""
    jepa, clips, given = golden.jepa, golden.clips, golden.tensors
    grid = jepa.context_encoder.grid_of(clips)
    outputs = {"features": jepa.target_encoder(clips), "encoder_features": jepa.context_encoder(clips)}
    targets = layer_norm_levels(outputs["features"], 1)
    is_shared = "context_index.1" not in given
    for i in range(sum(key.startswith("target_index.") for key in given)):
        # I-JEPA predicts all its target blocks from one context, with one mask token
        visible, hidden, source = (given["context_index.0"], given[f"target_index.{i}"], 0) if is_shared else (
            given[f"context_index.{i}"], given[f"target_index.{i}"], i,
        )  # fmt: skip
        context = outputs[f"context.{source}"] = jepa.context_encoder(clips, visible)
        outputs[f"target.{i}"] = gather_tokens(targets, hidden)
        outputs[f"prediction.{i}"] = jepa.predictor(context, visible, hidden, grid=grid, mask_index=source)
    return outputs


def _levels_outputs(golden: Golden) -> dict[str, Tensor]:
    """Run a model of V-JEPA 2.1 on what its case gives: clips, stills and other sizes, both RoPEs of the predictor."""
    encoder, target, given = golden.jepa.context_encoder, golden.jepa.target_encoder, golden.tensors
    outputs = {"encoder_features": encoder(given["input"]), "features_levels": target.forward_levels(given["input"])}
    for prefix in ("", "square.", "wide.", "image.", "image_other."):
        outputs[f"{prefix}features"] = target(given[f"{prefix}input"])
    outputs["image.features_levels"] = target.forward_levels(given["image.input"])
    outputs["wide.context"] = encoder(given["wide.input"], given["wide.context_index"])
    for prefix, i in (("", 0), ("", 1), ("image.", 0)):
        outputs |= _mask_set_outputs(golden, prefix, i)
    visible, hidden = given["context_index.0"], given["target_index.0"]
    grid, context = encoder.grid_of(given["input"]), _predictor_input(golden, given["input"], visible)
    outputs["prediction_mask1.0"] = golden.jepa.predictor(context, visible, hidden, grid=grid, mask_index=1)
    return outputs


def _mask_set_outputs(golden: Golden, prefix: str, i: int) -> dict[str, Tensor]:
    jepa, given, clips = golden.jepa, golden.tensors, golden.tensors[f"{prefix}input"]
    visible, hidden = given[f"{prefix}context_index.{i}"], given[f"{prefix}target_index.{i}"]
    grid, levels = jepa.context_encoder.grid_of(clips), jepa.model_config.predictor_levels
    # distilled models learn a teacher's features, which the case gives
    features = given[f"{prefix}teacher_features"] if levels == 1 else jepa.target_encoder.forward_levels(clips)
    targets = layer_norm_levels(features, levels)
    outputs = {
        f"{prefix}context_levels.{i}": jepa.context_encoder.forward_levels(clips, visible),
        f"{prefix}target.{i}": gather_tokens(targets, hidden),
        f"{prefix}target_context.{i}": gather_tokens(targets, visible),
        f"{prefix}distance_sqrt.{i}": distance_to_nearest(visible, hidden, grid=grid).sqrt(),
    }
    for rope, scaled_to in (("", None), ("interp.", 16)):
        predictor = Predictor(dataclasses.replace(jepa.model_config, predictor_rope_grid=scaled_to))
        predictor.load_state_dict(jepa.predictor.state_dict())
        predicted, restored = predictor.forward_with_context(
            _predictor_input(golden, clips, visible), visible, hidden, grid=grid, is_image=prefix == "image."
        )
        outputs |= {f"{prefix}{rope}prediction.{i}": predicted, f"{prefix}{rope}prediction_context.{i}": restored}
    return outputs


def _predictor_input(golden: Golden, clips: Tensor, visible: Tensor) -> Tensor:
    encoder = golden.jepa.context_encoder
    if golden.jepa.model_config.predictor_levels == 1:
        return encoder(clips, visible)
    return encoder.forward_levels(clips, visible)


@torch.no_grad()
def test_level_blocks_are_returned_under_their_own_norms() -> None:
    golden = load_golden("vjepa21_tiny")
    encoder = golden.jepa.target_encoder
    levels = encoder.get_intermediate_layers(golden.clips, golden.jepa.model_config.level_layers)
    torch.testing.assert_close(torch.cat(levels, dim=-1), golden.tensors["features_levels"], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vjepa1_tiny", "vjepa2_tiny", "ijepa_tiny"])
def test_loss_equals_the_official_one(name: str) -> None:
    golden = load_golden(name)
    losses = golden.jepa(golden.clips, golden.masks)
    assert float(losses.total) == pytest.approx(golden.facts["loss0"], rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rope", ["plain", "interp"])
@pytest.mark.parametrize("modality", ["video", "image"])
@pytest.mark.parametrize("is_weighted", [True, False])
def test_losses_of_levels_equal_the_official_ones(rope: str, modality: str, is_weighted: bool) -> None:
    golden = load_golden("vjepa21_tiny", predictor_rope_grid=16 if rope == "interp" else None)
    golden.jepa.objective = dataclasses.replace(golden.jepa.objective, context_distance_weighted=is_weighted)
    prefix = "image." if modality == "image" else ""
    given, sets = golden.tensors, (0,) if modality == "image" else (0, 1)
    masks = Masks(*(tuple(given[f"{prefix}{kind}_index.{i}"] for i in sets) for kind in ("context", "target")))
    expected = golden.facts["losses"][f"{modality}.{rope}"]
    losses = golden.jepa(given[f"{prefix}input"], masks, context_weight=0.5)
    assert float(losses.prediction) == pytest.approx(expected["loss_pred"], rel=1e-5)
    assert float(losses.context) == pytest.approx(
        expected["loss_context_weighted" if is_weighted else "loss_context_plain"], rel=1e-5
    )
    if is_weighted:
        assert float(losses.total) == pytest.approx(expected["total_lambda_0p5"], rel=1e-5)


def test_training_trace_equals_the_official_one(golden: Golden) -> None:
    config, jepa = golden.train_config, golden.jepa
    optimizer = make_optimizer(jepa, config)
    for step, expected in enumerate(golden.facts["trace_steps"]):
        report = train_step(jepa, optimizer, [ForwardPass(golden.clips, golden.masks)], config=config, step=step)
        assert report.loss == pytest.approx(expected["loss"], rel=1e-5)
        if "encoder_grad_norm" in expected:
            assert report.encoder_grad_norm == pytest.approx(expected["encoder_grad_norm"], rel=1e-3)
            assert report.predictor_grad_norm == pytest.approx(expected["predictor_grad_norm"], rel=1e-4)
        if "loss_context" in expected:
            assert report.context_loss == pytest.approx(expected["loss_context"], rel=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(jepa.target_encoder(golden.clips), golden.tensors["after.features"], **TOLERANCE)
        torch.testing.assert_close(
            jepa.context_encoder(golden.clips), golden.tensors["after.encoder_features"], **TOLERANCE
        )


def test_schedules_equal_the_official_ones(golden: Golden) -> None:
    for step, expected in enumerate(golden.facts["trace_steps"]):
        values = hyperparameters(golden.train_config, step)
        assert values.lr == pytest.approx(expected["lr"], rel=1e-12)
        assert values.weight_decay == pytest.approx(expected["wd"], rel=1e-12)
        assert values.momentum == pytest.approx(expected["ema"], rel=1e-12)
        assert values.context_weight == pytest.approx(expected.get("lam", 0.0), rel=1e-12)
