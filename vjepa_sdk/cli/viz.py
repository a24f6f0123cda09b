"""`vjepa viz`: pictures of what an encoder sees, of features, and of runs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..config.choices import Decoder
from ..errors import printable
from .options import Json, Quiet, Verbose, set_up_logging

if TYPE_CHECKING:
    from ..viz.maps import FeatureMaps

viz = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Draw what an encoder sees, a map of features, or the curves of a run.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Film .mp4 or .gif, sheet .png, page .html, or numbers .npz.")]
Clips = Annotated[list[str], typer.Argument(help="Videos; several share their colours.")]
Model = Annotated[str, typer.Option(help="Name from `vjepa models`, a model directory, or a hub id.")]
Layer = Annotated[int | None, typer.Option(help="Block, from 0; the model's output if left out.")]
Alpha = Annotated[float, typer.Option(help="Share of the colours over the video, from 0 to 1.")]
Fps = Annotated[float | None, typer.Option(help="Frames a second to encode; the video's own, at most 16, if left out.")]
StartSeconds = Annotated[float | None, typer.Option(help="Where to begin.")]
EndSeconds = Annotated[float | None, typer.Option(help="Where to stop.")]
SourceFps = Annotated[float | None, typer.Option(help="Frame rate of directories of frames.")]
DecoderOption = Annotated[Decoder, typer.Option(help="How videos are decoded.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is if left out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]


@viz.command()
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
    from ..inference.vjepa import VJEPA
    from ..viz.maps import check_picture, save_maps
    from ..viz.page import check_output
    from ..viz.pca import Basis, PCAMaps, feature_pca_of

    check_picture(out, overwrite=overwrite)
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
        notes=(PCA_NOTE,),
        command=command_line(),
    )
    if save_basis is not None:
        found.save(save_basis, overwrite=overwrite)
    _report(out, maps, what, as_json, dict(maps[0].meta))


@viz.command()
def embeddings(
    features: Annotated[Path, typer.Argument(help="Features that `vjepa embed` wrote, one vector a row.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Page .html, or picture .png.")],
    labels: Annotated[Path | None, typer.Option(help="CSV with columns path (or id) and label.")] = None,
    method: Annotated[Literal["tsne", "pca"], typer.Option(help="t-SNE, or the principal components alone.")] = "tsne",
    perplexity: Annotated[
        float | None, typer.Option(help="Of t-SNE; 30, of few rows a third of them, if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of t-SNE and of samples.")] = 0,
    cluster: Annotated[int | None, typer.Option(help="Colour by so many k-means clusters too.")] = None,
    thumbnails: Annotated[int, typer.Option(help="Pictures at most, up to 400.")] = 400,
    decoder: DecoderOption = "pyav",
    num_workers: Annotated[int, typer.Option(help="Decoding processes for pictures; 0: in this one.")] = 2,
    deadline_seconds: Annotated[float, typer.Option(help="For one picture.")] = 20.0,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw features as a map in two dimensions, with pictures of the clips and their labels as colours."""
    set_up_logging(quiet, verbose)
    from ..hub.locate import load_embeddings
    from ..viz.map_page import check_map, draw_embeddings

    check_map(out, overwrite=overwrite)
    drawn = draw_embeddings(
        load_embeddings(features, memory_map=True),
        out,
        labels=labels,
        method=method,
        perplexity=perplexity,
        seed=seed,
        cluster=cluster,
        thumbnails=thumbnails,
        decoder=decoder,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        overwrite=overwrite,
        command=command_line(),
        show_progress_bar=False if quiet else None,
    )
    for clip, reason in drawn.failures.items():
        if not quiet:
            print(f"vjepa: no picture of {printable(clip)}: {printable(reason)}", file=sys.stderr)
    if as_json:
        quality = None if drawn.quality is None else asdict(drawn.quality)
        facts = {"points": len(drawn.points), "pictures": drawn.num_pictures, "quality": quality}
        print(json.dumps({"out": str(out), **facts, "failures": dict(drawn.failures)}, indent=2))
    else:
        print(f"{out}: {len(drawn.points):,} points")


PCA_NOTE = (
    "Equal colours mean equal features, within this job; the colours themselves mean nothing. "
    "Features of V-JEPA 1 and 2 were not trained to be clean in space."
)


def command_line() -> list[str]:
    """Return the words that make this output again."""
    return ["vjepa", *sys.argv[1:]]


def _report(out: Path, maps: list[Any] | list[FeatureMaps], what: str, as_json: bool, facts: dict[str, Any]) -> None:
    """Print what was written, one line or as JSON."""
    frames = sum(map(len, maps))
    if as_json:
        print(json.dumps({"out": str(out), "clips": len(maps), "frames": frames, **facts}, indent=2))
    else:
        print(f"{out}: {frames} frames, {what}")
