"""Jobs that cut videos into windows: rows as `VJEPA.extract` gives them, whatever happens on the way."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import NUM_CLIPS, Embed, contents, interrupt, lines, recording
from media import write_video
from tiny_models import IMAGE, save_tiny

from vjepa_sdk import VJEPA, load_embeddings
from vjepa_sdk.corpus.lists import ClipSource
from vjepa_sdk.corpus.snapshot import describe_clips
from vjepa_sdk.errors import ConfigError, OutputError, ResumeError, VideoDecodeError
from vjepa_sdk.inference.embed import batches, ledger
from vjepa_sdk.runtime.workers.pool import TaskResult, WorkerPool
from vjepa_sdk.runtime.workers.wire import WorkerResult
from vjepa_sdk.video.clips import WindowedVideo

LONGEST = NUM_CLIPS - 1  # 21 frames, 10 a second


@pytest.fixture
def cut(run: Embed) -> Embed:
    """Embed windows of 0.4 s, two a batch, each batch a part."""
    return partial(run, window_seconds=0.4, stride_seconds=0.2, batch_size=2)


@pytest.fixture
def whole(cut: Embed, tmp_path: Path) -> dict[str, bytes]:
    cut(tmp_path / "whole.npy")
    return contents(tmp_path / "whole.npy")


OPTIONS: list[dict[str, Any]] = [
    {"window_seconds": 0.5},
    {"window_seconds": 0.4, "stride_seconds": 0.1, "tail": "overlap"},
    {"fps": 5, "stride_seconds": 0.3, "num_frames": 2},
    {"window_seconds": 0.4, "pooling": "temporal", "layers": [0, 1]},
    {"window_seconds": 0.8, "layers": 1, "normalize_embeddings": True},
]


def _third(lie: Callable[..., WorkerResult]) -> Callable[[list[WorkerResult]], Any]:
    """Return what tells the truth about all windows but the third."""
    return lambda results: iter([*results[:2], lie(*results[2]), *results[3:]])


LIES: dict[str, Callable[[list[WorkerResult]], Any]] = {
    "frames that are no list": _third(lambda pixels, info: (pixels, {**info, "frames": "all"})),
    "a frame number that no video has": _third(lambda pixels, info: (pixels, {**info, "frames": [0, 1, 2, 1 << 70]})),
    "more frames than pixels": _third(lambda pixels, info: (pixels, {**info, "frames": [0, 1, 2, 3, 4]})),
    "no seconds": _third(lambda pixels, info: (pixels, {"frames": info["frames"]})),
    "a shorter clip": _third(lambda pixels, info: (pixels[:2], {**info, "frames": info["frames"][:2]})),
    "no windows": lambda results: iter([]),
    "one clip": lambda results: results[0],
}


class TestRows:
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_are_those_of_extract(
        self, run: Embed, model: Path, clips: Path, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        run(tmp_path / "feats.npy", batch_size=3, **options)
        found, place = load_embeddings(tmp_path / "feats.npy"), 0
        encoder = VJEPA.from_pretrained(model, device="cpu")
        for path in sorted(clips.iterdir()):
            one = encoder.extract(path, batch_size=3, **options)
            rows = slice(place, place := place + len(one))
            np.testing.assert_array_equal(found.features[rows], one.embeddings, strict=True)
            about = found.index[rows]
            assert [row["path"] for row in about] == [str(path)] * len(one)
            assert [row["window"] for row in about] == list(range(len(one)))
            assert [row["start_seconds"] for row in about] == one.start_seconds.tolist()
            assert [row["end_seconds"] for row in about] == one.end_seconds.tolist()
            assert [row["frames"] for row in about] == one.frame_indices.tolist()
        assert place == len(found.features) > NUM_CLIPS

    def test_of_a_part_of_a_video_start_where_it_starts(self, cut: Embed, clips: Path, tmp_path: Path) -> None:
        (tmp_path / "parts.csv").write_text(
            f"path,id,start_seconds,end_seconds\n{clips / f'{LONGEST}.mp4'},part,1.0,1.7\n"
        )
        cut(tmp_path / "feats.npy", inputs=[tmp_path / "parts.csv"])
        index = load_embeddings(tmp_path / "feats.npy").index
        seconds = [[round(row[key], 6) for key in ("start_seconds", "end_seconds")] for row in index]
        assert seconds == [[1.0, 1.4], [1.2, 1.6], [1.4, 1.7]]
        assert index[-1]["frames"] == [14, 15, 16, 16]

    @pytest.mark.parametrize("num_workers", [1, 3])
    def test_do_not_depend_on_the_number_of_workers(
        self, cut: Embed, tmp_path: Path, whole: dict[str, bytes], num_workers: int
    ) -> None:
        cut(tmp_path / "feats.npy", num_workers=num_workers)
        assert contents(tmp_path / "feats.npy") == whole

    def test_do_not_depend_on_how_often_parts_are_written(
        self, cut: Embed, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger, "PART_SECONDS", 1e9)
        cut(tmp_path / "feats.npy")
        assert contents(tmp_path / "feats.npy") == whole

    def test_of_an_image_model_are_single_frames_of_videos(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        model = save_tiny(tmp_path / "image", IMAGE)
        run(tmp_path / "feats.npy", inputs=[clips / f"{LONGEST}.mp4"], model=model, fps=2, stride_seconds=0.5)
        assert [row["frames"] for row in load_embeddings(tmp_path / "feats.npy").index] == [[0], [5], [10], [15], [20]]

    def test_say_in_parquet_which_window_they_are(self, cut: Embed, clips: Path, tmp_path: Path) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        cut(tmp_path / "feats.parquet", inputs=[clips / "0.mp4"])
        table = parquet.read_table(tmp_path / "feats.parquet")
        assert table.column("window").to_pylist() == [0, 1]
        assert table.column("start_seconds").to_pylist() == [0.0, 0.2]

    def test_are_counted_for_each_input(self, cut: Embed, tmp_path: Path) -> None:
        result = cut(tmp_path / "feats.npy")
        assert sum(line["rows"] for line in lines(tmp_path / "feats.npy", "inputs.jsonl")) == result.rows
        assert result.clips == NUM_CLIPS

    def test_have_settings_that_say_what_the_model_decided(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy", inputs=[clips / "0.mp4"], fps=8, stride_seconds=0.25)
        settings = load_embeddings(tmp_path / "feats.npy").meta["settings"]
        assert {
            "num_frames": 4,
            "window_seconds": 0.5,
            "stride_seconds": 0.25,
            "tail": "pad",
        }.items() <= settings.items()


class TestFailures:
    def test_a_video_too_short_for_a_window_is_listed(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        result = run(tmp_path / "feats.npy", window_seconds=0.6, tail="drop")
        assert result.failed == 1
        (line,) = lines(tmp_path / "feats.npy", "errors.jsonl")
        assert line == {
            "id": str(clips / "0.mp4"),
            "path": str(clips / "0.mp4"),
            "reason": "runs from 0 to 0.5 s, too short for one window of 0.6 s; pass a shorter one, or tail='pad'",
        }

    @pytest.mark.parametrize("part_seconds", [0.0, 1e9])
    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_a_video_that_is_damaged_far_behind_has_no_rows_at_all(
        self, cut: Embed, tmp_path: Path, num_workers: int, part_seconds: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger, "PART_SECONDS", part_seconds)
        directory = tmp_path / "clips"
        directory.mkdir()
        for name in "ac":
            write_video(directory / f"{name}.mp4", num_frames=12)
        cut(tmp_path / "clean.npy", inputs=[directory])
        damaged = bytearray(write_video(directory / "b.mp4", num_frames=40, width=128, height=96).read_bytes())
        end = damaged.index(b"moov") - 4  # the index of frames follows their data
        damaged[end - 600 : end] = bytes(600)
        (directory / "b.mp4").write_bytes(damaged)

        result = cut(tmp_path / "feats.npy", inputs=[directory], num_workers=num_workers)
        assert (result.failed, result.interrupted) == (1, False)
        assert [Path(line["path"]).name for line in lines(tmp_path / "feats.npy", "errors.jsonl")] == ["b.mp4"]
        assert (tmp_path / "feats.npy").read_bytes() == (tmp_path / "clean.npy").read_bytes()
        assert result.rows == len(load_embeddings(tmp_path / "feats.npy").features)

    @pytest.mark.parametrize("lie", LIES)
    def test_windows_that_a_decoding_process_makes_up_cost_their_video_only(
        self,
        cut: Embed,
        clips: Path,
        tmp_path: Path,
        whole: dict[str, bytes],
        lie: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        honest = batches._WindowReader.__call__

        def lying(self: Any, wanted: Any) -> Any:
            results = [result for result in honest(self, wanted) if result is not None]
            if not wanted.clip.path.endswith(f"{LONGEST - 1}.mp4"):
                return iter(results)
            return LIES[lie](results)

        monkeypatch.setattr(batches._WindowReader, "__call__", lying)
        assert cut(tmp_path / "feats.npy").failed == 1
        (line,) = lines(tmp_path / "feats.npy", "errors.jsonl")
        assert line["reason"] == "the decoding process sent something other than a clip"
        kept = [row for row in map(json.loads, whole["index.jsonl"].splitlines()) if row["path"] != line["path"]]
        rows = [row["row"] for row in kept]
        assert np.load(tmp_path / "feats.npy").tobytes() == np.load(tmp_path / "whole.npy")[rows].tobytes()

    def test_a_video_has_a_deadline_for_opening_it_and_one_for_the_way_to_its_first_window(
        self, model: Path, clips: Path
    ) -> None:
        loader = VJEPA.from_pretrained(model, device="cpu").window_loader(window_seconds=0.4)
        (clip,) = describe_clips([ClipSource(path=str(clips / f"{LONGEST}.mp4"), id="a")])
        assert next(batches._WindowReader(loader)(batches._Windows(0, clip, 2))) is None

    def test_a_job_that_stops_at_failures_goes_on_once_they_are_allowed(
        self, cut: Embed, clips: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "bad.mp4").write_bytes(b"bad")
        inputs = [clips / f"{LONGEST}.mp4", tmp_path / "bad.mp4"]
        with pytest.raises(VideoDecodeError, match="bad.mp4: .*; remove it, or pass on_error='skip'"):
            cut(tmp_path / "feats.npy", inputs=inputs, on_error="stop")
        assert cut(tmp_path / "feats.npy", inputs=inputs).failed == 1


class TestRestarts:
    def test_an_interrupted_job_goes_on_within_a_video(
        self, cut: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inputs = [clips / f"{LONGEST}.mp4"]
        cut(tmp_path / "whole.npy", inputs=inputs)
        out, sizes, firsts = tmp_path / "feats.npy", [], []
        interrupt(cut, out, monkeypatch, inputs=inputs, rows=4)
        clips_of = WindowedVideo.clips
        monkeypatch.setattr(VJEPA, "embed_clips", recording(VJEPA.embed_clips, sizes))
        monkeypatch.setattr(
            WindowedVideo, "clips", lambda self, first=0, last=None: firsts.append(first) or clips_of(self, first, last)
        )
        result = cut(out, inputs=inputs)
        assert firsts == [4] and sum(sizes) == result.rows - 4
        assert contents(out) == contents(tmp_path / "whole.npy")

    def test_a_job_with_several_videos_open_goes_on_in_all_of_them(
        self, cut: Embed, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def turn_about(pool: Any, requests: list[Any], *, prefetch: int) -> Iterator[TaskResult[Any]]:
            """Give a result of each request in turn, as processes may that decode equally fast."""
            streams = [pool.map([request], prefetch=prefetch) for request in requests]
            while streams:
                for stream in list(streams):
                    result = next(stream)
                    if result.is_last:
                        streams.remove(stream)
                    yield result

        encode, calls = batches.Encoding._encode, itertools.count(1)

        def interrupting(self: Any, *args: Any, **options: Any) -> Any:
            if next(calls) % 12 == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return encode(self, *args, **options)

        monkeypatch.setattr(WorkerPool, "map_unordered", turn_about)
        monkeypatch.setattr(batches.Encoding, "_encode", interrupting)
        out, num_parts = tmp_path / "feats.npy", []
        while cut(out).interrupted:
            num_parts.append(len(list((tmp_path / "feats.npy.work").glob("part-*"))))
        assert len(num_parts) >= 2 and sorted(set(num_parts)) == num_parts
        assert contents(out) == whole

    @pytest.mark.parametrize("damaged", range(4))
    def test_a_damaged_part_of_a_video_is_done_again(
        self, cut: Embed, clips: Path, tmp_path: Path, damaged: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inputs = [clips / "0.mp4", clips / f"{LONGEST}.mp4"]
        cut(tmp_path / "whole.npy", inputs=inputs)
        out = tmp_path / "feats.npy"
        with monkeypatch.context() as patch:
            patch.setattr(batches, "WorkerPool", _failing_after(7))
            with pytest.raises(RuntimeError, match="power cut"):
                cut(out, inputs=inputs)
        parts = sorted((tmp_path / "feats.npy.work").glob("part-*"))
        names = ["part-00000000", "part-00000000-00000002", "part-00000001", "part-00000001-00000002"]
        assert [part.name for part in parts] == names
        parts[damaged].write_bytes(parts[damaged].read_bytes()[:-1])
        cut(out, inputs=inputs)
        assert contents(out) == contents(tmp_path / "whole.npy")

    def test_other_windows_are_another_plan(
        self, cut: Embed, run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = interrupt(cut, tmp_path / "feats.npy", monkeypatch, rows=2)
        for options, change in (
            ({"stride_seconds": 0.1}, "stride_seconds: 0.2 -> 0.1"),
            ({"tail": "drop"}, "tail: pad -> drop"),
            ({"layers": [1]}, r"layers: None -> \[1\]"),
        ):
            with pytest.raises(ResumeError, match=change):
                cut(out, **options)
        with pytest.raises(ResumeError, match="window_seconds: 0.4 -> None"):
            run(out, batch_size=2)

    def test_a_finished_output_is_recognised(self, cut: Embed, tmp_path: Path) -> None:
        first = cut(tmp_path / "feats.npy")
        assert cut(tmp_path / "feats.npy").already_complete
        with pytest.raises(OutputError, match="window_seconds: 0.4 -> 0.5"):
            cut(tmp_path / "feats.npy", window_seconds=0.5)
        assert cut(tmp_path / "feats.npy").rows == first.rows

    def test_extending_keeps_the_rows_of_windows(self, cut: Embed, clips: Path, tmp_path: Path) -> None:
        cut(tmp_path / "whole.npy", inputs=[clips / "1.mp4", clips / f"{LONGEST}.mp4"])
        out = tmp_path / "feats.npy"
        cut(out, inputs=[clips / "1.mp4"])
        cut(out, extend=True, inputs=[clips / "1.mp4", clips / f"{LONGEST}.mp4"])
        assert contents(out) == contents(tmp_path / "whole.npy")


def _failing_after(count: int) -> type:
    """Return a pool whose results end with an error that no job expects."""

    class Failing(WorkerPool[Any]):
        def map(self, *args: Any, **options: Any) -> Iterator[TaskResult[Any]]:
            for number, result in enumerate(super().map(*args, **options)):
                if number == count:
                    raise RuntimeError("power cut")
                yield result

    return Failing


class TestOptions:
    def test_decide_how_much_room_a_row_needs(
        self, run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        needed = NUM_CLIPS * 2 * (16 // 2) * 24 * 4  # parts and output, each of 16 frames, two a step, 24 float32
        with pytest.raises(OutputError, match=f"needs {needed:,} bytes while it is made, 1,000 are free"):
            run(tmp_path / "feats.npy", window_seconds=1.6, fps=10, pooling="temporal")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tail": "drop"}, "tail=drop is for the end of windows; pass window_seconds, or leave it out"),
            ({"window_seconds": 0.0}, "window_seconds=0 must be at least 0.001; pass for example 2"),
            ({"window_seconds": 1.0, "stride_seconds": -1.0}, "stride_seconds=-1 must be at least 0.001"),
            ({"window_seconds": float("nan")}, "window_seconds=nan must be a number"),
            ({"stride_seconds": 1.0}, "windows need a length; pass window_seconds=, or fps="),
            ({"window_seconds": 1.0, "fps": 4, "num_frames": 4}, "num_frames=4 is one too many"),
            ({"layers": [0, 2]}, r"layers=\(0, 2\) must name blocks of the 2 from 0 to 1"),
            ({"layers": 3}, "layers=3 must name blocks of the 2 from 0 to 1"),
        ],
        ids=str,
    )
    def test_that_cannot_be_are_refused_and_leave_nothing(
        self, run: Embed, tmp_path: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            run(tmp_path / "feats.npy", **options)
        assert not list(tmp_path.iterdir())

    def test_of_the_command_line_are_those_of_the_library(
        self, cut: Embed, clips: Path, model: Path, tmp_path: Path
    ) -> None:
        cut(tmp_path / "whole.npy", layers=[1], tail="overlap")
        options = "--window-seconds 0.4 --stride-seconds 0.2 --tail overlap --layers 1, --batch-size 2 --num-workers 0"
        command = [sys.executable, "-m", "vjepa_sdk", "embed", clips, "--out", "feats.npy", "--model", model]
        subprocess.run([*command, *options.split()], cwd=tmp_path, check=True)
        assert contents(tmp_path / "feats.npy") == contents(tmp_path / "whole.npy")

    @pytest.mark.parametrize(("text", "layers"), [("2", 2), ("0,1", [0, 1]), ("1,", [1])])
    def test_layers_are_a_number_or_a_list(self, text: str, layers: object) -> None:
        from vjepa_sdk.cli.embed import read_layers

        assert read_layers(text) == layers

    @pytest.mark.parametrize("text", ["", "two", "1;2"])
    def test_layers_that_are_neither_are_refused(self, text: str) -> None:
        from vjepa_sdk.cli.embed import read_layers

        with pytest.raises(ConfigError, match=f"layers={text} must be numbers of blocks such as 5,11"):
            read_layers(text)
