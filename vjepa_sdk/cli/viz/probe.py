"""`vjepa viz probe`: what a probe reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import counted
from ..options import Json, Quiet, Verbose, command_line, set_up_logging
from .options import Overwrite, report


def probe(
    directory: Annotated[str, typer.Argument(metavar="PROBE", help="Directory of `vjepa probe train`, or hub id.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Page .html, or picture .png or .svg.")],
    thumbnails: Annotated[int, typer.Option(help="Mistakes that a page shows, the surest first.")] = 24,
    num_workers: Annotated[int, typer.Option(help="Decoding processes for pictures; 0: in this one.")] = 2,
    deadline_seconds: Annotated[float, typer.Option(help="For one picture.")] = 20.0,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw what a probe reaches: what it is compared with, classes, confusions, calibration and its surest mistakes."""
    set_up_logging(quiet, verbose)
    from ...viz.probe_page import draw_probe

    found = draw_probe(
        directory,
        out,
        thumbnails=thumbnails,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        overwrite=overwrite,
        command=command_line(),
        show_progress_bar=False if quiet else None,
    )
    scores = found.scores
    name, value = "top-1" if scores.labels else "R²", scores.metrics[scores.main]
    facts = {"out": str(out), "sentence": found.sentence, **scores.to_json()}
    report(f"{out}: {name} {value:.3f} on {counted(scores.num_videos, 'test video')}", facts, as_json=as_json)
