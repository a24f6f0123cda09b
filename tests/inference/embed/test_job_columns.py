"""Labels travel from lists into the index, decide no feature, and are never older there than in their list."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from corpora import NUM_CLIPS, Embed, contents, interrupt, lines
from pyarrow import parquet as pq

from vjepa_sdk.downstream.probe import Probe
from vjepa_sdk.downstream.probe_training import train_probe
from vjepa_sdk.downstream.stored import open_features
from vjepa_sdk.errors import InputError, OutputError
from vjepa_sdk.hub.locate import load_embeddings
from vjepa_sdk.inference.embed import batches

FORMATS = (".npy", ".npz", ".safetensors", ".parquet")


def write_list(directory: Path, clips: Path, labels: str, **more: list[Any]) -> Path:
    """Write a list with a label of one letter for each of the first clips."""
    names = [str(clips / f"{number}.mp4") for number in range(len(labels))]
    path = directory / "list.csv"
    pd.DataFrame({"path": names, "label": list(labels), **more}).to_csv(path, index=False)
    return path


def labels_in(out: Path) -> list[Any]:
    return [entry.get("label") for entry in lines(out, "index.jsonl")]


class Killed(BaseException):
    """The process is gone."""


class TestANewOutput:
    def test_has_the_columns_of_its_list(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        listed = write_list(tmp_path, clips, "abc", take=[1, 2, 3], size=["S", "M", "L"])
        run(tmp_path / "feats.npy", listed)
        for number, entry in enumerate(lines(tmp_path / "feats.npy", "index.jsonl")):
            assert list(entry)[-4:] == ["size", "label", "take", "list_size"]
            assert entry["size"] == (clips / f"{number}.mp4").stat().st_size
            assert (entry["label"], entry["take"], entry["list_size"]) == (
                "abc"[number],
                str(number + 1),
                "SML"[number],
            )
        found = load_embeddings(tmp_path / "feats.npy")
        assert found.labels == ["a", "b", "c"]
        assert found.to_pandas()["label"].tolist() == found.to_arrow()["label"].to_pylist() == ["a", "b", "c"]

    def test_has_the_same_features_with_and_without_labels(
        self, run: Embed, clips: Path, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        run(tmp_path / "feats.npy", write_list(tmp_path, clips, "abcabcabc"))
        found = contents(tmp_path / "feats.npy")
        assert {**found, "index.jsonl": b""} == {**expected, "index.jsonl": b""}

    def test_has_them_in_every_window_and_null_where_no_list_says_anything(
        self, run: Embed, clips: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "feats.npy"
        run(out, [write_list(tmp_path, clips, "ab"), clips / "3.mp4"], window_seconds=0.3)
        labels = {Path(entry["path"]).stem: entry["label"] for entry in lines(out, "index.jsonl")}
        assert labels == {"0": "a", "1": "b", "3": None}
        assert len(lines(out, "index.jsonl")) > len(labels)

    def test_as_a_table_has_them_as_columns(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        frame = pd.DataFrame(
            {
                "path": [str(clips / f"{number}.mp4") for number in range(2)],
                "label": ["a", None],
                "take": [1, 2],
                "mixed": ["x", 5],
                "ok": [True, False],
            }
        )
        run(tmp_path / "feats.parquet", frame)
        table = pq.read_table(tmp_path / "feats.parquet")
        names = ["decoder", "label", "take", "mixed", "ok", "embedding"]
        assert table.column_names[-6:] == names
        assert table.select(names[1:-1]).to_pylist() == [
            {"label": "a", "take": 1, "mixed": '"x"', "ok": True},
            {"label": None, "take": 2, "mixed": "5", "ok": False},
        ]

    def test_takes_one_split_of_a_list(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        listed = write_list(tmp_path, clips, "abcd", split=["train", "val", "train", "val"])
        run(tmp_path / "feats.npy", listed, split="val")
        assert labels_in(tmp_path / "feats.npy") == ["b", "d"]
        with pytest.raises(OutputError, match=r"made differently \(inputs: 2 added .*; inputs: 2 removed"):
            run(tmp_path / "feats.npy", listed, split="train")

    def test_without_a_label_says_so(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy", clips / "0.mp4")
        with pytest.raises(InputError, match="features come without labels"):
            _ = load_embeddings(tmp_path / "feats.npy").labels


class TestChangedLabels:
    @pytest.mark.parametrize("suffix", FORMATS)
    def test_are_taken_over_without_encoding(
        self, run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
    ) -> None:
        out, fresh = tmp_path / f"feats{suffix}", tmp_path / "fresh" / f"feats{suffix}"
        fresh.parent.mkdir()
        run(out, write_list(tmp_path, clips, "abc"))
        listed = write_list(tmp_path, clips, "abx", take=[1, 2, 3])
        run(fresh, listed)
        monkeypatch.setattr(batches.Encoding, "run", None)
        again = run(out, listed)
        assert (again.already_complete, again.columns_updated, again.rows) == (True, True, 3)
        assert contents(out) == contents(fresh)
        assert load_embeddings(out).labels == ["a", "b", "x"]  # which checks that the files belong together
        assert not out.with_name(f"{out.name}.work").exists()
        assert not run(out, listed).columns_updated

    def test_are_none_where_a_clip_failed_or_a_list_is_in_another_order(
        self, run: Embed, clips: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "bad.mp4").write_bytes(b"no video")
        rows = [{"path": "bad.mp4", "note": "torn"}, {"path": str(clips / "0.mp4"), "label": True, "take": 1}]
        listed = tmp_path / "list.jsonl"
        for lines_of in (rows, rows[::-1], [rows[0], dict(reversed(rows[1].items()))]):
            listed.write_text("".join(f"{json.dumps(row)}\n" for row in lines_of))
            assert not run(tmp_path / "feats.npy", listed).columns_updated
        (entry,) = lines(tmp_path / "feats.npy", "index.jsonl")
        assert (entry["note"], entry["label"], entry["take"]) == (None, True, 1)
        listed.write_text(listed.read_text().replace("true", "1"))
        assert run(tmp_path / "feats.npy", listed).columns_updated

    def test_do_not_stop_unfinished_work(
        self, run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        listed = write_list(tmp_path, clips, "abcabcabc")
        interrupt(run, tmp_path / "feats.npy", monkeypatch, inputs=listed)
        result = run(tmp_path / "feats.npy", write_list(tmp_path, clips, "xyzxyzxyz"))
        assert result.clips < NUM_CLIPS
        assert labels_in(tmp_path / "feats.npy") == list("xyzxyzxyz")

    def test_stay_where_the_clips_are_named_without_their_list(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy", write_list(tmp_path, clips, "abcabcabc"))
        assert not run(tmp_path / "feats.npy").columns_updated
        assert labels_in(tmp_path / "feats.npy") == list("abcabcabc")

    def test_go_where_the_list_says_nothing_any_more(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy", write_list(tmp_path, clips, "ab"))
        (tmp_path / "bare.txt").write_text(f"{clips / '0.mp4'}\n{clips / '1.mp4'}\n")
        assert run(tmp_path / "feats.npy", tmp_path / "bare.txt").columns_updated
        assert "label" not in lines(tmp_path / "feats.npy", "index.jsonl")[0]

    def test_wait_for_unfinished_work_of_another_plan(
        self, run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "feats.npy"
        run(out, write_list(tmp_path, clips, "abcabcabc"))
        before = contents(out)
        interrupt(run, out, monkeypatch, overwrite=True, pooling="temporal")
        with pytest.raises(OutputError, match=r"feats.npy.work: holds unfinished work, and the list says other things"):
            run(out, write_list(tmp_path, clips, "xbcabcabc"))
        assert contents(out) == before and (tmp_path / "feats.npy.work" / "plan.json").exists()

    @pytest.mark.parametrize("suffix", [".npy", ".parquet"])
    def test_are_whole_or_absent_after_a_kill_at_any_moment(
        self, run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
    ) -> None:
        for kill_at in range(100):
            directory = tmp_path / str(kill_at)
            directory.mkdir()
            out = directory / f"feats{suffix}"
            run(out, write_list(directory, clips, "ab"))
            listed, left = write_list(directory, clips, "xy"), [kill_at]
            with monkeypatch.context() as patch:
                for name in ("replace", "link", "unlink"):
                    patch.setattr(os, name, _dying(getattr(os, name), left))
                try:
                    run(out, listed)
                    break
                except Killed:
                    pass
            again = run(out, listed)
            assert again.already_complete and again.clips == 0
            assert load_embeddings(out).labels == ["x", "y"]
            assert not out.with_name(f"{out.name}.work").exists()
        assert kill_at > 8

    def test_are_taken_over_where_the_disk_knows_no_links(
        self, run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*paths: object) -> None:
            raise PermissionError("no links here")

        run(tmp_path / "feats.npy", write_list(tmp_path, clips, "ab"))
        monkeypatch.setattr(os, "link", refuse)
        run(tmp_path / "feats.npy", write_list(tmp_path, clips, "xy"))
        assert load_embeddings(tmp_path / "feats.npy").labels == ["x", "y"]


def _dying(call: Any, left: list[int]) -> Any:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:  # and so are all calls after it: the process is gone
            raise Killed
        return call(*arguments, **options)

    return wrapped


class TestExtension:
    @pytest.mark.parametrize("suffix", [".npy", ".parquet"])
    def test_brings_new_labels_of_old_rows_too(self, run: Embed, clips: Path, tmp_path: Path, suffix: str) -> None:
        out = tmp_path / f"feats{suffix}"
        run(out, write_list(tmp_path, clips, "abc"))
        before = load_embeddings(out).features
        run(out, write_list(tmp_path, clips, "xbcde", take=[1, 2, 3, 4, 5]), extend=True)
        found = load_embeddings(out)
        assert found.labels == list("xbcde")
        assert [entry["take"] for entry in found.index] == list("12345")
        assert np.array_equal(found.features[:3], before)
        if suffix == ".parquet":
            assert pq.read_table(out)["label"].to_pylist() == list("xbcde")

    def test_leaves_labels_of_rows_that_it_does_not_name(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy", write_list(tmp_path, clips, "abc"))
        run(tmp_path / "feats.npy", extend=True)
        assert labels_in(tmp_path / "feats.npy") == ["a", "b", "c", *[None] * (NUM_CLIPS - 3)]

    def test_without_new_clips_takes_changed_labels_over(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy", write_list(tmp_path, clips, "abc"))
        result = run(tmp_path / "feats.npy", write_list(tmp_path, clips, "x"), extend=True)
        assert result.already_complete and result.columns_updated
        assert labels_in(tmp_path / "feats.npy") == ["x", "b", "c"]


class TestLabelsOfTheIndex:
    def test_are_what_a_probe_learns_without_a_list(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        out, labels = tmp_path / "feats.npy", "abababab"
        run(out, listed := write_list(tmp_path, clips, labels, split=["train"] * 6 + ["test"] * 2), window_seconds=0.3)
        with_list = train_probe(listed, out=tmp_path / "p1", features=out, baseline=False, C=1.0)
        without = train_probe(out=tmp_path / "p2", features=out, baseline=False, C=1.0)
        assert json.loads((tmp_path / "p2" / "config.json").read_text())["labels"] == ["a", "b"]
        assert without.rows == with_list.rows
        assert (tmp_path / "p1" / "model.safetensors").read_bytes() == (
            tmp_path / "p2" / "model.safetensors"
        ).read_bytes()

    def test_of_some_rows_alone_fit_no_probe(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy", [write_list(tmp_path, clips, "ab"), clips])
        with pytest.raises(InputError, match=r"7 of 9 rows have no label; leave them out, or pass labels"):
            Probe.fit(load_embeddings(tmp_path / "feats.npy"), C=1.0)

    def test_are_columns_of_a_search_and_yield_to_a_list_that_is_passed(
        self, run: Embed, clips: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "feats.npy"
        run(out, write_list(tmp_path, clips, "abab"))
        assert open_features(out).column("label") == list("abab")
        newer = write_list(tmp_path, clips, "bbba", size=[1, 2, 3, 4])
        assert open_features(out, labels=newer).column("label") == list("bbba")
        assert open_features(out, labels=newer).column("size") == open_features(out).column("size")
