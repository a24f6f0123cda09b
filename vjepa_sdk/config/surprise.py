"""How surprise is measured: which frames, windows, contexts and pixels; and published protocols by their names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigError
from .schema import check_range, check_types, unknown

SurpriseCrop = Literal["model", "square", "squash"]
"""`model`: the model's own resizing and centre crop; `square`: the largest centre square; `squash`: the whole frame,
its sides made equal. The last two are resized without antialiasing, as in the official code."""

SurpriseTargets = Literal["window", "past"]
"""`window`: targets are encoded together with their whole window, as in training; `past`: each tubelet's together with
what came before it only, so that nothing that comes later has any influence, off the distribution of training."""

SurpriseProtocol = Literal["intphys", "grasp", "inflevel"]

ContextReduction = Literal["min", "mean"]
"""What is kept of a window's contexts: the least error, which is the paper's `filtered`, or the mean."""

TimeReduction = Literal["mean", "max", "p95"]
"""What is kept of a video's windows: in the paper `mean` for pairs and `max` for single videos; `p95`: the 95th
percentile."""

CONTEXTS = (1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8)
"""Shares of a window that are shown: the first 2, 4, 6, 8, 10 of 16 frames, or 4, 8, 12, 16, 20 of 32."""

PROTOCOLS: dict[SurpriseProtocol, dict[str, Any]] = {
    "intphys": {"num_frames": 16, "frame_step": 2, "max_frames": 98, "crop": "square"},
    "grasp": {"num_frames": 16, "frame_step": 10, "max_frames": None, "crop": "square"},
    "inflevel": {"num_frames": 32, "frame_step": 5, "max_frames": None, "crop": "squash"},
}
"""Frames and pixels of the study of intuitive physics (arXiv 2502.11831, facebookresearch/jepa-intuitive-physics), by
data set. In all of them windows are a tubelet apart, and `CONTEXTS` are shown."""


@dataclass(frozen=True, kw_only=True)
class SurpriseSettings:
    """What decides the errors of a video, beside the model."""

    num_frames: int
    """Of a window."""
    fps: float | None = None
    """Frames a second that are looked at, or else `frame_step`."""
    frame_step: int | None = None
    """Every so many frames of the video is looked at, whatever their times."""
    max_frames: int | None = None
    """Frames of the video that `frame_step` walks over; None: all."""
    stride_tubelets: int = 1
    """From the start of one window to that of the next."""
    context_tubelets: tuple[int, ...]
    """Lengths of the contexts, ascending."""
    targets: SurpriseTargets = "window"
    crop: SurpriseCrop = "model"

    def __post_init__(self) -> None:
        check_types(self)
        check_range("stride_tubelets", self.stride_tubelets, 1, 4096)
        if (self.fps is None) == (self.frame_step is None):
            raise ConfigError(f"fps={self.fps} and frame_step={self.frame_step} exclude each other; pass one")
        if self.fps is not None:
            check_range("fps", self.fps, 0.001, 10_000)
        for name in ("frame_step", "max_frames"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1, 1_000_000_000)


def settle_surprise(
    *,
    protocol: SurpriseProtocol | None,
    num_frames: int | None,
    fps: float | None,
    frame_step: int | None,
    stride_tubelets: int,
    context: Sequence[float],
    targets: SurpriseTargets,
    crop: SurpriseCrop | None,
    default_num_frames: int,
    default_fps: float | None,
    tubelet_size: int,
) -> SurpriseSettings:
    """Return the settings of a model; what is given goes before the protocol, and that before the model's own.

    Args:
        default_num_frames: frames of the model's clips.
        default_fps: the rate the model was trained at, None where it is not stored.
        tubelet_size: frames of a token.

    Raises:
        ConfigError: an unknown protocol, a number out of range, or no frame rate.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        raise ConfigError(unknown(f"protocol {protocol!r}", str(protocol), PROTOCOLS))
    named = PROTOCOLS[protocol] if protocol is not None else {}
    if fps is None and frame_step is None:
        frame_step = named.get("frame_step")
        fps = default_fps if frame_step is None else None
        if fps is None and frame_step is None:
            raise ConfigError("this model does not say at which rate it was trained; pass fps=, for example 4")
    count = num_frames or named.get("num_frames", default_num_frames)
    if num_frames is not None and (type(num_frames) is not int or num_frames < 1):
        raise ConfigError(f"num_frames={num_frames!r} must be an integer of at least {2 * tubelet_size}")
    if count % tubelet_size or count < 2 * tubelet_size:
        below = max(count // tubelet_size, 2) * tubelet_size
        raise ConfigError(
            f"num_frames={count} must be a multiple of tubelet_size={tubelet_size}, at least {2 * tubelet_size}; "
            f"pass {below} or {below + tubelet_size}"
        )
    return SurpriseSettings(
        num_frames=count,
        fps=float(fps) if isinstance(fps, int) else fps,
        frame_step=frame_step,
        max_frames=named.get("max_frames") if fps is None else None,
        stride_tubelets=stride_tubelets,
        context_tubelets=_context_tubelets(context, count // tubelet_size),
        targets=targets,
        crop=named.get("crop", "model") if crop is None else crop,
    )


def _context_tubelets(shares: Sequence[float], tubelets: int) -> tuple[int, ...]:
    """Return the distinct `max(1, floor(share * tubelets + 1/2))`, ascending."""
    values = [shares] if isinstance(shares, int | float) else list(shares)
    if not values or not all(isinstance(value, int | float) and 0 < value < 1 for value in values):
        raise ConfigError(
            f"context={shares!r} must be shares of a window, between 0 and 1; pass for example (0.25, 0.5)"
        )
    lengths = sorted({max(1, math.floor(value * tubelets + 0.5)) for value in values})
    if lengths[-1] >= tubelets:
        raise ConfigError(
            f"context={shares!r} leaves nothing to predict of a window of {tubelets} tubelets; "
            f"pass shares below {(tubelets - 0.5) / tubelets:.2g}"
        )
    return tuple(lengths)
