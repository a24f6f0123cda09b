"""Take data frames as lists of clips, and other columns of a list as plain data.

A data frame is what pandas, polars and pyarrow have: none of them is imported, they are known by their methods.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from ..errors import InputError, printable
from ..features.columns import OURS

_CLIP = ("path", "id", "start_seconds", "end_seconds")
_PREFIX = "list_"
_DEEPEST = 32


@runtime_checkable
class PandasFrame(Protocol):
    """A table of pandas, and of what imitates it."""

    @property
    def columns(self) -> Any:
        """Return the names of its columns."""

    def to_dict(self, orient: Any) -> Any:
        """Return its rows as mappings, for `records`."""


@runtime_checkable
class PolarsFrame(Protocol):
    """A table of polars."""

    @property
    def columns(self) -> Any:
        """Return the names of its columns."""

    def to_dicts(self) -> Any:
        """Return its rows as mappings."""


@runtime_checkable
class ArrowTable(Protocol):
    """A table of pyarrow."""

    @property
    def column_names(self) -> Any:
        """Return the names of its columns."""

    def to_pylist(self) -> Any:
        """Return its rows as mappings."""


DataFrame = PandasFrame | PolarsFrame | ArrowTable
"""A table of pandas, polars or pyarrow."""


def records_of(frame: DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a data frame; what is missing there is None.

    Raises:
        InputError: it has no column `path`.
    """
    names = list(frame.column_names if isinstance(frame, ArrowTable) else frame.columns)
    if "path" not in names:
        raise InputError(f"the data frame has no column 'path', only {', '.join(map(str, names))}; name it so")
    if isinstance(frame, ArrowTable):
        rows = frame.to_pylist()
    else:
        # a frame of polars has a `to_dict` too, of columns
        rows = frame.to_dicts() if isinstance(frame, PolarsFrame) else frame.to_dict("records")
    return [{str(name): None if _is_missing(value) else _scalar(value) for name, value in row.items()} for row in rows]


def _is_missing(value: Any) -> bool:
    """Whether a cell is None, or NaN, NaT or NA, which are not what they are."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # NA is not even that, and arrays have many answers
        return type(value).__name__ == "NAType"


def _scalar(value: Any) -> Any:
    """Return the Python value of a numpy scalar, and the text of a path object."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value


def columns_of(where: str, row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what a line of a list says besides which clip it names, as plain JSON data.

    An empty cell is null, and a column without a name is left out. One that is named like a column of ours has `list_`
    before its name.

    Args:
        where: the line, for messages.

    Raises:
        InputError: two columns have one name then, a name is not UTF-8, the line has more cells than the header, or a
            value is not plain.
    """
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name is None:  # what a CSV has beyond its header
            if any(value):
                raise InputError(f"{where}: has more cells than the header; put quotes around text with separators")
        elif name != "" and name not in _CLIP:
            key = f"{_PREFIX}{name}" if name in OURS else str(name)
            if any("\ud800" <= each <= "\udfff" for each in key):  # no table could have it
                raise InputError(f"{where}: the name of the column {printable(key)!r} is not UTF-8; rename it")
            if key in found or (key != name and key in row):
                raise InputError(f"{where}: two columns would be {key!r} in the index; rename {name!r} or {key!r}")
            found[key] = None if isinstance(value, str) and not value else _plain(f"{where}: column {name!r}", value)
    return found


def _plain(where: str, value: Any, depth: int = 0) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    if depth == _DEEPEST:
        raise InputError(f"{where}: is nested more than {_DEEPEST} times; leave it out")
    if isinstance(value, Mapping):
        return {str(key): _plain(where, each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(where, each, depth + 1) for each in value]
    if hasattr(value, "isoformat"):  # dates and times
        return value.isoformat()
    if hasattr(value, "tolist"):  # arrays
        return _plain(where, value.tolist(), depth + 1)
    raise InputError(f"{where}: holds a {type(value).__name__}, which JSON has not; make it text, or leave it out")
