"""Read what a probe reaches: from the directory that training wrote, or from the report of an evaluation."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.choices import ProbeKind
from ..downstream.probe import Probe
from ..downstream.probe_report import ProbeReport
from ..downstream.scores import Calibration, ClassScore, ProbeScores
from ..errors import InputError, printable
from ..weights.cards import name_of
from ..weights.layout import PREDICTIONS

_COLUMNS = ("id", "path", "label", "predicted")


@dataclass(frozen=True)
class TestedVideo:
    """What a probe said of a video that it was not fitted to."""

    path: str
    label: str
    predicted: str
    certainty: float
    """Probability of what it said; of a probe of numbers the distance from the label."""


@dataclass(frozen=True)
class ProbeResults:
    """What a picture of a probe shows."""

    kind: ProbeKind
    model: str
    scores: ProbeScores
    columns: tuple[str, ...]
    """Heads of the table."""
    table: tuple[tuple[str, ...], ...]
    """A row for the probe, and for each thing it is compared with: its name, then a cell for each column."""
    sentence: str
    """What the comparison means."""
    notes: tuple[str, ...]
    fitted: Mapping[str, Any]
    """How the probe was fitted, as plain JSON data."""
    settings: Mapping[str, Any]
    """Of the features that it reads."""
    tested: tuple[TestedVideo, ...]
    """In the order of the test; empty where no predictions are kept."""

    @property
    def mistakes(self) -> list[TestedVideo]:
        """Videos that were not recognised, the surest first; of a probe of numbers all, the farthest first."""
        wrong = [each for each in self.tested if each.label != each.predicted]
        return sorted(wrong, key=lambda each: -each.certainty)


def results_of_report(report: ProbeReport) -> ProbeResults:
    """Return what a report says."""
    card = report.card_table()
    return ProbeResults(
        kind=report.kind,
        model=report.model,
        scores=report.scores,
        columns=tuple(card["columns"]),
        table=_rows(card),
        sentence=report.sentence,
        notes=report.notes,
        fitted=report.fitted,
        settings={},
        tested=(),
    )


def read_results(probe: str | os.PathLike[str]) -> ProbeResults:
    """Read what `train_probe` wrote with a probe.

    Args:
        probe: a probe directory or hub id; predictions are in directories only.

    Raises:
        ConfigError, WeightsError: as `Probe.from_pretrained`.
        InputError: the probe holds no scores, or what it holds is damaged.
    """
    held, where = Probe.from_pretrained(probe, device="cpu"), printable(probe)
    if not held.scores:
        raise InputError(
            f"{where}: the probe does not say what it reaches; fit it with `vjepa probe train`, or score it with "
            "`vjepa probe eval --html`"
        )
    try:
        scores = _scores(held.scores)
        scores.metrics[scores.main]  # nothing is drawn without it
        columns, table = tuple(str(head) for head in held.scores["columns"]), _rows(held.scores)
        notes = tuple(str(note) for note in held.scores["notes"])
        sentence = str(held.scores["sentence"])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{where}: its scores are damaged ({error!r}); fit the probe again") from error
    path = Path(probe) / PREDICTIONS
    return ProbeResults(
        kind=held.kind,
        model=name_of(str(held.source.model.get("name", "an unknown model"))),
        scores=scores,
        columns=columns,
        table=table,
        sentence=sentence,
        notes=notes,
        fitted=held.fitted,
        settings=held.source.settings,
        tested=_read_predictions(path, scores.labels) if path.is_file() else (),
    )


def _rows(card: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    return tuple((str(row["what"]), *(str(row[head]) for head in card["columns"])) for row in card["table"])


def _scores(data: Mapping[str, Any]) -> ProbeScores:
    """Return what `ProbeScores.to_json` wrote; raises whatever Python does of data that is something else."""
    labels = tuple(str(label) for label in data["labels"])
    confusion = np.array(data["confusion"], dtype=np.int64).reshape(len(labels), len(labels))
    per_class = [
        ClassScore(
            str(each["label"]), int(each["support"]), *(_number(each[key]) for key in ("recall", "precision", "f1"))
        )
        for each in data["per_class"]
    ]
    if len(per_class) != len(labels) or (len(labels) and confusion.min() < 0):
        raise ValueError("classes and counts do not fit together")
    return ProbeScores(
        metrics={str(name): _number(value) for name, value in data["metrics"].items()},
        intervals={str(name): (_number(low), _number(high)) for name, (low, high) in data["intervals"].items()},
        num_videos=int(data["num_videos"]),
        num_groups=int(data["num_groups"]),
        labels=labels,
        per_class=per_class,
        confusion=confusion,
        calibration=None if data["calibration"] is None else _calibration(data["calibration"]),
    )


def _calibration(data: Mapping[str, Any]) -> Calibration:
    bins = [{key: float(each[key]) for key in ("confidence", "accuracy", "count")} for each in data["bins"]]
    if not all(0 <= each["confidence"] <= 1 and 0 <= each["accuracy"] <= 1 and each["count"] > 0 for each in bins):
        raise ValueError("bins of the calibration are out of range")
    return Calibration(float(data["expected_error"]), bins)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _read_predictions(path: Path, labels: Sequence[str]) -> tuple[TestedVideo, ...]:
    """Read the table that `train_probe` writes beside a probe."""
    where, known = printable(path), set(labels)

    def name(cell: str) -> str:
        # an apostrophe keeps spreadsheets from taking a label for a formula
        return cell if cell in known else cell.removeprefix("'")

    found = []
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file)
            if not set(_COLUMNS) <= set(rows.fieldnames or ()):
                raise ValueError(f"its first line must have {', '.join(_COLUMNS)}")
            for row in rows:
                label, predicted = name(row["label"]), name(row["predicted"])
                certainty = float(row["probability"]) if labels else abs(float(predicted) - float(label))
                found.append(TestedVideo(row["path"], label, predicted, certainty))
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{where}: is damaged ({error}); fit the probe again, or remove it") from error
    return tuple(found)
