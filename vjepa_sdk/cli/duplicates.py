"""`vjepa duplicates`: find clips that are nearly the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config.choices import Metric
from .options import Json, Quiet, Verbose, set_up_logging
from .tables import (
    METRIC_HELP,
    TABLE_HELP,
    FeaturesFile,
    Html,
    Labels,
    Overwrite,
    check_file,
    name_of,
    page_options,
    write_list,
    write_table,
)

if TYPE_CHECKING:
    from ..downstream.duplicates import Pair
    from ..downstream.stored import Features


def duplicates(
    features: FeaturesFile,
    *,
    threshold: Annotated[float, typer.Option(help="Least cosine of a pair.")] = 0.95,
    metric: Annotated[Metric, typer.Option(help=METRIC_HELP)] = "centered",
    labels: Labels = None,
    across: Annotated[
        str | None, typer.Option(help="Column, as split; only pairs that differ in it count: what leaks.")
    ] = None,
    prefer: Annotated[
        str | None, typer.Option(help="Keep the larger in this column, as size, or COLUMN=VALUE, as split=test.")
    ] = None,
    max_pairs: Annotated[int, typer.Option(help="Refuse to list more pairs.")] = 500_000,
    keep: Annotated[
        Path | None,
        typer.Option(help="Write what is left to this list, which `vjepa embed` reads: .txt, .csv, .jsonl."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=TABLE_HELP)] = None,
    html: Html = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find clips that are nearly the same. Prints score and paths of each pair, files with equal bytes first."""
    set_up_logging(quiet, verbose)
    check_file(out, overwrite=overwrite)
    check_file(html, overwrite=overwrite, option="html")
    check_file(keep, overwrite=overwrite, option="keep")
    from ..downstream.duplicates import find_duplicates
    from ..downstream.stored import open_features

    opened = open_features(features, labels=labels)
    report = find_duplicates(
        opened,
        threshold=threshold,
        metric=metric,
        across=across,
        prefer=prefer,
        max_pairs=max_pairs,
        show_progress_bar=False if quiet else None,
    )
    pairs = [_described(pair, opened, across) for pair in report.pairs]
    if out is not None:
        write_table(out, pairs, columns=list(pairs[0]) if pairs else ["score", "first", "second", "same_bytes"])
    if keep is not None:
        write_list(keep, map(opened.entry, report.keep))
    if html is not None:
        from ..viz.answer_pages import save_duplicates

        settings = {"threshold": threshold, "metric": metric, "labels": labels, "across": across, "prefer": prefer}
        options = page_options(html, settings, overwrite=overwrite, quiet=quiet)
        save_duplicates(report, opened, options, across=across)
    if as_json:
        print(json.dumps({**report.to_json(), "pairs": pairs}, indent=2))
        return
    for pair, described in zip(report.pairs, pairs, strict=True):
        names = (name_of(opened.entry(row)) for row in (pair.first, pair.second))
        values = () if across is None else (str(described["first_value"]), str(described["second_value"]))
        mark = ("same bytes",) if pair.same_bytes else ()
        print("\t".join((f"{pair.score:.4f}", *names, *values, *mark)))
    print(report.summary)


def _described(pair: Pair, features: Features, across: str | None) -> dict[str, Any]:
    first, second = features.entry(pair.first), features.entry(pair.second)
    described: dict[str, Any] = {
        "score": pair.score,
        "first": pair.first,
        "second": pair.second,
        "same_bytes": pair.same_bytes,
    }
    for name, entry in (("first", first), ("second", second)):
        described |= {f"{name}_{key}": entry[key] for key in ("path", "start_seconds", "end_seconds")}
        if across is not None:
            described[f"{name}_value"] = entry.get(across)
    return described
