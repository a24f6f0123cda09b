"""`vjepa bench`: what this machine does with a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..config.registry import DEFAULT_MODEL
from ..errors import printable
from .early import existing_inputs
from .options import INPUTS_HELP, Json, Model, Verbose, print_result, set_up_logging

if TYPE_CHECKING:
    from ..inference.bench import BenchReport


def bench(
    clips: Annotated[
        list[str] | None,
        typer.Argument(help=f"{INPUTS_HELP} The sample clips if left out.", callback=existing_inputs),
    ] = None,
    *,
    model: Model = DEFAULT_MODEL,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is if left out.")] = None,
    seconds: Annotated[float, typer.Option(help="About how long to measure.")] = 40.0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure this machine with a model. Decoding, encoding, memory; the best batch size, precision and workers."""
    set_up_logging(False, verbose)
    from ..inference.bench import bench as measure

    report = measure(clips or None, model=model, device=device, seconds=seconds)
    print_result(report, as_json, _describe(report))


def _describe(report: BenchReport) -> str:
    best = report.best
    decode = 1 / report.decode_clips_per_second
    memory = "" if report.memory_mb is None else f", {report.memory_mb:,.0f} MB at most"
    lines = [
        f"{report.model} on {report.device}, {report.threads} threads, {report.cores} cores{memory}",
        f"a clip: {report.num_frames} frames of {report.crop_size} px, {report.tokens:,} tokens, "
        f"{report.gflop_per_clip:.1f} GFLOP; matrix products here: {report.gemm_gflop_per_second:,.0f} GFLOP/s",
        "precision  batch   clips/s   tokens/s  GFLOP/s  of peak   cosine",
        *(
            f"{rate.precision:<9} {rate.batch_size:>6} {rate.clips_per_second:>9.2f} {rate.tokens_per_second:>10,.0f} "
            f"{rate.gflop_per_second:>8,.0f} {rate.peak_share:>8.0%} {rate.cosine:>8.5f}"
            for rate in report.rates
        ),
        f"decoding {1000 * decode:.1f} ms a clip in one process, encoding {1000 / best.clips_per_second:.1f} ms",
        f"recommended: {report.command}",
    ]
    return "\n".join(map(printable, lines))
