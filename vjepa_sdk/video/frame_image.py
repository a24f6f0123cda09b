"""Turn a decoded frame into the picture that is shown."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


def orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Read a display matrix as (transpose, flip vertically, flip horizontally), to the nearest quarter turn."""
    from av.sidedata.sidedata import Type

    side_data: Any = frame.side_data  # PyAV's stubs describe it wrongly
    if Type.DISPLAYMATRIX not in side_data:
        return False, False, False
    matrix = bytes(side_data[Type.DISPLAYMATRIX])
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])  # x' = a x + c y, y' = b x + d y
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0
