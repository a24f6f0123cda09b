"""Search an output of `vjepa embed` for the clips most like one: exact, and without reading all rows at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from ..config.choices import Device, Metric, QueryAggregation, SearchBackend
from ..config.schema import check_choice
from ..errors import ConfigError, InputError, ResumeError
from .approximate import open_faiss
from .nearest import mean_of, nearest_rows
from .queries import Query, averaged, encode_query, find_model_of
from .stored import Features, open_features

if TYPE_CHECKING:
    from ..inference.vjepa import VJEPA

_Path = str | os.PathLike[str]
_Found = tuple[int, float, int]
"""Row, score, and which vector of the query it is like."""


@dataclass(frozen=True)
class Hit:
    """One row that was found."""

    rank: int
    score: float
    """Cosine, at most 1."""
    row: int
    """In the features."""
    id: str
    path: str
    start_seconds: float | None
    end_seconds: float | None
    is_query: bool
    """Whether it is of the very file that was asked for."""
    query: str | None
    """Which query it is like; None for vectors, and for the mean of several queries."""
    query_start_seconds: float | None
    """Where the window of the query starts that it is like; None for the mean of several windows."""


class SearchIndex:
    """Features of a corpus, ready to be searched; rows stay on disk."""

    def __init__(self, features: Features, *, metric: Metric = "cosine") -> None:
        check_choice("metric", metric, Metric)
        self.features = features
        self.metric: Metric = metric
        self.recall = 1.0
        """Share of the ten nearest rows that a search finds; measured where the search is not exact."""
        self._nearest: Callable[[np.ndarray, int, np.ndarray | None], tuple[np.ndarray, np.ndarray]] = self._exact
        self._verified: WeakSet[VJEPA] = WeakSet()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        metric: Metric = "cosine",
        labels: str | Path | None = None,
        backend: SearchBackend = "exact",
        factory: str | None = None,
        nprobe: int | None = None,
    ) -> SearchIndex:
        """Open an output of `vjepa embed`, or the hub id of one.

        Args:
            path: the file of features, of one vector a clip or window (`pooling="mean"`, no `layers`). Rows of a
                `.npy` are mapped; other formats are copied row by row to a temporary file, which is.
            metric: `cosine`, or `centered` to take the mean of all rows off first.
            labels: CSV with a column `path` and others, by which a search can choose rows.
            backend: `exact`, or `faiss` for an approximate index beside the features, `feats.faiss` (of a hub id, in
                the working directory), which is built where there is none. `recall` says how much it finds.
            factory: which index FAISS builds, such as `IVF4096,PQ64`; None: one that fits the number of rows.
            nprobe: cells that a search of such an index looks into; more are slower and find more.

        Raises:
            InputError: a file is missing or damaged, rows are no single vectors, or no row has labels.
            ConfigError: FAISS is not installed, or an option does not fit.
        """
        index = cls(open_features(path, labels=labels), metric=metric)
        if backend == "faiss":
            features = index.features
            beside = Path(path) if Path(path).exists() else Path(str(features.meta["output"]))
            sha256 = str(features.meta["sha256"])
            approximate = open_faiss(
                beside, features.rows, sha256=sha256, metric=metric, factory=factory, nprobe=nprobe
            )
            index._nearest, index.recall = approximate.nearest, approximate.recall
        elif factory is not None or nprobe is not None:
            raise ConfigError("factory and nprobe are for backend=faiss; pass that, or leave them out")
        return index

    def __len__(self) -> int:
        return len(self.features)

    def load_model(self, model: _Path | None = None, *, device: Device = None) -> VJEPA:
        """Load the model that made the features.

        Args:
            model: where it is now; None: where it was.

        Raises:
            ConfigError: there is no such model.
            ResumeError: it is another one than that which made the features.
        """
        from ..inference.vjepa import VJEPA

        directory = find_model_of(self.features.meta, model=model, name=self.features.name)
        loaded = VJEPA.from_pretrained(directory, weights=self.features.meta["model"]["encoder_weights"], device=device)
        self._verified.add(loaded)
        return loaded

    def encode(self, query: _Path, *, model: VJEPA | None = None) -> Query:
        """Encode a clip, or a part such as `a.mp4#t=3,5`, as those of the corpus were: one vector, or one a window.

        Raises:
            InputError: not a video.
            ResumeError: the model is not the one that made the features.
        """
        return encode_query(
            query, self._model if model is None else self._checked(model), self.features.meta["settings"]
        )

    def search(
        self,
        query: _Path | Sequence[_Path] | np.ndarray,
        *,
        k: int = 10,
        model: VJEPA | None = None,
        aggregation: QueryAggregation = "mean",
        where: Mapping[str, str] | None = None,
        exclude_same_video: bool = False,
        min_gap_seconds: float | None = None,
    ) -> list[Hit]:
        """Find the rows most like a query, best first; of rows that score the same, those that come first.

        Args:
            query: a video, an image or a part of one (`a.mp4#t=3,5`); several; or vectors `[D]` or `[Q, D]` of the same
                model.
            k: hits to return.
            model: None: the one that made the features is loaded.
            aggregation: of several queries, and of the windows of a query in an index of windows: `mean` finds what is
                like all of them, by the mean of their directions; `max` what is most like any, and hits name it.
            where: columns and patterns such as `{"path": "kitchen/*"}`; only rows that fit all are found.
            exclude_same_video: leave out rows of the files that were asked for.
            min_gap_seconds: of hits in one video that start closer together the best stays; None: a window's length.

        Raises:
            InputError: not a video; a column that there is not; or nothing fits `where`.
            ConfigError: an option that is not valid.
            ResumeError: the model is not the one that made the features.
        """
        if k < 1:
            raise ConfigError(f"k={k} must be at least 1; pass for example 10")
        gap = self._gap(min_gap_seconds)
        among = self._among(where or {})
        check_choice("aggregation", aggregation, QueryAggregation)
        queries = self._queries(query, model)
        asked = {os.path.realpath(each.path) for each in queries if each.path}
        if aggregation == "mean" and sum(len(each.vectors) for each in queries) > 1:
            queries = [averaged(queries, mean=self._mean)]
        vectors = np.concatenate([each.vectors for each in queries])
        found = self._found(vectors, k, among=among, gap=gap, excluded=asked if exclude_same_video else set())
        return [self._hit(rank, each, queries, asked) for rank, each in enumerate(found, start=1)]

    def _queries(self, query: _Path | Sequence[_Path] | np.ndarray, model: VJEPA | None) -> list[Query]:
        if isinstance(query, np.ndarray):
            vectors, dim = np.atleast_2d(query), self.features.rows.shape[1]
            if vectors.ndim != 2 or vectors.shape[1] != dim or not len(vectors):
                raise InputError(
                    f"the query has shape {query.shape} and must be [{dim}] or [n, {dim}]; use one model for both"
                )
            return [Query(None, "", vectors, (None,) * len(vectors))]
        names = [query] if isinstance(query, str | os.PathLike) else list(query)
        if not names:
            raise InputError("the query is empty; pass at least one video")
        return [self.encode(name, model=model) for name in names]

    def _found(
        self, vectors: np.ndarray, k: int, *, among: np.ndarray | None, gap: float, excluded: set[str]
    ) -> list[_Found]:
        """Return rows with their scores, best first, without those of excluded files and those too close in time."""
        count = len(self) if among is None else int(among.sum())
        wanted = min(k, count)
        while True:
            rows, scores = self._nearest(vectors, wanted, among)
            kept = self._merged(_best_of(rows, scores), gap, excluded)
            is_exhausted = wanted == count or bool((rows[:, -1] < 0).all())
            if len(kept) >= k or is_exhausted:
                return kept[:k]
            wanted = min(count, 4 * wanted)  # windows of one video often stand side by side

    def _merged(self, found: Sequence[_Found], gap: float, excluded: set[str]) -> list[_Found]:
        """Of rows of one video whose starts lie closer together than `gap`, keep the best; they come best first."""
        if not gap and not excluded:
            return list(found)
        kept = []
        starts: dict[str, list[float]] = {}
        for each in found:
            entry = self.features.entry(each[0])
            start, others = entry["start_seconds"], starts.setdefault(entry["path"], [])
            if excluded and os.path.realpath(entry["path"]) in excluded:
                continue
            if gap > 0 and start is not None:
                if any(abs(start - other) < gap - 1e-9 for other in others):
                    continue
                others.append(start)
            kept.append(each)
        return kept

    def _hit(self, rank: int, found: _Found, queries: Sequence[Query], asked: set[str]) -> Hit:
        row, score, vector = found
        entry = self.features.entry(row)
        name, start = [(each.name, start) for each in queries for start in each.start_seconds][vector]
        return Hit(
            rank=rank,
            score=round(score, 6),
            row=row,
            id=entry["id"],
            path=entry["path"],
            start_seconds=entry["start_seconds"],
            end_seconds=entry["end_seconds"],
            is_query=os.path.realpath(entry["path"]) in asked,
            query=name,
            query_start_seconds=start,
        )

    def _exact(self, vectors: np.ndarray, k: int, among: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        return nearest_rows(vectors, self.features.rows, k=k, metric=self.metric, mean=self._mean, among=among)

    @cached_property
    def _mean(self) -> np.ndarray | None:
        return mean_of(self.features.rows, self.metric)

    @cached_property
    def _model(self) -> VJEPA:
        return self.load_model()

    def _checked(self, model: VJEPA) -> VJEPA:
        """Refuse a model that did not make the features; its files are hashed once."""
        if model not in self._verified:
            made = self.features.meta["model"]
            if model.name is None or model.encoder_weights != made["encoder_weights"]:
                raise ResumeError(
                    f"{self.features.name}: was made by the {made['encoder_weights']} encoder of {made['name']}, and "
                    f"{model!r} is another model; leave model out"
                )
            commit = model.provenance.get("commit")
            if commit is None or commit != made["provenance"].get("commit"):
                find_model_of(self.features.meta, model=model.name, name=self.features.name)
            self._verified.add(model)
        return model

    def _among(self, where: Mapping[str, str]) -> np.ndarray | None:
        if not where:
            return None
        self.features.check_columns(list(where))
        fits = np.array([_fits(entry, where) for entry in self.features.entries()])
        if not fits.any():
            patterns = ", ".join(f"{column}={pattern}" for column, pattern in where.items())
            raise InputError(
                f"{self.features.name}: no row fits {patterns}; patterns are those of a shell, such as 'kitchen/*'"
            )
        return fits

    def _gap(self, min_gap_seconds: float | None) -> float:
        if min_gap_seconds is None:
            return float(self.features.meta.get("settings", {}).get("window_seconds") or 0.0)
        if not min_gap_seconds >= 0:
            raise ConfigError(f"min_gap_seconds={min_gap_seconds:g} must be at least 0; pass 0 to merge nothing")
        return min_gap_seconds


def _fits(entry: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    texts = ("" if entry.get(column) is None else str(entry[column]) for column in where)
    return all(map(fnmatchcase, texts, where.values()))


def _best_of(rows: np.ndarray, scores: np.ndarray) -> list[_Found]:
    """Merge what is nearest to each vector of a query: every row once, with its best score and whose that is."""
    order = np.lexsort((rows.ravel(), -scores.ravel()))
    best: dict[int, _Found] = {}
    for place in order:
        row, score = int(rows.flat[place]), float(scores.flat[place])
        if row >= 0 and row not in best:
            best[row] = (row, score, int(place) // rows.shape[1])
    return list(best.values())
