"""`vjepa merge`: make one output of the shares of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .exit_codes import COMPLETE, SOME_SKIPPED
from .options import Json, Quiet, Verbose, print_result, set_up_logging


def merge(
    parts: Annotated[list[str], typer.Argument(help="What `vjepa embed --shard` wrote: files, and patterns of them.")],
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Output; the suffix decides the format: .npy, .npz, .safetensors or .parquet."
        ),
    ],
    allow_mixed: Annotated[
        bool,
        typer.Option("--allow-mixed", help="Take parts made by other versions, devices or numbers of threads."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make one output of all shares of a job, the same as that of the job without --shard."""
    from ..inference.embed.merge import merge_embeddings

    set_up_logging(quiet, verbose)
    result = merge_embeddings(parts, out, allow_mixed=allow_mixed, overwrite=overwrite)
    state = "already complete, " if result.already_complete else ""
    skipped = f", {result.failed} skipped (see {result.errors_path})" if result.failed else ""
    print_result(result, as_json, f"{out}: {state}{result.rows} rows of {result.parts} shares{skipped}")
    raise typer.Exit(SOME_SKIPPED if result.failed else COMPLETE)
