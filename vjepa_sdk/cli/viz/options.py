"""Options that several pictures have, and how they report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ...config.choices import Decoder
from ..early import existing_video, existing_videos

Out = Annotated[Path, typer.Option("--out", "-o", help="Film .mp4 or .gif, sheet .png, page .html, or numbers .npz.")]
Clip = Annotated[str, typer.Argument(help="A video.", callback=existing_video)]
Clips = Annotated[list[str], typer.Argument(help="Videos; several share their colours.", callback=existing_videos)]
Layer = Annotated[int | None, typer.Option(help="Block, from 0; the model's output if left out.")]
Alpha = Annotated[float, typer.Option(help="Share of the colours over the video, from 0 to 1.")]
Fps = Annotated[float | None, typer.Option(help="Frames a second to encode; the video's own, at most 16, if left out.")]
StartSeconds = Annotated[float | None, typer.Option(help="Where to begin.")]
EndSeconds = Annotated[float | None, typer.Option(help="Where to stop.")]
SourceFps = Annotated[float | None, typer.Option(help="Frame rate of directories of frames.")]
DecoderOption = Annotated[Decoder, typer.Option(help="How videos are decoded.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is if left out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]


def report(line: str, facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what was written: one line, or facts as JSON."""
    print(json.dumps(dict(facts), indent=2) if as_json else line)
