"""Find the nearest rows by cosine, exactly, block by block: the rows may lie on disk and be many millions.

Blocks are compared in float32, which only decides who is a candidate: how far it can be off is bounded, and what comes
that near to the best is computed again in float64. Rows and their order are thus those of a loop in float64, and rows
that are equal score the same wherever they stand.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..config.choices import Metric
from ..config.schema import check_choice
from ..errors import ConfigError, InputError

BLOCK_BYTES = 64 << 20
_EXACT_ROWS = 4096
_UNIT_ROUNDOFF = 2.0**-24


def nearest_rows(
    queries: np.ndarray,
    rows: np.ndarray,
    *,
    k: int,
    metric: Metric = "cosine",
    mean: np.ndarray | None = None,
    among: np.ndarray | None = None,
    block_rows: int | None = None,
    query_rows: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k rows nearest to each query, best first; of rows that score the same, those that come first.

    Args:
        queries: `[Q, D]`, of any length but zero.
        rows: `[N, D]`, float16 or float32; may be memory-mapped: one block at a time is in memory.
        k: at least 1; fewer rows are returned where there are fewer.
        mean: of all rows, float64 `[D]`, for `centered`; None: it is computed, in a pass of its own.
        among: bool `[N]`, rows that may be returned; None: all.
        block_rows: rows looked at together; None: 64 MiB of them.
        query_rows: int64 `[Q]`, which rows the queries are, where they are rows themselves; for errors.

    Returns:
        Row numbers int64 `[Q, k]` and scores float32 `[Q, k]`.

    Raises:
        InputError: shapes that do not fit, or a row that is zero or not finite, by its number.
        ConfigError: k below 1.
    """
    _check(queries, rows, k)
    if mean is None:
        mean = mean_of(rows, metric, block_rows=block_rows)
    directions = unit(queries, mean=mean, name="query" if query_rows is None else "row", numbers=query_rows)
    singles, slack = directions.astype(np.float32), slack_of(rows)
    k = min(k, len(rows) if among is None else int(np.count_nonzero(among)))
    if not k:
        return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    numbers, best = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf)
    for block in blocks(rows, mean=mean, among=among, block_rows=block_rows):
        scores = singles @ block.values.T
        scores /= block.lengths
        floors = best[:, -1] - slack
        for query in np.flatnonzero(scores.max(axis=1) > floors):
            line = scores[query]
            found = np.flatnonzero(line > floors[query])
            if len(found) > k:
                bound = np.partition(line[found], -k)[-k] - 2 * slack
                found = found[line[found] >= bound]
            new = block.numbers[found]
            exact = cosines(directions[query], rows, new, mean=mean)
            new, exact = np.concatenate([numbers[query], new]), np.concatenate([best[query], exact])
            order = np.lexsort((new, -exact))[:k]
            numbers[query], best[query] = new[order], exact[order]
    return numbers, best.astype(np.float32)


@dataclass(frozen=True)
class Block:
    """Rows that are compared together."""

    numbers: np.ndarray
    """int64 `[n]`: which rows."""
    values: np.ndarray
    """float32 `[n, D]`, without the mean if there is one; overwritten by the next block."""
    lengths: np.ndarray
    """float32 `[n]`, none of them zero."""

    @property
    def directions(self) -> np.ndarray:
        """Rows scaled to length 1, a copy."""
        directions: np.ndarray = self.values / self.lengths[:, None]
        return directions


def blocks(
    rows: np.ndarray,
    *,
    mean: np.ndarray | None = None,
    among: np.ndarray | None = None,
    first: int = 0,
    block_rows: int | None = None,
) -> Iterator[Block]:
    """Yield rows in blocks, and let go of the memory of those that are mapped from disk.

    Args:
        mean: float64 `[D]`, to be taken off.
        among: bool `[N]`, rows to yield; None: all.
        first: row to begin with.

    Raises:
        InputError: a row is zero or not finite, by its number.
    """
    size = block_rows or max(1, BLOCK_BYTES // (4 * rows.shape[1]))
    buffer = np.empty((min(size, len(rows)), rows.shape[1]), np.float32)
    for start in range(first, len(rows), size):
        numbers = np.arange(start, min(start + size, len(rows)))
        part = rows[start : start + size]
        if among is not None and not among[numbers].all():
            chosen = among[numbers]
            numbers, part = numbers[chosen], part[chosen]
        if not len(numbers):
            continue
        values = buffer[: len(part)]
        if mean is None:
            np.copyto(values, part, casting="same_kind")
        else:
            # in float64, since mean and row are nearly the same
            np.subtract(part, mean, out=values, dtype=np.float64, casting="same_kind")
        yield Block(numbers, values, _lengths(values, name="row", numbers=numbers))
        release(rows)


def mean_of(rows: np.ndarray, metric: Metric, *, block_rows: int | None = None) -> np.ndarray | None:
    """Return what a metric takes off rows first: of `centered` the mean of all, float64 `[D]`; of `cosine` None.

    Raises:
        ConfigError: a metric that there is not.
    """
    check_choice("metric", metric, Metric)
    if metric == "cosine" or not len(rows):
        return None
    total = np.zeros(rows.shape[1])
    for block in blocks(rows, block_rows=block_rows):
        total += block.values.sum(axis=0, dtype=np.float64)
    mean: np.ndarray = total / len(rows)
    return mean


def unit(
    vectors: np.ndarray, *, mean: np.ndarray | None = None, name: str, numbers: np.ndarray | None = None
) -> np.ndarray:
    """Scale vectors `[n, D]` to length 1, in float64.

    Args:
        mean: to be taken off first.
        name: what an error calls a vector.
        numbers: what an error numbers them by; None: from 0.

    Raises:
        InputError: a vector is zero or not finite.
    """
    exact = vectors.astype(np.float64) - (0.0 if mean is None else mean)
    lengths = _lengths(exact, name=name, numbers=np.arange(len(exact)) if numbers is None else numbers)
    directions: np.ndarray = exact / lengths[:, None]
    return directions


def cosines(
    direction: np.ndarray, rows: np.ndarray, numbers: np.ndarray, *, mean: np.ndarray | None = None
) -> np.ndarray:
    """Return the cosines of chosen rows with a direction, or with a direction each, in float64 `[n]`.

    Equal rows get equal cosines, since each is summed up by itself and in the same order.
    """
    parts = [np.empty(0)]
    for first in range(0, len(numbers), _EXACT_ROWS):
        chosen = numbers[first : first + _EXACT_ROWS]
        values = rows[chosen].astype(np.float64) - (0.0 if mean is None else mean)
        other = direction if direction.ndim == 1 else direction[first : first + _EXACT_ROWS]
        parts.append((values * other).sum(axis=1) / np.sqrt((values * values).sum(axis=1)))
    return np.concatenate(parts)


def slack_of(rows: np.ndarray) -> float:
    """Return how far a cosine computed in float32 may be off: a sum of D products, and the length, by D roundings each.

    Source: N. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    return float((2 * rows.shape[1] + 16) * _UNIT_ROUNDOFF)


def _lengths(values: np.ndarray, *, name: str, numbers: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.sqrt(np.einsum("ij,ij->i", values, values))
    # where squares leave the range of float32, rows are scaled, which does not change their direction
    for place in np.flatnonzero(~((lengths > 1e-15) & (lengths < 1e15))):
        largest = np.abs(values[place]).max()
        if not 0 < largest < np.inf:
            what = "is zero" if largest == 0 else "is not finite"
            raise InputError(f"{name} {numbers[place]} {what}, so it has no direction; embed its video again")
        values[place] /= largest
        lengths[place] = np.sqrt(values[place] @ values[place])
    return lengths


def release(mapped: object) -> None:
    """Unmap what was looked at: pages that stay mapped count as memory of this process, until all rows do."""
    # only of what is a view of a file: a copy that was changed would be lost
    if isinstance(mapped, np.memmap) and mapped.mode == "r":
        while isinstance(mapped, np.ndarray):
            mapped = mapped.base
    if isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


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
    query_embeddings: ArrayLike,
    corpus_embeddings: ArrayLike,
    *,
    top_k: int = 10,
    query_chunk_size: int = 100,
    corpus_chunk_size: int | None = None,
    metric: Metric = "cosine",
) -> list[list[dict[str, int | float]]]:
    """Find the rows of a corpus nearest to each query; the call and its result are those of sentence-transformers.

    Args:
        query_embeddings: `[Q, D]`, or `[D]` for one; arrays, or tensors in the memory of the CPU.
        corpus_embeddings: `[N, D]`; may be memory-mapped.
        top_k: results for each query.
        query_chunk_size: queries compared at once.
        corpus_chunk_size: rows compared at once; None: 64 MiB of them.
        metric: `cosine`, or `centered`, after the mean of the corpus is taken off.

    Returns:
        For each query, best first, `{"corpus_id": row, "score": cosine}`.

    Raises:
        InputError: shapes that do not fit, or rows that are not finite.
        ConfigError: a `top_k` or a metric that there is not.

    Examples:
        >>> import numpy as np
        >>> from vjepa_sdk import semantic_search
        >>> semantic_search(np.float32([3, 0]), np.float32([[0, 1], [2, 0]]), top_k=1)
        [[{'corpus_id': 1, 'score': 1.0}]]
    """
    queries, corpus = np.atleast_2d(np.asarray(query_embeddings)), np.asanyarray(corpus_embeddings)
    _check(queries, corpus, top_k)
    mean = mean_of(corpus, metric)
    found: list[list[dict[str, int | float]]] = []
    for first in range(0, len(queries), query_chunk_size):
        part = queries[first : first + query_chunk_size]
        rows, scores = nearest_rows(part, corpus, k=top_k, metric=metric, mean=mean, block_rows=corpus_chunk_size)
        found += [
            [{"corpus_id": int(row), "score": float(score)} for row, score in zip(*pair, strict=True)]
            for pair in zip(rows, scores, strict=True)
        ]
    return found


def as_matrix(features: np.ndarray) -> np.ndarray:
    """Return features as one row a clip `[n, D]`; InputError if they are maps of tokens or differ in shape."""
    if features.ndim != 2 or features.dtype.kind != "f":
        raise InputError(
            f"features of shape {features.shape} and {features.dtype} must have one row of numbers for each clip; "
            "embed with pooling='mean' and without layers"
        )
    return features
