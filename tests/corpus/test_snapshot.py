"""Files are looked at by several threads, and what is told of them is that of one after the other."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from vjepa_sdk.corpus import snapshot
from vjepa_sdk.corpus.lists import ClipSource, whole
from vjepa_sdk.corpus.snapshot import describe_clips


@pytest.fixture
def sources(tmp_path: Path) -> list[ClipSource]:
    """Twenty files, a missing one, and parts of one, in no order."""
    for number in range(20):
        (tmp_path / f"{number}.mp4").write_bytes(bytes([number]) * (number + 1))
    parts = [ClipSource(path=str(tmp_path / "3.mp4"), id=f"part{n}", start_seconds=float(n)) for n in range(5)]
    return [*(whole(tmp_path / f"{number}.mp4") for number in (*range(19, -1, -1), 20)), *parts]


def test_clips_come_in_their_order_however_many_look(
    sources: list[ClipSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [clip for source in sources for clip in describe_clips([source])]
    assert [clip.size for clip in alone[:21]] == [*range(20, 0, -1), 0]
    monkeypatch.setattr(snapshot, "_AT_ONCE", 2)
    assert describe_clips(sources) == alone


def test_files_are_looked_at_at_the_same_time(sources: list[ClipSource], monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, look = threading.Barrier(4, timeout=30), snapshot._look

    def waiting(path: str) -> tuple[int, int, str]:
        meeting.wait()  # which one thread alone would do for ever
        return look(path)

    monkeypatch.setattr(snapshot, "_AT_ONCE", 1)
    monkeypatch.setattr(snapshot, "_look", waiting)
    assert len(describe_clips(sources[:20])) == 20


def test_an_error_ends_it_without_looking_at_the_rest(
    sources: list[ClipSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []

    def failing(path: str) -> tuple[int, int, str]:
        looked_at.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshot, "_AT_ONCE", 1)
    monkeypatch.setattr(snapshot, "_look", failing)
    with pytest.raises(KeyboardInterrupt):
        describe_clips(sources * 500)
    assert len(looked_at) < len(sources) * 500


def test_nothing_is_no_clip() -> None:
    assert describe_clips([]) == []
