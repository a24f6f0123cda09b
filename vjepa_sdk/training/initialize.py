"""Give a new run its first weights: those of another run, a model directory, the hub or an official checkpoint file."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..config.documents import read_toml
from ..config.model import ModelConfig
from ..config.registry import KNOWN_MODELS
from ..config.schema import from_dict
from ..config.training import TrainConfig
from ..errors import ConfigError, WeightsError
from ..hub.client import HubOptions
from ..hub.locate import locate_model
from ..models.jepa import JEPA
from ..models.positions import has_uniform_power, sincos_table
from ..runtime.files import digest_of, sha256_of
from ..weights import official_layout
from ..weights.directory import load_model_directory
from ..weights.tensors import is_pickle, read_headers, weight_files
from ..weights.unpickle import unpickled
from .checkpoint import Checkpoint, load_latest, restore_optimizer

logger = logging.getLogger(__name__)

_ENCODERS = ("target_encoder", "context_encoder")
_CPU = torch.device("cpu")

# positions are computed anew for the run's own clip size, by the formula of those that are there
_TABLES = official_layout.STALE_TABLES

# what decides a network's function, and its tensors' shapes do not tell
_CONVENTIONS = {
    "encoder": ("num_heads", "position", "rope_layout", "rope_grid", "level_layers", "norm_eps"),
    "predictor": ("predictor_num_heads",),
}


@dataclass(frozen=True)
class Origin:
    """Where a run's first weights came from."""

    source: str
    """Name of the run, directory or file, without its path; or the hub id."""
    sha256: str
    step: int | None = None
    """Step of the other run's checkpoint."""
    licence: str | None = None
    """Of the weights, where it is known."""

    def __str__(self) -> str:
        return f"{self.source}{f', step {self.step}' if self.step is not None else ''}, sha256 {self.sha256}"


@dataclass(frozen=True)
class _Found:
    """Weights that were found, not taken yet."""

    networks: dict[str, Mapping[str, Tensor]]
    """Tensors by name, of `target_encoder`, `context_encoder` and `predictor`, as far as they are there."""
    configs: tuple[ModelConfig, ...]
    """Shape of the model, or of all published ones that the tensors fit; empty: unknown."""
    origin: Origin
    optimizer: dict[str, Tensor]


def initialize(jepa: JEPA, optimizer: torch.optim.Optimizer, config: TrainConfig) -> Origin:
    """Load `config.init_from` into a model that was just made, and its optimizer where a run is the source.

    Both encoders start from the same weights if the source has only one. Frames and resolution may differ: rotary
    positions have no tables, and sin-cos tables stay the run's own.

    Raises:
        ConfigError: nothing is found, or the source is a model of other conventions, such as another number of heads.
        WeightsError: the source cannot be read, or its tensors do not fit; missing, unexpected and misshapen ones are
            named.
        CheckpointError: the source is a run whose checkpoints are all damaged.
    """
    name = str(config.init_from)
    path = Path(name).expanduser()
    if path.is_file():
        found = _read_official(path, near=Path(config.out))
    elif (path / "config.toml").is_file():
        found = _read_run(path)
    else:
        found = _read_directory(name, path)
    networks = {key: state for key, state in found.networks.items() if key in _ENCODERS or config.init_predictor}
    _check_conventions(name, networks, found.configs, config.model)
    for key, state in networks.items():
        _check_tensors(name, key, state, jepa.get_submodule(key))
    held = [key for key in _ENCODERS if key in networks]
    for key in (*_ENCODERS, "predictor"):
        # one encoder serves as both
        source = key if key in networks or key == "predictor" else held[0]
        if source in networks:
            _load(jepa.get_submodule(key), networks[source], config.model)
    takes_moments = bool(found.optimizer) and config.init_predictor
    if takes_moments:
        restore_optimizer(optimizer, found.optimizer)
    _report(name, networks, found.origin, takes_moments=takes_moments)
    return found.origin


def _read_run(path: Path) -> _Found:
    checkpoint = load_latest(path / "checkpoints", set_aside=False)
    if checkpoint is None:
        raise WeightsError(f"{path}: is a run without checkpoints; pass its model directory {path / 'model'}, if any")
    config = from_dict(TrainConfig, read_toml(path / "config.toml"))
    before = checkpoint.state.get("origin") or {}
    origin = Origin(
        source=f"run {path.resolve().name}",
        sha256=sha256_of(path / "checkpoints" / f"step-{checkpoint.step:08d}" / "weights.safetensors"),
        step=checkpoint.step,
        licence=before.get("licence"),
    )
    return _Found(_by_network(checkpoint), (config.model,), origin, checkpoint.optimizer)


def _by_network(checkpoint: Checkpoint) -> dict[str, Mapping[str, Tensor]]:
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.weights.items():
        network, _, rest = name.partition(".")
        networks.setdefault(network, {})[rest] = tensor
    return {**networks}


def _read_directory(name: str, path: Path) -> _Found:
    directory = locate_model(name, HubOptions())
    first = load_model_directory(directory, device=_CPU)
    files = weight_files(directory)
    held = f"{first.encoder_weights}_encoder"
    networks: dict[str, Mapping[str, Tensor]] = {held: first.encoder.state_dict()}
    if any(tensor.startswith("context_encoder.") for tensor in read_headers(files)):
        networks["context_encoder"] = load_model_directory(
            directory, weights="context", device=_CPU
        ).encoder.state_dict()
    if first.predictor is not None:
        networks["predictor"] = first.predictor.state_dict()
    published = [model.licence for model in KNOWN_MODELS.values() if name in (model.name, model.source)]
    digests = {file.name: sha256_of(file) for file in files}
    origin = Origin(
        source=path.resolve().name if path.exists() else name,
        sha256=next(iter(digests.values())) if len(digests) == 1 else digest_of(digests),
        licence=first.provenance.get("licence") or next(iter(published), None),
    )
    return _Found(networks, (first.config,), origin, {})


def _read_official(path: Path, *, near: Path) -> _Found:
    if not is_pickle(path):
        raise WeightsError(
            f"{path}: is no checkpoint that torch.save wrote, by its content; pass an official file or a directory"
        )
    with unpickled(path, near=near) as (stored, _):
        tensors = {file: load_file(file) for file in {each.path for each in stored.values()}}
        networks: dict[str, Mapping[str, Tensor]] = {}
        shapes: dict[str, dict[str, tuple[int, ...]]] = {"predictor": {}}
        for ours, (place, names) in official_layout.find_networks(path, stored).items():
            is_target = place in official_layout.ENCODERS["target"]
            key = "predictor" if ours == "predictor" else _ENCODERS[0 if is_target else 1]
            shapes[ours] = {plain: stored[full].shape for plain, full in names.items()}
            networks[key] = dict(_as_ours(plain, tensors[stored[full].path][full]) for plain, full in names.items())
        del tensors  # the file is mapped, and Windows deletes none that is
    fits = official_layout.fitting(shapes["encoder"], shapes["predictor"])
    licences = {KNOWN_MODELS[name].licence for name in fits}
    origin = Origin(path.name, sha256_of(path), licence=licences.pop() if len(licences) == 1 else None)
    return _Found(networks, tuple(fits.values()), origin, {})


def _as_ours(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Undo what I-JEPA's files do otherwise: one mask token, and a patch embedding without the axis of frames."""
    if name == "patch_embed.proj.weight" and tensor.ndim == 4:
        tensor = tensor.unsqueeze(2)
    return "mask_tokens.0" if name == "mask_token" else name, tensor.clone()


def _check_conventions(
    where: str, networks: Iterable[str], candidates: tuple[ModelConfig, ...], config: ModelConfig
) -> None:
    """Refuse a source whose tensors would fit and mean something else."""
    kinds = {"predictor" if key == "predictor" else "encoder" for key in networks}
    fields = [name for kind in sorted(kinds) for name in _CONVENTIONS[kind]]
    differences = [
        [
            f"{name}={getattr(there, name)} there, {getattr(config, name)} here"
            for name in fields
            if getattr(there, name) != getattr(config, name)
        ]
        for there in candidates
    ]
    if differences and all(differences):
        nearest = min(differences, key=len)
        raise ConfigError(f"init_from={where}: is another kind of model: {'; '.join(nearest)}; set [model] as there")


def _check_tensors(where: str, key: str, state: Mapping[str, Tensor], module: nn.Module) -> None:
    """Refuse a network of which only a part would load, or whose numbers are not finite."""
    expected = {name: value.shape for name, value in module.state_dict().items() if name not in _TABLES}
    stored = {name: value.shape for name, value in state.items() if name not in _TABLES}
    missing, unexpected = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    wrong = [
        f"{name} {tuple(stored[name])} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name] != shape
    ]
    remedy = "set [model] as there"
    if key == "predictor":
        remedy += ", or init_predictor=false to start the predictor anew"
    if missing or unexpected or wrong:
        raise WeightsError(
            f"init_from={where}: its {key} does not fit: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}, {len(wrong)} of another shape {wrong[:3]}; {remedy}"
        )
    for name, tensor in state.items():
        if not all(math.isfinite(value) for value in map(float, torch.aminmax(tensor))):
            raise WeightsError(f"init_from={where}: {key}.{name} holds NaN or infinity; fetch it again")


def _load(module: nn.Module, state: Mapping[str, Tensor], config: ModelConfig) -> None:
    own = module.state_dict()
    taken = {name: value if name in _TABLES else state[name] for name, value in own.items()}
    for name in own.keys() & state.keys() & set(_TABLES):
        if not config.is_image_model and not has_uniform_power(state[name]):
            taken[name] = sincos_table(config.grid, own[name].shape[-1], uniform_power=False)[None]
    module.load_state_dict(taken, strict=True)


def _report(name: str, networks: Mapping[str, object], origin: Origin, *, takes_moments: bool) -> None:
    is_shared = not all(key in networks for key in _ENCODERS)
    parts = [f"{key} (for both encoders)" if is_shared and key in _ENCODERS else key for key in networks]
    what = ", ".join(parts + ["AdamW state"] * takes_moments)
    logger.info("init_from=%s: loaded %s (%s)", name, what, origin)
    if "predictor" not in networks:
        logger.warning("init_from=%s: no predictor is taken from there; it starts from random weights", name)
