"""Options that several commands have, and how they print and log."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from typing import Annotated, Any

import typer

from .early import existing_inputs, known_model

INPUTS_HELP = "Files, directories (searched recursively), patterns, and lists of clips: .txt, .csv or .jsonl."

FollowSymlinks = Annotated[bool, typer.Option("--follow-symlinks", help="Read what symbolic links point to.")]
Inputs = Annotated[
    list[str],
    typer.Argument(
        help=INPUTS_HELP,
        callback=existing_inputs,
    ),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="Name from `vjepa models`, model directory or hub id.", callback=known_model),
]
ProbedModel = Annotated[
    str | None,
    typer.Option("--model", "-m", help="The encoder; the one that the probe names if left out.", callback=known_model),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
SPEAK_TO_ALL = ("training.plan.preflight", "training.data.cache", "inference.embed.job", "hub.official")
"""Modules whose news are for everyone: what a long run or download is told before it starts."""

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, warnings only for failures.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]


def command_line() -> list[str]:
    """Return the words that make this output again."""
    return ["vjepa", *sys.argv[1:]]


def print_result(result: Any, as_json: bool, text: str) -> None:
    """Print the result of a command: the dataclass as JSON, or what it means as text."""
    print(json.dumps(dataclasses.asdict(result), default=os.fspath, indent=2) if as_json else text)


def set_up_logging(quiet: bool, verbose: bool) -> None:
    """Send log records to stderr: errors alone, warnings, or everything."""
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="vjepa: %(message)s")
    logging.getLogger("vjepa_sdk").setLevel(level)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    for name in SPEAK_TO_ALL:
        logging.getLogger(f"vjepa_sdk.{name}").setLevel(logging.ERROR if quiet else logging.INFO)
