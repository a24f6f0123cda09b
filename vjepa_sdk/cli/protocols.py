"""The option `--protocol`, and what `--protocol help` prints."""

from __future__ import annotations

from typing import Annotated

import typer

from ..config.protocols import SIMPLE, ProbeProtocol, list_protocols


def protocol_lines() -> list[str]:
    """Return what there is to choose from, with the published numbers."""
    lines = [f"{SIMPLE}: one clip a video, as `vjepa embed` takes it"]
    for protocol in list_protocols():
        lines += ["", f"{protocol.name}: {protocol.data}, {protocol.num_classes:,} classes", f"  {protocol.settings()}"]
        lines.append(f"  published top-1 ({protocol.source}): {_numbers(protocol)}")
    return lines


def _numbers(protocol: ProbeProtocol) -> str:
    return ", ".join(f"{model} {top1:.1f}" for model, top1 in protocol.published.items())


def _help(value: str) -> str:
    if value == "help":
        print("\n".join(protocol_lines()))
        raise typer.Exit
    return value


ProtocolOption = Annotated[
    str,
    typer.Option(
        "--protocol",
        callback=_help,
        is_eager=True,
        metavar="NAME|help",
        help="Official evaluation to repeat; help lists them with the published numbers.",
    ),
]
OfficialSampling = Annotated[
    bool,
    typer.Option("--official-sampling", help="Draw where test clips lie in their segments, instead of the middle."),
]
