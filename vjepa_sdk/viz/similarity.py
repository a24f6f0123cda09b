"""Show which tokens of a video are like the one at a point."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image, ImageDraw

from ..config.choices import Decoder, Metric
from ..downstream.nearest import unit
from ..errors import ConfigError, InputError
from ..inference.vjepa import VJEPA
from .films import sheet, to_webp
from .maps import FeatureMaps, HeatScale, check_alpha, clip_table, map_facts, map_settings, panel_row
from .page import MAX_PAGE_BYTES, Page, Picture, Widget, data_url
from .pictures import write_picture
from .tokens import TokenVolume, encode_volume, layer_name

KEPT_COMPONENTS = 64
"""Numbers that a page keeps of each token."""

_LOWEST, _HIGHEST = 0.02, 0.995
"""Quantiles of the similarities that are dark and light."""
_PAGE_SIDE = 240
_PAGE_BYTES = MAX_PAGE_BYTES * 3 // 4  # base64 takes four characters for three bytes
_TRIED_POINTS = 32


@dataclass(frozen=True)
class Point:
    """A place in a video, and the token that covers it."""

    seconds: float
    x: float
    """From 0 at the left of the frame to 1 at its right."""
    y: float
    """From 0 at the top of the frame to 1 at its bottom."""
    token: tuple[int, int, int]
    """Along time, height and width."""

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s, x {self.x:.2f}, y {self.y:.2f}"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SimilarityMaps(FeatureMaps):
    """Similarity of all tokens of a video with one of them, from -1 to 1."""

    point: Point
    metric: Metric

    def directions(self) -> np.ndarray:
        """Return all tokens as vectors of length 1 whose products are the similarities, float32 `[N, D]`."""
        return _directions(self.volume.tokens, self.metric)

    def outlined(self, number: int) -> np.ndarray:
        """Return a frame with a square around the point's token: a bold one while it lasts, a thin one elsewhere."""
        frame = super().outlined(number)
        moment, row, column = self.point.token
        rows, columns = self.values.shape[1:3]
        (top, left), (height, width) = self.crop_box()
        box = np.rint(
            [
                left + column / columns * width,
                top + row / rows * height,
                left + (column + 1) / columns * width - 1,
                top + (row + 1) / rows * height - 1,
            ]
        ).tolist()
        now = int(np.abs(self.volume.tubelet_seconds - self.volume.frame_seconds[number]).argmin())
        image = Image.fromarray(frame)
        draw = ImageDraw.Draw(image)
        if now == moment:
            draw.rectangle((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), outline="black", width=5)
        draw.rectangle(box, outline="white", width=2 if now == moment else 1)
        return np.asarray(image)

    def save(
        self,
        path: str | Path,
        *,
        alpha: float = 0.6,
        overwrite: bool = False,
        command: Sequence[str] = (),
    ) -> Path:
        """Write a film, a sheet, the numbers, or a page in which a click moves the point; see `FeatureMaps.save`."""
        check_alpha(alpha)
        row = panel_row(self, None, alpha)
        return write_picture(
            Path(path),
            [row],
            caption=self.caption,
            fps=self.volume.fps,
            page=lambda: _page(self, to_webp(sheet([row], caption=""), quality=85), command),
            numbers=lambda: {"similarity": self.values[..., 0], **self.arrays()},
            overwrite=overwrite,
        )


def similarity_map(
    model: VJEPA,
    video: object,
    *,
    at: tuple[float, float, float],
    metric: Metric = "cosine",
    layer: int | None = None,
    fps: float | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    source_fps: float | None = None,
    batch_size: int = 8,
    decoder: Decoder = "pyav",
    show_progress_bar: bool | None = None,
) -> SimilarityMaps:
    """Compare all tokens of a video with the one at a point.

    Args:
        video: as for `VJEPA.extract`; for the options not listed here see `feature_pca`.
        at: seconds, x and y; the latter from 0 to 1 of the whole frame, from its left and top.
        metric: `cosine`, or `centered`, without the mean of the video's tokens, which is a large part of each of them.
        layer: number of a block, from 0; None: the model's output.

    Raises:
        ConfigError: an option that is not valid.
        InputError: not a video, or a point that the model does not see.
        VideoDecodeError: a file that cannot be decoded.
    """
    if metric not in get_args(Metric):
        raise ConfigError(f"metric={metric!r} must be one of {', '.join(get_args(Metric))}")
    volume = encode_volume(
        model,
        video,
        layer=layer,
        fps=fps,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        source_fps=source_fps,
        batch_size=batch_size,
        decoder=decoder,
        show_progress_bar=show_progress_bar,
    )
    point = _locate(volume, at)
    directions = _directions(volume.tokens, metric)
    grid = volume.tokens.shape[:3]
    values = (directions @ directions[np.ravel_multi_index(point.token, grid)]).reshape(*grid, 1)
    low, high = _range(values)
    meta = {
        "model": model.name or "",
        "layer": layer_name(model, layer),
        "metric": metric,
        "at": [round(at[0], 3), round(at[1], 4), round(at[2], 4)],
        "colours": f"{low:.3f} to {high:.3f}",
        "fps": round(volume.fps, 3),
    }
    return SimilarityMaps(
        values=values,
        volume=volume,
        scale=HeatScale(low, high),
        caption=f"{Path(model.name or 'untrained').name}, {meta['layer']}, {metric} similarity with {point}",
        label="similarity",
        meta=meta,
        point=point,
        metric=metric,
    )


def _directions(tokens: np.ndarray, metric: Metric) -> np.ndarray:
    rows = tokens.reshape(-1, tokens.shape[-1])
    if metric == "centered":
        rows = rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    return unit(rows, name="token")


def _locate(volume: TokenVolume, at: tuple[float, float, float]) -> Point:
    """Find the token at a point."""
    seconds, x, y = at
    first, last = float(volume.frame_seconds[0]), float(volume.frame_seconds[-1]) + 1 / volume.fps
    slack = 1e-6  # of sums of floats
    if not first - slack <= seconds <= last + slack:
        raise InputError(f"at: {seconds:g} s must lie in what is encoded, from {first:g} to {last:g} s")
    top, left, bottom, right = volume.crop
    for name, value, low, high in (("x", x, left, right), ("y", y, top, bottom)):
        if not low - slack <= value <= high + slack:
            raise InputError(
                f"at: {name}={value:g} must lie in what the model sees, from {low:.3f} to {high:.3f} of the frame"
            )
    _, rows, columns = volume.tokens.shape[:3]
    row = min(rows - 1, int((y - top) / (bottom - top) * rows))
    column = min(columns - 1, int((x - left) / (right - left) * columns))
    moment = int(np.abs(volume.tubelet_seconds - seconds).argmin())
    return Point(seconds, x, y, (moment, row, column))


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return what is dark and what is light; the page's script finds the same."""
    ordered = np.sort(values, axis=None)
    low, high = (float(ordered[int(share * (len(ordered) - 1))]) for share in (_LOWEST, _HIGHEST))
    return low, high


@dataclass(frozen=True, eq=False)
class _Compressed:
    """What a page keeps of directions."""

    numbers: np.ndarray
    """float16 `[N, C]`."""
    worst: float
    """Largest error of a similarity, at the points that were tried."""
    mean: float


def _compress(directions: np.ndarray) -> _Compressed:
    """Keep the principal components of directions: products of what is kept are nearly the similarities."""
    second_moment = directions.T.astype(np.float64) @ directions.astype(np.float64)
    _, vectors = np.linalg.eigh(second_moment)
    kept = (directions @ vectors[:, ::-1][:, :KEPT_COMPONENTS].astype(np.float32)).astype(np.float16)
    tried = np.unique(np.linspace(0, len(directions) - 1, _TRIED_POINTS).astype(int))
    exact = directions[tried] @ directions.T
    errors = np.abs(kept[tried].astype(np.float32) @ kept.T.astype(np.float32) - exact)
    return _Compressed(kept, float(errors.max()), float(errors.mean()))


def _page(maps: SimilarityMaps, still: bytes, command: Sequence[str]) -> Page:
    compressed = _compress(maps.directions())
    step, pictures = _fitting(maps, compressed)
    grid, chosen = maps.values.shape[:3], _every(maps, step)
    numbers = compressed.numbers.reshape(*grid, -1)[chosen]
    seconds = maps.volume.tubelet_seconds[chosen]
    notes = [
        f"The page keeps {numbers.shape[-1]} numbers of each token. At {_TRIED_POINTS} points that were tried, its "
        f"similarities differ from the exact ones by at most {compressed.worst:.4f}, {compressed.mean:.4f} on average."
    ]
    if step > 1:
        notes.append(f"It keeps {len(numbers):,} of {grid[0]:,} moments, to stay below 15 MB.")
    widget = Widget(
        name="similarity",
        data={
            "numbers": base64.b64encode(numbers.astype("<f2").tobytes()).decode(),
            "grid": list(numbers.shape),
            "seconds": [round(float(second), 4) for second in seconds],
            "frames": [data_url(picture, "image/webp") for picture in pictures],
            "size": [maps.volume.frames.shape[2], maps.volume.frames.shape[1]],
            "crop": [round(side, 5) for side in maps.volume.crop],
            "palette": _palette(),
            "quantiles": [_LOWEST, _HIGHEST],
            "point": [maps.point.token[0] // step, maps.point.x, maps.point.y],
        },
        fallback=Picture(image=still, alt=f"Moments of the video, and what is like {maps.point}", is_wide=True),
        note=" ".join(notes),
    )
    return Page(
        title="What is like this point",
        summary=f"Light is what the encoder takes for like the point at {maps.point}.",
        facts=map_facts([maps]) | {"similarity": maps.metric},
        parts=[widget, clip_table([maps], note=NOTE)],
        settings=map_settings(maps.meta),
        command=command,
    )


def _fitting(maps: SimilarityMaps, compressed: _Compressed) -> tuple[int, list[bytes]]:
    """Return which moments a page keeps so that it does not become too large, every n-th, and their frames."""
    volume, count = maps.volume, len(maps.volume.tubelet_seconds)
    middles = np.abs(volume.frame_seconds[None] - volume.tubelet_seconds[:, None]).argmin(axis=1)
    sample = len(_small(volume.frames[middles[count // 2]]))
    size = count * sample + compressed.numbers.nbytes
    step = max(1, -(-size // (_PAGE_BYTES * 9 // 10)))
    return step, [_small(volume.frames[middle]) for middle in middles[_every(maps, step)]]


def _every(maps: SimilarityMaps, step: int) -> slice:
    """Return every n-th moment, that of the point among them."""
    return slice(maps.point.token[0] % step, None, step)


def _small(frame: np.ndarray) -> bytes:
    image = Image.fromarray(frame)
    scale = _PAGE_SIDE / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    return to_webp(np.asarray(image.resize(size, Image.Resampling.LANCZOS)), quality=72)


def _palette() -> str:
    """Return 256 colours from dark to light, six hexadecimal digits each."""
    steps = np.linspace(0.0, 1.0, 256, dtype=np.float32)[None, :, None]
    colours: np.ndarray = np.rint(255.0 * HeatScale(0.0, 1.0)(steps)[0]).astype(np.uint8)
    return colours.tobytes().hex()


NOTE = (
    "Compared are features, not pixels: what is light has a like feature, for whatever reason, and part of every "
    "feature tells of its place."
)
