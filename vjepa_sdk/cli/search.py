"""`vjepa search`, `duplicates` and `outliers`: what is like a clip, what is there twice, what is like no other."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..config.choices import Metric
from ..errors import ConfigError, OutputError, printable
from .options import Json, Quiet, Verbose, set_up_logging

Index = Annotated[Path, typer.Option("--index", help="Features that `vjepa embed` wrote, one vector a row.")]


def search(
    query: Annotated[
        list[str], typer.Argument(help="Video, image, or part of one: a.mp4#t=3,5. Several are averaged.")
    ],
    *,
    index: Index,
    k: Annotated[int, typer.Option("--k", "-k", help="Hits to print.")] = 10,
    metric: Annotated[Metric, typer.Option(help="Cosine, or after the mean of all rows is taken off.")] = "cosine",
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=PATTERN that rows must fit, as path='kitchen/*'; may be repeated.")
    ] = None,
    exclude_same_video: Annotated[
        bool, typer.Option("--exclude-same-video", help="Leave out the files that are asked for.")
    ] = False,
    min_gap_seconds: Annotated[
        float | None, typer.Option(help="Of hits in one video closer together, keep the best; a window if left out.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is if left out.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find the clips most like one. Prints rank, score, path, start and end, best first."""
    set_up_logging(quiet, verbose)
    conditions = dict(_condition(text) for text in where or ())
    from ..downstream.search import SearchIndex

    opened = SearchIndex.open(index, metric=metric)
    hits = opened.search(
        query,
        k=k,
        model=opened.load_model(device=device),
        where=conditions,
        exclude_same_video=exclude_same_video,
        min_gap_seconds=min_gap_seconds,
    )
    if as_json:
        print(json.dumps([dataclasses.asdict(hit) for hit in hits], indent=2))
        return
    for hit in hits:
        seconds = ("-" if value is None else f"{value:.2f}" for value in (hit.start_seconds, hit.end_seconds))
        mark = "\tsame file" if hit.is_query else ""
        print("\t".join((str(hit.rank), f"{hit.score:.4f}", printable(hit.path), *seconds)) + mark)


def duplicates(
    features: Annotated[Path, typer.Argument(help="Features that `vjepa embed` wrote, one vector a row.")],
    *,
    threshold: Annotated[float, typer.Option(help="Least cosine of a pair.")] = 0.97,
    metric: Annotated[Metric, typer.Option(help="Cosine, or after the mean of all rows is taken off.")] = "centered",
    across: Annotated[
        str | None,
        typer.Option(help="Column of the index; only pairs that differ in it count."),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Write the paths that are left to this file, which `vjepa embed` reads.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find clips that are nearly the same. Prints score and paths of each pair, best first."""
    set_up_logging(quiet, verbose)
    if keep is not None and keep.exists():
        raise OutputError(f"{keep}: exists; choose another --keep")
    from ..downstream.duplicates import column_of, find_duplicates
    from ..hub.locate import load_embeddings
    from ..runtime.files import write_text

    found = load_embeddings(features, memory_map=True)
    report = find_duplicates(
        found.features,
        threshold=threshold,
        metric=metric,
        across=None if across is None else column_of(found.index, across),
    )
    names = [entry["path"] for entry in found.index]
    if keep is not None:
        write_text(keep, "".join(f"{name}\n" for name in dict.fromkeys(names[row] for row in report.keep)))
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
        return
    for pair in report.pairs:
        print(f"{pair.score:.4f}\t{printable(names[pair.first])}\t{printable(names[pair.second])}")
    if not quiet:
        print(
            f"vjepa: {len(report.pairs)} pairs in {len(report.groups)} groups; keeping one of each leaves "
            f"{len(report.keep)} of {len(names)} rows",
            file=sys.stderr,
        )


def outliers(
    features: Annotated[Path, typer.Argument(help="Features that `vjepa embed` wrote, one vector a row.")],
    *,
    k: Annotated[int, typer.Option("--k", "-k", help="Nearest rows that count.")] = 10,
    count: Annotated[int, typer.Option(help="Rows to print.")] = 20,
    metric: Annotated[Metric, typer.Option(help="Cosine, or after the mean of all rows is taken off.")] = "cosine",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find the clips that are like no other. Prints mean distance to the nearest, its percentile, and the path."""
    set_up_logging(quiet, verbose)
    from ..downstream.outliers import outlier_scores
    from ..hub.locate import load_embeddings

    found = load_embeddings(features, memory_map=True)
    scores = outlier_scores(found.features, k=k, metric=metric)
    listed = [
        {
            "row": row,
            "path": found.index[row]["path"],
            "distance": round(float(scores.distance[row]), 6),
            "percentile": round(float(scores.percentile[row]), 2),
        }
        for row in scores.strangest(count)
    ]
    if as_json:
        print(json.dumps(listed, indent=2))
        return
    for entry in listed:
        print(f"{entry['distance']:.4f}\t{entry['percentile']:.1f}\t{printable(entry['path'])}")


def _condition(text: str) -> tuple[str, str]:
    column, separator, pattern = text.partition("=")
    if not separator or not column:
        raise ConfigError(f"--where {text!r} must be COLUMN=PATTERN; write for example path='kitchen/*'")
    return column, pattern
