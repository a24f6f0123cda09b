"""Save and restore a training run's state: a checkpoint is complete and verified, or it does not exist."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import CheckpointError, GuardError, printable
from ..runtime.files import sha256_of, sync_directory, sync_file, write_json
from ..runtime.ownership import refuse_link, stranger_in
from ..weights.tensors import write_tensors

logger = logging.getLogger(__name__)

MAX_FAILED_SAVES = 3
"""Failed saves in a row that end a run."""

_MANIFEST = "MANIFEST.json"
_WEIGHTS, _OPTIMIZER, _STATE = _FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
_NAMES = "|".join(map(re.escape, (*_FILES, _MANIFEST)))
_OURS = re.compile(rf"{_NAMES}|\.({_NAMES})\.[0-9a-f]{{12}}\.tmp")
_LEFTOVER = re.compile(r"\.step-\d+\.[0-9a-f]{12}\.tmp")


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after `step` optimizer steps, in the computer's own memory."""

    step: int
    weights: dict[str, Tensor]
    """The JEPA module's state: context encoder, target encoder, predictor."""
    optimizer: dict[str, Tensor]
    """Moments and step counts of every parameter, as `<parameter number>.<name>`."""
    state: dict[str, Any]
    """What else decides the rest of the run, as plain JSON data."""

    @property
    def num_bytes(self) -> int:
        """Size of the tensors."""
        return sum(tensor.nbytes for tensor in (*self.weights.values(), *self.optimizer.values()))


def save_checkpoint(directory: Path, checkpoint: Checkpoint, *, keep: int, keep_every: int | None = None) -> Path:
    """Write `step-NNNNNNNN/` under `directory`, then delete old ones.

    Written to a temporary directory, forced to disk, compared with what is in memory, renamed: a kill at any moment
    leaves the old state or the new. A directory that holds anything but a checkpoint is never deleted.

    Args:
        keep: newest checkpoints that stay.
        keep_every: checkpoints of steps divisible by this stay too.

    Raises:
        CheckpointError: the disk is full, not writable or returns other bytes; earlier checkpoints are untouched.
        GuardError: a tensor holds NaN or infinity; nothing is written.
    """
    _check_finite(checkpoint)
    final = directory / f"step-{checkpoint.step:08d}"
    temporary = _hidden(final)
    try:
        for place in (directory, final):
            refuse_link(place)
        temporary.mkdir(parents=True)
        _write(temporary, checkpoint)
        _check_written(temporary, checkpoint)
        write_json(temporary / _MANIFEST, {name: _describe(temporary / name) for name in _FILES})
        if final.exists():
            _delete(final)
        os.rename(temporary, final)
        sync_directory(directory)
        sync_directory(directory.parent)
    except OSError as error:
        _discard(temporary)
        raise CheckpointError(
            f"{final}: cannot save ({error.strerror or error}); {checkpoint.num_bytes:,} bytes are needed, "
            f"{_free_bytes(directory):,} are free; earlier checkpoints are intact"
        ) from error
    except BaseException:
        _discard(temporary)
        raise
    _prune(directory, keep=keep, keep_every=keep_every)
    return final


def _write(directory: Path, checkpoint: Checkpoint) -> None:
    write_tensors(directory / _WEIGHTS, checkpoint.weights)
    write_tensors(directory / _OPTIMIZER, checkpoint.optimizer)
    write_json(directory / _STATE, {**checkpoint.state, "step": checkpoint.step})
    for name in _FILES:
        sync_file(directory / name)


def _check_finite(checkpoint: Checkpoint) -> None:
    for kind, tensors in (("weights", checkpoint.weights), ("optimizer state", checkpoint.optimizer)):
        for name, tensor in tensors.items():
            # one pass that copies nothing: a NaN becomes both extremes, an infinity one of them
            if not all(math.isfinite(value) for value in map(float, torch.aminmax(tensor))):
                raise GuardError(
                    f"step {checkpoint.step}: the {kind} {name!r} must be finite; nothing was saved, earlier "
                    "checkpoints are intact; start from one of them with a lower optim.lr"
                )


def _check_written(directory: Path, checkpoint: Checkpoint) -> None:
    """Compare what was written with what is in memory; a difference is an input/output error."""
    for name, tensors in ((_WEIGHTS, checkpoint.weights), (_OPTIMIZER, checkpoint.optimizer)):
        try:
            found = load_file(directory / name)
        except SafetensorError as error:
            raise OSError(errno.EIO, f"{name} cannot be read back: {error}") from error
        if found.keys() != tensors.keys() or not all(torch.equal(found[key], tensors[key]) for key in tensors):
            raise OSError(errno.EIO, f"{name} reads back differently from what was written")


def _prune(directory: Path, *, keep: int, keep_every: int | None) -> None:
    """Delete old checkpoints; one that cannot be deleted costs room, not the run."""
    old = [path for path in _checkpoints(directory)[:-keep] if keep_every is None or _step_of(path) % keep_every]
    for path in old:
        try:
            _delete(path)
        except OSError as error:
            logger.warning("%s: cannot be deleted (%s); delete it yourself", path, error.strerror or error)


class CheckpointSaver:
    """Save checkpoints in a background thread, one at a time, while training goes on.

    A failed save is told and survived; `MAX_FAILED_SAVES` in a row are not. Leaving the block waits for the save in
    flight, so that whatever guards the directory is held until its last byte is written.
    """

    def __init__(self, directory: Path, *, keep: int, keep_every: int | None = None) -> None:
        self._directory, self._keep, self._keep_every = directory, keep, keep_every
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vjepa-checkpoint")
        self._pending: Future[Path] | None = None
        self._num_failed = 0

    def __enter__(self) -> CheckpointSaver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        if self._pending is not None and (failure := self._pending.exception()) is not None:
            logger.warning("%s", failure)

    def save(self, snapshot: Callable[[], Checkpoint]) -> None:
        """Begin to save.

        Args:
            snapshot: copies the state; called once the save before has ended, so that there is one copy at a time.

        Raises:
            CheckpointError: the last saves failed one after the other.
            GuardError: what the save before was given is not finite.
        """
        self._collect(is_last=False)
        self._pending = self._thread.submit(
            save_checkpoint, self._directory, snapshot(), keep=self._keep, keep_every=self._keep_every
        )

    def check(self) -> None:
        """Take note of a save that has ended, without waiting; raises as `save`."""
        if self._pending is not None and self._pending.done():
            self._collect(is_last=False)

    def finish(self) -> None:
        """Wait for the save in flight; raises as `save`, but already at one failure."""
        self._collect(is_last=True)

    def _collect(self, *, is_last: bool) -> None:
        if self._pending is None:
            return
        try:
            self._pending.result()
            self._num_failed = 0
        except CheckpointError as error:
            self._num_failed += 1
            if is_last:
                raise
            if self._num_failed == MAX_FAILED_SAVES:
                raise CheckpointError(f"{error}; {MAX_FAILED_SAVES} saves in a row failed") from error
            logger.warning("%s; training goes on, and the next save tries again", error)
        finally:
            if self._pending.done():
                self._pending = None


def load_latest(directory: Path, *, set_aside: bool = True) -> Checkpoint | None:
    """Load the newest intact checkpoint; damaged ones are reported, None if there never was one.

    Args:
        set_aside: rename damaged ones, if there is an intact one, and delete what killed saves left; False touches
            nothing, for another's run.

    Raises:
        CheckpointError: there are checkpoints, but every one is damaged; or they may not be read.
    """
    refuse_link(directory)
    if set_aside:
        for leftover in directory.glob(".step-*.tmp"):
            if _LEFTOVER.fullmatch(leftover.name) and leftover.is_dir() and not leftover.is_symlink():
                _discard(leftover)
    damaged: dict[Path, str] = {}
    for path in reversed(_checkpoints(directory)):
        reason = _damage(path)
        if reason is None:
            for bad, why in damaged.items():
                _report_damage(bad, why, set_aside=set_aside)
            state = json.loads((path / _STATE).read_text())
            return Checkpoint(state.pop("step"), _read(path / _WEIGHTS), _read(path / _OPTIMIZER), state)
        damaged[path] = reason
    if damaged:
        # all keep their names, so that the next attempt does not take this for a run without checkpoints
        newest, reason = next(iter(damaged.items()))
        raise CheckpointError(
            f"{directory}: all {len(damaged)} checkpoints are damaged, the newest is {newest.name} ({reason}); restore "
            "one from a copy or start a new run in another --out"
        )
    return None


def _report_damage(path: Path, reason: str, *, set_aside: bool) -> None:
    if set_aside and stranger_in(path, _OURS) is None:
        aside = path.rename(path.with_name(f"{path.name}.damaged-{secrets.token_hex(3)}"))
        logger.warning("%s is damaged (%s); set aside as %s, using the one before", path, reason, aside.name)
    else:
        logger.warning("%s is damaged (%s); using the one before", path, reason)


def _read(path: Path) -> dict[str, Tensor]:
    # the file's own pages must not back a run's state: the file will be deleted, perhaps on another machine
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return copies of an optimizer's state, named; parameters without gradients so far have none."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": _copy(value) for number in state for name, value in state[number].items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of a module's state, in the computer's own memory."""
    return {name: _copy(value) for name, value in module.state_dict().items()}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _checkpoints(directory: Path) -> list[Path]:
    """Return complete checkpoint directories, oldest first."""
    found = [path for path in directory.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted((path for path in found if path.is_dir() and not path.is_symlink()), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def _delete(path: Path) -> None:
    """Delete a checkpoint; it loses its name first, so that a kill leaves no half of one.

    Raises:
        OSError: it cannot be deleted, or holds something else, and is left alone.
    """
    if (name := stranger_in(path, _OURS)) is not None:
        raise OSError(errno.ENOTEMPTY, f"it holds {printable(name)}, which is no file of a checkpoint")
    path = path.rename(_hidden(path))
    shutil.rmtree(path)


def _discard(path: Path) -> None:
    """Delete what is left of a save, unless it holds anything else."""
    with suppress(FileNotFoundError):
        if stranger_in(path, _OURS) is None:
            shutil.rmtree(path, ignore_errors=True)


def _describe(path: Path) -> dict[str, int | str]:
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def _damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        for name, expected in manifest.items():
            if _describe(path / name) != expected:
                return f"{name} differs from its manifest"
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (OSError, ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    missing = set(_FILES) - set(manifest)
    return f"the manifest lacks {', '.join(sorted(missing))}" if missing else None


def _free_bytes(directory: Path) -> int:
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free
