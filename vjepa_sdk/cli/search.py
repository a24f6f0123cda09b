"""`vjepa search`: find the clips most like one."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config.choices import Metric, QueryAggregation, SearchBackend
from ..errors import ConfigError, printable
from .early import known_model
from .options import Json, Quiet, Verbose, set_up_logging
from .tables import (
    FEATURES_HELP,
    METRIC_HELP,
    TABLE_HELP,
    Html,
    Labels,
    Overwrite,
    check_file,
    page_options,
    write_table,
)

if TYPE_CHECKING:
    from ..downstream.search import Hit


def search(
    query: Annotated[list[str], typer.Argument(help="Video, image, or part of one: a.mp4#t=3,5; or several.")],
    *,
    index: Annotated[str, typer.Option("--index", help=FEATURES_HELP)],
    k: Annotated[int, typer.Option("--k", "-k", help="Hits to print.")] = 10,
    metric: Annotated[Metric, typer.Option(help=METRIC_HELP)] = "cosine",
    aggregation: Annotated[
        QueryAggregation, typer.Option(help="Of several queries: find what is like all (mean), or like any (max).")
    ] = "mean",
    labels: Labels = None,
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=PATTERN that rows must fit, as path='kitchen/*'; may be repeated.")
    ] = None,
    exclude_same_video: Annotated[
        bool, typer.Option("--exclude-same-video", help="Leave out the files that are asked for.")
    ] = False,
    min_gap_seconds: Annotated[
        float | None, typer.Option(help="Of hits in one video closer together, keep the best; a window if left out.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Where the model is that made the features, if it was moved.", callback=known_model
        ),
    ] = None,
    backend: Annotated[SearchBackend, typer.Option(help="Compare every row, or ask an approximate index.")] = "exact",
    factory: Annotated[
        str | None, typer.Option(help="Of faiss: which index to build, as IVF4096,PQ64; one that fits if left out.")
    ] = None,
    nprobe: Annotated[int | None, typer.Option(help="Of faiss: cells to look into; more find more.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is if left out.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=TABLE_HELP)] = None,
    html: Html = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find the clips most like one. Prints rank, score, path, start and end, best first."""
    set_up_logging(quiet, verbose)
    conditions = dict(_condition(text) for text in where or ())
    check_file(out, overwrite=overwrite)
    check_file(html, overwrite=overwrite, option="html")
    from ..downstream.search import Hit, SearchIndex

    opened = SearchIndex.open(index, metric=metric, labels=labels, backend=backend, factory=factory, nprobe=nprobe)
    hits = opened.search(
        query,
        k=k,
        model=opened.load_model(model, device=device),
        aggregation=aggregation,
        where=conditions,
        exclude_same_video=exclude_same_video,
        min_gap_seconds=min_gap_seconds,
    )
    listed = [dataclasses.asdict(hit) for hit in hits]
    if out is not None:
        write_table(out, listed, columns=[field.name for field in dataclasses.fields(Hit)])
    if html is not None:
        from ..viz.answer_pages import save_hits

        settings = {"metric": metric, "aggregation": aggregation if len(query) > 1 else None, "where": where}
        options = page_options(html, settings, overwrite=overwrite, quiet=quiet)
        save_hits(hits, opened.features, options, queries=query)
    if backend == "faiss" and not quiet:
        print(f"vjepa: the index finds {opened.recall:.1%} of the ten nearest rows, measured", file=sys.stderr)
    if as_json:
        print(json.dumps(listed, indent=2))
        return
    for hit in hits:
        print(_line(hit))


def _line(hit: Hit) -> str:
    seconds = ("-" if value is None else f"{value:.2f}" for value in (hit.start_seconds, hit.end_seconds))
    mark = ("same file",) if hit.is_query else ()
    return "\t".join((str(hit.rank), f"{hit.score:.4f}", printable(hit.path), *seconds, *mark))


def _condition(text: str) -> tuple[str, str]:
    column, separator, pattern = text.partition("=")
    if not separator or not column:
        raise ConfigError(f"--where {text!r} must be COLUMN=PATTERN; write for example path='kitchen/*'")
    return column, pattern
