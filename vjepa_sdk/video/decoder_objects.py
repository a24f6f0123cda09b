"""Decoders that torchcodec has opened, which are what `datasets.Video` makes of a row.

What they decode is torchcodec's: there is none of our checks for damage in it, and pixels that are not square stay so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import VideoDecodeError
from .in_memory import NAMELESS

_FRAMES_AT_A_TIME = 16


def is_decoder(video: object) -> bool:
    """Whether this is a `torchcodec.decoders.VideoDecoder`; torchcodec is not imported for it."""
    return any(
        base.__module__.partition(".")[0] == "torchcodec" and base.__name__ == "VideoDecoder"
        for base in type(video).__mro__
    )


def times_of(decoder: Any) -> np.ndarray:
    """Return when each frame appears, by the average rate, and when the last one goes: seconds, float64 `[N + 1]`."""
    about = decoder.metadata
    return float(about.begin_stream_seconds or 0.0) + np.arange(len(decoder) + 1) / float(about.average_fps or 1.0)


def iter_decoded(decoder: Any, indices: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the frames at ascending indices, uint8 `[H, W, 3]`.

    Raises:
        VideoDecodeError: torchcodec cannot decode one.
    """
    for first in range(0, len(indices), _FRAMES_AT_A_TIME):
        try:
            frames = decoder.get_frames_at(indices=indices[first : first + _FRAMES_AT_A_TIME].tolist()).data
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise VideoDecodeError(f"{NAMELESS}: cannot be decoded by torchcodec: {reason}") from error
        if frames.shape[-1] != 3:
            frames = frames.movedim(1, -1)  # its dimension_order is NCHW, unless it was asked for NHWC
        yield from frames.cpu().numpy()
