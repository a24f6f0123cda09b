"""`vjepa viz similarity`: what is like a point of a video."""

from __future__ import annotations

from typing import Annotated

import typer

from ...config.choices import Metric
from ...errors import ConfigError
from ..options import Json, Model, Quiet, Verbose, command_line, set_up_logging
from .options import (
    Alpha,
    Clip,
    DecoderOption,
    Device,
    EndSeconds,
    Fps,
    Layer,
    Out,
    Overwrite,
    SourceFps,
    StartSeconds,
    report,
)


def similarity(
    clip: Clip,
    *,
    at: Annotated[
        str, typer.Option(metavar="SECONDS,X,Y", help="The point; x and y from 0 to 1 of the frame, from left and top.")
    ],
    out: Out,
    model: Model = "vjepa-tiny",
    layer: Layer = None,
    metric: Annotated[
        Metric, typer.Option(help="centered: without the mean of all tokens, which is a large part of each.")
    ] = "cosine",
    alpha: Alpha = 0.6,
    fps: Fps = None,
    start_seconds: StartSeconds = None,
    end_seconds: EndSeconds = None,
    source_fps: SourceFps = None,
    decoder: DecoderOption = "pyav",
    device: Device = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show which tokens are like the one at a point; in a page, a click moves the point."""
    set_up_logging(quiet, verbose)
    point = _point(at)
    from ...viz.pictures import check_picture

    check_picture(out, overwrite=overwrite)
    from ...inference.vjepa import VJEPA
    from ...viz.similarity import similarity_map

    maps = similarity_map(
        VJEPA.from_pretrained(model, device=device),
        clip,
        at=point,
        metric=metric,
        layer=layer,
        fps=fps,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        source_fps=source_fps,
        decoder=decoder,
        show_progress_bar=False if quiet else None,
    )
    maps.save(out, alpha=alpha, overwrite=overwrite, command=command_line())
    facts = {"out": str(out), "frames": len(maps), "token": maps.point.token, **maps.meta}
    report(f"{out}: {len(maps)} frames, {metric} similarity with {maps.point}", facts, as_json=as_json)


def _point(text: str) -> tuple[float, float, float]:
    try:
        seconds, x, y = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--at {text} must be seconds, x and y, such as 1.2,0.5,0.4") from None
    return seconds, x, y
