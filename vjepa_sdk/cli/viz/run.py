"""`vjepa viz run`: the curves of a pretraining run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Json, Quiet, Verbose, command_line, set_up_logging
from .options import Overwrite, report


def run(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="Directory that `vjepa pretrain` wrote.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Page .html, or picture .png or .svg.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw loss, signs of collapse, gradients and schedules of a run, and print their first and last values."""
    set_up_logging(quiet, verbose)
    from ...viz.run_page import draw_run

    found = draw_run(directory, out, overwrite=overwrite, command=command_line())
    ends = {metric: (found.first(metric), found.last(metric)) for metric in found.values}
    lines = [
        "\t".join([metric, *(f"{value:.6g}" for value in pair if value is not None)]) for metric, pair in ends.items()
    ]
    facts = {
        "out": str(out),
        "steps": max([*found.steps, *found.skipped]),
        "skipped_steps": len(found.skipped),
        "metrics": {metric: {"first": first, "last": last} for metric, (first, last) in ends.items()},
    }
    report("\n".join(lines), facts, as_json=as_json)
