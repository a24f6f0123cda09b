"""Show surprise along a video: where in the frame and when the predicted future was wrong, beside the film."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..config.choices import Decoder
from ..config.model import PreprocessConfig
from ..config.surprise import CONTEXTS, ContextReduction, SurpriseCrop, SurpriseProtocol, SurpriseTargets
from ..downstream.surprise_scores import SurpriseEvent, event_threshold, find_events, smooth_timeline
from ..inference.surprise import Surprise
from ..inference.timeline import Normalizer
from ..inference.vjepa import VJEPA
from ..video.inputs import open_frames
from ..video.sampling import frames_at
from .charts import FOR_FILMS, FOR_PAGES, Colours, chart, to_png, to_svg
from .films import PanelRow, film_frames, sheet, to_mp4, to_webp
from .maps import FeatureMaps, HeatScale, check_alpha, clip_table, map_facts, map_settings, panel_row
from .page import Film, Note, Page, Part, Picture, Table, Widget
from .pictures import write_picture
from .tokens import TokenVolume, check_frames, read_frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DARKEST, _LIGHTEST = 2.0, 99.5
"""Percentiles of a video's own surprise that are dark and light."""
_DPI = 100
_UNITS = {"relative": "times what is usual in it", "fitted": "standard deviations above normal footage"}


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SurpriseMaps(FeatureMaps):
    """How wrong the predictions of each token were; `values` of moments without a prediction are those nearest."""

    surprise: Surprise
    curve: np.ndarray
    """float32 `[J]`: the timeline, smoothed where that was asked for; NaN where nothing is predicted."""
    events: tuple[SurpriseEvent, ...]
    threshold: float
    """Above which a moment belongs to an event."""

    def overlaid(self, alpha: float = 0.6) -> Iterator[np.ndarray]:
        """Yield the frames under their colours; those without a prediction as they are."""
        is_known = self._frames_known()
        for number, frame in enumerate(super().overlaid(alpha)):
            yield frame if is_known[number] else self.volume.frames[number]

    def save(
        self, path: str | Path, *, alpha: float = 0.6, overwrite: bool = False, command: Sequence[str] = ()
    ) -> Path:
        """Write a film, a sheet, the numbers, or a page in which a cursor follows the film; see `FeatureMaps.save`."""
        check_alpha(alpha)
        path, maps_alone = Path(path), panel_row(self, None, alpha)
        is_film = path.suffix.lower() in (".mp4", ".gif")
        return write_picture(
            path,
            [self._beside_curve(maps_alone) if is_film else maps_alone],
            caption=self.caption,
            fps=self.volume.fps,
            page=lambda: self._page(maps_alone, command),
            numbers=lambda: {
                "surprise": self.surprise.timeline,
                "tokens": _tokens(self.surprise),
                "tubelet_start_seconds": self.surprise.tubelet_start_seconds,
                "tubelet_end_seconds": self.surprise.tubelet_end_seconds,
                **self.arrays(),
            },
            overwrite=overwrite,
            below=lambda width: _Curve.of(self, width=width, height=240).picture,
        )

    def _frames_known(self) -> np.ndarray:
        tubelet = len(self.volume.frames) // len(self.curve)
        known: np.ndarray = np.repeat(~np.isnan(self.surprise.timeline), tubelet)
        return known

    def _beside_curve(self, row: PanelRow) -> PanelRow:
        """Return the panels of a film: the video, its colours, and the curve with a line at the moment."""
        curve = _Curve.of(self, width=480, height=288)

        def panels() -> Iterator[Sequence[np.ndarray]]:
            for second, found in zip(self.volume.frame_seconds, row.panels(), strict=True):
                yield [*found, curve.at(float(second))]

        return PanelRow(row.name, row.seconds, [*row.labels, ""], panels)

    def _page(self, row: PanelRow, command: Sequence[str]) -> Page:
        seconds, peak = self.surprise.peak
        unit = _UNITS[self.surprise.timeline_kind]
        parts: list[Part] = [
            Film(
                mp4=to_mp4(film_frames([row], caption=""), fps=self.volume.fps),
                alt="Film of the video, and beside it what the model sees with its surprise as colours",
                title=row.name or "the video",
                note=f"Light is what was predicted worst, {self.meta['colours']} {unit}. Before the first prediction "
                "there are no colours.",
            ),
            self._widget(),
            *self._events(),
            Picture(
                image=to_webp(sheet([row], caption=""), quality=85),
                alt="Moments of the video with their surprise",
                title="The same at a glance",
                is_wide=True,
            ),
            clip_table([self], note=_NOTE),
        ]
        floor = {} if self.surprise.floor is None else {"if nothing changed": f"{self.surprise.floor_score():.4f}"}
        return Page(
            title="Surprise",
            summary=f"Most surprising is the moment at {seconds:.2f} s: {peak:.2f} {unit}.",
            facts={"mean error": f"{self.surprise.score():.4f}"}
            | floor
            | {"events": str(len(self.events))}
            | map_facts([self]),
            parts=parts,
            settings=map_settings(self.meta),
            command=command,
        )

    def _widget(self) -> Widget:
        with chart(FOR_PAGES, width=9.0, height=3.0) as (figure, axes):
            _draw(axes, FOR_PAGES, self)
            svg = to_svg(figure, name="surprise")
            box = _box(axes)
        values = [None if np.isnan(value) else round(float(value), 4) for value in self.curve]
        return Widget(
            name="surprise",
            data={
                "box": [round(side, 5) for side in box],
                "fps": self.volume.fps,
                "frames": self.volume.frame_seconds.round(4).tolist(),
                "edges": _edges(self.surprise).round(4).tolist(),
                "values": values,
                "unit": _UNITS[self.surprise.timeline_kind],
            },
            fallback=Picture(svg=svg, alt=f"{self.caption}: the curve over {_edges(self.surprise)[-1]:.1f} seconds"),
            title="When",
            note=f"Above the dotted line, {self.threshold:.2f}, a moment is marked as an event.",
        )

    def _events(self) -> list[Part]:
        if not self.events:
            return [Note(text="No moment is above the threshold.")]
        rows = [
            tuple(f"{value:.2f}" for value in (each.start_seconds, each.end_seconds, each.peak_seconds, each.peak))
            for each in self.events
        ]
        return [Table(title="Events", head=("from", "to", "peak at", "peak"), rows=rows)]


def surprise_maps(
    model: VJEPA,
    video: object,
    *,
    protocol: SurpriseProtocol | None = None,
    num_frames: int | None = None,
    fps: float | None = None,
    frame_step: int | None = None,
    stride_tubelets: int = 1,
    context: Sequence[float] = CONTEXTS,
    reduce: ContextReduction | int = "min",
    horizon: int | None = None,
    targets: SurpriseTargets = "window",
    crop: SurpriseCrop | None = None,
    floor: bool = False,
    normalizer: Normalizer | None = None,
    threshold: float | None = None,
    half_life_seconds: float = 0.0,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    source_fps: float | None = None,
    batch_size: int = 8,
    decoder: Decoder = "pyav",
    show_progress_bar: bool | None = None,
) -> SurpriseMaps:
    """Measure the surprise of a video and keep what it takes to look at it.

    Args:
        video: this and all that is not listed here as for `VJEPA.surprise`.
        threshold: of events; None: see `find_events`.
        half_life_seconds: of the curve and the events, see `smooth_timeline`.

    Raises:
        ConfigError: an option that is not valid, no frame rate, or a model of images.
        WeightsError: no predictor, or one that was distilled from another model.
        InputError: not one video, shorter than a window, or too long to be shown.
        VideoDecodeError: a file that cannot be decoded.
        ResumeError: `normalizer` was fitted with another model or other settings.
    """
    meter = model.surprise_meter(
        protocol=protocol,
        num_frames=num_frames,
        fps=fps,
        frame_step=frame_step,
        stride_tubelets=stride_tubelets,
        context=context,
        targets=targets,
        crop=crop,
        floor=floor,
        source_fps=source_fps,
        batch_size=batch_size,
        decoder=decoder,
    )
    with meter.walk.open(video, start_seconds=start_seconds, end_seconds=end_seconds) as walk:
        check_frames(len(walk.seconds) - 1, walk.name)
        found = meter.measure_walk(
            walk,
            normalizer=normalizer,
            reduce=reduce,
            horizon=horizon,
            keep_tokens=True,
            show_progress_bar=show_progress_bar,
        )
    curve = smooth_timeline(found, half_life_seconds=half_life_seconds)
    if threshold is None:
        threshold = event_threshold(found, half_life_seconds=half_life_seconds)
    values = _tokens(found)[_nearest_known(found.timeline)]
    low, high = (float(value) for value in np.percentile(values, [_DARKEST, _LIGHTEST]))
    with open_frames(video, source_fps=source_fps, decoder=decoder) as source:
        volume = _volume(source, found, model.preprocess, meter.settings.crop, show_progress_bar)
    name = os.fspath(video) if isinstance(video, str | os.PathLike) else ""
    meta = {
        "model": model.name or "",
        "colours": f"{low:.3f} to {high:.3f}",
        "threshold": round(threshold, 4),
        "half_life_seconds": half_life_seconds,
        "horizon": horizon,
        "timeline": found.timeline_kind,
        **found.meta["settings"],
    }
    return SurpriseMaps(
        values=values[..., None],
        volume=replace(volume, name=name),
        scale=HeatScale(low, high),
        caption=f"{Path(model.name or 'untrained').name}, surprise, {_UNITS[found.timeline_kind]}",
        label="surprise",
        meta=meta,
        surprise=found,
        curve=curve,
        events=tuple(find_events(found, threshold=threshold, half_life_seconds=half_life_seconds)),
        threshold=threshold,
    )


@dataclass(frozen=True)
class _Curve:
    """The curve as a picture for films, and where its axes lie in it."""

    picture: np.ndarray
    """uint8 `[h, w, 3]`."""
    box: tuple[float, float, float, float]
    first: float
    last: float

    @classmethod
    def of(cls, maps: SurpriseMaps, *, width: int, height: int) -> _Curve:
        edges = _edges(maps.surprise)
        with chart(FOR_FILMS, width=width / _DPI, height=height / _DPI) as (figure, axes):
            _draw(axes, FOR_FILMS, maps)
            picture = _pixels(figure)
            box = _box(axes)
        return cls(picture[:height, :width], box, float(edges[0]), float(edges[-1]))

    def at(self, second: float) -> np.ndarray:
        """Return the picture with a line at a moment."""
        (left, right, top, bottom), (height, width) = self.box, self.picture.shape[:2]
        share = (second - self.first) / (self.last - self.first)
        place = min(width - 2, round((left + share * (right - left)) * width))
        marked = self.picture.copy()
        marked[round(top * height) : round(bottom * height), place : place + 2] = 255
        return marked


def _draw(axes: Axes, colours: Colours, maps: SurpriseMaps) -> None:
    """Draw the curve with its threshold and events."""
    edges, of = _edges(maps.surprise), colours.of
    for event in maps.events:
        axes.axvspan(event.start_seconds, event.end_seconds, color=of["s2"], alpha=0.18, linewidth=0)
    axes.axhline(maps.threshold, color=of["s2"], linewidth=1.2, linestyle=":")
    axes.stairs(maps.curve, edges, baseline=None, color=of["s1"], linewidth=1.8)
    highest = max(maps.threshold, float(np.nanmax(maps.curve)))
    lowest = float(np.nanmin(maps.curve))
    space = 0.08 * max(highest - lowest, 1e-6)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(lowest - space, highest + space), xlabel="seconds")
    unit = "surprise (1: as usual)" if maps.surprise.timeline_kind == "relative" else "surprise (standard deviations)"
    axes.set_ylabel(unit)


def _box(axes: Axes) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom of drawn axes, from 0 to 1 of the figure's width and height, from its top."""
    place = axes.get_position()
    return float(place.x0), float(place.x1), float(1 - place.y1), float(1 - place.y0)


def _pixels(figure: Figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(to_png(figure, dpi=_DPI))).convert("RGB"))


def _edges(found: Surprise) -> np.ndarray:
    """Return where tubelets begin, and where the last one ends, float64 `[J + 1]`."""
    return np.append(found.tubelet_start_seconds, found.tubelet_end_seconds[-1])


def _tokens(found: Surprise) -> np.ndarray:
    assert found.tokens is not None  # they were asked for
    return found.tokens


def _nearest_known(timeline: np.ndarray) -> np.ndarray:
    """Return for each moment the nearest that has a value, itself if it has one."""
    known = np.flatnonzero(~np.isnan(timeline))
    nearest: np.ndarray = known[np.abs(np.arange(len(timeline))[:, None] - known).argmin(axis=1)]
    return nearest


def _volume(
    source: Any, found: Surprise, preprocess: PreprocessConfig, how: SurpriseCrop, show: bool | None
) -> TokenVolume:
    """Read the frames that were looked at as they are shown."""
    seconds = found.frame_seconds[:-1]
    frames, _, crop = read_frames(source, frames_at(source.timestamps, seconds), preprocess, show)
    height, width = frames.shape[1:3]
    if how == "squash":
        crop = (0.0, 0.0, 1.0, 1.0)
    elif how == "square":
        top, left = (0.5 - min(height, width) / side / 2 for side in (height, width))
        crop = (top, left, 1 - top, 1 - left)
    return TokenVolume(
        tokens=np.empty((0, 0, 0, 0), np.float32),
        frames=frames,
        crop=crop,
        frame_seconds=seconds,
        tubelet_seconds=(found.tubelet_start_seconds + found.tubelet_end_seconds) / 2,
        fps=len(seconds) / float(found.frame_seconds[-1] - seconds[0]),
        name="",
    )


_NOTE = (
    "Surprise is how far predicted features are from those of the film. It is high where a scene is hard to predict, "
    "for whatever reason: compare matched videos, or a scene with its own normal footage."
)
