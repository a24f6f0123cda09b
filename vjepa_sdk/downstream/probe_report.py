"""Say what a probe reaches, beside what random weights, raw pixels and the most frequent class reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config.choices import ProbeKind
from .scores import MIN_GROUPS, MIN_VIDEOS, Interval, ProbeScores

TRAINED_ROW, RANDOM_ROW, PIXELS_ROW = "trained encoder", "random weights", "raw pixels"

_CLASS_COLUMNS = {
    "accuracy": "top-1",
    "top5_accuracy": "top-5",
    "balanced_accuracy": "balanced",
    "macro_f1": "macro-F1",
}
_NUMBER_COLUMNS = {"r2": "R²", "mean_absolute_error": "mean error", "spearman": "rank correlation"}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    metrics: dict[str, float]
    intervals: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbeReport:
    """What a probe reaches on videos that it was not fitted to."""

    out: str
    """Directory of the probe."""
    kind: ProbeKind
    model: str
    num_train: int
    num_test: int
    num_groups: int
    """Of the test's videos."""
    scores: ProbeScores
    rows: tuple[Row, ...]
    """The table: the probe first, then what it is compared with."""
    difference: float | None
    """Of the trained encoder and the mean of the random ones; None without a baseline."""
    difference_interval: Interval | None
    """95 %, in pairs over groups; None where there is too little to say."""
    notes: tuple[str, ...]
    """What a reader of the numbers has to know."""
    failed: tuple[Mapping[str, Any], ...] = ()
    """Clips without features: `id`, `path`, `reason`."""
    fitted: Mapping[str, Any] = field(default_factory=dict)
    """How the probe was fitted, as plain JSON data."""

    @property
    def columns(self) -> dict[str, str]:
        """Metrics of the table, and their heads."""
        known = _CLASS_COLUMNS if self.scores.main == "accuracy" else _NUMBER_COLUMNS
        return {name: head for name, head in known.items() if name in self.scores.metrics}

    @property
    def sentence(self) -> str:
        """What the comparison with random weights means."""
        if self.difference is None:
            return "Not compared with random weights: the numbers do not tell what the encoder's training is worth."
        what = "top-1" if self.scores.main == "accuracy" else "R²"
        if self.difference_interval is None:
            return (
                f"{self.num_test} test videos in {self.num_groups} groups are too few to say how sure these numbers "
                f"are; it takes {MIN_VIDEOS} in {MIN_GROUPS}."
            )
        low, high = self.difference_interval
        found = f"{what} {self.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
        pixels = next((row for row in self.rows if row.what == PIXELS_ROW), None)
        is_easy = pixels is not None and pixels.metrics[self.scores.main] >= self.scores.metrics[self.scores.main]
        easy = " Raw pixels reach as much: the task does not need an encoder." if is_easy else ""
        if low > 0:
            return f"The encoder's training helps: {found} against the same network with random weights.{easy}"
        if high < 0:
            return f"The encoder's training harms: {found} against the same network with random weights.{easy}"
        return f"No better than the same network with random weights: {found}, which may be chance.{easy}"

    def __str__(self) -> str:
        """Return the report as lines of text."""
        classes = f", {len(self.scores.labels)} classes" if self.scores.labels else ""
        fitted = f"{self.num_train:,} train / " if self.num_train else ""
        lines = [
            f"{self.out}: {self.kind} probe on {self.model}{classes}, {fitted}{self.num_test:,} test videos in "
            f"{self.num_groups:,} groups"
        ]
        table = [["", *self.columns.values()], *([row.what, *self._cells(row)] for row in self.rows)]
        widths = [max(len(cells[place]) for cells in table) for place in range(len(table[0]))]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table
        ]
        return "\n".join([*lines, self.sentence, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            **{name: getattr(self, name) for name in ("out", "kind", "model", "num_train", "num_test", "num_groups")},
            "scores": self.scores.to_json(),
            "rows": [vars(row) for row in self.rows],
            "difference": self.difference,
            "difference_interval": self.difference_interval,
            "sentence": self.sentence,
            "notes": list(self.notes),
            "failed": [dict(clip) for clip in self.failed],
            "fit": dict(self.fitted),
        }

    def card_table(self) -> dict[str, Any]:
        """Return the table as a card prints it: `columns`, `table` and `sentence`."""
        heads = list(self.columns.values())
        rows = [{"what": row.what, **dict(zip(heads, self._cells(row), strict=True))} for row in self.rows]
        return {"columns": heads, "table": rows, "sentence": self.sentence}

    def _cells(self, row: Row) -> list[str]:
        return [_cell(row.metrics.get(name), row.intervals.get(name)) for name in self.columns]


def _cell(value: float | None, interval: Interval | None) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.3f}" if interval is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
