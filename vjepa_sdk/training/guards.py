"""Stop a run before it harms itself: steps that are not finite, features that collapse."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import get_total_norm

from ..errors import GuardError
from ..models.jepa import JEPA
from ..runtime.files import write_json
from .step import NonFiniteError

logger = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 3
MAX_SKIPPED_OF_1000 = 10

# ranks of single batches scatter: the median of the last ten counts, against that of up to fifty before
_RECENT, _BEFORE = 10, 50
_LOW_RANK = 0.5
_COLLAPSED_STD = 1e-3


class CollapseError(GuardError):
    """The target features became one point."""


@dataclass
class SkippedSteps:
    """Steps that changed nothing because their loss or gradient was not finite; a few are survived."""

    count: int = 0
    recent: list[int] = field(default_factory=list)
    """Those of the last 1000 steps, counted from 1."""

    def add(self, step: int) -> None:
        """Count a step."""
        self.count += 1
        self.recent = [each for each in self.recent if each > step - 1000] + [step]

    @property
    def in_a_row(self) -> int:
        """How many of the last steps were skipped, one after the other."""
        backwards = enumerate(reversed(self.recent))
        return sum(1 for _ in takewhile(lambda item: item[1] == self.recent[-1] - item[0], backwards))

    @property
    def are_too_many(self) -> bool:
        """Whether the run should stop."""
        return self.in_a_row > MAX_SKIPPED_IN_A_ROW or len(self.recent) > MAX_SKIPPED_OF_1000


@dataclass
class CollapseGuard:
    """Watch the target features' spread: warn when their rank halves, stop when they are one point."""

    first_std: float | None = None
    ranks: list[float] = field(default_factory=list)
    """Effective ranks of the last checks, oldest first."""
    is_low: bool = False
    """Whether the last check warned: one warning a fall."""

    def check(self, step: int, spread: Spread) -> None:
        """Compare with the checks before.

        Raises:
            CollapseError: the features collapsed.
        """
        self.first_std = self.first_std or spread.std
        if spread.std < _COLLAPSED_STD * self.first_std:
            raise CollapseError(
                f"step {step}: the target features collapsed: their standard deviation is {spread.std:.3g}, "
                f"{self.first_std:.3g} at first; lower optim.lr or raise objective.variance_weight, and start again"
            )
        self.ranks = [*self.ranks, spread.effective_rank][-_RECENT - _BEFORE :]
        before, recent = self.ranks[:-_RECENT], self.ranks[-_RECENT:]
        usual, now = statistics.median(before or [0.0]), statistics.median(recent)
        was_low, self.is_low = self.is_low, len(before) >= _RECENT and now < _LOW_RANK * usual
        if self.is_low and not was_low:
            logger.warning(
                "step %d: the target features now use %.1f dimensions, less than half of the %.1f before: they may be "
                "collapsing. A loss that rises is no sign of that, a rank that goes on falling is",
                step, now, usual,
            )  # fmt: skip


@dataclass
class Guards:
    """Both guards, and what a checkpoint keeps of them."""

    skipped: SkippedSteps = field(default_factory=SkippedSteps)
    collapse: CollapseGuard = field(default_factory=CollapseGuard)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return asdict(self)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self.skipped, self.collapse = SkippedSteps(**state["skipped"]), CollapseGuard(**state["collapse"])


def write_nan_report(
    directory: Path,
    error: NonFiniteError,
    *,
    step: int,
    clips: list[dict[str, Any]],
    skipped: SkippedSteps,
    jepa: JEPA,
) -> Path:
    """Write down all there is to know about a step that is not finite, as `nan-report.json`.

    Args:
        clips: path, seed and frames of those of the forward pass that failed, or of the whole step.
        jepa: still holds the step's gradients.
    """
    path = directory / "nan-report.json"
    report = {
        "step": step,
        "forward_pass": error.forward_pass,
        "clips": clips,
        "skipped_steps": skipped.recent,
        "losses_and_schedules": asdict(error.report),
        "gradient_norms": gradient_norms(jepa),
    }
    write_json(path, _as_json(report))
    return path


def gradient_norms(jepa: JEPA) -> dict[str, float]:
    """Return the norm of the last gradient, block by block: `context_encoder.blocks.0`, `predictor.mask_tokens.1`."""
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in jepa.named_parameters():
        if parameter.grad is not None:
            network, part, *rest = name.split(".")
            block = [rest[0]] if rest and rest[0].isdecimal() else []
            gradients.setdefault(".".join([network, part, *block]), []).append(parameter.grad)
    return {name: float(get_total_norm(each)) for name, each in gradients.items()}


def _as_json(value: Any) -> Any:
    """Write numbers that are not finite as texts, which JSON can hold and a report has to tell apart."""
    if isinstance(value, Mapping):
        return {key: _as_json(each) for key, each in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Spread:
    """Signs of collapse in a batch of features; all fall together when features become one point."""

    std: float
    """Mean standard deviation of a feature dimension."""
    effective_rank: float
    """RankMe (arXiv 2210.02885): exponential of the entropy of the singular values; between 1 and D."""
    mean_cosine: float
    """Mean cosine of two tokens' features; 1 when all point one way."""


@torch.no_grad()
def spread(features: Tensor, *, max_tokens: int = 4096) -> Spread:
    """Measure how far apart the tokens `[B, N, D]` of a batch are, on at most `max_tokens` of them, evenly spaced."""
    tokens = features.float().flatten(0, 1)
    tokens = tokens[:: max(1, len(tokens) // max_tokens)]
    values = torch.linalg.svdvals(tokens)
    shares = values / values.sum() + 1e-7
    unit = F.normalize(tokens, dim=-1)
    count = len(tokens)
    cosine = (unit.sum(dim=0).square().sum() - count) / max(1, count * (count - 1))
    return Spread(
        std=float(tokens.std(dim=0).mean()),
        effective_rank=float(torch.exp(-(shares * shares.log()).sum())),
        mean_cosine=float(cosine),
    )
