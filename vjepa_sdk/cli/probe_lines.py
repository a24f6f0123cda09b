"""Print and write what a probe says of videos."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, OutputError, printable
from ..runtime.files import atomic_file, disk_errors

if TYPE_CHECKING:
    from ..downstream.probe_use import VideoPrediction

_SUFFIXES = (".csv", ".jsonl")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def check_predictions(out: Path | None, *, overwrite: bool) -> None:
    """Raise ConfigError or OutputError unless predictions can be written there."""
    if out is None:
        return
    if out.suffix not in _SUFFIXES:
        raise ConfigError(f"out={out} must end in {' or '.join(_SUFFIXES)}")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: {out.parent} is no directory; make it first")
    if out.is_symlink() or (out.exists() and (not overwrite or not out.is_file())):
        raise OutputError(f"{out}: exists; choose another --out, or pass --overwrite")


def lines_of(predictions: Iterable[VideoPrediction], *, min_probability: float) -> list[str]:
    """Return a line for each video or window: path, its seconds if it is a window, and labels with probabilities."""
    lines = []
    for each in predictions:
        cells = [printable(each.id)]
        if each.start_seconds is not None and each.end_seconds is not None:
            cells += [f"{each.start_seconds:.2f}", f"{each.end_seconds:.2f}"]
        if each.value is not None:
            cells.append(f"{each.value:.6g}")
        for place, (label, share) in enumerate(each.labels):
            cells += ["?" if place == 0 and share < min_probability else printable(label), f"{share:.3f}"]
        if each.is_unlike:
            cells.append("unlike training")
        lines.append("\t".join(cells))
    return lines


def write_predictions(out: Path, predictions: Sequence[VideoPrediction], *, min_probability: float) -> None:
    """Write predictions as CSV or JSON lines.

    Raises:
        WriteError: the disk refuses.
    """
    with disk_errors(out), atomic_file(out) as file:
        if out.suffix == ".jsonl":
            file.writelines(json.dumps(vars(each)).encode() + b"\n" for each in predictions)
            return
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        most = max((len(each.labels) for each in predictions), default=0)
        ranks = [name for rank in range(1, most + 1) for name in (f"label_{rank}", f"probability_{rank}")]
        writer.writerow(["id", "path", "start_seconds", "end_seconds", "value", "is_unlike", *ranks])
        for each in predictions:
            said = [(_cell(label), f"{share:.6f}") for label, share in each.labels]
            if said and each.labels[0][1] < min_probability:
                said[0] = ("?", said[0][1])
            known = [each.id, each.path, each.start_seconds, each.end_seconds, each.value, each.is_unlike]
            writer.writerow(
                ["" if value is None else value for value in known] + [cell for pair in said for cell in pair]
            )
        # file names need not be UTF-8
        file.write(text.getvalue().encode(errors="surrogateescape"))


def _cell(label: str) -> str:
    """Return a label so that a spreadsheet does not take it for a formula."""
    return f"'{label}" if label.startswith(_FORMULA) else label
