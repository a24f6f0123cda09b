"""`vjepa viz pca`: what an encoder takes for alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..options import Json, Model, Quiet, Verbose, command_line, set_up_logging
from .options import (
    Alpha,
    Clips,
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

_NOTE = (
    "Equal colours mean equal features, within this job; the colours themselves mean nothing. "
    "Features of V-JEPA 1 and 2 were not trained to be clean in space."
)


def pca(
    clips: Clips,
    *,
    out: Out,
    model: Model = "vjepa-tiny",
    layer: Layer = None,
    components: Annotated[int, typer.Option(help="1 to 3, as red, green and blue.")] = 3,
    foreground: Annotated[
        Literal["none", "auto"], typer.Option(help="auto: dim what the first component takes for background.")
    ] = "none",
    scale: Annotated[
        Literal["sigmoid", "percentile"], typer.Option(help="How values become colours, the same for the whole job.")
    ] = "sigmoid",
    remove: Annotated[
        Literal["none", "position"], typer.Option(help="position: subtract what the model says of a grey video.")
    ] = "none",
    basis: Annotated[Path | None, typer.Option(help="Take the colours of an earlier job (from --save-basis).")] = None,
    save_basis: Annotated[Path | None, typer.Option(help="Keep the colours of this job: a .safetensors.")] = None,
    compare_random: Annotated[
        bool, typer.Option("--compare-random", help="Show the same model with random weights beside it.")
    ] = False,
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
    """Colour what an encoder takes for alike: the principal components of its tokens, stable over time and clips."""
    set_up_logging(quiet, verbose)
    from ...viz.pictures import check_picture

    check_picture(out, overwrite=overwrite)
    from ...inference.vjepa import VJEPA
    from ...viz.maps import save_maps
    from ...viz.page import check_output
    from ...viz.pca import Basis, PCAMaps, feature_pca_of

    if save_basis is not None:
        check_output(save_basis, overwrite=overwrite)
    given = None if basis is None else Basis.load(basis)
    loaded = VJEPA.from_pretrained(model, device=device)

    def draw(encoder: VJEPA, known: Basis | None) -> list[PCAMaps]:
        return feature_pca_of(
            encoder,
            clips,
            layer=layer,
            components=components,
            foreground=foreground,
            scale=scale,
            basis=known,
            remove=remove,
            fps=fps,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
            source_fps=source_fps,
            decoder=decoder,
            show_progress_bar=False if quiet else None,
        )

    maps = draw(loaded, given)
    random = draw(VJEPA.untrained(loaded.config, device=device), None) if compare_random else []
    found = maps[0].basis
    what = f"{len(found.explained)} components explain {100 * float(found.explained.sum()):.0f} %"
    save_maps(
        maps,
        out,
        beside=[replace(each, label="random weights") for each in random],
        alpha=alpha,
        overwrite=overwrite,
        title="What the encoder takes for alike",
        summary=f"{what[0].upper()}{what[1:]} of the variance of {Path(model).name}'s tokens.",
        notes=(_NOTE,),
        command=command_line(),
    )
    if save_basis is not None:
        found.save(save_basis, overwrite=overwrite)
    frames = sum(map(len, maps))
    facts = {"out": str(out), "clips": len(maps), "frames": frames, **maps[0].meta}
    report(f"{out}: {frames} frames, {what}", facts, as_json=as_json)
