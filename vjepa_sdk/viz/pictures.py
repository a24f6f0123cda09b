"""Write panels as a film, a sheet of moments, a page or numbers, whichever the name of the output asks for."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import ConfigError
from ..runtime.files import atomic_file, disk_errors
from .films import PanelRow, film_frames, sheet, to_gif, to_mp4, to_png
from .page import Page, check_output, render_page

SUFFIXES = (".mp4", ".gif", ".png", ".html", ".npz")


def check_picture(path: Path, *, overwrite: bool) -> None:
    """Raise ConfigError or OutputError unless a picture of tokens can be written there."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: the suffix {path.suffix!r} must be one of {', '.join(SUFFIXES)}; rename the output")
    check_output(path, overwrite=overwrite)


def write_picture(
    path: Path,
    rows: Sequence[PanelRow],
    *,
    caption: str,
    fps: float,
    page: Callable[[], Page],
    numbers: Callable[[], Mapping[str, np.ndarray]],
    overwrite: bool,
    below: Callable[[int], np.ndarray] | None = None,
) -> Path:
    """Write a film (`.mp4`, `.gif`), a sheet (`.png`), a page (`.html`) or arrays (`.npz`), whole or not at all.

    Args:
        rows: what moves, one below the other.
        caption: of a film or sheet.
        page: makes the page, if one is asked for.
        numbers: returns the arrays, by name, if they are.
        below: draws what stands below a sheet of so many pixels' width, uint8 `[h, width, 3]`.

    Raises:
        ConfigError: another suffix.
        OutputError: there is such a file already, or the directory does not exist.
        WriteError: the disk refuses.
    """
    check_picture(path, overwrite=overwrite)
    suffix = path.suffix.lower()
    if suffix == ".html":
        content = render_page(page())
    elif suffix == ".npz":
        file = io.BytesIO()
        np.savez(file, **numbers())  # type: ignore[arg-type]  # its other parameter is a flag
        content = file.getvalue()
    elif suffix == ".png":
        drawn = sheet(rows, caption=caption)
        content = to_png(drawn if below is None else np.concatenate([drawn, below(drawn.shape[1])]))
    elif suffix == ".gif":
        content = to_gif(lambda: film_frames(rows, caption=caption), count=max(map(len, rows)), fps=fps)
    else:
        content = to_mp4(film_frames(rows, caption=caption), fps=fps)
    with disk_errors(path, needed=len(content)), atomic_file(path) as out:
        out.write(content)
    return path
