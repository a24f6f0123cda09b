"""`vjepa demo`: a tour on the sample videos."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Quiet, Verbose, command_line, set_up_logging


def demo(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for features and page; it is made.")] = Path(
        "vjepa-demo"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do it again where it was done before.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Embed twelve sample videos, find those alike, and write a page of it. Works offline."""
    set_up_logging(quiet, verbose)
    from ..viz.demo import run_demo

    found = run_demo(out, overwrite=overwrite, show_progress_bar=False if quiet else None, command=command_line())
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=2, default=str))
        return
    print(f"{found.features}: {found.rows} videos, {found.dim} features each, by vjepa-tiny")
    print(f"most like {found.query.name}:")
    for hit in found.hits:
        print(f"  {hit.score:.4f}  {Path(hit.path).name}")
    print(f"{found.page}: open it in a browser")
    print("next: vjepa embed YOUR_VIDEOS/ --out feats.npy; vjepa search CLIP --index feats.npy; vjepa --help")
