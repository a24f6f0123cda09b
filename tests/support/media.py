"""Write small videos for tests; every frame tells its own number."""

from __future__ import annotations

import os
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder otherwise prints its settings
_BITS = 12


def numbered_frame(number: int, *, width: int = 64, height: int = 48) -> np.ndarray:
    """Draw a frame, uint8 [H, W, 3], whose top half spells its number in black and white bars, lowest bit left."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    edges = np.linspace(0, width, _BITS + 1).astype(int)
    for bit in range(_BITS):
        frame[: height // 2, edges[bit] : edges[bit + 1]] = 255 * (number >> bit & 1)
    frame[height // 2 :, :, 0] = 40
    frame[height // 2 :, :, 1] = (7 * number) % 256
    return frame


def read_number(frame: np.ndarray) -> int:
    """Read the number back from an upright frame, however lossy its codec was."""
    height, width = frame.shape[:2]
    edges = np.linspace(0, width, _BITS + 1).astype(int)
    centres = (edges[:-1] + edges[1:]) // 2
    return sum(int(frame[height // 4, x].mean() > 127) << bit for bit, x in enumerate(centres))


def read_numbers(frames: np.ndarray) -> list[int]:
    """Read the numbers of frames, uint8 [K, H, W, 3]."""
    return [read_number(frame) for frame in frames]


def write_video(
    path: Path,
    *,
    num_frames: int = 20,
    width: int = 64,
    height: int = 48,
    codec: str = "libx264",
    fps: int = 10,
    key_frame_every: int = 10,
    num_b_frames: int = 0,
    pixel_format: str = "yuv420p",
    pts: Sequence[int] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode numbered frames; the suffix of the path chooses the container.

    Args:
        pts: presentation times of the frames in units of 1 / fps seconds; default 0, 1, 2, ...
        rotation: clockwise degrees a player has to turn the stored frames; they are stored so that they end upright.
        options: further encoder options.
    """
    times = range(num_frames) if pts is None else pts
    with av.open(str(path), "w") as container:
        steady = {"sc_threshold": "0"} if codec == "libx264" else {}  # no key frames but those asked for
        stream = container.add_stream(codec, rate=fps, options=steady | (options or {}))
        is_lying = rotation in (90, 270)
        stream.width, stream.height = (height, width) if is_lying else (width, height)
        stream.pix_fmt = pixel_format
        stream.gop_size, stream.max_b_frames = key_frame_every, num_b_frames
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(-rotation)
        for number, time in enumerate(times):
            image = np.rot90(numbered_frame(number, width=width, height=height), k=rotation // 90)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(source: Path, path: Path, *, first_packet: int = 0) -> Path:
    """Copy the packets of a video into another container, leaving the first ones out."""
    with av.open(str(source)) as given, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(given.streams.video[0]) if packet.size]
        for packet in packets[first_packet:]:
            packet.stream = stream
            written.mux(packet)
    return path


def write_cut_video(path: Path, *, shown_from: int, **video: int) -> Path:
    """Write an MP4 whose edit list hides the frames before `shown_from`, as a stream-copied cut has it."""
    write_video(path, codec="libx264", num_b_frames=0, **video)
    data = bytearray(path.read_bytes())
    # elst: size, 'elst', version and flags, count, then duration, media_time, rate of the one entry
    position = data.index(b"elst") + 4 + 8
    with av.open(str(path)) as container:
        ticks_per_frame = next(container.demux(video=0)).duration
    media_time = int.from_bytes(data[position + 4 : position + 8], "big") + shown_from * ticks_per_frame
    data[position + 4 : position + 8] = media_time.to_bytes(4, "big")
    path.write_bytes(data)
    return path


def write_audio(path: Path, *, seconds: float = 0.2) -> Path:
    """Write silence: .wav by the standard library, any other suffix as AAC in that container."""
    samples = np.zeros(int(seconds * 8000), dtype=np.int16)
    if path.suffix == ".wav":
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(samples.tobytes())
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
