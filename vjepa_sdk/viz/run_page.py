"""Draw the curves of a pretraining run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config.documents import read_toml
from ..errors import ConfigError, InputError, printable
from ..runtime.files import atomic_file, disk_errors
from .charts import FOR_PAGES, FOR_PAPER, Colours, chart, charts, draw_curve, to_png, to_svg, to_svg_file
from .page import Note, Page, Part, Picture, Table, check_output, render_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".html", ".png", ".svg")

_MAX_POINTS = 2_000
_MAX_TABLE_ROWS = 20


@dataclass(frozen=True)
class _Chart:
    metric: str
    title: str
    note: str = ""
    role: str = "s1"


_CHARTS = (
    _Chart("loss", "Loss", "The targets move: it can rise while features get better, and falls in a collapse."),
    _Chart("target_effective_rank", "Effective rank", "Dimensions that the target features use.", "s3"),
    _Chart("target_std", "Standard deviation", "Of a target feature; falls towards 0 in a collapse.", "s3"),
    _Chart(
        "target_mean_cosine",
        "Mean cosine",
        "Of two target features; rises towards 1 in a collapse.",
        "s3",
    ),
    _Chart("prediction_loss", "Prediction loss", "Hidden tokens."),
    _Chart("context_loss", "Context loss", "Visible tokens."),
    _Chart("variance_loss", "Variance loss"),
    _Chart("covariance_loss", "Covariance loss"),
    _Chart("encoder_grad_norm", "Gradient norm, encoder", "Before clipping.", "s2"),
    _Chart("predictor_grad_norm", "Gradient norm, predictor", "Before clipping.", "s2"),
    _Chart("lr", "Learning rate", role="s4"),
    _Chart("weight_decay", "Weight decay", role="s4"),
    _Chart("momentum", "Momentum of the target encoder", role="s4"),
    _Chart("clips_failed", "Clips that could not be decoded", role="s2"),
)


@dataclass(frozen=True)
class RunCurves:
    """What a run logged."""

    steps: tuple[int, ...]
    """Of each line with metrics."""
    values: Mapping[str, tuple[float | None, ...]]
    """By the name of the metric; None where it was not finite. Those that are always zero are left out."""
    skipped: Mapping[int, str]
    """Steps that were left out, and why."""

    def first(self, metric: str) -> float | None:
        """Return the first value that is known."""
        return next((value for value in self.values[metric] if value is not None), None)

    def last(self, metric: str) -> float | None:
        """Return the last value that is known."""
        return next((value for value in reversed(self.values[metric]) if value is not None), None)


def read_run(run: str | Path) -> RunCurves:
    """Read the metrics of a run, which may still be going on.

    Raises:
        InputError: it is no directory of a run, or nothing is logged yet.
    """
    path = Path(run) / "metrics.jsonl"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{printable(path)}: cannot be read ({error.strerror}); pass the --out directory of `vjepa pretrain`"
        ) from error
    lines, skipped = [], {}
    # what a run is just writing has no end yet
    for number, line in enumerate(raw[: raw.rfind(b"\n") + 1].splitlines(), start=1):
        entry = _entry(line, f"{printable(path)}, line {number}")
        if "skipped" in entry:
            skipped[entry["step"]] = str(entry["skipped"])
        else:
            lines.append(entry)
    if not lines:
        raise InputError(f"{printable(path)}: nothing is logged yet; wait for log_every steps")
    values = {each.metric: tuple(map(_number, (line.get(each.metric) for line in lines))) for each in _CHARTS}
    kept = {metric: column for metric, column in values.items() if any(column)}
    return RunCurves(tuple(line["step"] for line in lines), kept, skipped)


def draw_run(run: str | Path, path: str | Path, *, overwrite: bool = False, command: Sequence[str] = ()) -> RunCurves:
    """Write the curves of a run as a page (`.html`), or all in one picture (`.png`, `.svg`).

    Args:
        run: directory of a pretraining run.
        path: of the output.
        overwrite: replace a file that is there.
        command: the command line that the page names.

    Raises:
        ConfigError: another suffix.
        InputError: no directory of a run, or nothing is logged yet.
        OutputError: there is such a file already, or the directory does not exist.
        WriteError: the disk refuses.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: the suffix {path.suffix!r} must be one of {', '.join(SUFFIXES)}; rename the output")
    check_output(path, overwrite=overwrite)
    found = read_run(run)
    if path.suffix.lower() == ".html":
        content = render_page(_page(found, Path(run), command))
    else:
        content = _picture(found, to_png if path.suffix.lower() == ".png" else to_svg_file)
    with disk_errors(path, needed=len(content)), atomic_file(path) as file:
        file.write(content)
    return found


def _picture(found: RunCurves, encode: Any) -> bytes:
    shown = [each for each in _CHARTS if each.metric in found.values]
    with charts(FOR_PAPER, count=len(shown), columns=min(3, len(shown)), width=4.0, height=2.3) as (figure, every):
        for each, axes in zip(shown, every, strict=True):
            _draw(axes, each, found, FOR_PAPER)
        content: bytes = encode(figure)
    return content


def _page(found: RunCurves, run: Path, command: Sequence[str]) -> Page:
    parts: list[Part] = []
    for each in _CHARTS:
        if each.metric not in found.values:
            continue
        with chart(FOR_PAGES) as (figure, axes):
            _draw(axes, each, found, FOR_PAGES)
            svg = to_svg(figure, name=each.metric)
        span = f"from {_text(found.first(each.metric))} to {_text(found.last(each.metric))}"
        parts.append(Picture(svg=svg, alt=f"{each.title} over the steps, {span}", note=each.note, is_narrow=True))
    rows = [
        (metric, *(f"{value:.6g}" for value in (known[0], known[-1], min(known), max(known))))
        for metric, values in found.values.items()
        if (known := [value for value in values if value is not None])
    ]
    parts.append(Table(title="Metrics", head=("metric", "first", "last", "lowest", "highest"), rows=rows))
    if found.skipped:
        parts += _skipped(found)
    facts = {"steps": f"{max([*found.steps, *found.skipped]):,}"}
    names = {"loss": "loss", "target_effective_rank": "effective rank", "target_std": "standard deviation"}
    facts |= {name: _text(found.last(metric)) for metric, name in names.items() if metric in found.values}
    return Page(
        title="Pretraining run",
        summary=_summary(found),
        facts=facts | ({"skipped steps": f"{len(found.skipped):,}"} if found.skipped else {}),
        parts=parts,
        settings={"run": str(run), **_settings(run)},
        command=command,
    )


def _summary(found: RunCurves) -> str:
    parts = [
        f"the {name} went from {_text(found.first(metric))} to {_text(found.last(metric))}"
        for metric, name in (("loss", "loss"), ("target_effective_rank", "effective rank"))
        if metric in found.values
    ]
    return f"In {max([*found.steps, *found.skipped]):,} steps {' and '.join(parts) or 'all metrics stayed zero'}."


def _skipped(found: RunCurves) -> list[Part]:
    rows = list(found.skipped.items())
    more = len(rows) - _MAX_TABLE_ROWS
    table = Table(title="Skipped steps", head=("step", "reason"), rows=rows[:_MAX_TABLE_ROWS])
    return [table, *([Note(text=f"{more:,} more are left out.")] if more > 0 else [])]


def _draw(axes: Axes, each: _Chart, found: RunCurves, colours: Colours) -> None:
    steps, values = _thinned(found.steps, found.values[each.metric])
    draw_curve(axes, colours, x=steps, y=values, title=each.title, role=each.role)
    if each.metric == "loss":
        for step in list(found.skipped)[:_MAX_POINTS]:
            axes.axvline(step, color=colours.of["s2"], linewidth=0.8, ymax=0.05)


def _thinned(steps: Sequence[int], values: Sequence[float | None]) -> tuple[list[int], list[float | None]]:
    """Keep of a long run the lowest and the highest value of each stretch: a spike stays to be seen."""
    if len(steps) <= _MAX_POINTS:
        return list(steps), list(values)
    numbers = np.array([np.nan if value is None else value for value in values])
    kept: set[int] = {0, len(steps) - 1}
    for part in np.array_split(np.arange(len(steps)), _MAX_POINTS // 2):
        known = part[np.isfinite(numbers[part])]
        kept |= (
            {int(known[numbers[known].argmin()]), int(known[numbers[known].argmax()])} if len(known) else {int(part[0])}
        )
    places = sorted(kept)
    return [steps[place] for place in places], [values[place] for place in places]


def _settings(run: Path) -> dict[str, object]:
    """Return the run's resolved settings, by dotted names."""
    path = run / "config.toml"
    return _flat(read_toml(path)) if path.is_file() else {}


def _flat(data: Mapping[str, Any], *, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, prefix=f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _entry(line: bytes, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: is no JSON ({error}); a pretraining run writes it") from error
    if not isinstance(entry, dict) or type(entry.get("step")) is not int:
        raise InputError(f"{where}: must be an object with a step; a pretraining run writes it")
    return entry


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
