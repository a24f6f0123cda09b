"""Columns of an index: those that say what a row is, and those that a list of clips brought along."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

OURS = frozenset(
    (
        *("row", "id", "path", "window", "view", "start_seconds", "end_seconds", "frames", "decoder", "size"),
        *("shape", "embedding"),
    )
)
"""Names that say what a row is, also as columns of a table; whatever else an index holds comes from a list."""

Kind = Literal["bool", "int", "float", "text", "json"]
"""What the values of a column are, besides null; `json`: of several kinds, or nested."""

_MOST = 2**63


def brought_along(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that come from a list."""
    return {name: value for name, value in entry.items() if name not in OURS}


def column_kinds(index: Path) -> dict[str, Kind]:
    """Return what the columns of an index that come from a list hold, in their order."""
    with open(index, "rb") as lines:
        return kinds_of(brought_along(json.loads(line)) for line in lines)


def kinds_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Kind]:
    """Return what columns hold, by their name and in the order in which they appear; those of nulls alone are text."""
    found: dict[str, set[Kind]] = {}
    for row in rows:
        for name, value in row.items():
            kinds = found.setdefault(name, set())
            if value is not None:
                kinds.add(_kind(value))
    return {name: _common(kinds) for name, kinds in found.items()}


def _kind(value: object) -> Kind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -_MOST <= value < _MOST else "json"
    return "float" if isinstance(value, float) else "text" if isinstance(value, str) else "json"


def _common(kinds: set[Kind]) -> Kind:
    if kinds == {"int", "float"}:
        return "float"
    return kinds.pop() if len(kinds) == 1 else "json" if kinds else "text"
