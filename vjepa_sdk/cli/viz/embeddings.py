"""`vjepa viz embeddings`: a map of features."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from ...errors import printable
from ..options import Json, Quiet, Verbose, command_line, set_up_logging
from .options import DecoderOption, Overwrite, report


def embeddings(
    features: Annotated[Path, typer.Argument(help="Features that `vjepa embed` wrote, one vector a row.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Page .html, or picture .png.")],
    labels: Annotated[Path | None, typer.Option(help="CSV with columns path (or id) and label.")] = None,
    method: Annotated[Literal["tsne", "pca"], typer.Option(help="t-SNE, or the principal components alone.")] = "tsne",
    perplexity: Annotated[
        float | None, typer.Option(help="Of t-SNE; 30, of few rows a third of them, if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of t-SNE and of samples.")] = 0,
    cluster: Annotated[int | None, typer.Option(help="Colour by so many k-means clusters too.")] = None,
    thumbnails: Annotated[int, typer.Option(help="Pictures at most, up to 400.")] = 400,
    decoder: DecoderOption = "pyav",
    num_workers: Annotated[int, typer.Option(help="Decoding processes for pictures; 0: in this one.")] = 2,
    deadline_seconds: Annotated[float, typer.Option(help="For one picture.")] = 20.0,
    export: Annotated[
        Path | None,
        typer.Option(help="Write the map for another viewer too: a .parquet (Embedding Atlas), or a directory."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw features as a map in two dimensions, with pictures of the clips and their labels as colours."""
    set_up_logging(quiet, verbose)
    from ...hub.locate import load_embeddings
    from ...viz.map_page import check_map, draw_embeddings

    check_map(out, overwrite=overwrite)
    drawn = draw_embeddings(
        load_embeddings(features, memory_map=True),
        out,
        labels=labels,
        method=method,
        perplexity=perplexity,
        seed=seed,
        cluster=cluster,
        thumbnails=thumbnails,
        decoder=decoder,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        export=export,
        overwrite=overwrite,
        command=command_line(),
        show_progress_bar=False if quiet else None,
    )
    for clip, reason in drawn.failures.items():
        if not quiet:
            print(f"vjepa: no picture of {printable(clip)}: {printable(reason)}", file=sys.stderr)
    quality = None if drawn.quality is None else asdict(drawn.quality)
    facts = {"points": len(drawn.points), "pictures": drawn.num_pictures, "quality": quality}
    report(
        f"{out}: {len(drawn.points):,} points",
        {"out": str(out), **facts, "failures": dict(drawn.failures)},
        as_json=as_json,
    )
