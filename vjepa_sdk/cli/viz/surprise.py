"""`vjepa viz surprise`: how wrong the predicted future of a video is, and where."""

from __future__ import annotations

from typing import Annotated

import typer

from ...config.registry import DEFAULT_MODEL
from ...config.surprise import CONTEXTS
from ...errors import counted
from ..options import Json, Model, Quiet, Verbose, command_line, set_up_logging
from ..surprise_options import (
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
from .options import Alpha, Clip, EndSeconds, Out, Overwrite, StartSeconds, report


def surprise(
    clip: Clip,
    *,
    out: Out,
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
    normal: Normal = None,
    threshold: Annotated[
        float | None, typer.Option(help="Above which a moment is an event; 4 standard deviations if left out.")
    ] = None,
    half_life_seconds: Annotated[float, typer.Option(help="Smooth the curve, looking back only.")] = 0.0,
    alpha: Alpha = 0.6,
    start_seconds: StartSeconds = None,
    end_seconds: EndSeconds = None,
    source_fps: SourceFps = None,
    batch_size: BatchSize = 8,
    decoder: DecoderOption = "pyav",
    device: Device = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show when, and where in the frame, the predicted future of a clip is wrong: a curve beside the film."""
    set_up_logging(quiet, verbose)
    from ...viz.pictures import check_picture

    check_picture(out, overwrite=overwrite)
    from ...downstream.surprise import SurpriseNormalizer
    from ...inference.vjepa import VJEPA
    from ...viz.surprise_page import surprise_maps

    normalizer = None if normal is None else SurpriseNormalizer.load(normal)
    maps = surprise_maps(
        VJEPA.from_pretrained(model, revision=revision, device=device),
        clip,
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
        normalizer=normalizer,
        threshold=threshold,
        half_life_seconds=half_life_seconds,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        source_fps=source_fps,
        batch_size=batch_size,
        decoder=decoder,
        show_progress_bar=False if quiet else None,
    )
    maps.save(out, alpha=alpha, overwrite=overwrite, command=command_line())
    seconds, peak = maps.surprise.peak
    events = [vars(event) for event in maps.events]
    facts = {
        "out": str(out),
        "frames": len(maps),
        "score": maps.surprise.score(),
        "peak": peak,
        "peak_seconds": seconds,
    }
    report(
        f"{out}: {len(maps)} frames, peak {peak:.2f} at {seconds:.2f} s, {counted(len(events), 'event')}",
        {**facts, "events": events, **maps.meta},
        as_json=as_json,
    )
