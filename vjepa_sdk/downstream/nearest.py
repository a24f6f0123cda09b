"""Find the nearest rows by cosine, exactly, block by block: the rows may lie on disk and be many millions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..config.choices import Metric
from ..errors import ConfigError, InputError

BLOCK_BYTES = 64 << 20


def nearest_rows(
    queries: np.ndarray,
    rows: np.ndarray,
    *,
    k: int,
    metric: Metric = "cosine",
    among: np.ndarray | None = None,
    block_rows: int | None = None,
    first_query: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k rows nearest to each query, best first; of rows that score the same, those that come first.

    Args:
        queries: `[Q, D]`, of any length but zero.
        rows: `[N, D]`, float16 or float32; may be memory-mapped: one block at a time is looked at.
        k: at least 1; fewer rows are returned where there are fewer.
        among: bool `[N]`, rows that may be returned; None: all.
        block_rows: rows looked at together; None: 64 MiB of them.
        first_query: number of the row that is the first query, where queries are rows themselves; errors name it.

    Returns:
        Row numbers int64 `[Q, k]` and scores float32 `[Q, k]`.

    Raises:
        InputError: shapes that do not fit, or a row that is zero or not finite, by its number.
        ConfigError: k below 1.
    """
    _check(queries, rows, k)
    mean = mean_row(rows, block_rows=block_rows) if metric == "centered" else None
    name = "query" if first_query is None else "row"
    directions = unit(queries.astype(np.float32) - (0.0 if mean is None else mean), name=name, first=first_query or 0)
    count = len(rows) if among is None else int(np.count_nonzero(among))
    k = min(k, count)
    best = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
    for first, block in blocks(rows, mean=mean, block_rows=block_rows):
        allowed = None if among is None else among[first : first + len(block)]
        if allowed is not None and not allowed.any():
            continue
        scores = directions @ unit(block, name="row", first=first).T
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        for number, line in enumerate(scores):
            best[number] = _merge(best[number], line, first, k)
    return np.stack([numbers for numbers, _ in best]), np.stack([scores for _, scores in best])


def blocks(
    rows: np.ndarray, *, mean: np.ndarray | None = None, block_rows: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of the first row, and rows as float32 `[n, D]`, without the mean if one is given."""
    size = block_rows or max(1, BLOCK_BYTES // (4 * rows.shape[1]))
    for first in range(0, len(rows), size):
        block = np.asarray(rows[first : first + size], dtype=np.float32)
        yield first, block if mean is None else block - mean


def mean_row(rows: np.ndarray, *, block_rows: int | None = None) -> np.ndarray:
    """Return the mean of all rows, float32 `[D]`, added up in float64."""
    total = np.zeros(rows.shape[1], np.float64)
    for _, block in blocks(rows, block_rows=block_rows):
        total += block.sum(axis=0, dtype=np.float64)
    return (total / len(rows)).astype(np.float32)


def unit(vectors: np.ndarray, *, name: str, first: int = 0) -> np.ndarray:
    """Scale rows to length 1.

    Args:
        name: what an error calls a row.
        first: number of the first row, for errors.

    Raises:
        InputError: a row is zero or not finite.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(bad):
        what = "is zero" if lengths[bad[0]] == 0 else "is not finite"
        raise InputError(f"{name} {first + bad[0]} {what}, so it has no direction; embed its video again")
    directions: np.ndarray = vectors / lengths[:, None]
    return directions


def _merge(
    best: tuple[np.ndarray, np.ndarray], scores: np.ndarray, first: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Take those scores of a block that belong to the best k so far; the rows before it win ties."""
    numbers, kept = best
    found = np.flatnonzero(scores > (kept[-1] if len(kept) == k else -np.inf))
    if len(found) > k:
        bound = np.partition(scores[found], len(found) - k)[len(found) - k]
        found = found[scores[found] >= bound]
    numbers, kept = np.concatenate([numbers, found + first]), np.concatenate([kept, scores[found]])
    order = np.lexsort((numbers, -kept))[:k]
    return numbers[order], kept[order]


def _check(queries: np.ndarray, rows: np.ndarray, k: int) -> None:
    if k < 1:
        raise ConfigError(f"k={k} must be at least 1; pass for example 10")
    for name, array in (("queries", queries), ("rows", rows)):
        if array.ndim != 2 or array.dtype.kind != "f":
            raise InputError(
                f"{name} of shape {array.shape} and {array.dtype} must be floats [n, D]; use pooling='mean'"
            )
    if queries.shape[1] != rows.shape[1]:
        raise InputError(f"queries have {queries.shape[1]} numbers and rows {rows.shape[1]}; use one model for both")


def semantic_search(
    query_embeddings: np.ndarray,
    corpus_embeddings: np.ndarray,
    *,
    top_k: int = 10,
    query_chunk_size: int = 100,
    corpus_chunk_size: int | None = None,
    metric: Metric = "cosine",
) -> list[list[dict[str, int | float]]]:
    """Find the rows of a corpus nearest to each query; the call and its result are those of sentence-transformers.

    Args:
        query_embeddings: `[Q, D]`, or `[D]` for one.
        corpus_embeddings: `[N, D]`; may be memory-mapped.
        top_k: results for each query.
        query_chunk_size: queries compared at once.
        corpus_chunk_size: rows compared at once; None: 64 MiB of them.

    Returns:
        For each query, best first, `{"corpus_id": row, "score": cosine}`.

    Raises:
        InputError, ConfigError: as for `nearest_rows`.
    """
    queries = np.atleast_2d(query_embeddings)
    found: list[list[dict[str, int | float]]] = []
    for first in range(0, len(queries), query_chunk_size):
        part = queries[first : first + query_chunk_size]
        rows, scores = nearest_rows(part, corpus_embeddings, k=top_k, metric=metric, block_rows=corpus_chunk_size)
        found += [
            [{"corpus_id": int(row), "score": float(score)} for row, score in zip(*pair, strict=True)]
            for pair in zip(rows, scores, strict=True)
        ]
    return found


def as_matrix(features: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Return features as one row a clip `[n, D]`; InputError if they are maps of tokens or differ in shape."""
    rows = np.asarray(features) if not isinstance(features, np.ndarray) else features
    if rows.ndim != 2 or rows.dtype == object:
        raise InputError(
            f"features of shape {rows.shape} must have one row of numbers for each clip; embed with pooling='mean'"
        )
    return rows
