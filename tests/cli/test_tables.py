"""Tables and lists hold names as they are, whatever these are made of, and never half of them."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from outlines import HOSTILE

from vjepa_sdk.cli.tables import check_file, name_of, write_list, write_table
from vjepa_sdk.corpus.find import find_clips
from vjepa_sdk.errors import ConfigError, InputError, OutputError

ROWS = [{"path": name, "row": number, "end_seconds": None} for number, name in enumerate(HOSTILE)]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
def test_hostile_names_are_read_back_as_they_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write_table(path, ROWS, columns=["row", "path"])
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    if suffix == ".csv":
        assert list(csv.DictReader(io.StringIO(text))) == [{"row": str(r["row"]), "path": r["path"]} for r in ROWS]
        assert "\r\n" not in text.replace("\r\tt", "")
    else:
        assert ROWS == (json.loads(text) if suffix == ".json" else [json.loads(line) for line in text.splitlines()])
        assert text.isascii()


def test_labels_that_a_spreadsheet_would_run_are_text_and_paths_stay_exact(tmp_path: Path) -> None:
    rows = [{"path": f"{sign}a.mp4", "id": f"{sign}a", "label": f"{sign}1+2", "score": -0.5} for sign in "=+-@a"]
    write_table(tmp_path / "t.csv", rows, columns=["path", "id", "label", "score"])
    found = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert [line["path"] for line in found] == [row["path"] for row in rows]
    assert [line["id"] for line in found] == [row["id"] for row in rows]
    assert [line["label"] for line in found] == ["'=1+2", "'+1+2", "'-1+2", "'@1+2", "a1+2"]
    assert {line["score"] for line in found} == {"-0.5"}


def entry(path: str, **more: object) -> dict[str, object]:
    return {"id": path, "path": path, "start_seconds": 0.0, "end_seconds": 1.6, **more}


@pytest.mark.parametrize("place", [".", "lists"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_a_list_is_read_as_clips_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["a b.mp4", "#1.mp4", "'q'.mp4", "é.mp4", str(tmp_path / "absolute.mp4")]
    if suffix != ".txt":
        names += ["line\nbreak.mp4", " space .mp4", "caf\udce9.mp4", "two 1", "\u2028.mp4", "\x0b\x85.mp4"]
    for name in names:
        Path(name).touch()
    (tmp_path / "lists").mkdir()
    path = Path(place) / f"keep{suffix}"
    write_list(path, map(entry, names))
    found = find_clips([path]).clips("none")
    assert {os.path.abspath(clip.path) for clip in found} == set(map(os.path.abspath, names))


@pytest.mark.parametrize("name", ["a\nb.mp4", "a\rb.mp4", " a.mp4", "a.mp4 ", "a.mp4 3", "a::3", "a\u2028b", "a\x85b"])
def test_a_name_that_text_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"this name cannot stand in a .txt list; pass --keep keep.jsonl"):
        write_list(Path("keep.txt"), [entry(name)])
    with pytest.raises(InputError, match=r"a\\rb.mp4: this name cannot stand in a .csv list; pass --keep keep.jsonl"):
        write_list(Path("keep.csv"), [entry("a\rb.mp4")])
    assert not list(tmp_path.iterdir())


def test_a_list_of_parts_keeps_their_seconds_and_ids(tmp_path: Path) -> None:
    parts = [entry("/a.mp4", id="/a.mp4#t=0,1.6"), entry("/a.mp4", id="/a.mp4", window=3, start_seconds=4.8)]
    write_list(tmp_path / "keep.jsonl", parts)
    assert [json.loads(line) for line in (tmp_path / "keep.jsonl").read_text().splitlines()] == [
        {"path": "/a.mp4", "id": "/a.mp4#t=0,1.6", "start_seconds": 0.0, "end_seconds": 1.6},
        {"path": "/a.mp4", "start_seconds": 4.8, "end_seconds": 1.6},
    ]


def test_a_name_in_print_says_which_part_of_a_file_it_is() -> None:
    assert name_of(entry("a\n.mp4")) == "a\\n.mp4"
    assert name_of(entry("a.mp4", window=1)) == "a.mp4#t=0,1.6"
    assert name_of(entry("a.mp4", id="a.mp4#t=0,1.6")) == "a.mp4#t=0,1.6"


def test_what_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.symlink_to(tmp_path / "absent.csv")
    with pytest.raises(OutputError, match=r"a.csv: exists; choose another --out, or pass --overwrite"):
        check_file(path, overwrite=False)
    check_file(path, overwrite=True)
    with pytest.raises(OutputError, match=r"its directory does not exist; make it with mkdir -p .*/no"):
        check_file(tmp_path / "no" / "a.csv", overwrite=True)
    with pytest.raises(ConfigError, match=r"a.csv: --html must end in .html; rename it"):
        check_file(path, overwrite=True, option="html")
    with pytest.raises(ConfigError, match=r"a.txt: --out must end in .csv, .json, .jsonl; rename it"):
        check_file(tmp_path / "a.txt", overwrite=True)


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_table(path, [{"path": object()}], columns=["path"])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
