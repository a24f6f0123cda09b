"""`vjepa surprise`: how wrong the predicted future of videos is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config.registry import DEFAULT_MODEL
from ..config.surprise import CONTEXTS
from ..errors import counted, printable
from .exit_codes import COMPLETE, SOME_SKIPPED
from .options import FollowSymlinks, Inputs, Json, Model, Quiet, Verbose, print_result, set_up_logging
from .surprise_options import (
    BatchSize,
    Context,
    Crop,
    DecoderOption,
    Device,
    Floor,
    Fps,
    FrameStep,
    Horizon,
    Normal,
    NumFrames,
    Protocol,
    Reduce,
    Revision,
    SourceFps,
    StrideTubelets,
    Targets,
    read_reduction,
    read_shares,
)

if TYPE_CHECKING:
    from ..downstream.surprise_files import SurpriseReport


def surprise(
    inputs: Inputs,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Curve over time; the suffix decides the format: .csv, .jsonl or .parquet."),
    ] = None,
    model: Model = DEFAULT_MODEL,
    revision: Revision = None,
    protocol: Protocol = None,
    num_frames: NumFrames = None,
    fps: Fps = None,
    frame_step: FrameStep = None,
    stride_tubelets: StrideTubelets = 1,
    context: Context = None,
    reduce: Reduce = "min",
    horizon: Horizon = None,
    targets: Targets = "window",
    crop: Crop = None,
    floor: Floor = False,
    fit_normal: Annotated[
        Path | None, typer.Option(help="Take the inputs for normal footage; write its normaliser, a .safetensors.")
    ] = None,
    normal: Normal = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV to score against: path,label[,pair], or path,start_seconds,end_seconds."),
    ] = None,
    source_fps: SourceFps = None,
    batch_size: BatchSize = 8,
    decoder: DecoderOption = "pyav",
    device: Device = None,
    num_workers: Annotated[int, typer.Option(help="Decoding processes.")] = 2,
    deadline_seconds: Annotated[
        float, typer.Option(help="Give up on a video a piece of which decodes longer than this, twice.")
    ] = 60.0,
    follow_symlinks: FollowSymlinks = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure how wrong the predicted future is. Prints path, mean error, peak of the curve and its second."""
    set_up_logging(quiet, verbose)
    from ..downstream.surprise_files import surprise_files

    report = surprise_files(
        inputs,
        out,
        model=model,
        revision=revision,
        protocol=protocol,
        num_frames=num_frames,
        fps=fps,
        frame_step=frame_step,
        stride_tubelets=stride_tubelets,
        context=CONTEXTS if context is None else read_shares(context),
        reduce=read_reduction(reduce),
        horizon=horizon,
        targets=targets,
        crop=crop,
        floor=floor,
        fit_normal=fit_normal,
        normal=normal,
        labels=labels,
        source_fps=source_fps,
        batch_size=batch_size,
        decoder=decoder,
        device=device,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        follow_symlinks=follow_symlinks,
        overwrite=overwrite,
        show_progress_bar=False if quiet else None,
    )
    for failure in report.failures:
        print(f"vjepa: skipped {printable(failure['path'])}: {failure['reason']}", file=sys.stderr)
    print_result(report, as_json, "\n".join(_lines(report)))
    if report.failures and not quiet:
        total = len(report.failures) + (len(report.videos) or report.fitted_videos)
        print(f"vjepa: {len(report.failures)} of {total} videos skipped", file=sys.stderr)
    raise typer.Exit(SOME_SKIPPED if report.failures else COMPLETE)


def _lines(report: SurpriseReport) -> list[str]:
    lines = []
    if report.fitted is not None:
        lines.append(
            f"{report.fitted}: {counted(report.fitted_windows, 'window')} of {counted(report.fitted_videos, 'video')}"
        )
    for video in report.videos:
        floor = [] if video.floor is None else [f"floor {video.floor:.4f}"]
        values = (f"{video.mean:.4f}", f"{video.peak:.3f}", f"{video.peak_seconds:.2f}", *floor)
        lines.append("\t".join((printable(video.id), *values)))
    for name, value in (report.metrics or {}).items():
        lines.append(
            f"{name}\t{value:.4f}" if isinstance(value, float) else f"{name}\t{'-' if value is None else value}"
        )
    return lines
