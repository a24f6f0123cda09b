"""Draw charts with matplotlib: as SVG that takes the colours of the page it stands in, or as PNG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .page import plain_text, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

CATEGORIES = (
    "#008DF9", "#FF6E3A", "#009F81", "#8400CD", "#E20134", "#FFC33B",
    "#00C2F9", "#9F0162", "#00FCCF", "#FF5AAF", "#A40122", "#FFB2FD",
)  # fmt: skip
"""Twelve colours that the colour-blind can tell apart (Krzywinski, http://mkweb.bcgsc.ca/colorblind)."""
OTHER = "#8A94A0"
"""Of all that have none of the twelve."""

# colours that nothing else has: in an SVG they become the page's own
_ROLES = {"ink": "#010203", "soft": "#040506", "line": "#070809"} | {f"s{i}": f"#0a0b{i:02x}" for i in range(1, 5)}
_ON_WHITE = {
    "ink": "#16191d", "soft": "#555f6b", "line": "#dde1e7",
    "s1": "#0a5bc2", "s2": "#c2410c", "s3": "#0f766e", "s4": "#7e22ce",
}  # fmt: skip
_ON_FILM = {
    "ink": "#eceff3", "soft": "#a0abb8", "line": "#2a313a",
    "s1": "#7db7ff", "s2": "#fb9a5b", "s3": "#4fd1b5", "s4": "#c79bff",
}  # fmt: skip
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vjepa-sdk",
    "font.size": 11.0,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "path.simplify_threshold": 0.2,
}


@dataclass(frozen=True)
class Colours:
    """Colours by role: `ink`, `soft`, `line`, and `s1` to `s4` for series."""

    of: Mapping[str, str]
    ground: str = "none"


FOR_PAGES, FOR_PAPER, FOR_FILMS = Colours(_ROLES), Colours(_ON_WHITE, "white"), Colours(_ON_FILM, "#12151a")


@contextmanager
def chart(colours: Colours, *, width: float = 4.8, height: float = 2.6) -> Iterator[tuple[Figure, Axes]]:
    """Lend a figure with one pair of axes, sizes in inches; no window system is asked for."""
    with charts(colours, count=1, columns=1, width=width, height=height) as (figure, (axes,)):
        yield figure, axes


@contextmanager
def charts(
    colours: Colours,
    *,
    count: int,
    columns: int,
    width: float = 4.8,
    height: float = 2.6,
    are_apart: bool = False,
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Lend a figure with several pairs of axes, row by row; sizes are those of one pair, in inches.

    Args:
        are_apart: each takes the room that its own labels leave, instead of standing in line with the others.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as _Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    of = colours.of
    inked: dict[Any, Any] = {name: of["soft"] for name in ("xtick.color", "ytick.color")} | {
        "axes.edgecolor": of["line"]
    }
    inked |= {"text.color": of["ink"], "axes.labelcolor": of["soft"]}
    rows = -(-count // columns)
    with mpl.rc_context(_SETTINGS | inked):
        space = 0.14 if count > 1 else 0.04167
        layout = ConstrainedLayoutEngine(w_pad=space, h_pad=space)
        figure = _Figure(figsize=(width * columns, height * rows), layout=layout)
        figure.set_facecolor(colours.ground)
        if are_apart:
            every = [part.subplots() for part in figure.subfigures(rows, columns, squeeze=False).flat[:count]]
        else:
            every = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
        for axes in every:
            axes.patch.set_alpha(0.0)
            axes.tick_params(length=0, pad=5)
            axes.grid(visible=True, axis="y", color=of["line"], linewidth=0.8)
            axes.set_axisbelow(True)
        yield figure, every


def to_svg(figure: Figure, *, name: str) -> str:
    """Return a chart made with `FOR_PAGES` as an `svg` element that may stand in a page beside others.

    Args:
        name: told apart by it are the ids of charts in one page; letters, digits and dashes.
    """
    svg = _save(figure, format="svg", metadata={"Date": None, "Creator": None}).decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font: \1px system-ui, sans-serif", svg)
    for role, colour in _ROLES.items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg


def to_svg_file(figure: Figure) -> bytes:
    """Return a chart made with `FOR_PAPER` as an SVG file."""
    return _save(figure, format="svg", metadata={"Date": None, "Creator": None})


def to_png(figure: Figure, *, dpi: int = 160) -> bytes:
    """Return a chart made with `FOR_PAPER` as PNG."""
    return _save(figure, format="png", dpi=dpi, metadata={"Software": None})


def _save(figure: Figure, **options: Any) -> bytes:
    import matplotlib as mpl

    file = io.BytesIO()
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # labels may be in any script; what the font lacks becomes a box in a PNG, and stays text in an SVG
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(file, **options)
    return file.getvalue()


def draw_curve(
    axes: Axes, colours: Colours, *, x: Sequence[float], y: Sequence[float | None], title: str, role: str = "s1"
) -> None:
    """Draw one series with its last value; a None is a gap."""
    values = np.array([np.nan if value is None else value for value in y], dtype=np.float64)
    axes.plot(x, values, color=colours.of[role], linewidth=1.8, solid_joinstyle="round")
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=colours.of["ink"])
    axes.margins(x=0.01, y=0.08)
    known = np.flatnonzero(np.isfinite(values))
    if len(known):
        axes.plot(x[known[-1]], values[known[-1]], "o", color=colours.of[role], markersize=4.5, clip_on=False)


def draw_points(axes: Axes, colours: Colours, *, points: np.ndarray, point_colours: Sequence[str], size: float) -> None:
    """Draw a map: points `[n, 2]` without axes, in one scale for both directions."""
    axes.scatter(
        points[:, 0], points[:, 1], s=size, c=list(point_colours), linewidths=0.4, edgecolors=colours.of["line"]
    )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_axis_off()


def draw_counts(axes: Axes, colours: Colours, counts: np.ndarray, *, is_numbered: bool) -> None:
    """Draw a matrix of counts, shaded by their share of the row.

    Args:
        colours: `FOR_PAPER`; a page has tables instead.
        is_numbered: write the counts into it.
    """
    from matplotlib.colors import LinearSegmentedColormap

    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    shades = LinearSegmentedColormap.from_list("counts", ["#f2f5f9", colours.of["s1"]])
    axes.imshow(shares, cmap=shades, vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.grid(visible=False)
    for row, column in zip(*np.nonzero(counts), strict=True) if is_numbered else ():
        ink = "white" if shares[row, column] > 0.6 else colours.of["ink"]
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=9, color=ink)


def name_ticks(axis: Axis, names: Sequence[str]) -> None:
    """Write names beside an axis, one at each whole number; what looks like a formula stays as it is."""
    texts = [drawn_name(name, length=18) for name in names]
    axis.set_ticks(range(len(texts)), texts, fontsize=9, parse_math=False)


def drawn_name(name: str, *, length: int = 24) -> str:
    """Return a name of a stranger's as it can stand in a chart."""
    return shortened(plain_text(name), length=length)
