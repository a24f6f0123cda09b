"""Say of every model known by name where it comes from, and whether it is on this disk already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config.registry import ModelInfo, list_models
from ..errors import VJEPAError
from .locate import choose_model_files
from .official import OfficialModel


@dataclass(frozen=True)
class ModelState:
    """A known model, and what of it is here."""

    info: ModelInfo
    kind: Literal["bundled", "hub", "file"]
    """Part of the package, a hub repository, or an official checkpoint that is converted at first use."""
    is_cached: bool
    """Whether it loads without a network."""

    @property
    def is_estimate(self) -> bool:
        """Whether the size of its download is not known, but follows from its parameters."""
        return not self.info.is_bundled and not (self.info.is_official_file and self.info.num_bytes)


def list_states(cache_dir: str | Path | None = None) -> list[ModelState]:
    """Return all models known by name, in the order of `list_models`; no file is read as a whole.

    Args:
        cache_dir: hub cache; None: the hub's own default.
    """
    from huggingface_hub import constants

    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    return [_state(info, cache) for info in list_models()]


def _state(info: ModelInfo, cache: Path) -> ModelState:
    if info.is_bundled:
        return ModelState(info, "bundled", True)
    if info.is_official_file:
        return ModelState(info, "file", OfficialModel(info, cache).is_there())
    return ModelState(info, "hub", _has_commit(info, cache))


def _has_commit(info: ModelInfo, cache: Path) -> bool:
    """Whether the hub's cache has the commit that a name stands for, with a configuration and all its weights."""
    storage = cache / f"models--{info.source.replace('/', '--')}"
    commit = info.revision
    try:
        commit = commit or (storage / "refs" / "main").read_text().strip()
        files = {path.name: path.stat().st_size for path in (storage / "snapshots" / commit).iterdir()}
        return any(name.endswith(".safetensors") for name in choose_model_files(files))
    except (OSError, VJEPAError):
        return False
