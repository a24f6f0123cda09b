"""What reads stdout does not change what a command did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from media import write_video

COMMAND = [sys.executable, "-m", "vjepa_sdk"]


@pytest.mark.parametrize("num_bad", [0, 1])
@pytest.mark.parametrize("lines", ["few", "many"])
def test_a_reader_that_went_away_changes_no_exit_code(tmp_path: Path, num_bad: int, lines: str) -> None:
    write_video(tmp_path / "good.mp4")
    for number in range(num_bad):
        (tmp_path / f"bad{number}.mp4").write_bytes(b"no video")
    if lines == "many":  # more than a pipe holds
        os.makedirs(tmp_path / "deep")
        for number in range(400):
            (tmp_path / "deep" / f"{'x' * 200}{number}.mp4").hardlink_to(tmp_path / "good.mp4")
    command = [*COMMAND, "check", str(tmp_path), "--num-workers", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (3 if num_bad else 0, "")


def test_a_name_that_stdout_cannot_say_is_escaped(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4").rename(tmp_path / "视频.mp4")
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [*COMMAND, "check", "视频.mp4"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert r"\u89c6\u9891.mp4" in done.stdout and done.stderr == ""
