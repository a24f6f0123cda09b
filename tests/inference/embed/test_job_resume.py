"""A job goes on where it was stopped, adds to what is there, and refuses what would mix two plans."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import NUM_CLIPS, Embed, contents, copy_clips, interrupt, lines, recording
from PIL import Image
from tiny_models import VIDEO, save_tiny

from vjepa_sdk.errors import InputError, OutputError, ResumeError, VideoDecodeError
from vjepa_sdk.features.embeddings import sidecar
from vjepa_sdk.hub.locate import load_embeddings
from vjepa_sdk.inference.embed import batches, environment, workspace
from vjepa_sdk.inference.vjepa import VJEPA
from vjepa_sdk.runtime.files import digest_of, write_json
from vjepa_sdk.video.clips import ClipLoader


class TestExistingOutput:
    def test_the_same_job_again_is_already_complete(self, run: Embed, tmp_path: Path) -> None:
        out = tmp_path / "feats.npy"
        run(out)
        before = (out.stat().st_ino, out.stat().st_mtime_ns)  # it is read again, which changes st_atime
        again = run(out, num_workers=3, deadline_seconds=5.0)
        assert (again.already_complete, again.rows, again.failed) == (True, NUM_CLIPS, 0)
        assert (out.stat().st_ino, out.stat().st_mtime_ns) == before
        assert not out.with_name("feats.npy.work").exists()

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"pooling": "temporal"}, "pooling: mean -> temporal"),
            ({"batch_size": 3}, "batch_size: 4 -> 3"),
            ({"num_frames": 2}, "num_frames: None -> 2"),
            ({"normalize_embeddings": True}, "normalize_embeddings: False -> True"),
            ({"precision": "bfloat16"}, "precision: None -> bfloat16"),
            ({"compile": True}, "compile: None -> True"),
        ],
    )
    def test_another_job_is_refused(
        self, run: Embed, tmp_path: Path, option: dict[str, Any], message: str, expected: dict[str, bytes]
    ) -> None:
        run(tmp_path / "feats.npy")
        with pytest.raises(OutputError, match=rf"exists and was made differently \({message}\).*--overwrite"):
            run(tmp_path / "feats.npy", **option)
        assert contents(tmp_path / "feats.npy") == expected

    def test_another_model_is_refused(self, run: Embed, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy")
        other = save_tiny(tmp_path / "other", seed=1)
        with pytest.raises(OutputError, match=r"made differently \(model_sha256: \w{12}… -> \w{12}…\)"):
            run(tmp_path / "feats.npy", model=other)

    def test_overwrite_replaces_it(self, run: Embed, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy")
        run(tmp_path / "feats.npy", pooling="temporal", overwrite=True)
        assert load_embeddings(tmp_path / "feats.npy").features.shape == (NUM_CLIPS, 2, 24)

    def test_a_file_that_is_not_ours_is_refused(self, run: Embed, tmp_path: Path) -> None:
        (tmp_path / "feats.npy").write_bytes(b"thesis")
        with pytest.raises(OutputError, match="exists and was not made by `vjepa embed`"):
            run(tmp_path / "feats.npy")
        assert (tmp_path / "feats.npy").read_bytes() == b"thesis"

    def test_a_damaged_output_is_not_complete(self, run: Embed, tmp_path: Path) -> None:
        out = tmp_path / "feats.npy"
        run(out)
        data = bytearray(out.read_bytes())
        data[-1] ^= 1
        out.write_bytes(data)
        with pytest.raises(OutputError, match=r"is not the file that .*feats\.meta\.json describes; pass --overwrite"):
            run(out)

    def test_formats_do_not_share_an_index(self, run: Embed, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy")
        with pytest.raises(OutputError, match=r"feats\.index\.jsonl: belongs to feats\.npy; choose another name"):
            run(tmp_path / "feats.npz")

    def test_a_failed_overwrite_leaves_the_old_output(
        self, run: Embed, clips: Path, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        run(tmp_path / "feats.npy")
        (tmp_path / "bad.mp4").write_bytes(b"")
        with pytest.raises(VideoDecodeError, match="all 1 clips failed"):
            run(tmp_path / "feats.npy", inputs=[tmp_path / "bad.mp4"], overwrite=True)
        assert contents(tmp_path / "feats.npy") == expected


class TestResume:
    @pytest.fixture
    def interrupted(self, run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return an output of whose three parts two are done."""
        return interrupt(run, tmp_path / "feats.npy", monkeypatch)

    def test_only_what_is_missing_is_done(
        self, run: Embed, interrupted: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []
        monkeypatch.setattr(VJEPA, "embed_clips", recording(VJEPA.embed_clips, sizes))
        result = run(interrupted)
        assert len(sizes) == 1
        assert result.rows == NUM_CLIPS
        assert contents(interrupted) == expected
        assert not interrupted.with_name("feats.npy.work").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"pooling": "none"}, "pooling: mean -> none"),
            ({"batch_size": 2}, "batch_size: 4 -> 2"),
            ({"fps": 2.0, "decoder": "decord"}, "fps: None -> 2.0; decoder: pyav -> decord"),
            ({"weights": "target"}, "weights: None -> target"),
            ({"source_fps": 2.0}, "source_fps: None -> 2.0"),
            ({"dtype": "float16"}, "dtype: float32 -> float16"),
        ],
    )
    def test_other_settings_are_refused_with_old_and_new(
        self, run: Embed, interrupted: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ResumeError, match=rf"unfinished work with another plan \({message}.*--overwrite"):
            run(interrupted, **options)

    def test_other_versions_are_refused(self, run: Embed, interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(environment, "version", lambda package: "99.0")
        with pytest.raises(ResumeError, match=r"torch: \d+\.\d+\S* -> 99\.0"):
            run(interrupted)

    def test_another_model_is_refused(self, run: Embed, interrupted: Path, tmp_path: Path) -> None:
        with pytest.raises(ResumeError, match=r"another plan \(model_sha256: \w{12}… -> \w{12}…\)"):
            run(interrupted, model=save_tiny(tmp_path / "other", seed=1))

    def test_work_of_another_version_of_the_format_is_refused(self, run: Embed, tmp_path: Path) -> None:
        with workspace.Workspace(tmp_path / "feats.npy.work") as work:
            work.start({"format_version": 99})
        with pytest.raises(ResumeError, match=r"\(format_version: 99 -> 3\)"):
            run(tmp_path / "feats.npy")

    def test_work_of_the_version_before_goes_on(
        self, run: Embed, interrupted: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work = interrupted.with_name("feats.npy.work")
        plan = json.loads((work / "plan.json").read_bytes())["plan"]
        del plan["units_sha256"]
        clips_of = [json.loads(line) for line in (work / "units.jsonl").read_bytes().splitlines()]
        plan |= {"format_version": 2, "inputs": clips_of}  # one document, which listed the clips
        (work / "units.jsonl").unlink()
        write_json(work / "plan.json", {"plan": plan, "sha256": digest_of(plan)})
        sizes: list[int] = []
        monkeypatch.setattr(VJEPA, "embed_clips", recording(VJEPA.embed_clips, sizes))
        assert run(interrupted).rows == NUM_CLIPS
        assert len(sizes) == 1
        assert contents(interrupted) == expected

    def test_overwrite_starts_over(self, run: Embed, interrupted: Path) -> None:
        run(interrupted, pooling="none", overwrite=True)
        assert load_embeddings(interrupted).features.shape == (NUM_CLIPS, 2, 2, 2, 24)

    def test_changed_inputs_are_refused_with_examples(
        self, run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = copy_clips(clips, tmp_path / "clips")
        out = interrupt(run, tmp_path / "feats.npy", monkeypatch, inputs=[directory])
        (directory / "0.mp4").unlink()
        (directory / "new.mp4").write_bytes(b"new")
        os.utime(directory / "4.mp4", (2, 2))
        message = r"1 added \(.*new\.mp4\); inputs: 1 removed \(.*0\.mp4\); inputs: 1 modified \(.*4\.mp4\)"
        with pytest.raises(ResumeError, match=message):
            run(out, inputs=[directory])

    @pytest.mark.parametrize("name", ["part-00000000", "part-00000004", "journal.jsonl", "plan.json", "units.jsonl"])
    @pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
    def test_damage_is_repaired(
        self, run: Embed, interrupted: Path, expected: dict[str, bytes], name: str, damage: str
    ) -> None:
        path = interrupted.with_name("feats.npy.work") / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 64
        changed = {"flip": data, "cut": data[: len(data) // 3]}
        path.unlink() if damage == "delete" else path.write_bytes(changed[damage])
        run(interrupted)
        assert contents(interrupted) == expected

    def test_a_resumed_job_computes_on_as_many_threads_as_it_began_with(
        self, run: Embed, interrupted: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, used, encode = torch.get_num_threads(), [], batches.Encoding._encode

        def recording(*args: Any, **kwargs: Any) -> Any:
            used.append(torch.get_num_threads())
            return encode(*args, **kwargs)

        monkeypatch.setattr(batches.Encoding, "_encode", recording)
        torch.set_num_threads(before + 1)
        try:
            run(interrupted)
            assert torch.get_num_threads() == before + 1
        finally:
            torch.set_num_threads(before)
        assert used == [before]


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_while_waiting_for_a_clip_saves_at_once(
        self,
        run: Embed,
        tmp_path: Path,
        expected: dict[str, bytes],
        monkeypatch: pytest.MonkeyPatch,
        number: signal.Signals,
    ) -> None:
        load = ClipLoader.__call__

        def hanging(self: ClipLoader, video: object) -> Any:
            if str(video).endswith("6.mp4"):
                threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
                time.sleep(30)
            return load(self, video)

        handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch:
            patch.setattr(ClipLoader, "__call__", hanging)
            result = run(tmp_path / "feats.npy")
        assert result.interrupted
        assert result.seconds < 10
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
        run(tmp_path / "feats.npy")
        assert contents(tmp_path / "feats.npy") == expected

    def test_a_second_signal_interrupts_and_the_job_still_resumes(
        self, run: Embed, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def impatient(*args: Any, **kwargs: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(batches.Encoding, "_encode", impatient)
            run(tmp_path / "feats.npy")
        run(tmp_path / "feats.npy")
        assert contents(tmp_path / "feats.npy") == expected

    def test_outside_the_main_thread_signals_are_left_alone(
        self, run: Embed, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        thread = threading.Thread(target=run, args=(tmp_path / "feats.npy",))
        thread.start()
        thread.join()
        assert contents(tmp_path / "feats.npy") == expected


class TestExtend:
    @pytest.fixture
    def archive(self, clips: Path, tmp_path: Path) -> Path:
        """Return a directory of the first four clips and a bad one; the others come later."""
        directory = tmp_path / "archive"
        directory.mkdir()
        for number in range(4):
            shutil.copy2(clips / f"{number}.mp4", directory)
        (directory / "bad.mp4").write_bytes(b"bad")
        return directory

    @pytest.fixture
    def extend(self, run: Embed, archive: Path) -> Embed:
        return lambda out, inputs=None, **options: run(out, inputs=inputs or [archive], extend=True, **options)

    def grow(self, clips: Path, archive: Path, *numbers: int) -> None:
        for number in numbers:
            shutil.copy2(clips / f"{number}.mp4", archive / f"0{number}.mp4")  # sorts before those that are there

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
    def test_new_rows_come_after_the_old_ones_which_stay_as_they_are(
        self, extend: Embed, archive: Path, clips: Path, tmp_path: Path, suffix: str
    ) -> None:
        out = tmp_path / f"feats{suffix}"
        extend(out)
        before, index = load_embeddings(out).features, sidecar(out, "index.jsonl").read_bytes()
        self.grow(clips, archive, 5, 6)
        result = extend(out)
        after = load_embeddings(out)
        assert (result.rows, result.failed, result.already_complete) == (6, 1, False)
        assert after.features[:4].tobytes() == before.tobytes()
        assert sidecar(out, "index.jsonl").read_bytes().startswith(index)
        assert [row["row"] for row in after.index] == list(range(6))
        assert [Path(row["path"]).name for row in after.index[4:]] == ["05.mp4", "06.mp4"]
        assert (after.meta["rows"], after.meta["failed"], after.meta["clips"]) == (6, 1, 7)

    def test_old_rows_of_npy_are_the_same_bytes(
        self, extend: Embed, archive: Path, clips: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "feats.npy"
        extend(out)
        before = out.read_bytes()
        self.grow(clips, archive, 5)
        extend(out)
        assert out.read_bytes()[128:].startswith(before[128:])

    def test_new_rows_are_those_of_a_job_of_their_own(
        self, run: Embed, extend: Embed, archive: Path, clips: Path, tmp_path: Path
    ) -> None:
        extend(tmp_path / "feats.npy")
        self.grow(clips, archive, 5, 6)
        extend(tmp_path / "feats.npy")
        run(tmp_path / "new.npy", inputs=[archive / "05.mp4", archive / "06.mp4"])
        assert np.load(tmp_path / "feats.npy")[4:].tobytes() == np.load(tmp_path / "new.npy").tobytes()

    def test_without_an_output_it_is_a_plain_job(
        self, run: Embed, extend: Embed, tmp_path: Path, expected: dict[str, bytes], clips: Path
    ) -> None:
        extend(tmp_path / "feats.npy", inputs=[clips])
        assert contents(tmp_path / "feats.npy") == expected

    def test_nothing_new_is_already_complete(self, extend: Embed, archive: Path, tmp_path: Path) -> None:
        extend(tmp_path / "feats.npy")
        before = (tmp_path / "feats.npy").stat()
        result = extend(tmp_path / "feats.npy", inputs=[archive / "1.mp4"])
        assert (result.already_complete, result.rows, result.failed) == (True, 4, 1)
        assert (tmp_path / "feats.npy").stat() == before

    def test_inputs_may_be_the_new_ones_only(self, extend: Embed, archive: Path, clips: Path, tmp_path: Path) -> None:
        extend(tmp_path / "feats.npy")
        self.grow(clips, archive, 5)
        assert extend(tmp_path / "feats.npy", inputs=[archive / "05.mp4"]).rows == 5

    def test_the_same_inputs_without_extend_are_then_complete(
        self, run: Embed, extend: Embed, archive: Path, clips: Path, tmp_path: Path
    ) -> None:
        extend(tmp_path / "feats.npy")
        self.grow(clips, archive, 5)
        extend(tmp_path / "feats.npy")
        assert run(tmp_path / "feats.npy", inputs=[archive]).already_complete

    def test_extending_again_and_again_keeps_everything(
        self, extend: Embed, archive: Path, clips: Path, tmp_path: Path
    ) -> None:
        for number in (5, 6, 7):
            extend(tmp_path / "feats.npy")
            self.grow(clips, archive, number)
        extend(tmp_path / "feats.npy")
        found = load_embeddings(tmp_path / "feats.npy")
        assert found.features.shape == (7, 24)
        assert [run["rows"] for run in found.meta["earlier_runs"]] == [4, 5, 6]

    def test_a_failed_clip_is_tried_again_once_its_file_has_changed(
        self, extend: Embed, archive: Path, clips: Path, tmp_path: Path
    ) -> None:
        extend(tmp_path / "feats.npy")
        shutil.copy2(clips / "8.mp4", archive / "bad.mp4")
        result = extend(tmp_path / "feats.npy")
        assert (result.rows, result.failed) == (5, 0)
        assert lines(tmp_path / "feats.npy", "errors.jsonl") == []
        names = [Path(line["path"]).name for line in lines(tmp_path / "feats.npy", "inputs.jsonl")]
        assert names == ["0.mp4", "1.mp4", "2.mp4", "3.mp4", "bad.mp4"]

    def test_new_clips_that_all_fail_are_listed_and_cost_no_row(
        self, extend: Embed, archive: Path, tmp_path: Path
    ) -> None:
        extend(tmp_path / "feats.npy")
        (archive / "worse.mp4").write_bytes(b"worse")
        before = (tmp_path / "feats.npy").read_bytes()
        result = extend(tmp_path / "feats.npy")
        assert (result.rows, result.failed) == (4, 2)
        assert (tmp_path / "feats.npy").read_bytes() == before

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"pooling": "none"}, "pooling: mean -> none"),
            ({"dtype": "float16"}, "dtype: float32 -> float16"),
            ({"batch_size": 2}, "batch_size: 4 -> 2"),
        ],
    )
    def test_other_settings_are_refused_with_old_and_new(
        self, extend: Embed, tmp_path: Path, options: dict[str, Any], message: str
    ) -> None:
        extend(tmp_path / "feats.npy")
        with pytest.raises(ResumeError, match=rf"made differently \({message}\); restore that to extend it"):
            extend(tmp_path / "feats.npy", **options)

    def test_another_model_is_refused(self, extend: Embed, tmp_path: Path) -> None:
        extend(tmp_path / "feats.npy")
        with pytest.raises(ResumeError, match=r"model_sha256: \w{12}… -> \w{12}…"):
            extend(tmp_path / "feats.npy", model=save_tiny(tmp_path / "other", seed=1))

    def test_a_clip_that_changed_under_its_row_is_refused(self, extend: Embed, archive: Path, tmp_path: Path) -> None:
        extend(tmp_path / "feats.npy")
        os.utime(archive / "2.mp4", (5, 5))
        with pytest.raises(ResumeError, match=r"inputs: 1 modified \(.*2\.mp4\)"):
            extend(tmp_path / "feats.npy")

    def test_more_clips_without_extend_are_refused_with_the_way_out(
        self, run: Embed, archive: Path, clips: Path, tmp_path: Path
    ) -> None:
        run(tmp_path / "feats.npy", inputs=[archive])
        self.grow(clips, archive, 5)
        with pytest.raises(OutputError, match=r"inputs: 1 added \(.*05\.mp4\)\); .* pass --extend to add what is new"):
            run(tmp_path / "feats.npy", inputs=[archive])

    def test_a_damaged_list_of_inputs_is_refused(
        self, extend: Embed, archive: Path, clips: Path, tmp_path: Path
    ) -> None:
        extend(tmp_path / "feats.npy")
        self.grow(clips, archive, 5)
        path = tmp_path / "feats.inputs.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"rows": 1', b'"rows": 2', 1).replace(b"0.mp4", b"9.mp4", 1))
        with pytest.raises(OutputError, match=r"inputs\.jsonl: does not belong to feats\.npy; pass --overwrite"):
            extend(tmp_path / "feats.npy")
        path.unlink()
        with pytest.raises(OutputError, match=r"inputs\.jsonl: is missing or damaged"):
            extend(tmp_path / "feats.npy")

    @pytest.mark.parametrize("name", ["feats.npy", "feats.index.jsonl", "feats.errors.jsonl"])
    @pytest.mark.parametrize("damage", ["flip", "delete"])
    def test_damaged_files_are_refused(
        self, extend: Embed, archive: Path, clips: Path, tmp_path: Path, name: str, damage: str
    ) -> None:
        extend(tmp_path / "feats.npy")
        self.grow(clips, archive, 5)
        data = bytearray((tmp_path / name).read_bytes())
        data[-3] ^= 1
        (tmp_path / name).write_bytes(data) if damage == "flip" else (tmp_path / name).unlink()
        if name == "feats.npy" and damage == "delete":
            assert extend(tmp_path / "feats.npy").rows == 5  # made anew
            return
        with pytest.raises(OutputError, match=rf"{name}: is not the file that .*meta\.json describes"):
            extend(tmp_path / "feats.npy")

    def test_a_file_that_goes_by_another_name_is_not_added_again(
        self, run: Embed, extend: Embed, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        extend(tmp_path / "feats.npy")
        monkeypatch.chdir(tmp_path)
        message = r"inputs: 5 under another name \(/.*/archive/0\.mp4 -> archive/0\.mp4\)"
        with pytest.raises(ResumeError, match=message):
            extend(tmp_path / "feats.npy", inputs=["archive"])
        archive.rename(tmp_path / "moved")
        with pytest.raises(ResumeError, match=r"inputs: 5 under another name \(.*0\.mp4 -> moved/0\.mp4\)"):
            extend(tmp_path / "feats.npy", inputs=["moved"])

    def test_a_copy_beside_the_original_is_a_clip_of_its_own(
        self, extend: Embed, archive: Path, tmp_path: Path
    ) -> None:
        extend(tmp_path / "feats.npy")
        shutil.copy2(archive / "0.mp4", archive / "copy.mp4")
        assert extend(tmp_path / "feats.npy").rows == 5

    def test_rows_of_another_shape_are_refused_in_npy(
        self, extend: Embed, run: Embed, clips: Path, tmp_path: Path
    ) -> None:
        model = save_tiny(tmp_path / "model", replace(VIDEO, rope_layout="interleaved", image_tokenizer=True))
        Image.new("RGB", (40, 40)).save(tmp_path / "still.png")
        run(tmp_path / "feats.npy", inputs=[clips / "0.mp4"], model=model, pooling="none")
        with pytest.raises(InputError, match=r"rows must have one shape in \.npy"):
            extend(tmp_path / "feats.npy", inputs=[tmp_path / "still.png"], model=model, pooling="none")

    def test_an_interrupted_extension_goes_on(
        self, run: Embed, extend: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("whole", "cut"):
            run(tmp_path / f"{name}.npy", inputs=[clips / "8.mp4"])
        old = (tmp_path / "cut.npy").read_bytes()
        extend(tmp_path / "whole.npy", inputs=[clips])
        encode, calls = batches.Encoding._encode, itertools.count(1)

        def signalling(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return encode(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(batches.Encoding, "_encode", signalling)
            result = extend(tmp_path / "cut.npy", inputs=[clips])
        assert (result.interrupted, result.rows) == (True, 5)
        assert (tmp_path / "cut.npy").read_bytes() == old
        extend(tmp_path / "cut.npy", inputs=[clips])
        assert contents(tmp_path / "cut.npy") == contents(tmp_path / "whole.npy")


def test_a_signal_while_the_plan_is_written_keeps_the_job(
    run: Embed, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unprepared(number: int, frame: object) -> None:
        raise AssertionError("the job does not handle the signal yet")

    start = workspace.Workspace.start

    def signalled(self: workspace.Workspace, *plan: Any) -> None:
        start(self, *plan)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, unprepared)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(workspace.Workspace, "start", signalled)
            assert run(tmp_path / "feats.npy").interrupted
        assert (tmp_path / "feats.npy.work" / "plan.json").is_file()
        assert signal.getsignal(signal.SIGTERM) == unprepared
    finally:
        signal.signal(signal.SIGTERM, before)
    run(tmp_path / "feats.npy")
    assert contents(tmp_path / "feats.npy") == expected
