"""Do one optimizer step: scheduled values, masks, loss, gradient, guard, update, moving average."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..config.training import Precision, TrainConfig
from ..errors import GuardError
from ..models.jepa import JEPA
from ..models.masks import Masks
from .distributed import Group
from .optim import adamw, cosine, linear, ramp, set_hyperparameters, warmup_then


@dataclass(frozen=True)
class Hyperparameters:
    """Scheduled values of one step."""

    lr: float
    weight_decay: float
    momentum: float
    context_weight: float


@dataclass(frozen=True)
class ForwardPass:
    """Part of a step's batch that goes through the networks at once."""

    clips: Tensor
    """Normalised pixels `[B, 3, T, H, W]`; stills have T = 1."""
    masks: Masks
    weight: float = 1.0
    """Share of the step's loss; those of a step add up to 1."""


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did."""

    loss: float
    prediction_loss: float
    context_loss: float
    variance_loss: float
    covariance_loss: float
    encoder_grad_norm: float
    predictor_grad_norm: float
    hyperparameters: Hyperparameters
    is_overflow: bool = False
    """float16 only: the gradient overflowed, nothing was updated, and the loss scale was lowered."""


class NonFiniteError(GuardError):
    """Loss or gradient of a step is not finite; nothing was updated, and the gradients are still there to look at."""

    def __init__(self, message: str, *, report: StepReport, forward_pass: int | None) -> None:
        super().__init__(message)
        self.report = report
        self.forward_pass = forward_pass
        """The first bad one of this process, from 0; None if only the sum over all of them is known to be bad."""


def hyperparameters(config: TrainConfig, step: int) -> Hyperparameters:
    """Return learning rate, weight decay, momentum and context weight of a step (counted from 0)."""
    optim, objective, total = config.optim, config.objective, int(config.steps * config.optim.schedule_scale)
    context_weight = objective.context_weight
    if objective.context_ramp is not None:
        start, end = objective.context_ramp
        context_weight = ramp(step, value=context_weight, start=start, end=end)
    return Hyperparameters(
        lr=warmup_then(
            step,
            schedule=optim.schedule,
            start=optim.start_lr,
            peak=optim.lr,
            final=optim.final_lr,
            warmup_steps=optim.warmup_steps,
            total_steps=total,
            decay_steps=optim.decay_steps,
        ),
        weight_decay=cosine(step, start=optim.weight_decay, final=optim.final_weight_decay, total_steps=total),
        momentum=linear(step, start=objective.ema_start, final=objective.ema_end, total_steps=total),
        context_weight=context_weight,
    )


def make_optimizer(jepa: JEPA, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over context encoder and predictor."""
    return adamw((jepa.context_encoder, jepa.predictor), betas=config.optim.betas, eps=config.optim.eps)


def make_scaler(config: TrainConfig, device: torch.device) -> torch.amp.GradScaler:
    """Return the loss scaler, which does something in float16 only: bfloat16 has the range of float32."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "float16")


def train_step(
    jepa: JEPA,
    optimizer: torch.optim.Optimizer,
    passes: Iterable[ForwardPass],
    *,
    config: TrainConfig,
    step: int,
    scaler: torch.amp.GradScaler | None = None,
    group: Group | None = None,
) -> StepReport:
    """Do one optimizer step and move the target encoder.

    Args:
        passes: the step's batch, or this process's share of it, in parts that fit into memory; read once, one at a
            time.
        step: optimizer steps done before, from 0.
        scaler: needed in float16.
        group: processes that share the step; their gradients add up, and all of them report the same.

    Raises:
        NonFiniteError: loss or gradient is not finite; weights, optimizer and target encoder are untouched.
    """
    values = hyperparameters(config, step)
    set_hyperparameters(optimizer, lr=values.lr, weight_decay=values.weight_decay)
    optimizer.zero_grad(set_to_none=True)
    scaler, group = scaler or torch.amp.GradScaler(enabled=False), group or Group()
    terms = [_backward(jepa, each, values.context_weight, config.precision, scaler) for each in passes]
    group.sum_gradients(parameter for each in optimizer.param_groups for parameter in each["params"])
    scaler.unscale_(optimizer)
    networks = (jepa.context_encoder, jepa.predictor)
    norms = [get_total_norm([p.grad for p in network.parameters() if p.grad is not None]) for network in networks]
    sizes = [float(norm) for norm in norms]
    is_finite = all(map(math.isfinite, sizes))
    loss, prediction, context, variance, covariance = group.sum(torch.stack(terms).sum(dim=0)).tolist()
    report = StepReport(loss, prediction, context, variance, covariance, sizes[0], sizes[1], values, not is_finite)
    if not math.isfinite(loss) or not (is_finite or scaler.get_scale() > 1.0):
        scaler.update()
        bad = [number for number, term in enumerate(terms) if not term[0].isfinite()]
        what = f"gradient norms {sizes[0]} and {sizes[1]}" if math.isfinite(loss) else f"loss={loss}"
        raise NonFiniteError(
            f"step {step + 1}: {what} must be finite; lower optim.lr={config.optim.lr:g}",
            report=report,
            forward_pass=bad[0] if bad else None,
        )
    limit = config.optim.max_grad_norm if step >= config.optim.clip_from_step else None
    if limit is not None and is_finite:
        for network, norm in zip(networks, norms, strict=True):
            clip_grads_with_norm_(network.parameters(), limit, norm)
    scaler.step(optimizer)
    scaler.update()
    if is_finite:
        jepa.update_target(values.momentum)
    return report


def _backward(
    jepa: JEPA, part: ForwardPass, context_weight: float, precision: Precision, scaler: torch.amp.GradScaler
) -> Tensor:
    """Add one pass's share to the gradients; return its share of the loss and its four terms, `[5]`."""
    with autocast(precision, part.clips.device):
        losses = jepa(part.clips, part.masks, context_weight=context_weight)
    scaler.scale(losses.total * part.weight).backward()
    terms = (losses.total, losses.prediction, losses.context, losses.variance, losses.covariance)
    return torch.stack([term.detach().float() for term in terms]) * part.weight


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which the networks run at a precision; parameters stay float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bfloat16" else torch.float16)
