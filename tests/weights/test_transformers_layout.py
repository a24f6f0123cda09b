"""Directories that transformers saved give what transformers computes, and back."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    IJepaConfig,
    IJepaForImageClassification,
    IJepaModel,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
    VJEPA2Model,
    VJEPA2VideoProcessor,
)
from transformers.utils import logging as transformers_logging

from vjepa_sdk.config.model import ModelConfig, PreprocessConfig
from vjepa_sdk.downstream.encoding import probe_tokens
from vjepa_sdk.downstream.probe import Probe
from vjepa_sdk.errors import ConfigError, WeightsError
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.models.predictor import Predictor
from vjepa_sdk.video.transforms import normalize, resize_and_crop
from vjepa_sdk.weights.convert import convert
from vjepa_sdk.weights.directory import Pretrained, load_model_directory, save_model_directory
from vjepa_sdk.weights.probe_directory import load_probe

CPU = torch.device("cpu")
TOLERANCE = {"atol": 2e-5, "rtol": 0.0}

SMALL: dict[str, Any] = {
    "crop_size": 48, "frames_per_clip": 6, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2, "pred_num_mask_tokens": 3,
}  # fmt: skip
SHAPES = {
    "head size 8": SMALL | {"num_attention_heads": 6},
    "head size 22, ratio 48/11": SMALL | {"hidden_size": 44, "mlp_ratio": 48 / 11},
    "head size 80": SMALL | {"hidden_size": 160, "pred_mlp_ratio": 3},
    "patch 8, tubelet 3": SMALL | {"patch_size": 8, "tubelet_size": 3, "layer_norm_eps": 1e-5},
    "mid-size": SMALL | {"crop_size": 96, "hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 6},
}


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    transformers_logging.disable_progress_bar()


def _randomize(model: nn.Module, seed: int) -> None:
    """Give every tensor values that matter: transformers starts mask tokens and biases at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            fan_in = value[0].numel() if value.ndim > 1 else 100
            value.copy_(noise * fan_in**-0.5 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def _saved(model: nn.Module, directory: Path, seed: int = 0, **options: object) -> Path:
    _randomize(model, seed)
    model.eval().save_pretrained(directory, **options)
    return directory


def _clips(config: VJEPA2Config) -> Tensor:
    size = (2, 3, config.frames_per_clip, config.crop_size, config.crop_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shards", [None, "20KB"], ids=["one file", "shards"])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_vjepa2_equals_transformers(shape: str, shards: str | None, tmp_path: Path) -> None:
    if shape == "mid-size" and shards:
        shards = "4MB"
    config = VJEPA2Config(**SHAPES[shape])
    theirs = VJEPA2Model(config)
    _saved(theirs, tmp_path, max_shard_size=shards or "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == bool(shards)
    ours, clips = load_model_directory(tmp_path, device=CPU), _clips(config)
    features = theirs.get_vision_features(clips.transpose(1, 2))
    torch.testing.assert_close(ours.encoder(clips), features, **TOLERANCE)
    count = features.shape[1]
    context, target = torch.arange(0, count, 2).expand(2, -1), torch.arange(1, count, 2).expand(2, -1)
    expected = theirs.predictor(features, [context], [target]).last_hidden_state
    assert ours.predictor is not None
    grid = ours.encoder.grid_of(clips)
    predicted = ours.predictor(features[:, ::2], context, target, grid=grid, mask_index=1)
    torch.testing.assert_close(predicted, expected, **TOLERANCE)


@torch.no_grad()
def test_vjepa2_non_square_follows_its_own_rows_and_columns(tmp_path: Path) -> None:
    theirs = VJEPA2Model(VJEPA2Config(**SMALL))
    _saved(theirs, tmp_path)
    clips = torch.randn(1, 3, 4, 32, 80, generator=torch.Generator().manual_seed(2))
    ours = load_model_directory(tmp_path, device=CPU).encoder(clips)
    torch.testing.assert_close(ours, _on_real_grid(theirs, clips, grid=(2, 2, 5)), **TOLERANCE)
    assert (theirs.get_vision_features(clips.transpose(1, 2)) - ours).abs().max() > 0.01


def _on_real_grid(model: VJEPA2Model, clips: Tensor, *, grid: tuple[int, int, int]) -> Tensor:
    """Run transformers' encoder with positions of the real grid: it always assumes a square of the crop's size."""
    t, h, w = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    for layer in model.encoder.layer:
        layer.attention.get_position_ids = lambda x, masks=None: (t.flatten(), h.flatten(), w.flatten())
    features = model.get_vision_features(clips.transpose(1, 2))
    for layer in model.encoder.layer:
        del layer.attention.get_position_ids
    return features


@pytest.mark.parametrize("num_pooler_layers", [0, 3])
@torch.no_grad()
def test_classifier_equals_transformers(num_pooler_layers: int, tmp_path: Path) -> None:
    labels = {0: "push", 1: "pull", 2: "lift"}
    config = VJEPA2Config(**SMALL, num_pooler_layers=num_pooler_layers, id2label=labels)
    theirs = VJEPA2ForVideoClassification(config)
    _saved(theirs, tmp_path, max_shard_size="100KB")
    clips, loaded = _clips(config), load_probe(tmp_path, device=CPU)
    tokens = probe_tokens(load_model_directory(tmp_path, device=CPU).encoder, clips, layers=loaded.probe.config.layers)
    torch.testing.assert_close(loaded.probe(tokens), theirs(clips.transpose(1, 2)).logits, **TOLERANCE)
    assert loaded.labels == ("push", "pull", "lift")


GIANT = SMALL | {"hidden_size": 1408, "num_attention_heads": 22, "num_hidden_layers": 1, "mlp_ratio": 1}


@pytest.fixture(scope="module")
def giant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a classifier of the width and heads of ViT-g, with five classes, as transformers does."""
    theirs = VJEPA2ForVideoClassification(VJEPA2Config(**GIANT, num_pooler_layers=0, num_labels=5))
    return _saved(theirs, tmp_path_factory.mktemp("giant"))


def _expected_logits(directory: Path, num_heads: int) -> tuple[Tensor, Tensor]:
    """Return tokens, and what transformers' pooler with so many heads makes of them."""
    theirs = VJEPA2ForVideoClassification.from_pretrained(directory)
    attention = theirs.pooler.cross_attention_layer.cross_attn
    attention.num_heads, attention.head_dim = num_heads, 1408 // num_heads
    attention.scale = attention.head_dim**-0.5
    tokens = torch.randn(2, 27, 1408, generator=torch.Generator().manual_seed(4))
    return tokens, theirs.classifier(theirs.pooler(tokens))


@pytest.mark.parametrize("num_heads", [None, 22, 16])
@torch.no_grad()
def test_a_classifier_that_was_fine_tuned_with_transformers_has_the_heads_it_was_tuned_with(
    num_heads: int | None, giant: Path
) -> None:
    tokens, expected = _expected_logits(giant, num_heads or 22)
    loaded = load_probe(giant, device=CPU, num_heads=num_heads)
    torch.testing.assert_close(loaded.probe(tokens), expected, **TOLERANCE)


@torch.no_grad()
def test_heads_may_be_stated_in_the_configuration_and_last(giant: Path, tmp_path: Path) -> None:
    here = tmp_path / "stated"
    shutil.copytree(giant, here)
    data = json.loads((here / "config.json").read_text())
    (here / "config.json").write_text(json.dumps({**data, "pooler_num_attention_heads": 11}))
    Probe.from_pretrained(here, device="cpu").save_pretrained(tmp_path / "ours")
    tokens, expected = _expected_logits(giant, 11)
    torch.testing.assert_close(load_probe(tmp_path / "ours", device=CPU).probe(tokens), expected, **TOLERANCE)
    with pytest.raises(ConfigError, match="num_heads=16 is stated in a probe of ours already"):
        Probe.from_pretrained(tmp_path / "ours", device="cpu", num_heads=16)


def _giant_probe(directory: Path, *, classes: int) -> Path:
    config = VJEPA2Config(**GIANT, num_pooler_layers=3, num_labels=classes)
    with torch.device("meta"):
        theirs = VJEPA2ForVideoClassification(config)
    heads = {k: torch.zeros(v.shape) for k, v in theirs.state_dict().items() if k.startswith(("pooler", "classifier"))}
    directory.mkdir(parents=True)
    _write(directory, config, heads)
    return directory


def test_the_official_vit_g_probes_have_16_heads_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = "models--facebook--vjepa2-vitg-fpc32-384-diving48/snapshots/0123"
    with caplog.at_level(logging.WARNING, logger="vjepa_sdk"):
        loaded = load_probe(_giant_probe(tmp_path / place, classes=48), device=CPU)
    assert loaded.probe.config.num_heads == 16
    assert "num_attention_heads=22 is the encoder's; its probe was trained with 16 heads" in caplog.text


def test_what_may_be_a_copy_of_an_official_vit_g_probe_or_not_is_asked_for(tmp_path: Path) -> None:
    place = _giant_probe(tmp_path / "copy", classes=48)
    with pytest.raises(
        ConfigError, match="of 16 heads, or fine-tuned with transformers, with 22; pass num_heads=16 or"
    ):
        load_probe(place, device=CPU)
    assert load_probe(place, device=CPU, num_heads=16).probe.config.num_heads == 16


@pytest.mark.parametrize(
    ("num_heads", "message"), [(0, "num_heads=0 must lie between 1"), (17, "must be a multiple of num_heads=17")]
)
def test_heads_that_cannot_be_are_refused(num_heads: int, message: str, giant: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_probe(giant, device=CPU, num_heads=num_heads)


def _write(directory: Path, config: VJEPA2Config, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    config.save_pretrained(directory)
    save_file(tensors, directory / "model.safetensors")


@pytest.mark.parametrize(
    "shape", [{}, {"intermediate_size": 131, "patch_size": 14, "image_size": 56, "layer_norm_eps": 1e-6}]
)
@pytest.mark.parametrize("cls", [IJepaModel, IJepaForImageClassification])
@torch.no_grad()
def test_ijepa_equals_transformers(cls: type, shape: dict[str, Any], tmp_path: Path) -> None:
    small = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "image_size": 64,
    }
    theirs = cls(IJepaConfig(**{**small, **shape}))
    _saved(theirs, tmp_path)
    backbone = theirs if cls is IJepaModel else theirs.ijepa
    ours, size = load_model_directory(tmp_path, device=CPU), theirs.config.image_size
    for height, width, resizes in ((size, size, False), (size, 2 * size, True)):
        images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))
        expected = backbone(images, interpolate_pos_encoding=resizes).last_hidden_state
        torch.testing.assert_close(ours.encoder(images[:, :, None]), expected, **TOLERANCE)


def test_ijepa_takes_imagenet_statistics_whatever_the_repository_says(tmp_path: Path) -> None:
    _saved(
        IJepaModel(IJepaConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)),
        tmp_path,
    )
    halves = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(halves))
    assert load_model_directory(tmp_path, device=CPU).preprocess == PreprocessConfig.for_crop(224)


@pytest.mark.parametrize("frame", [(131, 97), (64, 64), (90, 161)])
def test_preprocessing_is_pixel_equal_to_the_video_processor(frame: tuple[int, int], tmp_path: Path) -> None:
    _saved(VJEPA2Model(VJEPA2Config(**SMALL)), tmp_path)
    processor = VJEPA2VideoProcessor(crop_size=48)
    processor.save_pretrained(tmp_path)
    ours = load_model_directory(tmp_path, device=CPU).preprocess
    video = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, *frame), np.uint8))
    expected = processor(video, return_tensors="pt")["pixel_values_videos"].transpose(1, 2)
    cropped = resize_and_crop(
        video, resize_size=ours.resize_size, crop_size=ours.crop_size, crop_offset=ours.crop_offset
    )
    # theirs multiplies by 1/255 before it subtracts: a unit in the last place
    torch.testing.assert_close(normalize(cropped, mean=ours.mean, std=ours.std)[None], expected, atol=1e-6, rtol=0)


def test_the_encoder_of_a_transformers_directory_is_the_context_encoder(tmp_path: Path) -> None:
    _saved(VJEPA2Model(VJEPA2Config(**SMALL)), tmp_path)
    assert load_model_directory(tmp_path, device=CPU).encoder_weights == "context"
    with pytest.raises(WeightsError, match="holds only the context encoder; pass weights='context'"):
        load_model_directory(tmp_path, weights="target", device=CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu' must be 'gelu'"),
        ({"qkv_bias": False}, "qkv_bias=False must be True"),
        ({"model_type": "vjepa3"}, "model_type='vjepa3' must be one of vjepa2, ijepa"),
        ({"hidden_size": "wide"}, "embed_dim='wide' must be an integer"),
        ({"hidden_size": 50, "num_attention_heads": 3}, "embed_dim=50 must be a multiple of num_heads=3"),
        ({"encoder_weights": "best"}, "encoder_weights='best' must be"),
    ],
)
def test_a_configuration_no_official_model_has_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    _saved(VJEPA2Model(VJEPA2Config(**SMALL)), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        load_model_directory(tmp_path, device=CPU)


OURS = ModelConfig(
    img_size=64, num_frames=4, embed_dim=48, depth=2, num_heads=3, mlp_ratio=48 / 11, predictor_embed_dim=24,
    predictor_depth=1, predictor_num_heads=2, num_mask_tokens=3,
)  # fmt: skip


def _ours(directory: Path, config: ModelConfig = OURS, *, dtype: torch.dtype = torch.float32) -> Pretrained:
    modules = {"encoder": VideoEncoder(config), "context_encoder": VideoEncoder(config), "predictor": Predictor(config)}
    for seed, module in enumerate(modules.values()):
        _randomize(module, seed)
        module.to(dtype)
    save_model_directory(
        directory, config=config, preprocess=PreprocessConfig.for_crop(64), modules=modules, encoder_weights="target",
        provenance={}, card="",
    )  # fmt: skip
    return load_model_directory(directory, device=CPU)


@pytest.mark.parametrize("weights", ["target", "context"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ours_to_transformers_and_back_is_bitwise(weights: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    _ours(tmp_path / "ours", dtype=dtype)
    first = load_model_directory(tmp_path / "ours", weights=weights, device=CPU)
    convert(tmp_path / "ours", tmp_path / "theirs", layout="transformers", weights=weights)
    convert(tmp_path / "theirs", tmp_path / "back")
    second = load_model_directory(tmp_path / "back", device=CPU)
    assert (second.config, second.encoder_weights) == (first.config, weights)
    for name in ("encoder", "predictor"):
        before, after = getattr(first, name).state_dict(), getattr(second, name).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) and after[key].dtype == dtype for key in before)


@torch.no_grad()
def test_transformers_runs_what_we_write(tmp_path: Path) -> None:
    ours = _ours(tmp_path / "ours")
    report = convert(tmp_path / "ours", tmp_path / "theirs", layout="transformers")
    theirs, info = VJEPA2Model.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(info.values())
    clips = torch.randn(1, 3, 4, 64, 64)
    torch.testing.assert_close(theirs.get_vision_features(clips.transpose(1, 2)), ours.encoder(clips), **TOLERANCE)
    assert set(report.dropped.values()) == {"transformers' layout holds one encoder"}
    assert all(name.startswith("context_encoder.") for name in report.dropped)


def test_a_model_transformers_does_not_have_is_not_written(tmp_path: Path) -> None:
    import dataclasses

    _ours(tmp_path / "ours", dataclasses.replace(OURS, level_layers=(0, 1)))
    with pytest.raises(ConfigError, match=r"level_layers=\(0, 1\) has no place in transformers' V-JEPA 2"):
        convert(tmp_path / "ours", tmp_path / "theirs", layout="transformers")


def test_the_layout_a_directory_has_already_is_refused(tmp_path: Path) -> None:
    _ours(tmp_path / "ours")
    with pytest.raises(ConfigError, match="is in the layout 'vjepa' already"):
        convert(tmp_path / "ours", tmp_path / "out")
