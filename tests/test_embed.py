"""A corpus job writes one row for each clip, the same bytes however often it is stopped, and says what went wrong."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media import write_video

from vjepa_sdk import embed, encoding, journal
from vjepa_sdk.api import VJEPA, ClipLoader
from vjepa_sdk.config import ModelConfig, PreprocessConfig
from vjepa_sdk.embed import EmbedResult, embed_files
from vjepa_sdk.embeddings import load_embeddings, sidecar
from vjepa_sdk.errors import (
    ConfigError,
    InputError,
    InUseError,
    OutputError,
    ResumeError,
    VideoDecodeError,
)
from vjepa_sdk.hub import save_model_directory
from vjepa_sdk.model import VideoEncoder

NUM_CLIPS = 9
CONFIG = ModelConfig(img_size=32, num_frames=4, embed_dim=24, depth=2, num_heads=2)


def _save_model(directory: Path, config: ModelConfig, *, seed: int) -> Path:
    torch.manual_seed(seed)
    return save_model_directory(
        directory,
        config=config,
        preprocess=PreprocessConfig.for_crop(32),
        modules={"encoder": VideoEncoder(config)},
        encoder_weights="target",
        provenance={},
        card="",
    )


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_model(tmp_path_factory.mktemp("models") / "tiny", CONFIG, seed=0)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clips")
    for number in range(NUM_CLIPS):
        write_video(directory / f"{number}.mp4", num_frames=5 + 2 * number, width=64, height=48)
    return directory


Embed = Callable[..., EmbedResult]


@pytest.fixture
def run(model: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> Embed:
    """Embed the shared clips, four a batch, each batch a part, decoding in this process."""
    monkeypatch.setattr(encoding, "PART_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and no test here cuts the power

    def embed_clips(out: Path, inputs: Any = None, **options: Any) -> EmbedResult:
        settings = {"model": model, "batch_size": 4, "num_workers": 0, **options}
        return embed_files([clips] if inputs is None else inputs, out, **settings)

    return embed_clips


@pytest.fixture(scope="session")
def expected(model: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("expected") / "feats.npy"
    embed_files([clips], out, model=model, batch_size=4, num_workers=0)
    return _contents(out)


def _contents(out: Path) -> dict[str, bytes]:
    """Return an output's files that hold nothing of time or place."""
    return {"features": out.read_bytes()} | {
        name: sidecar(out, name).read_bytes() for name in ("index.jsonl", "errors.jsonl")
    }


def _lines(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sidecar(out, name).read_text().splitlines()]


def _copy_clips(clips: Path, directory: Path) -> Path:
    directory.mkdir()
    for path in clips.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
        os.utime(directory / path.name, (1, 1))
    return directory


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
        index = _lines(tmp_path / "feats.npy", "index.jsonl")
        assert [line["row"] for line in index] == list(range(NUM_CLIPS))
        assert index[last] == {
            "row": last,
            "path": str(path),
            "frames": [0, 7, 13, 20],
            "decoder": "pyav",
            "size": path.stat().st_size,
        }

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
        assert meta["decode_wait_seconds"] <= meta["seconds"]

    def test_nothing_else_is_left_beside_the_output(self, run: Embed, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy")
        names = {"feats.npy", "feats.index.jsonl", "feats.errors.jsonl", "feats.meta.json"}
        assert {path.name for path in tmp_path.iterdir()} == names
        assert (tmp_path / "feats.errors.jsonl").read_bytes() == b""

    @pytest.mark.parametrize(("pooling", "shape"), [("mean", (24,)), ("temporal", (2, 24)), ("none", (2, 2, 2, 24))])
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

        config = replace(CONFIG, rope_layout="interleaved", image_tokenizer=True)
        model = _save_model(tmp_path / "model", config, seed=0)
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
        directory = _copy_clips(clips, tmp_path / "clips")
        (directory / "3.mp4").write_bytes((clips / "3.mp4").read_bytes()[:400])
        run(tmp_path / "here.npy", inputs=[directory])
        result = run(tmp_path / "there.npy", inputs=[directory], num_workers=2)
        assert result.failed == 1
        assert _contents(tmp_path / "there.npy") == _contents(tmp_path / "here.npy")

    def test_bytes_do_not_depend_on_how_often_parts_are_written(
        self, run: Embed, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(encoding, "PART_SECONDS", 1e9)
        run(tmp_path / "feats.npy")
        assert _contents(tmp_path / "feats.npy") == expected

    def test_rows_do_not_depend_on_failures_around_them(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        directory = _copy_clips(clips, tmp_path / "clips")
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
        monkeypatch.setattr(VJEPA, "embed_clips", _recording(VJEPA.embed_clips, sizes))
        run(tmp_path / "feats.npy", inputs=[clips / "1.mp4", clips / "2.mp4"], batch_size=64)
        assert sizes == [2]


def _recording(method: Callable[..., Any], sizes: list[int]) -> Callable[..., Any]:
    def wrapped(self: VJEPA, batch: torch.Tensor, **options: Any) -> Any:
        sizes.append(len(batch))
        return method(self, batch, **options)

    return wrapped


class TestFailures:
    @pytest.fixture
    def mixed(self, clips: Path, tmp_path: Path) -> Path:
        directory = _copy_clips(clips, tmp_path / "clips")
        (directory / "1.mp4").write_bytes(b"")
        (directory / "3.mp4").write_bytes(b"<html>not found</html>")
        return directory

    def test_each_failure_is_listed_with_its_reason(self, run: Embed, mixed: Path, tmp_path: Path) -> None:
        result = run(tmp_path / "feats.npy", inputs=[mixed])
        assert [json.loads(line) for line in result.errors_path.read_text().splitlines()] == [
            {"path": str(mixed / "1.mp4"), "reason": "is empty (0 bytes)"},
            {"path": str(mixed / "3.mp4"), "reason": "is an XML or HTML document, not a video"},
        ]
        rows = [Path(line["path"]).name for line in _lines(tmp_path / "feats.npy", "index.jsonl")]
        assert rows == ["0.mp4", "2.mp4", *(f"{number}.mp4" for number in range(4, NUM_CLIPS))]

    def test_a_file_named_directly_that_is_no_video_is_a_failure(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        fifo = tmp_path / "pipe.mp4"
        os.mkfifo(fifo)
        (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
        run(tmp_path / "feats.npy", inputs=[clips, fifo, tmp_path / "gone.mp4"])
        reasons = {Path(line["path"]).name: line["reason"] for line in _lines(tmp_path / "feats.npy", "errors.jsonl")}
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
        monkeypatch.setattr(VJEPA, "embed_clips", _recording(VJEPA.embed_clips, sizes))
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
        assert len(_lines(out, "errors.jsonl")) == 2
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
        reasons = [line["reason"] for line in _lines(tmp_path / "feats.npy", "errors.jsonl")]
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
        [failure] = _lines(tmp_path / "feats.npy", "errors.jsonl")
        assert failure["reason"] == "the decoding process sent something other than a clip"


class TestExistingOutput:
    def test_the_same_job_again_is_already_complete(self, run: Embed, tmp_path: Path) -> None:
        out = tmp_path / "feats.npy"
        run(out)
        before = out.stat()
        again = run(out, num_workers=3, deadline_seconds=5.0)
        assert (again.already_complete, again.rows, again.failed) == (True, NUM_CLIPS, 0)
        assert out.stat() == before
        assert not out.with_name("feats.npy.work").exists()

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"pooling": "temporal"}, "pooling: mean -> temporal"),
            ({"batch_size": 3}, "batch_size: 4 -> 3"),
            ({"num_frames": 2}, "num_frames: None -> 2"),
            ({"normalize_embeddings": True}, "normalize_embeddings: False -> True"),
        ],
    )
    def test_another_job_is_refused(
        self, run: Embed, tmp_path: Path, option: dict[str, Any], message: str, expected: dict[str, bytes]
    ) -> None:
        run(tmp_path / "feats.npy")
        with pytest.raises(OutputError, match=rf"exists and was made differently \({message}\).*--overwrite"):
            run(tmp_path / "feats.npy", **option)
        assert _contents(tmp_path / "feats.npy") == expected

    def test_another_model_is_refused(self, run: Embed, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy")
        other = _save_model(tmp_path / "other", CONFIG, seed=1)
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
        assert _contents(tmp_path / "feats.npy") == expected


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
            ({"pooling": "max"}, "pooling='max' must be one of 'mean', 'temporal', 'none'"),
            ({"on_error": "ignore"}, "on_error='ignore' must be one of 'skip', 'stop'"),
            ({"batch_size": "8"}, "batch_size='8' must be an integer"),
            ({"num_frames": 3}, "num_frames=3 must be a multiple of tubelet_size=2"),
            ({"fps": -1.0}, "fps=-1.0 must be a number above 0"),
            ({"device": "tpu"}, "device='tpu' is not available here"),
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
        with pytest.raises(InputError, match="no video in this directory"):
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

    def test_refusals_come_before_torch_is_imported(self, run: Embed, clips: Path, model: Path, tmp_path: Path) -> None:
        run(tmp_path / "feats.npy")
        program = f"""
            import sys
            from vjepa_sdk.embed import embed_files
            try:
                embed_files([{str(clips)!r}], {str(tmp_path / "feats.npy")!r}, batch_size=5, model={str(model)!r})
            except OSError as error:
                print(type(error).__name__, sorted({{"torch", "av", "timm"}} & set(sys.modules)))
        """
        assert _python(program).stdout.decode() == "OutputError []\n"


def _python(program: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, **options)


class TestResume:
    @pytest.fixture
    def interrupted(self, run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return an output of whose three parts two are done."""
        return _interrupt(run, tmp_path / "feats.npy", monkeypatch)

    def test_only_what_is_missing_is_done(
        self, run: Embed, interrupted: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []
        monkeypatch.setattr(VJEPA, "embed_clips", _recording(VJEPA.embed_clips, sizes))
        result = run(interrupted)
        assert len(sizes) == 1
        assert result.rows == NUM_CLIPS
        assert _contents(interrupted) == expected
        assert not interrupted.with_name("feats.npy.work").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"pooling": "none"}, "pooling: mean -> none"),
            ({"batch_size": 2}, "batch_size: 4 -> 2"),
            ({"fps": 2.0, "decoder": "decord"}, "fps: None -> 2.0; decoder: pyav -> decord; decord: None -> 0"),
            ({"weights": "target"}, "weights: None -> target"),
        ],
    )
    def test_other_settings_are_refused_with_old_and_new(
        self, run: Embed, interrupted: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ResumeError, match=rf"unfinished work with another plan \({message}.*--overwrite"):
            run(interrupted, **options)

    def test_other_versions_are_refused(self, run: Embed, interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embed, "version", lambda package: "99.0")
        with pytest.raises(ResumeError, match=r"torch: \d+\.\d+\S* -> 99\.0"):
            run(interrupted)

    def test_work_of_another_version_of_the_format_is_refused(self, run: Embed, tmp_path: Path) -> None:
        with journal.Workspace(tmp_path / "feats.npy.work") as work:
            work.start({"format_version": 99})
        with pytest.raises(ResumeError, match=r"\(format_version: 99 -> 1\)"):
            run(tmp_path / "feats.npy")

    def test_overwrite_starts_over(self, run: Embed, interrupted: Path) -> None:
        run(interrupted, pooling="none", overwrite=True)
        assert load_embeddings(interrupted).features.shape == (NUM_CLIPS, 2, 2, 2, 24)

    def test_changed_inputs_are_refused_with_examples(
        self, run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = _copy_clips(clips, tmp_path / "clips")
        out = _interrupt(run, tmp_path / "feats.npy", monkeypatch, inputs=[directory])
        (directory / "0.mp4").unlink()
        (directory / "new.mp4").write_bytes(b"new")
        os.utime(directory / "4.mp4", (2, 2))
        message = r"1 added \(.*new\.mp4\); inputs: 1 removed \(.*0\.mp4\); inputs: 1 modified \(.*4\.mp4\)"
        with pytest.raises(ResumeError, match=message):
            run(out, inputs=[directory])

    @pytest.mark.parametrize("name", ["part-00000000", "part-00000004", "journal.jsonl", "plan.json"])
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
        assert _contents(interrupted) == expected

    def test_a_resumed_job_computes_on_as_many_threads_as_it_began_with(
        self, run: Embed, interrupted: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, used, encode = torch.get_num_threads(), [], encoding._encode

        def recording(*args: Any, **kwargs: Any) -> Any:
            used.append(torch.get_num_threads())
            return encode(*args, **kwargs)

        monkeypatch.setattr(encoding, "_encode", recording)
        torch.set_num_threads(before + 1)
        try:
            run(interrupted)
            assert torch.get_num_threads() == before + 1
        finally:
            torch.set_num_threads(before)
        assert used == [before]

    @pytest.mark.soak
    def test_200_random_damages_are_repaired(
        self, run: Embed, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generator = random.Random(0)
        for number in range(200):
            out = _interrupt(run, tmp_path / f"{number}.npy", monkeypatch)
            work = out.with_name(f"{out.name}.work")
            path = generator.choice(sorted(path for path in work.iterdir() if path.name != "lock"))
            data = bytearray(path.read_bytes())
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            path.write_bytes(data)
            run(out)
            assert _contents(out) == expected, (number, path.name)


def _interrupt(run: Embed, out: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Path:
    """Send SIGINT while the second batch is encoded."""
    encode, calls = encoding._encode, itertools.count(1)

    def signalling(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return encode(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "_encode", signalling)
        result = run(out, **options)
    assert (result.interrupted, result.rows) == (True, 8)
    return out


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
        assert _contents(tmp_path / "feats.npy") == expected

    def test_a_second_signal_interrupts_and_the_job_still_resumes(
        self, run: Embed, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def impatient(*args: Any, **kwargs: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(encoding, "_encode", impatient)
            run(tmp_path / "feats.npy")
        run(tmp_path / "feats.npy")
        assert _contents(tmp_path / "feats.npy") == expected

    def test_outside_the_main_thread_signals_are_left_alone(
        self, run: Embed, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        thread = threading.Thread(target=run, args=(tmp_path / "feats.npy",))
        thread.start()
        thread.join()
        assert _contents(tmp_path / "feats.npy") == expected


def test_every_file_is_on_disk_before_it_gets_its_name_and_the_name_before_the_work_goes(
    run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk: set[int] = set()
    renamed: list[str] = []
    replace_file, remove_directory = os.replace, os.rmdir

    def replacing(source: Path, target: Path) -> None:
        assert os.stat(source).st_ino in on_disk, source
        on_disk.discard(os.stat(target.parent).st_ino)
        renamed.append(Path(target).name)
        replace_file(source, target)

    def removing(directory: Path) -> None:
        assert os.stat(directory.parent).st_ino in on_disk
        remove_directory(directory)

    monkeypatch.setattr(os, "fsync", lambda descriptor: on_disk.add(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "replace", replacing)
    monkeypatch.setattr(os, "rmdir", removing)
    run(tmp_path / "feats.npy")
    assert renamed[-1] == "feats.npy"
    assert {"part-00000000", "part-00000004", "part-00000008", "plan.json", "feats.index.jsonl"} < set(renamed)


class TestOneRunAtATime:
    def test_of_eight_starters_one_works_and_the_others_say_so(
        self, run: Embed, tmp_path: Path, expected: dict[str, bytes]
    ) -> None:
        results: list[EmbedResult] = []
        refusals: list[InUseError] = []
        gate = threading.Barrier(8)

        def start() -> None:
            gate.wait()
            try:
                results.append(run(tmp_path / "feats.npy"))
            except InUseError as error:
                refusals.append(error)

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) + len(refusals) == 8
        assert sum(not result.already_complete for result in results) == 1
        assert _contents(tmp_path / "feats.npy") == expected
        assert not (tmp_path / "feats.npy.work").exists()

    def test_the_owner_is_named(self, run: Embed, tmp_path: Path) -> None:
        with (
            journal.Workspace(tmp_path / "feats.npy.work"),
            pytest.raises(InUseError, match=rf"feats\.npy\.work: in use by process {os.getpid()} on "),
        ):
            run(tmp_path / "feats.npy")


class _Faults:
    """Count the calls that change the disk, and do something at the k-th."""

    def __init__(self, patch: pytest.MonkeyPatch, *, at: int, action: Callable[[], None]) -> None:
        self.count, self._at, self._action = 0, at, action
        for name in ("fsync", "replace", "unlink", "mkdir", "rmdir"):
            patch.setattr(os, name, self._counted(getattr(os, name)))
        patch.setattr(os, "open", self._counted(os.open, only=lambda path, flags, *_: flags & os.O_CREAT))
        faults = self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                faults.tick(lambda: super(File, self).write(bytes(data)[: len(data) // 2]))
                return super().write(data)

        fdopen = os.fdopen
        patch.setattr(
            os,
            "fdopen",
            lambda fd, mode, **rest: io.BufferedWriter(File(fd, mode)) if mode == "wb" else fdopen(fd, mode, **rest),
        )
        patch.setattr(journal, "open", lambda path, mode: io.BufferedWriter(File(path, mode)), raising=False)

    def tick(self, before: Callable[[], object] = lambda: None) -> None:
        self.count += 1
        if self.count == self._at:
            before()
            self._action()

    def _counted(self, function: Callable[..., Any], only: Callable[..., Any] = lambda *_: True) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if only(*args):
                self.tick()
            return function(*args, **kwargs)

        return wrapped


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class TestEveryCrashPoint:
    @pytest.fixture
    def job(self, run: Embed, clips: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Embed:
        """Embed three clips in two batches with one failure among them, loading the model once only."""
        torch.set_num_threads(1)  # a forked process has no other threads, and OpenMP would wait for them
        loaded = VJEPA.from_pretrained(model, device="cpu")
        monkeypatch.setattr(embed, "_load_model", lambda directory, options: (loaded, loaded.clip_loader()))
        inputs = [clips / "0.mp4", clips / "1.mp4", clips.parent / "bad.mp4"]
        inputs[2].write_bytes(b"bad")
        return lambda out, **options: run(out, inputs=inputs, batch_size=2, **options)

    @pytest.fixture
    def undisturbed(self, job: Embed, tmp_path: Path) -> dict[str, bytes]:
        job(tmp_path / "undisturbed.npy")
        return _contents(tmp_path / "undisturbed.npy")

    @pytest.fixture
    def old(self, job: Embed, tmp_path: Path) -> Path:
        """Return an output of other settings, in a directory of its own."""
        (tmp_path / "old").mkdir()
        job(tmp_path / "old" / "feats.npy", pooling="temporal")
        return tmp_path / "old" / "feats.npy"

    def test_a_disk_that_fails_at_any_call_leaves_the_old_or_the_new_state(
        self,
        job: Embed,
        old: Path,
        undisturbed: dict[str, bytes],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for k in itertools.count(1):
            out = Path(shutil.copytree(old.parent, tmp_path / str(k))) / "feats.npy"
            with monkeypatch.context() as patch:
                faults = _Faults(patch, at=k, action=_disk_full)
                try:
                    job(out, overwrite=True)
                except OutputError as error:
                    assert "No space left on device" in str(error), k
            self._check(out, _contents(old), undisturbed)
            job(out, overwrite=out.exists() and _contents(out) != undisturbed)
            self._check_complete(out, undisturbed)
            if faults.count < k:
                break
        assert k > 40

    @pytest.mark.parametrize(
        "has_old_output", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["new", "overwrite"]
    )
    def test_a_kill_at_any_call_leaves_the_old_or_the_new_state(
        self, job: Embed, old: Path, undisturbed: dict[str, bytes], tmp_path: Path, has_old_output: bool
    ) -> None:
        for k in itertools.count(1):
            out = tmp_path / str(k) / "feats.npy"
            shutil.copytree(old.parent, out.parent) if has_old_output else out.parent.mkdir()
            status = _in_child(partial(_killed_at, job, out, k))
            self._check(out, _contents(old), undisturbed)
            job(out, overwrite=out.exists() and _contents(out) != undisturbed)
            self._check_complete(out, undisturbed)
            if status == 0:
                break
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, k
        assert k > 40

    def _check(self, out: Path, old: dict[str, bytes], new: dict[str, bytes]) -> None:
        if out.exists():
            assert _contents(out) in (old, new)

    def _check_complete(self, out: Path, new: dict[str, bytes]) -> None:
        assert _contents(out) == new
        names = {"feats.npy", "feats.index.jsonl", "feats.errors.jsonl", "feats.meta.json"}
        assert {path.name for path in out.parent.iterdir()} == names


def _killed_at(job: Embed, out: Path, k: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _Faults(patch, at=k, action=_die)
        job(out, overwrite=out.exists())


def _in_child(work: Callable[[], None]) -> int:
    """Run in a forked process, which costs no import of torch; return its wait status."""
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    try:
        signal.alarm(60)  # rather fail than hang
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


class TestKill:
    """SIGKILL of a real process, placed by progress and not by time."""

    @pytest.fixture
    def kill_after(self, clips: Path, model: Path) -> Callable[..., bool]:
        program = f"""
            import sys, time
            from vjepa_sdk import encoding
            from vjepa_sdk.embed import embed_files
            encoding.PART_SECONDS, encode = 0.0, encoding._encode
            def slow(*args, **options):
                time.sleep(0.05)
                return encode(*args, **options)
            encoding._encode = slow
            embed_files([{str(clips)!r}], sys.argv[1], model={str(model)!r}, batch_size=4,
                        num_workers=int(sys.argv[2]))
        """

        def start_and_kill(out: Path, *, parts: int, delay: float = 0.0, num_workers: int = 0) -> bool:
            """Kill once so many parts are in the journal; return whether it was in time."""
            wanted = out.with_name(f"{out.name}.work") / "journal.jsonl"
            process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), str(out), str(num_workers)])
            while process.poll() is None:
                if out.exists() or (wanted.exists() and wanted.read_bytes().count(b"\n") >= parts):
                    break
                time.sleep(0.002)
            time.sleep(delay)
            process.kill()
            return process.wait() == -signal.SIGKILL

        return start_and_kill

    def test_a_job_killed_in_mid_run_ends_in_the_same_bytes(
        self,
        run: Embed,
        kill_after: Callable[..., bool],
        tmp_path: Path,
        expected: dict[str, bytes],
    ) -> None:
        assert kill_after(tmp_path / "feats.npy", parts=1)
        assert not (tmp_path / "feats.npy").exists()
        run(tmp_path / "feats.npy")
        assert _contents(tmp_path / "feats.npy") == expected

    @pytest.mark.soak
    def test_100_kills_at_random_progress_end_in_the_same_bytes(
        self,
        run: Embed,
        kill_after: Callable[..., bool],
        tmp_path: Path,
        expected: dict[str, bytes],
    ) -> None:
        generator, in_time = random.Random(0), 0
        for number in range(100):
            out = tmp_path / f"{number}.npy"
            in_time += kill_after(out, parts=generator.randrange(3), delay=generator.uniform(0, 0.06), num_workers=1)
            assert not out.exists() or _contents(out) == expected
            run(out)
            assert _contents(out) == expected
        assert in_time >= 80
