"""Find clips that are nearly the same: pairs, groups, what to keep, and what leaks from one split into another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config.choices import Metric
from ..errors import ConfigError, InputError
from .nearest import as_matrix, blocks, mean_row, unit


@dataclass(frozen=True)
class Pair:
    """Two rows that are nearly the same; `first` comes before `second`."""

    score: float
    first: int
    second: int


@dataclass(frozen=True)
class DuplicateReport:
    """Which rows are nearly the same."""

    pairs: tuple[Pair, ...]
    """Best first."""
    groups: tuple[tuple[int, ...], ...]
    """Rows that hang together by pairs, in their order; the largest group first."""
    keep: tuple[int, ...]
    """Rows that are left when one of each group stays, its first."""
    threshold: float
    metric: Metric


def find_duplicates(
    features: np.ndarray,
    *,
    threshold: float = 0.97,
    metric: Metric = "centered",
    across: Sequence[object] | None = None,
    max_pairs: int = 500_000,
    block_rows: int = 4096,
) -> DuplicateReport:
    """Compare every row with every other; time grows with the square of their number, memory does not.

    Args:
        features: float `[N, D]`; may be memory-mapped.
        threshold: least cosine of a pair.
        metric: of a model's features, plain cosines crowd near 1: a threshold means more on `centered` ones.
        across: one value a row, such as its split; only pairs with two different values count (leaks).
        max_pairs: more are refused.
        block_rows: rows compared at once.

    Raises:
        ConfigError: a threshold that is no cosine, or more than `max_pairs` pairs.
        InputError: rows that are no vectors, are zero or not finite, or are not as many as `across`.
    """
    rows = as_matrix(features)
    if not -1.0 <= threshold <= 1.0:
        raise ConfigError(f"threshold={threshold:g} must be a cosine, from -1 to 1; pass for example 0.97")
    if across is not None and len(across) != len(rows):
        raise InputError(f"across has {len(across)} values and there are {len(rows)} rows; pass one for each")
    kinds = None if across is None else np.unique(np.asarray(list(map(str, across))), return_inverse=True)[1]
    mean = mean_row(rows) if metric == "centered" else None
    pairs: list[Pair] = []
    for start, block in blocks(rows, mean=mean, block_rows=block_rows):
        directions = unit(block, name="row", first=start)
        for other_start, other in blocks(rows[start:], mean=mean, block_rows=block_rows):
            scores = directions @ unit(other, name="row", first=start + other_start).T
            first, second = np.nonzero(scores >= threshold)
            values = scores[first, second]
            first, second = first + start, second + start + other_start
            chosen = first < second
            if kinds is not None:
                chosen &= kinds[first] != kinds[second]
            found = zip(values[chosen], first[chosen], second[chosen], strict=True)
            pairs += [Pair(round(float(score), 6), int(a), int(b)) for score, a, b in found]
            if len(pairs) > max_pairs:
                raise ConfigError(
                    f"more than max_pairs={max_pairs:,} pairs reach threshold={threshold:g}; pass a higher threshold"
                )
    pairs.sort(key=lambda pair: (-pair.score, pair.first, pair.second))
    groups = _groups(pairs)
    dropped = {row for group in groups for row in group[1:]}
    keep = tuple(row for row in range(len(rows)) if row not in dropped)
    return DuplicateReport(tuple(pairs), groups, keep, threshold, metric)


def _groups(pairs: Sequence[Pair]) -> tuple[tuple[int, ...], ...]:
    """Join pairs into groups."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = row = parent[parent[row]]
        return row

    for pair in pairs:
        parent[root(pair.second)] = root(pair.first)
    members: dict[int, list[int]] = {}
    for row in sorted(parent):
        members.setdefault(root(row), []).append(row)
    return tuple(sorted(map(tuple, members.values()), key=lambda group: (-len(group), group)))


def column_of(index: Sequence[Mapping[str, Any]], column: str) -> list[object]:
    """Return a column of an index; InputError names those that there are."""
    known = list(index[0]) if index else []
    if column not in known:
        raise InputError(f"the index has no column {column!r}; it has {', '.join(known)}")
    return [entry[column] for entry in index]
