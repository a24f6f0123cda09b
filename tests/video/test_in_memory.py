"""Bytes, open files, rows of data sets and torchcodec's decoders are read as the files that they come from."""

from __future__ import annotations

import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from media import write_video
from PIL import Image
from tiny_models import IMAGE, VIDEO

from vjepa_sdk import VJEPA, read_video
from vjepa_sdk.errors import InputError, VideoDecodeError
from vjepa_sdk.video import in_memory


@pytest.fixture(scope="module")
def model() -> VJEPA:
    return VJEPA.untrained(VIDEO, device="cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", num_frames=12, fps=10)


class VideoDecoder:
    """What torchcodec's class of this name shows of itself."""

    __module__ = "torchcodec.decoders._video_decoder"

    def __init__(self, frames: np.ndarray, *, fps: float, nhwc: bool = False) -> None:
        self.frames, self.nhwc, self.asked = frames, nhwc, list[list[int]]()
        self.metadata = SimpleNamespace(average_fps=fps, begin_stream_seconds=0.0)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.frames[index])

    def get_frames_at(self, indices: list[int]) -> Any:
        self.asked.append(indices)
        frames = torch.from_numpy(self.frames[indices])
        return SimpleNamespace(data=frames if self.nhwc else frames.movedim(-1, 1))


def ways(path: Path) -> dict[str, object]:
    content, frames = path.read_bytes(), read_video(path)
    return {
        "bytes": content,
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "BytesIO": io.BytesIO(content),
        "row with bytes": {"path": "elsewhere.mp4", "bytes": content},
        "row with a path": {"path": str(path), "bytes": None},
        "decoder": VideoDecoder(frames, fps=10),
        "decoder NHWC": VideoDecoder(frames, fps=10, nhwc=True),
    }


@pytest.mark.parametrize("place", ["memory", "temporary file"])
def test_every_way_gives_the_features_of_the_file(
    model: VJEPA, path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place != "memory":  # as on systems without memfd_create
        monkeypatch.setattr(in_memory, "_has_memory_files", lambda: False)
    alone, sampled = model.encode(path), model.encode(path, fps=5)
    for name, video in ways(path).items():
        assert np.array_equal(model.encode(video), alone), name
        assert np.array_equal(model.encode([video, video]), np.stack([alone, alone])), name
        assert np.array_equal(model.encode(video, fps=5), sampled), name


def test_windows_surprise_and_predictions_take_them_too(model: VJEPA, path: Path) -> None:
    windows, surprise = model.extract(path, window_seconds=0.4), model.surprise(path, fps=10)
    predicted = model.predict(path, context=[0, 1], target=[2])
    for name, video in ways(path).items():
        found = model.extract(video, window_seconds=0.4)
        assert np.array_equal(found.embeddings, windows.embeddings), name
        assert np.allclose(found.start_seconds, windows.start_seconds), name
        assert np.array_equal(model.surprise(video, fps=10).errors, surprise.errors, equal_nan=True), name
        assert torch.equal(model.predict(video, context=[0, 1], target=[2]), predicted), name


def test_a_pipe_is_read_to_its_end(path: Path) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, open(writing, "wb") as other:
        other.write(path.read_bytes()[:1000])
        other.close()
        assert in_memory.content_of(pipe) == path.read_bytes()[:1000]


def test_an_open_file_is_read_from_its_start_and_frames_are_those_of_the_path(path: Path) -> None:
    with path.open("rb") as file:
        file.read(100)
        assert np.array_equal(read_video(file, [3, 0]), read_video(path, [3, 0]))
    assert np.array_equal(read_video(path.read_bytes()), read_video(path))


def test_images_in_memory_are_images(model: VJEPA, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    of_images = VJEPA.untrained(IMAGE, device="cpu")
    for suffix in (".png", ".jpg", ".webp", ".bmp"):
        image.save(file := tmp_path / f"a{suffix}")
        for each in (model, of_images):
            assert np.array_equal(each.encode(file.read_bytes()), each.encode(file)), suffix
    still, other = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))
    still.save(animation := tmp_path / "b.webp", save_all=True, append_images=[other], lossless=True)
    assert np.array_equal(model.encode(animation.read_bytes()), model.encode(animation))


def outcome(model: VJEPA, video: Path | bytes, num_workers: int) -> object:
    try:
        return model.encode(video, num_workers=num_workers).tobytes()
    except VideoDecodeError as error:
        return str(error).replace(str(video), "the video")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damage_is_named_as_it_is_in_files(model: VJEPA, path: Path, tmp_path: Path, num_workers: int) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    zeroed = content[:middle] + bytes(60) + content[middle + 60 :]
    others = [b"", b"#EXTM3U\nhttp://127.0.0.1/a.ts", b"no video", content[:middle]] if num_workers == 0 else [b""]
    for damaged in (zeroed, *others):
        (file := tmp_path / "a").write_bytes(damaged)
        found = outcome(model, damaged, num_workers)
        assert isinstance(found, str) and found.startswith("the video: ")
        assert found == outcome(model, file, num_workers)


def test_what_holds_no_video_is_refused(model: VJEPA) -> None:
    with pytest.raises(InputError, match="a row with neither path nor bytes holds no video"):
        model.encode({"path": None, "bytes": None})
    with pytest.raises(InputError, match="a file that was opened as text is no video; open it with mode 'rb'"):
        model.encode(io.StringIO("a"))
    with pytest.raises(InputError, match="a dict is not a video; pass a path, bytes, an array"):
        model.encode({"label": 3})


def test_a_decoder_is_asked_for_the_frames_of_the_clip_alone(model: VJEPA, path: Path) -> None:
    decoder = VideoDecoder(read_video(path), fps=10)
    model.encode(decoder)
    assert decoder.asked == [[0, 4, 7, 11]]


def test_what_torchcodec_cannot_decode_is_named(model: VJEPA, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: VideoDecoder, indices: list[int]) -> None:
        raise RuntimeError("Could not push packet\nto decoder")

    monkeypatch.setattr(VideoDecoder, "get_frames_at", fail)
    with pytest.raises(VideoDecodeError, match=r"the video: cannot be decoded by torchcodec: Could not push packet"):
        model.encode(VideoDecoder(read_video(path), fps=10))


def test_torchcodecs_own_decoder_is_one(model: VJEPA, path: Path) -> None:
    try:
        from torchcodec.decoders import VideoDecoder as Real
    except (ImportError, RuntimeError, OSError):  # it is there, but no FFmpeg that it can load
        pytest.skip("torchcodec is not here, or finds no FFmpeg")
    cosines = model.similarity(model.encode([Real(str(path))]), model.encode([path]))
    assert cosines[0, 0] > 0.999  # another FFmpeg may convert colours by other roundings
