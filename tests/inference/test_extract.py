"""`extract` gives each window of a video the features that `encode` gives its frames, in bounded memory."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media import write_video
from tiny_models import IMAGE, VIDEO, save_tiny

from vjepa_sdk import VJEPA, VideoFeatures
from vjepa_sdk.errors import ConfigError, InputError, VideoDecodeError
from vjepa_sdk.video.reader import read_video


@pytest.fixture(scope="module")
def model() -> VJEPA:
    return VJEPA.untrained(VIDEO, device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds of ten frames."""
    return write_video(tmp_path_factory.mktemp("extract") / "clip.mp4", num_frames=50, num_b_frames=3)


@pytest.mark.parametrize("size", [(64, 48), (97, 64), (48, 85), (32, 32)])
def test_a_row_is_what_encode_gives_for_the_same_frames(model: VJEPA, size: tuple[int, int], tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=30, width=size[0], height=size[1], pixel_format="yuv444p")
    features = model.extract(path, window_seconds=1, stride_seconds=0.3, batch_size=1)
    frames = read_video(path)
    assert len(features) == 8
    for row, indices in zip(features.embeddings, features.frame_indices, strict=True):
        np.testing.assert_array_equal(row, model.encode(frames[indices]))


def test_the_first_window_is_what_encode_gives_at_that_rate(model: VJEPA, clip: Path) -> None:
    features = model.extract(clip, fps=4, batch_size=1)
    assert features.end_seconds[0] == 1.0
    np.testing.assert_array_equal(features.embeddings[0], model.encode(clip, fps=4))


def test_batch_size_changes_rounding_only(model: VJEPA, clip: Path) -> None:
    single = model.extract(clip, window_seconds=1, stride_seconds=0.25, batch_size=1)
    for batch_size in (2, 5, 100):
        several = model.extract(clip, window_seconds=1, stride_seconds=0.25, batch_size=batch_size)
        np.testing.assert_allclose(several.embeddings, single.embeddings, atol=1e-5)
        np.testing.assert_array_equal(several.frame_indices, single.frame_indices)


@pytest.mark.parametrize(
    ("pooling", "shape"), [("mean", (24,)), ("temporal", (2, 24)), ("grid", (2, 3, 3, 24)), ("none", (2, 2, 2, 24))]
)
@pytest.mark.parametrize("layers", [None, 1, 2, [0], [1, 0]])
def test_shape_follows_pooling_and_layers(
    model: VJEPA, clip: Path, pooling: Any, shape: tuple[int, ...], layers: int | list[int] | None
) -> None:
    features = model.extract(clip, window_seconds=2, pooling=pooling, layers=layers)
    num_layers = () if layers is None else (layers,) if isinstance(layers, int) else (len(layers),)
    assert features.embeddings.shape == (3, *num_layers, *shape)
    assert features.embeddings.dtype == np.float32 and np.isfinite(features.embeddings).all()


def test_layers_are_the_blocks_outputs_in_the_order_asked_for(model: VJEPA, clip: Path) -> None:
    one, other = (model.extract(clip, window_seconds=2, layers=[layer]).embeddings[:, 0] for layer in (0, 1))
    both = model.extract(clip, window_seconds=2, layers=[1, 0]).embeddings
    np.testing.assert_array_equal(both, np.stack([other, one], axis=1))
    np.testing.assert_array_equal(other, model.extract(clip, window_seconds=2).embeddings)
    assert not np.allclose(one, other)


def test_poolings_agree(model: VJEPA, clip: Path) -> None:
    tokens = model.extract(clip, window_seconds=2, pooling="none").embeddings
    temporal = model.extract(clip, window_seconds=2, pooling="temporal").embeddings
    np.testing.assert_allclose(temporal, tokens.mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(model.extract(clip, window_seconds=2).embeddings, tokens.mean((1, 2, 3)), atol=1e-6)


def test_normalized_embeddings_have_length_one(model: VJEPA, clip: Path) -> None:
    features = model.extract(clip, window_seconds=1, layers=2, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(features.embeddings, axis=-1), 1.0, atol=1e-6)


def test_tail_start_and_end_reach_the_windows(model: VJEPA, clip: Path) -> None:
    def spans(**options: Any) -> list[tuple[float, float]]:
        found = model.extract(clip, window_seconds=2, **options)
        return [(round(a, 3), round(b, 3)) for a, b in zip(found.start_seconds, found.end_seconds, strict=True)]

    assert spans() == [(0, 2), (2, 4), (4, 5)]
    assert spans(tail="drop") == [(0, 2), (2, 4)]
    assert spans(tail="overlap") == [(0, 2), (2, 4), (3, 5)]
    assert spans(start_seconds=1.5, end_seconds=4) == [(1.5, 3.5), (3.5, 4)]
    assert spans(stride_seconds=3) == [(0, 2), (3, 5)]


def test_meta_says_how_the_rows_were_made(clip: Path, tmp_path: Path) -> None:
    model = VJEPA.from_pretrained(save_tiny(tmp_path / "model"), device="cpu")
    meta = model.extract(clip, fps=2, stride_seconds=np.float32(1), layers=1, pooling="temporal").meta
    assert meta["video"] == str(clip)
    assert meta["model"]["name"] == str(tmp_path / "model") and meta["model"]["encoder_weights"] == "target"
    assert meta["sampling"] == {
        "num_frames": 4, "window_seconds": 2.0, "stride_seconds": 1.0, "tail": "pad", "source_fps": None
    }  # fmt: skip
    assert (meta["pooling"], meta["layers"], meta["decoder"]) == ("temporal", [1], "pyav")
    assert meta["preprocess"]["crop_size"] == 32
    assert json.loads(json.dumps(meta)) == meta


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_features_survive_a_file(model: VJEPA, clip: Path, suffix: str, tmp_path: Path) -> None:
    features = model.extract(clip, window_seconds=1)
    found = VideoFeatures.load(features.save(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(found.embeddings, features.embeddings)
    assert found.meta == features.meta


def test_arrays_with_a_rate_give_the_rows_of_the_file(model: VJEPA, clip: Path) -> None:
    from_file = model.extract(clip, window_seconds=1)
    from_array = model.extract(read_video(clip), window_seconds=1, source_fps=10)
    np.testing.assert_array_equal(from_array.embeddings, from_file.embeddings)
    assert from_array.meta["video"] is None


def test_image_models_take_one_frame_a_window(clip: Path) -> None:
    model = VJEPA.untrained(IMAGE, device="cpu")
    features = model.extract(clip, fps=2, batch_size=1)
    assert features.frame_indices[:, 0].tolist() == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]
    np.testing.assert_array_equal(features.embeddings[3], model.encode(read_video(clip)[15]))
    assert model.extract(clip, window_seconds=2).frame_indices.tolist() == [[0], [20], [40]]
    with pytest.raises(ConfigError, match="num_frames=4 must be 1, since this model encodes images"):
        model.extract(clip, window_seconds=2, num_frames=4)


def test_single_frames_take_the_image_path_of_models_that_have_one(clip: Path) -> None:
    model = VJEPA.untrained(dataclasses.replace(VIDEO, image_tokenizer=True), device="cpu")
    features = model.extract(clip, fps=2, num_frames=1, batch_size=1)
    np.testing.assert_array_equal(features.embeddings[3], model.encode(read_video(clip)[15]))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "windows need a length"),
        ({"window_seconds": "2"}, "window_seconds='2' must be a number of seconds"),
        ({"window_seconds": True}, "window_seconds=True must be a number of seconds"),
        ({"window_seconds": float("nan")}, "window_seconds=nan must be a number of seconds"),
        ({"window_seconds": 0}, "window_seconds=0 must be at least 0.001"),
        ({"window_seconds": 2, "stride_seconds": 0}, "stride_seconds=0 must be at least 0.001"),
        ({"window_seconds": 2, "num_frames": 3}, "num_frames=3 must be a multiple of tubelet_size=2; pass 2 or 4"),
        ({"window_seconds": 2, "fps": 1.5}, "num_frames=3 must be a multiple of tubelet_size=2"),
        ({"fps": 2, "num_frames": "8"}, "num_frames='8' must be an integer"),
        ({"fps": 2, "num_frames": 0}, "num_frames=0 must be a multiple of tubelet_size=2; pass 2 or 4"),
        ({"window_seconds": 2, "num_frames": 1 << 20}, "must be an integer of at most 4096"),
        ({"window_seconds": 2, "tail": "keep"}, "tail='keep' must be one of"),
        ({"window_seconds": 2, "pooling": "max"}, "pooling='max' must be one of mean, temporal, grid, change, none"),
        ({"window_seconds": 2, "layers": [2]}, r"layers=\[2\] must name blocks of the 2 from 0 to 1"),
        ({"window_seconds": 2, "layers": [0.5]}, r"layers=\[0\.5\] must name blocks"),
        ({"window_seconds": 2, "layers": "last"}, "layers='last' must name blocks"),
        ({"window_seconds": 2, "layers": 3}, "layers=3 must name blocks of the 2 from 0 to 1"),
        ({"window_seconds": 2, "batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
        ({"window_seconds": 2, "decoder": "cv2"}, "decoder='cv2' must be one of pyav, decord"),
        ({"fps": 0}, "fps=0 must be a number above 0"),
        ({"window_seconds": 2, "start_seconds": 3, "end_seconds": 2}, "start_seconds=3 must be below end_seconds=2"),
    ],
)
def test_options_that_are_not_valid_are_named(model: VJEPA, clip: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        model.extract(clip, **options)


def test_what_is_not_one_video_is_refused(model: VJEPA, clip: Path, tmp_path: Path) -> None:
    for video in ([clip, clip], np.zeros((32, 32, 3), np.uint8), np.zeros((9, 32, 32, 3), np.uint8)):
        with pytest.raises(InputError):
            model.extract(video, window_seconds=1)
    with pytest.raises(InputError, match=r"clip\.mp4: runs from 0 to 5 s, too short for one window of 6 s"):
        model.extract(clip, window_seconds=6, tail="drop")
    with pytest.raises(VideoDecodeError, match=r"missing\.mp4: does not exist"):
        model.extract(tmp_path / "missing.mp4", window_seconds=1)


def test_damage_in_the_middle_is_an_error(model: VJEPA, clip: Path, tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "a.mkv", num_frames=60).read_bytes())
    start = len(data) * 6 // 10
    data[start : start + 300] = b"\xff" * 300
    (tmp_path / "a.mkv").write_bytes(data)
    with pytest.raises(VideoDecodeError, match="corrupt"):
        model.extract(tmp_path / "a.mkv", window_seconds=1)


def test_no_gradient_is_kept(model: VJEPA, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    embed = VJEPA.embed_clips
    monkeypatch.setattr(VJEPA, "embed_clips", lambda *args, **options: seen.append(embed(*args, **options)) or seen[-1])
    model.extract(clip, window_seconds=1)
    assert seen and not any(features.requires_grad for features in seen)


_PEAK = """
import resource, sys
from vjepa_sdk import VJEPA
model = VJEPA.from_pretrained(sys.argv[1], device="cpu")
peaks = []
for path in sys.argv[2:]:
    rows = len(model.extract(path, window_seconds=4, stride_seconds=2))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # in KiB, on Linux
    print(rows, peaks[-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize("minutes", [2, pytest.param(30, marks=pytest.mark.soak)])
def test_memory_does_not_grow_with_the_length_of_the_video(minutes: int, tmp_path: Path) -> None:
    # a decoded frame has 230 kB: held, they would be 110 MB in two minutes
    size = {"width": 320, "height": 240, "fps": 4, "key_frame_every": 40, "options": {"preset": "ultrafast"}}
    short = write_video(tmp_path / "short.mp4", num_frames=80, **size)  # type: ignore[arg-type]
    long = write_video(tmp_path / "long.mp4", num_frames=240 * minutes, **size)  # type: ignore[arg-type]
    command = [sys.executable, "-c", _PEAK, str(save_tiny(tmp_path / "model")), str(short), str(long)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (few, before), (many, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (9, 30 * minutes - 1)
    assert after - before < 20_000
