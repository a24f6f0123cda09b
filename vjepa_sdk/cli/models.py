"""`vjepa models`: what is known by name, and what of it is here."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from ..hub.inventory import ModelState, list_states
from .options import Json

_HEADER = ("name", "params", "clip", "licence", "download", "cached", "from")
_FROM = {"bundled": "wheel", "hub": "hub", "file": "file"}
_NOTE = "from: wheel and hub load directly; file is converted once, at first use.\nclip: frames x pixels. ~: estimated."


def models(
    cached: Annotated[bool, typer.Option("--cached", help="Only those that load without a network.")] = False,
    as_json: Json = False,
) -> None:
    """List the models known by name: size, licence, download, and whether they are here already."""
    found = [state for state in list_states() if state.is_cached or not cached]
    if as_json:
        print(json.dumps([_entry(state) for state in found], indent=2))
        return
    print(_line(_HEADER))
    for state in found:
        print(_line(_cells(state)))
    print(_NOTE)


def _entry(state: ModelState) -> dict[str, object]:
    return {
        **dataclasses.asdict(state.info),
        "download_bytes": state.info.download_bytes,
        "download_is_estimate": state.is_estimate,
        "from": state.kind,
        "loads_directly": state.kind != "file",
        "cached": state.is_cached,
    }


def _cells(state: ModelState) -> tuple[str, ...]:
    info = state.info
    size = f"{'~' if state.is_estimate else ''}{info.download_bytes / 1e9:.1f} GB" if info.download_bytes else "-"
    return (
        info.name,
        f"{info.parameters / 1e6:.{0 if info.parameters >= 1e7 else 1}f} M",
        f"{info.num_frames}x{info.resolution}",
        info.licence,
        size,
        "yes" if state.is_cached else "-",
        _FROM[state.kind],
    )


def _line(cells: tuple[str, ...]) -> str:
    name, parameters, clip, licence, download, cached, kind = cells
    return f"{name:<26} {parameters:>6}  {clip:<6}  {licence:<12} {download:>8}  {cached:<6}  {kind}"
