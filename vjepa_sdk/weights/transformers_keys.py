"""Decide every key of transformers' configurations: what is read, what must be so, and what means nothing here.

A key that asks for another arithmetic than ours is an error and never ignored. The values that must be so are those of
every published model; keys that transformers had, or may yet gain, are among them, and the official code's words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..config.model import IMAGENET_MEAN, IMAGENET_STD
from ..errors import ConfigError

READ_KEYS: dict[str, frozenset[str]] = {
    "vjepa2": frozenset(
        "model_type crop_size frames_per_clip tubelet_size patch_size hidden_size num_hidden_layers mlp_ratio "
        "num_attention_heads layer_norm_eps pred_hidden_size pred_num_hidden_layers pred_num_attention_heads "
        "pred_mlp_ratio pred_num_mask_tokens num_pooler_layers pooler_num_attention_heads id2label "
        "encoder_weights".split()
    ),
    "ijepa": frozenset(
        "model_type image_size patch_size hidden_size num_hidden_layers num_attention_heads intermediate_size "
        "layer_norm_eps encoder_weights".split()
    ),
}
"""Keys that are read; `encoder_weights` and `pooler_num_attention_heads` are ours, transformers keeps them."""

_ALIKE: dict[str, Any] = {
    "hidden_act": "gelu", "qkv_bias": True, "attention_probs_dropout_prob": 0.0,
    # transformers' own, of other times and models
    "quantization_config": None, "pruned_heads": {}, "is_decoder": False, "is_encoder_decoder": False,
    "add_cross_attention": False, "cross_attention_hidden_size": None, "is_causal": False,
    "rope_theta": 10000.0, "rope_type": "default", "rope_scaling": None, "partial_rotary_factor": 1.0,
    "layer_types": None, "sliding_window": None,
}  # fmt: skip
FIXED_KEYS: dict[str, dict[str, Any]] = {
    "vjepa2": _ALIKE | {
        "in_chans": 3, "attention_dropout": 0.0, "drop_path_rate": 0.0, "hidden_dropout_prob": 0.0,
        # V-JEPA 2.1 as transformers may come to write it
        "use_rope_interleave": False, "interpolate_rope": False, "use_modality_embeddings": False,
        "use_context_projection": False, "use_image_patch_embedder": False, "teacher_embed_dim": None,
        "num_distillation_outputs": 1, "hierarchical_layers": None,
        # words of the official code
        "use_rope": True, "use_silu": False, "use_SiLU": False, "use_pred_silu": False, "pred_is_causal": False,
        "use_mask_tokens": True, "drop_rate": 0.0, "attn_drop_rate": 0.0,
    },
    "ijepa": _ALIKE | {"num_channels": 3, "hidden_dropout_prob": 0.0, "drop_path_rate": 0.0, "use_mask_token": False},
}  # fmt: skip
"""Keys with the one value that is computed here."""

IGNORED_KEYS = frozenset(
    # what a model is called, stored as, initialised with; how it is run; what the head that is not read does
    "_name_or_path _commit_hash _attn_implementation _attn_implementation_autoset attn_implementation architectures "
    "transformers_version dtype torch_dtype torchscript use_bfloat16 tf_legacy_loss return_dict use_return_dict "
    "output_attentions output_hidden_states chunk_size_feed_forward gradient_checkpointing use_cache use_sdpa "
    "use_activation_checkpointing initializer_range init_std init_type pred_zero_init_mask_tokens "
    "zero_init_mask_tokens id2label label2id num_labels problem_type finetuning_task "
    "task_specific_params tokenizer_class "
    "tie_word_embeddings tie_encoder_decoder pooler_output_size pooler_act encoder_stride "
    # with rotary positions, or without SiLU, they have no effect
    "image_size uniform_power wide_silu wide_SiLU rope_parameters "
    # of text and its generation
    "prefix bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id".split()
)
"""Keys that change nothing of what is computed here. What lies within an object is looked at all the same."""

_NETWORK_WORDS = frozenset(
    "act activation attn attention bias causal cls depth distillation drop dropout embed embedding embeddings eps "
    "experts ffn gate gated gelu glu head heads hierarchical interleave interleaved interpolate kernel layer layernorm "
    "layers layerscale lora mask mlp modality moe norm patch pool pooler pooling pos position positional positions "
    "pred predictor qk qkv quantization register registers relu residual rmsnorm rope rotary scale scaling silu sincos "
    "stride swiglu theta tokens tubelet window".split()
)
"""A key that nobody knows and that speaks of these may ask for another network."""

PROCESSOR_FIXED: dict[str, dict[str, Any]] = {
    "vjepa2": {
        "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True, "resample": 2,
        "rescale_factor": 1 / 255, "do_sample_frames": False, "do_pad": False, "offset": False, "antialias": True,
        "crop_pct": None, "pad_size": None, "size_divisor": None,
        "video_processor_type": "VJEPA2VideoProcessor", "image_processor_type": "VJEPA2VideoProcessor",
    },
    "ijepa": {
        "do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 2, "rescale_factor": 1 / 255,
        "do_pad": False, "offset": False, "antialias": True, "crop_pct": None, "pad_size": None, "size_divisor": None,
    },
}  # fmt: skip
"""Keys of preprocessor files with the one value that is computed here."""

PROCESSOR_READ: dict[str, frozenset[str]] = {
    "vjepa2": frozenset(("crop_size", "image_mean", "image_std")),
    "ijepa": frozenset(("image_mean", "image_std")),
}
PROCESSOR_IGNORED = frozenset(
    # the short side follows from the crop in transformers' V-JEPA 2, whatever `size` says; pixels are RGB in any case
    "size default_to_square do_convert_rgb processor_class feature_extractor_type _valid_processor_keys "
    "return_metadata return_tensors data_format input_data_format device num_frames fps video_metadata "
    "disable_grouping "
    # of I-JEPA, which is resized and cropped as it was trained
    "crop_size do_center_crop image_processor_type video_processor_type".split()
)

_STATISTICS = {"image_mean": ((0.5, 0.5, 0.5), IMAGENET_MEAN), "image_std": ((0.5, 0.5, 0.5), IMAGENET_STD)}


def check_config_keys(data: Mapping[str, Any], kind: str) -> None:
    """Raise ConfigError if a key of a `config.json`, at any depth, asks for what is not computed here."""
    read, fixed = READ_KEYS[kind], FIXED_KEYS[kind]
    for path, key, value in _items(data):
        if key in fixed:
            _check_fixed(path, value, fixed[key])
        elif key in read:
            if path != key and (key not in data or value != data[key]):
                raise ConfigError(f"{path}={value!r} must be that of the whole model, {key}={data.get(key)!r}")
        elif key not in IGNORED_KEYS and not isinstance(value, Mapping) and _may_matter(key, value):
            raise ConfigError(
                f"{path}={value!r} is unknown, and may ask for another network than the published {kind} that is "
                "computed here; remove it if it does not"
            )


def check_processor_keys(processor: Mapping[str, Any], kind: str) -> None:
    """Raise ConfigError if a key of a preprocessor file asks for pixels that are not computed here."""
    for key, value in processor.items():
        if value is None:  # transformers takes its default then
            continue
        if key in PROCESSOR_FIXED[kind]:
            _check_fixed(key, value, PROCESSOR_FIXED[kind][key], where=" in the preprocessor file")
        elif kind == "ijepa" and key in _STATISTICS:
            _check_statistics(key, value)
        elif key.startswith("do_") and key not in PROCESSOR_IGNORED and not _is_off(value):
            raise ConfigError(f"{key}={value!r} asks for a step that is not done here; remove it if it is not needed")


def _items(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield path, key and value of everything that can be a setting; names of classes are none."""
    for key, value in data.items():
        yield prefix + key, key, value
        if isinstance(value, Mapping) and key not in ("id2label", "label2id", "task_specific_params"):
            yield from _items(value, f"{prefix}{key}.")


def _may_matter(key: str, value: object) -> bool:
    return not _is_off(value) and not _NETWORK_WORDS.isdisjoint(key.lower().split("_"))


def _check_fixed(path: str, value: object, fixed: object, *, where: str = "") -> None:
    if value == fixed or (_is_off(value) and _is_off(fixed)):
        return
    # numbers of a file may have hundreds of digits, which no float holds
    is_number = isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 53)
    if isinstance(fixed, float) and is_number and math.isclose(value, fixed, rel_tol=1e-6):  # type: ignore[arg-type]
        return
    raise ConfigError(f"{path}={value!r} must be {fixed!r}{where}, which is what is computed here")


def _check_statistics(key: str, value: object) -> None:
    if not isinstance(value, list) or tuple(value) not in _STATISTICS[key]:
        raise ConfigError(
            f"{key}={value!r} must be {list(_STATISTICS[key][1])}, which I-JEPA was trained with and is computed here, "
            "or the 0.5 that the published files say"
        )


def _is_off(value: object) -> bool:
    return value is None or value is False or value in (0, "", [], {})
