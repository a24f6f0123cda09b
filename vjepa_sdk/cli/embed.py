"""`vjepa embed`: export features of a corpus."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config.choices import Decoder, Dtype, EncoderWeights, OnError, Pooling, Precision, Tail
from ..config.registry import DEFAULT_MODEL
from ..errors import ConfigError
from .exit_codes import COMPLETE, SOME_SKIPPED, STOPPED
from .options import FollowSymlinks, Inputs, Json, Model, Quiet, Verbose, print_result, set_up_logging

if TYPE_CHECKING:
    from ..inference.embed.job import EmbedResult


def embed(
    inputs: Inputs,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Output; the suffix decides the format: .npy, .npz, .safetensors or .parquet."
        ),
    ],
    split: Annotated[
        str | None, typer.Option(help="Only lines of lists with this value in the column `split`.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub repository.")] = None,
    weights: Annotated[EncoderWeights | None, typer.Option(help="Which encoder, where both exist.")] = None,
    pooling: Annotated[Pooling, typer.Option(help="One vector a row, one a tubelet, or one a token.")] = "mean",
    layers: Annotated[
        str | None, typer.Option(help="Blocks to take features of: their numbers, as 5,11, or 4 for the last four.")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option(help="Frames of a clip or window; the model's own if left out.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Sample at this rate instead of evenly over the video.")] = None,
    window_seconds: Annotated[
        float | None, typer.Option(help="Cut videos into windows of this length, a row for each.")
    ] = None,
    stride_seconds: Annotated[
        float | None, typer.Option(help="From window to window; their length if left out.")
    ] = None,
    tail: Annotated[Tail, typer.Option(help="What becomes of an end that does not fill a window.")] = "pad",
    source_fps: Annotated[float | None, typer.Option(help="Frame rate of directories of frames.")] = None,
    batch_size: Annotated[int, typer.Option(help="Clips encoded together.")] = 8,
    normalize_embeddings: Annotated[
        bool, typer.Option("--normalize-embeddings", help="Scale every vector to length 1.")
    ] = False,
    dtype: Annotated[Dtype, typer.Option(help="Of the features on disk.")] = "float32",
    precision: Annotated[
        Precision, typer.Option(help="What features are computed in; auto measures whether bfloat16 is quicker here.")
    ] = "float32",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the model first, which takes a minute; needs a C++ compiler.")
    ] = False,
    decoder: Annotated[Decoder, typer.Option(help="Video decoder.")] = "pyav",
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is if left out.")] = None,
    num_workers: Annotated[int, typer.Option(help="Decoding processes.")] = 2,
    deadline_seconds: Annotated[
        float, typer.Option(help="Give up on a clip that decodes longer than this, twice.")
    ] = 60.0,
    max_failures: Annotated[
        str | None, typer.Option(help="Stop when more than this share of the clips fails: 0.05 or 5%.")
    ] = None,
    on_error: Annotated[OnError, typer.Option(help="List a clip that fails and go on, or stop at it.")] = "skip",
    follow_symlinks: FollowSymlinks = False,
    shard: Annotated[
        str | None,
        typer.Option(help="Take one share of the clips, such as 3/16, or auto from the scheduler; see `vjepa merge`."),
    ] = None,
    extend: Annotated[bool, typer.Option("--extend", help="Add clips that the output does not have yet.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Export features of videos. One row for each clip or window, in the order of the sorted paths."""
    from ..inference.embed.job import embed_files

    set_up_logging(quiet, verbose)
    result = embed_files(
        inputs,
        out,
        split=split,
        model=model,
        revision=revision,
        weights=weights,
        pooling=pooling,
        layers=None if layers is None else read_layers(layers),
        num_frames=num_frames,
        fps=fps,
        window_seconds=window_seconds,
        stride_seconds=stride_seconds,
        tail=tail,
        source_fps=source_fps,
        batch_size=batch_size,
        normalize_embeddings=normalize_embeddings,
        dtype=dtype,
        precision=precision,
        compile=compile,
        decoder=decoder,
        device=device,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        on_error=on_error,
        follow_symlinks=follow_symlinks,
        shard=shard,
        extend=extend,
        overwrite=overwrite,
        show_progress_bar=False if quiet else None,
    )
    if result.clips and not quiet:
        number, unit = (result.windows, "windows") if result.windows else (result.clips, "clips")
        counted = f"{number} {unit if number > 1 else unit.removesuffix('s')}"
        rate = f"{counted} in {result.clips_seconds:.1f} s, {number / result.clips_seconds:.3g} {unit}/s"
        print(f"vjepa: {rate}; the encoder waited {result.decode_wait_seconds:.1f} s for decoding", file=sys.stderr)
        if verbose:
            print(f"vjepa: {describe_seconds(result)}", file=sys.stderr)
    if result.interrupted:
        print_result(result, as_json, f"{out}: stopped; run the same command again to go on")
        raise typer.Exit(STOPPED)
    state = "already complete, " if result.already_complete else ""
    state += "columns updated, " if result.columns_updated else ""
    skipped = f", {result.failed} skipped (see {result.errors_path})" if result.failed else ""
    print_result(result, as_json, f"{out}: {state}{result.rows} rows{skipped}")
    raise typer.Exit(SOME_SKIPPED if result.failed else COMPLETE)


def describe_seconds(result: EmbedResult) -> str:
    """Return where the seconds of a run went; what is not told apart is writing."""
    parts = {
        "listing": result.listing_seconds,
        "starting": result.starting_seconds,
        "waiting for decoding": result.decode_wait_seconds,
        "encoding": result.encode_seconds,
    }
    parts["writing"] = result.seconds - sum(parts.values())
    told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items())
    workers = f"; decoding processes took {result.decode_cpu_seconds:.2f} CPU s" if result.decode_cpu_seconds else ""
    return f"{told}{workers}"


def read_layers(text: str) -> int | list[int]:
    """Read `4` as the last four blocks and `5,11`, or `5,` for a single one, as their numbers."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers:
        raise ConfigError(f"layers={text} must be numbers of blocks such as 5,11, or 4 for the last four")
    return numbers if "," in text else numbers[0]
