"""A corpus job writes one row for each clip, says what each row is, and what went wrong."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import FILES, NUM_CLIPS, Embed, contents, copy_clips, lines, python, recording
from tiny_models import VIDEO, save_tiny

from vjepa_sdk.errors import ConfigError, InputError, OutputError, VideoDecodeError
from vjepa_sdk.hub.locate import load_embeddings
from vjepa_sdk.inference.embed import job as embed
from vjepa_sdk.inference.embed import ledger
from vjepa_sdk.inference.embed.job import embed_files
from vjepa_sdk.inference.embed.workspace import Workspace
from vjepa_sdk.inference.vjepa import VJEPA
from vjepa_sdk.video.clips import ClipLoader


class TestOutput:
    def test_one_row_for_each_clip_in_sorted_order_equal_to_encode(
        self, run: Embed, model: Path, clips: Path, tmp_path: Path
    ) -> None:
        result = run(tmp_path / "feats.npy")
        features = np.load(tmp_path / "feats.npy")
        paths = sorted(clips.iterdir())
        assert (result.rows, result.failed, result.already_complete, result.interrupted) == (NUM_CLIPS, 0, False, False)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, VJEPA.from_pretrained(model).encode(paths), atol=1e-5)

    def test_index_says_what_each_row_is(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy")
        last = NUM_CLIPS - 1
        path = clips / f"{last}.mp4"
        index = lines(tmp_path / "feats.npy", "index.jsonl")
        assert [line["row"] for line in index] == list(range(NUM_CLIPS))
        assert index[last] == {
            "row": last,
            "id": str(path),
            "path": str(path),
            "start_seconds": 0.0,
            "end_seconds": 2.1,
            "frames": [0, 7, 13, 20],
            "decoder": "pyav",
            "size": path.stat().st_size,
        }

    def test_a_name_too_long_for_what_lies_beside_it_is_refused_before_the_work(
        self, run: Embed, tmp_path: Path
    ) -> None:
        most = os.pathconf(tmp_path, "PC_NAME_MAX")
        for stem in ("x" * 250, "x" * (most - len(".inputs.jsonl") - 17)):
            with pytest.raises(OutputError, match="its name is .* bytes too long for the files beside it"):
                run(tmp_path / f"{stem}.npy")
        assert list(tmp_path.glob("x*")) == []
        run(tmp_path / f"{'x' * (most - len('.inputs.jsonl') - 18)}.npy")

    def test_meta_names_model_settings_and_versions(self, run: Embed, model: Path, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy")
        meta = load_embeddings(tmp_path / "feats.npy").meta
        assert meta["model"]["name"] == str(model)
        assert len(meta["model"]["sha256"]) == 64
        assert meta["model"]["encoder_weights"] == "target"
        assert meta["settings"]["num_frames"] == 4
        assert meta["preprocess"]["crop_size"] == 32
        assert set(meta["environment"]) >= {"vjepa_sdk", "torch", "av", "numpy", "device", "num_threads"}
        assert (meta["clips"], meta["rows"], meta["failed"]) == (NUM_CLIPS, NUM_CLIPS, 0)
        assert 0 < meta["decode_wait_seconds"] <= meta["clips_seconds"] <= meta["seconds"]
        assert meta["timings"].keys() == {"listing", "starting", "waiting", "encoding", "rows"}
        assert sum(meta["timings"].values()) == pytest.approx(meta["seconds"], abs=0.1)

    def test_nothing_else_is_left_beside_the_output(self, run: Embed, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy")
        assert {path.name for path in tmp_path.iterdir()} == FILES
        assert (tmp_path / "feats.errors.jsonl").read_bytes() == b""

    @pytest.mark.parametrize(
        ("pooling", "shape"), [("mean", (24,)), ("temporal", (2, 24)), ("grid", (2, 3, 3, 24)), ("none", (2, 2, 2, 24))]
    )
    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
    def test_every_format_holds_every_pooling(
        self, run: Embed, model: Path, clips: Path, tmp_path: Path, suffix: str, pooling: str, shape: tuple[int, ...]
    ) -> None:
        out = tmp_path / f"feats{suffix}"
        run(out, pooling=pooling)
        features = load_embeddings(out).features
        assert features.shape == (NUM_CLIPS, *shape)
        encoded = VJEPA.from_pretrained(model).encode(sorted(clips.iterdir()), pooling=pooling)
        np.testing.assert_allclose(features, encoded, atol=1e-5)

    def test_options_of_encode_have_the_same_meaning(
        self, run: Embed, model: Path, clips: Path, tmp_path: Path
    ) -> None:
        options = {"num_frames": 2, "fps": 5.0, "normalize_embeddings": True, "decoder": "decord"}
        run(tmp_path / "feats.npy", **options)
        features = load_embeddings(tmp_path / "feats.npy").features
        encoded = VJEPA.from_pretrained(model).encode(sorted(clips.iterdir()), **options)
        np.testing.assert_allclose(features, encoded, atol=1e-5)

    def test_one_input_needs_no_list(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        assert run(tmp_path / "feats.npy", inputs=str(clips / "*3.mp4")).rows == 1

    def test_stills_and_videos_share_an_output_of_ragged_rows(self, clips: Path, tmp_path: Path) -> None:
        from PIL import Image

        config = replace(VIDEO, rope_layout="interleaved", image_tokenizer=True)
        model = save_tiny(tmp_path / "model", config)
        still = tmp_path / "still.png"
        Image.new("RGB", (40, 40), "red").save(still)
        options = {"model": model, "pooling": "none", "num_workers": 0}
        embed_files([still, clips / "1.mp4"], tmp_path / "feats.safetensors", **options)
        features = load_embeddings(tmp_path / "feats.safetensors").features
        assert sorted(row.shape for row in features) == [(1, 2, 2, 24), (2, 2, 2, 24)]
        message = r"rows must have one shape in \.npy, got \(1, 2, 2, 24\) and \(2, 2, 2, 24\); write \.npz"
        with pytest.raises(InputError, match=message):
            embed_files([still, clips / "1.mp4"], tmp_path / "other.npy", **options)

    def test_names_of_files_survive_whatever_they_are(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        directory = tmp_path / "odd"
        directory.mkdir()
        names = [b"a\nb.mp4", b"\x1b]0;x.mp4", b"\xff\xfe.mp4", "ü 視.mp4".encode(), b'q".mp4']
        for name in names:
            Path(os.fsdecode(os.fsencode(directory) + b"/" + name)).write_bytes((clips / "0.mp4").read_bytes())
        run(tmp_path / "feats.npy", inputs=[directory])
        index = load_embeddings(tmp_path / "feats.npy").index
        assert {os.path.basename(os.fsencode(line["path"])) for line in index} == set(names)


class TestSameBytes:
    def test_bytes_do_not_depend_on_the_number_of_workers(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        directory = copy_clips(clips, tmp_path / "clips")
        (directory / "3.mp4").write_bytes((clips / "3.mp4").read_bytes()[:400])
        run(tmp_path / "here.npy", inputs=[directory])
        result = run(tmp_path / "there.npy", inputs=[directory], num_workers=2)
        assert result.failed == 1
        assert contents(tmp_path / "there.npy") == contents(tmp_path / "here.npy")

    def test_bytes_do_not_depend_on_how_often_parts_are_written(
        self, run: Embed, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger, "PART_SECONDS", 1e9)
        run(tmp_path / "feats.npy")
        assert contents(tmp_path / "feats.npy") == expected

    def test_rows_do_not_depend_on_failures_around_them(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        directory = copy_clips(clips, tmp_path / "clips")
        run(tmp_path / "good.npy", inputs=[directory])
        bad = {0: b"", 5: b"text", NUM_CLIPS - 1: (clips / "8.mp4").read_bytes()[:300]}
        for number, content in bad.items():
            (directory / f"{number}.mp4").write_bytes(content)
        result = run(tmp_path / "bad.npy", inputs=[directory])
        assert (result.rows, result.failed) == (NUM_CLIPS - len(bad), len(bad))
        kept = [number for number in range(NUM_CLIPS) if number not in bad]
        assert np.load(tmp_path / "bad.npy").tobytes() == np.load(tmp_path / "good.npy")[kept].tobytes()

    def test_a_small_corpus_is_not_padded_to_the_batch_size(
        self, run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes = []
        monkeypatch.setattr(VJEPA, "embed_clips", recording(VJEPA.embed_clips, sizes))
        run(tmp_path / "feats.npy", inputs=[clips / "1.mp4", clips / "2.mp4"], batch_size=64)
        assert sizes == [2]


class TestFailures:
    @pytest.fixture
    def mixed(self, clips: Path, tmp_path: Path) -> Path:
        directory = copy_clips(clips, tmp_path / "clips")
        (directory / "1.mp4").write_bytes(b"")
        (directory / "3.mp4").write_bytes(b"<html>not found</html>")
        return directory

    def test_each_failure_is_listed_with_its_reason(self, run: Embed, mixed: Path, tmp_path: Path) -> None:
        result = run(tmp_path / "feats.npy", inputs=[mixed])
        assert [json.loads(line) for line in result.errors_path.read_text().splitlines()] == [
            {"id": name, "path": name, "reason": reason}
            for name, reason in (
                (str(mixed / "1.mp4"), "is empty (0 bytes)"),
                (str(mixed / "3.mp4"), "is an XML or HTML document, not a video"),
            )
        ]
        rows = [Path(line["path"]).name for line in lines(tmp_path / "feats.npy", "index.jsonl")]
        assert rows == ["0.mp4", "2.mp4", *(f"{number}.mp4" for number in range(4, NUM_CLIPS))]

    def test_a_file_named_directly_that_is_no_video_is_a_failure(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        fifo = tmp_path / "pipe.mp4"
        os.mkfifo(fifo)
        (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
        run(tmp_path / "feats.npy", inputs=[clips, fifo, tmp_path / "gone.mp4"], follow_symlinks=True)
        reasons = {Path(line["path"]).name: line["reason"] for line in lines(tmp_path / "feats.npy", "errors.jsonl")}
        assert reasons == {"pipe.mp4": "is not a regular file", "gone.mp4": "does not exist"}

    def test_stop_raises_at_the_first_failure_and_keeps_what_is_done(
        self, run: Embed, mixed: Path, tmp_path: Path
    ) -> None:
        (mixed / "1.mp4").unlink()
        (mixed / "3.mp4").rename(mixed / "9.mp4")
        with pytest.raises(VideoDecodeError, match=r"9\.mp4: is an XML or HTML document, not a video; remove it, or"):
            run(tmp_path / "feats.npy", inputs=[mixed], on_error="stop")
        assert not (tmp_path / "feats.npy").exists()
        assert (tmp_path / "feats.npy.work" / "part-00000000").exists()

    def test_too_many_failures_stop_the_job_early(
        self, run: Embed, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []
        monkeypatch.setattr(VJEPA, "embed_clips", recording(VJEPA.embed_clips, sizes))
        message = r"2 of 9 clips failed, --max-failures 0\.2 allows 1, for example .*1\.mp4: is empty"
        with pytest.raises(VideoDecodeError, match=message):
            run(tmp_path / "feats.npy", inputs=[mixed], max_failures=0.2)
        assert len(sizes) == 1
        assert run(tmp_path / "feats.npy", inputs=[mixed], max_failures=0.5).failed == 2

    def test_allowed_failures_are_counted_over_restarts(self, run: Embed, mixed: Path, tmp_path: Path) -> None:
        (mixed / "8.mp4").write_bytes(b"")
        with pytest.raises(VideoDecodeError, match=r"3 of 9 clips failed, --max-failures 0\.25 allows 2"):
            run(tmp_path / "feats.npy", inputs=[mixed], max_failures=0.25)
        with pytest.raises(VideoDecodeError, match=r"2 of 9 clips failed, --max-failures 0\.1 allows 0$"):
            run(tmp_path / "feats.npy", inputs=[mixed], max_failures=0.1)

    def test_a_job_in_which_every_clip_fails_is_an_error_that_lists_the_reasons(
        self, run: Embed, mixed: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "feats.npy"
        bad = [mixed / "1.mp4", mixed / "3.mp4"]
        with pytest.raises(
            VideoDecodeError, match=r"all 2 clips failed, for example .*1\.mp4: is empty.*errors\.jsonl"
        ):
            run(out, inputs=bad)
        assert len(lines(out, "errors.jsonl")) == 2
        assert not out.exists()
        assert not out.with_name("feats.npy.work").exists()

    def test_features_that_are_not_finite_are_failures(
        self, run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def spoilt(self: VJEPA, batch: torch.Tensor, **options: Any) -> torch.Tensor:
            features = torch.ones(len(batch), 24)
            features[1, 5] = torch.nan
            features[2, 0] = -torch.inf
            return features

        monkeypatch.setattr(VJEPA, "embed_clips", spoilt)
        result = run(tmp_path / "feats.npy", inputs=[clips / f"{number}.mp4" for number in range(4)])
        assert (result.rows, result.failed) == (2, 2)
        reasons = [line["reason"] for line in lines(tmp_path / "feats.npy", "errors.jsonl")]
        assert reasons == ["features are not finite"] * 2

    @pytest.mark.parametrize(
        "clip",
        [np.zeros((4, 3, 32, 32), np.float32), np.zeros((4, 3, 99, 32), np.uint8), np.zeros(3, np.uint8)],
        ids=["dtype", "size", "rank"],
    )
    def test_a_decoding_process_that_sends_nonsense_is_not_believed(
        self, run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: np.ndarray
    ) -> None:
        honest = ClipLoader.__call__

        def load(self: ClipLoader, video: object) -> tuple[np.ndarray, dict[str, Any]]:
            return (clip, {"frames": [0]}) if str(video).endswith("1.mp4") else honest(self, video)

        monkeypatch.setattr(ClipLoader, "__call__", load)
        run(tmp_path / "feats.npy")
        [failure] = lines(tmp_path / "feats.npy", "errors.jsonl")
        assert failure["reason"] == "the decoding process sent something other than a clip"


class TestEarlyErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "batch_size=0 must be at least 1"),
            ({"num_workers": -1}, "num_workers=-1 must be at least 0"),
            ({"deadline_seconds": 0.0}, "deadline_seconds=0.0 must be above 0"),
            ({"deadline_seconds": float("nan")}, "deadline_seconds=nan must be a finite number|must be a number"),
            ({"max_failures": 5.0}, "max_failures=5.0 must be a fraction from 0 to 1"),
            ({"max_failures": -0.1}, "max_failures=-0.1 must be a fraction"),
            ({"max_failures": "5"}, "max_failures=5 must be a fraction from 0 to 1 or a percentage; pass 0.05 or 5%"),
            ({"max_failures": "101%"}, "max_failures=101% must be a fraction"),
            ({"max_failures": "few"}, "max_failures=few must be a fraction"),
            ({"dtype": "int8"}, "dtype='int8' must be one of 'float32', 'float16'"),
            ({"precision": "fp8"}, "precision='fp8' must be one of 'float32', 'bfloat16', 'float16', 'int8', 'auto'"),
            ({"source_fps": 0.0}, "source_fps=0.0 must be a number above 0"),
            ({"extend": True, "overwrite": True}, "extend and overwrite exclude each other; pass one"),
            ({"pooling": "max"}, "pooling='max' must be one of 'mean', 'temporal', 'grid', 'change', 'none'"),
            ({"on_error": "ignore"}, "on_error='ignore' must be one of 'skip', 'stop'"),
            ({"batch_size": "8"}, "batch_size='8' must be an integer"),
            ({"num_frames": 3}, "num_frames=3 must be a multiple of tubelet_size=2"),
            ({"fps": -1.0}, "fps=-1.0 must be a number above 0"),
            ({"device": "tpu"}, "device='tpu' is not available here"),
            ({"revision": "v1"}, "is a directory here, which has no revision='v1'; leave revision out"),
        ],
    )
    def test_options_that_are_not_valid(
        self, run: Embed, tmp_path: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            run(tmp_path / "feats.npy", **options)
        assert list(tmp_path.iterdir()) == []

    def test_unknown_suffix_lists_the_known_ones(self, run: Embed, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"the suffix '\.csv' must be one of \.npy, \.npz, \.safetensors"):
            run(tmp_path / "feats.csv")

    def test_missing_output_directory(self, run: Embed, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match=r"its directory does not exist; make it with mkdir -p .*absent"):
            run(tmp_path / "absent" / "feats.npy")

    def test_output_that_is_a_directory(self, run: Embed, tmp_path: Path) -> None:
        (tmp_path / "feats.npy").mkdir()
        with pytest.raises(OutputError, match=r"feats\.npy: is a directory; name a file in it"):
            run(tmp_path / "feats.npy")

    def test_missing_input(self, run: Embed, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="nowhere: does not exist"):
            run(tmp_path / "feats.npy", inputs=[tmp_path / "nowhere"])

    def test_directory_without_videos(self, run: Embed, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="no video or image in this directory"):
            run(tmp_path / "feats.npy", inputs=[tmp_path / "empty"])

    def test_no_inputs(self, run: Embed, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="inputs is empty"):
            run(tmp_path / "feats.npy", inputs=[])

    @pytest.mark.parametrize(
        ("model", "error", "message"),
        [
            ("vjepa-tinny", ConfigError, "vjepa-tinny"),
            (Path("no/model"), ConfigError, r"no/model: no such directory"),
        ],
    )
    def test_unknown_model_leaves_nothing(
        self, run: Embed, tmp_path: Path, model: str | Path, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            run(tmp_path / "feats.npy", model=model)
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_too_small_is_noticed_before_the_first_clip(
        self, run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = embed.shutil.disk_usage(tmp_path)
        monkeypatch.setattr(embed.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(OutputError, match=r"feats\.npy: needs 1,728 bytes while it is made, 1,000 are free"):
            run(tmp_path / "feats.npy")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("inputs", "options", "free", "error"),
        [
            ("clips", {"batch_size": 5}, None, "OutputError"),
            ("clips", {"pooling": "none"}, None, "OutputError"),
            ("clips", {"out": "held.npy"}, None, "InUseError"),
            ("clips", {"out": "new.npy"}, 1000, "OutputError"),
            ("absent", {"out": "new.npy"}, None, "InputError"),
            ("clips", {"extend": True, "batch_size": 5}, None, "ResumeError"),
            ("clips", {"out": "new.parquet", "max_failures": "5"}, None, "ConfigError"),
            ("clips", {"out": "new.npy", "stride_seconds": 1.0}, None, "ConfigError"),
        ],
        ids=["settings", "pooling", "lock", "disk", "inputs", "extend", "options", "windows"],
    )
    def test_refusals_come_before_torch_is_imported(
        self,
        run: Embed,
        clips: Path,
        model: Path,
        tmp_path: Path,
        inputs: str,
        options: dict[str, Any],
        free: int | None,
        error: str,
    ) -> None:
        run(tmp_path / "feats.npy")
        given = {"model": str(model), **options}
        out = tmp_path / given.pop("out", "feats.npy")
        source = clips if inputs == "clips" else clips.parent / inputs
        program = f"""
            import shutil, sys
            from vjepa_sdk import embed_files
            if {free}:
                usage = shutil.disk_usage("/")._replace(free={free})
                shutil.disk_usage = lambda path: usage
            try:
                embed_files([{str(source)!r}], {str(out)!r}, **{given})
            except Exception as error:
                print(type(error).__name__, sorted({{"torch", "av", "timm"}} & set(sys.modules)))
        """
        with Workspace(tmp_path / "held.npy.work"):
            assert python(program).stdout.decode() == f"{error} []\n"
