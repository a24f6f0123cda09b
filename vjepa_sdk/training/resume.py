"""Start a run in a directory or go on with the one there; refuse to write over it, or to go on as another run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..config.documents import read_toml
from ..config.recipes import settings_of_run
from ..config.schema import differences, from_dict, to_dict
from ..config.training import TrainConfig
from ..errors import CheckpointError, OutputError, ResumeError, VJEPAError
from ..runtime.lock import Lock
from ..runtime.ownership import check_place, refuse_link
from ..weights.written import check_model_place
from .checkpoint import Checkpoint, load_latest
from .metrics import last_step

# what a continued run may change: where things are, how fast they come, and what is kept
_MAY_CHANGE = {
    "out", "preset", "device", "log_every", "save_every", "keep_checkpoints", "keep_every", "activation_checkpointing",
    "data.path", "data.sources.path", "data.cache_gigabytes", "data.num_workers", "data.prefetch",
    "data.deadline_seconds", "data.max_bad_fraction",
}  # fmt: skip
_WRITTEN = ("config.toml", "metrics.jsonl", "nan-report.json", "checkpoints", "collapsed", "model", "tensorboard")


@contextmanager
def claimed(out: Path, *, resume: bool) -> Iterator[None]:
    """Make a run's directory and hold its lock; nothing is written into a directory that is not a run's.

    Raises:
        OutputError: it holds something and `resume` is False, it or something in it is a link, or it cannot be written.
        InUseError: another process holds the lock.
    """
    with ExitStack() as stack:
        try:
            check_place(out)
            out.mkdir(parents=True, exist_ok=True)
            if not (out / "lock").exists():
                _check_content(out, resume=resume)
            stack.enter_context(Lock(out / "lock"))
        except VJEPAError:
            raise
        except OSError as error:
            raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
        _check_content(out, resume=resume)
        yield


def _check_content(out: Path, *, resume: bool) -> None:
    """Refuse a directory that holds something, if it is not a run to go on with."""
    content = [path for path in out.iterdir() if path.name != "lock" and not path.name.endswith(".tmp")]
    if not resume and content:
        raise OutputError(f"{out}: is not empty; pass --resume to continue it, or choose another --out")
    for name in _WRITTEN:
        refuse_link(out / name)
    check_model_place(out / "model")


def load_run(out: Path, config: TrainConfig, lists: Mapping[str, Mapping[str, Any]]) -> Checkpoint | None:
    """Load the newest intact checkpoint of a run; None if it was stopped before its first.

    Args:
        config: how the run is to go on.
        lists: digest and count of the clips and stills that it will see.

    Raises:
        ResumeError: settings that decide the result, or the clips, are not those of the run.
        CheckpointError: all checkpoints are damaged or gone.
    """
    if changes := changed_settings(from_dict(TrainConfig, read_toml(settings_of_run(out))), config):
        raise ResumeError(
            f"{out}: cannot resume, the configuration changed: {'; '.join(changes)}; restore it, as --resume "
            "--out alone does, or start a new run in another --out"
        )
    checkpoint = load_latest(out / "checkpoints")
    if checkpoint is not None:
        _check_lists(out, checkpoint.state, lists)
    # the first step comes after the first checkpoint
    elif step := last_step(out / "metrics.jsonl"):
        raise CheckpointError(
            f"{out}: did {step} steps or more, but its checkpoints are gone; restore one "
            "from a copy or start a new run in another --out"
        )
    return checkpoint


def changed_settings(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Name the settings that decide the result and differ, as `key: old -> new`."""
    return [
        f"{key}: {change}"
        for key, change in differences(to_dict(old), to_dict(new)).items()
        if not _may_change(re.sub(r"^images\.(?=data\.)|\[\d+\]", "", key), change)
    ]


def _may_change(key: str, change: str) -> bool:
    # a cache may lie elsewhere, but with one and without one the pixels differ
    return key in _MAY_CHANGE or (key == "data.cache" and "unset" not in change.split(" -> "))


def _check_lists(out: Path, old: Mapping[str, Any], new: Mapping[str, Mapping[str, Any]]) -> None:
    for kind, found in new.items():
        if old[kind]["digest"] != found["digest"]:
            raise ResumeError(
                f"{out}: cannot resume, the list of {kind} changed from {old[kind]['count']} to "
                f"{found['count']} {kind} or in order; restore it or start a new run in another --out"
            )
