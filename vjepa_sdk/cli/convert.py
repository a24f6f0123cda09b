"""`vjepa convert`: official checkpoints and transformers directories to model directories, and back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from ..config.choices import EncoderWeights, Layout
from ..config.documents import read_json, read_toml
from ..config.model import ModelConfig
from ..config.schema import from_dict
from ..errors import ConfigError
from .options import Json, Verbose, print_result, set_up_logging


def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="Official checkpoint or probe file, model directory, or a model's name."),
    ],
    out: Annotated[Path, typer.Argument(help="Directory to write; must not hold anything.")],
    *,
    arch: Annotated[
        str | None, typer.Option(help="Published model or probe the file is, where the file cannot tell.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML or JSON file with the model's shape, instead of --arch.")
    ] = None,
    layout: Annotated[Layout, typer.Option(help="Write our layout, or transformers' for V-JEPA 2.")] = "vjepa",
    weights: Annotated[
        EncoderWeights | None, typer.Option(help="Encoder to write in transformers' layout, which holds one.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Convert official checkpoints and transformers directories. Says what became of every tensor.

    A name from `vjepa models` is fetched first: the official checkpoint, with both encoders and the predictor.
    """
    set_up_logging(False, verbose)
    if arch is not None and config is not None:
        raise ConfigError(f"--arch {arch} and --config {config} exclude each other; pass one")
    shape = (
        from_dict(ModelConfig, read_json(config) if config.suffix == ".json" else read_toml(config)) if config else arch
    )
    from ..hub.convert_named import convert as run_conversion

    report = run_conversion(source, out, arch=shape, layout=layout, weights=weights)
    reasons = Counter(report.dropped.values())
    dropped = "".join(f"\n  dropped {count}: {reason}" for reason, count in sorted(reasons.items()))
    print_result(report, as_json, f"{out}: {report.kind} {report.architecture}, {len(report.mapped)} tensors{dropped}")
