"""Read the tensor names of the official checkpoints, and tell which model a checkpoint is.

Networks lie under `encoder`, `target_encoder` (or `ema_encoder`) and `predictor`, each name behind `module.` and
`backbone.`. What a checkpoint does not hold is the number of heads, the clip's size where positions are rotary, and the
layers a probe reads: those come from the published architectures below, or from the user.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.model import ModelConfig
from ..config.recipes import SHAPES
from ..errors import ConfigError, WeightsError
from .layout import TensorSource

if TYPE_CHECKING:
    from .tensors import Stored

ENCODERS = {"target": ("target_encoder", "ema_encoder"), "context": ("encoder",)}
"""Top-level keys of the two encoders; distilled V-JEPA 2.1 calls the target `ema_encoder`."""
_ENCODER_KEYS = (*ENCODERS["target"], *ENCODERS["context"])
PREDICTOR = "predictor"
PROBES = ("classifier", "classifiers/0")
STALE_TABLES = ("pos_embed", "predictor_pos_embed")
"""Sin-cos tables that files of rotary models may still carry."""
UNUSED_IN_PROBES = "pooler.cross_attention_block.xattn.proj."
"""V-JEPA 1 stores an output projection that its forward pass does not use."""


def _vjepa(shape: str, *, img_size: int) -> ModelConfig:
    return dataclasses.replace(SHAPES[shape], position="sincos", img_size=img_size, predictor_num_heads=16)


def _vjepa2(shape: str, *, img_size: int = 256, num_frames: int = 64) -> ModelConfig:
    return dataclasses.replace(SHAPES[shape], img_size=img_size, num_frames=num_frames, num_mask_tokens=10)


def _vjepa21(shape: str, levels: tuple[int, ...], *, is_distilled: bool) -> ModelConfig:
    return dataclasses.replace(
        SHAPES[shape],
        img_size=384,
        num_frames=64,
        rope_layout="interleaved",
        rope_grid=16,
        level_layers=levels,
        image_tokenizer=True,
        predictor_depth=12 if is_distilled else 24,
        predictor_levels=1 if is_distilled else 4,
        predictor_out_dim=1664 if is_distilled else None,
        predictor_context=True,
        num_mask_tokens=8,
    )


def _ijepa(shape: str, *, patch_size: int, img_size: int, predictor_depth: int = 12) -> ModelConfig:
    return dataclasses.replace(
        SHAPES[shape],
        num_heads=16,
        position="sincos",
        num_frames=1,
        tubelet_size=1,
        patch_size=patch_size,
        img_size=img_size,
        predictor_num_heads=16,
        predictor_depth=predictor_depth,
        num_mask_tokens=1,
    )


ARCHITECTURES: dict[str, ModelConfig] = {
    "vjepa-vitl16": _vjepa("vit_large", img_size=224),
    "vjepa-vith16": _vjepa("vit_huge", img_size=224),
    "vjepa-vith16-384": _vjepa("vit_huge", img_size=384),
    "vjepa2-vitl16": _vjepa2("vit_large"),
    "vjepa2-vith16": _vjepa2("vit_huge"),
    "vjepa2-vitg16": _vjepa2("vit_giant"),
    "vjepa2-vitg16-384": _vjepa2("vit_giant", img_size=384),
    "vjepa2.1-vitb16": _vjepa21("vit_base", (2, 5, 8, 11), is_distilled=True),
    "vjepa2.1-vitl16": _vjepa21("vit_large", (5, 11, 17, 23), is_distilled=True),
    "vjepa2.1-vitg16": _vjepa21("vit_giant", (9, 19, 29, 39), is_distilled=False),
    "vjepa2.1-vitgigantic16": _vjepa21("vit_gigantic", (11, 23, 37, 47), is_distilled=False),
    "ijepa-vith14": _ijepa("vit_huge", patch_size=14, img_size=224),
    "ijepa-vith16-448": _ijepa("vit_huge", patch_size=16, img_size=448),
    "ijepa-vith14-22k": _ijepa("vit_huge", patch_size=14, img_size=224),
    "ijepa-vitg16-22k": _ijepa("vit_giant", patch_size=16, img_size=224, predictor_depth=16),
}
"""Published models by the name that `vjepa models` lists."""

PROBE_LAYERS: dict[str, tuple[int, ...]] = {
    "ssv2-vitl-16x2x3": (),
    "ssv2-vitg-384-64x2x3": (),
    "diving48-vitl-256": (17, 19, 21, 23),
    "diving48-vitg-384-32x4x3": (24, 29, 34, 39),
}
"""Encoder blocks that V-JEPA 2's published probes read, by the name of their file."""

MULTI_LAYER_CLASSES = (48, 27)
"""Classes of Diving48 and Jester, whose official probes read four layers."""


def plain_name(name: str) -> str:
    """Return a name without the wrappers of distributed training: `module.backbone.norm.bias` is `norm.bias`."""
    return name.removeprefix("module.").removeprefix("backbone.")


def under(stored: Mapping[str, Stored], key: str) -> dict[str, str]:
    """Return the tensors below a top-level key: plain name to stored name.

    Raises:
        WeightsError: two tensors have one plain name.
    """
    found: dict[str, str] = {}
    for name in stored:
        if name.startswith(f"{key}/"):
            plain = plain_name(name[len(key) + 1 :])
            if plain in found:
                raise WeightsError(f"tensors {found[plain]!r} and {name!r} are one; this is no official checkpoint")
            found[plain] = name
    return found


def has_networks(stored: Mapping[str, Stored]) -> bool:
    """Whether a file has top-level keys as the official code writes them, and is no bare dictionary of tensors."""
    return any(name.startswith(tuple(f"{key}/" for key in (*_ENCODER_KEYS, PREDICTOR))) for name in stored)


def find_networks(source: Path, stored: Mapping[str, Stored]) -> dict[str, tuple[str, dict[str, str]]]:
    """Find the networks of an official checkpoint that are ours too.

    Args:
        source: named in messages.
        stored: what the file holds.

    Returns:
        for `encoder`, `context_encoder` and `predictor`, as far as they are there: the top-level key in the file, and
        the tensors below it by plain name. `encoder` is the target encoder if there is one. The action-conditioned
        predictor of V-JEPA 2-AC is left out.

    Raises:
        WeightsError: there is no encoder.
    """
    held = {key: under(stored, key) for key in (*_ENCODER_KEYS, PREDICTOR)}
    targets = [key for key in ENCODERS["target"] if held[key]]
    encoders = targets[:1] + [key for key in ENCODERS["context"] if held[key]]
    if not encoders:
        raise WeightsError(f"{source}: holds no encoder; pass an official checkpoint of V-JEPA or I-JEPA")
    found = {ours: (key, held[key]) for ours, key in zip(("encoder", "context_encoder"), encoders, strict=False)}
    if held[PREDICTOR] and "action_encoder.weight" not in held[PREDICTOR]:
        found[PREDICTOR] = (PREDICTOR, held[PREDICTOR])
    return found


def sources(
    names: Iterable[str], found: Mapping[str, str], stored: Mapping[str, Stored], *, key: str
) -> dict[str, TensorSource]:
    """Return where a checkpoint keeps the tensors of a network.

    Args:
        names: of our tensors.
        found: what `under` returned.
        stored: the whole file.
        key: top-level key, for names that are missing.
    """
    result = {}
    for name in names:
        # I-JEPA has one mask token and no list of them
        official = "mask_token" if name == "mask_tokens.0" and "mask_token" in found else name
        place = found.get(official, f"{key}/{name}")
        is_flat = name == "patch_embed.proj.weight" and place in stored and len(stored[place].shape) == 4
        result[name] = TensorSource((place,), lacks_frame_axis=is_flat)
    return result


def official_source(name: str, *, key: str, config: ModelConfig) -> TensorSource:
    """Return the name under which the official code stores a tensor of ours."""
    prefix = f"{key}/module." if config.is_image_model else f"{key}/module.backbone."
    if config.is_image_model and name == "mask_tokens.0":
        return TensorSource((f"{prefix}mask_token",))
    is_flat = config.is_image_model and name == "patch_embed.proj.weight"
    return TensorSource((prefix + name,), lacks_frame_axis=is_flat)


def find_architecture(arch: str) -> ModelConfig:
    """Return a published architecture by name.

    Raises:
        ConfigError: there is none; near names are listed.
    """
    if arch in ARCHITECTURES:
        return ARCHITECTURES[arch]
    near = difflib.get_close_matches(arch, ARCHITECTURES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"available: {', '.join(ARCHITECTURES)}"
    raise ConfigError(f"unknown architecture {arch!r}; {hint}")


def recognise(
    encoder: Mapping[str, tuple[int, ...]], predictor: Mapping[str, tuple[int, ...]]
) -> tuple[str, ModelConfig]:
    """Tell which published model a checkpoint is, from the shapes of its tensors by plain name.

    Returns:
        name and configuration.

    Raises:
        ConfigError: none of them, or one of several that only the user can tell apart.
    """
    fits = fitting(encoder, predictor)
    # a table of exactly the right length is no leftover
    fits = {name: config for name, config in fits.items() if config.position == "sincos"} or fits
    if not fits:
        raise ConfigError(
            "the file does not tell its number of heads, and its shapes are those of no published model; "
            "pass the model's configuration"
        )
    if len(set(fits.values())) > 1:
        raise ConfigError(f"the file could be {' or '.join(fits)}, which have the same tensors; pass arch= (--arch)")
    return " or ".join(fits), next(iter(fits.values()))


def fitting(encoder: Mapping[str, tuple[int, ...]], predictor: Mapping[str, tuple[int, ...]]) -> dict[str, ModelConfig]:
    """Return the published models that have such tensors, by name; see `recognise`."""
    return {name: config for name, config in ARCHITECTURES.items() if _fits(config, encoder, predictor)}


def _fits(
    config: ModelConfig, encoder: Mapping[str, tuple[int, ...]], predictor: Mapping[str, tuple[int, ...]]
) -> bool:
    frames, rows, columns = config.grid
    patch = (config.embed_dim, 3, config.tubelet_size, config.patch_size, config.patch_size)
    facts = [
        encoder.get("patch_embed.proj.weight") == ((*patch[:2], *patch[3:]) if config.is_image_model else patch),
        f"blocks.{config.depth - 1}.norm1.weight" in encoder,
        f"blocks.{config.depth}.norm1.weight" not in encoder,
        ("norms_block.0.weight" in encoder) == bool(config.level_layers),
        config.position == "rope" or encoder.get("pos_embed") == (1, frames * rows * columns, config.embed_dim),
    ]
    if predictor:
        tokens = sum(name.startswith("mask_token") for name in predictor)
        facts += [f"predictor_blocks.{config.predictor_depth - 1}.norm1.weight" in predictor]
        facts += [f"predictor_blocks.{config.predictor_depth}.norm1.weight" not in predictor]
        facts += [tokens == config.num_mask_tokens]
    return all(facts)
