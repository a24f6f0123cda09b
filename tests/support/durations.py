"""Say at the end of a run how long the tests of each wing took; a pytest plug-in."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):  # setup, call and teardown; of all workers
                seconds["/".join(PurePosixPath(report.nodeid.partition("::")[0]).parts[:2])] += report.duration
    if len(seconds) > 1:
        terminalreporter.section("seconds by wing, of all workers together")
        for wing, count in seconds.most_common():
            terminalreporter.line(f"{count:7.1f}  {wing}")
