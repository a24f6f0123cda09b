"""The commands of `vjepa` with their arguments and options, as Typer has them."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

from vjepa_sdk.cli.app import app


@dataclass(frozen=True)
class Parameter:
    """One argument or option."""

    names: tuple[str, ...]
    """Of an option its spellings, the long one first; of an argument its name."""
    is_option: bool
    kind: str
    """What it takes: `path`, `int`, `mean|temporal`; empty for a flag, with ` ...` where it may be repeated."""
    is_required: bool
    default: object
    text: str


@dataclass(frozen=True)
class Command:
    """One command, such as `vjepa probe train`."""

    name: str
    text: str
    parameters: tuple[Parameter, ...]


def commands() -> Iterator[Command]:
    """Yield all commands in the order of `vjepa --help`."""
    yield from _below("vjepa", typer.main.get_command(app))


def _below(prefix: str, group: Any) -> Iterator[Command]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _below(f"{prefix} {name}", command)
        else:
            yield Command(f"{prefix} {name}", inspect.cleandoc(command.help), tuple(_parameters(command)))


def _parameters(command: Any) -> Iterator[Parameter]:
    hints = typing.get_type_hints(inspect.unwrap(command.callback))
    for found in command.params:
        if found.name not in hints:  # --help itself
            continue
        is_option = found.param_type_name == "option"
        spellings = [*found.opts, *found.secondary_opts] if is_option else [found.metavar or found.name]
        default = None if found.required or callable(found.default) else found.default
        yield Parameter(
            names=tuple(sorted(spellings, key=lambda name: not name.startswith("--"))),
            is_option=is_option,
            kind=found.metavar if is_option and found.metavar else _kind(hints[found.name], is_option=is_option),
            is_required=bool(found.required),
            default=default,
            text=" ".join((found.help or "").split()),
        )


def _kind(hint: Any, *, is_option: bool) -> str:
    """Say what a parameter of a type takes."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (hint,) = (one for one in inner if one is not types.NoneType)
        return _kind(hint, is_option=is_option)
    if origin is typing.Literal:
        return "|".join(map(str, inner))
    if origin in (list, tuple):
        return f"{_kind(inner[0], is_option=is_option)} ..."
    if hint is bool:
        return ""
    return {Path: "path", str: "text", int: "int", float: "float"}[hint]
