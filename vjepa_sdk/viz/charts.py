"""Draw charts with matplotlib: as SVG that takes the colours of the page it stands in, or as PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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


FOR_PAGES, FOR_PAPER = Colours(_ROLES), Colours(_ON_WHITE)


@contextmanager
def chart(colours: Colours, *, width: float = 4.8, height: float = 2.6) -> Iterator[tuple[Figure, Axes]]:
    """Lend a figure with one pair of axes, sizes in inches; no window system is asked for."""
    with charts(colours, count=1, columns=1, width=width, height=height) as (figure, (axes,)):
        yield figure, axes


@contextmanager
def charts(
    colours: Colours, *, count: int, columns: int, width: float = 4.8, height: float = 2.6
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Lend a figure with several pairs of axes, row by row; sizes are those of one pair, in inches."""
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
        figure.patch.set_alpha(0.0 if colours is FOR_PAGES else 1.0)
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
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context(_SETTINGS):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
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
    import matplotlib as mpl

    file = io.BytesIO()
    with mpl.rc_context(_SETTINGS):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def to_png(figure: Figure, *, dpi: int = 160) -> bytes:
    """Return a chart made with `FOR_PAPER` as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
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
