"""Write what a search found, and duplicates, outliers and clusters, as a page: a sentence, pictures, a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..downstream.clusters import Cluster, Clusters
from ..downstream.duplicates import DuplicateReport
from ..downstream.outliers import Mislabelled, OutlierScores
from ..downstream.search import Hit
from ..downstream.stored import Features
from ..errors import counted
from .charts import FOR_PAGES, chart, to_svg
from .films import to_webp
from .page import Card, Gallery, Note, Page, Part, Picture, Table, link_to, save_page
from .thumbnails import read_thumbnails

_MAX_TABLE_ROWS = 200
_MAX_GROUPS = 25
_MAX_CARDS, _MAX_CARDS_OF_GROUP = 200, 8

_Row = list[str | float | None]


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Where a page goes, and what it says of how it was made."""

    path: Path
    settings: Mapping[str, object]
    command: Sequence[str]
    """The command line that makes it again."""
    overwrite: bool = False
    num_workers: int = 2
    """Decoding processes for pictures; 0 decodes in this process, without a deadline."""
    show_progress_bar: bool | None = None


@dataclass(frozen=True)
class _Group:
    """Clips whose pictures stand together."""

    title: str
    notes: Mapping[int, str]
    """What stands below the picture of each row, in order."""


def save_hits(
    hits: Sequence[Hit],
    features: Features,
    options: PageOptions,
    *,
    queries: Sequence[str] = (),
    below: Sequence[Part] = (),
) -> Path:
    """Write the hits of a search as a page.

    Args:
        features: that were searched.
        queries: what was asked for.
        below: what else the page shows.

    Raises:
        OutputError, WriteError: as for `save_page`, also of the other pages here.
    """
    notes = {hit.row: f"{hit.score:.4f}{', same file' if hit.is_query else ''}" for hit in hits}
    rows: Iterator[_Row] = ([hit.rank, hit.score, *_place(features, hit.row)] for hit in hits)
    return _save(
        "Search",
        f"{counted(len(hits), 'clip')} most like {', '.join(queries) or 'what was asked for'}.",
        [
            *_galleries([_Group("", notes)], features, options),
            *below,
            _table(("rank", "score", "path", "seconds"), rows, len(hits)),
        ],
        features,
        options,
    )


def save_duplicates(
    report: DuplicateReport, features: Features, options: PageOptions, *, across: str | None = None
) -> Path:
    """Write near duplicates as a page: how alike clips are to their nearest, the groups, and the pairs.

    Args:
        features: that were compared.
        across: the column in which rows differ, where only such pairs were looked for.
    """
    kept = set(report.keep)
    groups = [
        _Group(
            f"Group {number}: {counted(len(group), 'clip')}",
            {row: "is kept" if row in kept else "" for row in sorted(group, key=lambda row: row not in kept)},
        )
        for number, group in enumerate(report.groups, start=1)
    ]
    columns = () if across is None else (across,)
    head = ["score", *(f"{place} {name}" for place in ("first", "second") for name in ("path", "seconds", *columns))]
    rows: Iterator[_Row] = (
        [pair.score, *_place(features, pair.first, *columns), *_place(features, pair.second, *columns)]
        for pair in report.pairs
    )
    return _save(
        "Near duplicates",
        f"{report.summary}.",
        [*_histogram(report), *_galleries(groups, features, options), _table(head, rows, len(report.pairs))],
        features,
        options,
    )


def save_outliers(scores: OutlierScores, features: Features, options: PageOptions, *, count: int = 20) -> Path:
    """Write the clips that are like no other as a page, the strangest first."""
    strangest = scores.strangest(count)
    notes = {row: f"{scores.distance[row]:.4f}" for row in strangest}
    rows: Iterator[_Row] = (
        [float(scores.distance[row]), f"{scores.percentile[row]:.1f}", *_place(features, row)] for row in strangest
    )
    head = ("distance", "percentile", "path", "seconds")
    return _save(
        "Outliers",
        f"The {len(strangest):,} of {counted(len(features), 'clip')} least like any other.",
        [*_galleries([_Group("", notes)], features, options), _table(head, rows, len(strangest))],
        features,
        options,
    )


def save_label_errors(
    found: Sequence[Mislabelled], features: Features, options: PageOptions, *, count: int = 20
) -> Path:
    """Write the clips whose neighbours have another label as a page, the surest first."""
    notes = {each.row: f"{each.label}, like {each.suggested}" for each in found[:count]}
    rows: Iterator[_Row] = (
        [each.share, each.own_share, each.label, each.suggested, *_place(features, each.row)] for each in found[:count]
    )
    head = ("share", "own share", "label", "suggested", "path", "seconds")
    return _save(
        "Label errors",
        f"{counted(len(found), 'clip')} of {len(features):,} with another label than their neighbours.",
        [*_galleries([_Group("", notes)], features, options), _table(head, rows, len(notes))],
        features,
        options,
    )


def save_clusters(found: Clusters, features: Features, options: PageOptions) -> Path:
    """Write clusters as a page: of each the clip in its middle, and some others."""
    groups = [
        _Group(
            f"Cluster {each.number}: {counted(len(each.rows), 'clip')}",
            {each.medoid: "in the middle", **dict.fromkeys(_spread(each), "")},
        )
        for each in found.clusters
    ]
    rows: Iterator[_Row] = (
        [each.number, len(each.rows), each.likeness, *_place(features, each.medoid)] for each in found.clusters
    )
    head = ("cluster", "clips", "likeness", "in the middle", "seconds")
    outside = int((found.labels < 0).sum())
    return _save(
        "Clusters",
        f"{counted(len(features), 'clip')} in {counted(len(found.clusters), 'cluster')}"
        + (f", {outside:,} of them in none." if outside else "."),
        [_table(head, rows, len(found.clusters)), *_galleries(groups, features, options)],
        features,
        options,
    )


def _spread(cluster: Cluster) -> list[int]:
    """Return some rows of a cluster besides its medoid, from the first to the last."""
    others = [row for row in cluster.rows if row != cluster.medoid]
    places = np.linspace(0, len(others) - 1, min(len(others), _MAX_CARDS_OF_GROUP - 1))
    return [others[int(place)] for place in places]


def _save(title: str, summary: str, parts: Sequence[Part], features: Features, options: PageOptions) -> Path:
    about = {
        "features": features.meta.get("output", ""),
        "model": (features.meta.get("model") or {}).get("name") or "",
    }
    page = Page(
        title=title,
        summary=summary,
        parts=[part for part in parts if not isinstance(part, Table) or part.rows],
        settings={**about, **options.settings},
        command=options.command,
    )
    return save_page(page, options.path, overwrite=options.overwrite)


def _table(head: Sequence[str], rows: Iterator[_Row], count: int) -> Table:
    more = count - _MAX_TABLE_ROWS
    note = f"{more:,} more rows are left out; --out writes all of them." if more > 0 else ""
    return Table(head=head, rows=list(islice(rows, _MAX_TABLE_ROWS)), note=note)


def _galleries(groups: Sequence[_Group], features: Features, options: PageOptions) -> list[Part]:
    most = _MAX_CARDS if len(groups) == 1 else _MAX_CARDS_OF_GROUP
    shown = [group for group in groups if group.notes][:_MAX_GROUPS]
    cards = _cards([row for group in shown for row in list(group.notes)[:most]], features, options)
    parts: list[Part] = []
    for group in shown:
        of_group = [
            replace(cards[row], note=", ".join(filter(None, (note, cards[row].note))))
            for row, note in list(group.notes.items())[:most]
        ]
        more = len(group.notes) - len(of_group)
        parts.append(Gallery(cards=of_group, title=group.title, note=f"{more:,} more are left out." if more else ""))
    if len(groups) > len(shown) > 0:
        parts.append(Note(text=f"{len(groups) - len(shown):,} smaller ones are left out."))
    return parts


def _cards(rows: Sequence[int], features: Features, options: PageOptions) -> dict[int, Card]:
    """Return a card of each row; its note says when the clip is, or why there is no picture."""
    entries = [features.entry(row) for row in rows]
    pictures = read_thumbnails(
        entries,
        decoder=features.meta.get("settings", {}).get("decoder", "pyav"),
        num_workers=options.num_workers,
        show_progress_bar=options.show_progress_bar,
    )
    return {
        row: Card(
            name=entry["path"],
            image=b"" if picture.pixels is None else to_webp(picture.pixels),
            href=link_to(entry["path"], options.path, seconds=entry["start_seconds"]),
            note=picture.reason or _seconds(entry),
        )
        for row, entry, picture in zip(rows, entries, pictures, strict=True)
    }


def _place(features: Features, row: int, *columns: str) -> list[str]:
    entry = features.entry(row)
    return [entry["path"], _seconds(entry), *(str(entry.get(column)) for column in columns)]


def _seconds(entry: Mapping[str, Any]) -> str:
    start, end = entry["start_seconds"], entry["end_seconds"]
    return "" if start is None or end is None else f"{start:.2f} to {end:.2f} s"


def _histogram(report: DuplicateReport) -> list[Part]:
    """Draw how alike rows are to their nearest, with the threshold, so that it can be judged."""
    scores = report.nearest[report.nearest > -1]
    if not len(scores):
        return []
    from matplotlib.ticker import MaxNLocator

    with chart(FOR_PAGES, width=6.4, height=2.4) as (figure, axes):
        low = min(float(scores.min()), report.threshold)
        axes.hist(scores, bins=40, range=(low, 1.0 if low < 1 else low + 0.01), color=FOR_PAGES.of["s1"])
        axes.axvline(report.threshold, color=FOR_PAGES.of["s2"], linewidth=1.5)
        axes.set_xlabel("cosine")
        axes.set_ylabel("clips")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        svg = to_svg(figure, name="scores")
    return [
        Picture(
            alt=f"Histogram of the cosine of each of {counted(len(scores), 'clip')} with its nearest",
            svg=svg,
            title="How alike each clip is to its nearest",
            note=f"The line is the threshold, {report.threshold:g}: right of it are near duplicates.",
        )
    ]
