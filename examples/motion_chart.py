"""Draw and print what the methods reach, with intervals over runs of pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vjepa_sdk.viz.charts import FOR_PAPER, charts, to_svg_file

Row = dict[str, Any]
"""A line of results: `method`, `seed`, `task`, `probe`, `accuracy`, and what guessing reaches, `guess`."""
Panels = list[tuple[str, str]]
"""Of each pair of axes the task of appearance, and that of motion."""
AXIS_ALONE = 0.5
"""What the direction can be told at best by features that forget the order of frames."""
STYLES = {
    "V-JEPA": ("s1", "o"),
    "VideoMAE": ("s2", "s"),
    "I-JEPA, averaged": ("s3", "^"),
    "I-JEPA, in order": ("s3", "v"),
    "random weights": ("soft", "o"),
    "raw pixels": ("soft", "s"),
    "frame differences": ("soft", "D"),
}
"""Colour by role, and marker."""
_DOTTED: Any = {"color": FOR_PAPER.of["soft"], "linestyle": ":", "linewidth": 1}


def accuracies(rows: list[Row], method: str, task: str, probe: str) -> list[float]:
    """Return what the runs of a method reach, by seed."""
    wanted = {"method": method, "task": task, "probe": probe}
    return [row["accuracy"] for row in rows if wanted.items() <= row.items()]


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % t-interval of the mean over seeds."""
    quantiles = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
    half = quantiles.get(len(values), 2.262) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def guess(rows: list[Row], task: str) -> float:
    """Return what the most frequent label reaches in a task."""
    return next(float(row["guess"]) for row in rows if row["task"] == task)


def headline_probe(rows: list[Row], method: str) -> str:
    """Return the probe that a method is drawn with: attention, where there are tokens."""
    return "attentive" if any(row["method"] == method and row["probe"] == "attentive" for row in rows) else "linear"


def draw(rows: list[Row], panels: Panels, path: Path) -> None:
    """Write the chart as SVG: to the right what knows more of appearance, upwards what knows more of motion."""
    with charts(FOR_PAPER, count=2, columns=2, width=4.4, height=3.9) as (figure, every):
        for axes, (appearance, motion) in zip(every, panels, strict=True):
            for method in STYLES:
                _draw_method(axes, rows, method, appearance, motion)
            axes.axvline(guess(rows, appearance), **_DOTTED)
            axes.axhline(guess(rows, motion), **_DOTTED)
            if motion == "direction":
                axes.axhline(AXIS_ALONE, **_DOTTED)
            # one scale for both, or differences that mean nothing look large
            reached = [row["accuracy"] for row in rows if row["task"] in (appearance, motion)]
            axes.set(xlim=(0, min(1.0, max(reached) + 0.1)), ylim=(0, min(1.0, max(reached) + 0.1)))
            axes.set_xlabel(f"appearance: {appearance}")
            axes.set_ylabel(f"motion: {motion}")
        names = every[0].get_legend_handles_labels()
        figure.legend(*names, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        path.write_bytes(to_svg_file(figure))


def _draw_method(axes: Any, rows: list[Row], method: str, appearance: str, motion: str) -> None:
    """Draw a point with bars, unless the method was not asked yet."""
    probe = headline_probe(rows, method)
    x, y = (accuracies(rows, method, task, probe) for task in (appearance, motion))
    if not x or not y:
        return
    role, marker = STYLES[method]
    label = f"{method} (linear)" if probe == "linear" else method
    colour = FOR_PAPER.of[role]
    axes.errorbar(
        np.mean(x), np.mean(y), xerr=_bars(x), yerr=_bars(y), fmt=marker, markersize=7, color=colour, label=label
    )


def print_tables(rows: list[Row]) -> None:
    """Print a table for each probe: methods down, tasks across, mean with half of the 95 % interval."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for probe in dict.fromkeys(row["probe"] for row in rows):
        print(f"| {probe} probe | runs | {' | '.join(tasks)} |")
        print(f"|---|---|{'---|' * len(tasks)}")
        for method in STYLES:
            cells = [accuracies(rows, method, task, probe) for task in tasks]
            if all(cells):
                print(f"| {method} | {len(cells[0])} | {' | '.join(map(_with_interval, cells))} |")
        print(f"| guessing | | {' | '.join(f'{guess(rows, task):.2f}' for task in tasks)} |\n")


def _with_interval(values: list[float]) -> str:
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) < 3 else f"{mean} ± {interval(values)[1] - np.mean(values):.2f}"


def _bars(values: list[float]) -> float | None:
    """Return half of the 95 % interval; None of fewer than three runs."""
    return None if len(values) < 3 else float(interval(values)[1] - np.mean(values))
