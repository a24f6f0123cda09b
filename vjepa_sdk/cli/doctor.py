"""`vjepa doctor`: what works on this machine."""

from __future__ import annotations

import typer

from ..errors import printable
from .exit_codes import COMPLETE, FAILED
from .options import Json, Verbose, print_result, set_up_logging


def doctor(as_json: Json = False, verbose: Verbose = False) -> None:
    """Say what works on this machine. Versions, devices, decoders, the hub, its cache; exit code 1 if one fails."""
    set_up_logging(False, verbose)
    from .diagnosis import examine

    report = examine()
    hub, cache = report.hub, report.cache
    tables = {
        "versions": report.versions,
        "devices": report.devices,
        **{f"decoder {name}": states for name, states in report.decoders.items()},
        "hub": {hub.endpoint: hub.state, "token": "yes" if hub.has_token else "no"},
        "cache": {
            cache.directory: f"{cache.bytes / 1e9:.1f} GB in {cache.repositories} repositories, "
            f"{cache.free_bytes / 1e9:.1f} GB free"
        },
        "sandbox": {layer: "yes" if is_active else "no" for layer, is_active in report.sandbox.items()},
        **({"notes": dict.fromkeys(report.notes, "")} if report.notes else {}),
        "problems": {problem: "" for problem in report.problems} or {"none": ""},
    }
    lines = [f"platform  {report.platform}"]
    for title, table in tables.items():
        width = max(map(len, table))
        lines += [title, *(f"  {key:<{width}}  {value}".rstrip() for key, value in table.items())]
    print_result(report, as_json, "\n".join(map(printable, lines)))
    raise typer.Exit(FAILED if report.problems else COMPLETE)
