"""Find clips that are nearly the same: pairs, groups, what to keep, and what leaks from one split into another."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.choices import Metric
from ..errors import ConfigError, InputError, counted, printable
from ..runtime.files import sha256_of
from ..runtime.progress import ProgressBar, progress_bar
from .nearest import blocks, cosines, mean_of, slack_of, unit
from .stored import AnyFeatures, Features, open_features

logger = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.95
"""Of centred cosines, measured: docs/search.md."""


@dataclass(frozen=True)
class Pair:
    """Two rows that are nearly the same; `first` comes before `second`."""

    score: float
    first: int
    second: int
    same_bytes: bool
    """Whether their files are equal, byte for byte."""


@dataclass(frozen=True, eq=False)
class DuplicateReport:
    """Which rows are nearly the same."""

    pairs: tuple[Pair, ...]
    """Files that are equal first, then by score."""
    groups: tuple[tuple[int, ...], ...]
    """Rows that hang together by pairs, in their order; the largest group first. Its ends may be less alike than the
    threshold."""
    keep: tuple[int, ...]
    """Rows to keep: one of each group, and all that are in none."""
    nearest: np.ndarray
    """float32 `[N]`: the best score of each row with another that counts, -1 where there is none."""
    rows: int
    """How many were compared."""
    threshold: float
    metric: Metric

    @property
    def summary(self) -> str:
        """How much is there twice, in one sentence."""
        return (
            f"{counted(len(self.pairs), 'pair')} in {counted(len(self.groups), 'group')}; keeping one of each leaves "
            f"{len(self.keep):,} of {counted(self.rows, 'row')}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data, without `nearest`."""
        return {name: value for name, value in asdict(self).items() if name != "nearest"}


def find_duplicates(
    features: AnyFeatures,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    metric: Metric = "centered",
    labels: str | Path | None = None,
    across: str | Sequence[object] | None = None,
    prefer: str | Sequence[float] | None = None,
    max_pairs: int = 500_000,
    block_rows: int = 4096,
    show_progress_bar: bool | None = None,
) -> DuplicateReport:
    """Compare every row with every other; time grows with the square of their number, memory does not.

    Rows of one file, such as the windows of a video, are not compared with each other, unless `across` tells them
    apart. Files that are equal byte for byte are pairs whatever their score.

    Args:
        features: `[N, D]`, or a file of them.
        threshold: least cosine of a pair.
        metric: of a model's features, plain cosines crowd near 1: a threshold means more on `centered` ones.
        labels: CSV with a column `path` and others, for `across` and `prefer`.
        across: a column such as `split`, or one value a row: only pairs with two different values count (leaks); rows
            without a value have none.
        prefer: which row of a group to keep: the one with the larger number in a column such as `size`, or with
            the value of `COLUMN=VALUE`, such as `split=test`; or one number a row. None, or equal: the first.
        max_pairs: more are refused.
        block_rows: rows compared at once.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: a threshold that is no cosine, a metric that there is not, or more than `max_pairs` pairs.
        InputError: rows that are no vectors, are zero or not finite, or a column that there is not.
    """
    if not -1.0 <= threshold <= 1.0:
        raise ConfigError(f"threshold={threshold:g} must be a cosine, from -1 to 1; pass for example 0.97")
    opened = open_features(features, labels=labels)
    mean = mean_of(opened.rows, metric)
    preferred = _preference(opened, prefer)
    compared = _Compared.of(opened, across)
    nearest = np.full(len(opened), -1.0, np.float32)
    found: dict[tuple[int, int], Pair] = {}
    with progress_bar("duplicates", total=len(opened), show=show_progress_bar, unit="row") as bar:
        near = _near_pairs(opened.rows, threshold, mean, compared, block_rows, nearest, bar)
        for pair in itertools.chain(_equal_pairs(opened, compared, mean), near):
            found.setdefault((pair.first, pair.second), pair)
            if len(found) > max_pairs:
                raise ConfigError(
                    f"more than max_pairs={max_pairs:,} pairs reach threshold={threshold:g}; pass a higher threshold"
                )
    pairs = tuple(sorted(found.values(), key=lambda p: (not p.same_bytes, -p.score, p.first, p.second)))
    groups = _groups(pairs)
    keep = _keep(len(opened), groups, preferred)
    return DuplicateReport(pairs, groups, keep, nearest, len(opened), threshold, metric)


@dataclass(frozen=True)
class _Compared:
    """Which rows are compared with each other."""

    differ: np.ndarray | None
    """int64 `[N]`: rows with different numbers are; -1: with no other. None: all are."""

    @classmethod
    def of(cls, features: Features, across: str | Sequence[object] | None) -> _Compared:
        """Compare rows with different values, or else of different files."""
        if across is not None:
            return cls(_numbered(_column(features, "across", across)))
        return cls(_numbered([entry["path"] for entry in features.index]) if len(features.index) else None)

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return whether rows are compared, and are in order; both arrays broadcast."""
        compared: np.ndarray = first < second
        if self.differ is not None:
            a, b = self.differ[first], self.differ[second]
            compared = compared & (a != b) & (a >= 0) & (b >= 0)
        return compared


def _near_pairs(
    rows: np.ndarray,
    threshold: float,
    mean: np.ndarray | None,
    compared: _Compared,
    block_rows: int,
    nearest: np.ndarray,
    bar: ProgressBar,
) -> Iterator[Pair]:
    """Yield pairs, and note in `nearest` the best score of each row."""
    bound = threshold - slack_of(rows)
    for block in blocks(rows, mean=mean, block_rows=block_rows):
        directions = block.directions
        for other in blocks(rows, mean=mean, block_rows=block_rows, first=int(block.numbers[0])):
            scores = directions @ other.values.T
            scores /= other.lengths
            scores[~compared(block.numbers[:, None], other.numbers)] = -np.inf
            for numbers, best in ((block.numbers, scores.max(axis=1)), (other.numbers, scores.max(axis=0))):
                nearest[numbers] = np.maximum(nearest[numbers], np.minimum(best, 1.0))
            near = np.nonzero(scores >= bound)
            yield from _pairs(rows, block.numbers[near[0]], other.numbers[near[1]], mean, threshold)
        bar.advance(by=len(block.numbers))


def _pairs(
    rows: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    mean: np.ndarray | None,
    threshold: float,
    *,
    same_bytes: bool = False,
) -> Iterator[Pair]:
    for start in range(0, len(first), 4096):
        part = slice(start, start + 4096)
        scores = cosines(unit(rows[first[part]], mean=mean, name="row"), rows, second[part], mean=mean)
        for score, a, b in zip(scores.tolist(), first[part].tolist(), second[part].tolist(), strict=True):
            if score >= threshold:
                yield Pair(round(score, 6), a, b, same_bytes)


def _equal_pairs(features: Features, compared: _Compared, mean: np.ndarray | None) -> Iterator[Pair]:
    """Yield pairs of rows of equal files that are of the same seconds."""
    for rows in equal_files(features.index).values():
        alike: dict[tuple[object, ...], list[int]] = {}
        for row in rows:
            entry = features.index[row]
            alike.setdefault((entry["start_seconds"], entry["end_seconds"]), []).append(row)
        for members in alike.values():
            pairs = np.array(list(itertools.combinations(members, 2)), np.int64).reshape(-1, 2)
            chosen = pairs[compared(pairs[:, 0], pairs[:, 1])]
            yield from _pairs(features.rows, chosen[:, 0], chosen[:, 1], mean, -np.inf, same_bytes=True)


def equal_files(index: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return the rows of files that are there more than once under different names, by the sha256 of their bytes.

    Only files of equal size are read. One that is gone has changed nothing in the features, and is left out.
    """
    by_size: dict[int, dict[str, list[int]]] = {}
    for row, entry in enumerate(index):
        by_size.setdefault(entry.get("size") or 0, {}).setdefault(entry["path"], []).append(row)
    found: dict[str, list[list[int]]] = {}
    for size, paths in by_size.items():
        if size and len(paths) > 1:
            for path, rows in paths.items():
                try:
                    if os.path.isfile(path) and os.path.getsize(path) == size:
                        found.setdefault(sha256_of(path), []).append(rows)
                except OSError as error:
                    logger.warning("%s: is not compared byte for byte (%s)", printable(path), error.strerror)
    return {sha256: sorted(itertools.chain.from_iterable(of)) for sha256, of in found.items() if len(of) > 1}


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


def _keep(count: int, groups: Iterable[Sequence[int]], preferred: np.ndarray) -> tuple[int, ...]:
    """Keep of each group the row that is preferred, else its first."""
    dropped = {row for group in groups for row in group}
    dropped -= {max(group, key=lambda row: (preferred[row], -row)) for group in groups}
    return tuple(row for row in range(count) if row not in dropped)


def _column(features: Features, name: str, given: str | Sequence[object]) -> Sequence[object]:
    values = features.column(given) if isinstance(given, str) else given
    if len(values) != len(features):
        raise InputError(f"{name} has {len(values)} values and there are {len(features)} rows; pass one for each")
    return values


def _numbered(values: Sequence[object]) -> np.ndarray:
    """Return a number for each distinct value, -1 for none."""
    numbers: dict[object, int] = {}
    return np.array([-1 if value in (None, "") else numbers.setdefault(value, len(numbers)) for value in values])


def _preference(features: Features, prefer: str | Sequence[float] | None) -> np.ndarray:
    """Return a number for each row, the larger the rather it is kept."""
    if prefer is None:
        return np.zeros(len(features))
    if isinstance(prefer, str) and "=" in prefer:
        column, _, wanted = prefer.partition("=")
        values = features.column(column)
        if wanted not in map(str, values):
            raise InputError(f"prefer={printable(prefer)}: no row has this value; correct it")
        return np.array([float(str(value) == wanted) for value in values])
    given = _column(features, "prefer", prefer)
    try:
        return np.array([-np.inf if value in (None, "") else float(str(value)) for value in given])
    except ValueError as error:
        raise InputError(
            f"prefer={printable(prefer)}: its values must be numbers ({error}); pass COLUMN=VALUE for others"
        ) from error
