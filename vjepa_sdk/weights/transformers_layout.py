"""Read and write the configurations and tensor names that transformers gives V-JEPA 2 and I-JEPA, without it.

Preprocessing follows transformers' video processor for V-JEPA 2. For I-JEPA it does not: transformers normalises with
0.5 / 0.5, but the published encoders were trained on ImageNet statistics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from ..config.choices import EncoderWeights
from ..config.model import IMAGENET_MEAN, IMAGENET_STD, ModelConfig, PreprocessConfig
from ..config.schema import from_dict
from ..errors import ConfigError
from .layout import TensorSource
from .transformers_keys import check_config_keys, check_processor_keys

MODEL_TYPES = ("vjepa2", "ijepa")
PROCESSOR_NAMES = ("video_preprocessor_config.json", "preprocessor_config.json")
HEAD_PREFIXES = ("pooler.", "classifier.")
"""A classification model's own tensors; its backbone is what `VJEPA` loads."""

_CODE_KEYS = frozenset(
    "_attn_implementation_internal _instantiator _target_ auto_map custom_pipelines trust_remote_code".split()
)
"""They name code to fetch or call. Nothing here would, but who writes them expects that it is done."""

_QKV = ("query", "key", "value")


def read_config(data: Mapping[str, Any]) -> ModelConfig:
    """Return the shape that a transformers `config.json` describes; missing values take transformers' defaults.

    Raises:
        ConfigError: another kind of model, or a key that asks for what is not computed here.
    """
    kind = data.get("model_type")
    if kind not in MODEL_TYPES:
        raise ConfigError(f"model_type={kind!r} must be one of {', '.join(MODEL_TYPES)}; this is another kind of model")
    _refuse_code(data)
    check_config_keys(data, kind)
    fields = _vjepa2_fields(data) if kind == "vjepa2" else _ijepa_fields(data)
    return from_dict(ModelConfig, fields, where="config.")


def read_preprocess(data: Mapping[str, Any], processor: Mapping[str, Any], config: ModelConfig) -> PreprocessConfig:
    """Return the preprocessing of a transformers directory.

    Args:
        data: its `config.json`.
        processor: its preprocessor file, empty if there is none.

    Raises:
        ConfigError: steps that this package does not do.
    """
    _refuse_code(processor)
    kind = "ijepa" if data.get("model_type") == "ijepa" else "vjepa2"
    check_processor_keys(processor, kind)
    if kind == "ijepa":
        return PreprocessConfig.for_crop(config.img_size)
    crop = processor.get("crop_size") or config.img_size
    if isinstance(crop, dict):
        height, crop = crop.get("height"), crop.get("width")
        if height != crop:
            raise ConfigError(f"crop_size={height!r} x {crop!r} must be square in the preprocessor file")
    if type(crop) is not int or not 1 <= crop <= 4096:
        raise ConfigError(f"crop_size={crop!r} must be an integer from 1 to 4096 in the preprocessor file")
    # transformers' processor derives the short side from the crop, whatever `size` says
    fields = {"resize_size": int(crop * 256 / 224), "crop_size": crop, "crop_offset": "floor"}
    fields |= {"mean": processor.get("image_mean") or IMAGENET_MEAN, "std": processor.get("image_std") or IMAGENET_STD}
    return from_dict(PreprocessConfig, fields, where="preprocessor.")


def _refuse_code(data: object) -> None:
    """Raise if a key that names code is anywhere in there; `read_json` bounds how deep that can be."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key in _CODE_KEYS:
                raise ConfigError(f"{key}={value!r} asks for code from a repository, which is never run; remove it")
            _refuse_code(value)
    elif isinstance(data, list):
        for item in data:
            _refuse_code(item)


def read_encoder_weights(data: Mapping[str, Any]) -> EncoderWeights:
    """Return which encoder a directory holds: `context`, unless a conversion of ours wrote something else."""
    held = data.get("encoder_weights", "context")
    if held not in get_args(EncoderWeights):
        raise ConfigError(f"encoder_weights={held!r} must be 'target' or 'context'")
    return "target" if held == "target" else "context"


def sources(
    module: str, names: Iterable[str], *, kind: str, prefix: str, num_mask_tokens: int
) -> dict[str, TensorSource]:
    """Return where transformers keeps the tensors of a network.

    Args:
        module: `encoder` or `predictor`.
        names: of our tensors.
        kind: `vjepa2` or `ijepa`.
        prefix: of transformers' names, empty for a bare backbone.
        num_mask_tokens: length of the stacked mask tokens.
    """
    if kind == "ijepa":
        return {name: _ijepa_source(name, prefix) for name in names}
    if module == "encoder":
        return {name: _vjepa2_source(name, f"{prefix}encoder.") for name in names}
    return {name: _predictor_source(name, f"{prefix}predictor.", num_mask_tokens) for name in names}


def write_config(config: ModelConfig, *, encoder_weights: EncoderWeights, dtype: str) -> dict[str, Any]:
    """Return transformers' `config.json` of a V-JEPA 2 model.

    Raises:
        ConfigError: transformers has no such model.
    """
    plain = ModelConfig()
    same = ("position", "rope_layout", "rope_grid", "predictor_rope_grid", "level_layers", "image_tokenizer")
    for name in (*same, "predictor_levels", "predictor_out_dim", "predictor_context"):
        if (value := getattr(config, name)) != getattr(plain, name):
            raise ConfigError(
                f"model.{name}={value!r} has no place in transformers' V-JEPA 2, which needs {getattr(plain, name)!r}; "
                "keep this model in our own layout"
            )
    return {
        "architectures": ["VJEPA2Model"],
        "model_type": "vjepa2",
        "crop_size": config.img_size,
        "frames_per_clip": config.num_frames,
        "patch_size": config.patch_size,
        "tubelet_size": config.tubelet_size,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "layer_norm_eps": config.norm_eps,
        "pred_hidden_size": config.predictor_embed_dim,
        "pred_num_hidden_layers": config.predictor_depth,
        "pred_num_attention_heads": config.predictor_num_heads,
        "pred_mlp_ratio": config.predictor_mlp_ratio,
        "pred_num_mask_tokens": config.num_mask_tokens,
        "in_chans": 3,
        "qkv_bias": True,
        "hidden_act": "gelu",
        "dtype": dtype,
        "encoder_weights": encoder_weights,
    }


def write_processor(preprocess: PreprocessConfig) -> dict[str, Any]:
    """Return transformers' `video_preprocessor_config.json`."""
    crop = preprocess.crop_size
    return {
        "video_processor_type": "VJEPA2VideoProcessor",
        "crop_size": {"height": crop, "width": crop},
        "size": {"shortest_edge": int(crop * 256 / 224)},
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "resample": 2,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


def _vjepa2_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "crop_size": ("img_size", 256),
        "frames_per_clip": ("num_frames", 64),
        "tubelet_size": ("tubelet_size", 2),
        "hidden_size": ("embed_dim", 1024),
        "num_hidden_layers": ("depth", 24),
        "num_attention_heads": ("num_heads", 16),
        "mlp_ratio": ("mlp_ratio", 4.0),
        "layer_norm_eps": ("norm_eps", 1e-6),
        "pred_hidden_size": ("predictor_embed_dim", 384),
        "pred_num_hidden_layers": ("predictor_depth", 12),
        "pred_num_attention_heads": ("predictor_num_heads", 12),
        "pred_mlp_ratio": ("predictor_mlp_ratio", 4.0),
        "pred_num_mask_tokens": ("num_mask_tokens", 10),
    }
    fields = {ours: data.get(theirs, default) for theirs, (ours, default) in names.items()}
    return {**fields, "patch_size": _side(data, "patch_size", 16)}


def _ijepa_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    dim, hidden = data.get("hidden_size", 768), data.get("intermediate_size", 3072)
    if type(dim) is not int or type(hidden) is not int or not (1 <= dim <= 16384 and 1 <= hidden <= 1 << 19):
        raise ConfigError(f"hidden_size={dim!r} and intermediate_size={hidden!r} must be integers, at least 1")
    return {
        "img_size": _side(data, "image_size", 224),
        "patch_size": _side(data, "patch_size", 16),
        "num_frames": 1,
        "tubelet_size": 1,
        "embed_dim": dim,
        "depth": data.get("num_hidden_layers", 12),
        "num_heads": data.get("num_attention_heads", 12),
        "mlp_ratio": mlp_ratio(dim, hidden),
        "norm_eps": data.get("layer_norm_eps", 1e-12),
        "position": "sincos",
        "num_mask_tokens": 1,
    }


def mlp_ratio(dim: int, hidden: int) -> float:
    """Return the ratio for which `int(dim * ratio)` is `hidden`."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def _side(data: Mapping[str, Any], key: str, default: int) -> Any:
    value = data.get(key, default)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    return value


def _vjepa2_source(name: str, prefix: str) -> TensorSource:
    name = name.replace("patch_embed.", "embeddings.patch_embeddings.", 1).replace("blocks.", "layer.", 1)
    name = re.sub(r"^norm\.", "layernorm.", name)
    if ".attn.qkv." in name:
        return TensorSource(tuple(prefix + name.replace("attn.qkv", f"attention.{part}") for part in _QKV))
    return TensorSource((prefix + name.replace(".attn.proj.", ".attention.proj."),))


def _predictor_source(name: str, prefix: str, num_mask_tokens: int) -> TensorSource:
    if name.startswith("mask_tokens."):
        row = int(name.removeprefix("mask_tokens."))
        return TensorSource((f"{prefix}embeddings.mask_tokens",), row=row, rows=num_mask_tokens)
    if name.startswith("predictor_embed."):
        return TensorSource((name.replace("predictor_embed.", f"{prefix}embeddings.predictor_embeddings."),))
    return _vjepa2_source(name.removeprefix("predictor_"), prefix)


def _ijepa_source(name: str, prefix: str) -> TensorSource:
    if name == "pos_embed":
        return TensorSource((f"{prefix}embeddings.position_embeddings",))
    if name.startswith("patch_embed.proj."):
        stored = name.replace("patch_embed.proj", f"{prefix}embeddings.patch_embeddings.projection")
        return TensorSource((stored,), lacks_frame_axis=name.endswith("weight"))
    if name.startswith("norm."):
        return TensorSource((name.replace("norm.", f"{prefix}layernorm."),))
    name = name.replace("blocks.", f"{prefix}encoder.layer.", 1)
    if ".attn.qkv." in name:
        return TensorSource(tuple(name.replace("attn.qkv", f"attention.attention.{part}") for part in _QKV))
    parts = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense"}
    parts |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    for ours, theirs in parts.items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    return TensorSource((name,))


def probe_source(name: str) -> TensorSource:
    """Return where a classification model keeps a tensor of our attentive probe."""
    if name.startswith("linear."):
        return TensorSource((name.replace("linear.", "classifier."),))
    name = name.replace("cross_attention_block.", "cross_attention_layer.").replace(
        ".blocks.", ".self_attention_layers."
    )
    name = re.sub(r"\.norm([12])\.", r".layer_norm\1.", name)
    if ".attn.qkv." in name:
        return TensorSource(tuple(name.replace("attn.qkv", f"self_attn.{part}_proj") for part in "qkv"))
    if ".xattn.kv." in name:
        return TensorSource(tuple(name.replace("xattn.kv", f"cross_attn.{part}_proj") for part in "kv"))
    return TensorSource(
        (name.replace(".attn.proj.", ".self_attn.out_proj.").replace(".xattn.q.", ".cross_attn.q_proj."),)
    )
