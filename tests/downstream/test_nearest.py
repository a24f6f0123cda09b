"""Nearest rows are those that a loop over all of them finds."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vjepa_sdk.config.choices import Metric
from vjepa_sdk.downstream.nearest import nearest_rows, semantic_search
from vjepa_sdk.errors import ConfigError, InputError


def brute_force(queries: np.ndarray, rows: np.ndarray, k: int, metric: str) -> tuple[list[list[int]], np.ndarray]:
    queries, rows = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "centered":
        mean = rows.mean(axis=0)
        queries, rows = queries - mean, rows - mean
    scores = np.array([[q @ r / np.linalg.norm(q) / np.linalg.norm(r) for r in rows] for q in queries])
    order = [sorted(range(len(rows)), key=lambda row: (-line[row], row))[:k] for line in scores]
    return order, np.array([line[chosen] for line, chosen in zip(scores, order, strict=True)])


@pytest.mark.parametrize("metric", ["cosine", "centered"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("block_rows", [1, 7, None])
def test_rows_and_scores_are_those_of_brute_force(metric: Metric, dtype: type, block_rows: int | None) -> None:
    rng = np.random.default_rng(0)
    rows, queries = rng.normal(1.0, 1.0, (50, 12)).astype(dtype), rng.normal(1.0, 1.0, (4, 12)).astype(np.float32)
    found, scores = nearest_rows(queries, rows, k=6, metric=metric, block_rows=block_rows)
    expected, cosines = brute_force(queries, rows, 6, metric)
    assert found.tolist() == expected
    assert np.abs(scores - cosines).max() < 1e-6


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 45), st.integers(1, 12))
@settings(deadline=None)
def test_rows_that_score_the_same_keep_their_order(kinds: list[int], k: int, block_rows: int) -> None:
    rows = np.eye(4, dtype=np.float32)[kinds]
    found, _ = nearest_rows(np.array([[4.0, 3.0, 2.0, 1.0]], np.float32), rows, k=k, block_rows=block_rows)
    assert found[0].tolist() == sorted(range(len(kinds)), key=lambda row: (kinds[row], row))[:k]


def test_only_rows_that_are_allowed_are_found() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    among = np.arange(30) % 3 == 0
    found, _ = nearest_rows(rows[:2], rows, k=20, among=among, block_rows=4)
    assert found.shape == (2, 10) and among[found].all()


@pytest.mark.parametrize(("value", "what"), [(0.0, "is zero"), (np.nan, "is not finite"), (np.inf, "is not finite")])
def test_a_row_without_direction_is_named(value: float, what: str) -> None:
    rows = np.ones((10, 3), np.float32)
    rows[7] = value
    with pytest.raises(InputError, match=f"row 7 {what}, so it has no direction; embed its video again"):
        nearest_rows(rows[:1], rows, k=2, block_rows=4)


@pytest.mark.parametrize(
    ("queries", "rows", "k", "message"),
    [
        (np.ones((1, 3)), np.ones((4, 3)), 0, "k=0 must be at least 1"),
        (np.ones((1, 3)), np.ones((4, 2)), 1, "queries have 3 numbers and rows 2; use one model for both"),
        (np.ones((1, 3)), np.ones((4, 2, 3)), 1, r"rows of shape \(4, 2, 3\) .* use pooling='mean'"),
        (np.ones((1, 3), int), np.ones((4, 3)), 1, "must be floats"),
        (np.zeros((1, 3)), np.ones((4, 3)), 1, "query 0 is zero, so it has no direction"),
    ],
)
def test_what_cannot_be_compared_is_refused(queries: np.ndarray, rows: np.ndarray, k: int, message: str) -> None:
    with pytest.raises((InputError, ConfigError), match=message):
        nearest_rows(queries, rows, k=k)


def test_memory_is_that_of_a_block_not_of_all_rows(tmp_path: Path) -> None:
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float16, (40_000, 64))
    rows[:] = np.random.default_rng(0).normal(size=rows.shape)
    on_disk = np.load(tmp_path / "rows.npy", mmap_mode="r")
    tracemalloc.start()
    nearest_rows(np.ones((3, 64), np.float32), on_disk, k=10, block_rows=1000)
    assert tracemalloc.get_traced_memory()[1] < rows.nbytes / 3
    tracemalloc.stop()


def test_the_result_has_the_form_of_sentence_transformers() -> None:
    rows = np.eye(3, dtype=np.float32)
    found = semantic_search(np.array([0.0, 2.0, 0.0], np.float32), rows, top_k=2, query_chunk_size=1)
    assert found == [[{"corpus_id": 1, "score": 1.0}, {"corpus_id": 0, "score": 0.0}]]


@pytest.mark.parametrize("metric", ["cosine", "centered"])
def test_chunks_of_queries_and_rows_change_nothing(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    rows, queries = (rng.normal(1.0, 1.0, (count, 6)).astype(np.float32) for count in (40, 9))
    expected, cosines = brute_force(queries, rows, 5, metric)
    found = semantic_search(queries, rows, top_k=5, metric=metric, query_chunk_size=2, corpus_chunk_size=7)
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == expected
    assert [[hit["score"] for hit in hits] for hits in found] == pytest.approx(cosines, abs=1e-6)


def test_tensors_are_searched_too() -> None:
    rows = torch.eye(3)
    assert semantic_search(rows[1], rows, top_k=1) == [[{"corpus_id": 1, "score": 1.0}]]


@pytest.mark.parametrize("metric", ["cosine", "centered"])
def test_among_no_rows_nothing_is_found(metric: Metric) -> None:
    assert semantic_search(np.ones((2, 3)), np.ones((0, 3)), metric=metric) == [[], []]
    found, scores = nearest_rows(np.eye(3)[:2], np.eye(3), k=2, metric=metric, among=np.zeros(3, bool))
    assert found.shape == scores.shape == (2, 0)


def test_a_metric_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="metric='centred' must be one of 'cosine', 'centered'"):
        semantic_search(np.ones((1, 3)), np.eye(3), metric="centred")  # type: ignore[arg-type]


def test_rows_too_near_for_float32_to_tell_are_in_the_order_of_float64() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=512)
    rows = (base + 1e-4 * rng.normal(size=(300, 512))).astype(np.float32)
    found, _ = nearest_rows(base[None], rows, k=20, block_rows=64)
    assert found.tolist() == brute_force(base[None], rows, 20, "cosine")[0]
