"""Read and write model directories: `config.json`, `model.safetensors`, `README.md`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from . import transformers_layout
from .cards import EVALUATION_NAME
from .config import FORMAT_VERSION, EncoderWeights, ModelConfig, PreprocessConfig
from .download import choose_model_files, fetch, origin_of
from .errors import ConfigError, WeightsError, WriteError, naming
from .filenames import CONFIG_NAME, INDEX_NAME, WEIGHTS_NAME
from .hub_client import is_repository_id
from .model import Predictor, VideoEncoder
from .registry import MODELS
from .schema import from_dict, read_json, to_dict, unknown
from .storage import write_json, write_text
from .upload import CARD, LICENCES
from .weights import (
    Source,
    Stored,
    check_stored,
    check_values,
    expected_shapes,
    load_module,
    read_headers,
    weight_files,
    write_weights,
)

logger = logging.getLogger(__name__)

MAX_SHARD_SIZE = "5GB"

_CONFIG_KEYS = ("compute_dtype", "encoder_weights", "format_version", "model", "preprocess", "provenance")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_NETWORKS: dict[str, type[VideoEncoder] | type[Predictor]] = {
    "encoder": VideoEncoder,
    "context_encoder": VideoEncoder,
    "predictor": Predictor,
}


@dataclass(frozen=True)
class Pretrained:
    """What a model directory holds."""

    config: ModelConfig
    preprocess: PreprocessConfig
    encoder: VideoEncoder
    predictor: Predictor | None
    """None where the directory holds no predictor."""
    encoder_weights: EncoderWeights
    """Which of the two encoders `encoder` is: `target` (the moving average) or `context` (the trained one)."""
    provenance: Mapping[str, Any]
    """Where the weights come from, as plain JSON data; of a model from the hub also `repository` and `commit`."""
    second_encoder: Path | None = None
    """Directory that holds the other encoder too, which was not loaded; None: there is none."""


def load_model_directory(
    directory: str | Path,
    *,
    weights: EncoderWeights | None = None,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Pretrained:
    """Load encoder and predictor from a model directory, ours or transformers'.

    Keys and shapes are checked against `config.json` before any weight is read. Only safetensors are read, never
    pickle.

    Args:
        directory: holds `config.json` and `model.safetensors` (or shards with an index).
        weights: `target` or `context` encoder; None takes what is there, target first.
        device: where the weights go.
        dtype: of the weights in memory; None: what `config.json` asks for, else as stored.

    Raises:
        WeightsError: no such directory, no safetensors, or tensors that do not fit the configuration.
        ConfigError: `config.json` is missing, malformed or holds unknown keys.
    """
    directory = Path(directory)
    described, stored = describe(directory)
    key = _encoder_key(directory, described, weights)
    for name in {key, "predictor"} & described.networks.keys():
        load_module(
            described.networks[name],
            sources=described.sources[name],
            stored=stored,
            device=device,
            dtype=dtype or described.dtype,
        )
    _state_licence(directory, described.provenance.get("licence"))
    encoder, predictor = described.networks[key], described.networks.get("predictor")
    assert isinstance(encoder, VideoEncoder) and (predictor is None or isinstance(predictor, Predictor))
    return Pretrained(
        config=described.config,
        preprocess=described.preprocess,
        encoder=encoder,
        predictor=predictor,
        encoder_weights=weights or described.held,
        provenance={**described.provenance, **origin_of(directory)},
        second_encoder=directory.absolute() if "context_encoder" in described.networks else None,
    )


def model_files(directory: str | Path) -> dict[str, Path]:
    """Return the files that make up a model directory, by name, after all checks of loading it.

    Raises:
        WeightsError: no such directory, no safetensors, or tensors that do not fit the configuration.
        ConfigError: `config.json` is missing, malformed or holds unknown keys.
    """
    directory = Path(directory)
    _, stored = describe(directory)
    check_values(stored)
    weights = weight_files(directory)
    optional = [CARD, EVALUATION_NAME, *LICENCES, *transformers_layout.PROCESSOR_NAMES]
    optional += [INDEX_NAME] if weights[0].name != WEIGHTS_NAME else []
    paths = [directory / CONFIG_NAME, *weights, *(directory / name for name in optional)]
    return {path.name: path for path in paths if path.is_file()}


def save_model_directory(
    directory: str | Path,
    *,
    config: ModelConfig,
    preprocess: PreprocessConfig,
    modules: Mapping[str, nn.Module],
    encoder_weights: EncoderWeights,
    provenance: Mapping[str, Any],
    card: str,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> Path:
    """Write a model directory; every file appears whole, `config.json` last.

    Args:
        modules: by name in the file: `encoder`, `predictor` and, where both encoders are kept, `context_encoder`.
        encoder_weights: which of the two `encoder` is.
        card: text of `README.md`.
        dtype: of the tensors on disk; None: as they are. In memory they become float32 again.
        max_shard_size: in bytes, or with a unit; larger weights are written as several files with an index.

    Raises:
        ConfigError: no such size.
        WriteError: the directory cannot be written.
    """
    directory = Path(directory)
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"{name}.{key}"] = value.detach().to("cpu", dtype or value.dtype).contiguous()
    data = {
        "format_version": FORMAT_VERSION,
        "model": to_dict(config),
        "preprocess": to_dict(preprocess),
        "encoder_weights": encoder_weights,
        "provenance": dict(provenance),
    }
    if dtype is not None:
        data["compute_dtype"] = "float32"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_weights(directory, tensors, max_shard_size=max_shard_size)
        write_text(directory / CARD, card)
        write_json(directory / CONFIG_NAME, data)
    except OSError as error:
        raise WriteError(f"{directory}: cannot write the model ({error.strerror or error})") from error
    return directory


@dataclass(frozen=True)
class Described:
    """What a directory's configuration says is in its files; the networks are on the meta device."""

    config: ModelConfig
    preprocess: PreprocessConfig
    held: EncoderWeights
    provenance: Mapping[str, Any]
    dtype: torch.dtype | None
    networks: dict[str, nn.Module]
    sources: dict[str, dict[str, Source]]


def describe(directory: Path) -> tuple[Described, dict[str, Stored]]:
    """Read a model directory's configuration and headers, and compare them; nothing is read of the weights yet."""
    data = _read_config(directory)
    stored = read_headers(weight_files(directory))
    read = _read_transformers if "model_type" in data else _read_ours
    described = read(directory, data, stored)
    expected = {
        name: shape
        for key, network in described.networks.items()
        for name, shape in expected_shapes(network, described.sources[key]).items()
    }
    if "model_type" in data:
        heads = transformers_layout.HEAD_PREFIXES
        stored = {name: tensor for name, tensor in stored.items() if not name.startswith(heads)}
    check_stored(directory, expected, stored, remedy=f"correct {CONFIG_NAME}, or fetch or convert the model again")
    return described, stored


def _read_config(directory: Path) -> dict[str, Any]:
    if directory.is_file():
        raise WeightsError(
            f"{directory}: is a file; pass a model directory, or run `vjepa convert` on an official file"
        )
    if not directory.is_dir():
        raise WeightsError(f"{directory}: no such directory; pass a model directory or a name from `vjepa models`")
    if not (directory / CONFIG_NAME).is_file():
        raise ConfigError(f"{directory}: holds no {CONFIG_NAME}; pass a directory that vjepa-sdk or transformers saved")
    return read_json(directory / CONFIG_NAME)


def check_model_config(data: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the content of a `config.json` describes a model that can be loaded."""
    if "model_type" in data:
        transformers_layout.read_config(data)
        transformers_layout.read_encoder_weights(data)
    else:
        _check_ours(data)


def _check_ours(data: Mapping[str, Any]) -> tuple[ModelConfig, PreprocessConfig]:
    if "format_version" not in data:
        raise ConfigError(
            "has neither format_version nor model_type, so it describes no model that vjepa-sdk or transformers saved; "
            "pass another directory or repository"
        )
    for key in data:
        if key not in _CONFIG_KEYS:
            raise ConfigError(unknown(f"key {key!r}", key, _CONFIG_KEYS))
    if data.get("format_version") != FORMAT_VERSION:
        raise ConfigError(
            f"format_version={data.get('format_version')!r} must be {FORMAT_VERSION}; a newer vjepa-sdk may read it"
        )
    held = data.get("encoder_weights")
    if held not in get_args(EncoderWeights):
        raise ConfigError(f"encoder_weights={held!r} must be 'target' or 'context'")
    for key in ("model", "preprocess", "provenance"):
        if not isinstance(data.get(key, {}), dict):
            raise ConfigError(f"{key}={data[key]!r} must be an object")
    dtype = data.get("compute_dtype")
    if dtype is not None and (not isinstance(dtype, str) or dtype not in _DTYPES):
        raise ConfigError(f"compute_dtype={dtype!r} must be one of {', '.join(_DTYPES)}")
    return (
        from_dict(ModelConfig, data.get("model", {}), where="model."),
        from_dict(PreprocessConfig, data.get("preprocess", {}), where="preprocess."),
    )


def _read_ours(directory: Path, data: Mapping[str, Any], stored: Mapping[str, Stored]) -> Described:
    with naming(directory / CONFIG_NAME):
        config, preprocess = _check_ours(data)
    dtype, held = data.get("compute_dtype"), data["encoder_weights"]
    present = [key for key in _NETWORKS if key == "encoder" or any(name.startswith(f"{key}.") for name in stored)]
    networks = _lay_out(config, present)
    sources = {
        key: {name: Source((f"{key}.{name}",)) for name in network.state_dict()} for key, network in networks.items()
    }
    return Described(
        config, preprocess, held, data.get("provenance", {}), _DTYPES[dtype] if dtype else None, networks, sources
    )


def _read_transformers(directory: Path, data: Mapping[str, Any], stored: Mapping[str, Stored]) -> Described:
    kind = data["model_type"]
    with naming(directory / CONFIG_NAME):
        config = transformers_layout.read_config(data)
        held = transformers_layout.read_encoder_weights(data)
    found = [path for name in transformers_layout.PROCESSOR_NAMES if (path := directory / name).is_file()]
    processor = read_json(found[0]) if found else {}
    with naming(found[0] if found else directory):
        preprocess = transformers_layout.read_preprocess(data, processor, config)
    networks = _lay_out(config, ["encoder"] if kind == "ijepa" else ["encoder", "predictor"])
    # a classification model keeps its backbone under its own name
    prefix = f"{kind}." if any(name.startswith(f"{kind}.") for name in stored) else ""
    sources = {
        key: transformers_layout.sources(
            key, network.state_dict(), kind=kind, prefix=prefix, num_mask_tokens=config.num_mask_tokens
        )
        for key, network in networks.items()
    }
    return Described(
        config,
        preprocess,
        held,
        # published I-JEPA weights are all non-commercial, and their directories do not say so
        {"layout": f"transformers {kind}", **({"licence": "CC-BY-NC-4.0"} if kind == "ijepa" else {})},
        None,
        networks,
        sources,
    )


def _lay_out(config: ModelConfig, keys: list[str]) -> dict[str, nn.Module]:
    with torch.device("meta"):
        return {key: _NETWORKS[key](config) for key in keys}


def _encoder_key(directory: Path, described: Described, weights: EncoderWeights | None) -> str:
    if weights is None or weights == described.held:
        return "encoder"
    if weights == "context" and "context_encoder" in described.networks:
        return "context_encoder"
    held = described.held
    raise WeightsError(f"{directory}: holds only the {held} encoder; pass weights={held!r} or leave it out")


def descended(provenance: Mapping[str, Any], *, licence: str | None = None) -> dict[str, Any]:
    """Return the provenance of a copy: what a model was fetched as becomes what the copy was made from.

    Raises:
        ConfigError: the weights are for non-commercial use, and the licence would allow more.
    """
    kept = dict(provenance)
    for now, then in (("repository", "base_model"), ("commit", "base_commit")):
        if now in kept:
            kept[then] = kept.pop(now)
    stated = kept.get("licence")
    if licence is not None and is_non_commercial(stated) and not is_non_commercial(licence):
        raise ConfigError(f"licence={licence!r} gives more rights than the weights' own, {stated}; leave it out")
    return kept if licence is None else {**kept, "licence": licence}


def locate_model(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    check_config: Callable[[Mapping[str, Any]], None] = check_model_config,
) -> Path:
    """Return the local directory of a model: a path, a known name, or a hub id fetched into the hub's cache.

    Args:
        check_config: refuses the content of a fetched `config.json`, before any weights are fetched.

    Raises:
        ConfigError: neither a directory, a known name nor a hub id; or the hub does not know it or grant access; or a
            revision of what has none, or a configuration of another kind of model.
        WeightsError: it cannot be fetched, or is not what the hub says it is.
        WriteError: the cache's disk is full.
    """
    if isinstance(name_or_path, Path) or name_or_path.startswith((".", "/", "~")):
        directory = Path(name_or_path).expanduser()
        if directory.is_file():
            raise _unknown_model(name_or_path)
        if not directory.is_dir():
            raise ConfigError(f"{directory}: no such directory; pass a model directory or a name from `vjepa models`")
        _refuse_revision(revision, directory)
        return directory
    if name_or_path and Path(name_or_path).is_dir():
        _refuse_revision(revision, name_or_path)
        return Path(name_or_path)
    known = MODELS.get(name_or_path)
    if known is not None and known.is_bundled:
        _refuse_revision(revision, name_or_path)
        return known.directory
    if known is not None and not known.is_on_hub:
        raise ConfigError(
            f"model {name_or_path!r} is published only as a pickle; download {known.url} and run `vjepa convert "
            f"{known.url.rpartition('/')[2]} DIRECTORY --arch {known.name}`, then pass that directory"
        )
    repository = known.source if known is not None else name_or_path
    if not is_repository_id(repository) or Path(repository).is_file():
        raise _unknown_model(repository)
    info = known or next((model for model in MODELS.values() if model.source == repository), None)
    _state_licence(repository, info.licence if info is not None else None)

    def check(directory: Path) -> None:
        with naming(f"{repository}: {CONFIG_NAME}"):
            check_config(read_json(directory / CONFIG_NAME))

    pinned = revision or (known.revision if known is not None else "")
    return fetch(
        repository,
        choose=choose_model_files,
        check=check,
        revision=pinned or None,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
        force_download=force_download,
        known_sha256=info.file_sha256 if info is not None and pinned == info.revision else {},
    ).directory


def _refuse_revision(revision: str | None, place: str | Path) -> None:
    if revision is not None:
        raise ConfigError(f"{place}: is a directory here, which has no revision={revision!r}; leave revision out")


def _unknown_model(place: str | Path) -> ConfigError:
    name = str(place)
    if Path(name).is_file():
        return ConfigError(f"{name!r} is a file; pass a model directory, or run `vjepa convert` on an official file")
    near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"available: {', '.join(MODELS)}"
    return ConfigError(f"unknown model {name!r}; {hint} (or pass a directory or a hub id such as owner/name)")


def is_non_commercial(licence: object) -> bool:
    """Whether a licence's identifier says so."""
    return isinstance(licence, str) and "-NC" in licence.upper()


def _state_licence(name: str | Path, licence: object) -> None:
    if is_non_commercial(licence):
        logger.warning("%s: these weights are licensed %s, for non-commercial use only", name, licence)
