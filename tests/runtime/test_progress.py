"""A bar is shown on terminals, and never in the way."""

from __future__ import annotations

import io
import sys

import pytest

from vjepa_sdk.runtime.progress import progress_bar


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
