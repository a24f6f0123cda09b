"""Show how far a long job is, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressBar:
    """A running bar."""

    _advance: Callable[[int, str], None]

    def advance(self, note: str = "", *, by: int = 1) -> None:
        """Move the bar and replace the note at its end."""
        self._advance(by, note)


def _is_terminal() -> bool:
    """Whether stderr is one; hosts put None, closed files and objects of their own in its place."""
    try:
        return bool(sys.stderr.isatty())
    except (AttributeError, ValueError):
        return False


@contextmanager
def progress_bar(
    title: str, *, total: int, done: int = 0, show: bool | None = None, unit: str = "step"
) -> Iterator[ProgressBar]:
    """Show a bar with rate and remaining time on stderr while the block runs.

    Args:
        show: None shows it if stderr is a terminal.
        unit: of what is counted; `B` are bytes, shown as sizes.
    """
    if not (_is_terminal() if show is None else show):
        yield ProgressBar(lambda by, note: None)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    is_bytes = unit == "B"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if is_bytes else MofNCompleteColumn(),
        TransferSpeedColumn() if is_bytes else TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, completed=done, rate="", note="")

        def advance(by: int, note: str) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, advance=by, note=note, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield ProgressBar(advance)
