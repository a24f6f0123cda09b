"""Score predictions, with intervals by bootstrap over groups: clips of one group are not independent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ConfigError, InputError

MIN_GROUPS, MIN_VIDEOS = 10, 30
"""With fewer an interval says too little to be printed."""
_TOP5_FROM = 10
_BINS = 15

Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassScore:
    """One class."""

    label: str
    support: int
    """Videos that have it."""
    recall: float
    """Share of them that were recognised; NaN if there is none."""
    precision: float
    """Share of the videos that were given it which have it; NaN if none was."""
    f1: float


@dataclass(frozen=True)
class Calibration:
    """How far a probability can be believed (Guo et al., arXiv 1706.04599)."""

    expected_error: float
    """Mean difference of confidence and accuracy over 15 equal bins, weighted by videos."""
    bins: list[dict[str, float]]
    """`confidence`, `accuracy` and `count` of each bin that has videos."""


@dataclass(frozen=True)
class ProbeScores:
    """What a probe reaches on labelled videos."""

    metrics: dict[str, float]
    """`accuracy`, `balanced_accuracy`, `macro_f1`, `log_loss`, and from 10 classes on `top5_accuracy`; of numbers `r2`,
    `mean_absolute_error`, `root_mean_squared_error`, `spearman`."""
    intervals: dict[str, Interval]
    """95 % of each metric; empty with fewer than 10 groups or 30 videos: too few to say."""
    num_videos: int
    num_groups: int
    labels: tuple[str, ...] = ()
    per_class: list[ClassScore] = field(default_factory=list)
    confusion: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    """int64 `[classes, classes]`: videos of class i that were taken for j."""
    calibration: Calibration | None = None

    @property
    def main(self) -> str:
        """The metric that is compared: `accuracy`, or `r2` of numbers."""
        return "accuracy" if "accuracy" in self.metrics else "r2"

    @property
    def accuracy(self) -> float:
        """Share of the videos that were recognised."""
        return self.metrics["accuracy"]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "metrics": {name: _finite(value) for name, value in self.metrics.items()},
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "num_videos": self.num_videos,
            "num_groups": self.num_groups,
            "labels": list(self.labels),
            "per_class": [{k: _finite(v) for k, v in vars(each).items()} for each in self.per_class],
            "confusion": self.confusion.tolist(),
            "calibration": None if self.calibration is None else vars(self.calibration),
        }


@dataclass(frozen=True)
class Predictions:
    """What a probe says of videos whose labels are known."""

    truth: np.ndarray
    """int `[n]`, numbers of classes; or float `[n]`."""
    outputs: np.ndarray
    """Probabilities `[n, classes]`; or float `[n]`."""
    groups: np.ndarray
    """int `[n]`, from 0."""

    @property
    def is_number(self) -> bool:
        """Whether a number is predicted instead of a class."""
        return self.outputs.ndim == 1

    @property
    def num_groups(self) -> int:
        """How many groups the videos are of."""
        return len(np.unique(self.groups))

    def metrics(self, weights: np.ndarray | None = None) -> dict[str, float]:
        """Return the metrics, each video counted `weights [n]` times."""
        weights = np.ones(len(self.truth)) if weights is None else weights
        return _number_metrics(self, weights) if self.is_number else _class_metrics(self, weights)


def score(predictions: Predictions, labels: Sequence[str] = (), *, bootstrap: int = 1000, seed: int = 0) -> ProbeScores:
    """Score predictions of videos.

    Args:
        labels: names of the classes.
        bootstrap: samples of the groups for the intervals; 0: none.

    Raises:
        InputError: nothing to score.
    """
    if not len(predictions.truth):
        raise InputError("there is no video to score; pass some with labels")
    samples = [predictions.metrics(weights) for weights in _resampled(predictions.groups, bootstrap, seed)]
    metrics = predictions.metrics()
    num_groups = predictions.num_groups
    intervals = {name: interval_of([each[name] for each in samples], num_groups) for name in metrics if samples}
    if predictions.is_number:
        return ProbeScores(metrics, intervals, len(predictions.truth), num_groups)
    confusion = confusion_matrix(predictions)
    return ProbeScores(
        metrics=metrics,
        intervals=intervals,
        num_videos=len(predictions.truth),
        num_groups=num_groups,
        labels=tuple(labels),
        per_class=_per_class(confusion, labels),
        confusion=confusion,
        calibration=_calibration(predictions),
    )


def pooled_metrics(
    several: Sequence[Predictions], *, bootstrap: int = 1000, seed: int = 0
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Return the mean metrics of several probes on the same videos, and intervals over groups and probes."""
    each = [predictions.metrics() for predictions in several]
    mean = {name: float(np.mean([metrics[name] for metrics in each])) for name in each[0]}
    draw = np.random.default_rng([seed, 1])
    samples = [
        several[int(draw.integers(len(several)))].metrics(weights)
        for weights in _resampled(several[0].groups, bootstrap, seed)
    ]
    num_groups = several[0].num_groups
    return mean, {name: interval_of([each[name] for each in samples], num_groups) for name in mean if samples}


def difference(
    one: Predictions, others: Sequence[Predictions], metric: str, *, bootstrap: int = 1000, seed: int = 0
) -> tuple[float, Interval | None]:
    """Return how much better one probe is than others on the same videos, and the interval of that over groups.

    Each sample of the groups compares it with one of the others, drawn anew; None: too few groups to say.
    """
    mean = one.metrics()[metric] - float(np.mean([other.metrics()[metric] for other in others]))
    draw = np.random.default_rng([seed, 1])
    samples = [
        one.metrics(weights)[metric] - others[int(draw.integers(len(others)))].metrics(weights)[metric]
        for weights in _resampled(one.groups, bootstrap, seed)
    ]
    return mean, interval_of(samples, one.num_groups) if samples else None


def paired_difference(
    ones: Sequence[Predictions], others: Sequence[Predictions], metric: str, *, bootstrap: int = 1000, seed: int = 0
) -> tuple[float, Interval | None]:
    """Return how much better some probes are than others, and the interval of that over groups and pairs.

    Args:
        ones: the first of each pair. All have as many videos, of the same groups.
        others: the second of each pair, on the same videos as the first.

    Returns:
        The mean difference, and its 95 % interval; None: too few groups to say.
    """
    pairs = list(zip(ones, others, strict=True))
    mean = float(np.mean([one.metrics()[metric] - other.metrics()[metric] for one, other in pairs]))
    draw, samples = np.random.default_rng([seed, 1]), []
    for weights in _resampled(ones[0].groups, bootstrap, seed):
        one, other = pairs[int(draw.integers(len(pairs)))]
        samples.append(one.metrics(weights)[metric] - other.metrics(weights)[metric])
    return mean, interval_of(samples, ones[0].num_groups) if samples else None


def interval_of(samples: Sequence[float], num_groups: int) -> Interval:
    """Return the 95 % interval of bootstrap samples of so many groups.

    It is the expanded percentile interval (Hesterberg, arXiv 1411.5279, section 5.4): the middle 95 % of samples is too
    narrow for few groups, as an interval by the normal instead of the t distribution is.
    """
    from scipy.stats import norm, t

    tail = norm.cdf(np.sqrt(num_groups / (num_groups - 1)) * t.ppf(0.025, num_groups - 1))
    low, high = np.nanquantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def confusion_matrix(predictions: Predictions, weights: np.ndarray | None = None) -> np.ndarray:
    """Return how often class i was taken for j, `[classes, classes]`; int64 without weights."""
    count = predictions.outputs.shape[1]
    cells = predictions.truth * count + predictions.outputs.argmax(1)
    counted: np.ndarray = np.bincount(cells, weights=weights, minlength=count * count).reshape(count, count)
    return counted


def _resampled(groups: np.ndarray, bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each video is counted when as many groups as there are are drawn with replacement."""
    if bootstrap < 0:
        raise ConfigError(f"bootstrap={bootstrap} must be at least 0; pass 1000, or 0 for no intervals")
    names, codes = np.unique(groups, return_inverse=True)
    if len(names) < MIN_GROUPS or len(groups) < MIN_VIDEOS:
        return
    generator = np.random.default_rng(seed)
    shares = np.full(len(names), 1 / len(names))
    for _ in range(bootstrap):
        yield generator.multinomial(len(names), shares)[codes].astype(np.float64)


def _class_metrics(predictions: Predictions, weights: np.ndarray) -> dict[str, float]:
    confusion = confusion_matrix(predictions, weights)
    support, taken, right = confusion.sum(1), confusion.sum(0), np.diagonal(confusion)
    total, seen, used = weights.sum(), support > 0, support + taken > 0
    chosen = predictions.outputs[np.arange(len(predictions.truth)), predictions.truth]
    metrics = {
        "accuracy": right.sum() / total,
        "balanced_accuracy": (right[seen] / support[seen]).mean(),
        "macro_f1": (2 * right[used] / (support + taken)[used]).mean(),
        "log_loss": -(weights * np.log(np.maximum(chosen.astype(np.float64), 1e-15))).sum() / total,
    }
    if predictions.outputs.shape[1] >= _TOP5_FROM:
        # a class counts as found if fewer than five score higher
        rank = (predictions.outputs > chosen[:, None]).sum(1)
        metrics["top5_accuracy"] = (weights * (rank < 5)).sum() / total
    return {name: float(value) for name, value in metrics.items()}


def _number_metrics(predictions: Predictions, weights: np.ndarray) -> dict[str, float]:
    error = predictions.outputs.astype(np.float64) - predictions.truth
    total = weights.sum()
    spread = predictions.truth - (weights * predictions.truth).sum() / total
    variance = (weights * spread**2).sum()
    return {
        "r2": float(1 - (weights * error**2).sum() / variance) if variance > 0 else float("nan"),
        "mean_absolute_error": float((weights * np.abs(error)).sum() / total),
        "root_mean_squared_error": float(np.sqrt((weights * error**2).sum() / total)),
        "spearman": _spearman(predictions, weights),
    }


def _spearman(predictions: Predictions, weights: np.ndarray) -> float:
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(predictions.outputs), rankdata(predictions.truth)])
    ranks -= (ranks * weights).sum(1, keepdims=True) / weights.sum()
    covariance = (ranks * weights) @ ranks.T
    scale = np.sqrt(covariance[0, 0] * covariance[1, 1])
    return float(covariance[0, 1] / scale) if scale > 0 else float("nan")


def _per_class(confusion: np.ndarray, labels: Sequence[str]) -> list[ClassScore]:
    support, taken, right = confusion.sum(1), confusion.sum(0), np.diagonal(confusion)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision, f1 = right / support, right / taken, 2 * right / (support + taken)
    names = labels or [str(number) for number in range(len(confusion))]
    return [
        ClassScore(names[k], int(support[k]), float(recall[k]), float(precision[k]), float(f1[k]))
        for k in range(len(confusion))
    ]


def _calibration(predictions: Predictions) -> Calibration:
    confidence = predictions.outputs.max(1).astype(np.float64)
    is_right = predictions.outputs.argmax(1) == predictions.truth
    places = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    bins, error = [], 0.0
    for place in np.unique(places):
        here = places == place
        one = {"confidence": confidence[here].mean(), "accuracy": is_right[here].mean(), "count": float(here.sum())}
        bins.append({name: float(value) for name, value in one.items()})
        error += here.mean() * abs(one["confidence"] - one["accuracy"])
    return Calibration(float(error), bins)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
