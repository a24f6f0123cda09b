"""Find the clips that are like no other, and those whose label is not that of their neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config.choices import Metric
from ..errors import ConfigError, InputError
from ..runtime.progress import progress_bar
from .nearest import mean_of, nearest_rows
from .stored import AnyFeatures, Features, open_features

_QUERY_ROWS = 1024


@dataclass(frozen=True)
class OutlierScores:
    """How far each row is from the rows nearest to it."""

    distance: np.ndarray
    """float32 `[N]`: mean of 1 - cosine to the k nearest other rows."""
    percentile: np.ndarray
    """float32 `[N]`: share of the rows, in percent, that are no farther from theirs."""

    def strangest(self, count: int) -> list[int]:
        """Return the rows farthest from others, farthest first; of equal ones, those that come first."""
        order: list[int] = np.lexsort((np.arange(len(self.distance)), -self.distance))[:count].tolist()
        return order


@dataclass(frozen=True)
class Mislabelled:
    """A row whose neighbours have another label than it has."""

    row: int
    label: str
    suggested: str
    """The label that most of its neighbours have, weighed by how near they are."""
    share: float
    """Of the weight of its neighbours, the part that has the suggested label."""
    own_share: float
    """The part that has its own."""


def outlier_scores(
    features: AnyFeatures, *, k: int = 10, metric: Metric = "cosine", show_progress_bar: bool | None = None
) -> OutlierScores:
    """Score how strange each row is among all others, exactly; time grows with the square of their number.

    Args:
        features: `[N, D]`, or a file of them; rows may stay on disk.
        k: nearest rows that count, the row itself left out; all others where there are fewer.
        metric: see `nearest_rows`.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: k below 1, or fewer than two rows.
        InputError: rows that are no vectors, are zero or not finite.
    """
    opened = open_features(features)
    found = _neighbours(opened, k=k, metric=metric, show_progress_bar=show_progress_bar)
    distances = [(1.0 - scores).mean(axis=1) for _, _, scores in found]
    distance = np.concatenate(distances).astype(np.float32)
    no_farther = np.searchsorted(np.sort(distance), distance, side="right")
    return OutlierScores(distance, (100.0 * no_farther / len(opened)).astype(np.float32))


def label_errors(
    features: AnyFeatures,
    labels: str | Path | Sequence[object],
    *,
    column: str = "label",
    k: int = 10,
    metric: Metric = "cosine",
    temperature: float = 0.07,
    show_progress_bar: bool | None = None,
) -> tuple[Mislabelled, ...]:
    """List rows whose k nearest labelled rows agree on another label, the surest first: candidates for label errors.

    Neighbours vote with weight `exp(cosine / temperature)`, as in the nearest-neighbour probe of DINO (Caron et al.
    2021). A row that has no label is neither asked nor listed.

    Args:
        features: `[N, D]`, or a file of them.
        labels: CSV with a column `path` and `column`; or one label a row, None or "" for none.
        column: of the CSV.
        k: nearest rows that vote.
        metric: see `nearest_rows`.
        temperature: of the votes; a smaller one counts the nearest more.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: k below 1, a temperature that is not above 0, or fewer than two rows with labels.
        InputError: labels that do not fit the rows, or that are all the same.
    """
    if not temperature > 0:
        raise ConfigError(f"temperature={temperature:g} must be above 0; pass for example 0.07")
    is_file = isinstance(labels, str | Path)
    opened = open_features(features, labels=labels if is_file else None)  # type: ignore[arg-type]
    values = opened.column(column) if is_file else list(labels)  # type: ignore[arg-type]
    if len(values) != len(opened):
        raise InputError(f"labels has {len(values)} values and there are {len(opened)} rows; pass one for each")
    known = np.array([value not in (None, "") for value in values])
    names = sorted({str(value) for value, is_known in zip(values, known, strict=True) if is_known})
    if len(names) < 2:
        raise InputError(f"labels must have at least two different values, got {', '.join(names) or 'none'}")
    number_of = {name: number for number, name in enumerate(names)}
    numbers = np.array([number_of[str(v)] if is_known else -1 for v, is_known in zip(values, known, strict=True)])
    found = []
    for rows, near, scores in _neighbours(opened, k=k, metric=metric, among=known, show_progress_bar=show_progress_bar):
        weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
        for row, voters, weight in zip(rows.tolist(), numbers[near], weights, strict=True):
            votes = np.bincount(voters, weight, minlength=len(names)) / weight.sum()
            if (best := int(votes.argmax())) != numbers[row]:
                own = round(float(votes[numbers[row]]), 4)
                found.append(Mislabelled(row, names[numbers[row]], names[best], round(float(votes[best]), 4), own))
    return tuple(sorted(found, key=lambda each: (each.own_share - each.share, each.row)))


def _neighbours(
    features: Features, *, k: int, metric: Metric, among: np.ndarray | None = None, show_progress_bar: bool | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield rows `[Q]`, their k nearest others `[Q, k]` and the cosines `[Q, k]`, for all rows, or those `among`."""
    if k < 1:
        raise ConfigError(f"k={k} must be at least 1; pass for example 10")
    chosen = np.arange(len(features)) if among is None else np.flatnonzero(among)
    if len(chosen) < 2:
        raise ConfigError(f"{len(chosen)} rows have no others to be compared with; pass at least 2")
    k = min(k + 1, len(chosen))
    mean = mean_of(features.rows, metric)
    with progress_bar("neighbours", total=len(chosen), show=show_progress_bar, unit="row") as bar:
        for first in range(0, len(chosen), _QUERY_ROWS):
            rows = chosen[first : first + _QUERY_ROWS]
            queries = np.asarray(features.rows[rows], np.float32)
            near, scores = nearest_rows(
                queries, features.rows, k=k, metric=metric, mean=mean, among=among, query_rows=rows
            )
            others = near != rows[:, None]
            # a row has at most itself among its nearest; where copies of it crowd it out, the last is one too many
            others[others.all(axis=1), -1] = False
            yield rows, near[others].reshape(len(rows), -1), scores[others].reshape(len(rows), -1)
            bar.advance(by=len(rows))
