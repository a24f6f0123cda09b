"""`vjepa viz attention`: what a probe looks at."""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import Json, ProbedModel, Quiet, Verbose, command_line, set_up_logging
from .options import (
    Alpha,
    Clip,
    DecoderOption,
    Device,
    EndSeconds,
    Out,
    Overwrite,
    SourceFps,
    StartSeconds,
    report,
)


def attention(
    clip: Clip,
    *,
    probe: Annotated[str, typer.Option(help="Directory or hub id of an attentive probe for the model.")],
    out: Out,
    model: ProbedModel = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Show every head in films and sheets; pages always do.")
    ] = False,
    alpha: Alpha = 0.6,
    fps: Annotated[
        float | None,
        typer.Option(help="Take the clip's frames at this rate; spread over all of the video if left out."),
    ] = None,
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
    """Show what an attentive probe looks at in a clip: the weights of its query, their mean and each head."""
    set_up_logging(quiet, verbose)
    from ...viz.pictures import check_picture

    check_picture(out, overwrite=overwrite)
    from ...downstream.probe import Probe
    from ...errors import printable
    from ...inference.vjepa import VJEPA
    from ...viz.attention import attention_maps

    held = Probe.from_pretrained(probe, device=device)
    maps = attention_maps(
        VJEPA.from_pretrained(model or held.model_name, device=device),
        clip,
        probe=held,
        fps=fps,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        source_fps=source_fps,
        decoder=decoder,
        show_progress_bar=False if quiet else None,
    )
    maps.save(out, alpha=alpha, overwrite=overwrite, command=command_line(), heads=heads)
    name, probability = maps.classes[0]
    facts = {"out": str(out), "frames": len(maps), "heads": len(maps.weights), **maps.meta}
    line = f"{out}: {len(maps)} frames, {len(maps.weights)} heads, {printable(name)} {probability:.2f}"
    report(line, facts, as_json=as_json)
