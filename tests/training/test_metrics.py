"""Metrics are whole lines of JSON, whatever the disk and the numbers do."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from vjepa_sdk.errors import WriteError
from vjepa_sdk.training.metrics import MetricsLog


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def write(path: Path, *numbers: int, last_step: int = 0) -> None:
    with MetricsLog(path, last_step=last_step) as log:
        for number in numbers:
            log.write({"step": number, "clips": ["a}.mp4"]})


def test_lines_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    write(path := tmp_path / "metrics.jsonl", 1, 2, 3, 4)
    write(path, 3, last_step=2)
    assert steps(path) == [1, 2, 3]


@pytest.mark.parametrize("cut", range(1, 34))
def test_torn_line_is_forgotten_wherever_it_was_torn(tmp_path: Path, cut: int) -> None:
    write(path := tmp_path / "metrics.jsonl", 1, 2)
    path.write_bytes(path.read_bytes()[:-cut])
    write(path, 3, last_step=2)
    assert steps(path) == [1, 3]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    with MetricsLog(path := tmp_path / "metrics.jsonl", last_step=0) as log:
        log.write({"step": 1, "loss": float("nan"), "norm": float("inf"), "lr": 0.1})
    assert path.read_text() == '{"step": 1, "loss": null, "norm": null, "lr": 0.1}\n'


def test_lines_that_a_full_disk_refuses_come_with_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = os.write
    with MetricsLog(path := tmp_path / "metrics.jsonl", last_step=0) as log:
        log.write({"step": 1})
        # a disk that fills up takes the beginning first, then nothing
        monkeypatch.setattr(os, "write", lambda file, data: original(file, data[:5]))
        log.write({"step": 2})

        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "write", refuse)
        log.write({"step": 3})
        monkeypatch.undo()
        log.write({"step": 4})
    assert steps(path) == [1, 2, 3, 4]
    assert "cannot be written (No space left on device)" in caplog.text


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="metrics.jsonl: cannot be written"):
        MetricsLog(tmp_path / "absent" / "metrics.jsonl", last_step=0)
