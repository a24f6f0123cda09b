"""Train attentive probes on cached tokens, a whole grid of them at once.

Sources: `evals/video_classification_frozen/eval.py` of the official V-JEPA 1 and V-JEPA 2 code. With self-attention
before the pooling (V-JEPA 2) AdamW decays every parameter by a constant; with it after the pooling, or with none (depth
1 of V-JEPA 1), biases and one-dimensional parameters do not decay, the decay falls to 1e-6 and gradients are clipped at
1. The learning rate falls to zero as a cosine in both. Tokens do not change from epoch to epoch: clips are not
augmented anew, as they are officially.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError, GuardError
from ..models.attentive_probe import AttentiveProbe, ProbeConfig
from ..runtime.progress import progress_bar
from ..training.optim import adamw, cosine, warmup_then
from .fit import Check, Examples, Fitted, class_weights, predict_videos
from .scores import Predictions

OFFICIAL_HEADS = 16
_FINAL_DECAY = 1e-6
_MAX_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class AttentiveOptions:
    """How probes are built and trained."""

    num_classes: int
    depth: int
    num_heads: int | None
    self_attention: str
    epochs: int
    batch_size: int
    learning_rates: Sequence[float]
    weight_decays: Sequence[float]
    class_weight: str | None
    seed: int
    device: torch.device
    show_progress_bar: bool | None

    def config(self, embed_dim: int) -> ProbeConfig:
        """Return the shape of a probe of tokens with so many features."""
        return ProbeConfig(
            embed_dim=embed_dim,
            num_classes=self.num_classes,
            depth=self.depth,
            num_heads=self.num_heads or math.gcd(embed_dim, OFFICIAL_HEADS),
            self_attention="before" if self.self_attention == "before" else "after",
        )

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Learning rate and weight decay of each probe."""
        return [(rate, decay) for rate in self.learning_rates for decay in self.weight_decays]


def fit_attentive(examples: Examples, checks: Sequence[Check], options: AttentiveOptions) -> Fitted:
    """Train a probe for each learning rate and weight decay, and return the best on videos that were kept out.

    Args:
        examples: of tokens.
        checks: the first of them is what they train on, and are chosen by; none: they train on all examples, which
            takes a grid of one probe.

    Raises:
        ConfigError: one class only; or a grid, and too few groups to choose from it.
        GuardError: every loss stopped being finite.
    """
    if options.num_classes < 2:
        raise ConfigError("there is one class only, so there is nothing to tell apart; pass clips of others too")
    grid = options.grid
    if not checks and len(grid) > 1:
        raise ConfigError(
            f"there are too few groups to choose among {len(grid)} learning rates and weight decays; pass one of each"
        )
    if not checks:
        only = train_grid(examples, grid, options)[0]
        return Fitted(only, _facts(grid[0], only.config))
    fit, check = checks[0]
    probes = train_grid(fit, grid, options)
    values = [_value(probe, check) for probe in probes]
    best = max(range(len(grid)), key=lambda number: values[number])
    tried = [
        {"learning_rate": rate, "weight_decay": decay, "value": value[0]}
        for (rate, decay), value in zip(grid, values, strict=True)
    ]
    return Fitted(probes[best], {**_facts(grid[best], probes[best].config), "grid": tried})


def train_grid(
    examples: Examples, grid: Sequence[tuple[float, float]], options: AttentiveOptions
) -> list[AttentiveProbe]:
    """Train probes that start alike and see the same batches, one for each learning rate and weight decay."""
    num_rows, embed_dim = len(examples.rows), examples.table.shape[-1]
    weights = examples.weights * class_weights(examples.targets, options.class_weight)[examples.video]
    targets = torch.from_numpy(examples.targets[examples.video]).long()
    trainers = [_Trainer(options.config(embed_dim), rate, decay, options) for rate, decay in grid]
    steps = math.ceil(num_rows / options.batch_size)
    order = np.random.default_rng(options.seed)
    with progress_bar("fit", total=options.epochs * steps, show=options.show_progress_bar, unit="batch") as bar:
        for epoch in range(options.epochs):
            rows = order.permutation(num_rows)
            for number in range(steps):
                taken = np.sort(rows[number * options.batch_size : (number + 1) * options.batch_size])
                batch = torch.from_numpy(examples.take(taken)).flatten(1, -2).to(options.device)
                weight = torch.from_numpy(weights[taken]).float().to(options.device)
                step = epoch * steps + number
                for trainer in trainers:
                    trainer.step(batch, targets[taken].to(options.device), weight, step, options.epochs * steps)
                bar.advance()
    if all(trainer.has_diverged for trainer in trainers):
        raise GuardError("no loss of the grid stayed finite; pass smaller learning rates")
    return [trainer.probe.eval().requires_grad_(False) for trainer in trainers]


class _Trainer:
    """One probe with its optimizer."""

    def __init__(self, config: ProbeConfig, rate: float, decay: float, options: AttentiveOptions) -> None:
        self.rate, self.decay = rate, decay
        self.is_second = config.self_attention == "before"
        self.has_diverged = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.probe = AttentiveProbe(config).to(options.device).train()
        if self.is_second:
            self.optimizer = torch.optim.AdamW(self.probe.parameters(), lr=rate, weight_decay=decay)
        else:
            self.optimizer = adamw([self.probe], betas=(0.9, 0.999), eps=1e-8)

    def step(self, tokens: Tensor, targets: Tensor, weights: Tensor, step: int, total: int) -> None:
        if self.has_diverged:
            return
        rate = warmup_then(
            step, schedule="cosine", start=self.rate, peak=self.rate, final=0.0, warmup_steps=0, total_steps=total
        )
        decay = self.decay if self.is_second else cosine(step, start=self.decay, final=_FINAL_DECAY, total_steps=total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if group.get("decays", True):
                group["weight_decay"] = decay
        loss = (F.cross_entropy(self.probe(tokens), targets, reduction="none") * weights).mean()
        if not torch.isfinite(loss):
            self.has_diverged = True
            return
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if not self.is_second:
            nn.utils.clip_grad_norm_(self.probe.parameters(), _MAX_NORM)
        self.optimizer.step()


def _facts(chosen: tuple[float, float], config: ProbeConfig) -> dict[str, float]:
    return {"learning_rate": chosen[0], "weight_decay": chosen[1], "num_heads": config.num_heads}


def _value(probe: AttentiveProbe, check: Examples) -> tuple[float, float]:
    """Return accuracy, and for equals how sure it was of the truth."""
    shares = predict_videos(probe, check)
    if not np.isfinite(shares).all():
        return -1.0, -math.inf
    metrics = Predictions(check.targets, shares, np.zeros(len(check.targets), np.int64)).metrics()
    return metrics["accuracy"], -metrics["log_loss"]
