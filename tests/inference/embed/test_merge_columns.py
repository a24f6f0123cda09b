"""Merged shares have the labels and other columns that the job without shares writes, or are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from corpora import NUM_CLIPS, Embed, contents, lines
from pyarrow import parquet as pq

from vjepa_sdk.errors import InputError
from vjepa_sdk.features.embeddings import sidecar
from vjepa_sdk.hub.locate import load_embeddings
from vjepa_sdk.inference.embed import batches
from vjepa_sdk.inference.embed.merge import merge_embeddings

MIXED: list[dict[str, Any]] = [
    {"label": "a", "take": 1},
    {"take": 2.5},
    {"ok": True, "take": None},
    {},
    *({"label": "b", "note": ["nested", number]} for number in range(4, NUM_CLIPS - 1)),
    {"last": "of one clip alone", "size": 3},
]
"""Columns of each clip, which not all have, of several kinds; no share has all."""


@pytest.fixture
def write(clips: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a list with these columns of clips, and one clip that cannot be decoded."""
    (tmp_path / "bad.mp4").write_bytes(b"no video")

    def write_list(columns: Sequence[dict[str, Any]]) -> Path:
        rows = [{"path": str(clips / f"{n}.mp4"), "id": f"clip-{n}", **row} for n, row in enumerate(columns)]
        rows.append({"path": "bad.mp4", "id": "bad", "torn": "of a clip without a row"})
        path = tmp_path / "list.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return path

    return write_list


@pytest.fixture
def shares(run: Embed, tmp_path: Path) -> Callable[..., list[Path]]:
    """Make all shares of a job."""

    def make(count: int, listed: Path, *, suffix: str = ".npy") -> list[Path]:
        outs = [tmp_path / f"part{index}{suffix}" for index in range(1, count + 1)]
        for index, out in enumerate(outs, start=1):
            run(out, listed, shard=f"{index}/{count}")
        return outs

    return make


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_are_the_bytes_of_the_job_without_shares(
    run: Embed, shares: Callable[..., list[Path]], write: Callable[..., Path], tmp_path: Path, suffix: str, count: int
) -> None:
    whole, merged, listed = tmp_path / f"whole{suffix}", tmp_path / f"merged{suffix}", write(MIXED)
    run(whole, listed)
    result = merge_embeddings(shares(count, listed, suffix=suffix), merged)
    assert (result.rows, result.failed) == (NUM_CLIPS, 1)
    assert contents(merged) == contents(whole)
    names = ["label", "take", "ok", "note", "last", "list_size", "torn"]
    assert sorted(list(lines(merged, "index.jsonl")[0])[-7:]) == sorted(names)
    again = run(merged, listed)
    assert again.already_complete and not again.columns_updated
    if suffix == ".parquet":
        assert pq.read_table(merged)["take"].to_pylist()[:3] == [1.0, 2.5, None]


def test_of_an_older_list_are_refused_until_their_share_takes_the_new_ones_over(
    run: Embed,
    shares: Callable[..., list[Path]],
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = shares(5, write(MIXED))
    listed = write([*MIXED[:-1], {**MIXED[-1], "last": "changed"}])  # of one clip, which is in one share
    monkeypatch.setattr(batches.Encoding, "run", None)  # nothing is encoded from here on
    assert run(parts[0], listed, shard="1/5").columns_updated
    with pytest.raises(InputError, match=r"part1.npy: its list had other columns .* of .*part2.npy \(other values of"):
        merge_embeddings(parts, tmp_path / "merged.npy")
    assert not (tmp_path / "merged.npy").exists()
    for index, part in enumerate(parts[1:], start=2):
        assert run(part, listed, shard=f"{index}/5").columns_updated
        assert not run(part, listed, shard=f"{index}/5").columns_updated
    merge_embeddings(parts, tmp_path / "merged.npy")
    assert [entry["last"] for entry in load_embeddings(tmp_path / "merged.npy").index][-1] == "changed"


def test_of_other_names_are_refused_by_them(
    run: Embed, shares: Callable[..., list[Path]], write: Callable[..., Path], tmp_path: Path
) -> None:
    parts = shares(5, write([{"label": "a"}] * NUM_CLIPS))
    run(parts[3], write([{"group": "a"}] * NUM_CLIPS), shard="4/5")
    with pytest.raises(InputError, match=r"part4.npy: .* \(label, torn -> group, torn\); run the `vjepa embed`"):
        merge_embeddings(parts, tmp_path / "merged.npy")


def test_of_no_list_are_told_from_those_of_one(
    run: Embed, shares: Callable[..., list[Path]], write: Callable[..., Path], tmp_path: Path
) -> None:
    parts = shares(5, write([{"label": "a"}] * NUM_CLIPS))
    meta = sidecar(parts[2], "meta.json")
    old = json.loads(meta.read_text())
    del old["columns"]  # as of clips that no list names
    meta.write_text(json.dumps(old))
    with pytest.raises(InputError, match=r"part3.npy: .* \(label, torn -> none\)"):
        merge_embeddings(parts, tmp_path / "merged.npy")
