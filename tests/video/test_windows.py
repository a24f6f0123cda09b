"""Windows lie where they should, hold the frames on screen at their moments, and read each frame once."""

from __future__ import annotations

import math
import pickle
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media import numbered_frame, read_numbers, remux, write_cut_video, write_video
from PIL import Image

from vjepa_sdk import PreprocessConfig
from vjepa_sdk.config.choices import Tail
from vjepa_sdk.errors import ConfigError, InputError
from vjepa_sdk.video import decoding, pyav_reader
from vjepa_sdk.video import windows as windowing
from vjepa_sdk.video.clips import WindowLoader, cut_clips
from vjepa_sdk.video.reader import open_video, read_video
from vjepa_sdk.video.windows import Windowing, plan_windows, settle_windows

SIDE = 64
AS_IT_IS = PreprocessConfig(resize_size=SIDE, crop_size=SIDE)
OPEN_GOP = {"x264-params": "open-gop=1:scenecut=0"}
VARIABLE = [0, 1, 2, 10, 11, 30, 31, 32, 60, 61, 62, 63]


@dataclass(frozen=True)
class Known:
    """A video whose frame `numbers[i]` is shown from `seconds[i]`, as whoever wrote it knows."""

    path: Path
    numbers: list[int]
    seconds: list[float]
    end: float


def _known(path: Path, numbers: range, seconds: list[float], *, last: float = 0.1) -> Known:
    return Known(path, list(numbers), seconds, seconds[-1] + last)


def _tenths(count: int, *, start: float = 0.0) -> list[float]:
    return [start + i / 10 for i in range(count)]


def _write(path: Path, **options: Any) -> Path:
    return write_video(path, width=SIDE, height=SIDE, **({"num_frames": 40, "num_b_frames": 3} | options))


def _transport_stream_cut_in_a_group(directory: Path) -> Path:
    return remux(_write(directory / "a.mp4", num_b_frames=0), directory / "a.ts", first_packet=4)


KINDS: dict[str, Callable[[Path], Known]] = {
    "constant rate": lambda d: _known(_write(d / "a.mp4"), range(40), _tenths(40)),
    "variable rate": lambda d: _known(_write(d / "a.mp4", pts=VARIABLE), range(12), [p / 10 for p in VARIABLE]),
    "variable rate matroska": lambda d: _known(
        _write(d / "a.mkv", pts=VARIABLE), range(12), [p / 10 for p in VARIABLE]
    ),
    "non-zero start": lambda d: _known(_write(d / "a.mp4", pts=range(50, 90)), range(40), _tenths(40, start=5.0)),
    "edit list": lambda d: _known(
        write_cut_video(d / "a.mp4", shown_from=4, num_frames=40, width=SIDE, height=SIDE), range(4, 40), _tenths(36)
    ),
    "open gop": lambda d: _known(_write(d / "a.mp4", options=OPEN_GOP), range(40), _tenths(40)),
    "open gop matroska": lambda d: _known(_write(d / "a.mkv", options=OPEN_GOP), range(40), _tenths(40)),
    # Matroska knows milliseconds only
    "thirty a second matroska": lambda d: _known(
        _write(d / "a.mkv", fps=30, num_frames=90), range(90), [round(i / 30, 3) for i in range(90)], last=0.033
    ),
    "vp9": lambda d: _known(
        _write(d / "a.webm", codec="libvpx-vp9", options={"deadline": "realtime"}), range(40), _tenths(40)
    ),
    "rotated": lambda d: _known(_write(d / "a.mp4", rotation=90), range(40), _tenths(40)),
    # its muxer starts the clock later, by two frames because of the B frames
    "transport stream": lambda d: _known(_write(d / "a.ts"), range(40), _tenths(40, start=0.2)),
    "transport stream cut in a group": lambda d: _known(
        _transport_stream_cut_in_a_group(d), range(10, 40), _tenths(30, start=1.0)
    ),
    "gif": lambda d: _known(_write(d / "a.gif", codec="gif", pixel_format="rgb8"), range(40), _tenths(40)),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Known:
    return KINDS[request.param](tmp_path_factory.mktemp("windows"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of ten frames."""
    return _write(tmp_path_factory.mktemp("windows") / "clip.mp4")


def _shown(video: Known, moment: float) -> int:
    """Look through all frames for the one that is on screen."""
    number = video.numbers[0]
    for seconds, candidate in zip(video.seconds, video.numbers, strict=True):
        if seconds <= moment + 0.001:
            number = candidate
    return number


def _expected(video: Known, windowing: Windowing) -> list[tuple[float, float, list[int]]]:
    """Walk through a video window by window, the slow and plain way."""
    length, count = windowing.window_seconds, windowing.num_frames
    spans, start, reached = [], video.seconds[0], -1.0
    while start + length < video.end + 0.001:
        spans.append((start, start + length))
        reached = start + length
        start = video.seconds[0] + len(spans) * windowing.stride_seconds
    is_missed = not spans or (reached < video.end - 0.001 and start < video.end - 0.001)
    if is_missed and windowing.tail == "pad":
        spans.append((start, video.end))
    if is_missed and windowing.tail == "overlap":
        spans.append((max(video.seconds[0], video.end - length), video.end))
    return [(a, b, [_shown(video, a + i * length / count) for i in range(count)]) for a, b in spans]


@pytest.mark.parametrize(
    ("window_seconds", "stride_seconds", "num_frames"),
    [(1.0, 1.0, 4), (1.0, 0.3, 4), (0.8, 1.7, 2), (2.0, 0.5, 8), (0.1, 0.1, 1), (50.0, 1.0, 16)],
)
@pytest.mark.parametrize("tail", ["pad", "drop", "overlap"])
def test_every_window_holds_the_frames_on_screen(
    known: Known, tail: Tail, window_seconds: float, stride_seconds: float, num_frames: int
) -> None:
    windowing = Windowing(
        num_frames=num_frames, window_seconds=window_seconds, stride_seconds=stride_seconds, tail=tail
    )
    expected = _expected(known, windowing)
    loader = WindowLoader(preprocess=AS_IT_IS, windowing=windowing)
    if not expected:
        with pytest.raises(InputError, match="too short for one window of 50 s"), loader.open(known.path):
            pass
        return
    with loader.open(known.path) as video:
        found = [read_numbers(clip.transpose(0, 2, 3, 1)) for clip in video.clips()]
    np.testing.assert_allclose(video.windows.start_seconds, [start for start, _, _ in expected], atol=1e-6)
    np.testing.assert_allclose(video.windows.end_seconds, [end for _, end, _ in expected], atol=1e-4)
    assert found == [numbers for _, _, numbers in expected]
    assert (video.windows.frame_indices + known.numbers[0]).tolist() == found


def test_clips_are_the_frames_at_their_indices(clip: Path) -> None:
    loader = WindowLoader(preprocess=AS_IT_IS, windowing=_windowing(1.0, stride=0.3))
    with loader.open(clip) as video:
        clips, indices = list(video.clips()), video.windows.frame_indices
    frames = read_video(clip)
    assert all(clip.dtype == np.uint8 and clip.shape == (4, 3, SIDE, SIDE) for clip in clips)
    for taken, row in zip(clips, indices, strict=True):
        np.testing.assert_array_equal(taken.transpose(0, 2, 3, 1), frames[row])


def _windowing(length: float = 1.0, *, stride: float | None = None, tail: Tail = "pad", count: int = 4) -> Windowing:
    return Windowing(num_frames=count, window_seconds=length, stride_seconds=stride or length, tail=tail)


@pytest.mark.parametrize("kind", ["constant rate", "open gop", "open gop matroska", "variable rate"])
@pytest.mark.parametrize("stride", [1.0, 0.2, 0.05, 2.5])
def test_each_frame_is_decoded_and_converted_once(
    kind: str, stride: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KINDS[kind](tmp_path)
    decode, convert = decoding.decode, pyav_reader.PyAVReader._rgb
    decoded: list[int] = []
    converted: list[int] = []

    def count_decoded(packet: Any, decoder: Any) -> Any:
        if packet.size:
            decoded.append(packet.pts)
        return decode(packet, decoder)

    def count_converted(reader: Any, frame: Any) -> Any:
        converted.append(frame.pts)
        return convert(reader, frame)

    loader = WindowLoader(preprocess=AS_IT_IS, windowing=_windowing(stride=stride))
    with loader.open(known.path) as video:
        monkeypatch.setattr(decoding, "decode", count_decoded)
        monkeypatch.setattr(pyav_reader.PyAVReader, "_rgb", count_converted)
        assert len(list(video.clips())) == len(video.windows)
    assert len(decoded) == len(set(decoded)) <= len(known.numbers)
    assert len(converted) == len(set(converted)) == len(np.unique(video.windows.frame_indices))


def test_what_lies_outside_the_windows_is_jumped_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "a.mp4", num_frames=400, num_b_frames=0)
    decode = decoding.decode
    decoded: list[int] = []
    windowing = replace(_windowing(), start_seconds=30.0, end_seconds=32.0)
    with WindowLoader(preprocess=AS_IT_IS, windowing=windowing).open(path) as video:
        monkeypatch.setattr(
            decoding, "decode", lambda packet, decoder: decoded.append(packet.pts) or decode(packet, decoder)
        )
        numbers = [read_numbers(clip.transpose(0, 2, 3, 1)) for clip in video.clips()]
    assert numbers == [[300, 302, 305, 307], [310, 312, 315, 317]]
    assert len(decoded) <= 20


class _Frame(np.ndarray):
    """An array that can be watched."""


@dataclass
class _Watch:
    """Make frames, and know how many of them are still held."""

    alive: int = 0

    def frames(self, count: int) -> Iterator[np.ndarray]:
        for number in range(count):
            yield self._frame(number)

    def _frame(self, number: int) -> np.ndarray:
        frame = np.full((1,), number).view(_Frame)
        self.alive += 1
        weakref.finalize(frame, self._free)
        return frame

    def _free(self) -> None:
        self.alive -= 1


@pytest.mark.parametrize("num_windows", [300, pytest.param(30_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("stride", "held"), [(8, 8), (2, 8), (1, 15), (20, 8)])
def test_frames_are_held_only_while_an_open_window_needs_them(num_windows: int, stride: int, held: int) -> None:
    every_second = 2 * np.arange(8)
    indices = stride * np.arange(num_windows)[:, None] + every_second
    needed = np.unique(indices)
    watch, most = _Watch(), 0
    for row, clip in zip(indices, cut_clips(watch.frames(len(needed)), indices), strict=True):
        np.testing.assert_array_equal(needed[clip[:, 0]], row)
        most = max(most, watch.alive)
    assert most == held


def test_a_part_of_the_windows_can_be_read_alone(clip: Path) -> None:
    with WindowLoader(preprocess=AS_IT_IS, windowing=_windowing(stride=0.3)).open(clip) as video:
        everything, part = list(video.clips()), list(video.clips(3, 6))
        assert list(video.clips(4, 4)) == []
    np.testing.assert_array_equal(np.stack(part), np.stack(everything[3:6]))


def test_a_loader_can_be_sent_to_another_process(clip: Path) -> None:
    loader = WindowLoader(preprocess=AS_IT_IS, windowing=_windowing(), decoder="pyav")
    data = pickle.dumps(loader)
    assert len(data) < 2000
    with loader.open(clip) as here, pickle.loads(data).open(str(clip)) as there:
        for ours, theirs in zip(here.clips(), there.clips(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_decord_gives_the_same_windows_on_a_plain_file(clip: Path) -> None:
    pytest.importorskip("decord")
    loader = WindowLoader(preprocess=AS_IT_IS, windowing=_windowing(stride=0.7))
    with loader.open(clip) as ours, replace(loader, decoder="decord").open(clip) as theirs:
        np.testing.assert_array_equal(ours.windows.frame_indices, theirs.windows.frame_indices)
        np.testing.assert_allclose(ours.windows.end_seconds, theirs.windows.end_seconds, atol=1e-4)
        numbers = [[read_numbers(clip.transpose(0, 2, 3, 1)) for clip in video.clips()] for video in (ours, theirs)]
    assert numbers[0] == numbers[1]


def test_frames_in_every_form_give_the_windows_of_the_file(clip: Path, tmp_path: Path) -> None:
    frames = read_video(clip)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    forms = {
        "array": frames,
        "floats": frames / 255.0,
        "tensor": np.ascontiguousarray(frames.transpose(0, 3, 1, 2)),
        "images": [Image.fromarray(frame) for frame in frames],
        "directory": tmp_path,
    }
    import torch

    forms["tensor"] = torch.from_numpy(forms["tensor"])
    loader = WindowLoader(preprocess=AS_IT_IS, windowing=_windowing(stride=0.3), source_fps=10)
    with loader.open(clip) as video:
        expected, spans = np.stack(list(video.clips())), video.windows
    for name, form in forms.items():
        with loader.open(form) as video:
            np.testing.assert_array_equal(np.stack(list(video.clips())), expected, err_msg=name)
            np.testing.assert_allclose(video.windows.start_seconds, spans.start_seconds)
            np.testing.assert_allclose(video.windows.end_seconds, spans.end_seconds)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (np.zeros((8, 32, 32, 3), np.uint8), "the video has no frame rate, which seconds need; pass source_fps="),
        (numbered_frame(0), "this is a still image, without length in time"),
        (Path("a.png"), r"a\.png: is a still image, without length in time"),
        (["a.mp4", "b.mp4"], "a list is not one video"),
        ([], "a list is not one video"),
        (None, "a NoneType is not one video"),
        (np.zeros((2, 8, 32, 32, 3), np.uint8), r"an array of shape \(2, 8, 32, 32, 3\) must be \[T, H, W, 3\]"),
        (np.zeros((0, 32, 32, 3), np.uint8), "is empty; pass at least one frame"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))], "the images of one video must have one size"),
    ],
    ids=["array", "image", "path", "list", "empty", "none", "batch", "no frames", "sizes"],
)
def test_what_is_not_one_video_with_times_is_refused(form: object, reason: str) -> None:
    loader = WindowLoader(preprocess=AS_IT_IS, windowing=_windowing())
    with pytest.raises(InputError, match=reason), loader.open(form):
        pass


def test_files_joined_by_force_are_refused(tmp_path: Path) -> None:
    part = write_video(tmp_path / "a.mpg", num_frames=10, codec="mpeg2video", fps=25).read_bytes()
    (tmp_path / "joined.mpg").write_bytes(part + part)
    loader = WindowLoader(preprocess=AS_IT_IS, windowing=_windowing())
    with (
        pytest.raises(InputError, match=r"joined\.mpg: shows frame \d+ at .* s and the next one at"),
        loader.open(tmp_path / "joined.mpg"),
    ):
        pass


def _plan(windowing: Windowing, *, end: float = 10.0) -> list[tuple[float, float]]:
    plan = plan_windows(np.arange(0, end, 0.1), end, windowing)
    return list(zip(plan.start_seconds.tolist(), plan.end_seconds.tolist(), strict=True))


@pytest.mark.parametrize(
    ("length", "stride", "tail", "expected"),
    [
        (5, 5, "pad", [(0, 5), (5, 10)]),
        (4, 4, "drop", [(0, 4), (4, 8)]),
        (4, 4, "pad", [(0, 4), (4, 8), (8, 10)]),
        (4, 4, "overlap", [(0, 4), (4, 8), (6, 10)]),
        (4, 3, "pad", [(0, 4), (3, 7), (6, 10)]),
        (4, 2.5, "pad", [(0, 4), (2.5, 6.5), (5, 9), (7.5, 10)]),
        (4, 2.5, "overlap", [(0, 4), (2.5, 6.5), (5, 9), (6, 10)]),
        (2, 5, "pad", [(0, 2), (5, 7)]),
        (4, 7, "pad", [(0, 4), (7, 10)]),
        (4, 7, "overlap", [(0, 4), (6, 10)]),
        (20, 1, "pad", [(0, 10)]),
        (20, 1, "overlap", [(0, 10)]),
        (10, 1, "drop", [(0, 10)]),
    ],
)
def test_the_tail_is_padded_dropped_or_moved_back(
    length: float, stride: float, tail: Tail, expected: list[tuple[float, float]]
) -> None:
    assert _plan(_windowing(length, stride=stride, tail=tail)) == expected


@pytest.mark.parametrize("end", [9.9995, 10.0, 10.0005])
def test_times_that_a_container_rounded_make_no_tail(end: float) -> None:
    plan = plan_windows(np.arange(100) / 10, end, _windowing(5.0))
    np.testing.assert_allclose(plan.end_seconds, [5.0, min(end, 10.0)])


def test_a_padded_tail_repeats_the_last_frame() -> None:
    plan = plan_windows(np.arange(10) / 10, 1.0, _windowing(0.8, count=8))
    assert plan.frame_indices.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 9, 9, 9, 9, 9, 9]]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (3.0, None, [(3, 7), (7, 10)]),
        (None, 5.0, [(0, 4), (4, 5)]),
        (2.25, 6.25, [(2.25, 6.25)]),
        (-5.0, 50.0, [(0, 4), (4, 8), (8, 10)]),
    ],
)
def test_windows_keep_to_the_part_asked_for(
    start: float | None, end: float | None, expected: list[tuple[float, float]]
) -> None:
    assert _plan(replace(_windowing(4.0), start_seconds=start, end_seconds=end)) == expected


def test_frames_from_the_end_of_the_part_on_are_not_taken() -> None:
    windowing = replace(_windowing(1.0), start_seconds=0.5, end_seconds=0.8)
    assert plan_windows(np.arange(20) / 10, 2.0, windowing).frame_indices.tolist() == [[5, 7, 7, 7]]


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (12.0, None, "the video runs from 0 to 10 s, start_seconds=12 leaves nothing of it"),
        (None, -1.0, "the video runs from 0 to 10 s, end_seconds=-1 leaves nothing of it"),
        (10.0, 20.0, "start_seconds=10 and end_seconds=20 leaves nothing"),
    ],
)
def test_a_part_outside_the_video_is_refused(start: float | None, end: float | None, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        _plan(replace(_windowing(), start_seconds=start, end_seconds=end))


def test_a_short_video_has_no_window_to_drop_the_tail_of(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", num_frames=10)
    loader = WindowLoader(preprocess=AS_IT_IS, windowing=_windowing(2.0, tail="drop"))
    with (
        pytest.raises(InputError, match=r"short\.mp4: runs from 0 to 1 s, too short for one window of 2 s; pass"),
        loader.open(path),
    ):
        pass


def test_one_frame_is_one_window(tmp_path: Path) -> None:
    with WindowLoader(preprocess=AS_IT_IS, windowing=_windowing()).open(
        _write(tmp_path / "a.mp4", num_frames=1)
    ) as one:
        assert one.windows.frame_indices.tolist() == [[0, 0, 0, 0]]


def test_more_windows_than_anyone_can_want_are_refused() -> None:
    with pytest.raises(InputError, match="makes 9900001 windows, more than 1000000; pass a longer stride_seconds"):
        plan_windows(np.array([0.0, 99_000.0]), 100_000.0, _windowing(1000.0, stride=0.01))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_frames": 0}, "num_frames=0 must be at least 1"),
        ({"window_seconds": 0.0}, "window_seconds=0 must be at least 0.001"),
        ({"stride_seconds": -1.0}, "stride_seconds=-1 must be at least 0.001"),
        ({"tail": "cut"}, "tail='cut' must be one of"),
        ({"start_seconds": 4.0, "end_seconds": 4.0}, "start_seconds=4 must be below end_seconds=4"),
        ({"window_seconds": math.inf}, "window_seconds=inf must be a number"),
    ],
)
def test_options_that_make_no_windows_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Windowing(**({"num_frames": 4, "window_seconds": 1.0, "stride_seconds": 1.0} | values))


@pytest.mark.parametrize(
    ("given_options", "settled"),
    [
        ({"window_seconds": 4.0}, (16, 4.0)),
        ({"window_seconds": 4.0, "num_frames": 8}, (8, 4.0)),
        ({"fps": 4.0}, (16, 4.0)),
        ({"fps": 4, "num_frames": 64}, (64, 16.0)),
        ({"fps": 2.5, "window_seconds": 4.0}, (10, 4.0)),
    ],
)
def test_two_of_length_frames_and_rate_give_the_third(
    given_options: dict[str, Any], settled: tuple[int, float]
) -> None:
    options = {"window_seconds": None, "num_frames": None, "fps": None} | given_options
    assert settle_windows(**options, default_num_frames=16) == settled


@pytest.mark.parametrize(
    ("given_options", "reason"),
    [
        ({}, "windows need a length; pass window_seconds=, or fps="),
        ({"num_frames": 8}, "windows need a length"),
        ({"window_seconds": 2.0, "fps": 4.0, "num_frames": 8}, "num_frames=8 is one too many"),
        (
            {"window_seconds": 2.0, "fps": 3.3},
            r"window_seconds=2 at fps=3\.3 are 6\.6 frames, which is no whole number",
        ),
    ],
)
def test_lengths_that_say_too_little_or_too_much_are_refused(given_options: dict[str, Any], reason: str) -> None:
    options = {"window_seconds": None, "num_frames": None, "fps": None} | given_options
    with pytest.raises(ConfigError, match=reason):
        settle_windows(**options, default_num_frames=16)


TENTHS = st.integers(1, 80)


@given(
    steps=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    length=TENTHS,
    stride=TENTHS,
    count=st.sampled_from([1, 2, 4, 8]),
    tail=st.sampled_from(["pad", "overlap"]),
    start=st.integers(-20, 20),
)
def test_windows_of_any_times_are_those_found_in_whole_numbers(
    steps: list[int], length: int, stride: int, count: int, tail: Tail, start: int
) -> None:
    times = [start + sum(steps[:i]) for i in range(len(steps))]
    end = times[-1] + steps[-1]
    starts = list(range(start, end - length + 1, stride))
    following = start + len(starts) * stride
    if not starts or max(starts[-1] + length, following) < end:
        starts.append(following if tail == "pad" else max(start, end - length))
    rows = []
    for begin in starts:
        moments = [begin + Fraction(i * length, count) for i in range(count)]
        rows.append([max(i for i, time in enumerate(times) if time <= moment) for moment in moments])
    windowing = _windowing(length / 10, stride=stride / 10, tail=tail, count=count)
    plan = plan_windows(np.array(times) / 10, end / 10, windowing)
    np.testing.assert_allclose(plan.start_seconds, np.array(starts) / 10, atol=1e-9)
    np.testing.assert_allclose(plan.end_seconds, [min(begin + length, end) / 10 for begin in starts], atol=1e-9)
    assert plan.frame_indices.tolist() == rows
    assert plan.frame_indices.dtype == np.int64 and len(plan) == len(starts)


def test_limits_are_what_the_documentation_says() -> None:
    assert (windowing.MIN_SECONDS, windowing.MAX_WINDOWS) == (0.001, 1_000_000)


def test_the_reader_lists_the_times_that_were_written(known: Known) -> None:
    with open_video(known.path) as reader:
        np.testing.assert_allclose(reader.timestamps, known.seconds, atol=1e-6)
