"""Compare the memory that a run needs with what there is, and name the settings that need less."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...config.training import TrainConfig
from ...errors import ConfigError
from .estimate import MemoryPlan, PassPlan, Plan, plan
from .report import size_text

# a run is refused only if even this share of what it surely holds at one moment, or of what it needs, is too much
_SURE, _LIKELY = 0.9, 0.85

_UNTOLD = 2**63
"""More than any computer has: nothing is refused where nothing is known."""

_NO_REMEDY = "take a smaller model, or a device with more memory"


@dataclass(frozen=True)
class MemoryCheck:
    """What a run needs, and what there was before it took anything."""

    plan: Plan
    needed: int
    """Bytes on the device; on a CPU with those of the copy from which a checkpoint is written."""
    available: int
    remedy: str
    """Settings that would fit; empty if the run's own do."""


def check_memory(config: TrainConfig, device: torch.device, *, world_size: int = 1) -> MemoryCheck:
    """Plan a run and compare its memory with what the device has, before anything is allocated.

    Raises:
        ConfigError: the run surely needs more than there is; the message says what to change.
        InputError: the masks do not fit the grid.
    """
    planned, available = plan(config, world_size=world_size), available_memory(device)
    needed = _needed(planned.memory, device)
    remedy = "" if needed <= available else _remedy(config, device, available, world_size)
    check = MemoryCheck(planned, needed, available, remedy)
    if max(planned.memory.certain * _SURE, needed * _LIKELY) > available:
        raise ConfigError(f"{memory_text(check, device)}; {remedy}")
    if device.type == "cuda" and (own := available_memory(torch.device("cpu"))) < planned.memory.saving * _SURE:
        raise ConfigError(
            f"{size_text(planned.memory.saving)} of the computer's own memory are needed to write a checkpoint, "
            f"{size_text(own)} are available; {_NO_REMEDY}"
        )
    return check


def _needed(memory: MemoryPlan, device: torch.device) -> int:
    return memory.total if device.type == "cuda" else memory.total + memory.saving


def memory_text(check: MemoryCheck, device: torch.device) -> str:
    available = "what is available is not known" if check.available == _UNTOLD else None
    available = available or f"{size_text(check.available)} are available"
    return f"memory: about {size_text(check.needed)} are needed on {device}, {available}"


def available_memory(device: torch.device) -> int:
    """Return the bytes that this process may still take on a device: of a GPU its own, else the computer's."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux: what is free cannot be told from what the system would give up
        if not hasattr(os, "sysconf"):
            return _UNTOLD
        total: int = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return min(sizes["MemAvailable"] + sizes["SwapFree"], _container_limit())


def _container_limit() -> int:
    """Return the memory that a container may have; more than any computer has if it is not limited."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return _UNTOLD


def _remedy(config: TrainConfig, device: torch.device, available: int, world_size: int) -> str:
    """Say which settings would fit: the largest passes that do, without activation checkpointing if possible."""
    for checkpointing in dict.fromkeys((config.activation_checkpointing, True)):
        smaller = replace(config, activation_checkpointing=checkpointing)
        while (excess := _needed((planned := plan(smaller, world_size=world_size)).memory, device) - available) > 0:
            largest = max(planned.passes, key=lambda each: each.memory.activations + each.memory.working)
            if largest.batch_size == 1:
                break
            smaller = _with_smaller_passes(smaller, largest, excess)
        else:
            return f"set {' and '.join(_changes(config, smaller))}"
    return _NO_REMEDY


def _with_smaller_passes(config: TrainConfig, part: PassPlan, excess: int) -> TrainConfig:
    """Cut a step's clips or stills into passes that should fit, and surely into smaller ones than now."""
    taken = part.memory.activations + part.memory.working
    most = min(part.batch_size - 1, int(part.batch_size * (taken - excess) / taken))
    size = max((size for size in range(1, most + 1) if part.passes * part.batch_size % size == 0), default=1)
    if part.content == "stills" and config.images is not None:
        return replace(config, images=replace(config.images, micro_batch_size=size))
    return replace(config, micro_batch_size=size)


def _changes(old: TrainConfig, new: TrainConfig) -> list[str]:
    settings = {
        "activation_checkpointing": (old.activation_checkpointing, new.activation_checkpointing),
        "micro_batch_size": (old.micro_batch_size, new.micro_batch_size),
        "images.micro_batch_size": tuple(each.images and each.images.micro_batch_size for each in (old, new)),
    }
    return [f"{name}={str(after).lower()}" for name, (before, after) in settings.items() if after != before]
