"""Read and write model directories: `config.json`, `model.safetensors`, `README.md`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config.choices import EncoderWeights
from ..config.model import MODEL_FORMAT, ModelConfig, PreprocessConfig
from ..config.schema import to_dict
from ..errors import ConfigError, VJEPAError, WeightsError, WriteError, naming
from ..models.encoder import VideoEncoder
from ..models.predictor import Predictor
from ..runtime.files import write_json, write_text
from ..runtime.ownership import writing
from . import copies, transformers_layout
from .description import check_ours, read_config, read_processor
from .digests import DIGESTS, network_digests, parted, weights_digest
from .layout import CARD, CONFIG_NAME, EVALUATION_NAME, INDEX_NAME, LICENCES, WEIGHTS_NAME, TensorSource
from .provenance import origin_of, state_licence
from .tensors import (
    Stored,
    check_stored,
    check_values,
    expected_shapes,
    load_module,
    plan_shards,
    read_headers,
    read_state,
    weight_files,
    write_weights,
)
from .written import RESERVED, model_written

logger = logging.getLogger(__name__)

MAX_SHARD_SIZE = "5GB"

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
    again: Callable[[], Mapping[str, str]] | None = None
    """Returns the digests of the weights as they were when this was made; None: nobody knows them.

    They are asked for when a model is saved, so that loading one costs nothing. WeightsError: no longer known.
    """

    def is_modified(self) -> bool | None:
        """Whether weights are other than those that were loaded; None: it cannot be told any more."""
        networks: dict[str, nn.Module] = {"encoder": self.encoder}
        if self.predictor is not None:
            networks["predictor"] = self.predictor
        try:
            return None if self.again is None else network_digests(networks) != self.again()
        except (VJEPAError, OSError):
            return None

    def networks(self, *, both_encoders: bool) -> tuple[dict[str, nn.Module], EncoderWeights]:
        """Return the networks by their names in a file, and which of the two encoders `encoder` is.

        Args:
            both_encoders: read the encoder that was not loaded, if there is one; `encoder` is then the target.

        Raises:
            WeightsError: it is no longer in `second_encoder`.
        """
        networks: dict[str, nn.Module] = {"encoder": self.encoder}
        held = self.encoder_weights
        if both_encoders and self.second_encoder is not None:
            other: EncoderWeights = "context" if held == "target" else "target"
            dtype = self.encoder.patch_embed.proj.weight.dtype
            second = load_model_directory(
                self.second_encoder, weights=other, device=torch.device("cpu"), dtype=dtype
            ).encoder
            target, context = (self.encoder, second) if held == "target" else (second, self.encoder)
            networks, held = {"encoder": target, "context_encoder": context}, "target"
        if self.predictor is not None:
            networks["predictor"] = self.predictor
        return networks, held


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
    state_licence(_known_as(directory, described), described.provenance.get("licence"))
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
        again=partial(_digests_again, directory.absolute(), key, dtype, described.digests, _stamps(stored)),
    )


def _digests_again(
    directory: Path,
    key: str,
    dtype: torch.dtype | None,
    recorded: Mapping[str, str],
    stamps: Mapping[Path, tuple[int, ...]],
) -> dict[str, str]:
    """Return the digests of the weights that `load_model_directory` read: as recorded, or read once more."""
    if dtype is None and key in recorded:
        return {{key: "encoder"}.get(name, name): recorded[name] for name in {key, "predictor"} & recorded.keys()}
    described, stored = describe(directory)
    if _stamps(stored) != stamps:
        raise WeightsError(f"{directory}: its weights have changed since they were loaded; load them again")
    return {
        {key: "encoder"}.get(name, name): _stored_digest(described, name, stored, dtype or described.dtype)
        for name in {key, "predictor"} & described.networks.keys()
    }


def _stored_digest(described: Described, name: str, stored: Mapping[str, Stored], dtype: torch.dtype | None) -> str:
    """Return the digest that a network has once it is loaded."""
    network, sources = described.networks[name], described.sources[name]
    return weights_digest(read_state(network, sources=sources, stored=stored, dtype=dtype))


def _stamps(stored: Mapping[str, Stored]) -> dict[Path, tuple[int, ...]]:
    """Return numbers of every weight file that change when somebody writes to it."""
    stats = {path.absolute(): path.stat() for path in {tensor.path for tensor in stored.values()}}
    return {path: (found.st_ino, found.st_size, found.st_mtime_ns) for path, found in stats.items()}


def check_recorded(directory: str | Path) -> None:
    """Raise ConfigError if weights are not those that `config.json` speaks of, so that what it says is not true."""
    directory = Path(directory)
    described, stored = describe(directory)
    for name in described.digests.keys() & described.networks.keys():
        if _stored_digest(described, name, stored, described.dtype) != described.digests[name]:
            raise ConfigError(
                f"{directory}: the weights of its {name} were changed since {CONFIG_NAME} and {CARD} were written, "
                "which speak of others; load it, and save it with save_pretrained(..., provenance=...)"
            )


def model_files(directory: str | Path) -> dict[str, Path]:
    """Return the files that make up a model directory, by name, after all checks of loading it.

    Raises:
        WeightsError: no such directory, no safetensors, or tensors that do not fit the configuration.
        ConfigError: `config.json` is missing, malformed or holds unknown keys.
    """
    directory = Path(directory)
    _, stored = describe(directory)
    if not (directory / CONFIG_NAME).is_file():
        raise ConfigError(f"{directory}: holds no {CONFIG_NAME}; run `vjepa convert` on it first")
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
        dtype: of the weights on disk; None: as they are. In memory they become float32 again. Position tables are not
            rounded.
        max_shard_size: in bytes, or with a unit; larger weights are written as several files with an index.

    A model directory of ours is replaced. Other files that lie there stay as they are, and a directory in which one of
    them has the name of a file to be written is refused.

    Raises:
        ConfigError: no such size.
        OutputError: the directory is a link, or holds files of these names that were not written here.
        WriteError: the directory cannot be written.
    """
    directory = Path(directory)
    tensors: dict[str, Tensor] = {}
    digests = {}
    for name, module in modules.items():
        tables = dict(module.named_buffers())
        state = {}
        for key, value in module.state_dict().items():
            kept = value.dtype if dtype is None or key in tables else dtype
            state[key] = value.detach().to("cpu", kept)
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in state.items()}
        digests[name] = weights_digest((key, value.float() if dtype else value) for key, value in state.items())
    shards = plan_shards(tensors, max_shard_size=max_shard_size)
    data = {
        "format_version": MODEL_FORMAT,
        "model": to_dict(config),
        "preprocess": to_dict(preprocess),
        "encoder_weights": encoder_weights,
        "provenance": {**provenance, DIGESTS: digests},
    }
    if dtype is not None:
        data["compute_dtype"] = "float32"
    names = {*shards.files, CARD, CONFIG_NAME}
    try:
        with writing(directory, names, reserved=RESERVED, written=model_written) as old:
            write_weights(directory, tensors, shards, old=old - {CARD, CONFIG_NAME})
            write_text(directory / CARD, card)
            write_json(directory / CONFIG_NAME, data)
    except OSError as error:
        if isinstance(error, VJEPAError):
            raise
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
    sources: dict[str, dict[str, TensorSource]]
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Tensors that are no part of the model, and why."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of the networks that the provenance speaks of, where they are recorded."""


def describe(directory: Path) -> tuple[Described, dict[str, Stored]]:
    """Read a model directory's configuration and headers, and compare them; nothing is read of the weights yet."""
    data = read_config(directory)
    stored = read_headers(weight_files(directory))
    read = _read_copy if copies.is_copy(data) else _read_transformers if "model_type" in data else _read_ours
    described = read(directory, data, stored)
    expected = {
        name: shape
        for key, network in described.networks.items()
        for name, shape in expected_shapes(network, described.sources[key]).items()
    }
    stored = {name: tensor for name, tensor in stored.items() if name not in described.dropped}
    if "model_type" in data:
        heads = transformers_layout.HEAD_PREFIXES
        stored = {name: tensor for name, tensor in stored.items() if not name.startswith(heads)}
    check_stored(directory, expected, stored, remedy=f"correct {CONFIG_NAME}, or fetch or convert the model again")
    return described, stored


def _read_ours(directory: Path, data: Mapping[str, Any], stored: Mapping[str, Stored]) -> Described:
    with naming(directory / CONFIG_NAME):
        config, preprocess = check_ours(data)
    dtype, held = data.get("compute_dtype"), data["encoder_weights"]
    present = [key for key in _NETWORKS if key == "encoder" or any(name.startswith(f"{key}.") for name in stored)]
    networks = _lay_out(config, present)
    sources = {
        key: {name: TensorSource((f"{key}.{name}",)) for name in network.state_dict()}
        for key, network in networks.items()
    }
    provenance, digests = parted(data.get("provenance", {}))
    return Described(
        config,
        preprocess,
        held,
        provenance,
        getattr(torch, dtype) if dtype else None,
        networks,
        sources,
        digests=digests,
    )


def _read_transformers(directory: Path, data: Mapping[str, Any], stored: Mapping[str, Stored]) -> Described:
    kind = data["model_type"]
    with naming(directory / CONFIG_NAME):
        config = transformers_layout.read_config(data)
        held = transformers_layout.read_encoder_weights(data)
    preprocess = read_processor(directory, data, config)
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


def _read_copy(directory: Path, data: Mapping[str, Any], stored: Mapping[str, Stored]) -> Described:
    copy = copies.recognise(directory, {name: tensor.shape for name, tensor in stored.items()}, data)
    networks = _lay_out(copy.config, list(copy.networks))
    sources = {key: copy.sources(key, network.state_dict()) for key, network in networks.items()}
    crop = PreprocessConfig.for_crop(copy.config.img_size)
    return Described(
        copy.config, crop, copy.encoder_weights, copy.provenance, None, networks, sources, copy.dropped
    )  # fmt: skip


def _known_as(directory: Path, described: Described) -> str | Path:
    """Return the name that weights were fetched under, or the directory."""
    named = described.provenance.get("architecture")
    return origin_of(directory).get("repository") or (directory if named in (None, "custom") else str(named))


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
