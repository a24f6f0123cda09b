"""Processes, devices and layers of `encode`: the same features, in the same order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from media import write_video
from tiny_models import VIDEO

from vjepa_sdk import VJEPA, read_video
from vjepa_sdk.errors import ConfigError, VideoDecodeError
from vjepa_sdk.inference.batches import in_turns


@pytest.fixture(scope="module")
def model() -> VJEPA:
    return VJEPA.untrained(VIDEO, device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("clips")
    return [write_video(place / f"{number}.mp4", num_frames=6 + number) for number in range(7)]


def test_processes_give_the_same_features_in_order(model: VJEPA, clips: list[Path]) -> None:
    expected = model.encode(clips, batch_size=2)
    mixed: list[object] = [clips[0], clips[1].read_bytes(), read_video(clips[2]), *clips[3:]]
    assert np.array_equal(model.encode(mixed, batch_size=2, num_workers=2), expected)


def test_a_video_that_a_process_cannot_decode_is_named(model: VJEPA, clips: list[Path], tmp_path: Path) -> None:
    (bad := tmp_path / "bad.mp4").write_text("not a video")
    with pytest.raises(VideoDecodeError, match=r"bad\.mp4: is not a video of a known format"):
        model.encode([clips[0], bad, clips[1]], num_workers=1)


@pytest.mark.parametrize("device", ["cpu", ["cpu"], ["cpu", "cpu"], ["cpu", "cpu", "cpu"]])
def test_a_list_of_devices_gives_the_features_of_one(model: VJEPA, clips: list[Path], device: list[str]) -> None:
    for options in ({"batch_size": 2}, {"batch_size": 1, "pooling": "none"}):
        expected = model.encode(clips, **options)  # type: ignore[call-overload]
        assert np.array_equal(model.encode(clips, device=device, **options), expected)  # type: ignore[call-overload]


def test_devices_that_are_not_there_are_refused(model: VJEPA, clips: list[Path]) -> None:
    with pytest.raises(ConfigError, match="device='tpu' is not available here; pass one of cpu"):
        model.encode(clips, device=["cpu", "tpu"])
    with pytest.raises(ConfigError, match="device is an empty list"):
        model.encode(clips, device=[])


def test_layers_are_those_of_extract(model: VJEPA, clips: list[Path]) -> None:
    layers = model.encode(clips[:2], layers=[0, 1])
    assert layers.shape == (2, 2, VIDEO.embed_dim)
    assert np.array_equal(layers[:, 1], model.encode(clips[:2]))
    assert np.array_equal(model.encode(clips[0], layers=2, pooling="temporal"), model.encode(
        clips[0], layers=[0, 1], pooling="temporal"
    ))  # fmt: skip
    frames = read_video(clips[0], [0, 2, 3, 5])  # the frames of its clip
    extracted = model.extract(frames, source_fps=4, window_seconds=1, layers=[0])
    assert np.array_equal(extracted.embeddings[0], model.encode(frames, layers=[0]))
    with pytest.raises(ConfigError, match="layers="):
        model.encode(clips[0], layers=[2])


def test_workers_take_turns_at_the_same_time_and_order_is_kept() -> None:
    taken, names, meet = list[int](), dict[int, str](), threading.Barrier(2, timeout=20)

    def items() -> Iterator[int]:
        for number in range(6):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        meet.wait()  # each is done only if another is at work
        names[number] = threading.current_thread().name
        time.sleep(0.01 * (number % 2 == 0))
        return -number

    results = in_turns(items(), [work, work])
    assert next(results) == 0
    assert taken == [0, 1, 2]  # no more than there are workers, and the one that was given out
    assert list(results) == [-1, -2, -3, -4, -5]
    assert names[0] == names[2] == names[4] != names[1] == names[3] == names[5]


def test_an_error_of_a_worker_ends_the_others() -> None:
    def fail(number: int) -> int:
        raise ValueError(number)

    with pytest.raises(ValueError, match="1"):
        list(in_turns(iter(range(100)), [int, fail]))
