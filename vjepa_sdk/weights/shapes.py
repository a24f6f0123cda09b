"""Work out a model's configuration from the shapes of its tensors, and from the few facts that shapes do not tell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.model import ModelConfig
from ..config.schema import from_dict
from ..errors import ConfigError, WeightsError, naming
from .transformers_layout import mlp_ratio

Shapes = Mapping[str, tuple[int, ...]]

_KEYS = {
    "num_heads": ("num_attention_heads", "num_heads"),
    "img_size": ("crop_size", "img_size", "image_size"),
    "num_frames": ("frames_per_clip", "num_frames"),
    "predictor_num_heads": ("pred_num_attention_heads", "predictor_num_heads"),
    "level_layers": ("hierarchical_layers", "out_layers", "level_layers"),
}
"""Facts by our name, and what others call them in a `config.json`."""


@dataclass(frozen=True)
class Facts:
    """What a configuration states and shapes do not tell."""

    stated: Mapping[str, Any]
    """By our name, as far as it is stated."""
    is_second_point_one: bool = False
    """Whether it calls itself V-JEPA 2.1, whose positions are rotated otherwise than V-JEPA 2's."""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Facts:
        """Read the facts of a `config.json` that others wrote."""
        found = {ours: [data[key] for key in theirs if data.get(key) is not None] for ours, theirs in _KEYS.items()}
        kind = re.sub(r"[^a-z0-9]", "", str(data.get("model_type")).lower())
        is_newer = "jepa21" in kind or bool(data.get("hierarchical_layers") or data.get("use_rope_interleave"))
        return cls({ours: values[0] for ours, values in found.items() if values}, is_newer)

    def agree_with(self, config: ModelConfig) -> bool:
        """Whether nothing that decides between published models is stated otherwise."""
        is_kind = config.family == "vjepa2.1" or not self.is_second_point_one
        return is_kind and all(
            self.stated.get(name, getattr(config, name)) == getattr(config, name) for name in ("num_heads", "img_size")
        )


def config_of(where: str | Path, encoder: Shapes, predictor: Shapes, facts: Facts) -> ModelConfig:
    """Return the configuration of a model that is none of the published ones.

    Args:
        where: named in messages.
        encoder: shapes by official name.
        predictor: the same; empty if there is none.
        facts: what is stated.

    Raises:
        ConfigError: a fact that is missing, or shapes of no such model.
        WeightsError: it says that it is V-JEPA 2.1, and is not.
    """
    patch = encoder["patch_embed.proj.weight"]
    is_image, has_levels = len(patch) == 4, "norms_block.0.weight" in encoder
    if facts.is_second_point_one and not has_levels:
        raise WeightsError(
            f"{where}: calls itself V-JEPA 2.1, and has not the four norms of its levels (norms_block); pass the "
            "official model, vjepa2.1-vitb16 and others of `vjepa models`"
        )
    needed = ["num_heads", "img_size"] + ["num_frames"] * (not is_image) + ["level_layers"] * has_levels
    needed += ["predictor_num_heads"] * bool(predictor)
    if missing := [name for name in needed if name not in facts.stated]:
        names = ", ".join(_KEYS[name][0] for name in missing)
        raise ConfigError(
            f"{where}: its shapes are those of no published model, and do not tell {names}: state them in its "
            "config.json, beside a model_type such as vjepa2_1, or run `vjepa convert` with --config"
        )
    hidden = encoder.get("blocks.0.mlp.fc1.bias", (4 * patch[0],))[0]
    fields: dict[str, Any] = {
        "num_frames": 1,
        **{name: facts.stated[name] for name in needed},
        "embed_dim": patch[0],
        "patch_size": patch[-1],
        "tubelet_size": 1 if is_image else patch[2],
        "depth": _depth(encoder, "blocks."),
        "mlp_ratio": mlp_ratio(patch[0], hidden),
        "position": "sincos" if "pos_embed" in encoder else "rope",
    }
    if has_levels:
        fields |= {"rope_layout": "interleaved", "rope_grid": 16, "image_tokenizer": "img_mod_embed" in encoder}
    fields |= _predictor_fields(predictor, patch[0], fields) if predictor else {}
    with naming(where):
        return from_dict(ModelConfig, fields, where="config.")


def _predictor_fields(predictor: Shapes, embed_dim: int, encoder: Mapping[str, Any]) -> dict[str, Any]:
    width = predictor["predictor_norm.weight"][0]
    reads_all = "predictor_embed.0.weight" in predictor
    levels = len(encoder.get("level_layers", ())) if reads_all else 1
    out = math.prod(predictor.get("predictor_proj.bias", (levels * embed_dim,)))
    hidden = predictor.get("predictor_blocks.0.mlp.fc1.bias", (4 * width,))[0]
    return {
        "predictor_embed_dim": width,
        "predictor_depth": _depth(predictor, "predictor_blocks."),
        "predictor_mlp_ratio": mlp_ratio(width, hidden),
        "predictor_levels": levels,
        "predictor_out_dim": None if out == levels * embed_dim else out,
        "predictor_context": "predictor_proj_context.bias" in predictor,
        "num_mask_tokens": sum(name.startswith("mask_token") for name in predictor),
    }


def _depth(shapes: Shapes, prefix: str) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith(prefix)})
