"""Search an output of `vjepa embed` for the clips most like one: exact, and without reading all rows at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from ..config.choices import Metric
from ..errors import ConfigError, InputError, ResumeError
from ..features.embeddings import Embeddings
from ..hub.client import HubOptions
from ..hub.locate import load_embeddings, locate_model
from ..inference.embed.model import model_sha256
from ..inference.vjepa import VJEPA
from .nearest import as_matrix, nearest_rows, unit

_FRAGMENT = re.compile(r"(?P<path>.+)#t=(?:npt:)?(?P<start>\d+(?:\.\d+)?)?(?:,(?P<end>\d+(?:\.\d+)?))?")


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


@dataclass(frozen=True)
class SearchIndex:
    """Features of a corpus, ready to be searched; those of a `.npy` stay on disk."""

    path: Path
    embeddings: Embeddings
    metric: Metric = "cosine"

    @classmethod
    def open(cls, path: str | Path, *, metric: Metric = "cosine") -> SearchIndex:
        """Open an output of `vjepa embed`.

        Args:
            path: the file of features, of one vector a clip or window (`pooling="mean"`, no `layers`).
            metric: `cosine`, or `centered` to take the mean of all rows off first.

        Raises:
            InputError: a file is missing or damaged, or rows are no single vectors.
        """
        found = load_embeddings(path, memory_map=True)
        as_matrix(found.features)
        return cls(Path(path), found, metric)

    def __len__(self) -> int:
        return len(self.embeddings.index)

    def load_model(self, *, device: str | None = None) -> VJEPA:
        """Load the model that made the features.

        Raises:
            ResumeError: the model of that name is another one now.
        """
        made = self.embeddings.meta["model"]
        directory = locate_model(made["name"], HubOptions(revision=made["provenance"].get("commit")))
        if model_sha256(directory) != made["sha256"]:
            raise ResumeError(
                f"{self.path}: was made by another model than {made['name']} is now; restore it, or embed again"
            )
        return VJEPA.from_pretrained(directory, weights=made["encoder_weights"], device=device)

    def encode(self, query: str | os.PathLike[str], model: VJEPA) -> np.ndarray:
        """Encode a clip as those of the corpus were: one vector `[D]`; of windows, the mean of their directions.

        Args:
            query: a video or image, or a part of one, `a.mp4#t=3,5`, from second 3 to 5.
        """
        path, start, end = part_of(os.fspath(query))
        settings = self.embeddings.meta["settings"]
        common = {"fps": settings["fps"], "source_fps": settings["source_fps"], "decoder": settings["decoder"]}
        if settings.get("window_seconds") is not None or settings.get("stride_seconds") is not None:
            windows = model.extract(
                path,
                window_seconds=settings["window_seconds"],
                num_frames=None if settings["fps"] is not None else settings["num_frames"],
                stride_seconds=settings["stride_seconds"],
                tail="pad",
                start_seconds=start,
                end_seconds=end,
                **common,
            )
            directions = unit(windows.embeddings, name="window")
            mean: np.ndarray = directions.mean(axis=0)
            return mean
        loader = model.clip_loader(num_frames=settings["num_frames"], **common)
        loader = replace(loader, sampling=replace(loader.sampling, start_seconds=start, end_seconds=end))
        import torch

        pixels = torch.from_numpy(loader(path)[0])
        vector: np.ndarray = model.embed_clips(pixels[None])[0].cpu().numpy()
        return vector

    def search(
        self,
        query: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | np.ndarray,
        *,
        k: int = 10,
        model: VJEPA | None = None,
        where: Mapping[str, str] | None = None,
        exclude_same_video: bool = False,
        min_gap_seconds: float | None = None,
    ) -> list[Hit]:
        """Find the rows most like a query, best first.

        Args:
            query: a video, an image or a part of one (`a.mp4#t=3,5`); several, whose directions are averaged; or a
                vector `[D]` of the same model.
            k: hits to return.
            model: None: the one that made the features is loaded.
            where: columns of the index and patterns such as `{"path": "kitchen/*"}`; only rows that fit all are found.
            exclude_same_video: leave out rows of the files that were asked for.
            min_gap_seconds: of hits in one video that lie closer together the best stays; None: the length of a window.

        Raises:
            InputError: not a video; a column that the index does not have; or nothing fits `where`.
            ConfigError: k below 1.
            ResumeError: the model is not the one that made the features.
        """
        names: list[str | os.PathLike[str]] = []
        if not isinstance(query, np.ndarray):
            names = [query] if isinstance(query, str | os.PathLike) else list(query)
        vector = query if isinstance(query, np.ndarray) else self._mean_direction(names, model)
        asked = {os.path.realpath(part_of(os.fspath(name))[0]) for name in names}
        entries, rows = self.embeddings.index, self.embeddings.features
        among = self._among(where or {})
        if exclude_same_video and asked:
            same = np.array([os.path.realpath(entry["path"]) in asked for entry in entries])
            among = ~same if among is None else among & ~same
        gap = self._gap(min_gap_seconds)
        count = len(self) if among is None else int(among.sum())
        wanted = k
        while True:
            found, scores = nearest_rows(vector[None], rows, k=wanted, metric=self.metric, among=among)
            kept = _merged([(int(row), entries[row]) for row in found[0]], gap)
            if len(kept) >= k or wanted >= count:
                break
            wanted = min(count, 4 * wanted)  # windows of one video often stand side by side
        score_of = dict(zip(found[0].tolist(), scores[0].tolist(), strict=True))
        return [
            Hit(
                rank=rank,
                score=round(score_of[row], 6),
                row=row,
                id=entry["id"],
                path=entry["path"],
                start_seconds=entry["start_seconds"],
                end_seconds=entry["end_seconds"],
                is_query=os.path.realpath(entry["path"]) in asked,
            )
            for rank, (row, entry) in enumerate(kept[:k], start=1)
        ]

    def _mean_direction(self, names: Sequence[str | os.PathLike[str]], model: VJEPA | None) -> np.ndarray:
        if not names:
            raise InputError("the query is empty; pass at least one video")
        loaded = model or self.load_model()
        vectors = np.stack([self.encode(name, loaded) for name in names])
        mean: np.ndarray = vectors[0] if len(vectors) == 1 else unit(vectors, name="query").mean(axis=0)
        return mean

    def _among(self, where: Mapping[str, str]) -> np.ndarray | None:
        if not where:
            return None
        entries = self.embeddings.index
        known = list(entries[0]) if entries else []
        for column in where:
            if column not in known:
                raise InputError(f"the index has no column {column!r}; it has {', '.join(known)}")
        fits = [all(fnmatch(str(entry[column]), pattern) for column, pattern in where.items()) for entry in entries]
        if not any(fits):
            patterns = ", ".join(f"{column}={pattern}" for column, pattern in where.items())
            raise InputError(f"{self.path}: no row fits {patterns}; patterns are those of a shell, such as 'kitchen/*'")
        return np.array(fits)

    def _gap(self, min_gap_seconds: float | None) -> float:
        if min_gap_seconds is None:
            return float(self.embeddings.meta["settings"].get("window_seconds") or 0.0)
        if min_gap_seconds < 0:
            raise ConfigError(f"min_gap_seconds={min_gap_seconds:g} must be at least 0; pass 0 to merge nothing")
        return min_gap_seconds


def part_of(query: str) -> tuple[str, float | None, float | None]:
    """Split a query into its path, and the seconds of the media fragment `#t=start,end` (W3C Media Fragments URI 1.0).

    A file whose very name ends like that is the file.
    """
    match = _FRAGMENT.fullmatch(query)
    if match is None or os.path.lexists(query) or (match["start"] is None and match["end"] is None):
        return query, None, None
    start, end = (None if match[name] is None else float(match[name]) for name in ("start", "end"))
    if start is not None and end is not None and start >= end:
        raise InputError(f"{query}: must end after it starts; exchange {start:g} and {end:g}")
    return match["path"], start, end


def _merged(found: Sequence[tuple[int, Mapping[str, Any]]], gap: float) -> list[tuple[int, Mapping[str, Any]]]:
    """Of hits in one video whose starts lie closer together than `gap`, keep the best; they come best first."""
    kept: list[tuple[int, Mapping[str, Any]]] = []
    starts: dict[str, list[float]] = {}
    for row, entry in found:
        start, others = entry["start_seconds"], starts.setdefault(entry["path"], [])
        if gap > 0 and start is not None:
            if any(abs(start - other) < gap - 1e-9 for other in others):
                continue
            others.append(start)
        kept.append((row, entry))
    return kept
