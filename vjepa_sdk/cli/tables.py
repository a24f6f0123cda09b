"""What the commands on features share: options, names of rows, and tables written to files."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import ConfigError, InputError, OutputError, printable
from ..runtime.files import atomic_file, disk_errors
from .options import command_line

if TYPE_CHECKING:
    from ..viz.answer_pages import PageOptions

FEATURES_HELP = "Features that `vjepa embed` wrote, one vector a row; or the hub id of such."
FeaturesFile = Annotated[str, typer.Argument(help=FEATURES_HELP)]
Labels = Annotated[Path | None, typer.Option(help="CSV with a column path and others, which are added to the rows'.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page with pictures of the clips to this file.")]
METRIC_HELP = "Cosine of features as they are, or after the mean of all rows is taken off."
TABLE_HELP = "Write the table to this file: .csv, .json or .jsonl."

_TABLES, _LISTS = (".csv", ".json", ".jsonl"), (".txt", ".csv", ".jsonl")
_READ_AS_MORE = re.compile(r"^\s|\s$|\s-?\d+$|::\s*-?\d+$")  # what a line of a list is stripped of, or a label


def check_file(path: Path | None, *, overwrite: bool, option: Literal["out", "keep", "html"] = "out") -> None:
    """Refuse a file before anything is computed."""
    suffixes = {"keep": _LISTS, "html": (".html",)}.get(option, _TABLES)
    if path is None:
        return
    if path.suffix not in suffixes:
        raise ConfigError(f"{printable(path)}: --{option} must end in {', '.join(suffixes)}; rename it")
    if not path.parent.is_dir():
        raise OutputError(f"{printable(path)}: its directory does not exist; make it with mkdir -p {path.parent}")
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{printable(path)}: exists; choose another --{option}, or pass --overwrite")


def page_options(path: Path, settings: Mapping[str, object], *, overwrite: bool, quiet: bool) -> PageOptions:
    """Return the options of a page; settings that are None are left out."""
    from ..viz.answer_pages import PageOptions

    return PageOptions(
        path=path,
        settings={name: value for name, value in settings.items() if value is not None},
        command=command_line(),
        overwrite=overwrite,
        show_progress_bar=False if quiet else None,
    )


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str]) -> None:
    """Write rows as CSV, JSON or JSON lines; numbers and paths stay as they are, whatever bytes names are made of.

    Other texts of a CSV, such as labels, that a spreadsheet would take for a formula get a `'` before them.
    """
    if path.suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: _inert(name, value) for name, value in row.items()} for row in rows)
        data = text.getvalue().encode("utf-8", "surrogateescape")
    elif path.suffix == ".json":
        data = (json.dumps(list(rows), indent=2) + "\n").encode()
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    _write(path, data)


def _inert(column: str, value: object) -> object:
    is_name = column in ("id", "query") or column.endswith("path")
    return f"'{value}" if isinstance(value, str) and not is_name and value.startswith(tuple("=+-@")) else value


def write_list(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write a list of clips that `vjepa embed` reads: paths as text, or with ids and seconds as `.csv` or `.jsonl`.

    Raises:
        InputError: a path that the format cannot hold.
    """
    named = [
        {
            "path": relative_to(path, entry["path"]),
            "id": "" if entry["id"] == entry["path"] else entry["id"],
            **({key: entry[key] for key in ("start_seconds", "end_seconds")} if is_part(entry) else {}),
        }
        for entry in entries
    ]
    for line in named:
        if not _can_hold(path.suffix, line["path"]):
            raise InputError(
                f"{printable(line['path'])}: this name cannot stand in a {path.suffix} list; pass --keep keep.jsonl"
            )
    if path.suffix == ".txt":
        text = "".join(f"{name}\n" for name in dict.fromkeys(line["path"] for line in named))
        _write(path, text.encode("utf-8", "surrogateescape"))
    else:
        given = [{key: value for key, value in line.items() if value != ""} for line in named]
        write_table(path, given, columns=("path", "id", "start_seconds", "end_seconds"))


def _can_hold(suffix: str, name: str) -> bool:
    if suffix == ".txt":
        return not _READ_AS_MORE.search(name) and len(name.splitlines()) == 1
    return suffix != ".csv" or "\r" not in name  # which is read as \n


def relative_to(path: Path, name: str) -> str:
    """Return a name as it is read in a list or table at `path`: relative to it, unless it is absolute."""
    return name if os.path.isabs(name) else os.path.relpath(name, path.parent)


def is_part(entry: Mapping[str, Any]) -> bool:
    """Whether a row is of a part of its file: a window, or a clip that was named with its seconds."""
    return "window" in entry or "#t=" in entry["id"].removeprefix(entry["path"])


def name_of(entry: Mapping[str, Any]) -> str:
    """Return what a row is called in a table: its path, and the seconds of a part."""
    if not is_part(entry) or entry["start_seconds"] is None:
        return printable(entry["path"])
    return printable(f"{entry['path']}#t={entry['start_seconds']:g},{entry['end_seconds']:g}")


def _write(path: Path, data: bytes) -> None:
    with disk_errors(path), atomic_file(path) as file:
        file.write(data)
