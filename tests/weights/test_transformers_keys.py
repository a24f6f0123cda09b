"""Every key of transformers' configurations is read, must have the value that is computed, or changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_tiny
from transformers import (
    IJepaConfig,
    PretrainedConfig,
    ViTImageProcessor,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
    VJEPA2VideoProcessor,
)

from vjepa_sdk.errors import ConfigError, WeightsError
from vjepa_sdk.weights.convert import convert
from vjepa_sdk.weights.directory import load_model_directory
from vjepa_sdk.weights.probe_directory import load_probe
from vjepa_sdk.weights.transformers_keys import (
    FIXED_KEYS,
    IGNORED_KEYS,
    PROCESSOR_FIXED,
    PROCESSOR_IGNORED,
    PROCESSOR_READ,
    READ_KEYS,
    check_config_keys,
    check_processor_keys,
)

VJEPA2 = VJEPA2Config(
    crop_size=32, frames_per_clip=4, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, pred_hidden_size=12,
    pred_num_hidden_layers=1, pred_num_attention_heads=2, num_pooler_layers=1,
)  # fmt: skip
IJEPA = IJepaConfig(
    hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=16
)
CONFIGS: dict[str, PretrainedConfig] = {"vjepa2": VJEPA2, "ijepa": IJEPA}
PROCESSORS = {"vjepa2": VJEPA2VideoProcessor, "ijepa": ViTImageProcessor}


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_key_of_the_installed_transformers_is_decided(kind: str) -> None:
    read, fixed = READ_KEYS[kind], FIXED_KEYS[kind].keys()
    assert not CONFIGS[kind].to_dict().keys() - read - fixed - IGNORED_KEYS
    assert not fixed & read and not fixed & IGNORED_KEYS


@pytest.mark.parametrize("kind", PROCESSORS)
def test_every_key_of_the_installed_processors_is_decided(kind: str) -> None:
    keys = PROCESSORS[kind]().to_dict().keys()
    assert not keys - (PROCESSOR_READ[kind] | PROCESSOR_FIXED[kind].keys() | PROCESSOR_IGNORED)


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_transformers_writes_by_default_is_taken(kind: str) -> None:
    check_config_keys(json.loads(CONFIGS[kind].to_json_string(use_diff=False)), kind)
    check_processor_keys(json.loads(PROCESSORS[kind]().to_json_string()), kind)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    VJEPA2ForVideoClassification(VJEPA2).save_pretrained(directory)
    VJEPA2VideoProcessor(crop_size=32).save_pretrained(directory)
    return directory


def _changed(directory: Path, out: Path, name: str, change: dict[str, Any]) -> Path:
    out.mkdir()
    for path in directory.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    data = json.loads((out / name).read_text())
    (out / name).write_text(json.dumps({**data, **change}))
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_theta": 1e6}, r"rope_theta=1000000.0 must be 10000.0, which is what is computed here"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            "rope_parameters.rope_type='linear' must be 'def",
        ),
        ({"rope_parameters": {"rope_theta": 1.0}}, "rope_parameters.rope_theta=1.0 must be 10000.0"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling=.* must be None"),
        ({"interpolate_rope": True}, "interpolate_rope=True must be False"),
        ({"hidden_act": "gelu_new"}, "hidden_act='gelu_new' must be 'gelu'"),
        ({"attention_dropout": 0.1}, "attention_dropout=0.1 must be 0.0"),
        ({"attention_probs_dropout_prob": 0.1}, "attention_probs_dropout_prob=0.1 must be 0.0"),
        ({"drop_path_rate": 0.2}, "drop_path_rate=0.2 must be 0.0"),
        ({"qkv_bias": False}, "qkv_bias=False must be True"),
        ({"in_chans": 4}, "in_chans=4 must be 3"),
        ({"use_SiLU": True}, "use_SiLU=True must be False"),
        ({"is_causal": True}, "is_causal=True must be False"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads=.* must be {}"),
        ({"quantization_config": {"quant_method": "x"}}, "quantization_config=.* must be None"),
        ({"pooler": {"hidden_act": "relu"}}, "pooler.hidden_act='relu' must be 'gelu'"),
        (
            {"pooler": {"deep": {"num_attention_heads": 4}}},
            "pooler.deep.num_attention_heads=4 must be that of the whole",
        ),
        ({"num_register_tokens": 4}, "num_register_tokens=4 is unknown, and may ask for another network"),
        ({"layer_scale_init_value": 1e-5}, "layer_scale_init_value=1e-05 is unknown"),
        ({"pooler": {"swiglu": True}}, "pooler.swiglu=True is unknown"),
    ],
)
def test_a_key_that_asks_for_another_arithmetic_is_an_error(
    change: dict[str, Any], message: str, saved: Path, tmp_path: Path
) -> None:
    directory = _changed(saved, tmp_path / "changed", "config.json", change)
    cpu = torch.device("cpu")
    for load in (
        lambda: load_model_directory(directory, device=cpu),
        lambda: load_probe(directory, device=cpu),
        lambda: convert(directory, tmp_path / "converted"),
    ):
        with pytest.raises(ConfigError, match=message):
            load()


@pytest.mark.parametrize(
    "change",
    [
        {"use_cache": True, "torch_dtype": "float32", "initializer_range": 0.5, "image_size": 7},
        {"my_team": "vision", "trained_on": ["a", "b"], "notes": {"who": "me"}},
        {"label2id": {"hidden_act": 1}, "use_rope_interleave": False, "num_register_tokens": 0, "wide_SiLU": True},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000}, "rope_theta": 10000},
    ],
)
def test_a_key_that_cannot_change_the_arithmetic_is_taken(change: dict[str, Any], saved: Path, tmp_path: Path) -> None:
    changed = load_model_directory(
        _changed(saved, tmp_path / "changed", "config.json", change), device=torch.device("cpu")
    )
    assert changed.config == load_model_directory(saved, device=torch.device("cpu")).config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_center_crop": False}, "do_center_crop=False must be True in the preprocessor file"),
        ({"do_normalize": False}, "do_normalize=False must be True"),
        ({"resample": 3}, "resample=3 must be 2"),
        ({"rescale_factor": 1.0}, "rescale_factor=1.0 must be 0.0039"),
        ({"do_sample_frames": True}, "do_sample_frames=True must be False"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order=True asks for a step that is not done here"),
        ({"do_pad": True}, "do_pad=True must be False"),
        ({"video_processor_type": "Other"}, "video_processor_type='Other' must be 'VJEPA2VideoProcessor'"),
        ({"crop_size": {"height": 32, "width": 64}}, "crop_size=32 x 64 must be square"),
        ({"image_mean": [0.5, 0.5]}, r"must hold three numbers"),
    ],
)
def test_a_preprocessor_that_makes_other_pixels_is_an_error(
    change: dict[str, Any], message: str, saved: Path, tmp_path: Path
) -> None:
    directory = _changed(saved, tmp_path / "changed", "video_preprocessor_config.json", change)
    with pytest.raises(ConfigError, match=message):
        load_model_directory(directory, device=torch.device("cpu"))


def test_what_transformers_takes_its_default_for_is_the_default_here(saved: Path, tmp_path: Path) -> None:
    nothing = {"do_resize": None, "resample": None, "image_mean": None, "do_convert_rgb": True, "num_frames": 16}
    directory = _changed(saved, tmp_path / "changed", "video_preprocessor_config.json", nothing)
    loaded = load_model_directory(directory, device=torch.device("cpu"))
    assert loaded.preprocess == load_model_directory(saved, device=torch.device("cpu")).preprocess


def test_statistics_no_published_ijepa_has_are_an_error() -> None:
    for mean in ([0.5] * 3, [0.485, 0.456, 0.406]):
        check_processor_keys({"image_mean": mean}, "ijepa")
    with pytest.raises(ConfigError, match=r"image_mean=\[0.1, 0.1, 0.1\] must be \[0.485, 0.456, 0.406\], which"):
        check_processor_keys({"image_mean": [0.1] * 3}, "ijepa")


def test_our_own_copy_in_their_layout_is_taken(tmp_path: Path) -> None:
    convert(save_tiny(tmp_path / "ours"), tmp_path / "theirs", layout="transformers")
    assert load_model_directory(tmp_path / "theirs", device=torch.device("cpu")).config.embed_dim == 24


@pytest.mark.parametrize("change", [{"use_rope_interleave": True}, {"hierarchical_layers": [0]}])
def test_keys_of_v_jepa_21_on_weights_that_are_none_are_an_error(
    change: dict[str, Any], saved: Path, tmp_path: Path
) -> None:
    directory = _changed(saved, tmp_path / "changed", "config.json", change)
    with pytest.raises(WeightsError, match="calls itself V-JEPA 2.1, and has not the four norms of its levels"):
        load_model_directory(directory, device=torch.device("cpu"))


def test_a_number_that_no_float_holds_is_refused_too(saved: Path, tmp_path: Path) -> None:
    directory = _changed(saved, tmp_path / "changed", "video_preprocessor_config.json", {"rescale_factor": 10**400})
    with pytest.raises(ConfigError, match="rescale_factor=1000+ must be 0.00392"):
        load_model_directory(directory, device=torch.device("cpu"))
