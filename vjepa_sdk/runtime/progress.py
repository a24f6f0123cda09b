"""Show how far a long job is, on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

_WINDOW_SECONDS, _FEWEST_STEPS = 30.0, 8
_DRAWN_AT_ONCE = 1000

Item = TypeVar("Item")


@dataclass(frozen=True)
class ProgressBar:
    """A running bar."""

    _advance: Callable[[int, str], None]

    def advance(self, note: str = "", *, by: int = 1) -> None:
        """Move the bar and replace the note at its end."""
        self._advance(by, note)

    def counting(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items, each of which moves the bar; it is drawn for many of them at a time."""
        count = 0
        for item in items:
            yield item
            count += 1
            if count == _DRAWN_AT_ONCE:
                self.advance(by=count)
                count = 0
        if count:
            self.advance(by=count)


NO_BAR = ProgressBar(lambda by, note: None)
"""What nobody sees."""


class Pace:
    """How fast steps follow each other, over the last half minute or eight steps, whichever is longer."""

    def __init__(self, now: float) -> None:
        self._samples = deque([(now, 0)])

    def add(self, now: float, steps: int) -> None:
        """Take steps that have just been done."""
        self._samples.append((now, self._samples[-1][1] + steps))
        while len(self._samples) > _FEWEST_STEPS + 1 and self._samples[1][0] <= now - _WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def rate(self) -> float | None:
        """Steps a second; None before the first."""
        (began, before), (now, done) = self._samples[0], self._samples[-1]
        return (done - before) / (now - began) if done > before and now > began else None

    def remaining(self, now: float, steps: int) -> float | None:
        """Return the seconds that so many steps will still take; None before the first."""
        return None if self.rate is None else max(0.0, steps / self.rate - (now - self._samples[-1][0]))

    def describe(self, unit: str) -> str:
        """Return the rate as text, of slow steps their seconds."""
        if self.rate is None:
            return ""
        return f"{self.rate:.1f} {unit}/s" if self.rate >= 1 else f"{1 / self.rate:.1f} s/{unit}"


def _is_terminal() -> bool:
    """Whether stderr is one; hosts put None, closed files and objects of their own in its place."""
    try:
        return bool(sys.stderr.isatty())
    except (AttributeError, ValueError):
        return False


@contextmanager
def progress_bar(
    title: str,
    *,
    total: int | None,
    done: int = 0,
    show: bool | None = None,
    unit: str = "step",
    patience_seconds: float = 0.0,
) -> Iterator[ProgressBar]:
    """Show a bar with rate and remaining time on stderr while the block runs; log records go above it.

    Args:
        total: None where it is not known before the end.
        show: None shows it if stderr is a terminal.
        unit: of what is counted; `B` are bytes, shown as sizes.
        patience_seconds: steps that are done sooner show no bar.
    """
    if not (_is_terminal() if show is None else show):
        yield NO_BAR
        return
    from rich.console import Console
    from rich.progress import Progress

    began = time.monotonic()
    pace, stderr = Pace(began), sys.stderr
    progress = Progress(*_columns(pace, is_bytes=unit == "B"), console=Console(stderr=True))
    task = progress.add_task(title, total=total, completed=done, rate="", note="")
    with ExitStack() as shown:

        def advance(by: int, note: str) -> None:
            now = time.monotonic()
            pace.add(now, by)
            progress.update(task, advance=by, note=note, rate=pace.describe(unit))
            if not progress.live.is_started and now - began >= patience_seconds:
                begin()

        def begin() -> None:
            shown.enter_context(progress)
            shown.enter_context(_records_above(stderr))

        if not patience_seconds:
            begin()
        yield ProgressBar(advance)


def _columns(pace: Pace, *, is_bytes: bool) -> list[ProgressColumn]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class RemainingColumn(ProgressColumn):
        """Unlike rich's own, it knows steps of more than half a minute, and counts down while one runs."""

        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            steps = task.remaining
            seconds = None if steps is None else pace.remaining(time.monotonic(), int(steps))
            if seconds is None:
                return Text("-:--:--", style="progress.remaining")
            minutes, seconds = divmod(int(seconds), 60)
            return Text(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}", style="progress.remaining")

    return [
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if is_bytes else MofNCompleteColumn(),
        TransferSpeedColumn() if is_bytes else TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        RemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]


@contextmanager
def _records_above(stderr: TextIO) -> Iterator[None]:
    """Let loggers that write to the terminal write above the bar, which has put a stream of its own in its place."""
    handlers: list[logging.StreamHandler[TextIO]] = [
        handler
        for name in ("", "vjepa_sdk")
        for handler in logging.getLogger(name).handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is stderr
    ]
    for handler in handlers:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(stderr)
