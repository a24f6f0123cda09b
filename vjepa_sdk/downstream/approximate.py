"""Search many millions of rows through an index of FAISS, kept beside the features, whose recall is measured.

FAISS proposes candidates, and their scores are computed from the features themselves: what is found has the score that
the exact search gives it, and what is missed is what the recall says.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.choices import Metric
from ..errors import ConfigError, InputError, OutputError, printable
from ..runtime.files import atomic_path, disk_errors, write_json
from ..runtime.ownership import refuse_link
from .nearest import blocks, cosines, mean_of, nearest_rows, unit

logger = logging.getLogger(__name__)

_FORMAT = 1
_FLAT_ROWS = 50_000
_TRAIN_BYTES, _TRAIN_ROWS_A_CELL = 1 << 30, 64
_SAMPLED, _AT = 100, 10


@dataclass(frozen=True)
class FaissIndex:
    """An index of FAISS over rows of features."""

    rows: np.ndarray
    """float32 or float16 `[N, D]`, for exact scores."""
    mean: np.ndarray | None
    """float64 `[D]`, taken off rows and queries; None: nothing is."""
    faiss_index: Any
    factory: str
    """Which index it is, in the words of `faiss.index_factory`."""
    nprobe: int
    """Cells that a search looks into, for `IVF` indexes."""
    recall: float = math.nan
    """Share of the ten nearest rows that it finds, over a hundred rows of the features."""

    def nearest(self, queries: np.ndarray, k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return row numbers `[Q, k]` and cosines `[Q, k]` as `nearest_rows` does; -1 where fewer are found."""
        faiss = _faiss()
        directions = unit(queries, mean=self.mean, name="query")
        options: dict[str, Any] = {}
        if among is not None:
            bits = np.packbits(among, bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(len(among), faiss.swig_ptr(bits))
        is_ivf = self.factory.startswith("IVF")
        parameters: Any = (
            faiss.SearchParametersIVF(nprobe=self.nprobe, **options) if is_ivf else faiss.SearchParameters(**options)
        )
        wanted = min(len(self.rows), max(10 * k, 100))
        _, proposed = self.faiss_index.search(directions.astype(np.float32), wanted, params=parameters)
        numbers, best = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf)
        for query, found in enumerate(proposed):
            found = np.sort(found[found >= 0])
            scores = cosines(directions[query], self.rows, found, mean=self.mean)
            order = np.lexsort((found, -scores))[:k]
            numbers[query, : len(order)], best[query, : len(order)] = found[order], scores[order]
        return numbers, best.astype(np.float32)


def open_faiss(
    path: Path, rows: np.ndarray, *, sha256: str, metric: Metric, factory: str | None = None, nprobe: int | None = None
) -> FaissIndex:
    """Open the index beside a file of features, `feats.faiss`, or build it there.

    Args:
        path: of the features.
        rows: `[N, D]`, theirs.
        sha256: of the features; an index of others is built anew.
        factory: `Flat`, or `IVF4096,PQ64` and the like; None: `Flat` below 50,000 rows, else about `4 * sqrt(N)` cells
            and a byte for eight numbers.
        nprobe: cells to look into; None: a sixteenth of them, at least 8.

    Raises:
        ConfigError: FAISS is not installed, or such an index cannot be built.
        InputError: the index is damaged.
        OutputError: there is a file of its name that was not written here.
        WriteError: the disk is full.
    """
    faiss = _faiss()
    count, dim = rows.shape
    factory = factory or _factory(count, dim)
    if factory != "Flat" and not factory.startswith("IVF"):
        raise ConfigError(f"factory={factory} must be Flat or begin with IVF, as IVF4096,PQ64")
    if nprobe is not None and nprobe < 1:
        raise ConfigError(f"nprobe={nprobe} must be at least 1; pass for example 16")
    place, about = path.with_suffix(".faiss"), path.with_suffix(".faiss.json")
    mean = mean_of(rows, metric)
    for path in (place, about):
        refuse_link(path)
    if place.exists() and not about.exists():
        raise OutputError(f"{printable(place)}: exists, and {about.name}, which says of what, does not; move it away")
    made = {"format": _FORMAT, "sha256": sha256, "metric": metric, "factory": factory}
    known = _read(about)
    if about.exists() and not known.keys() >= made.keys():
        raise OutputError(f"{printable(about)}: does not describe an index that was built here; move it away")
    if known.items() >= made.items() and place.exists():
        built = _loaded(faiss, place, count)
    else:
        logger.warning("%s: building an index %s of %d rows", printable(place), factory, count)
        built, known = _build(faiss, rows, factory=factory, mean=mean), {}
        with disk_errors(place):
            about.unlink(missing_ok=True)  # it must never stand beside another index than it describes
            place.unlink(missing_ok=True)
            with atomic_path(place) as temporary:
                faiss.write_index(built, os.fspath(temporary))
            write_json(about, made)
    cells = int(getattr(built, "nlist", 1))
    index = FaissIndex(rows, mean, built, factory, min(cells, nprobe or max(8, cells // 16)))
    recalls = dict(known.get("recall", {}))
    if str(index.nprobe) not in recalls:
        recalls[str(index.nprobe)] = _recall(index, metric)
        with disk_errors(about):
            write_json(about, {**made, "faiss": faiss.__version__, "recall": recalls})
    return FaissIndex(rows, mean, built, factory, index.nprobe, recalls[str(index.nprobe)])


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("backend=faiss needs FAISS; install it with `pip install 'vjepa-sdk[faiss]'`") from error
    return faiss


def _factory(count: int, dim: int) -> str:
    if count < _FLAT_ROWS:
        return "Flat"
    cells = 2 ** round(math.log2(4 * math.sqrt(count)))
    # 39 rows a cell are the least that FAISS trains on without complaint
    cells = min(cells, _TRAIN_BYTES // (4 * dim) // 39)
    pieces = next(pieces for pieces in range(max(1, dim // 8), 0, -1) if dim % pieces == 0)
    return f"IVF{cells},PQ{pieces}"


def _build(faiss: Any, rows: np.ndarray, *, factory: str, mean: np.ndarray | None) -> Any:
    count, dim = rows.shape
    try:
        built = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        if not built.is_trained:
            most = min(_TRAIN_BYTES // (4 * dim), _TRAIN_ROWS_A_CELL * max(256, int(getattr(built, "nlist", 1))))
            chosen = np.sort(np.random.default_rng(0).permutation(count)[:most])
            built.train(unit(rows[chosen], mean=mean, name="row").astype(np.float32))
        for block in blocks(rows, mean=mean):
            built.add(block.directions)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigError(f"factory={factory} does not fit {count} rows of {dim} numbers ({reason})") from error
    return built


def _loaded(faiss: Any, place: Path, count: int) -> Any:
    try:
        built = faiss.read_index(os.fspath(place))
    except RuntimeError as error:
        raise InputError(f"{printable(place)}: is damaged; delete it, and it is built again") from error
    if built.ntotal != count:
        raise InputError(f"{printable(place)}: has {built.ntotal} rows instead of {count}; delete it")
    return built


def _recall(index: FaissIndex, metric: Metric) -> float:
    """Return the share of the ten nearest other rows that are found, over rows chosen by a fixed seed."""
    count = len(index.rows)
    chosen = np.sort(np.random.default_rng(1).permutation(count)[:_SAMPLED])
    queries = np.asarray(index.rows[chosen], np.float32)
    k = min(count, _AT + 1)
    exact, _ = nearest_rows(queries, index.rows, k=k, metric=metric)
    found, _ = index.nearest(queries, k)
    pairs = zip(chosen, exact, found, strict=True)
    shares = [len((set(a) & set(b)) - {row}) / max(1, len(set(a) - {row})) for row, a, b in pairs]
    return round(float(np.mean(shares)), 4)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        known = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{printable(path)}: is damaged ({error}); delete it") from error
    return known if isinstance(known, dict) else {}
