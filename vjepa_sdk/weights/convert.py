"""Convert official checkpoints to model directories, and V-JEPA 2 between our layout and transformers'."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ..config.choices import EncoderWeights, Layout
from ..config.model import ModelConfig, PreprocessConfig
from ..config.registry import KNOWN_MODELS
from ..errors import ConfigError, InputError, OutputError, VJEPAError, WeightsError, WriteError
from ..models.attentive_probe import AttentiveProbe, ProbeConfig
from ..models.encoder import VideoEncoder
from ..models.predictor import Predictor
from ..runtime.files import atomic_path, sha256_of, write_json, write_text
from ..runtime.ownership import check_place, is_unfinished, writing
from . import official_layout, transformers_layout
from .cards import model_card
from .conversion import ConversionReport as ConversionReport
from .conversion import convert_copy, mapped
from .copies import is_copy
from .description import read_config
from .directory import load_model_directory, save_model_directory
from .layout import CARD, CONFIG_NAME, WEIGHTS_NAME, TensorSource
from .probe_directory import save_probe
from .provenance import descended
from .tensors import (
    Stored,
    check_stored,
    expected_shapes,
    is_pickle,
    load_module,
    read_headers,
    to_stored,
    weight_files,
    write_tensors,
)
from .unpickle import unpickled

logger = logging.getLogger(__name__)


Architecture = str | ModelConfig | ProbeConfig | None
"""What a file is, where it cannot tell: the name of a published model or probe, or its configuration."""

_CPU = torch.device("cpu")
_NO_PROBE = "arch=ProbeConfig(...) does not fit: the file holds a model; pass a ModelConfig"
_REMEDY = "name the right architecture with arch= (--arch) or pass the model's configuration"


def convert(
    source: str | Path,
    out: str | Path,
    *,
    arch: Architecture = None,
    layout: Layout = "vjepa",
    weights: EncoderWeights | None = None,
) -> ConversionReport:
    """Convert a model or an attentive probe to another layout, bit by bit.

    Args:
        source: an official checkpoint or probe (a file that `torch.save` wrote), a model directory of ours or of
            transformers, or a copy of a published model: safetensors, or a bare state dictionary.
        out: directory to write; it must not exist, be empty, or be what a conversion that was killed has left.
        arch: published model (`vjepa models`) or probe the file is, or its configuration, where the file can't tell.
        layout: of `out`; `transformers` for V-JEPA 2 models of ours.
        weights: encoder to write in transformers' layout, which holds one; None: the directory's main one.

    Raises:
        ConfigError: an unknown architecture, one that the file can't tell, or a layout that does not apply.
        InputError: `source` does not exist.
        WeightsError: the source holds something else, or tensors are missing or do not fit.
        OutputError: `out` is not empty, a link, or cannot be written.
    """
    source, out = Path(source), Path(out)
    check_output(out, layout=layout, weights=weights)
    if source.is_dir():
        return _convert_directory(source, out, arch, layout, weights)
    if not source.is_file():
        raise InputError(f"{source}: no such file or directory; check the path")
    if layout != "vjepa":
        raise ConfigError(f"layout={layout!r} applies to model directories; convert the file to layout='vjepa' first")
    return _convert_checkpoint(source, out, arch)


def check_output(out: Path, *, layout: Layout, weights: EncoderWeights | None) -> None:
    """Refuse what can be refused before anything is read; see `convert`."""
    if layout not in get_args(Layout):
        raise ConfigError(f"layout={layout!r} must be one of {', '.join(get_args(Layout))}")
    check_place(out)
    if out.exists() and any(out.iterdir()) and not is_unfinished(out):
        raise OutputError(f"{out}: exists and is not empty; choose another directory")
    if not out.parent.is_dir():
        raise OutputError(f"{out.parent}: no such directory; create it first")
    if weights is not None and layout != "transformers":
        raise ConfigError(f"weights={weights!r} applies to layout='transformers' alone; leave it out")


def official_state(directory: str | Path) -> dict[str, dict[str, Tensor]]:
    """Return a model directory's weights under the official names, as the official code saves and loads them.

    Returns:
        `target_encoder` (`ema_encoder` for distilled models), `encoder` and `predictor`, as far as the directory holds
        them; each maps names such as `module.backbone.norm.bias` to tensors.
    """
    first = load_model_directory(directory, device=_CPU)
    networks: dict[str, nn.Module] = {}
    target = "ema_encoder" if first.config.predictor_out_dim else "target_encoder"
    networks[target if first.encoder_weights == "target" else "encoder"] = first.encoder
    if any(name.startswith("context_encoder.") for name in read_headers(weight_files(Path(directory)))):
        networks["encoder"] = load_model_directory(directory, weights="context", device=_CPU).encoder
    if first.predictor is not None:
        networks["predictor"] = first.predictor
    result = {}
    for key, network in networks.items():
        state = network.state_dict()
        sources = {name: official_layout.official_source(name, key=key, config=first.config) for name in state}
        result[key] = {name[len(key) + 1 :]: value for name, value in to_stored(state, sources).items()}
    return result


def _convert_directory(
    source: Path, out: Path, arch: Architecture, layout: Layout, weights: EncoderWeights | None
) -> ConversionReport:
    data = read_config(source)
    if is_copy(data):
        if layout != "vjepa":
            raise ConfigError(f"{source}: is a copy in another layout; convert it to layout='vjepa' first")
        stored = read_headers(weight_files(source))
        return _convert_copy(source, out, arch, stored, data=data, provenance={"source": source.name})
    if arch is not None:
        raise ConfigError(f"arch={arch!r} applies to files; {source} is a directory that has its configuration")
    if ("model_type" in data) == (layout == "transformers"):
        raise ConfigError(f"{source}: is in the layout {layout!r} already; pass the other one")
    return _to_transformers(source, out, weights) if layout == "transformers" else _from_transformers(source, out)


def _from_transformers(source: Path, out: Path) -> ConversionReport:
    loaded = load_model_directory(source, device=_CPU)
    modules: dict[str, nn.Module] = {"encoder": loaded.encoder}
    if loaded.predictor is not None:
        modules["predictor"] = loaded.predictor
    provenance = {**descended(loaded.provenance), "source": source.name}
    save_model_directory(
        out,
        config=loaded.config,
        preprocess=loaded.preprocess,
        modules=modules,
        encoder_weights=loaded.encoder_weights,
        provenance=provenance,
        card=model_card(loaded.config, provenance=provenance, preprocess=loaded.preprocess),
    )
    stored = read_headers(weight_files(source))
    kind = "ijepa" if loaded.config.is_image_model else "vjepa2"
    prefix = f"{kind}." if any(name.startswith(f"{kind}.") for name in stored) else ""
    reason = "classification head; Probe.from_pretrained reads it from the source directory"
    return ConversionReport(
        out=out,
        kind="model",
        architecture="custom",
        mapped=mapped(
            modules, {key: _transformers_sources(key, modules[key], kind, prefix, loaded.config) for key in modules}
        ),
        dropped={name: reason for name in stored if name.startswith(transformers_layout.HEAD_PREFIXES)},
        network_isolated=None,
    )


def _to_transformers(source: Path, out: Path, weights: EncoderWeights | None) -> ConversionReport:
    loaded = load_model_directory(source, weights=weights, device=_CPU)
    if loaded.config.family != "vjepa2":
        raise ConfigError(
            f"{source}: is a {loaded.config.family} model; transformers' layout is written for vjepa2 only"
        )
    if loaded.predictor is None:
        raise WeightsError(
            f"{source}: holds no predictor, which transformers' V-JEPA 2 needs; convert the official file"
        )
    dtype = str(loaded.encoder.patch_embed.proj.weight.dtype).removeprefix("torch.")
    config = transformers_layout.write_config(loaded.config, encoder_weights=loaded.encoder_weights, dtype=dtype)
    processor = transformers_layout.write_processor(loaded.preprocess)
    if transformers_layout.read_preprocess(config, processor, loaded.config) != loaded.preprocess:
        logger.warning(
            "%s: transformers' processor cannot resize and crop as this model does (%s); features will differ a little",
            out, loaded.preprocess,
        )  # fmt: skip
    modules: dict[str, nn.Module] = {"encoder": loaded.encoder, "predictor": loaded.predictor}
    sources = {key: _transformers_sources(key, modules[key], "vjepa2", "", loaded.config) for key in modules}
    tensors: dict[str, Tensor] = {}
    for key, module in modules.items():
        tensors.update(to_stored(module.state_dict(), sources[key]))
    card = model_card(loaded.config, provenance=descended(loaded.provenance), preprocess=loaded.preprocess)
    names = [WEIGHTS_NAME, transformers_layout.PROCESSOR_NAMES[0], CARD, CONFIG_NAME]
    try:
        with writing(out, names, reserved=re.compile("|".join(map(re.escape, names))), written=lambda place: set()):
            with atomic_path(out / WEIGHTS_NAME) as path:
                write_tensors(path, tensors)
            write_json(out / transformers_layout.PROCESSOR_NAMES[0], processor)
            write_text(out / CARD, card)
            write_json(out / CONFIG_NAME, config)
    except OSError as error:
        if isinstance(error, VJEPAError):
            raise
        raise WriteError(f"{out}: cannot write the model ({error.strerror or error})") from error
    stored = read_headers(weight_files(source))
    has_both = any(name.startswith("context_encoder.") for name in stored)
    taken = "context_encoder." if has_both and loaded.encoder_weights == "context" else "encoder."
    other = [name for name in stored if not name.startswith((taken, "predictor."))]
    return ConversionReport(
        out=out,
        kind="model",
        architecture="custom",
        mapped=mapped(modules, sources),
        dropped={name: "transformers' layout holds one encoder" for name in other},
        network_isolated=None,
    )


def _transformers_sources(
    key: str, module: nn.Module, kind: str, prefix: str, config: ModelConfig
) -> dict[str, TensorSource]:
    return transformers_layout.sources(
        key, module.state_dict(), kind=kind, prefix=prefix, num_mask_tokens=config.num_mask_tokens
    )


def _convert_copy(
    source: Path,
    out: Path,
    arch: Architecture,
    stored: Mapping[str, Stored],
    *,
    data: Mapping[str, Any],
    provenance: Mapping[str, Any],
    dropped: Mapping[str, str] | None = None,
    isolated: bool | None = None,
) -> ConversionReport:
    if isinstance(arch, ProbeConfig):
        raise ConfigError(_NO_PROBE)
    return convert_copy(
        source, out, stored, arch=arch, data=data, provenance=provenance, dropped=dropped or {}, isolated=isolated
    )


def _convert_checkpoint(source: Path, out: Path, arch: Architecture) -> ConversionReport:
    if source.suffix == ".safetensors" and not is_pickle(source):
        known = {"source": source.name, "sha256": sha256_of(source)}
        return _convert_copy(source, out, arch, read_headers([source]), data={}, provenance=known)
    if not is_pickle(source):
        raise WeightsError(
            f"{source}: is no checkpoint that torch.save wrote, by its content; pass an official file or a directory"
        )
    with unpickled(source, near=out) as (stored, facts):
        dropped = {name: f"not weights ({kind})" for name, kind in facts["others"].items()}
        for key in official_layout.PROBES:
            if found := official_layout.under(stored, key):
                return _convert_probe(source, out, arch, stored, found, dropped, facts["network_isolated"])
        if not official_layout.has_networks(stored):
            known = {"source": source.name, "sha256": sha256_of(source)}
            isolated: bool = facts["network_isolated"]
            return _convert_copy(
                source, out, arch, stored, data={}, provenance=known, dropped=dropped, isolated=isolated
            )
        return _convert_model(source, out, arch, stored, dropped, facts["network_isolated"])


def _convert_model(
    source: Path,
    out: Path,
    arch: Architecture,
    stored: dict[str, Stored],
    dropped: dict[str, str],
    isolated: bool,
) -> ConversionReport:
    found = official_layout.find_networks(source, stored)
    if official_layout.PREDICTOR not in found:
        left = official_layout.under(stored, official_layout.PREDICTOR).values()
        dropped |= dict.fromkeys(left, "action-conditioned predictor (V-JEPA 2-AC), which this package does not run")
    shapes = {key: {plain: stored[name].shape for plain, name in names.items()} for key, (_, names) in found.items()}
    name, config = _architecture(arch, shapes)
    held: EncoderWeights = "target" if found["encoder"][0] in official_layout.ENCODERS["target"] else "context"
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {
            key: Predictor(config) if key == "predictor" else VideoEncoder(config) for key in found
        }
    sources = {
        key: official_layout.sources(modules[key].state_dict(), names, stored, key=place)
        for key, (place, names) in found.items()
    }
    for _, names in found.values():
        for table in official_layout.STALE_TABLES if config.position == "rope" else ():
            if table in names:
                dropped[names[table]] = "left-over table; this model's positions are rotary"
    expected = {name: shape for key in modules for name, shape in expected_shapes(modules[key], sources[key]).items()}
    check_stored(source, expected, {key: value for key, value in stored.items() if key not in dropped}, remedy=_REMEDY)
    for key, module in modules.items():
        load_module(module, sources=sources[key], stored=stored, device=_CPU, dtype=None)
    provenance = _provenance(source, name)
    save_model_directory(
        out,
        config=config,
        preprocess=PreprocessConfig.for_crop(config.img_size),
        modules=modules,
        encoder_weights=held,
        provenance=provenance,
        card=model_card(config, provenance=provenance),
    )
    return ConversionReport(out, "model", name, mapped(modules, sources), dropped, isolated)


def _architecture(arch: Architecture, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> tuple[str, ModelConfig]:
    if isinstance(arch, ModelConfig):
        return "custom", arch
    if isinstance(arch, ProbeConfig):
        raise ConfigError(_NO_PROBE)
    if arch is not None:
        return arch, official_layout.find_architecture(arch)
    return official_layout.recognise(shapes["encoder"], shapes.get("predictor", {}))


def _provenance(source: Path, name: str) -> dict[str, Any]:
    facts = {"source": source.name, "sha256": sha256_of(source), "architecture": name}
    published = [KNOWN_MODELS[alias] for alias in name.split(" or ") if alias in KNOWN_MODELS]
    for info in published:
        if info.sha256 not in ("", facts["sha256"]):
            logger.warning("%s: sha256 %s is not that of %s, %s", source, facts["sha256"], info.url, info.sha256)
    licences = {info.licence for info in published}
    return {**facts, "licence": licences.pop()} if len(licences) == 1 else facts


def _convert_probe(
    source: Path,
    out: Path,
    arch: Architecture,
    stored: dict[str, Stored],
    found: dict[str, str],
    dropped: dict[str, str],
    isolated: bool,
) -> ConversionReport:
    for plain, name in found.items():
        if plain.startswith(official_layout.UNUSED_IN_PROBES):
            dropped[name] = "never used by the official forward pass"
    kept = set(found.values())
    dropped.update({name: "another probe of the same file; the first is taken" for name in stored if name not in kept})
    name, config = _probe_config(source, arch, {plain: stored[place].shape for plain, place in found.items()})
    with torch.device("meta"):
        probe = AttentiveProbe(config)
    sources = {key: TensorSource((found.get(key, key),)) for key in probe.state_dict()}
    kept_tensors = {key: value for key, value in stored.items() if key not in dropped}
    check_stored(
        source, expected_shapes(probe, sources), kept_tensors, remedy="pass a probe of a V-JEPA 1 or 2 encoder"
    )
    load_module(probe, sources=sources, stored=stored, device=_CPU, dtype=None)
    save_probe(out, probe, provenance=_provenance(source, name))
    return ConversionReport(out, "probe", name, {key: place.names for key, place in sources.items()}, dropped, isolated)


def _probe_config(source: Path, arch: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ProbeConfig]:
    """Read a probe's shape off its tensors; which layers it reads, they do not say."""
    if isinstance(arch, ProbeConfig):
        return "custom", arch
    if isinstance(arch, ModelConfig):
        raise ConfigError("arch=ModelConfig(...) does not fit: the file holds a probe; pass a ProbeConfig")
    if arch is not None and arch not in official_layout.PROBE_LAYERS:
        known = ", ".join(official_layout.PROBE_LAYERS)
        raise ConfigError(f"unknown probe {arch!r}; available: {known}; or pass a ProbeConfig")
    query, linear = shapes.get("pooler.query_tokens", ()), shapes.get("linear.weight", ())
    hidden = shapes.get("pooler.cross_attention_block.mlp.fc1.bias", ())
    if len(query) != 3 or len(linear) != 2 or len(hidden) != 1 or query[1] != 1:
        raise WeightsError(
            f"{source}: holds another kind of probe, not one query and one classifier; it is not supported"
        )
    if arch is None and linear[0] in official_layout.MULTI_LAYER_CLASSES:
        raise ConfigError(
            f"{source}: probes of {linear[0]} classes were trained on four layers, which the file does not name; "
            f"pass arch= (--arch), one of {', '.join(official_layout.PROBE_LAYERS)}"
        )
    blocks = {name.split(".")[2] for name in shapes if name.startswith("pooler.blocks.")}
    is_first = any(name.startswith(official_layout.UNUSED_IN_PROBES) for name in shapes)
    return arch or "custom", ProbeConfig(
        embed_dim=query[2],
        num_classes=linear[0],
        depth=1 + len(blocks),
        mlp_ratio=transformers_layout.mlp_ratio(query[2], hidden[0]),
        self_attention="after" if is_first else "before",
        layers=official_layout.PROBE_LAYERS[arch] if arch is not None else (),
    )
