"""`vjepa outliers`: find the clips that are like no other, or whose label is not that of their neighbours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config.choices import Metric
from ..errors import printable
from .options import Json, Quiet, Verbose, set_up_logging
from .tables import (
    METRIC_HELP,
    TABLE_HELP,
    FeaturesFile,
    Html,
    Overwrite,
    check_file,
    name_of,
    page_options,
    write_table,
)

if TYPE_CHECKING:
    from ..downstream.stored import Features
    from ..viz.answer_pages import PageOptions

_PLACE = ("row", "id", "path", "start_seconds", "end_seconds")
_STRANGEST, _MISLABELLED = ("distance", "percentile"), ("label", "suggested", "share", "own_share")


def outliers(
    features: FeaturesFile,
    *,
    k: Annotated[int, typer.Option("--k", "-k", help="Nearest rows that count.")] = 10,
    count: Annotated[int, typer.Option(min=1, help="Rows to print.")] = 20,
    metric: Annotated[Metric, typer.Option(help=METRIC_HELP)] = "cosine",
    labels: Annotated[
        Path | None, typer.Option(help="CSV with path and label: list rows whose neighbours have another label.")
    ] = None,
    column: Annotated[str, typer.Option(help="Column of --labels.")] = "label",
    out: Annotated[Path | None, typer.Option("--out", "-o", help=TABLE_HELP)] = None,
    html: Html = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find the clips that are like no other. Prints mean distance to the nearest, its percentile, and the path.

    With --labels: the share of the neighbours' votes for another label, for its own, both labels, and the path.
    """
    set_up_logging(quiet, verbose)
    check_file(out, overwrite=overwrite)
    check_file(html, overwrite=overwrite, option="html")
    from ..downstream.stored import open_features

    opened, show = open_features(features), False if quiet else None
    settings = {"k": k, "metric": metric, "labels": labels, "column": None if labels is None else column}
    page = None if html is None else page_options(html, settings, overwrite=overwrite, quiet=quiet)
    listed = (
        _strangest(opened, page, k=k, count=count, metric=metric, show=show)
        if labels is None
        else _mislabelled(opened, page, labels, column=column, k=k, count=count, metric=metric, show=show)
    )
    if out is not None:
        write_table(out, listed, columns=_PLACE + (_STRANGEST if labels is None else _MISLABELLED))
    if as_json:
        print(json.dumps(listed, indent=2))
        return
    for each in listed:
        name = name_of(opened.entry(each["row"]))
        if labels is None:
            print(f"{each['distance']:.4f}\t{each['percentile']:.1f}\t{name}")
        else:
            names = "\t".join(map(printable, (each["label"], each["suggested"], name)))
            print(f"{each['share']:.3f}\t{each['own_share']:.3f}\t{names}")


def _strangest(
    features: Features, page: PageOptions | None, *, k: int, count: int, metric: Metric, show: bool | None
) -> list[dict[str, Any]]:
    from ..downstream.outliers import outlier_scores

    scores = outlier_scores(features, k=k, metric=metric, show_progress_bar=show)
    if page is not None:
        from ..viz.answer_pages import save_outliers

        save_outliers(scores, features, page, count=count)
    return [
        {
            **_place(features, row),
            "distance": round(float(scores.distance[row]), 6),
            "percentile": round(float(scores.percentile[row]), 2),
        }
        for row in scores.strangest(count)
    ]


def _mislabelled(
    features: Features,
    page: PageOptions | None,
    labels: Path,
    *,
    column: str,
    k: int,
    count: int,
    metric: Metric,
    show: bool | None,
) -> list[dict[str, Any]]:
    from ..downstream.outliers import label_errors

    found = label_errors(features, labels, column=column, k=k, metric=metric, show_progress_bar=show)
    if page is not None:
        from ..viz.answer_pages import save_label_errors

        save_label_errors(found, features, page, count=count)
    return [{**_place(features, each.row), **dataclasses.asdict(each)} for each in found[:count]]


def _place(features: Features, row: int) -> dict[str, Any]:
    entry = features.entry(row)
    return {"row": row, **{key: entry[key] for key in _PLACE[1:]}}
