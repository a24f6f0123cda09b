"""`vjepa surprise`: how wrong the predicted future of videos is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config.choices import Decoder
from ..config.registry import DEFAULT_MODEL
from ..config.surprise import CONTEXTS, ContextReduction, SurpriseCrop, SurpriseProtocol, SurpriseTargets
from ..errors import ConfigError, printable
from .exit_codes import COMPLETE, SOME_SKIPPED
from .options import INPUTS_HELP, FollowSymlinks, Json, Quiet, Verbose, print_result, set_up_logging

if TYPE_CHECKING:
    from ..downstream.surprise_files import SurpriseReport


def surprise(
    inputs: Annotated[list[str], typer.Argument(help=INPUTS_HELP)],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Curve over time; the suffix decides the format: .csv, .jsonl or .parquet."),
    ] = None,
    model: Annotated[str, typer.Option(help="Name from `vjepa models`, model directory or hub id.")] = DEFAULT_MODEL,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub repository.")] = None,
    protocol: Annotated[
        SurpriseProtocol | None, typer.Option(help="Frames and pixels of the intuitive-physics study, by data set.")
    ] = None,
    num_frames: Annotated[int | None, typer.Option(help="Frames of a window; the model's own if left out.")] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second to look at; the rate of training, where the model says it.")
    ] = None,
    frame_step: Annotated[int | None, typer.Option(help="Look at every n-th frame instead.")] = None,
    stride_tubelets: Annotated[int, typer.Option(help="From one window to the next.")] = 1,
    context: Annotated[
        str | None, typer.Option(help="Shares of a window that are shown, as 0.25,0.5; 1/8 to 5/8 if left out.")
    ] = None,
    reduce: Annotated[
        str, typer.Option(help="What is kept of a window's contexts: min, mean, or the tubelets of one.")
    ] = "min",
    horizon: Annotated[
        int | None, typer.Option(help="Tubelets after a context that count in the curve; all if left out.")
    ] = None,
    targets: Annotated[
        SurpriseTargets, typer.Option(help="past: encode the truth without what comes later; slower.")
    ] = "window",
    crop: Annotated[
        SurpriseCrop | None, typer.Option(help="Pixels; the protocol's, else the model's if left out.")
    ] = None,
    floor: Annotated[bool, typer.Option("--floor", help="Measure the guess that nothing changes, too.")] = False,
    fit_normal: Annotated[
        Path | None, typer.Option(help="Take the inputs for normal footage; write its normaliser, a .safetensors.")
    ] = None,
    normal: Annotated[Path | None, typer.Option(help="Compare with this normaliser.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV to score against: path,label[,pair], or path,start_seconds,end_seconds."),
    ] = None,
    source_fps: Annotated[float | None, typer.Option(help="Frame rate of directories of frames.")] = None,
    batch_size: Annotated[int, typer.Option(help="Windows measured together.")] = 8,
    decoder: Annotated[Decoder, typer.Option(help="Video decoder.")] = "pyav",
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is if left out.")] = None,
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
        context=CONTEXTS if context is None else _shares(context),
        reduce=_reduction(reduce),
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
        lines.append(f"{report.fitted}: {report.fitted_windows} windows of {report.fitted_videos} videos")
    for video in report.videos:
        floor = [] if video.floor is None else [f"floor {video.floor:.4f}"]
        values = (f"{video.mean:.4f}", f"{video.peak:.3f}", f"{video.peak_seconds:.2f}", *floor)
        lines.append("\t".join((printable(video.id), *values)))
    for name, value in (report.metrics or {}).items():
        lines.append(
            f"{name}\t{value:.4f}" if isinstance(value, float) else f"{name}\t{'-' if value is None else value}"
        )
    return lines


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(f"context={text} must be shares of a window such as 0.25,0.5") from error


def _reduction(text: str) -> ContextReduction | int:
    words: dict[str, ContextReduction] = {"min": "min", "mean": "mean"}
    if text in words or text.isdecimal():
        return words.get(text) or int(text)
    raise ConfigError(f"reduce={text} must be min, mean, or the tubelets of one context")
