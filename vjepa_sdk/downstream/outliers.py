"""Find the clips that are like no other: far from their nearest rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config.choices import Metric
from ..errors import ConfigError
from .nearest import as_matrix, nearest_rows

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


def outlier_scores(features: np.ndarray, *, k: int = 10, metric: Metric = "cosine") -> OutlierScores:
    """Score how strange each row is among all others, exactly; time grows with the square of their number.

    Args:
        features: float `[N, D]`; may be memory-mapped.
        k: nearest rows that count, the row itself left out; all others where there are fewer.
        metric: see `nearest_rows`.

    Raises:
        ConfigError: k below 1, or fewer than two rows.
        InputError: rows that are no vectors, are zero or not finite.
    """
    rows = as_matrix(features)
    if k < 1:
        raise ConfigError(f"k={k} must be at least 1; pass for example 10")
    if len(rows) < 2:
        raise ConfigError(f"{len(rows)} rows have no others to be compared with; pass at least 2")
    distances = []
    for first in range(0, len(rows), _QUERY_ROWS):
        queries = np.asarray(rows[first : first + _QUERY_ROWS], np.float32)
        found, scores = nearest_rows(queries, rows, k=min(k + 1, len(rows)), metric=metric, first_query=first)
        others = found != np.arange(first, first + len(queries))[:, None]
        # a row has at most itself among its nearest; where copies of it crowd it out, the last is one too many
        others[others.all(axis=1), -1] = False
        distances.append((1.0 - scores[others].reshape(len(queries), -1)).mean(axis=1))
    distance = np.concatenate(distances).astype(np.float32)
    no_farther = np.searchsorted(np.sort(distance), distance, side="right")
    return OutlierScores(distance, (100.0 * no_farther / len(rows)).astype(np.float32))
