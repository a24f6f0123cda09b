"""Colour rows by what is known of them: labels, clusters, folders, columns of the index."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..corpus.lists import read_rows
from ..errors import InputError, printable
from .charts import CATEGORIES, OTHER

logger = logging.getLogger(__name__)

NO_LABEL = "(no label)"
_COLUMNS = ("label", "split", "group", "decoder")
_FEWEST_ROWS = 1.2
"""Rows a group must have on average: names of which each stands once tell nothing by their colour."""


@dataclass(frozen=True, eq=False)
class Colouring:
    """One way to colour rows."""

    name: str
    groups: tuple[str, ...]
    """The most frequent first; of equal ones in the order of the alphabet."""
    colours: tuple[str, ...]
    """Of each group: one of twelve, or grey."""
    of: np.ndarray
    """int64 `[n]`: number of the group of each row."""


def colouring(name: str, values: Sequence[str], *, last: str = NO_LABEL) -> Colouring:
    """Give the most frequent twelve values a colour each, and all others grey.

    Args:
        last: a value that stands for none: it is grey and comes last.
    """
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    groups = sorted(counts, key=lambda value: (value == last, -counts[value], value))
    places = {group: place for place, group in enumerate(groups)}
    colours = tuple(
        CATEGORIES[place] if place < len(CATEGORIES) and group != last else OTHER for place, group in enumerate(groups)
    )
    return Colouring(name, tuple(groups), colours, np.array([places[value] for value in values], np.int64))


def known_colourings(index: Sequence[Mapping[str, Any]]) -> list[Colouring]:
    """Return the ways to colour rows that an index tells of, without those of one group or of hardly any."""
    columns = {
        name: [str(entry[name]) if entry.get(name) is not None else NO_LABEL for entry in index] for name in _COLUMNS
    }
    columns["folder"] = [os.path.dirname(entry["path"]) or "." for entry in index]
    columns["video"] = [entry["path"] for entry in index]
    return [
        colouring(name, values)
        for name, values in columns.items()
        if 1 < len(set(values)) and len(set(values)) * _FEWEST_ROWS <= len(values)
    ]


def read_labels(path: str | Path, index: Sequence[Mapping[str, Any]]) -> list[str]:
    """Read the label of each row of an index from a CSV with a column `label`, and `id` or `path`.

    Rows are found by their id, else by their file. How many have no label is logged.

    Raises:
        InputError: it cannot be read, has no such columns, gives a row two labels, or labels none of the rows.
    """
    path = Path(path)
    rows = read_rows(path)
    if not rows or "label" not in rows[0][1]:
        raise InputError(f"{printable(path)}: has no column 'label'; its first line must be `path,label`")
    by_id: dict[str, str] = {}
    by_file: dict[str, str] = {}
    for number, row in rows:
        label = str(row["label"] or "").strip()
        if not label:
            continue
        keys = [(by_file, os.path.realpath(path.parent / row["path"]))]
        keys += [(by_id, str(row["id"]))] if row.get("id") else []
        for known, key in keys:
            # parts of one file may have other labels, and are told apart by their ids
            if known.setdefault(key, label) != label and known is by_id:
                raise InputError(
                    f"{printable(path)}: line {number} gives {printable(key)} another label than before; keep one"
                )
    found = [by_id.get(str(entry["id"])) or by_file.get(os.path.realpath(entry["path"])) or NO_LABEL for entry in index]
    missing = found.count(NO_LABEL)
    if missing == len(found):
        raise InputError(
            f"{printable(path)}: labels none of the {len(found)} rows, for example {printable(index[0]['path'])}; "
            "paths are relative to the list"
        )
    if missing:
        logger.warning("%s: %d of %d rows have no label", printable(path), missing, len(found))
    return found
