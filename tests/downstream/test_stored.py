"""Features stay on disk, and what a row is comes from the index and from tables of labels."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from outlines import HOSTILE
from outputs import write_output

from vjepa_sdk.downstream.stored import IndexFile, open_features
from vjepa_sdk.errors import InputError
from vjepa_sdk.features.formats import SUFFIXES

NAMES = ["a.mp4", "sub/b.mp4", "c.mp4"]
ROWS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def features(place: Path) -> Path:
    return write_output(place / "feats.npy", ROWS, NAMES)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_of_every_format_are_mapped(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    opened = open_features(write_output(tmp_path / f"feats{suffix}", ROWS))
    assert isinstance(opened.rows, np.memmap)
    assert np.array_equal(opened.rows, ROWS)


def test_hostile_names_are_read_as_they_are(tmp_path: Path) -> None:
    opened = open_features(write_output(tmp_path / "feats.npy", np.ones((len(HOSTILE), 2), np.float32), HOSTILE))
    assert [entry["path"] for entry in opened.entries()] == HOSTILE
    assert opened.entry(len(HOSTILE) - 1)["path"] == HOSTILE[-1]
    assert opened.column("id") == HOSTILE


def test_lines_longer_than_what_is_read_at_once_are_whole(tmp_path: Path) -> None:
    names = [str(number) * (7 << 20) for number in range(3)]  # 21 MiB, and 16 are looked at together
    path = tmp_path / "index.jsonl"
    entries = [{"id": name, "path": "p", "start_seconds": None, "end_seconds": None} for name in names]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert [entry["id"] for entry in IndexFile(path)] == names


def labels(place: Path, *lines: dict[str, str]) -> Path:
    path = place / "labels.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def test_labels_are_joined_by_paths_relative_to_their_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    path = features(tmp_path)
    table = labels(tmp_path / "sub", {"path": "../a.mp4", "label": "x"}, {"path": "b.mp4", "label": "y"})
    with caplog.at_level(logging.WARNING):
        opened = open_features(path, labels=table)
    assert opened.column("label") == ["x", "y", None]
    assert caplog.messages == [f"{table} has no line for 1 of 3 rows"]


def test_labels_are_joined_by_ids_before_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = labels(tmp_path, {"id": "c.mp4", "path": "a.mp4", "label": "x"})
    assert open_features(features(tmp_path), labels=table).column("label") == [None, None, "x"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"path": "a.mp4", "label": "x"}, {"path": "a.mp4", "label": "y"}], "line 3: .*a.mp4 has other values before"),
        (
            [{"path": "z.mp4", "label": "x"}],
            "has no line for any row of .*feats.npy, such as a.mp4; its paths",
        ),
        ([{"path": "a.mp4", "start_seconds": "soon"}], "line 2: seconds must be numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[dict[str, str]], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        open_features(features(tmp_path), labels=labels(tmp_path, *lines))


def test_labels_of_an_array_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are labels of files, and an array names none; pass a file of features"):
        open_features(np.ones((2, 3), np.float32), labels=labels(tmp_path, {"path": "a.mp4"}))


def test_a_column_that_there_is_not_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no column 'split'; it has row, id, path, start_seconds, end_seconds"):
        open_features(features(tmp_path)).column("split")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "feats.npy.*does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "is damaged or not written by `vjepa embed`"),
        (
            lambda path: path.with_suffix(".index.jsonl").unlink(),
            "feats.index.jsonl: does not exist; `vjepa embed --out",
        ),
        (lambda path: path.with_suffix(".index.jsonl").write_text(""), r"\(it has no rows\)"),
        (lambda path: path.with_suffix(".index.jsonl").write_text("{}\n"), "has 3 rows, but its index has 1 lines"),
        (lambda path: path.with_suffix(".meta.json").write_text('{"output": "b.npy"}'), "belongs to 'b.npy'; keep the"),
        (lambda path: np.save(path, np.ones((3, 2, 2), np.float32)), "must have one row of numbers for each clip"),
    ],
)
def test_files_that_are_damaged_or_of_another_run_are_refused(tmp_path: Path, damage: object, message: str) -> None:
    path = features(tmp_path)
    damage(path)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        open_features(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "index.jsonl: line 2 is damaged"), ('{"id": "a"}', "line 2 lacks one of end_seconds, id, path, start")],
)
def test_a_damaged_line_of_the_index_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = features(tmp_path)
    index = path.with_suffix(".index.jsonl")
    lines = index.read_text().splitlines()
    index.write_text("\n".join([lines[0], line, lines[2]]) + "\n")
    with pytest.raises(InputError, match=message):
        open_features(path).entry(1)
