"""A reading decodes what its frames need and no more, in one opening; its frames are those of a full decode.

The oracle is `iter_frames()` of a reader of its own, which decodes every packet from the start and jumps nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from media import read_number, read_numbers, remux, write_video

from vjepa_sdk.errors import VideoDecodeError
from vjepa_sdk.video import decoding, pyav_reader
from vjepa_sdk.video.pictures import PacketContent
from vjepa_sdk.video.reader import open_video, read_video

H264 = {
    "b frames": "bframes=3",
    "pyramid": "bframes=7:b-pyramid=normal:b-adapt=0",
    "strict pyramid": "bframes=3:b-pyramid=strict:b-adapt=0",
    "temporal direct": "bframes=3:direct=temporal:weightb=1:ref=4",
    "open gop": "bframes=3:open-gop=1",
    "slices": "bframes=3:slices=3",
    "delimiters": "bframes=3:aud=1",
    "headers repeated": "bframes=3:repeat-headers=1",
    "intra refresh": "bframes=3:intra-refresh=1",
    "called interlaced": "bframes=3:fake-interlaced=1",
    "interlaced": "bframes=3:interlaced=1",
}
HEVC = {
    "b frames": "bframes=3",
    "no pyramid": "bframes=3:b-pyramid=0",
    "open gop": "bframes=4:open-gop=1",
    "temporal layers": "bframes=7:temporal-layers=3",
    "headers repeated": "bframes=3:repeat-headers=1:aud=1",
}
CASES = [("libx264", H264, name) for name in H264] + [("libx265", HEVC, name) for name in HEVC]
QUIET = {"libx264": "scenecut=0", "libx265": "log-level=error:scenecut=0:keyint=15:pools=1"}


def _write(path: Path, codec: str, options: str, **video: Any) -> Path:
    name = f"{codec[3:]}-params"
    settings = {"num_frames": 45, "key_frame_every": 15, "num_b_frames": 3} | video
    return write_video(path, codec=codec, options={name: f"{QUIET[codec]}:{options}"}, **settings)


@contextmanager
def _counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Note the time of each packet that is decoded."""
    decode, decoded = decoding.decode, list[int]()

    def note(packet: Any, decoder: Any) -> Any:
        if packet.size:
            decoded.append(packet.pts)
        return decode(packet, decoder)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", note)
        yield decoded


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("codec", "kinds", "name"), CASES, ids=[f"{codec} {name}" for codec, _, name in CASES])
def test_any_frames_are_those_of_the_full_decode(
    codec: str, kinds: dict[str, str], name: str, suffix: str, tmp_path: Path
) -> None:
    path = _write(tmp_path / f"a{suffix}", codec, kinds[name])
    full = read_video(path)
    rng = np.random.default_rng(0)
    with open_video(path) as reader:
        for count in (1, 1, 2, 3, 5, 9, 20):
            indices = np.sort(rng.choice(len(full), count, replace=False))
            np.testing.assert_array_equal(reader.get_frames(indices), full[indices])


@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", "b-pyramid=none:b-adapt=0"), ("libx265", "b-pyramid=0:b-adapt=0:bframes=3")]
)
def test_frames_that_none_refers_to_are_not_decoded(
    codec: str, options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "a.mp4", codec, options, key_frame_every=45)
    with open_video(path) as reader, _counted(monkeypatch) as decoded:
        assert read_numbers(reader.get_frames([0, 20, 30])) == [0, 20, 30]
    assert len(decoded) <= 1 + 30 / 4 + 3  # the key frame, every fourth frame, and what was asked for


def test_nothing_behind_the_last_frame_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "a.mp4", "libx264", "bframes=0", num_b_frames=0)
    with open_video(path) as reader, _counted(monkeypatch) as decoded:
        assert read_numbers(reader.get_frames([3, 17])) == [3, 17]
    assert len(decoded) == 4 + 3


@pytest.mark.parametrize("codec", ["mjpeg", "libvpx-vp9"])
def test_codecs_that_do_not_tell_decode_all_frames_on_the_way(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    options = {} if codec == "mjpeg" else {"deadline": "realtime", "cpu-used": "8"}
    path = write_video(tmp_path / "a.mkv", codec=codec, num_frames=12, pixel_format=pixels, options=options)
    with open_video(path) as reader, _counted(monkeypatch) as decoded:
        assert read_numbers(reader.get_frames([0, 5])) == [0, 5]
    assert len(decoded) == (2 if codec == "mjpeg" else 6)


def _content(codec: str, *packets: bytes) -> PacketContent:
    """Return what is known of a stream in Annex B's place, behind lengths of four bytes, after these packets."""
    setup = bytes(21) + b"\xff" if codec == "hevc" else b"\1\x42\0\x1e\xff\xe1" + _sized(SEQUENCE, 2) + b"\0"
    setup = b"\1" + setup[1:]
    context = SimpleNamespace(codec=SimpleNamespace(canonical_name=codec), extradata=setup)
    content = PacketContent(SimpleNamespace(codec_context=context))  # type: ignore[arg-type]
    for packet in packets:
        content.count_fields(packet)
    return content


def _sized(unit: bytes, size: int = 4) -> bytes:
    return len(unit).to_bytes(size, "big") + unit


SEQUENCE = bytes.fromhex("6742c01e9a7405a04ff2e0220000030002000003006519080016e360000b71b56807")
"""A sequence parameter set of H.264, frames only (the settings of x264, constrained baseline)."""


def _hevc(kind: int, layer: int) -> bytes:
    return _sized(bytes([kind << 1, layer + 1]) + b"picture")


@pytest.mark.parametrize(
    ("packet", "is_unreferenced"),
    [
        (_sized(b"\x01picture"), True),
        (_sized(b"\x06message") + _sized(b"\x01picture") + _sized(b"\x01more"), True),
        (_sized(b"\x41picture"), False),
        (_sized(b"\x01picture") + _sized(b"\x41more"), False),
        (_sized(b"\x65picture"), False),
        (_sized(b"\x68settings") + _sized(b"\x01picture"), False),
        (_sized(b"\x06message"), False),
        (_sized(b"\x01picture") + b"\0\0\1", False),
        (b"", False),
    ],
)
def test_a_packet_of_h264_is_left_out_only_if_all_in_it_is_of_a_picture_without_referrers(
    packet: bytes, is_unreferenced: bool
) -> None:
    assert _content("h264").is_unreferenced(packet) is is_unreferenced


def test_pictures_of_lower_layers_of_hevc_are_needed_by_those_of_higher_ones() -> None:
    low, high = _hevc(0, 0), _hevc(0, 1)
    assert _content("hevc", low).is_unreferenced(low)
    assert not _content("hevc", low, high).is_unreferenced(low)
    assert _content("hevc", low, high).is_unreferenced(high)
    assert not _content("hevc", low).is_unreferenced(_hevc(1, 0))  # TRAIL_R


def _damage(path: Path, number: int) -> None:
    """Overwrite most of the picture that is shown as the frame of this number with zeros."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    packet = sorted(packets, key=lambda packet: packet.pts)[number]
    with path.open("r+b") as file:
        file.seek(packet.pos + packet.size - 8)
        file.write(bytes(8))


def test_damage_in_a_frame_that_none_refers_to_is_an_error_for_who_reads_it(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mp4", "libx264", "b-pyramid=none:b-adapt=0")
    _damage(path, 17)
    with open_video(path) as reader:
        assert read_numbers(reader.get_frames([14, 16, 20])) == [14, 16, 20]
        with pytest.raises(VideoDecodeError, match=r"a\.mp4: is truncated or corrupt"):
            reader.get_frames([16, 17])
        with pytest.raises(VideoDecodeError, match=r"a\.mp4: is truncated or corrupt"):
            list(reader.iter_frames())


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_damage_that_runs_on_behind_the_last_frame_is_an_error(codec: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mp4", codec, "bframes=3")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    shown = sorted(packet.pts for packet in packets)
    last = next(n for n in range(20, 40) if packets[n + 1].pts < packets[n].pts)  # pictures shown before it follow
    frame = shown.index(packets[last].pts)
    with open_video(path) as reader:
        assert read_numbers(reader.get_frames([3, frame])) == [3, frame]
    with path.open("r+b") as file:
        file.seek(packets[last + 1].pos)
        file.write(b"\x5a" * 4)  # where the length of its first unit was
    with open_video(path) as reader, pytest.raises(VideoDecodeError, match=r"a\.mp4: is truncated or corrupt"):
        reader.get_frames([3, frame])


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    opened: list[object] = []
    open_container: Callable[..., Any] = pyav_reader.open_container

    def note(*arguments: Any, **options: Any) -> Any:
        opened.append(arguments)
        return open_container(*arguments, **options)

    monkeypatch.setattr(pyav_reader, "open_container", note)
    return opened


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_container_is_opened_once(suffix: str, openings: list[object], tmp_path: Path) -> None:
    with open_video(_write(tmp_path / f"a{suffix}", "libx264", "bframes=3")) as reader:
        for indices in ([0, 44], [20], [0], [3, 30, 31]):
            assert read_numbers(reader.get_frames(indices)) == indices
    assert len(openings) == 1


def test_a_stream_whose_packets_do_not_tell_is_opened_for_each_reading(openings: list[object], tmp_path: Path) -> None:
    source = _write(tmp_path / "a.mp4", "libx264", "bframes=3")
    with open_video(remux(source, tmp_path / "a.ts")) as reader:
        before = len(openings)
        assert read_numbers(reader.get_frames([0, 44])) == [0, 44]
        assert read_numbers(reader.get_frames([20])) == [20]
    assert len(openings) == before + 2


def test_two_readings_of_one_reader_do_not_disturb_each_other(openings: list[object], tmp_path: Path) -> None:
    with open_video(_write(tmp_path / "a.mp4", "libx264", "bframes=3")) as reader:
        first = reader.iter_frames([2, 10, 40])
        assert read_number(next(first)) == 2
        assert [read_number(frame) for frame in reader.iter_frames([5, 29])] == [5, 29]
        assert [read_number(frame) for frame in first] == [10, 40]
        assert len(openings) == 2
        assert read_numbers(reader.get_frames([1])) == [1]
    assert len(openings) == 2
