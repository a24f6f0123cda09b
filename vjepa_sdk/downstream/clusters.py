"""Sort clips into clusters: around centres, by density, or by a threshold of likeness."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..config.choices import ClusterMethod, Metric
from ..config.schema import check_choice
from ..errors import ConfigError
from .nearest import blocks, mean_of
from .stored import AnyFeatures, open_features

_STARTS = 10
_FLOAT32_ERROR = 1e-6


@dataclass(frozen=True)
class Cluster:
    """Rows that belong together."""

    number: int
    rows: tuple[int, ...]
    medoid: int
    """The row that is most like the mean direction of the cluster; of a community its centre."""
    likeness: float
    """Mean cosine of its rows to the medoid, the medoid itself included."""


@dataclass(frozen=True)
class Clusters:
    """Which row belongs to which cluster."""

    clusters: tuple[Cluster, ...]
    """The largest first; of equal size, the one whose first row comes first."""
    labels: np.ndarray
    """int64 `[N]`: number of the cluster of each row, -1 for none."""
    method: ClusterMethod
    metric: Metric

    def to_json(self) -> dict[str, Any]:
        """Return the clusters as plain data."""
        return {**asdict(self), "labels": self.labels.tolist()}


def cluster(
    features: AnyFeatures,
    *,
    method: ClusterMethod = "kmeans",
    n_clusters: int = 8,
    threshold: float = 0.75,
    min_size: int = 10,
    metric: Metric = "centered",
    seed: int = 0,
) -> Clusters:
    """Sort rows, scaled to length 1, into clusters; numbers go by size.

    Args:
        features: `[N, D]`, or a file of them; held in memory as float32.
        method: `kmeans`: scikit-learn's, the best of 10 starts; `hdbscan`: scikit-learn's, rows in no dense place
            belong to no cluster; `communities`: as `community_detection` of sentence-transformers, rows at
            least `threshold` like a centre, the largest first, without overlaps.
        n_clusters: of `kmeans`.
        threshold: least cosine to the centre, of `communities`.
        min_size: rows that a cluster of `hdbscan` or `communities` has at least.
        metric: `cosine`, or `centered` to take the mean of all rows off first.
        seed: of the starts of `kmeans`.

    Raises:
        ConfigError: an option that is not valid.
        InputError: rows that are no vectors, are zero or not finite.
    """
    check_choice("method", method, ClusterMethod)
    opened = open_features(features)
    count = len(opened)
    if method == "kmeans" and not 1 <= n_clusters <= count:
        raise ConfigError(f"n_clusters={n_clusters} must be from 1 to the number of rows, {count}")
    if method == "communities" and not -1.0 <= threshold <= 1.0:
        raise ConfigError(f"threshold={threshold:g} must be a cosine, from -1 to 1; pass for example 0.75")
    if method != "kmeans" and not 2 <= min_size <= count:
        raise ConfigError(f"min_size={min_size} must be from 2 to the number of rows, {count}")
    mean = mean_of(opened.rows, metric)
    directions = np.concatenate([block.directions for block in blocks(opened.rows, mean=mean)])
    if method == "communities":
        groups = _communities(directions, threshold=threshold, min_size=min_size)
        centres: list[int | None] = [centre for centre, _ in groups]
        members = [rows for _, rows in groups]
    else:
        found = _kmeans(directions, n_clusters, seed) if method == "kmeans" else _hdbscan(directions, min_size)
        members = [np.flatnonzero(found == number) for number in range(int(found.max()) + 1)]
        members = sorted((rows for rows in members if len(rows)), key=lambda rows: (-len(rows), rows[0]))
        centres = [None] * len(members)
    labels = np.full(count, -1)
    clusters = []
    for number, (rows, centre) in enumerate(zip(members, centres, strict=True)):
        labels[rows] = number
        clusters.append(_described(number, rows, centre, directions))
    return Clusters(tuple(clusters), labels, method, metric)


def _kmeans(directions: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    found: np.ndarray = KMeans(n_clusters, n_init=_STARTS, random_state=seed).fit_predict(directions)
    return found


def _hdbscan(directions: np.ndarray, min_size: int) -> np.ndarray:
    from sklearn.cluster import HDBSCAN

    # of vectors of length 1 the squared distance is 2 - 2 * cosine, in the same order as the cosine
    found: np.ndarray = HDBSCAN(min_cluster_size=min_size, copy=True).fit_predict(directions)
    return found


def _communities(directions: np.ndarray, *, threshold: float, min_size: int) -> list[tuple[int, np.ndarray]]:
    """Return centres and their rows: the row with most others like it, then the next that is still free, and so on."""
    bound = threshold - _FLOAT32_ERROR
    parts = range(0, len(directions), 1024)
    counts = np.concatenate([(directions[first : first + 1024] @ directions.T >= bound).sum(axis=1) for first in parts])
    taken = np.zeros(len(directions), bool)
    groups = []
    for centre in np.lexsort((np.arange(len(directions)), -counts)).tolist():
        if counts[centre] < min_size:
            break
        if not taken[centre]:
            rows = np.flatnonzero((directions @ directions[centre] >= bound) & ~taken)
            if len(rows) >= min_size:
                taken[rows] = True
                groups.append((centre, rows))
    return sorted(groups, key=lambda group: (-len(group[1]), group[1][0]))


def _described(number: int, rows: np.ndarray, centre: int | None, directions: np.ndarray) -> Cluster:
    if centre is None:
        centre = int(rows[(directions[rows] @ directions[rows].mean(axis=0)).argmax()])
    likeness = float((directions[rows] @ directions[centre]).mean())
    return Cluster(number, tuple(rows.tolist()), centre, round(likeness, 6))
