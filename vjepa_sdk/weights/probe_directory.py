"""Read and write probe directories: ours, and the heads of transformers' classification models."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch

from ..config.choices import ProbeKind
from ..config.model import MODEL_FORMAT
from ..config.schema import from_dict, to_dict, unknown
from ..errors import ConfigError, VJEPAError, WriteError, naming
from ..features.source import UNKNOWN, FeatureSource
from ..models.attentive_probe import AttentiveProbe, ProbeConfig
from ..models.vector_probe import LinearProbe, LinearProbeConfig, NearestProbe, NearestProbeConfig
from ..runtime.files import atomic_file, atomic_path, write_json, write_text
from ..runtime.ownership import refuse_link, writing
from . import transformers_layout
from .cards import probe_card
from .description import read_config
from .digests import DIGESTS, parted, weights_digest
from .image_classifier import is_image_classifier, load_image_classifier, read_image_classifier
from .layout import CARD, CONFIG_NAME, LICENCES, PREDICTIONS, WEIGHTS_NAME, TensorSource
from .provenance import origin_of
from .tensors import check_stored, expected_shapes, load_module, read_headers, weight_files, write_tensors
from .written import PROBE_RESERVED, probe_written

logger = logging.getLogger(__name__)

AnyProbe = AttentiveProbe | LinearProbe | NearestProbe
AnyProbeConfig = ProbeConfig | LinearProbeConfig | NearestProbeConfig

_CONFIG_KEYS = ("format_version", "kind", "labels", "model", "features", "probe", "provenance", "fit", "scores")
_CONFIGS: dict[ProbeKind, type[AnyProbeConfig]] = {
    "attentive": ProbeConfig,
    "linear": LinearProbeConfig,
    "regression": LinearProbeConfig,
    "knn": NearestProbeConfig,
}
_OFFICIAL_HEADS, _OFFICIAL_DEPTH, _GIANT_DIM, _GIANT_HEADS = 16, 4, 1408, 22
_OFFICIAL_CLASSES = {
    "facebook/vjepa2-vitg-fpc64-384-ssv2": 174,
    "facebook/vjepa2-vitg-fpc32-384-diving48": 48,
}
"""The official ViT-g probes as transformers has them, and their classes."""
_POOLER_HEADS = "pooler_num_attention_heads"
"""Our key in a `config.json` of transformers, for what it has no key for."""


@dataclass(frozen=True)
class PretrainedProbe:
    """What a probe directory holds."""

    probe: AnyProbe
    labels: tuple[str, ...] = ()
    """Names of the classes; empty where they are not recorded."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the weights come from, as plain JSON data; of a probe from the hub also `repository` and `commit`."""
    kind: ProbeKind = "attentive"
    source: FeatureSource = UNKNOWN
    """What features it reads."""
    fit: Mapping[str, Any] = field(default_factory=dict)
    """How it was fitted, as plain JSON data."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """What it reaches on videos that it was not fitted to, as plain JSON data."""
    weights_sha256: str = ""
    """Of the weights that all this speaks of; empty where it is not recorded."""


@dataclass(frozen=True)
class _Described:
    """What the `config.json` of a probe says."""

    config: AnyProbeConfig
    labels: tuple[str, ...]
    provenance: Mapping[str, Any]
    kind: ProbeKind = "attentive"
    source: FeatureSource = UNKNOWN
    fit: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)


def build_probe(config: AnyProbeConfig) -> AnyProbe:
    """Build a probe whose weights have not been fitted."""
    if isinstance(config, ProbeConfig):
        return AttentiveProbe(config)
    return LinearProbe(config) if isinstance(config, LinearProbeConfig) else NearestProbe(config)


def load_probe(
    directory: str | Path,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    num_heads: int | None = None,
) -> PretrainedProbe:
    """Load a probe from a directory that we wrote, or from a transformers classification model.

    Args:
        directory: holds `config.json` and `model.safetensors` (or shards with an index).
        device: where the weights go.
        dtype: of an attentive probe's weights in memory, those of vectors are float32; None: as stored.
        num_heads: attention heads of a transformers model's pooler; None: what the repository says, see
            `_with_heads`.

    Raises:
        ConfigError: `config.json` is missing, malformed or describes no probe; or `num_heads` is left open, or given to
            a probe of ours.
        WeightsError: tensors are missing or do not fit.
    """
    directory = Path(directory)
    data = read_config(directory)
    stored = read_headers(weight_files(directory))
    with naming(directory / CONFIG_NAME):
        found = _describe(data)
    if is_image_classifier(data):
        head = load_image_classifier(directory, data, stored, device=device)
        return PretrainedProbe(head, found.labels, {**found.provenance, **origin_of(directory)}, found.kind)
    with naming(directory / CONFIG_NAME):
        repository = origin_of(directory).get("repository")
        found = replace(found, config=_with_heads(data, found.config, num_heads, repository))
    if "model_type" in data:
        stored = {name: value for name, value in stored.items() if name.startswith(transformers_layout.HEAD_PREFIXES)}
    provenance, digests = parted(found.provenance)
    with torch.device("meta"):
        probe = build_probe(found.config)
    locate = transformers_layout.probe_source if "model_type" in data else lambda name: TensorSource((name,))
    sources = {name: locate(name) for name in probe.state_dict()}
    check_stored(directory, expected_shapes(probe, sources), stored, remedy="correct config.json or fetch it again")
    kept = dtype if found.kind == "attentive" else torch.float32
    load_module(probe, sources=sources, stored=stored, device=device, dtype=kept)
    return PretrainedProbe(
        probe=probe,
        labels=found.labels,
        provenance={**provenance, **origin_of(directory)},
        kind=found.kind,
        source=found.source,
        fit=found.fit,
        scores=found.scores,
        weights_sha256=str(digests.get("probe", "")) if dtype is None else "",
    )


def save_probe(
    directory: str | Path,
    probe: AnyProbe,
    *,
    labels: Sequence[str] = (),
    provenance: Mapping[str, Any],
    kind: ProbeKind = "attentive",
    source: FeatureSource = UNKNOWN,
    fit: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    predictions: bytes | None = None,
) -> Path:
    """Write a probe directory; every file appears whole, `config.json` last.

    A probe that vjepa-sdk wrote there is replaced, and nothing else.

    Args:
        predictions: content of `predictions.csv`; None: there is none to write.

    Raises:
        OutputError: the directory is a link, or holds files of these names that were not written here.
        WriteError: the directory cannot be written.
    """
    directory = Path(directory)
    held = PretrainedProbe(probe, tuple(labels), provenance, kind, source, fit or {}, scores or {})
    data = _to_config(held)
    tensors = {name: value.detach().cpu().contiguous() for name, value in probe.state_dict().items()}
    data["provenance"][DIGESTS] = {"probe": weights_digest(tensors.items())}
    names = [WEIGHTS_NAME, CARD, CONFIG_NAME, *([] if predictions is None else [PREDICTIONS])]
    try:
        with writing(directory, names, reserved=PROBE_RESERVED, written=probe_written):
            if predictions is not None:
                with atomic_file(directory / PREDICTIONS) as file:
                    file.write(predictions)
            with atomic_path(directory / WEIGHTS_NAME) as path:
                write_tensors(path, tensors)
            write_text(directory / CARD, _card(held))
            write_json(directory / CONFIG_NAME, data)
    except OSError as error:
        if isinstance(error, VJEPAError):
            raise
        raise WriteError(f"{directory}: cannot write the probe ({error.strerror or error})") from error
    return directory


def _to_config(found: PretrainedProbe) -> dict[str, Any]:
    data: dict[str, Any] = {
        "format_version": MODEL_FORMAT,
        "probe": to_dict(found.probe.config),
        "provenance": dict(found.provenance),
        "labels": list(found.labels),
        "model": dict(found.source.model),
        "features": {"settings": dict(found.source.settings), "preprocess": dict(found.source.preprocess)},
        "fit": dict(found.fit),
        "scores": dict(found.scores),
    }
    if not found.source.is_known:
        del data["features"]
    # what an earlier version does not know is left out where there is nothing to say
    data = {key: value for key, value in data.items() if value or key in ("probe", "provenance")}
    if found.kind != "attentive":
        data["kind"] = found.kind
    return data


def probe_files(directory: str | Path) -> dict[str, Path]:
    """Return the files that make up a probe directory of ours, by name, after loading it.

    Raises:
        ConfigError: `config.json` is missing, malformed, describes no probe, or speaks of other weights.
        WeightsError: tensors are missing or do not fit.
    """
    directory = Path(directory)
    _load_as_recorded(directory)
    paths = [directory / name for name in (CONFIG_NAME, WEIGHTS_NAME, CARD, *LICENCES)]
    return {path.name: path for path in paths if path.is_file()}


def write_probe_card(directory: Path) -> Path:
    """Write the `README.md` of a probe directory anew, and return its path; raises what `load_probe` does."""
    refuse_link(directory / CARD)
    write_text(directory / CARD, _card(_load_as_recorded(directory)))
    return directory / CARD


def _load_as_recorded(directory: Path) -> PretrainedProbe:
    found = load_probe(directory, device=torch.device("cpu"))
    if found.weights_sha256 not in ("", weights_digest(found.probe.state_dict().items())):
        raise ConfigError(
            f"{directory}: the weights were changed since {CONFIG_NAME} and {CARD} were written, which speak of "
            "others; load it with Probe.from_pretrained, and save it again"
        )
    return found


def _card(found: PretrainedProbe) -> str:
    return probe_card(
        to_dict(found.probe.config),
        kind=found.kind,
        labels=found.labels,
        provenance=found.provenance,
        model=found.source.model,
        fit=found.fit,
        scores=found.scores,
    )


def check_probe_config(data: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the content of a `config.json` describes a probe that can be loaded."""
    _describe(data)


def _describe(data: Mapping[str, Any]) -> _Described:
    return _from_transformers(data) if "model_type" in data else _from_ours(data)


def _from_ours(data: Mapping[str, Any]) -> _Described:
    if not isinstance(data.get("probe"), dict):
        raise ConfigError("describes no probe; pass a directory that `vjepa probe train` or `vjepa convert` wrote")
    for key in data:
        if key not in _CONFIG_KEYS:
            raise ConfigError(unknown(f"key {key!r}", key, _CONFIG_KEYS))
    if data.get("format_version") != MODEL_FORMAT:
        raise ConfigError(
            f"format_version={data.get('format_version')!r} must be {MODEL_FORMAT}; a newer vjepa-sdk may read it"
        )
    kind = data.get("kind", "attentive")
    if kind not in get_args(ProbeKind):
        raise ConfigError(f"kind={kind!r} must be one of {', '.join(get_args(ProbeKind))}")
    config = from_dict(_CONFIGS[kind], data["probe"], where="probe.")
    features = data.get("features", {})
    objects = {key: data.get(key, {}) for key in ("provenance", "model", "features", "fit", "scores")}
    objects |= {f"features.{key}": value for key, value in features.items()} if isinstance(features, dict) else {}
    for key, value in objects.items():
        if not isinstance(value, dict):
            raise ConfigError(f"{key}={value!r} must be an object")
    return _Described(
        kind=kind,
        config=config,
        labels=_check_labels(data.get("labels", []), config.num_classes, named=kind in ("linear", "knn")),
        provenance=objects["provenance"],
        source=FeatureSource(objects["model"], features.get("settings", {}), features.get("preprocess", {})),
        fit=objects["fit"],
        scores=objects["scores"],
    )


def _from_transformers(data: Mapping[str, Any]) -> _Described:
    if is_image_classifier(data):
        return _Described(*read_image_classifier(data), {"layout": "transformers ijepa"}, "linear")
    if data["model_type"] != "vjepa2":
        raise ConfigError(
            f"model_type={data['model_type']!r} must be 'vjepa2', or 'ijepa' with a classification head; no other has "
            "a probe"
        )
    model = transformers_layout.read_config(data)
    names = data.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    if not isinstance(names, dict) or set(names) != {str(index) for index in range(len(names))}:
        raise ConfigError("id2label must name the classes '0' to 'n - 1'")
    depth = data.get("num_pooler_layers", 3)
    if type(depth) is not int or not 0 <= depth < 64:
        raise ConfigError(f"num_pooler_layers={depth!r} must be an integer from 0 to 63")
    fields: dict[str, Any] = {"embed_dim": model.embed_dim, "num_classes": len(names), "depth": depth + 1}
    fields |= {"num_heads": data.get(_POOLER_HEADS, model.num_heads), "norm_eps": model.norm_eps}
    labels = _check_labels([names[str(index)] for index in range(len(names))], len(names))
    return _Described(from_dict(ProbeConfig, fields), labels, {"layout": "transformers vjepa2"})


def _with_heads(
    data: Mapping[str, Any], config: AnyProbeConfig, num_heads: int | None, repository: str | None
) -> AnyProbeConfig:
    """Settle the heads of a transformers model's pooler: those of its encoder, as transformers computes.

    Two official repositories are other: their probes were trained with 16 heads, and transformers has no key that says
    so. A model of that shape may be a copy of them, or fine-tuned to their classes: that is the user's to tell.
    """
    if "model_type" not in data or not isinstance(config, ProbeConfig):
        if num_heads is not None:
            raise ConfigError(f"num_heads={num_heads!r} is stated in a probe of ours already; leave it out")
        return config
    if num_heads is not None:
        return replace(config, num_heads=num_heads)
    if _POOLER_HEADS in data or (config.embed_dim, config.num_heads) != (_GIANT_DIM, _GIANT_HEADS):
        return config
    if repository in _OFFICIAL_CLASSES:
        logger.warning(
            "%s: num_attention_heads=%d is the encoder's; its probe was trained with %d heads, which are used",
            repository, _GIANT_HEADS, _OFFICIAL_HEADS,
        )  # fmt: skip
        return replace(config, num_heads=_OFFICIAL_HEADS)
    if config.depth == _OFFICIAL_DEPTH and config.num_classes in _OFFICIAL_CLASSES.values():
        raise ConfigError(
            f"may be an official ViT-g probe, of {_OFFICIAL_HEADS} heads, or fine-tuned with transformers, with "
            f"{_GIANT_HEADS}; pass num_heads={_OFFICIAL_HEADS} or {_GIANT_HEADS}, or state it as {_POOLER_HEADS}"
        )
    return config


def _check_labels(labels: object, count: int, *, named: bool = False) -> tuple[str, ...]:
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ConfigError("labels must be a list of texts")
    if (labels or named) and len(labels) != count:
        raise ConfigError(f"{len(labels)} labels must be as many as num_classes={count}")
    return tuple(labels)
