"""Recognise copies that others made of published models, by the names and shapes of their tensors alone.

Two ways of naming are known. Official names, bare or behind whatever their maker left before them: `blocks.0...`,
`module.backbone.blocks.0...`, `target_encoder/module.backbone.blocks.0...`. And those of ports of V-JEPA 2.1 to
transformers, which have a `model_type` of their own: `encoder.layer.0...`, `encoder.norms_block.0...`. What a
configuration beside them says is read as facts; code that it names is never run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.choices import EncoderWeights
from ..config.model import ModelConfig
from ..config.registry import KNOWN_MODELS
from ..errors import ConfigError, WeightsError
from . import official_layout, shapes
from .layout import TensorSource
from .transformers_layout import HEAD_PREFIXES, MODEL_TYPES

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]

NO_CONFIG: Mapping[str, Any] = {"model_type": "vjepa"}
"""Stands for a `config.json` where weights have none."""

_PARTS = {"query": 0, "key": 1, "value": 2}
_PORTED = (
    (r"^embeddings\.patch_embeddings(_img)?\.", r"patch_embed\1."),
    (r"^embeddings\.predictor_embed(?:dings)?\.", "predictor_embed."),
    (r"^embeddings\.", ""),
    (r"\.attention\.(?:query|key|value)\.", ".attn.qkv."),
    (r"\.attention\.proj\.", ".attn.proj."),
)
"""From the names of ports to official ones, in this order."""
_OWN = {
    "encoder": ((r"^layer\.", "blocks."), (r"^layernorm\.", "norm.")),
    "predictor": (
        (r"^layer\.", "predictor_blocks."),
        (r"^layernorm\.", "predictor_norm."),
        (r"^proj(_context)?\.", r"predictor_proj\1."),
    ),
}
_ANCHORS = (
    ("encoder", False, r"(.*[./]|)patch_embed\.proj\.weight"),
    ("encoder", True, r"(.*\.|)embeddings\.patch_embeddings\.proj\.weight"),
    ("predictor", False, r"(.*[./]|)predictor_norm\.weight"),
    ("predictor", True, r"(.*[./]|)(?<=predictor\.)layernorm\.weight"),
)
"""A tensor that every network has, which tells where its names begin: kind, whether it is a port, pattern."""


def is_copy(data: Mapping[str, Any]) -> bool:
    """Whether what a `config.json` says is that of a copy.

    A port may call itself `vjepa2` and add what only V-JEPA 2.1 has.
    """
    kind = data.get("model_type")
    if kind == "vjepa2":
        return bool(data.get("hierarchical_layers") or data.get("use_rope_interleave"))
    # vjepa21, vjepa2_1, v-jepa-2.1-vit-l, ...; a `vjepa3` may compute something else from the same tensors
    known = isinstance(kind, str) and re.match(r"(v[-_]?jepa([-_]?[12]|$|[-_])|i[-_]?jepa)", kind.lower())
    return bool(known) and kind not in MODEL_TYPES


@dataclass(frozen=True)
class _Network:
    """One network of a copy: official name to the stored tensors that make it up."""

    prefix: str
    is_port: bool
    names: dict[str, dict[int, str]] = field(default_factory=dict)

    def shapes(self, stored: Shapes) -> dict[str, tuple[int, ...]]:
        """Return shapes by official name."""
        result: dict[str, tuple[int, ...]] = {}
        for plain, parts in self.names.items():
            first = stored[parts[0]] if 0 in parts else ()
            if plain == "mask_tokens":
                result |= {f"mask_tokens.{number}": first[1:] for number in range(first[0] if first else 0)}
            else:
                result[plain] = (len(parts) * first[0], *first[1:]) if len(parts) > 1 and first else first
        return result


@dataclass(frozen=True)
class Copy:
    """A copy that was recognised."""

    architecture: str
    config: ModelConfig
    encoder_weights: EncoderWeights
    networks: dict[str, _Network]
    """`encoder`, `context_encoder` and `predictor`, as far as they are there."""
    stored: Shapes
    dropped: dict[str, str]
    """Tensors that are no part of the model, and why."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What is known of where it comes from."""
        first = self.networks["encoder"]
        layout = "names of a port to transformers" if first.is_port else "official names"
        licences = {KNOWN_MODELS[name].licence for name in self.architecture.split(" or ") if name in KNOWN_MODELS}
        facts = {"layout": f"copy, {layout}", "architecture": self.architecture}
        return {**facts, "licence": licences.pop()} if len(licences) == 1 else facts

    def sources(self, key: str, names: Iterable[str]) -> dict[str, TensorSource]:
        """Return where the tensors of a network are; of one that is missing, where it should be."""
        network = self.networks[key]
        return {name: self._source(network, name) for name in names}

    def _source(self, network: _Network, name: str) -> TensorSource:
        if name.startswith("mask_tokens.") and (stacked := network.names.get("mask_tokens")):
            count = self.stored[stacked[0]][0]
            return TensorSource((stacked[0],), row=int(name.rpartition(".")[2]), rows=count)
        official = "mask_token" if name == "mask_tokens.0" and "mask_token" in network.names else name
        parts = network.names.get(official, {0: network.prefix + official})
        stored = tuple(parts[number] for number in sorted(parts))
        is_flat = name == "patch_embed.proj.weight" and len(self.stored.get(stored[0], ())) == 4
        return TensorSource(stored, lacks_frame_axis=is_flat)


def recognise(
    where: str | Path, stored: Shapes, data: Mapping[str, Any], *, arch: str | ModelConfig | None = None
) -> Copy:
    """Tell what a copy is.

    Args:
        where: named in messages.
        stored: shape of every tensor by name.
        data: what its `config.json` says, empty if there is none.
        arch: published model or configuration, where neither can tell.

    Raises:
        ConfigError: it is none of the published models, or one of several; what must be stated is named.
        WeightsError: there is no encoder, or more than can be told apart.
    """
    dropped = {name: "classification head" for name in stored if name.startswith(HEAD_PREFIXES)}
    networks = _networks(where, {name: shape for name, shape in stored.items() if name not in dropped})
    held = _held(networks["encoder"].prefix, data)
    encoder = networks["encoder"].shapes(stored)
    predictor = networks["predictor"].shapes(stored) if "predictor" in networks else {}
    name, config = _architecture(where, arch, encoder, predictor, data)
    for network in networks.values():
        for table in official_layout.STALE_TABLES if config.position == "rope" else ():
            dropped |= dict.fromkeys(network.names.get(table, {}).values(), "left-over table; positions are rotary")
    claimed = {part for network in networks.values() for parts in network.names.values() for part in parts.values()}
    # ports keep the predictor's modality offsets twice
    dropped |= {name: "second name of one tensor" for name in stored.keys() - claimed if name.endswith("_mod_embed")}
    if code := [key for key in ("auto_map", "trust_remote_code") if key in data]:
        logger.info("%s: its %s names code, which is not run; it is loaded by its tensors", where, code[0])
    return Copy(name, config, held, networks, stored, dropped)


def _networks(where: str | Path, stored: Shapes) -> dict[str, _Network]:
    """Find the networks, and give every tensor to the one whose prefix fits it best."""
    found: dict[str, dict[str, _Network]] = {"encoder": {}, "predictor": {}}
    for name in stored:
        for kind, is_port, pattern in _ANCHORS:
            if match := re.fullmatch(pattern, name):
                found[kind][match[1]] = _Network(match[1], is_port)
    encoders = sorted(found["encoder"].values(), key=lambda network: not _is_target(network.prefix))
    targets = sum(_is_target(network.prefix) for network in encoders)
    if not encoders:
        raise WeightsError(f"{where}: holds no encoder of V-JEPA or I-JEPA, by the names of its tensors")
    if len(encoders) > 2 or targets > 1 or len(encoders) - targets > 1 or len(found["predictor"]) > 1:
        places = sorted({*found["encoder"], *found["predictor"]})
        raise WeightsError(f"{where}: holds several networks of one kind, below {places[:4]}; keep one of each")
    networks = dict(zip(("encoder", "context_encoder"), encoders, strict=False))
    networks |= dict(zip(("predictor",), found["predictor"].values(), strict=False))
    for name in stored:
        for key, network, rest in _owners(name, networks):
            kind = "predictor" if key == "predictor" else "encoder"
            plain, part = _official(rest, kind) if network.is_port else (rest, 0)
            if (plain.startswith(("predictor_", "mask_token"))) == (kind == "predictor") or "mod_embed" in plain:
                network.names.setdefault(plain, {}).setdefault(part, name)
                break
    return networks


def _owners(name: str, networks: Mapping[str, _Network]) -> Iterator[tuple[str, _Network, str]]:
    """Yield the networks whose prefix a name has, the longest first."""
    for key, network in sorted(networks.items(), key=lambda item: -len(item[1].prefix)):
        if name.startswith(network.prefix):
            yield key, network, name[len(network.prefix) :]


def _official(name: str, kind: str) -> tuple[str, int]:
    """Return the official name of a port's tensor, and which of the three parts of a fused one it is."""
    match = re.search(r"\.attention\.(query|key|value)\.", name)
    for pattern, replacement in (*_PORTED, *_OWN[kind]):
        name = re.sub(pattern, replacement, name)
    return name, _PARTS[match[1]] if match else 0


def _is_target(prefix: str) -> bool:
    return any(key in prefix for key in official_layout.ENCODERS["target"])


def _held(prefix: str, data: Mapping[str, Any]) -> EncoderWeights:
    """Return which encoder it is: as stated, as its official key says, else the target, which ports are made of."""
    stated = data.get("encoder_weights", data.get("checkpoint_key"))
    if stated in ("context", "encoder") or (stated is None and re.match(r"(module\.)?encoder/", prefix)):
        return "context"
    return "target"


def _architecture(
    where: str | Path,
    arch: str | ModelConfig | None,
    encoder: Shapes,
    predictor: Shapes,
    data: Mapping[str, Any],
) -> tuple[str, ModelConfig]:
    if isinstance(arch, ModelConfig):
        return "custom", arch
    if arch is not None:
        return arch, official_layout.find_architecture(arch)
    if encoder["patch_embed.proj.weight"][-1:] == (3,):
        raise WeightsError(f"{where}: keeps channels last, as MLX does; convert the PyTorch weights it was made from")
    facts = shapes.Facts.of(data)
    fits = official_layout.fitting(encoder, predictor)
    fits = {name: config for name, config in fits.items() if config.position == "sincos"} or fits
    fits = {name: config for name, config in fits.items() if facts.agree_with(config)}
    if len(set(fits.values())) > 1:
        names = list(fits)
        raise ConfigError(
            f"{where}: could be {' or '.join(names)}, which have the same tensors; state crop_size in its config.json, "
            f"or run `vjepa convert {where} DIRECTORY --arch {names[0]}`"
        )
    if fits:
        return " or ".join(fits), next(iter(fits.values()))
    return "custom", shapes.config_of(where, encoder, predictor, facts)
