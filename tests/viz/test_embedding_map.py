"""A map keeps neighbours together, says how well, and is the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from vjepa_sdk.errors import ConfigError, InputError
from vjepa_sdk.viz import embedding_map as module
from vjepa_sdk.viz.embedding_map import cluster_rows, embedding_map, map_quality, sampled


def groups(count: int = 30, width: int = 16) -> np.ndarray:
    """Return rows around three directions."""
    rng = np.random.default_rng(0)
    middles = 4 * np.eye(3, width)
    return (np.repeat(middles, count, axis=0) + rng.normal(0, 0.4, (3 * count, width))).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_groups_stay_together(method: str) -> None:
    placed = embedding_map(groups(), method=method)  # type: ignore[arg-type]
    middles = placed.reshape(3, 30, 2).mean(axis=1)
    nearest = np.linalg.norm(placed[:, None] - middles, axis=2).argmin(axis=1)
    assert (nearest == np.repeat(range(3), 30)).all() and placed.dtype == np.float32


def test_equal_input_gives_an_equal_map_and_another_seed_may_not() -> None:
    assert np.array_equal(embedding_map(groups()), embedding_map(groups()))


def test_principal_components_are_those_of_numpys_svd() -> None:
    rows = unit(groups())
    left, singular, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    expected = left[:, :2] * singular[:2]
    placed = embedding_map(groups(), method="pca")
    assert np.abs(placed) == pytest.approx(np.abs(expected), abs=1e-4)


def test_of_many_rows_others_stand_where_their_nearest_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FITTED_ROWS", 40)
    rows = groups()
    placed, fitted = embedding_map(rows, seed=3), sampled(90, 40, seed=3)
    for row in sorted(set(range(90)) - set(fitted.tolist())):
        near = fitted[np.argsort(-(unit(rows)[fitted] @ unit(rows)[row]), kind="stable")[:3]]
        assert placed[row] == pytest.approx(placed[near].mean(axis=0), abs=1e-4)


def _trust(rows: np.ndarray, points: np.ndarray, k: int) -> float:
    """Compute trustworthiness by its formula: 1 - 2 / (nk(2n - 3k - 1)) x sum of (rank - k) over false neighbours."""
    n, total = len(rows), 0
    for i in range(n):
        others = [j for j in range(n) if j != i]
        by_row = sorted(others, key=lambda j: np.linalg.norm(rows[i] - rows[j]))
        by_point = sorted(others, key=lambda j: np.linalg.norm(points[i] - points[j]))
        total += sum(max(0, by_row.index(j) + 1 - k) for j in by_point[:k])
    return 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * total


def test_quality_is_that_of_the_formula_with_the_spaces_exchanged() -> None:
    rows = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    points = rows[:, :2]
    found = map_quality(rows, points)
    assert found is not None and (found.neighbours, found.rows) == (12, 40)
    assert found.trustworthiness == pytest.approx(_trust(unit(rows), points, 12), abs=1e-6)
    assert found.continuity == pytest.approx(_trust(points, unit(rows), 12), abs=1e-6)


def test_a_perfect_map_is_trusted_and_few_rows_are_not_judged() -> None:
    angles = np.linspace(0, 3, 30)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = map_quality(circle, circle)
    assert found is not None and found.trustworthiness == found.continuity == 1.0
    assert map_quality(circle[:4], circle[:4]) is None


def test_clusters_are_as_tight_as_scikit_learns_and_ordered_by_size() -> None:
    rows = groups()[5:]  # the first group is smaller
    found = cluster_rows(rows, 3, seed=0)
    assert np.bincount(found).tolist() == [30, 30, 25]
    inertia = sum(((unit(rows)[found == i] - unit(rows)[found == i].mean(axis=0)) ** 2).sum() for i in range(3))
    assert inertia == pytest.approx(KMeans(3, n_init=10, random_state=0).fit(unit(rows)).inertia_, abs=1e-4)


def test_points_from_elsewhere_are_taken_as_they_are() -> None:
    points = np.arange(180, dtype=np.int64).reshape(90, 2)
    assert np.array_equal(embedding_map(groups(), points=points), points.astype(np.float32))
    with pytest.raises(InputError, match=r"points of shape \[3, 2\] must be 90 finite pairs"):
        embedding_map(groups(), points=points[:3])


def test_what_makes_no_map_is_refused() -> None:
    with pytest.raises(ConfigError, match="method='umap' must be one of tsne, pca"):
        embedding_map(groups(), method="umap")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="perplexity=90 must be from 1 to below the 90 rows; pass less"):
        embedding_map(groups(), perplexity=90)
    with pytest.raises(ConfigError, match="3 rows make no map; embed at least 4 clips"):
        embedding_map(groups()[:3])
    with pytest.raises(ConfigError, match="cluster=91 must be from 1 to the 90 rows"):
        cluster_rows(groups(), 91)
    with pytest.raises(InputError, match="row 2 is zero"):
        embedding_map(groups() * (np.arange(90) != 2)[:, None])
