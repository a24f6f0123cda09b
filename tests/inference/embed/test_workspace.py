"""A workspace keeps what was committed, knows what was damaged, and has one owner at a time."""

from __future__ import annotations

import itertools
import json
import os
import threading
from pathlib import Path

import pytest

from vjepa_sdk.errors import InUseError, OutputError
from vjepa_sdk.inference.embed.workspace import Part, Workspace
from vjepa_sdk.runtime import lock
from vjepa_sdk.runtime.files import digest_of

PLAN = {"clips": ["a", "b"], "batch_size": 2}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "feats.npy.work"


def _fill(directory: Path, *, parts: int) -> list[Part]:
    with Workspace(directory) as work:
        work.start(PLAN)
        return [
            work.commit(first=2 * i, last=2 * i + 2, data=[b"part", bytes([i])], facts={"rows": i})
            for i in range(parts)
        ]


def _recover(directory: Path) -> list[Part]:
    with Workspace(directory) as work:
        return work.recover()


def test_committed_parts_survive_the_run(directory: Path) -> None:
    parts = _fill(directory, parts=3)
    with Workspace(directory) as work:
        assert work.read_plan() == PLAN
        assert work.recover() == parts
        assert work.read(parts[1]) == b"part\x01"


def test_a_workspace_without_a_plan_leaves_no_directory(directory: Path) -> None:
    with Workspace(directory):
        assert directory.is_dir()
    assert not directory.exists()


def test_cleared_workspace_leaves_no_directory(directory: Path) -> None:
    _fill(directory, parts=1)
    with Workspace(directory) as work:
        work.clear()
    assert not directory.exists()


def test_starting_over_forgets_the_old_parts(directory: Path) -> None:
    _fill(directory, parts=2)
    with Workspace(directory) as work:
        work.start({"clips": []})
        assert work.recover() == []
    assert sorted(path.name for path in directory.iterdir()) == ["journal.jsonl", "lock", "plan.json"]


@pytest.mark.parametrize("cut", [2, 10, 40])
def test_a_torn_journal_line_costs_its_part_only(directory: Path, cut: int) -> None:
    parts = _fill(directory, parts=3)
    path = directory / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert _recover(directory) == parts[:2]
    assert not (directory / parts[2].name).exists()


def test_a_journal_line_that_lacks_only_its_end_counts(directory: Path) -> None:
    parts = _fill(directory, parts=3)
    path = directory / "journal.jsonl"
    complete = path.read_bytes()
    path.write_bytes(complete[:-1])
    assert _recover(directory) == parts
    assert path.read_bytes() == complete


def test_parts_can_be_added_after_a_torn_line(directory: Path) -> None:
    parts = _fill(directory, parts=2)
    with open(directory / "journal.jsonl", "ab") as file:
        file.write(b'{"first": 4, "la')
    with Workspace(directory) as work:
        work.recover()
        parts.append(work.commit(first=4, last=6, data=[b"more"], facts={}))
    assert _recover(directory) == parts


@pytest.mark.parametrize("position", range(0, 480, 31))
def test_any_changed_byte_of_the_journal_is_detected(directory: Path, position: int) -> None:
    parts = _fill(directory, parts=3)
    data = bytearray((directory / "journal.jsonl").read_bytes())
    data[position % len(data)] ^= 1
    (directory / "journal.jsonl").write_bytes(data)
    recovered = _recover(directory)
    assert len(recovered) < len(parts)
    assert all(part in parts for part in recovered)


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "delete"])
def test_a_damaged_part_is_forgotten_and_the_others_kept(directory: Path, damage: str) -> None:
    parts = _fill(directory, parts=3)
    path = directory / parts[1].name
    changed = {"flip": b"pbrt\x01", "cut": b"part", "grow": b"part\x01\x00"}
    path.unlink() if damage == "delete" else path.write_bytes(changed[damage])
    assert _recover(directory) == [parts[0], parts[2]]


def test_a_part_that_changes_under_the_run_is_never_read(directory: Path) -> None:
    _fill(directory, parts=1)
    with Workspace(directory) as work:
        [part] = work.recover()
        (directory / part.name).write_bytes(b"other")
        with pytest.raises(OutputError, match=r"part-00000000: is damaged \(its content changed\); run again to redo"):
            work.read(part)


def test_any_changed_byte_of_the_plan_is_detected(directory: Path) -> None:
    _fill(directory, parts=1)
    path = directory / "plan.json"
    intact = path.read_bytes()
    with Workspace(directory) as work:
        for position in (i for i, byte in enumerate(intact) if not chr(byte).isspace()):
            path.write_bytes(intact[:position] + bytes([intact[position] ^ 1]) + intact[position + 1 :])
            assert work.read_plan() is None, position


@pytest.mark.parametrize("text", ["", "null", "[]", '{"plan": 3}', "{" * 100_000, '{"plan": {}, "sha256": 0}'])
def test_plans_of_the_wrong_form_are_no_plans(directory: Path, text: str) -> None:
    _fill(directory, parts=0)
    (directory / "plan.json").write_text(text)
    with Workspace(directory) as work:
        assert work.read_plan() is None


def test_units_of_a_plan_come_back_one_by_one(directory: Path) -> None:
    with Workspace(directory) as work:
        work.start(PLAN, (b'{"clip": %d}\n' % number for number in range(3)))
        plan = work.read_plan()
        assert plan is not None and plan.items() > PLAN.items()
        assert [unit["clip"] for unit in work.read_units()] == [0, 1, 2]


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "delete"])
def test_damaged_units_are_no_plan(directory: Path, damage: str) -> None:
    changed = {"flip": b'{"clip": 3}\n', "cut": b'{"clip": 2}', "grow": b'{"clip": 2}\n\n'}
    with Workspace(directory) as work:
        work.start(PLAN, [b'{"clip": 2}\n'])
        units = directory / "units.jsonl"
        units.unlink() if damage == "delete" else units.write_bytes(changed[damage])
        assert work.read_plan() is None


def test_overlapping_parts_are_not_taken_twice(directory: Path) -> None:
    with Workspace(directory) as work:
        work.start(PLAN)
        long = work.commit(first=0, last=4, data=[b"long"], facts={})
        work.commit(first=2, last=4, data=[b"short"], facts={})
        assert work.recover() == [long]


def test_second_owner_is_refused_with_the_first_ones_name(directory: Path) -> None:
    with Workspace(directory), pytest.raises(InUseError, match=r"feats\.npy\.work: in use by process \d+ on "):
        Workspace(directory).__enter__()


def test_a_lock_that_outlives_its_owner_by_an_instant_is_waited_for(directory: Path) -> None:
    first = Workspace(directory)
    first.__enter__()
    threading.Timer(0.1, first.__exit__, (None, None, None)).start()
    with Workspace(directory):
        assert directory.exists()


def test_only_one_thread_at_a_time_owns_a_workspace_that_comes_and_goes(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.0)
    owners, overlaps, wins = [], [], []

    def compete() -> None:
        for _ in range(150):
            try:
                with Workspace(directory):
                    owners.append(1)
                    overlaps.append(len(owners) > 1)
                    owners.pop()
                    wins.append(1)
            except InUseError:
                pass

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(overlaps)
    assert wins
    assert not directory.exists()


def test_missing_parent_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"work: cannot write \(No such file or directory\), [\d,]+ bytes are free"):
        Workspace(tmp_path / "absent" / "work").__enter__()


def test_a_file_in_the_place_of_the_directory_is_an_error(directory: Path) -> None:
    directory.write_text("mine")
    with pytest.raises(OutputError, match="is in the place of a job's directory; move it away"):
        Workspace(directory).__enter__()
    assert directory.read_text() == "mine"


@pytest.mark.parametrize("name", ["notes.txt", "part-1", "lock.txt", "features/mine", ".plan.json.swp"])
def test_a_directory_with_a_file_of_somebody_else_is_refused_and_left_alone(directory: Path, name: str) -> None:
    (directory / name).parent.mkdir(parents=True)
    (directory / name).write_text("mine")
    with pytest.raises(OutputError, match=f"holds {name.split('/')[0]}, which is no file of a job; move it away"):
        Workspace(directory).__enter__()
    assert (directory / name).read_text() == "mine" and [*directory.iterdir()] == [directory / name.split("/")[0]]


def test_a_lock_of_somebody_else_is_refused_and_left_alone(directory: Path) -> None:
    directory.mkdir()
    (directory / "lock").write_text("my notes on locks")
    with pytest.raises(OutputError, match="its file lock is not the lock of a job"):
        Workspace(directory).__enter__()
    assert (directory / "lock").read_text() == "my notes on locks"


@pytest.mark.parametrize("is_dangling", [False, True])
def test_a_link_in_the_place_of_the_directory_is_never_followed(
    directory: Path, tmp_path: Path, is_dangling: bool
) -> None:
    target = tmp_path / "precious"
    if not is_dangling:
        target.mkdir()
        (target / "part-00000000").write_text("mine")
    directory.symlink_to(target)
    with pytest.raises(OutputError, match="is in the place of a job's directory"):
        Workspace(directory).__enter__()
    assert is_dangling or (target / "part-00000000").read_text() == "mine"


def test_a_file_that_appears_during_a_job_outlives_it(directory: Path) -> None:
    with Workspace(directory) as work:
        work.start(PLAN)
        (directory / "notes.txt").write_text("mine")
        work.clear()
    assert (directory / "notes.txt").read_text() == "mine"


@pytest.fixture
def files(directory: Path, tmp_path: Path) -> list[tuple[str, Path]]:
    """Return an old output of two files, and new ones that wait in the workspace."""
    _fill(directory, parts=1)
    for name in ("index.jsonl", "features"):
        (tmp_path / name).write_text("old")
        (directory / name).write_text("new")
    return [("index.jsonl", tmp_path / "index.jsonl"), ("features", tmp_path / "features")]


def test_publish_replaces_the_old_files_and_ends_the_job(directory: Path, files: list[tuple[str, Path]]) -> None:
    with Workspace(directory) as work:
        work.replace_output(files)
    assert [final.read_text() for _, final in files] == ["new", "new"]
    assert not directory.exists()


def test_publish_touches_nothing_unless_all_files_are_there(directory: Path, files: list[tuple[str, Path]]) -> None:
    (directory / "index.jsonl").unlink()
    with Workspace(directory) as work:
        with pytest.raises(OutputError, match="cannot write"):
            work.replace_output(files)
        assert not work.is_committed
    assert [final.read_text() for _, final in files] == ["old", "old"]


@pytest.mark.parametrize("calls", range(3))
def test_a_publication_that_was_cut_short_is_finished_by_the_next_owner(
    directory: Path, files: list[tuple[str, Path]], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, count = os.replace, itertools.count(-1)  # the first is that of the commit mark

    def failing(source: Path, final: Path) -> None:
        if next(count) == calls - 1:
            raise OSError("cut")
        replace(source, final)

    with monkeypatch.context() as patch, Workspace(directory) as work, pytest.raises(OutputError, match="cut"):
        patch.setattr(os, "replace", failing)
        work.replace_output(files)
    texts = {final.read_text() for _, final in files if final.exists()}
    assert len(texts) <= 1, "old and new must never stand side by side"
    with Workspace(directory) as work:
        assert work.is_committed == (calls > 0)
        work.replace_output(files)
    assert [final.read_text() for _, final in files] == ["new", "new"]
    assert not directory.exists()


def test_digest_ignores_the_order_of_keys_only() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 2, "b": 1})
    assert digest_of([1, 2]) != digest_of([2, 1])


def test_journal_lines_are_json(directory: Path) -> None:
    _fill(directory, parts=2)
    lines = [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]
    assert [(line["first"], line["last"], line["facts"]["rows"]) for line in lines] == [(0, 2, 0), (2, 4, 1)]
