"""Save and restore a training run's state: a checkpoint is complete and verified, or it does not exist."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import CheckpointError
from .storage import sha256_of, sync_directory, sync_file, write_json
from .weights import write_tensors

logger = logging.getLogger(__name__)

_MANIFEST = "MANIFEST.json"
_DAMAGED = ".damaged"


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after `step` optimizer steps."""

    step: int
    weights: dict[str, Tensor]
    """The JEPA module's state: context encoder, target encoder, predictor."""
    optimizer: dict[str, Tensor]
    """Moments and step counts of every parameter, as `<parameter number>.<name>`."""
    state: dict[str, Any]
    """What else decides the rest of the run, as plain JSON data."""


def save_checkpoint(directory: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `step-NNNNNNNN/` under `directory`, verify it, then delete all but the newest `keep`.

    Written to a temporary directory, forced to disk, renamed: a kill at any moment leaves the old state or the new.

    Raises:
        CheckpointError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    final = directory / f"step-{checkpoint.step:08d}"
    temporary = directory / f".{final.name}.{secrets.token_hex(6)}.tmp"
    try:
        temporary.mkdir(parents=True)
        write_tensors(temporary / "weights.safetensors", checkpoint.weights)
        write_tensors(temporary / "optimizer.safetensors", checkpoint.optimizer)
        write_json(temporary / "state.json", {**checkpoint.state, "step": checkpoint.step})
        names = ("optimizer.safetensors", "state.json", "weights.safetensors")
        for name in names:
            sync_file(temporary / name)
        write_json(temporary / _MANIFEST, {name: _describe(temporary / name) for name in names})
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
        sync_directory(directory)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        needed = sum(t.nbytes for t in (*checkpoint.weights.values(), *checkpoint.optimizer.values()))
        raise CheckpointError(
            f"{final}: cannot save ({error.strerror or error}); {needed:,} bytes are needed, "
            f"{_free_bytes(directory):,} are free; earlier checkpoints are intact"
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if (reason := _damage(final)) is not None:
        raise CheckpointError(f"{final}: reads back differently from what was written ({reason}); check the disk")
    for old in _checkpoints(directory)[:-keep]:
        shutil.rmtree(old)
    return final


def load_latest(directory: Path) -> Checkpoint | None:
    """Load the newest intact checkpoint; damaged ones are renamed and reported, None if there never was one.

    Raises:
        CheckpointError: there are checkpoints, but every one is damaged.
    """
    found = _checkpoints(directory)
    for path in reversed(found):
        reason = _damage(path)
        if reason is None:
            state = json.loads((path / "state.json").read_text())
            weights, optimizer = load_file(path / "weights.safetensors"), load_file(path / "optimizer.safetensors")
            return Checkpoint(state.pop("step"), weights, optimizer, state)
        aside = path.with_name(f"{path.name}{_DAMAGED}-{secrets.token_hex(3)}")
        path.rename(aside)
        logger.warning("%s is damaged (%s); set aside as %s, using the one before", path, reason, aside.name)
    if found:
        raise CheckpointError(
            f"{directory}: all {len(found)} checkpoints are damaged; start a new run in another --out"
        )
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors; parameters without gradients so far have none."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value.detach().clone().contiguous()
        for number in state
        for name, value in state[number].items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state as tensors that own their memory."""
    return {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}


def _checkpoints(directory: Path) -> list[Path]:
    """Return complete checkpoint directories, oldest first, and drop what a killed save left behind."""
    for leftover in directory.glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    return sorted(path for path in directory.glob("step-*") if path.is_dir() and _DAMAGED not in path.name)


def _describe(path: Path) -> dict[str, int | str]:
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def _damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        for name, expected in manifest.items():
            if _describe(path / name) != expected:
                return f"{name} differs from its manifest"
    except (OSError, ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    missing = {"optimizer.safetensors", "state.json", "weights.safetensors"} - set(manifest)
    return f"the manifest lacks {', '.join(sorted(missing))}" if missing else None


def _free_bytes(directory: Path) -> int:
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free
