"""What is exported is what other viewers read: tables that fit together, row by row."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import read_number, write_video
from outlines import HOSTILE
from PIL import Image

from vjepa_sdk import Embeddings
from vjepa_sdk.errors import ConfigError, OutputError
from vjepa_sdk.viz import exports
from vjepa_sdk.viz.exports import MapTable, export_map
from vjepa_sdk.viz.map_page import draw_embeddings
from vjepa_sdk.viz.page import plain_text
from vjepa_sdk.viz.thumbnails import Thumbnail


def table(names: list[str], **changes: Any) -> MapTable:
    rng = np.random.default_rng(0)
    index = [{"path": name, "start_seconds": 0.5, "end_seconds": None} for name in names]
    fields: dict[str, Any] = {
        "vectors": rng.normal(size=(len(names), 6)).astype(np.float32),
        "points": rng.normal(size=(len(names), 2)).astype(np.float32),
        "index": index,
        "labels": [None, *(f"l{i}" for i in range(1, len(names)))],
        "pictures": [],
    }
    return MapTable(**{**fields, **changes})


def read_tsv(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_an_atlas_has_a_row_for_each_clip_and_its_true_neighbours(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    found = table([f"{i}.mp4" for i in range(30)])
    export_map(found, tmp_path / "atlas.parquet")
    rows = parquet.read_table(tmp_path / "atlas.parquet").to_pylist()
    names = ["path", "label", "start_seconds", "end_seconds", "x", "y", "embedding", "neighbors"]
    assert list(rows[0]) == names and len(rows) == 30
    assert (rows[0]["label"], rows[3]["label"], rows[3]["path"]) == (None, "l3", "3.mp4")
    assert np.array([[row["x"], row["y"]] for row in rows]) == pytest.approx(found.points)
    assert np.array([row["embedding"] for row in rows]) == pytest.approx(found.vectors)
    for number, row in enumerate(rows):
        a, others = found.vectors[number], [i for i in range(30) if i != number]
        distance = {i: 1 - found.vectors[i] @ a / np.linalg.norm(found.vectors[i]) / np.linalg.norm(a) for i in others}
        assert row["neighbors"]["ids"] == sorted(others, key=distance.__getitem__)[: exports.NEIGHBOURS]
        assert row["neighbors"]["distances"] == pytest.approx(sorted(distance.values())[: exports.NEIGHBOURS], abs=1e-5)


def test_equal_rows_are_neighbours_and_none_is_its_own(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export_map(table(["a"] * 40, vectors=np.ones((40, 6), np.float32)), tmp_path / "a.parquet")
    for number, row in enumerate(parquet.read_table(tmp_path / "a.parquet").to_pylist()):
        assert number not in row["neighbors"]["ids"] and len(set(row["neighbors"]["ids"])) == exports.NEIGHBOURS


def test_a_projector_has_equally_many_rows_whatever_names_hold(tmp_path: Path) -> None:
    found = table(HOSTILE, labels=HOSTILE)
    export_map(found, tmp_path / "projector")
    vectors = np.loadtxt(tmp_path / "projector" / "vectors.tsv", delimiter="\t")
    assert vectors == pytest.approx(found.vectors, rel=1e-6)
    head, *rows = read_tsv(tmp_path / "projector" / "metadata.tsv")
    assert head == ["path", "label", "start_seconds", "end_seconds"]
    assert rows == [[plain_text(name), plain_text(name), "0.5", ""] for name in HOSTILE]
    config = (tmp_path / "projector" / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "vectors.tsv"' in config and "sprite" not in config


def test_a_sprite_is_a_square_of_tiles_row_by_row(tmp_path: Path) -> None:
    pictures = [Thumbnail(np.full((48, 96, 3), 20 * i, np.uint8)) for i in range(4)] + [Thumbnail(None, "broken")]
    export_map(table([f"{i}" for i in range(5)], pictures=pictures), tmp_path / "p")
    with Image.open(tmp_path / "p" / "sprite.png") as image:
        sprite = np.asarray(image)
    assert sprite.shape == (192, 192, 3)
    middles = [int(sprite[32 + 64 * (i // 3), 32 + 64 * (i % 3), 0]) for i in range(9)]
    assert middles == [0, 20, 40, 60, 127, 127, 127, 127, 127]
    config = (tmp_path / "p" / "projector_config.pbtxt").read_text()
    assert 'image_path: "sprite.png" single_image_dim: 64 single_image_dim: 64' in config
    export_map(table(["a", "b"]), tmp_path / "p", overwrite=True)
    assert not (tmp_path / "p" / "sprite.png").exists()


@pytest.mark.parametrize("page", ["a.html", "a.png"])
def test_the_map_that_is_drawn_is_exported(tmp_path: Path, page: str) -> None:
    names = [str(write_video(tmp_path / f"{i}.mp4", num_frames=2 + i)) for i in range(5)]
    index = [{"id": name, "path": name, "frames": [i], "label": "ab"[i % 2]} for i, name in enumerate(names)]
    found = Embeddings(np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32), index, {"output": "f.npy"})
    drawn = draw_embeddings(
        found, tmp_path / page, num_workers=0, export=tmp_path / "projector", show_progress_bar=False
    )
    assert len(drawn.points) == 5
    assert [row[:2] for row in read_tsv(tmp_path / "projector" / "metadata.tsv")[1:]] == [
        [name, "ab"[i % 2]] for i, name in enumerate(names)
    ]
    with Image.open(tmp_path / "projector" / "sprite.png") as image:
        sprite = np.asarray(image)
    tiles = [sprite[64 * (i // 3) + 8 : 64 * (i // 3) + 56, 64 * (i % 3) : 64 * (i % 3) + 64] for i in range(5)]
    assert [read_number(tile) for tile in tiles] == [0, 1, 2, 3, 4]


def test_what_is_there_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p").mkdir()
    export_map(table(["a", "b"]), tmp_path / "p")
    with pytest.raises(OutputError, match="p: is not empty; pass --overwrite"):
        export_map(table(["a", "b"]), tmp_path / "p")
    (tmp_path / "a.parquet").touch()
    with pytest.raises(OutputError, match="a.parquet: exists; pass --overwrite"):
        export_map(table(["a", "b"]), tmp_path / "a.parquet")
    (tmp_path / "a.txt").touch()
    with pytest.raises(OutputError, match="is no directory; export to a .parquet or to a directory"):
        export_map(table(["a", "b"]), tmp_path / "a.txt")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"\.parquet needs pyarrow; install it with"):
        export_map(table(["a", "b"]), tmp_path / "b.parquet")
