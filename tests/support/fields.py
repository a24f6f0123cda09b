"""Write field-coded H.264, which no encoder at hand makes: each field is a picture of uncompressed macroblocks."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from media import numbered_frame

WIDTH, HEIGHT = 64, 32
FIELDS_PER_SECOND = 50
_START = b"\0\0\0\1"


class _Writer:
    def __init__(self) -> None:
        self._bits = ""

    def fixed(self, value: int, count: int) -> _Writer:
        self._bits += format(value, f"0{count}b") if count else ""
        return self

    def golomb(self, *values: int) -> _Writer:
        for value in values:
            code = format(value + 1, "b")
            self._bits += "0" * (len(code) - 1) + code
        return self

    def samples(self, values: np.ndarray) -> _Writer:
        self._bits += "0" * (-len(self._bits) % 8)
        self._bits += "".join(format(value, "08b") for value in values.ravel().tolist())
        return self

    def unit(self, header: int) -> bytes:
        bits = self._bits + "1"
        bits += "0" * (-len(bits) % 8)
        return _START + bytes([header]) + int(bits, 2).to_bytes(len(bits) // 8, "big")


def _parameter_sets() -> bytes:
    sequence = _Writer().fixed(77, 8).fixed(0, 8).fixed(30, 8).golomb(0, 0, 2, 1).fixed(0, 1)
    sequence.golomb(WIDTH // 16 - 1, HEIGHT // 32 - 1)
    sequence.fixed(0b0010, 4)  # fields are allowed, not adaptively; direct 8x8 inference; no cropping
    sequence.fixed(0, 1)  # no usability information
    picture = _Writer().golomb(0, 0).fixed(0, 2).golomb(0, 0, 0).fixed(0, 3).golomb(0, 0, 0).fixed(0, 3)
    return sequence.unit(0x67) + picture.unit(0x68)


def _field(luma: np.ndarray, *, number: int, is_bottom: bool) -> bytes:
    """Code one field, uint8 [HEIGHT / 2, WIDTH]: the upper one of each picture as an entry point, the lower one not."""
    slice_ = _Writer().golomb(0, 7, 0).fixed(0, 4).fixed(1, 1).fixed(is_bottom, 1)
    if not is_bottom:
        slice_.golomb(number % 2)  # pictures that follow each other have different numbers
    slice_.fixed(0, 1 if is_bottom else 2).golomb(0)
    for left in range(0, WIDTH, 16):
        slice_.golomb(25).samples(luma[:, left : left + 16]).samples(np.full(128, 128, np.uint8))
    return slice_.unit(0x61 if is_bottom else 0x65)


def write_fields(path: Path, *, num_frames: int = 8) -> Path:
    """Write numbered frames, each as two fields in two packets; the suffix of the path chooses the container."""
    coded = []
    for number in range(num_frames):
        luma = 16 + numbered_frame(number, width=WIDTH, height=HEIGHT)[:, :, 0] // 255 * 219
        coded += [_field(luma[row::2], number=number, is_bottom=bool(row)) for row in (0, 1)]
    raw = io.BytesIO(_parameter_sets() + b"".join(coded))
    with av.open(raw, format="h264") as given, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(given.streams.video[0])
        for number, data in enumerate(coded):
            packet = av.Packet((_parameter_sets() if number % 2 == 0 else b"") + data)
            packet.stream, packet.time_base = stream, Fraction(1, FIELDS_PER_SECOND)
            packet.pts = packet.dts = number
            packet.duration, packet.is_keyframe = 1, number % 2 == 0
            written.mux(packet)
    return path
