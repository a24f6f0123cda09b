"""Options of the commands that measure surprise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config.choices import Decoder
from ..config.surprise import ContextReduction, SurpriseCrop, SurpriseProtocol, SurpriseTargets
from ..errors import ConfigError

Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub repository.")]
Protocol = Annotated[
    SurpriseProtocol | None, typer.Option(help="Frames and pixels of the intuitive-physics study, by data set.")
]
NumFrames = Annotated[int | None, typer.Option(help="Frames of a window; the model's own if left out.")]
Fps = Annotated[
    float | None, typer.Option(help="Frames a second to look at; the rate of training, where the model says it.")
]
FrameStep = Annotated[int | None, typer.Option(help="Look at every n-th frame instead.")]
StrideTubelets = Annotated[int, typer.Option(help="From one window to the next.")]
Context = Annotated[
    str | None, typer.Option(help="Shares of a window that are shown, as 0.25,0.5; 1/8 to 5/8 if left out.")
]
Reduce = Annotated[str, typer.Option(help="What is kept of a window's contexts: min, mean, or the tubelets of one.")]
Horizon = Annotated[int | None, typer.Option(help="Tubelets after a context that count in the curve; all if left out.")]
Targets = Annotated[SurpriseTargets, typer.Option(help="past: encode the truth without what comes later; slower.")]
Crop = Annotated[SurpriseCrop | None, typer.Option(help="Pixels; the protocol's, else the model's if left out.")]
Floor = Annotated[bool, typer.Option("--floor", help="Measure the guess that nothing changes, too.")]
Normal = Annotated[Path | None, typer.Option(help="Compare with this normaliser.")]
SourceFps = Annotated[float | None, typer.Option(help="Frame rate of directories of frames.")]
BatchSize = Annotated[int, typer.Option(help="Windows measured together.")]
DecoderOption = Annotated[Decoder, typer.Option(help="Video decoder.")]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu; the best there is if left out.")]


def read_shares(text: str) -> tuple[float, ...]:
    """Return shares of a window, given with commas between."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(f"context={text} must be shares of a window such as 0.25,0.5") from error


def read_reduction(text: str) -> ContextReduction | int:
    """Return what is kept of a window's contexts."""
    words: dict[str, ContextReduction] = {"min": "min", "mean": "mean"}
    if text in words or text.isdecimal():
        return words.get(text) or int(text)
    raise ConfigError(f"reduce={text} must be min, mean, or the tubelets of one context")
