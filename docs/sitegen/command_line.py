"""The page of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from command_tree import Command, Parameter, commands

from vjepa_sdk.cli.exit_codes import EXIT_CODES

_HEAD = """\
# Command line

Made from the commands themselves: what `--help` says. Each option is a keyword of the library call below the command,
spelt with dashes. Results go to stdout and progress to stderr; `--json` prints results as JSON, and the
[exit code](exit-codes.md) says how it ended. With `--install-completion` your shell completes names.
"""
_EXIT_CODES = """\
# Exit codes

Every command of `vjepa` ends with one of these. Scripts can tell by them what to do next.

{table}

Which error of the Python package gives which, the first that fits:

"""


def exit_codes() -> str:
    """Return the page of exit codes: the table of README.md, and the classes of errors."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = re.search(r"^\| code \| meaning \|\n(?:\|.*\n)+", readme, re.M)
    if table is None:
        raise ValueError("README.md has no table of exit codes; it starts with: | code | meaning |")
    rows = [f"| `{kind.__name__}` | {code} |" for kind, code in EXIT_CODES]
    return "\n".join([_EXIT_CODES.format(table=table[0].rstrip()) + "| error | code |", "|---|---|", *rows, ""])


def page() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *(line for command in commands() for line in _section(command))])


def _section(command: Command) -> Iterator[str]:
    arguments = [one for one in command.parameters if not one.is_option]
    usage = " ".join([command.name, *(_usage(argument) for argument in arguments)])
    yield from (f"## {command.name}", "", "```text", f"{usage} [OPTIONS]", "```", "")
    yield " ".join(command.text.replace("\n\n", "\n").split("\n"))
    yield ""
    options = [one for one in command.parameters if one.is_option]
    yield from (_item(parameter) for parameter in [*arguments, *sorted(options, key=_order)])
    yield ""


def _order(option: Parameter) -> int:
    """What must be given stands first, and what all commands have last."""
    common = ("--overwrite", "--json", "--quiet", "--verbose")
    return common.index(option.names[0]) + 2 if option.names[0] in common else int(not option.is_required)


def _usage(argument: Parameter) -> str:
    name = argument.names[0].upper() + ("..." if argument.kind.endswith("...") else "")
    return name if argument.is_required else f"[{name}]"


def _item(parameter: Parameter) -> str:
    names = ", ".join(f"`{name}`" for name in parameter.names)
    if not parameter.is_option:
        names = f"`{parameter.names[0].upper()}`"
    kind = f" *{parameter.kind.replace('|', ' | ')}*" if parameter.kind else ""
    needed = ", required" if parameter.is_required else ""
    is_told = parameter.default not in (None, False, ())
    default = f" Default: `{parameter.default}`." if is_told else ""
    return f"- {names}{kind}{needed}: {parameter.text}{default}"
