"""Probes with scores and predictions, as `vjepa probe train` writes them, without training any."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vjepa_sdk import Probe
from vjepa_sdk.downstream.probe_report import TRAINED_ROW, ProbeReport, Row
from vjepa_sdk.downstream.scores import Predictions, score
from vjepa_sdk.features.source import FeatureSource
from vjepa_sdk.weights.layout import PREDICTIONS

SOURCE = FeatureSource(
    {"name": "vjepa-tiny", "sha256": "0" * 64}, {"pooling": "mean", "decoder": "pyav"}, {"crop_size": 48}
)


def report_of(labels: Sequence[str], *, videos: int = 60, seed: int = 0) -> tuple[ProbeReport, Predictions]:
    """Return what a probe that is right about half of the time reaches; of numbers where there are no labels."""
    draw = np.random.default_rng(seed)
    if labels:
        truth = np.arange(videos) % len(labels)
        outputs = draw.dirichlet(np.ones(len(labels)), size=videos).astype(np.float32)
        said = np.where(draw.random(videos) < 0.5, truth, draw.integers(len(labels), size=videos))
        outputs[np.arange(videos), said] += 0.5
        predictions = Predictions(truth, outputs / outputs.sum(1, keepdims=True), np.arange(videos))
    else:
        truth = draw.normal(size=videos)
        predictions = Predictions(truth, truth + 0.3 * draw.normal(size=videos), np.arange(videos))
    scores = score(predictions, labels, bootstrap=20)
    rows = (Row(TRAINED_ROW, scores.metrics, scores.intervals), Row("raw pixels", scores.metrics))
    tried = [{"penalty": 0.1, "value": -1.5}, {"penalty": 1.0, "value": -0.75}, {"penalty": 10.0, "value": None}]
    report = ProbeReport(
        out="probe",
        kind="linear" if labels else "regression",
        model="vjepa-tiny",
        num_train=4 * videos,
        num_test=videos,
        num_groups=videos,
        scores=scores,
        rows=rows,
        difference=0.25,
        difference_interval=(0.125, 0.375),
        notes=("groups are files",),
        fitted={"C" if labels else "alpha": 1.0, "grid": tried, "folds": None},
    )
    return report, predictions


def write_probe(
    directory: Path, labels: Sequence[str], *, paths: Sequence[str] = (), videos: int = 60, seed: int = 0
) -> tuple[Path, ProbeReport, Predictions]:
    """Write a probe that is right about half of the time, with what it says of each tested video.

    Args:
        paths: of the tested videos, as many as there are; the others do not exist.
    """
    report, predictions = report_of(labels, videos=videos, seed=seed)
    rows = np.random.default_rng(seed).normal(size=(max(8, 2 * len(labels)), 4)).astype(np.float32)
    targets = [labels[i % len(labels)] for i in range(len(rows))] if labels else np.arange(len(rows))
    fitted = Probe.fit(rows, targets, kind="linear" if labels else "regression", C=1.0)
    Probe(
        probe=fitted.probe,
        labels=tuple(labels),
        kind=report.kind,
        source=SOURCE,
        fitted=report.fitted,
        scores={**report.scores.to_json(), **report.card_table(), "notes": list(report.notes)},
    ).save_pretrained(directory)
    names = [*paths, *(f"absent/{i}.mp4" for i in range(len(paths), videos))]
    with (directory / PREDICTIONS).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "path", "label", "predicted", *(["probability"] if labels else [])])
        for name, truth, said in zip(names, predictions.truth, predictions.outputs, strict=True):
            if labels:
                cells = [_cell(labels[int(truth)]), _cell(labels[int(said.argmax())]), f"{said.max():.6f}"]
            else:
                cells = [f"{truth:.6g}", f"{said:.6g}"]
            writer.writerow([name, name, *cells])
    return directory, report, predictions


def _cell(label: str) -> str:
    return f"'{label}" if label.startswith(("=", "+", "-", "@")) else label
