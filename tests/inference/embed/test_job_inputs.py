"""Manifests, frame directories and still images become rows that say what they are."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import NUM_CLIPS, Embed, lines
from media import numbered_frame
from PIL import Image
from tiny_models import IMAGE, VIDEO, save_tiny

from vjepa_sdk import VJEPA
from vjepa_sdk.corpus import find, snapshot
from vjepa_sdk.errors import ConfigError, InputError, OutputError
from vjepa_sdk.hub.locate import load_embeddings
from vjepa_sdk.inference.embed import batches
from vjepa_sdk.inference.embed.job import embed_files
from vjepa_sdk.runtime.progress import ProgressBar
from vjepa_sdk.runtime.workers.pool import WorkerPool
from vjepa_sdk.video.clips import ClipLoader


def write_frames(directory: Path, count: int) -> Path:
    directory.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(numbered_frame(number)).save(directory / f"frame{number}.png")
    return directory


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "image", IMAGE)


class TestManifests:
    def test_parts_of_videos_are_rows_with_ids_and_seconds(
        self, run: Embed, model: Path, clips: Path, tmp_path: Path
    ) -> None:
        video = clips / f"{NUM_CLIPS - 1}.mp4"  # 21 frames, 10 a second
        manifest = tmp_path / "parts.csv"
        manifest.write_text(f"path,id,start_seconds,end_seconds\n{video},late,1,1.8\n{video},,,1\n{video},all,,\n")
        run(tmp_path / "feats.npy", inputs=[manifest])
        found = load_embeddings(tmp_path / "feats.npy")
        assert [(row["id"], row["frames"], row["start_seconds"], row["end_seconds"]) for row in found.index] == [
            (f"{video}#t=,1", [0, 3, 6, 9], 0.0, 1.0),
            ("all", [0, 7, 13, 20], 0.0, 2.1),
            ("late", [10, 12, 15, 17], 1.0, 1.8),
        ]
        whole = VJEPA.from_pretrained(model).encode(video)
        np.testing.assert_allclose(found.features[1], whole, atol=1e-5)
        assert not np.allclose(found.features[2], whole, atol=1e-3)

    def test_a_part_that_is_not_there_is_listed(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        manifest = tmp_path / "parts.jsonl"
        path = str(clips / "0.mp4")
        rows = [{"path": path, "id": "x"}, {"path": path, "id": "y", "start_seconds": 0.5}, {"path": "z.mp4"}]
        manifest.write_text("\n".join(map(json.dumps, rows)))
        result = run(tmp_path / "feats.npy", inputs=[manifest])
        assert (result.rows, result.failed) == (1, 2)
        assert [(line["id"], line["reason"]) for line in lines(tmp_path / "feats.npy", "errors.jsonl")] == [
            ("y", "start_seconds=0.5 must lie before the end of the video at 0.5 s"),
            (str(tmp_path / "z.mp4"), "does not exist"),
        ]

    def test_every_input_is_listed_with_its_file_and_number_of_rows(
        self, run: Embed, clips: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "bad.mp4").write_bytes(b"bad")
        run(tmp_path / "feats.npy", inputs=[clips / "0.mp4", tmp_path / "bad.mp4"])
        found = {line["path"]: line for line in lines(tmp_path / "feats.npy", "inputs.jsonl")}
        good, bad = found[str(clips / "0.mp4")], found[str(tmp_path / "bad.mp4")]
        assert (good["rows"], bad["rows"], bad["size"]) == (1, 0, 3)
        assert good["mtime_ns"] == (clips / "0.mp4").stat().st_mtime_ns
        assert len(good["edges_sha256"]) == 64


class TestFrameDirectories:
    def test_are_videos_with_seconds_if_their_rate_is_given(self, run: Embed, tmp_path: Path) -> None:
        write_frames(tmp_path / "in" / "one", 8)
        write_frames(tmp_path / "in" / "two", 5)
        run(tmp_path / "feats.npy", inputs=[tmp_path / "in"], source_fps=4.0)
        found = load_embeddings(tmp_path / "feats.npy")
        assert [(Path(row["path"]).name, row["frames"], row["end_seconds"]) for row in found.index] == [
            ("one", [0, 2, 5, 7], 2.0),
            ("two", [0, 1, 3, 4], 1.25),
        ]

    def test_have_no_seconds_else(self, run: Embed, tmp_path: Path) -> None:
        write_frames(tmp_path / "in", 8)
        run(tmp_path / "feats.npy", inputs=[tmp_path / "in"])
        [row] = load_embeddings(tmp_path / "feats.npy").index
        assert (row["start_seconds"], row["end_seconds"]) == (None, None)

    def test_equal_the_array_of_their_frames(self, run: Embed, model: Path, tmp_path: Path) -> None:
        write_frames(tmp_path / "in", 8)
        run(tmp_path / "feats.npy", inputs=[tmp_path / "in"])
        array = np.stack([numbered_frame(number) for number in range(8)])
        encoded = VJEPA.from_pretrained(model).encode(array)
        np.testing.assert_allclose(load_embeddings(tmp_path / "feats.npy").features[0], encoded, atol=1e-5)

    def test_a_changed_frame_is_a_changed_input(self, run: Embed, tmp_path: Path) -> None:
        write_frames(tmp_path / "in", 8)
        run(tmp_path / "feats.npy", inputs=[tmp_path / "in"])
        Image.new("RGB", (64, 48)).save(tmp_path / "in" / "frame3.png")
        with pytest.raises(OutputError, match=r"inputs: 1 modified \(.*in\)"):
            run(tmp_path / "feats.npy", inputs=[tmp_path / "in"])

    def test_frames_of_different_sizes_are_a_failure(self, run: Embed, clips: Path, tmp_path: Path) -> None:
        write_frames(tmp_path / "in", 8)
        Image.new("RGB", (10, 10)).save(tmp_path / "in" / "frame7.png")
        run(tmp_path / "feats.npy", inputs=[tmp_path / "in", clips / "0.mp4"])
        [failure] = lines(tmp_path / "feats.npy", "errors.jsonl")
        assert "frame7.png: is 10x10, but frames before it are 64x48" in failure["reason"]


class TestImages:
    def test_for_an_image_model_each_is_a_row(self, run: Embed, image_model: Path, tmp_path: Path) -> None:
        write_frames(tmp_path / "in", 5)
        run(tmp_path / "feats.npy", inputs=[tmp_path / "in"], model=image_model)
        found = load_embeddings(tmp_path / "feats.npy")
        assert [Path(row["path"]).name for row in found.index] == [f"frame{number}.png" for number in range(5)]
        images = sorted((tmp_path / "in").iterdir())
        encoded = VJEPA.from_pretrained(image_model).encode([str(image) for image in images])
        np.testing.assert_allclose(found.features, encoded, atol=1e-5)

    def test_an_image_model_says_that_a_directory_holds_videos_only(
        self, run: Embed, image_model: Path, clips: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="no image there, and this model takes images"):
            run(tmp_path / "feats.npy", model=image_model)
        assert list(tmp_path.iterdir()) == []

    def test_a_video_model_takes_stills_that_are_named(self, run: Embed, tmp_path: Path) -> None:
        write_frames(tmp_path / "in", 3)
        assert run(tmp_path / "feats.npy", inputs=[str(tmp_path / "in" / "*.png")]).rows == 3


class TestHalfPrecision:
    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
    def test_is_the_rounded_float32(self, run: Embed, tmp_path: Path, suffix: str) -> None:
        run(tmp_path / "full.npy")
        run(tmp_path / f"half{suffix}", dtype="float16")
        half = load_embeddings(tmp_path / f"half{suffix}").features
        assert half.dtype == np.float16
        assert half.tobytes() == np.load(tmp_path / "full.npy").astype(np.float16).tobytes()

    def test_features_beyond_its_range_are_failures(
        self, run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        def large(self: VJEPA, batch: torch.Tensor, **options: Any) -> torch.Tensor:
            features = torch.ones(len(batch), 24)
            features[1] = 1e5
            return features

        monkeypatch.setattr(VJEPA, "embed_clips", large)
        run(tmp_path / "feats.npy", inputs=[clips / "0.mp4", clips / "1.mp4"], dtype="float16")
        [failure] = lines(tmp_path / "feats.npy", "errors.jsonl")
        assert failure["reason"] == "features do not fit float16"


def test_parquet_holds_the_index_and_the_features(run: Embed, tmp_path: Path) -> None:
    from pyarrow import parquet

    run(tmp_path / "feats.parquet")
    table = parquet.read_table(tmp_path / "feats.parquet")
    found = load_embeddings(tmp_path / "feats.parquet")
    for name in ("row", "id", "path", "start_seconds", "end_seconds", "frames", "decoder"):
        assert table[name].to_pylist() == [row[name] for row in found.index], name
    assert np.array_equal(np.stack(table["embedding"].to_numpy()), found.features)


def test_a_clip_whose_decoder_hangs_is_tried_twice_and_listed(
    run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines = []

    class Pool(WorkerPool[Any]):
        def __init__(self, task: Any, *, crash_retries: int = 0, **options: Any) -> None:
            deadlines.append((crash_retries, options["deadline_seconds"]))
            super().__init__(task, crash_retries=crash_retries, **options)

    monkeypatch.setattr("vjepa_sdk.inference.embed.batches.WorkerPool", Pool)
    run(tmp_path / "feats.npy", inputs=[clips / "0.mp4"], deadline_seconds=7.0)
    assert deadlines == [(1, 7.0)]


def test_a_model_that_takes_images_and_videos_gets_both(clips: Path, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", replace(VIDEO, rope_layout="interleaved", image_tokenizer=True))
    write_frames(tmp_path / "in" / "frames", 6)
    options: dict[str, Any] = {"model": model, "pooling": "none", "num_workers": 0}
    embed_files([tmp_path / "in", tmp_path / "in/frames/frame1.png"], tmp_path / "feats.safetensors", **options)
    features = load_embeddings(tmp_path / "feats.safetensors").features
    assert sorted(row.shape for row in features) == [(1, 2, 2, 24), (2, 2, 2, 24)]


def test_links_left_out_are_told(run: Embed, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").write_bytes((clips / "0.mp4").read_bytes())
    (tmp_path / "in/b.mp4").symlink_to(clips / "1.mp4")
    with caplog.at_level(logging.WARNING, "vjepa_sdk"):
        assert run(tmp_path / "feats.npy", inputs=[tmp_path / "in"]).rows == 1
    assert "1 symbolic links left out" in caplog.text
    assert run(tmp_path / "all.npy", inputs=[tmp_path / "in"], follow_symlinks=True).rows == 2


@pytest.mark.parametrize("name", ["frames", "start_seconds", "end_seconds"])
def test_a_decoding_process_that_lies_about_the_source_is_not_believed(
    run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    honest = ClipLoader.__call__

    def load(self: ClipLoader, video: object) -> tuple[np.ndarray, dict[str, Any]]:
        array, info = honest(self, video)
        return array, {**info, name: ["x"]} if str(video).endswith("1.mp4") else info

    monkeypatch.setattr(ClipLoader, "__call__", load)
    run(tmp_path / "feats.npy", inputs=[clips / "0.mp4", clips / "1.mp4"])
    [failure] = lines(tmp_path / "feats.npy", "errors.jsonl")
    assert failure["reason"] == "the decoding process sent something other than a clip"


def test_parquet_without_pyarrow_is_refused_at_once(
    run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="needs pyarrow"):
        run(tmp_path / "feats.parquet")
    assert list(tmp_path.iterdir()) == []


def test_listing_planning_and_encoding_show_how_far_they_are(
    run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, list[Any]] = {}

    @contextmanager
    def recorded(title: str, *, total: int | None, show: bool | None, **options: Any) -> Iterator[ProgressBar]:
        moves: list[Any] = shown.setdefault(title, [show, total])
        yield ProgressBar(lambda by, note: moves.append(by))

    for module in (find, snapshot, batches):
        monkeypatch.setattr(module, "progress_bar", recorded)
    run(tmp_path / "feats.npy", show_progress_bar=True)
    assert {title: [*found[:2], sum(found[2:])] for title, found in shown.items()} == {
        "listing": [True, None, NUM_CLIPS],
        "planning": [True, NUM_CLIPS, NUM_CLIPS],
        "embed": [True, NUM_CLIPS, NUM_CLIPS],
    }
