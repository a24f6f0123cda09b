"""The official frozen evaluations as data: which clips, which probes, how they train, and what is published.

Sources: `evals/video_classification_frozen`, `evals/image_classification_frozen` and `configs` of the official V-JEPA 1
and V-JEPA 2 repositories; numbers of arXiv 2404.08471 (V-JEPA) and arXiv 2506.09985 (V-JEPA 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal

from ..errors import ConfigError
from .model import MAX_FRAMES
from .schema import check_range, check_types, unknown

SIMPLE = "simple"
"""Not an official protocol: one clip a video, as `encode` takes it."""

_V1, _V2 = "arXiv 2404.08471", "arXiv 2506.09985"


@dataclass(frozen=True, kw_only=True)
class ClipSet:
    """Which clips stand for a video: `segments` parts of it, one clip of each, every clip in `views` squares."""

    num_frames: int
    """Of a clip."""
    frame_step: int
    """From one frame of a clip to the next."""
    segments: int
    views: int
    """1: the centre crop; more: squares side by side along the long side."""
    is_image: bool = False
    """Of still images, which are repeated to a clip."""
    official_sampling: bool = False
    """Draw where a clip lies in its segment, as official tests do; else it lies in the middle."""
    seed: int = 0
    """Of that draw."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, high in (("num_frames", MAX_FRAMES), ("frame_step", 1000), ("segments", 100), ("views", 10)):
            check_range(name, getattr(self, name), 1, high)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which videos are cut at random, as training clips are, and how often."""

    ids: frozenset[str]
    """Of the clips of the job that are training clips; the others are cut as a `ClipSet` says."""
    passes: int
    """How often each is cut anew; one view of all its segments each time."""
    seed: int


@dataclass(frozen=True)
class GridPoint:
    """How one probe of a grid is trained."""

    learning_rate: float
    weight_decay: float
    warmup_epochs: float = 0.0
    start_rate: float | None = None
    """Of the warm-up."""
    final_decay: float | None = None
    """What the weight decay becomes; None: it stays, or with the steps of V-JEPA 1 becomes 1e-6."""


@dataclass(frozen=True, kw_only=True)
class ProbeProtocol:
    """One official evaluation."""

    name: str
    data: str
    num_classes: int
    clips: ClipSet
    resolution: int
    depth: int
    self_attention: Literal["before", "after"]
    """`after`: the optimizer's steps are those of V-JEPA 1 too."""
    num_heads: int | None
    """None: as the encoder has."""
    epochs: int
    batch_size: int
    grid: tuple[GridPoint, ...]
    layers: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Blocks that are read, by the depth of the encoder; empty: the output alone."""
    published: Mapping[str, float] = field(default_factory=dict)
    """Top-1 in percent, by the name of the model."""
    source: str = _V2

    def settings(self) -> str:
        """Return how the published numbers were made, in one line."""
        clips = self.clips
        what = f"image x {clips.num_frames}" if clips.is_image else f"{clips.segments} segments x {clips.views} views"
        frames = "" if clips.is_image else f" of {clips.num_frames} frames every {clips.frame_step}"
        return (
            f"{what}{frames} at {self.resolution} px, depth {self.depth}, {len(self.grid)} "
            f"{'probe' if len(self.grid) == 1 else 'probes'}, {self.epochs} epochs in batches of {self.batch_size}"
        )


_WIDE_GRID = tuple(
    GridPoint(rate, decay) for rate, decay in product((1e-4, 3e-4, 1e-3, 3e-3, 5e-3), (0.01, 0.1, 0.4, 0.8))
)
_NARROW_GRID = tuple(GridPoint(rate, 0.8) for rate in (1e-4, 3e-4, 1e-3))
_IMAGE_GRID = (
    *(
        GridPoint(rate, decay, warmup_epochs=5, start_rate=2e-4)
        for rate, decay in product((5e-4, 1e-3, 1.5e-3, 2e-3), (5e-4, 1e-3, 2e-3, 4e-3, 8e-3))
    ),
    GridPoint(1e-3, 1e-3, final_decay=0.0),
)
_FOUR_BLOCKS = {24: (17, 19, 21, 23), 40: (24, 29, 34, 39)}
_CLASSES = {"k400": 400, "ssv2": 174, "coin": 180, "diving48": 48, "jester": 27, "in1k": 1000}
_DATA = {
    "k400": "Kinetics-400",
    "ssv2": "Something-Something v2",
    "coin": "COIN",
    "diving48": "Diving48",
    "jester": "Jester",
    "in1k": "ImageNet-1k",
}


def _clips(num_frames: int, segments: int, views: int, step: int) -> ClipSet:
    return ClipSet(num_frames=num_frames, segments=segments, views=views, frame_step=step)


def _image(num_frames: int) -> ClipSet:
    return ClipSet(num_frames=num_frames, segments=1, views=1, frame_step=1, is_image=True)


def _vjepa1(data: str, clips: ClipSet, published: tuple[float, float, float]) -> ProbeProtocol:
    return ProbeProtocol(
        name=f"vjepa-{data}",
        data=_DATA[data],
        num_classes=_CLASSES[data],
        clips=clips,
        resolution=224,
        depth=1,
        self_attention="after",
        num_heads=None,
        epochs=20,
        batch_size=1024 if clips.is_image else 256,
        grid=(GridPoint(1e-3, 0.001 if clips.is_image else 0.01),),
        published=dict(zip(("vjepa-vitl16", "vjepa-vith16", "vjepa-vith16-384"), published, strict=True)),
        source=_V1,
    )


def _vjepa2(
    data: str,
    clips: ClipSet,
    published: Mapping[str, float],
    *,
    batch_size: int,
    epochs: int = 20,
    grid: tuple[GridPoint, ...] = _WIDE_GRID,
    layers: Mapping[int, tuple[int, ...]] | None = None,
) -> ProbeProtocol:
    names = {"L": "vjepa2-vitl16", "H": "vjepa2-vith16", "g": "vjepa2-vitg16", "V1": "vjepa-vith16"}
    return ProbeProtocol(
        name=f"vjepa2-{data}",
        data=_DATA[data],
        num_classes=_CLASSES[data],
        clips=clips,
        resolution=256,
        depth=4,
        self_attention="before",
        num_heads=16,
        epochs=epochs,
        batch_size=batch_size,
        grid=grid,
        layers=layers or {},
        published={names[key]: value for key, value in published.items()},
    )


def _larger(small: ProbeProtocol, top1: float, *, batch_size: int, clips: ClipSet | None = None) -> ProbeProtocol:
    """Return the protocol of the model at 384 pixels."""
    return replace(
        small,
        name=f"{small.name}-384",
        resolution=384,
        clips=clips or small.clips,
        batch_size=batch_size,
        published={"vjepa2-vitg16-384": top1},
    )


_K400 = _vjepa2(
    "k400", _clips(16, 8, 3, 4), {"V1": 84.5, "L": 85.1, "H": 85.3, "g": 86.6}, batch_size=256
)  # fmt: skip
_SSV2 = _vjepa2("ssv2", _clips(16, 2, 3, 4), {"V1": 74.3, "L": 73.7, "H": 74.0, "g": 75.3}, batch_size=256)
_COIN = _vjepa2("coin", _clips(16, 8, 3, 4), {"V1": 87.1, "L": 86.8, "H": 87.9, "g": 90.7}, batch_size=128)
_DIVING48 = _vjepa2(
    "diving48", _clips(32, 4, 3, 2), {"V1": 87.9, "L": 89.0, "H": 89.8, "g": 90.1}, batch_size=128, epochs=100,
    grid=_NARROW_GRID, layers=_FOUR_BLOCKS,
)  # fmt: skip
_JESTER = _vjepa2(
    "jester", _clips(32, 4, 3, 2), {"V1": 97.7, "L": 97.6, "H": 97.7, "g": 97.7}, batch_size=128, epochs=100,
    grid=_NARROW_GRID, layers=_FOUR_BLOCKS,
)  # fmt: skip
_IN1K = _vjepa2(
    "in1k", _image(16), {"V1": 80.0, "L": 83.5, "H": 83.8, "g": 84.6}, batch_size=1024, grid=_IMAGE_GRID
)  # fmt: skip

_ALL = (
    _vjepa1("k400", _clips(16, 8, 3, 4), (80.8, 82.0, 81.9)),
    _vjepa1("ssv2", _clips(16, 2, 3, 4), (69.5, 71.4, 72.2)),
    _vjepa1("in1k", _image(16), (74.8, 75.9, 77.4)),
    *(_K400, _SSV2, _COIN, _DIVING48, _JESTER, _IN1K),
    _larger(_K400, 87.3, batch_size=256),
    _larger(_SSV2, 77.3, batch_size=256, clips=_clips(64, 2, 3, 2)),
    _larger(_COIN, 91.1, batch_size=128),
    _larger(_DIVING48, 90.2, batch_size=128),
    _larger(_JESTER, 97.8, batch_size=128),
    _larger(_IN1K, 85.1, batch_size=1024, clips=_image(18)),
)
PROTOCOLS: Mapping[str, ProbeProtocol] = {protocol.name: protocol for protocol in _ALL}


def list_protocols() -> list[ProbeProtocol]:
    """Return the official evaluations known by name."""
    return list(_ALL)


def find_protocol(name: str) -> ProbeProtocol | None:
    """Return the official evaluation of that name, None for `simple`.

    Raises:
        ConfigError: there is none.
    """
    if name == SIMPLE:
        return None
    if name not in PROTOCOLS:
        raise ConfigError(unknown(f"protocol {name!r}", name, (SIMPLE, *PROTOCOLS)))
    return PROTOCOLS[name]
