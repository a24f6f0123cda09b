"""Read lists of clips: plain text, CSV and JSON lines.

clips.txt     one `path`, `path label` or `path::label` a line, with numbers as labels
clips.csv     header with a column `path`, and optional `id`, `start_seconds`, `end_seconds`; or no header and lines
              as in a `.txt`, which is the form of the official lists
clips.jsonl   one object a line, with the same keys

Paths are relative to the list. Its other columns, such as `label`, `split` and `group`, go with each clip.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InputError, printable
from ..video.safety import check_is_path
from .tables import DataFrame, columns_of, records_of

_LABELLED = re.compile(r"(.*\S)(?:\s+|\s*::\s*)(-?\d+)")  # the path may hold spaces, the label is a number

_LIKE_PATH = re.compile(r"path|file|video|clip|name", re.I)

LIST_SUFFIXES = frozenset({".txt", ".csv", ".jsonl"})

_NOTHING: Mapping[str, Any] = {}
"""What most lists say of a clip besides; a million clips share it."""

_SHARED = 1000
"""So many different things that lines say are kept once for all lines that say them, such as labels."""

_Line = tuple[int, dict[str, Any]]
"""Its number, and its columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSource:
    """One clip to read: a file or a directory of frames, all of it or a part."""

    path: str
    id: str
    """Name of the clip; by default its path, with `#t=start,end` (a W3C media fragment) where it is a part."""
    start_seconds: float | None = None
    """Where the part starts, by the video's time stamps, which most videos count from 0; None: at its first frame."""
    end_seconds: float | None = None
    """Where the part ends; None: at the video's end."""
    columns: Mapping[str, Any] | None = field(default=None, hash=False)
    """What a list says of it besides, as plain JSON data; None: no list names it."""

    @property
    def place(self) -> tuple[str, float, float, str]:
        """What clips are sorted by: path, then time."""
        end = float("inf") if self.end_seconds is None else self.end_seconds
        return self.path, self.start_seconds or 0.0, end, self.id


def default_id(path: str, start_seconds: float | None, end_seconds: float | None) -> str:
    """Return the id of a clip that was given none."""
    start = "" if start_seconds is None else f"{start_seconds:g}"
    end = "" if end_seconds is None else f",{end_seconds:g}"
    return f"{path}#t={start}{end}" if start or end else path


def whole(path: str | os.PathLike[str]) -> ClipSource:
    """Return the clip that is all of a file or frame directory."""
    return ClipSource(path=os.fspath(path), id=os.fspath(path))


def read_sources(path: Path, *, split: str | None = None) -> Iterator[ClipSource]:
    """Read the clips of a list one by one; what its suffix does not say is plain text.

    Args:
        split: only lines that have this in their column `split`.

    Raises:
        InputError: it cannot be read, is empty, or a line is not valid; the message names the line.
    """
    count, first, is_any_there = 0, "", False
    for source in _sources(path, _iter_table(path), split):
        count, first = count + 1, first or source.path
        is_any_there = is_any_there or os.path.lexists(source.path)
        yield source
    if not is_any_there:
        raise InputError(
            f"{printable(path)}: none of its {count} clips exists, for example {printable(first)}; "
            "paths are relative to the list"
        )


def frame_sources(frame: DataFrame, *, split: str | None = None) -> Iterator[ClipSource]:
    """Yield the clips of a data frame with the columns of a list; its paths are relative to the working directory.

    Raises:
        InputError: as `read_sources`.
    """
    table = list(enumerate(records_of(frame), start=1))
    for number, row in table:
        if not isinstance(row["path"], str) or not row["path"]:
            raise InputError(f"data frame: row {number} has no path; correct it")
    yield from _sources(Path("data frame"), table, split)


def _sources(path: Path, table: Iterable[_Line], split: str | None) -> Iterator[ClipSource]:
    is_empty, shared = True, {"{}": _NOTHING}
    for number, row in table if split is None else _of_split(path, table, split):
        columns: Mapping[str, Any] = columns_of(f"{printable(path)}: line {number}", row)
        text = repr(columns)  # unlike their values, which are equal for 1 and True
        columns = shared.get(text, columns)
        if len(shared) < _SHARED:
            shared[text] = columns
        yield replace(source_of(path, number, row), columns=columns)
        is_empty = False
    if is_empty:
        raise InputError(f"{printable(path)}: lists no clips")


def _of_split(path: Path, table: Iterable[_Line], split: str) -> Iterator[_Line]:
    """Keep the lines of one split."""
    splits: set[str] = set()
    for number, row in table:
        if (found := row.get("split")) not in (None, ""):
            splits.add(str(found))
        if str(found) == split:
            yield number, row
    if not splits:
        raise InputError(f"{printable(path)}: has no column 'split', which split={split!r} needs; leave it out")
    if split not in splits:
        names = ", ".join(sorted(map(printable, splits)))
        raise InputError(f"{printable(path)}: lists no clips with split={split!r}; its splits are {names}")


def read_table(path: Path) -> list[_Line]:
    """Return the lines of a list as (line number, columns).

    Raises:
        InputError: it cannot be read, or a line is not valid or has no path.
    """
    return list(_iter_table(path))


def _iter_table(path: Path) -> Iterator[_Line]:
    return _iter_json_lines(path) if path.suffix.lower() == ".jsonl" else _iter_rows(path)


def read_rows(path: Path) -> list[_Line]:
    """Return the lines of a text or CSV list as (line number, columns); without a header, `path` and maybe `label`.

    Raises:
        InputError: it cannot be read, or a line has no path.
    """
    return list(_iter_rows(path))


def _iter_rows(path: Path) -> Iterator[_Line]:
    text = _text(path)
    first = text.partition("\n")[0]
    # spreadsheets of half of Europe write semicolons, and all of them tabs where text is copied
    delimiter = next((each for each in ",;\t" if "path" in _cells(first, each)), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        if path.suffix.lower() != ".csv" or "path" not in (reader.fieldnames or ()):
            _refuse_header(path, first)
            yield from _plain_rows(path, text)
            return
        for row in reader:
            if not row["path"]:
                raise InputError(f"{printable(path)}: line {reader.line_num} has no path; correct it")
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{printable(path)}: line {reader.line_num}: not a CSV ({error}); save it as one") from error


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.strip().split(delimiter)]


def _refuse_header(path: Path, first: str) -> None:
    """Refuse a first line that names columns, of which none is `path`: read as a plain list it would be a clip."""
    for delimiter in (",", ";"):
        columns = _cells(first, delimiter)
        likely = [name for name in columns if _LIKE_PATH.search(name) and "." not in name]
        if path.suffix.lower() == ".csv" and len(columns) > 1 and likely and not os.path.lexists(path.parent / first):
            raise InputError(
                f"{printable(path)}: has the columns {', '.join(map(printable, columns))} and no 'path'; rename "
                f"{printable(likely[0])!r} to it"
            )


def _plain_rows(path: Path, text: str) -> Iterator[_Line]:
    # not splitlines: a name may hold what Unicode takes for the end of a line
    for number, line in enumerate(map(str.strip, text.split("\n")), start=1):
        labelled = _LABELLED.fullmatch(line)
        if labelled and os.path.lexists(path.parent / line):  # a name that ends like a label
            if os.path.lexists(path.parent / labelled[1]):
                raise InputError(
                    f"{printable(path)}: line {number}: may name {printable(line)!r}, or {printable(labelled[1])!r} "
                    f"with the label {labelled[2]}, and both exist; write a CSV with the header path,label"
                )
            labelled = None
        if line:
            yield number, {"path": labelled[1], "label": labelled[2]} if labelled else {"path": line}


def _iter_json_lines(path: Path) -> Iterator[_Line]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{printable(path)}: line {number}: not valid JSON ({error}); correct it") from error
        if not isinstance(row, dict) or not isinstance(row.get("path"), str) or not row["path"]:
            raise InputError(f"{printable(path)}: line {number} must be an object with a path; correct it")
        yield number, row


def _text(path: Path) -> str:
    try:
        # file names need not be UTF-8
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        if "\0" not in text:
            return text
        raise InputError(f"{printable(path)}: is not a list of clips in plain text; save it as one")
    except OSError as error:
        raise InputError(f"{printable(path)}: cannot be read ({error.strerror}); check its permissions") from error


def source_of(path: Path, number: int, row: Mapping[str, Any]) -> ClipSource:
    """Return the clip that a line of the list `path` names; raises InputError if one of its columns is not valid."""
    where = f"{printable(path)}: line {number}"
    for column in row:
        # a misspelt column would silently give whole videos instead of parts
        if str(column).lower().startswith(("start", "end")) and column not in ("start_seconds", "end_seconds"):
            raise InputError(f"{where}: unknown column {column!r}; use start_seconds and end_seconds")
    start, end = (_seconds(where, key, row.get(key)) for key in ("start_seconds", "end_seconds"))
    if end is not None and end <= (start or 0.0):
        raise InputError(f"{where}: end_seconds={end:g} must lie after start_seconds={start or 0:g}; correct it")
    check_is_path(row["path"])
    name = str(path.parent / row["path"])
    given = row.get("id")
    if given is not None and not isinstance(given, str | int):
        raise InputError(f"{where}: id={given!r} must be a text; correct it")
    return ClipSource(
        path=name,
        id=str(given) if given not in (None, "") else default_id(name, start, end),
        start_seconds=start,
        end_seconds=end,
    )


def _seconds(where: str, key: str, value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InputError(f"{where}: {key}={value!r} must be a number of seconds of at least 0; correct it")
    return seconds
