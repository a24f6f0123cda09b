"""Lay features out in two dimensions, and say how far the map can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..downstream.nearest import as_matrix, nearest_rows, unit
from ..errors import ConfigError, InputError
from .components import principal_components

Method = Literal["tsne", "pca"]

MAX_FITTED_ROWS = 10_000
"""Of more rows a sample is laid out, and the others stand where their nearest do."""
_JUDGED_ROWS, _JUDGED_NEIGHBOURS = 5_000, 12
_PLACED_NEIGHBOURS = 3


@dataclass(frozen=True)
class MapQuality:
    """How well neighbours in a map are neighbours among the features (Venna and Kaski, ICANN 2001)."""

    trustworthiness: float
    """1: who stand side by side in the map are neighbours among the features."""
    continuity: float
    """1: neighbours among the features stand side by side in the map."""
    neighbours: int
    rows: int
    """That were looked at."""


def embedding_map(
    features: np.ndarray,
    *,
    method: Method = "tsne",
    perplexity: float | None = None,
    seed: int = 0,
    points: np.ndarray | None = None,
) -> np.ndarray:
    """Lay rows out in two dimensions, by their directions: equal input gives an equal map, on equal threads.

    Args:
        features: float `[n, D]`; may be memory-mapped.
        method: `tsne`, scikit-learn's, begun from the principal components; or these alone, `pca`.
        perplexity: about how many neighbours count to a row; None: 30, of few rows a third of them.
        seed: of t-SNE, and of the sample where there are more than `MAX_FITTED_ROWS`.
        points: float `[n, 2]`, a map made elsewhere, with UMAP for example; it is returned as it is.

    Returns:
        float32 `[n, 2]`.

    Raises:
        ConfigError: a method or perplexity that is none, or too few rows for it.
        InputError: rows that are no vectors, are zero or not finite; or points that do not fit.
    """
    rows = as_matrix(features)
    if method not in get_args(Method):
        raise ConfigError(f"method={method!r} must be one of {', '.join(get_args(Method))}")
    if points is not None:
        return _given(points, len(rows))
    if len(rows) < 4:
        raise ConfigError(f"{len(rows)} rows make no map; embed at least 4 clips")
    if method == "pca":
        return _principal(unit(np.asarray(rows, np.float32), name="row"))
    chosen = sampled(len(rows), MAX_FITTED_ROWS, seed=seed)
    fitted = unit(np.asarray(rows[chosen], np.float32), name="row")
    placed = _tsne(fitted, _perplexity(perplexity, len(fitted)), seed)
    if len(chosen) == len(rows):
        return placed
    found = np.empty((len(rows), 2), np.float32)
    found[chosen] = placed
    others = np.setdiff1d(np.arange(len(rows)), chosen)
    for part in np.array_split(others, -(-len(others) // 4096)):
        near, _ = nearest_rows(np.asarray(rows[part], np.float32), fitted, k=_PLACED_NEIGHBOURS)
        found[part] = placed[near].mean(axis=1)
    return found


def map_quality(features: np.ndarray, points: np.ndarray, *, seed: int = 0) -> MapQuality | None:
    """Judge a map by the ranks of neighbours, on at most 5,000 rows; None for fewer than 5."""
    from sklearn.manifold import trustworthiness

    chosen = sampled(len(points), _JUDGED_ROWS, seed=seed)
    if len(chosen) < 5:
        return None
    rows, places = unit(np.asarray(features[chosen], np.float32), name="row"), points[chosen]
    count = min(_JUDGED_NEIGHBOURS, (len(chosen) - 1) // 2)
    return MapQuality(
        trustworthiness=float(trustworthiness(rows, places, n_neighbors=count)),
        continuity=float(trustworthiness(places, rows, n_neighbors=count)),
        neighbours=count,
        rows=len(chosen),
    )


def cluster_rows(features: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Return a cluster's number for each row, int64 `[n]`: k-means on directions, clusters ordered by size."""
    from sklearn.cluster import KMeans

    rows = unit(np.asarray(as_matrix(features), np.float32), name="row")
    if not 1 <= count <= len(rows):
        raise ConfigError(f"cluster={count} must be from 1 to the {len(rows)} rows")
    found = KMeans(count, n_init=10, random_state=seed).fit(rows).labels_
    # k-means numbers clusters as it likes: the largest comes first, of equal ones the one that begins first
    names, first, sizes = np.unique(found, return_index=True, return_counts=True)
    rank = {int(name): place for place, name in enumerate(names[np.lexsort((first, -sizes))])}
    return np.array([rank[int(name)] for name in found], np.int64)


def sampled(total: int, count: int, *, seed: int) -> np.ndarray:
    """Return at most so many row numbers of `total`, ascending, the same for the same seed."""
    if total <= count:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def _tsne(rows: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    start = _principal(rows)
    start = start / max(float(start[:, 0].std()), 1e-12) * 1e-4
    tsne = TSNE(perplexity=perplexity, init=start, learning_rate="auto", max_iter=1000, random_state=seed)
    placed: np.ndarray = tsne.fit_transform(rows).astype(np.float32)
    return placed


def _principal(rows: np.ndarray) -> np.ndarray:
    found = principal_components(rows, 2)
    placed: np.ndarray = ((rows - found.mean) @ found.components.T).astype(np.float32)
    # rows of one channel lie on a line
    return np.pad(placed, ((0, 0), (0, 2 - placed.shape[1])))


def _perplexity(perplexity: float | None, count: int) -> float:
    if perplexity is None:
        return min(30.0, (count - 1) / 3)
    if not 1 <= perplexity < count:
        raise ConfigError(f"perplexity={perplexity:g} must be from 1 to below the {count} rows; pass less")
    return perplexity


def _given(points: np.ndarray, count: int) -> np.ndarray:
    if points.shape != (count, 2) or points.dtype.kind not in "fiu" or not np.isfinite(points).all():
        raise InputError(f"points of shape {list(points.shape)} must be {count} finite pairs; pass one for each row")
    return points.astype(np.float32)
