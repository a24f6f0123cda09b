"""Write what a fit gives: the probe's directory, the report, and what the probe says of the tested videos."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import OutputError
from ..runtime.files import digest_of
from ..runtime.ownership import check_files, is_unfinished
from ..weights.cards import name_of
from ..weights.probe_directory import save_probe
from ..weights.written import PROBE_RESERVED, probe_written
from .labels import fingerprints
from .probe_fitting import Comparison, Task, count_splits
from .probe_report import ProbeReport

_MAX_FILES, _MAX_CONFUSION = 10_000, 100  # a configuration stays below a megabyte
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def check_probe_output(directory: Path, *, overwrite: bool) -> Path:
    """Return the directory, unless something is there that a probe must not replace.

    Raises:
        OutputError: it is.
    """
    if not directory.parent.is_dir():
        raise OutputError(f"{directory}: {directory.parent} is no directory; make it first")
    ours = check_files(directory, reserved=PROBE_RESERVED, written=probe_written)
    if not directory.exists() or not any(directory.iterdir()) or is_unfinished(directory):
        return directory
    if not ours:
        raise OutputError(f"{directory}: holds something other than a probe; choose another --out")
    if not overwrite:
        raise OutputError(f"{directory}: holds a probe already; choose another --out, or pass --overwrite")
    return directory


def make_report(
    directory: Path, task: Task, comparison: Comparison, notes: list[str], facts: Mapping[str, Any]
) -> ProbeReport:
    """Return the report of a fit.

    Args:
        facts: what else the probe's `config.json` says of it.
    """
    tested = task.tested()
    counts = Counter(task.found.clips[video].label for video in range(len(task.targets))) if task.names else {}
    return ProbeReport(
        out=str(directory),
        kind=task.options.kind,
        model=name_of(str(task.found.source.model["name"])),
        num_train=len(task.targets) - len(tested) if task.options.folds is None else len(task.targets),
        num_test=len(tested),
        num_groups=comparison.scores.num_groups,
        scores=comparison.scores,
        rows=comparison.rows,
        difference=comparison.difference,
        difference_interval=comparison.difference_interval,
        notes=tuple(notes),
        failed=tuple(task.found.failed),
        fitted={
            **facts,
            **task.options.facts(),
            **comparison.fitted.facts,
            "vjepa_sdk": __version__,
            "splits": count_splits(task),
            "classes": dict(sorted(counts.items())),
            "labels_sha256": _labels_sha256(task),
            "files": _files(task),
            "compared": comparison.grids,
        },
    )


def _files(task: Task) -> list[str]:
    """Return what tells the files that the probe was fitted to, so that `evaluate_probe` can say that it saw them."""
    tested = set() if task.options.folds is not None else set(task.tested().tolist())
    clips = [clip for video, clip in enumerate(task.found.clips) if video not in tested]
    return sorted(set(fingerprints(clips)) - {""}) if len(clips) <= _MAX_FILES else []


def _labels_sha256(task: Task) -> str:
    """Return a digest over which clip has which label, split and group."""
    rows = [
        [clip.source.id, clip.label, str(split), clip.group]
        for clip, split in zip(task.found.clips, task.splits, strict=True)
    ]
    return digest_of(sorted(rows))


def save_results(directory: Path, task: Task, comparison: Comparison, report: ProbeReport) -> None:
    """Write the probe's directory.

    Raises:
        WriteError: the disk refuses.
    """
    save_probe(
        directory,
        comparison.fitted.probe,
        labels=task.names,
        provenance=_provenance(task),
        kind=task.options.kind,
        source=task.found.source,
        fit=report.fitted,
        scores={**_stored(report), **report.card_table(), "notes": list(report.notes)},
        # file names need not be UTF-8
        predictions=_predictions(task, comparison).encode(errors="surrogateescape"),
    )


def _stored(report: ProbeReport) -> dict[str, Any]:
    scores = report.scores.to_json()
    return scores if len(report.scores.labels) <= _MAX_CONFUSION else {**scores, "confusion": []}


def _provenance(task: Task) -> dict[str, Any]:
    made: dict[str, Any] = {"made_by": "vjepa probe train", "videos": len(task.targets)}
    model = task.found.source.model
    return {**made, "model": name_of(str(model["name"])), "model_sha256": model["sha256"]}


def _predictions(task: Task, comparison: Comparison) -> str:
    """Return what the probe says of each tested video, as CSV; spreadsheets take no label for a formula."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "path", "label", "predicted", *(["probability"] if task.names else [])])
    outputs = comparison.predictions.outputs
    for place, video in enumerate(task.tested()):
        clip = task.found.clips[video]
        if task.names:
            best = int(outputs[place].argmax())
            said = [_cell(clip.label), _cell(task.names[best]), f"{outputs[place, best]:.6f}"]
        else:
            said = [clip.label, f"{outputs[place]:.6g}"]
        writer.writerow([clip.source.id, clip.source.path, *said])
    return text.getvalue()


def _cell(label: str) -> str:
    return f"'{label}" if label.startswith(_FORMULA) else label
