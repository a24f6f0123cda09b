"""Train attentive probes on cached tokens, a whole grid of them at once.

Sources: `evals/video_classification_frozen/eval.py` of the official V-JEPA 1 and V-JEPA 2 code. With self-attention
before the pooling (V-JEPA 2) AdamW decays every parameter by a constant; with it after the pooling, or with none (depth
1 of V-JEPA 1), biases and one-dimensional parameters do not decay, the decay falls to 1e-6 and gradients are clipped at
1. The learning rate falls to zero as a cosine in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.protocols import GridPoint
from ..errors import ConfigError, GuardError
from ..models.attentive_probe import AttentiveProbe, ProbeConfig
from ..runtime.progress import progress_bar
from ..training.optim import adamw, cosine, warmup_then
from .fit import Check, Examples, Fitted, class_weights, predict_each
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
    grid: tuple[GridPoint, ...]
    """How each of the probes is trained that are trained at once."""
    one_row_a_video: bool
    """The rows of a video are passes over it, of which every epoch takes the next; else every epoch takes all rows."""
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
    values = [_value(shares, check) for shares in predict_each(probes, check)]
    best = max(range(len(grid)), key=lambda number: values[number])
    tried = [{**_about(point), "value": value[0]} for point, value in zip(grid, values, strict=True)]
    return Fitted(probes[best], {**_facts(grid[best], probes[best].config), "grid": tried})


def train_grid(examples: Examples, grid: Sequence[GridPoint], options: AttentiveOptions) -> list[AttentiveProbe]:
    """Train probes that start alike and see the same batches, one for each point of the grid."""
    embed_dim = examples.table.shape[-1]
    weights = examples.weights * class_weights(examples.targets, options.class_weight)[examples.video]
    targets = torch.from_numpy(examples.targets[examples.video]).long()
    steps = math.ceil(len(_rows_of_epoch(examples, 0, options)) / options.batch_size)
    trainers = [_Trainer(options.config(embed_dim), point, options, steps) for point in grid]
    total = options.epochs * steps
    with progress_bar("fit", total=total, show=options.show_progress_bar, unit="batch") as bar:
        for step, (taken, rows) in enumerate(_batches(examples, options, steps)):
            tokens = torch.from_numpy(rows).flatten(1, -2).to(options.device)
            weight = torch.from_numpy(weights[taken]).float().to(options.device)
            for trainer in trainers:
                trainer.step(tokens, targets[taken].to(options.device), weight, step)
            bar.advance()
    if all(trainer.has_diverged for trainer in trainers):
        raise GuardError("no loss of the grid stayed finite; pass smaller learning rates")
    return [trainer.probe.eval().requires_grad_(False) for trainer in trainers]


def _batches(examples: Examples, options: AttentiveOptions, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the numbers of rows and the rows, batch by batch; the next are fetched while these are learnt from."""
    order = np.random.default_rng(options.seed)

    def fetch(taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return taken, examples.take(taken)

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: Future[tuple[np.ndarray, np.ndarray]] | None = None
        for epoch in range(options.epochs):
            rows = order.permutation(_rows_of_epoch(examples, epoch, options))
            for number in range(steps):
                taken = np.sort(rows[number * options.batch_size : (number + 1) * options.batch_size])
                following = pool.submit(fetch, taken)
                if ahead is not None:
                    yield ahead.result()
                ahead = following
        if ahead is not None:
            yield ahead.result()


def _rows_of_epoch(examples: Examples, epoch: int, options: AttentiveOptions) -> np.ndarray:
    """Return the numbers of the rows that an epoch learns from, ascending."""
    if not options.one_row_a_video:
        return np.arange(len(examples.rows))
    counts = np.bincount(examples.video, minlength=len(examples.targets))
    by_video = np.argsort(examples.video, kind="stable")
    firsts = np.cumsum(counts) - counts
    return np.sort(by_video[firsts + epoch % counts])


class _Trainer:
    """One probe with its optimizer."""

    def __init__(self, config: ProbeConfig, point: GridPoint, options: AttentiveOptions, steps_per_epoch: int) -> None:
        self.point = point
        self.warmup_steps, self.total_steps = (
            int(epochs * steps_per_epoch) for epochs in (point.warmup_epochs, options.epochs)
        )
        self.is_second = config.self_attention == "before"
        self.has_diverged = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.probe = AttentiveProbe(config).to(options.device).train()
        if self.is_second:
            self.optimizer = torch.optim.AdamW(self.probe.parameters(), lr=point.learning_rate)
        else:
            self.optimizer = adamw([self.probe], betas=(0.9, 0.999), eps=1e-8)

    def decay(self, step: int) -> float:
        """Return the weight decay of a step."""
        start, final = self.point.weight_decay, self.point.final_decay
        if final is None:
            final = start if self.is_second else _FINAL_DECAY
        return cosine(step, start=start, final=final, total_steps=self.total_steps)

    def step(self, tokens: Tensor, targets: Tensor, weights: Tensor, step: int) -> None:
        if self.has_diverged:
            return
        peak = self.point.learning_rate
        rate = warmup_then(
            step,
            schedule="cosine",
            start=peak if self.point.start_rate is None else self.point.start_rate,
            peak=peak,
            final=0.0,
            warmup_steps=self.warmup_steps,
            total_steps=self.total_steps,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if group.get("decays", True):
                group["weight_decay"] = self.decay(step)
        loss = (F.cross_entropy(self.probe(tokens), targets, reduction="none") * weights).mean()
        if not torch.isfinite(loss):
            self.has_diverged = True
            return
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if not self.is_second:
            nn.utils.clip_grad_norm_(self.probe.parameters(), _MAX_NORM)
        self.optimizer.step()


def _facts(chosen: GridPoint, config: ProbeConfig) -> dict[str, float]:
    return {**_about(chosen), "num_heads": config.num_heads}


def _about(point: GridPoint) -> dict[str, float]:
    """Return a point of the grid as plain JSON data: what it has beside rate and decay only where it has it."""
    about = {"learning_rate": point.learning_rate, "weight_decay": point.weight_decay}
    if point.warmup_epochs:
        about["warmup_epochs"] = point.warmup_epochs
    if point.final_decay is not None:
        about["final_decay"] = point.final_decay
    return about


def _value(shares: np.ndarray, check: Examples) -> tuple[float, float]:
    """Return accuracy, and for equals how sure it was of the truth."""
    if not np.isfinite(shares).all():
        return -1.0, -math.inf
    metrics = Predictions(check.targets, shares, np.zeros(len(check.targets), np.int64)).metrics()
    return metrics["accuracy"], -metrics["log_loss"]
