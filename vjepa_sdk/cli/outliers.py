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
from .tables import METRIC_HELP, TABLE_HELP, FeaturesFile, Overwrite, check_table, name_of, write_table

if TYPE_CHECKING:
    from ..downstream.stored import Features


def outliers(
    features: FeaturesFile,
    *,
    k: Annotated[int, typer.Option("--k", "-k", help="Nearest rows that count.")] = 10,
    count: Annotated[int, typer.Option(help="Rows to print.")] = 20,
    metric: Annotated[Metric, typer.Option(help=METRIC_HELP)] = "cosine",
    labels: Annotated[
        Path | None, typer.Option(help="CSV with path and label: list rows whose neighbours have another label.")
    ] = None,
    column: Annotated[str, typer.Option(help="Column of --labels.")] = "label",
    out: Annotated[Path | None, typer.Option(help=TABLE_HELP)] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find the clips that are like no other. Prints mean distance to the nearest, its percentile, and the path.

    With --labels: the share of the neighbours' votes for another label, for its own, both labels, and the path.
    """
    set_up_logging(quiet, verbose)
    check_table(out, overwrite=overwrite)
    from ..downstream.stored import open_features

    opened, show = open_features(features), False if quiet else None
    listed = (
        _strangest(opened, k=k, count=count, metric=metric, show=show)
        if labels is None
        else _mislabelled(opened, labels, column=column, k=k, count=count, metric=metric, show=show)
    )
    if out is not None:
        write_table(out, listed, columns=list(listed[0]) if listed else ["row", "id", "path"])
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


def _strangest(features: Features, *, k: int, count: int, metric: Metric, show: bool | None) -> list[dict[str, Any]]:
    from ..downstream.outliers import outlier_scores

    scores = outlier_scores(features, k=k, metric=metric, show_progress_bar=show)
    return [
        {
            **_which(features, row),
            "distance": round(float(scores.distance[row]), 6),
            "percentile": round(float(scores.percentile[row]), 2),
        }
        for row in scores.strangest(count)
    ]


def _mislabelled(
    features: Features, labels: Path, *, column: str, k: int, count: int, metric: Metric, show: bool | None
) -> list[dict[str, Any]]:
    from ..downstream.outliers import label_errors

    found = label_errors(features, labels, column=column, k=k, metric=metric, show_progress_bar=show)
    return [{**_which(features, each.row), **dataclasses.asdict(each)} for each in found[:count]]


def _which(features: Features, row: int) -> dict[str, Any]:
    entry = features.entry(row)
    return {"row": row, **{key: entry[key] for key in ("id", "path", "start_seconds", "end_seconds")}}
