"""`vjepa check`: find out which files can be decoded."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from ..config.choices import Decoder
from ..errors import printable
from .exit_codes import COMPLETE, FAILED, SOME_SKIPPED
from .options import FollowSymlinks, Inputs, Json, Verbose, set_up_logging

if TYPE_CHECKING:
    from ..corpus.check import CheckedFile


def check(
    inputs: Inputs,
    *,
    full: Annotated[bool, typer.Option("--full", help="Decode every frame, not three.")] = False,
    decoder: Annotated[Decoder, typer.Option(help="Video decoder.")] = "pyav",
    num_workers: Annotated[int, typer.Option(help="Decoding processes.")] = 2,
    deadline_seconds: Annotated[
        float, typer.Option(help="Give up on a file that decodes longer than this, twice.")
    ] = 60.0,
    follow_symlinks: FollowSymlinks = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, and list bad files only.")] = False,
    verbose: Verbose = False,
) -> None:
    """Find out which videos and images can be decoded. Says why the others cannot."""
    from ..corpus.check import check_files

    set_up_logging(quiet, verbose)
    files = check_files(
        inputs,
        full=full,
        decoder=decoder,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        follow_symlinks=follow_symlinks,
        show_progress_bar=False if quiet else None,
    )
    num_bad = sum(not file.is_good for file in files)
    if as_json:
        listed = [dataclasses.asdict(file) for file in files if not (quiet and file.is_good)]
        print(json.dumps({"checked": len(files), "bad": num_bad, "files": listed}, indent=2))
    else:
        for file in files:
            if not (quiet and file.is_good):
                print(_describe(file))
        print(f"{len(files) - num_bad} of {len(files)} can be decoded")
    raise typer.Exit(FAILED if num_bad == len(files) else SOME_SKIPPED if num_bad else COMPLETE)


def _describe(file: CheckedFile) -> str:
    """Return a line of the table: verdict, codec, size, rate, frames, duration, path, and the reason if it is bad."""
    cells = (
        (file.codec or file.kind, 8),
        (f"{file.width}x{file.height}" if file.width else "-", 11),
        (f"{file.fps:.5g} fps" if file.fps else "-", 10),
        (f"{file.num_frames} frames" if file.num_frames else "-", 12),
        (f"{file.duration_seconds:.2f} s" if file.duration_seconds is not None else "-", 10),
    )
    facts = " ".join(f"{text:<{width}}" for text, width in cells)
    combed = f" ({file.num_interlaced} of {file.num_decoded} frames interlaced)" if file.num_interlaced else ""
    reason = combed if file.is_good else f": {file.reason}"
    return f"{'ok ' if file.is_good else 'BAD'} {facts} {printable(file.path)}{reason}"
