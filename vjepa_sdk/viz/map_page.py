"""Draw features as a map to look around in: points coloured by what is known of them, with pictures of the clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.choices import Decoder
from ..downstream.nearest import as_matrix
from ..errors import ConfigError
from ..features.embeddings import Embeddings
from ..runtime.files import atomic_file, disk_errors
from .charts import FOR_PAGES, FOR_PAPER, Colours, chart, draw_points, drawn_name, to_png, to_svg
from .colourings import NO_LABEL, Colouring, colouring, known_colourings, read_labels
from .embedding_map import MapQuality, Method, cluster_rows, embedding_map, map_quality, sampled
from .exports import MapTable, check_export, export_map
from .films import to_webp
from .page import (
    MAX_PAGE_BYTES,
    Page,
    Part,
    Picture,
    Table,
    Widget,
    check_output,
    data_url,
    link_to,
    plain_text,
    render_page,
)
from .thumbnails import DEADLINE_SECONDS, Thumbnail, read_thumbnails

MAX_POINTS = 50_000
MAX_THUMBNAILS = 400
SUFFIXES = (".html", ".png")

_MAX_SVG_POINTS = 1_500
_MAX_TABLE_ROWS = 24
_FULL = 10_000  # coordinates in a page are whole numbers from 0 to this


@dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """A map of features that was written."""

    path: Path
    points: np.ndarray
    """float32 `[n, 2]`."""
    rows: np.ndarray
    """int64 `[n]`: which rows of the features they are."""
    quality: MapQuality | None
    num_pictures: int
    failures: Mapping[str, str]
    """Clips of which no picture could be made, and why."""


def draw_embeddings(
    found: Embeddings,
    path: str | Path,
    *,
    labels: str | Path | None = None,
    method: Method = "tsne",
    perplexity: float | None = None,
    seed: int = 0,
    points: np.ndarray | None = None,
    cluster: int | None = None,
    thumbnails: int = MAX_THUMBNAILS,
    decoder: Decoder = "pyav",
    num_workers: int = 2,
    deadline_seconds: float = DEADLINE_SECONDS,
    export: str | Path | None = None,
    overwrite: bool = False,
    command: Sequence[str] = (),
    show_progress_bar: bool | None = None,
) -> EmbeddingMap:
    """Write a map of features as a page (`.html`) or a picture (`.png`).

    Of more than `MAX_POINTS` rows a sample is shown.

    Args:
        found: from `load_embeddings`, one vector a row.
        labels: CSV with a column `label`, and `id` or `path`, the latter relative to the list.
        method: see `embedding_map`, as for `perplexity`, `seed` and `points`.
        cluster: colour by so many clusters too.
        thumbnails: pictures at most, up to 400; clips that are spread over the map get them.
        decoder: `pyav` or `decord`.
        num_workers: decoding processes for pictures; 0 decodes in this process, without a deadline.
        deadline_seconds: for one picture.
        export: write the rows of the map for another viewer too; see `export_map`.
        overwrite: replace a file that is there.
        command: the command line that the page names.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: an option that is not valid.
        InputError: features that are no single vectors, or labels of which none belongs to a row.
        OutputError: there is such a file already, or the directory does not exist.
        WriteError: the disk refuses.
    """
    path = Path(path)
    check_map(path, overwrite=overwrite)
    if export is not None:
        check_export(Path(export), overwrite=overwrite)
    features = as_matrix(found.features)
    rows = sampled(len(features), MAX_POINTS, seed=seed)
    index = [found.index[row] for row in rows]
    of_labels = [] if labels is None else [colouring("label", read_labels(labels, index))]
    vectors = features if len(rows) == len(features) else features[rows]
    placed = embedding_map(
        vectors, method=method, perplexity=perplexity, seed=seed, points=None if points is None else points[rows]
    )
    clusters = [] if cluster is None else [_clusters(vectors, cluster, seed)]
    known = [each for each in known_colourings(index) if each.name != "label" or not of_labels]
    colourings = [*of_labels, *clusters, *known] or [colouring("clip", ["all clips"] * len(index))]
    is_page = path.suffix.lower() == ".html"
    chosen = spread_out(placed, min(thumbnails, MAX_THUMBNAILS) if is_page or export is not None else 0)
    pictures = read_thumbnails(
        [index[row] for row in chosen],
        decoder=decoder,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        show_progress_bar=show_progress_bar,
    )
    if export is not None:
        of_rows = of_labels or [each for each in colourings if each.name == "label"]
        table = MapTable(
            vectors=vectors,
            points=placed,
            index=index,
            labels=_label_of(of_rows[0]) if of_rows else [None] * len(index),
            pictures=pictures if len(chosen) == len(index) else [],
        )
        export_map(table, export, overwrite=overwrite)
    if not is_page:
        _write(path, _drawn(placed, colourings[0]))
        return EmbeddingMap(path, placed, rows, None, 0, {})
    report = _Report(
        path=path,
        index=index,
        points=placed,
        colourings=colourings,
        pictures=dict(zip(chosen.tolist(), pictures, strict=True)),
        quality=_judged(vectors, placed, method="given" if points is not None else method, seed=seed),
        settings=_settings(found.meta, method, perplexity, seed, points is not None),
        command=command,
        total=len(features),
    )
    content, kept = report.fitting()
    _write(path, content)
    failures = {entry["path"]: each.reason for entry, each in report.failed()}
    return EmbeddingMap(path, placed, rows, next(iter(report.quality.values()), None), kept, failures)


def _label_of(labels: Colouring) -> list[str | None]:
    names = [labels.groups[group] for group in labels.of]
    return [None if name == NO_LABEL else name for name in names]


def check_map(path: Path, *, overwrite: bool) -> None:
    """Raise ConfigError or OutputError unless a map can be written there."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: the suffix {path.suffix!r} must be one of {', '.join(SUFFIXES)}; rename the output")
    check_output(path, overwrite=overwrite)


def spread_out(points: np.ndarray, count: int) -> np.ndarray:
    """Return at most so many rows, ascending, that are spread over the map: one of each cell of a grid, then others."""
    if len(points) <= count:
        return np.arange(len(points))
    if count < 1:
        return np.empty(0, np.int64)
    side = max(1, int(np.sqrt(count)))
    cells = np.minimum((_scaled(points) * side / (_FULL + 1)).astype(int), side - 1)
    _, first = np.unique(cells[:, 0] * side + cells[:, 1], return_index=True)
    others = np.setdiff1d(np.arange(len(points)), first)
    more = others[np.linspace(0, len(others) - 1, min(count - len(first), len(others))).astype(int)]
    rows: np.ndarray = np.unique(np.concatenate([first, more]))
    return rows


@dataclass(frozen=True, kw_only=True)
class _Report:
    """What stands in a page, with as many pictures as fit."""

    path: Path
    index: Sequence[Mapping[str, Any]]
    points: np.ndarray
    colourings: Sequence[Colouring]
    pictures: Mapping[int, Thumbnail]
    quality: Mapping[str, MapQuality]
    """By the name of the map: the one that is drawn, then that of the principal components."""
    settings: Mapping[str, object]
    command: Sequence[str]
    total: int
    """Rows of the features."""

    def failed(self) -> list[tuple[Mapping[str, Any], Thumbnail]]:
        """Return the entries of which there is no picture, and why."""
        return [(self.index[row], each) for row, each in self.pictures.items() if each.pixels is None]

    def fitting(self) -> tuple[bytes, int]:
        """Return the page, and how many pictures it holds: as many as leave it below `MAX_PAGE_BYTES`."""
        good = [row for row, each in self.pictures.items() if each.pixels is not None]
        kept = len(good)
        while True:
            content = render_page(self.page(good[:kept]))
            if len(content) <= MAX_PAGE_BYTES or not kept:
                return content, kept
            kept = kept // 2

    def page(self, kept: Sequence[int]) -> Page:
        """Return the page with pictures of these rows."""
        first = self.colourings[0]
        counts = np.bincount(first.of, minlength=len(first.groups))
        shown = list(zip(first.groups, counts.tolist(), strict=True))[:_MAX_TABLE_ROWS]
        parts: list[Part] = [self._widget(kept)]
        if self.quality:
            parts.append(_quality_table(self.quality))
        facts = {"clips": f"{len(self.points):,}"}
        if len(first.groups) > 1:
            facts[f"{first.name}s"] = f"{len(first.groups):,}"
            more = len(first.groups) - len(shown)
            parts.append(
                Table(
                    title=f"By {first.name}",
                    head=(first.name, "clips", "share"),
                    rows=[(name, count, f"{100 * count / len(self.points):.1f} %") for name, count in shown],
                    note=f"{more:,} more are left out." if more else "",
                )
            )
        if self.quality:
            best = next(iter(self.quality.values()))
            facts |= {"trustworthiness": f"{best.trustworthiness:.2f}", "continuity": f"{best.continuity:.2f}"}
        return Page(
            title="Map of features",
            summary=f"{len(self.points):,} clips, those with like features side by side.",
            facts=facts,
            parts=parts,
            settings=self.settings,
            command=self.command,
        )

    def _widget(self, kept: Sequence[int]) -> Widget:
        notes = [] if self.total == len(self.points) else [f"A sample of {self.total:,} rows."]
        wanted = sum(each.pixels is not None for each in self.pictures.values())
        if len(kept) < wanted:
            notes.append(f"{wanted - len(kept)} pictures are left out, to keep the page below 15 MB.")
        if failed := self.failed():
            notes.append(f"Of {len(failed)} clips no picture could be made; their cards say why.")
        if self.settings["method"] == "tsne":
            notes.append("Distances between groups, and the sizes of groups, mean nothing in a t-SNE map.")
        return Widget(
            name="map",
            data=self._data(kept),
            fallback=_static(self.points, self.colourings[0]),
            note=" ".join(notes),
        )

    def _data(self, kept: Sequence[int]) -> dict[str, Any]:
        places, names = _scaled(self.points), [plain_text(entry["path"]) for entry in self.index]
        pictures = {
            row: data_url(to_webp(pixels), "image/webp")
            for row in kept
            if (pixels := self.pictures[row].pixels) is not None
        }
        return {
            "x": places[:, 0].tolist(),
            "y": places[:, 1].tolist(),
            "names": names,
            "seconds": [_seconds(entry) for entry in self.index],
            "links": [link_to(entry["path"], self.path, seconds=entry.get("start_seconds")) for entry in self.index],
            "pictures": pictures,
            "reasons": {row: plain_text(each.reason) for row, each in self.pictures.items() if each.reason},
            "colourings": [
                {
                    "name": each.name,
                    "names": [plain_text(name) for name in each.groups],
                    "colours": each.colours,
                    "of": each.of.tolist(),
                }
                for each in self.colourings
            ],
        }


def _scaled(points: np.ndarray) -> np.ndarray:
    """Return points as whole numbers from 0 to 10,000, in one scale for both directions, the second one downward."""
    low, high = points.min(axis=0), points.max(axis=0)
    middle, side = (low + high) / 2, max(float((high - low).max()), 1e-12)
    places: np.ndarray = np.rint(((points - middle) / side * (1, -1) + 0.5) * _FULL).astype(np.int64)
    return places


def _seconds(entry: Mapping[str, Any]) -> str:
    start, end = entry.get("start_seconds"), entry.get("end_seconds")
    return "" if start is None or end is None else f"{start:.2f} to {end:.2f} s"


def _clusters(vectors: np.ndarray, cluster: int, seed: int) -> Colouring:
    numbers = cluster_rows(vectors, cluster, seed=seed)
    width = len(str(cluster))
    return colouring("cluster", [f"cluster {number + 1:0{width}d}" for number in numbers])


def _judged(vectors: np.ndarray, placed: np.ndarray, *, method: str, seed: int) -> dict[str, MapQuality]:
    maps = {"this map": placed}
    if method != "pca" and len(vectors) >= 4:
        maps["principal components"] = embedding_map(vectors, method="pca")
    found = {name: map_quality(vectors, points, seed=seed) for name, points in maps.items()}
    return {name: quality for name, quality in found.items() if quality is not None}


def _quality_table(quality: Mapping[str, MapQuality]) -> Table:
    first = next(iter(quality.values()))
    return Table(
        title="How far to trust it",
        head=("map", "trustworthiness", "continuity"),
        rows=[(name, f"{each.trustworthiness:.3f}", f"{each.continuity:.3f}") for name, each in quality.items()],
        note=f"Ranks of the {first.neighbours} nearest, on {first.rows:,} rows; 1 is best. Trustworthiness falls where "
        "strangers stand side by side in the map, continuity where neighbours were torn apart.",
    )


def _settings(
    meta: Mapping[str, Any], method: str, perplexity: float | None, seed: int, is_given: bool
) -> dict[str, object]:
    return {
        "features": meta.get("output", ""),
        "model": (meta.get("model") or {}).get("name") or "",
        "method": "given" if is_given else method,
        "perplexity": "30, of few rows a third of them" if perplexity is None else f"{perplexity:g}",
        "seed": seed,
        "distance": "between directions (cosine)",
    }


def _static(points: np.ndarray, first: Colouring) -> Picture:
    alt = f"Map of {len(points):,} clips, coloured by {first.name}"
    if len(points) > _MAX_SVG_POINTS:
        return Picture(alt=alt, image=_drawn(points, first))
    with chart(FOR_PAGES, width=6.4, height=4.8) as (figure, axes):
        _draw(axes, points, first, FOR_PAGES)
        return Picture(alt=alt, svg=to_svg(figure, name="map"))


def _drawn(points: np.ndarray, first: Colouring) -> bytes:
    with chart(FOR_PAPER, width=6.4, height=4.8) as (figure, axes):
        _draw(axes, points, first, FOR_PAPER)
        return to_png(figure)


def _draw(axes: Any, points: np.ndarray, first: Colouring, colours: Colours) -> None:
    size = float(np.clip(9000 / len(points), 4, 70))
    draw_points(axes, colours, points=points, point_colours=[first.colours[group] for group in first.of], size=size)
    if len(first.groups) < 2:
        return
    for place, group in enumerate(first.groups[:12]):
        axes.scatter([], [], s=40, color=first.colours[place], label=drawn_name(group))
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=10, handletextpad=0.2)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a label is no formula


def _write(path: Path, content: bytes) -> None:
    with disk_errors(path, needed=len(content)), atomic_file(path) as file:
        file.write(content)
