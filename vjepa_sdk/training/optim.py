"""Learning rate, weight decay and momentum as functions of the step; AdamW and its groups."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from ..config.training import LearningRateSchedule


def warmup_then(
    step: int,
    *,
    schedule: LearningRateSchedule,
    start: float,
    peak: float,
    final: float,
    warmup_steps: int,
    total_steps: int,
    decay_steps: int = 0,
) -> float:
    """Return the learning rate of a step.

    Linear from `start` to `peak` over the warm-up, then by schedule; the official code counts the first step as 1
    (`src/utils/schedulers.py`), and so does this.

    Args:
        step: optimizer steps done so far, from 0.
        schedule: `cosine` or `linear` down to `final`, `constant` at `peak`, or `wsd`: at `peak` until the last
            `decay_steps`, then linearly to `final`.
        total_steps: step at which `final` is reached.
    """
    count = step + 1
    if count < warmup_steps:
        return start + count / warmup_steps * (peak - start)
    if schedule == "constant":
        return peak
    begin = max(warmup_steps, total_steps - decay_steps) if schedule == "wsd" else warmup_steps
    progress = min(max((count - begin) / max(1, total_steps - begin), 0.0), 1.0)
    if schedule == "cosine":
        return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak + progress * (final - peak)


def cosine(step: int, *, start: float, final: float, total_steps: int) -> float:
    """Return a half cosine from `start` to `final`: the weight decay of a step (counted from 0)."""
    progress = min((step + 1) / total_steps, 1.0)
    return final + (start - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def linear(step: int, *, start: float, final: float, total_steps: int) -> float:
    """Return the straight line from `start` to `final`: the target encoder's momentum at a step (counted from 0)."""
    return start + min(step / total_steps, 1.0) * (final - start)


def ramp(step: int, *, value: float, start: int, end: int) -> float:
    """Return 0 up to step `start`, `value` from step `end` on, and the line between (steps counted from 0).

    Source: the context weight of V-JEPA 2.1, `app/vjepa_2_1/train.py`.
    """
    return value * min(max((step - start) / (end - start), 0.0), 1.0)


def adamw(modules: Iterable[nn.Module], *, betas: tuple[float, float], eps: float) -> torch.optim.AdamW:
    """Return AdamW with two groups; biases and one-dimensional parameters do not decay, as in all official code.

    Mask tokens have three axes, so they do decay.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            (undecayed if parameter.ndim <= 1 or name.endswith("bias") else decayed).append(parameter)
    groups = [{"params": decayed, "decays": True}, {"params": undecayed, "decays": False, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)


def set_hyperparameters(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Set the learning rate of all groups and the weight decay of those that decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decays"] else 0.0
