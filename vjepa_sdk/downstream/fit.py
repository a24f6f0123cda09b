"""Fit probes to vectors: logistic regression, ridge regression of a number, and nearest neighbours.

The solvers are scikit-learn's; what is kept of them is a few arrays.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import ConfigError, InputError
from ..models.vector_probe import LinearProbe, LinearProbeConfig, NearestProbe, NearestProbeConfig, VectorProbe
from ..runtime.forks import check_fork
from ..weights.probe_directory import AnyProbe

C_GRID = tuple(10.0**power for power in range(-4, 5))
ALPHA_GRID = tuple(10.0**power for power in range(-2, 7))
_MIN_SCALE = 1e-6
_MAX_ITERATIONS = 1000
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 64, 1 << 28
_WORSE_IN_A_ROW = 2
_LARGE = 20_000_000


class Table(Protocol):
    """Rows of features that may be made when they are asked for; an array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all rows, `(rows, ...)`."""

    def __len__(self) -> int:
        """Return how many rows there are."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the rows of these numbers, int `[n]`."""


@dataclass(frozen=True)
class Examples:
    """Rows of features and the videos they are of."""

    table: Table
    """float32 `[n, D]`; for attention tokens `[n, ..., D]`, which may lie on disk, or be made when they are taken."""
    rows: np.ndarray
    """int `[rows]`: rows of the table."""
    video: np.ndarray
    """int `[rows]`: number of the video a row is of, from 0."""
    targets: np.ndarray
    """int `[videos]`, numbers of classes; or float64 `[videos]`."""

    @classmethod
    def of(cls, table: Table, video: np.ndarray, targets: np.ndarray) -> Examples:
        """Take all rows of a table."""
        return cls(table, np.arange(len(table)), video, targets)

    @property
    def features(self) -> np.ndarray:
        """The rows, float32 `[rows, D]`, in memory."""
        return self.take(slice(None))

    def take(self, numbers: np.ndarray | slice) -> np.ndarray:
        """Return some of the rows as float32."""
        return np.asarray(self.table[self.rows[numbers]], dtype=np.float32)

    @property
    def weights(self) -> np.ndarray:
        """Weight of each row: videos count alike, however many windows they have; the mean weight is 1."""
        counts = np.bincount(self.video, minlength=len(self.targets))
        weights: np.ndarray = len(self.video) / np.count_nonzero(counts) / counts[self.video]
        return weights

    def part(self, videos: np.ndarray) -> Examples:
        """Return the rows of some videos, which count from 0 then."""
        place = np.full(len(self.targets), -1)
        place[videos] = np.arange(len(videos))
        rows = place[self.video] >= 0
        return Examples(self.table, self.rows[rows], place[self.video[rows]], self.targets[videos])

    def over_videos(self, outputs: np.ndarray) -> np.ndarray:
        """Average what was said of rows, `[rows, ...]`, over the rows of each video: `[videos, ...]`."""
        totals = np.zeros((len(self.targets), *outputs.shape[1:]), np.float64)
        np.add.at(totals, self.video, outputs)
        counts = np.bincount(self.video, minlength=len(self.targets))
        return totals / counts.reshape(-1, *[1] * (outputs.ndim - 1))


Check = tuple[Examples, Examples]
"""What to fit to, and what to check on."""


@dataclass(frozen=True)
class Fitted:
    """A probe, and how it came about."""

    probe: AnyProbe
    facts: dict[str, Any] = field(default_factory=dict)
    """Plain JSON data: what was chosen, and what else was tried."""


def check_features(features: np.ndarray) -> np.ndarray:
    """Return features as float32 `[rows, D]`, the axes of a row made one.

    Raises:
        InputError: they are no rows of numbers, are not finite, or all the same.
    """
    check_fork()
    if features.dtype == object or features.ndim < 2 or not len(features):
        raise InputError(
            f"features of shape {features.shape} are no rows of one shape; pass what `encode` or `vjepa embed` gives"
        )
    rows = np.asarray(features, dtype=np.float32).reshape(len(features), -1)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise InputError(f"row {int(np.argmin(finite))} of the features is not finite; leave it out or encode it again")
    return rows


def fit_logistic(
    examples: Examples,
    num_classes: int,
    *,
    C: float | None = None,
    checks: Sequence[Check] = (),
    class_weight: str | None = None,
    standardize: bool = True,
) -> Fitted:
    """Fit multinomial logistic regression: minimise `C * sum_i w_i * cross_entropy_i + |W|^2 / 2`, intercepts free.

    Of two classes the objective is that of one weight vector, as scikit-learn has it.

    Args:
        C: None: of `C_GRID` the one with the least cross-entropy on `checks`; without those 1.
        checks: parts of the examples to fit to, and others to check on.
        class_weight: `balanced` weighs classes by n / (K * n_k).

    Raises:
        ConfigError: fewer than two classes, or a C with which the solver finds no optimum in 1,000 iterations.
    """
    _check_fit(examples, num_classes)
    facts: dict[str, Any] = {}
    if C is None and checks:
        C, facts["grid"] = _choose_penalty(
            C_GRID,
            checks,
            lambda part: _logistic_path(part, num_classes, C_GRID, class_weight, standardize),
            lambda probe, part: -_log_loss(probe, part, class_weight),
        )
    elif C is None:
        C, facts["note"] = 1.0, "C=1: too few groups to choose it"
    grid = [*(each for each in C_GRID if each < C), C]
    solutions = dict(_logistic_path(examples, num_classes, grid, class_weight, standardize))
    if C not in solutions:
        raise ConfigError(f"C={C:g}: no optimum within {_MAX_ITERATIONS:,} iterations; pass a smaller C")
    _give_centres(solutions[C], examples, num_classes)
    return Fitted(solutions[C], {"C": C, **facts})


def fit_ridge(
    examples: Examples, *, alpha: float | None = None, checks: Sequence[Check] = (), standardize: bool = True
) -> Fitted:
    """Fit ridge regression of a number: minimise `sum_i w_i * error_i^2 + alpha * |w|^2`, intercept free.

    Args:
        alpha: None: of `ALPHA_GRID` the one with the least squared error on `checks`; without those 1.
    """
    if np.ptp(examples.targets) == 0:
        raise ConfigError(f"all labels are {examples.targets[0]:g}, so there is nothing to fit; pass others too")
    _check_fit(examples, 2)
    facts: dict[str, Any] = {}
    if alpha is None and checks:
        alpha, facts["grid"] = _choose_penalty(
            ALPHA_GRID[::-1],
            checks,
            lambda part: ((each, _ridge(part, each, standardize)) for each in ALPHA_GRID[::-1]),
            lambda probe, part: -float(np.mean((predict_videos(probe, part)[:, 0] - part.targets) ** 2)),
        )
    elif alpha is None:
        alpha, facts["note"] = 1.0, "alpha=1: too few groups to choose it"
    return Fitted(_ridge(examples, alpha, standardize), {"alpha": alpha, **facts})


def fit_nearest(examples: Examples, num_classes: int, *, k: int = 20, temperature: float = 0.07) -> Fitted:
    """Keep the labelled rows, at length 1."""
    _check_fit(examples, num_classes)
    features = examples.features
    rows, dim = features.shape
    lengths = np.linalg.norm(features, axis=1)
    if not (lengths > 0).all():
        raise InputError(f"row {int(np.argmin(lengths))} of the features is zero and has no direction; leave it out")
    config = NearestProbeConfig(embed_dim=dim, num_classes=num_classes, num_rows=rows, k=k, temperature=temperature)
    probe = NearestProbe(config)
    probe.features.copy_(F.normalize(torch.from_numpy(features), dim=-1))
    probe.targets.copy_(torch.from_numpy(examples.targets[examples.video]))
    _give_centres(probe, examples, num_classes)
    return Fitted(probe.eval(), {"k": k, "temperature": temperature})


@torch.no_grad()
def predict_rows(probe: AnyProbe, features: np.ndarray) -> np.ndarray:
    """Return probabilities float32 `[rows, classes]`, or with one output numbers `[rows, 1]`.

    Args:
        features: `[rows, D]`; for attention tokens `[rows, ..., D]`, which may be memory-mapped.
    """
    check_fork()
    if isinstance(probe, VectorProbe):
        outputs: torch.Tensor = probe(torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)))
        return (outputs if outputs.shape[1] == 1 else outputs.softmax(dim=1)).numpy()
    tokens, weight = features.reshape(len(features), -1, features.shape[-1]), probe.linear.weight
    parts = []
    for first in range(0, len(tokens), _ROWS_AT_ONCE):
        part = torch.from_numpy(np.array(tokens[first : first + _ROWS_AT_ONCE])).to(weight)
        parts.append(probe(part).float().softmax(dim=1).cpu().numpy())
    return np.concatenate(parts)


def predict_videos(probe: AnyProbe, examples: Examples) -> np.ndarray:
    """Return the mean over the rows of each video: probabilities `[videos, classes]`, or numbers `[videos, 1]`."""
    return predict_each([probe], examples)[0]


def predict_each(probes: Sequence[AnyProbe], examples: Examples) -> list[np.ndarray]:
    """Return what `predict_videos` does of several probes, for which rows are taken once."""
    row_bytes = 4 * math.prod(examples.table.shape[1:])
    at_once = min(_ROWS_AT_ONCE, max(1, _BYTES_AT_ONCE // row_bytes))
    size = len(examples.rows) if isinstance(probes[0], VectorProbe) else at_once
    parts: list[list[np.ndarray]] = [[] for _ in probes]
    for first in range(0, len(examples.rows), size):
        rows = examples.take(slice(first, first + size))
        for part, probe in zip(parts, probes, strict=True):
            part.append(predict_rows(probe, rows))
    return [examples.over_videos(np.concatenate(part)) for part in parts]


def _check_fit(examples: Examples, num_classes: int) -> None:
    if num_classes < 2:
        raise ConfigError("there is one class only, so there is nothing to tell apart; pass clips of others too")
    if np.ptp(examples.features, axis=0).max() == 0:
        raise InputError("the features are the same in every row, so nothing can be told from them; encode them again")


def _logistic_path(
    examples: Examples, num_classes: int, grid: Sequence[float], class_weight: str | None, standardize: bool
) -> Iterator[tuple[float, LinearProbe]]:
    """Yield a fit for each C from small to large, each from the one before, until no optimum is found."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    targets = examples.targets[examples.video]
    present = np.unique(targets)
    if len(present) < 2:
        return
    features = examples.features
    mean, scale = _standardizer(features, standardize)
    x = (features.astype(np.float64) - mean) / scale
    basis = None
    if x.shape[1] > len(x):  # the optimum lies in the span of the rows, where it is much cheaper to find
        basis, triangle = np.linalg.qr(x.T)
        x = triangle.T
    weights = examples.weights * class_weights(examples.targets, class_weight)[examples.video]
    solver = LogisticRegression(tol=1e-6, max_iter=_MAX_ITERATIONS, warm_start=True)
    # products this small gain nothing from a second thread, and lose much where it waits by spinning for a busy core
    threads = 1 if x.size < _LARGE else None
    for C in sorted(grid):
        with warnings.catch_warnings(), threadpool_limits(threads):
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.set_params(C=C).fit(x, targets, sample_weight=weights)
        if solver.n_iter_.max() >= _MAX_ITERATIONS:
            return  # a larger C is harder still
        weight, bias = solver.coef_, solver.intercept_
        if len(present) == 2:
            weight, bias = np.stack([-weight[0], weight[0]]) / 2, np.array([-bias[0], bias[0]]) / 2
        weight = weight if basis is None else weight @ basis.T
        yield C, _linear(weight, bias, mean, scale, present=present, num_classes=num_classes)


def _ridge(examples: Examples, alpha: float, standardize: bool) -> LinearProbe:
    from sklearn.linear_model import Ridge

    features = examples.features
    mean, scale = _standardizer(features, standardize)
    x = (features.astype(np.float64) - mean) / scale
    solver = Ridge(alpha=alpha).fit(x, examples.targets[examples.video], sample_weight=examples.weights)
    return _linear(solver.coef_[None], np.array([solver.intercept_]), mean, scale, present=np.array([0]), num_classes=1)


def _linear(
    weight: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    *,
    present: np.ndarray,
    num_classes: int,
) -> LinearProbe:
    """Return the probe; a class that no row has is never chosen."""
    config = LinearProbeConfig(embed_dim=len(mean), num_classes=num_classes, has_centres=num_classes > 1)
    probe = LinearProbe(config)
    probe.bias.fill_(-1e4)
    probe.bias[present] = torch.from_numpy(bias).float()
    probe.weight[present] = torch.from_numpy(weight).float()
    probe.mean.copy_(torch.from_numpy(mean))
    probe.scale.copy_(torch.from_numpy(scale))
    return probe.eval()


def _standardizer(features: np.ndarray, standardize: bool) -> tuple[np.ndarray, np.ndarray]:
    mean = features.mean(axis=0, dtype=np.float64)
    if not standardize:
        return np.zeros_like(mean), np.ones_like(mean)
    return mean, np.maximum(features.std(axis=0, dtype=np.float64), _MIN_SCALE)


def class_weights(targets: np.ndarray, class_weight: str | None) -> np.ndarray:
    """Return the weight of each video: 1, or `balanced`: n / (K * n_k)."""
    if class_weight is None:
        return np.ones(len(targets))
    if class_weight != "balanced":
        raise ConfigError(f"class_weight={class_weight!r} must be 'balanced' or None")
    counts = np.bincount(targets)
    balanced: np.ndarray = len(targets) / (np.count_nonzero(counts) * counts[targets])
    return balanced


def _choose_penalty(
    grid: Sequence[float],
    checks: Sequence[Check],
    path: Callable[[Examples], Iterator[tuple[float, LinearProbe]]],
    value: Callable[[LinearProbe, Examples], float],
) -> tuple[float, list[dict[str, float | None]]]:
    """Return the best penalty on what is checked, of equals the strongest, and what each reached.

    Weaker penalties than the best are tried until two in a row are worse: they take ever longer to fit.

    Args:
        grid: from the strongest to the weakest penalty.
        path: yields probes along the grid, maybe not to its end.
        value: of a probe on what is checked, more is better.
    """
    sizes = [len(check.targets) for _, check in checks]
    values: list[float] = []
    for steps in zip(*(path(part) for part, _ in checks), strict=False):
        each = [value(probe, check) for (_, probe), (_, check) in zip(steps, checks, strict=True)]
        values.append(float(np.average(each, weights=sizes)))
        if len(values) - int(np.argmax(values)) > _WORSE_IN_A_ROW:
            break
    if not values:
        raise ConfigError("no penalty leads to an optimum on every fold; pass C")
    tried = [{"penalty": each, "value": values[n] if n < len(values) else None} for n, each in enumerate(grid)]
    return grid[int(np.argmax(values))], tried


def _log_loss(probe: LinearProbe, part: Examples, class_weight: str | None) -> float:
    shares = predict_videos(probe, part)[np.arange(len(part.targets)), part.targets]
    losses = -np.log(np.maximum(shares, 1e-15)) * class_weights(part.targets, class_weight)
    return float(losses.mean())


def _give_centres(probe: LinearProbe | NearestProbe, examples: Examples, num_classes: int) -> None:
    """Measure how far the rows lie from their nearest class mean, each left out of its own."""
    assert probe.centres is not None
    x, targets = examples.features.astype(np.float64), examples.targets[examples.video]
    counts = np.bincount(targets, minlength=num_classes)
    sums = np.zeros((num_classes, x.shape[1]))
    np.add.at(sums, targets, x)
    means = sums / np.maximum(counts, 1)[:, None]

    def unit(vectors: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
        return scaled

    cosines = unit(x) @ unit(means).T
    others = sums[targets] - x  # a class of one row has no mean without it
    own = np.where(counts[targets] > 1, (unit(others) * unit(x)).sum(1), -1.0)
    cosines[np.arange(len(x)), targets] = own
    probe.centres.means.copy_(torch.from_numpy(means))
    probe.centres.reach.fill_(float(np.quantile(1.0 - cosines.max(axis=1), 0.99)))
