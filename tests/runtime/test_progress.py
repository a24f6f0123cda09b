"""A bar is shown on terminals, and never in the way."""

from __future__ import annotations

import io
import logging
import re
import sys
from types import SimpleNamespace

import pytest

from vjepa_sdk.runtime import progress
from vjepa_sdk.runtime.progress import Pace, ProgressBar, progress_bar


class Logger:
    """What programs put in the place of stderr: something with a write."""

    def write(self, text: str) -> int:
        return len(text)


@pytest.mark.parametrize("kind", ["none", "closed", "logger", "file"])
def test_whatever_stderr_is_work_goes_on_without_a_bar(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = {"none": None, "closed": io.StringIO(), "logger": Logger(), "file": io.StringIO()}[kind]
    if kind == "closed":
        stream.close()  # type: ignore[union-attr]
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("work", total=2) as bar:
        bar.advance("half done")


def test_bytes_are_shown_as_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("file", total=5_000_000, done=1_000_000, show=True, unit="B") as bar:
        bar.advance(by=1_500_000)
    assert "2.5/5.0 MB" in capsys.readouterr().err


class Terminal(io.StringIO):
    """A stderr that is one."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        """What is to be read on it: carriage returns, line feeds, erasing and going up are done, colours are not."""
        lines, row, column = [""], 0, 0
        for token in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.getvalue()):
            if token == "\r":
                column = 0
            elif token == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif token == "\x1b[2K":
                lines[row] = ""
            elif token == "\x1b[1A":
                row -= 1
            elif not token.startswith("\x1b"):
                lines[row] = lines[row][:column] + token + lines[row][column + len(token) :]
                column += len(token)
        return [line.rstrip() for line in lines]


def put_in_place(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    # in the test itself: pytest replaces stderr between fixtures and tests
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return stream


def test_records_and_warnings_stand_whole_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = put_in_place(monkeypatch)
    handler, logger = logging.StreamHandler(terminal), logging.getLogger("vjepa_sdk")
    logger.addHandler(handler)
    try:
        with progress_bar("work", total=2) as bar:
            bar.advance()
            logger.warning("a clip is damaged")
            print("a word of the host", file=sys.stderr)
            bar.advance()
        logger.warning("all is done")
    finally:
        logger.removeHandler(handler)
    lines = [line for line in terminal.screen if line]
    assert lines[:2] == ["a clip is damaged", "a word of the host"]
    assert [line[:4] for line in lines[2:]] == ["work", "all "]


def test_interrupted_bar_leaves_a_line_of_its_own_and_loggers_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = put_in_place(monkeypatch)
    handler, logger = logging.StreamHandler(terminal), logging.getLogger("vjepa_sdk")
    logger.addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt), progress_bar("work", total=2) as bar:
            bar.advance()
            terminal.write("^C")  # the terminal's own echo
            raise KeyboardInterrupt
        assert handler.stream is terminal and sys.stderr is terminal
    finally:
        logger.removeHandler(handler)
    print("stopped", file=sys.stderr)
    bar_line, message = (line for line in terminal.screen if line)
    assert bar_line.startswith("work") and "^C" not in bar_line
    assert message == "stopped"


def test_steps_of_minutes_have_a_rate_and_a_time_that_counts_down() -> None:
    pace = Pace(0.0)
    assert pace.rate is None and pace.remaining(10.0, 100) is None
    for number in range(1, 21):
        pace.add(100.0 * number, 1)
        assert pace.describe("step") == "100.0 s/step"
    assert pace.remaining(2000.0, 3) == pytest.approx(300)
    assert pace.remaining(2040.0, 3) == pytest.approx(260)
    assert pace.remaining(2000.0 + 1000.0, 3) == 0


def test_pace_of_short_steps_follows_a_change_within_half_a_minute() -> None:
    pace = Pace(0.0)
    for number in range(1, 101):
        pace.add(float(number), 1)
    for number in range(1, 321):
        pace.add(100 + number / 10, 1)
    assert pace.describe("clip") == "10.0 clip/s"


def test_steps_that_are_done_soon_show_no_bar_and_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, now = put_in_place(monkeypatch), [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with progress_bar("planning", total=3, patience_seconds=1.0) as bar:
        bar.advance()
        now[0] += 0.9
        bar.advance()
    assert terminal.getvalue() == ""
    with progress_bar("planning", total=3, patience_seconds=1.0) as bar:
        bar.advance()
        now[0] += 1.0
        bar.advance()
    assert any("planning" in line and "2/3" in line for line in terminal.screen)


def test_a_bar_without_an_end_counts_and_foretells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = put_in_place(monkeypatch)
    with progress_bar("listing", total=None) as bar:
        bar.advance(by=7)
    (line,) = (line for line in terminal.screen if line)
    assert "7/?" in line and "-:--:--" in line


def test_counted_items_move_the_bar_many_at_a_time() -> None:
    moves: list[int] = []
    bar = ProgressBar(lambda by, note: moves.append(by))
    assert list(bar.counting(range(2500))) == list(range(2500))
    assert moves == [1000, 1000, 500]
