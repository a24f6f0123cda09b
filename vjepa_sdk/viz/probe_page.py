"""Draw what a probe reaches: beside what it is compared with, by class, by its certainty, and its surest mistakes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..downstream.probe_report import ProbeReport
from ..downstream.scores import Calibration, ProbeScores
from ..errors import ConfigError, counted
from ..runtime.files import atomic_file, disk_errors
from .charts import FOR_PAGES, FOR_PAPER, Colours, chart, charts, draw_counts, name_ticks, to_png, to_svg, to_svg_file
from .films import to_webp
from .page import (
    Card,
    Gallery,
    Matrix,
    Note,
    Page,
    Part,
    Picture,
    Table,
    check_output,
    link_to,
    plain_text,
    render_page,
    shortened,
)
from .probe_results import ProbeResults, TestedVideo, read_results, results_of_report
from .thumbnails import DEADLINE_SECONDS, read_thumbnails

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".html", ".png", ".svg")
MAX_MATRIX = 50
"""Classes up to which a page counts every pair of them; of more it lists the pairs that are confused most."""

_MAX_PAIRS, _MAX_CLASSES, _MAX_BARS, _MAX_NUMBERED = 30, 200, 30, 20


def check_probe_page(path: Path, *, overwrite: bool) -> None:
    """Raise ConfigError or OutputError unless a picture of a probe can be written there."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: the suffix {path.suffix!r} must be one of {', '.join(SUFFIXES)}; rename the output")
    check_output(path, overwrite=overwrite)


def draw_probe(
    probe: str | os.PathLike[str] | ProbeReport,
    path: str | os.PathLike[str],
    *,
    thumbnails: int = 24,
    num_workers: int = 2,
    deadline_seconds: float = DEADLINE_SECONDS,
    overwrite: bool = False,
    command: Sequence[str] = (),
    show_progress_bar: bool | None = None,
) -> ProbeResults:
    """Write what a probe reaches as a page (`.html`), or its charts in one picture (`.png`, `.svg`).

    Args:
        probe: a directory that `train_probe` wrote, a hub id, or a report, which knows no single videos.
        path: of the output.
        thumbnails: how many mistakes a page shows, the surest first.
        num_workers: decoding processes for them; 0 decodes in this process, without a deadline.
        deadline_seconds: for one of them.
        overwrite: replace a file that is there.
        command: the command line that a page names.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: another suffix, or no probe.
        WeightsError: a probe whose weights do not fit.
        InputError: the probe does not say what it reaches, or its scores are damaged.
        OutputError: there is such a file already, or the directory does not exist.
        WriteError: the disk refuses.
    """
    path = Path(path)
    check_probe_page(path, overwrite=overwrite)
    found = results_of_report(probe) if isinstance(probe, ProbeReport) else read_results(probe)
    if path.suffix.lower() == ".html":
        mistakes = found.mistakes[: max(0, thumbnails)]
        pictures = read_thumbnails(
            [{"path": each.path} for each in mistakes],
            decoder=found.settings.get("decoder", "pyav"),
            num_workers=num_workers,
            deadline_seconds=deadline_seconds,
            show_progress_bar=show_progress_bar,
        )
        cards = [
            Card(
                name=each.path,
                image=b"" if picture.pixels is None else to_webp(picture.pixels),
                href=link_to(each.path, path),
                note=", ".join(filter(None, (_said(found, each), picture.reason))),
            )
            for each, picture in zip(mistakes, pictures, strict=True)
        ]
        content = render_page(_page(found, cards, command))
    else:
        content = _picture(found, to_png if path.suffix.lower() == ".png" else to_svg_file)
    with disk_errors(path, needed=len(content)), atomic_file(path) as file:
        file.write(content)
    return found


def _said(found: ProbeResults, video: TestedVideo) -> str:
    label, predicted = (shortened(plain_text(text), length=40) for text in (video.label, video.predicted))
    if found.scores.labels:
        return f"{label}, taken for {predicted}, {video.certainty:.3f}"
    return f"{label}, predicted {predicted}"


def _page(found: ProbeResults, cards: Sequence[Card], command: Sequence[str]) -> Page:
    scores = found.scores
    parts: list[Part] = [Table(head=("", *found.columns), rows=found.table, title="Beside what it is compared with")]
    if scores.labels:
        parts += [*_confusion(scores), *_calibration(scores), *_grid(found), _classes(scores)]
    else:
        parts += [*_numbers(found), *_grid(found)]
    if cards:
        more = len(found.mistakes) - len(cards)
        parts.append(
            Gallery(
                cards=cards,
                title="The surest mistakes" if scores.labels else "The largest errors",
                note=f"{more:,} more are left out." if more > 0 else "",
            )
        )
    parts += [Note(text=f"{note[:1].upper()}{note[1:]}.") for note in found.notes]
    settings = {
        **found.settings,
        **{key: value for key, value in found.fitted.items() if key not in ("grid", "classes")},
    }
    return Page(
        title=f"{found.kind.capitalize()} probe on {found.model}",
        summary=found.sentence,
        facts=_facts(scores),
        parts=parts,
        settings={key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()},
        command=command,
    )


def _facts(scores: ProbeScores) -> dict[str, str]:
    name = "top-1" if scores.main == "accuracy" else "R²"
    facts = {name: f"{scores.metrics[scores.main]:.3f}"}
    if scores.main in scores.intervals:
        low, high = scores.intervals[scores.main]
        facts["95 % interval"] = f"{low:.3f} to {high:.3f}"
    facts |= {"test videos": f"{scores.num_videos:,}", "groups": f"{scores.num_groups:,}"}
    return facts | ({"classes": f"{len(scores.labels):,}"} if scores.labels else {})


def _confusion(scores: ProbeScores) -> list[Part]:
    wrong = int(scores.confusion.sum() - np.trace(scores.confusion))
    if len(scores.labels) <= MAX_MATRIX:
        note = f"{counted(wrong, 'video')} of {scores.num_videos:,} off the diagonal. Shades are shares of a row."
        title = "What is taken for what"
        return [Matrix(names=scores.labels, counts=scores.confusion.tolist(), title=title, note=note)]
    pairs = _confused(scores)
    rows = [
        (scores.labels[i], scores.labels[j], count, count / max(1, scores.per_class[i].support))
        for i, j, count in pairs
    ]
    if not rows:
        return []
    more = int(np.count_nonzero(scores.confusion) - np.count_nonzero(np.diag(scores.confusion))) - len(rows)
    note = f"{more:,} pairs more are left out." if more > 0 else ""
    head = ("is", "taken for", "videos", "share of the class")
    return [Table(title="What is confused most", head=head, rows=rows, note=note)]


def _confused(scores: ProbeScores) -> list[tuple[int, int, int]]:
    """Return the pairs of classes that are confused most often, and how often."""
    counts = scores.confusion.copy()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_MAX_PAIRS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, counts.shape), strict=True)]
    return [(i, j, int(counts[i, j])) for i, j in pairs if counts[i, j]]


def _classes(scores: ProbeScores) -> Table:
    """List classes, those that are recognised worst first; those without a video last."""
    order = sorted(scores.per_class, key=lambda each: (each.support == 0, each.recall, -each.support))
    more = len(order) - _MAX_CLASSES
    return Table(
        title="Classes, the weakest first",
        head=("class", "videos", "recall", "precision", "F1"),
        rows=[
            (each.label, each.support, *(_share(value) for value in (each.recall, each.precision, each.f1)))
            for each in order[:_MAX_CLASSES]
        ],
        note=f"{more:,} classes that are recognised better are left out." if more > 0 else "",
    )


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _calibration(scores: ProbeScores) -> list[Part]:
    if scores.calibration is None or not scores.calibration.bins:
        return []
    with chart(FOR_PAGES, width=4.8, height=3.6) as (figure, axes):
        _draw_calibration(axes, FOR_PAGES, scores.calibration)
        svg = to_svg(figure, name="calibration")
    error = scores.calibration.expected_error
    return [
        Picture(
            svg=svg,
            alt=f"Share of videos that were right at each probability; expected calibration error {error:.3f}",
            note=f"On the dotted line a probability means what it says; on average it is {error:.3f} off (expected "
            "calibration error). Larger dots stand for more videos.",
            is_narrow=True,
        )
    ]


def _draw_calibration(axes: Axes, colours: Colours, found: Calibration) -> None:
    counts = np.array([each["count"] for each in found.bins])
    confidence, accuracy = ([each[name] for each in found.bins] for name in ("confidence", "accuracy"))
    axes.plot([0, 1], [0, 1], color=colours.of["soft"], linewidth=1.2, linestyle=":")
    axes.plot(confidence, accuracy, color=colours.of["s1"], linewidth=1.6)
    axes.scatter(
        confidence, accuracy, s=16 + 140 * counts / counts.max(), color=colours.of["s1"], zorder=3, clip_on=False
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of what it says", ylabel="share that is right")
    _entitle(axes, colours, "Calibration")


def _entitle(axes: Axes, colours: Colours, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=colours.of["ink"])


def _grid(found: ProbeResults) -> list[Part]:
    """List what hyper-parameters were chosen from, and what was chosen."""
    value, sign = {"linear": ("log loss", -1), "regression": ("squared error", -1)}.get(found.kind, ("top-1", 1))
    tried = found.fitted.get("grid")
    entries = [each for each in tried if isinstance(each, Mapping)] if isinstance(tried, list) else []
    if not entries:
        return []
    names = [name for name in entries[0] if name != "value"]
    chosen = _chosen(found.fitted, entries)
    rows = [
        (
            *(_plain(each.get(name)) for name in names),
            _value(each.get("value"), sign),
            "chosen" if each is chosen else "",
        )
        for each in entries
    ]
    heads = [
        {"penalty": "C" if found.kind == "linear" else "alpha"}.get(name, name.replace("_", " ")) for name in names
    ]
    return [
        Table(
            title="What was tried",
            head=(*heads, value, ""),
            rows=rows,
            note=f"{value[0].upper()}{value[1:]} on videos that were kept out of the fit; '-' was not tried.",
            is_narrow=True,
        )
    ]


def _chosen(fitted: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    def is_chosen(entry: Mapping[str, Any]) -> bool:
        if "penalty" in entry:
            return bool(entry["penalty"] in (fitted.get("C"), fitted.get("alpha")))
        return all(entry[name] == fitted.get(name) for name in entry if name != "value")

    return next(filter(is_chosen, entries), None)


def _value(value: object, sign: int) -> str:
    return f"{sign * value:.4f}" if isinstance(value, int | float) else "-"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _numbers(found: ProbeResults) -> list[Part]:
    if not found.tested:
        return []
    with chart(FOR_PAGES, width=4.8, height=3.6) as (figure, axes):
        _draw_numbers(axes, FOR_PAGES, found)
        svg = to_svg(figure, name="numbers")
    alt = f"Predicted and true number of {counted(len(found.tested), 'video')}"
    return [Picture(svg=svg, alt=alt, note="On the dotted line a prediction is right.", is_narrow=True)]


def _draw_numbers(axes: Axes, colours: Colours, found: ProbeResults) -> None:
    truth, said = (np.array([float(getattr(each, name)) for each in found.tested]) for name in ("label", "predicted"))
    ends = float(min(truth.min(), said.min())), float(max(truth.max(), said.max()))
    axes.plot(ends, ends, color=colours.of["soft"], linewidth=1.2, linestyle=":")
    axes.scatter(truth, said, s=18, color=colours.of["s1"], alpha=0.7, linewidths=0)
    axes.set(xlabel="label", ylabel="predicted")
    _entitle(axes, colours, "What is predicted")


def _picture(found: ProbeResults, encode: Any) -> bytes:
    """Draw the charts of a page side by side."""
    scores, colours = found.scores, FOR_PAPER
    drawn = [_draw_recall, _draw_confusion] if scores.labels else []
    shows_calibration = scores.calibration is not None and bool(scores.calibration.bins)
    count = max(1, len(drawn) + shows_calibration)
    height = float(np.clip(0.24 * min(len(scores.labels), _MAX_BARS), 3.6, 8.0))
    with charts(colours, count=count, columns=count, width=4.6, height=height, are_apart=True) as (figure, every):
        for draw, axes in zip(drawn, every, strict=False):
            draw(axes, colours, scores)
        if shows_calibration and scores.calibration is not None:
            _draw_calibration(every[-1], colours, scores.calibration)
        if not scores.labels:
            _draw_numbers(every[0], colours, found)
        content: bytes = encode(figure)
    return content


def _draw_recall(axes: Axes, colours: Colours, scores: ProbeScores) -> None:
    seen = [each for each in scores.per_class if each.support]
    shown = sorted(seen, key=lambda each: (each.recall, -each.support))[:_MAX_BARS][::-1]
    axes.barh(range(len(shown)), [each.recall for each in shown], color=colours.of["s1"], height=0.7)
    name_ticks(axes.yaxis, [each.label for each in shown])
    for place, each in enumerate(shown):
        axes.text(each.recall + 0.02, place, f"{each.support:,}", va="center", fontsize=9, color=colours.of["soft"])
    axes.set(xlim=(0, 1.12), xlabel="recall, and how many videos")
    axes.grid(visible=False)
    _entitle(
        axes, colours, "Classes" if len(shown) == len(seen) else f"The {len(shown)} weakest of {len(seen)} classes"
    )


def _draw_confusion(axes: Axes, colours: Colours, scores: ProbeScores) -> None:
    draw_counts(axes, colours, scores.confusion, is_numbered=len(scores.labels) <= _MAX_NUMBERED)
    name_ticks(axes.yaxis, scores.labels if len(scores.labels) <= MAX_MATRIX else [])
    axes.set(xlabel="taken for, in the same order", xticks=[])
    _entitle(axes, colours, "What is taken for what")
