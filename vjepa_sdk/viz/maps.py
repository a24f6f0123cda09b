"""Hold numbers for every token of a video, and turn them into pictures of the same colours from first frame to last."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import ConfigError, InputError
from .films import PanelRow, film_frames, sheet, to_mp4, to_webp
from .page import Film, Page, Part, Picture, Table
from .pictures import write_picture
from .tokens import TokenVolume

_DIMMED = 0.25


class Scale(Protocol):
    """Turn values into colours; made once for a whole job, so that a value has one colour wherever it stands."""

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the colours of values `[h, w, C]`: float32 `[h, w, 3]` from 0 to 1."""


@dataclass(frozen=True)
class RGBScale:
    """Components as red, green and blue; fewer than three leave the others at one half."""

    low: np.ndarray | None = None
    """float32 `[C]`: what becomes 0; None: `sigmoid(2 x)`, for whitened values."""
    high: np.ndarray | None = None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the colours of values `[h, w, C]`: float32 `[h, w, 3]` from 0 to 1."""
        if self.low is None or self.high is None:
            scaled = 1.0 / (1.0 + np.exp(-2.0 * values))
        else:
            scaled = np.clip((values - self.low) / np.maximum(self.high - self.low, 1e-12), 0.0, 1.0)
        missing = [(0, 0)] * (values.ndim - 1) + [(0, 3 - values.shape[-1])]
        colours: np.ndarray = np.pad(scaled, missing, constant_values=0.5).astype(np.float32)
        return colours


@dataclass(frozen=True)
class HeatScale:
    """One value as a colour from dark to light (matplotlib's inferno)."""

    low: float
    high: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the colours of values `[h, w, 1]`: float32 `[h, w, 3]` from 0 to 1."""
        import matplotlib as mpl

        scaled = np.clip((values[..., 0] - self.low) / max(self.high - self.low, 1e-12), 0.0, 1.0)
        colours: np.ndarray = mpl.colormaps["inferno"](scaled)[..., :3].astype(np.float32)
        return colours


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureMaps:
    """Values of a video's tokens, and the frames they lie on."""

    values: np.ndarray
    """float32 `[T', H', W', C]`."""
    volume: TokenVolume
    scale: Scale
    caption: str
    """What is seen, in one line."""
    foreground: np.ndarray | None = None
    """bool `[T', H', W']`; what is not is dimmed. None: all is."""
    label: str = "features"
    """What a panel with these colours is called."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Model, layer and settings, as plain JSON data."""

    def __len__(self) -> int:
        return len(self.volume.frames)

    def __repr__(self) -> str:
        return f"FeatureMaps({list(self.values.shape)}, {len(self)} frames)"

    def colours(self) -> Iterator[np.ndarray]:
        """Yield for each frame the colours of what the model saw of it, uint8 `[h, w, 3]`.

        Values are made larger before they are coloured: bicubic in space, linear in time between the tubelets' middles.
        """
        size = self.crop_box()[1]
        for second in self.volume.frame_seconds:
            colours = self.scale(_enlarged(_at(self.values, self.volume.tubelet_seconds, second), size))
            if self.foreground is not None:
                mask = _at(self.foreground[..., None].astype(np.float32), self.volume.tubelet_seconds, second)
                colours = colours * (_DIMMED + (1 - _DIMMED) * _enlarged(mask, size).clip(0.0, 1.0))
            yield np.rint(255.0 * colours).astype(np.uint8)

    def overlay(self, alpha: float = 0.6) -> np.ndarray:
        """Return all frames with the colours over what the model saw of them, uint8 `[T, h, w, 3]`."""
        return np.stack(list(self.overlaid(alpha)))

    def overlaid(self, alpha: float = 0.6) -> Iterator[np.ndarray]:
        """Yield the frames of `overlay` one by one."""
        (top, left), (height, width) = self.crop_box()
        for frame, colours in zip(self.volume.frames, self.colours(), strict=True):
            mixed = frame.copy()
            part = mixed[top : top + height, left : left + width]
            part[:] = np.rint((1 - alpha) * part + alpha * colours.astype(np.float32))
            yield mixed

    def cropped(self, frame: np.ndarray) -> np.ndarray:
        """Return of a frame `[h, w, 3]` what the model saw."""
        (top, left), (height, width) = self.crop_box()
        return frame[top : top + height, left : left + width]

    def outlined(self, number: int) -> np.ndarray:
        """Return a frame `[h, w, 3]` with a line around what the model saw."""
        (top, left), (height, width) = self.crop_box()
        bottom, right = top + height - 1, left + width - 1
        marked: np.ndarray = self.volume.frames[number].copy()
        for offset, colour in ((0, 0), (1, 255)):
            a, b, c, d = top + offset, left + offset, bottom - offset, right - offset
            marked[[a, c], b : d + 1] = colour
            marked[a : c + 1, [b, d]] = colour
        return marked

    def save(
        self,
        path: str | Path,
        *,
        alpha: float = 0.6,
        overwrite: bool = False,
        command: Sequence[str] = (),
    ) -> Path:
        """Write a film (`.mp4`, `.gif`), a sheet of moments (`.png`), a page (`.html`) or the numbers (`.npz`).

        Args:
            path: where; the suffix says what.
            alpha: share of the colours where they lie over the video, from 0 to 1.
            overwrite: replace a file that is there.
            command: the command line that a page names.

        Raises:
            ConfigError: another suffix, or an `alpha` that is not a share.
            OutputError: the file is there, or its directory is not.
        """
        return save_maps([self], path, alpha=alpha, overwrite=overwrite, command=command)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a `.npz` holds beside the values: seconds, crop and meta."""
        return {
            "tubelet_seconds": self.volume.tubelet_seconds,
            "frame_seconds": self.volume.frame_seconds,
            "crop": np.array(self.volume.crop),
            "meta": np.array(json.dumps(dict(self.meta), sort_keys=True)),
        }

    def crop_box(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return top and left, height and width of what the model saw, in pixels of the shown frames."""
        height, width = self.volume.frames.shape[1:3]
        top, left, bottom, right = self.volume.crop
        corner = round(top * height), round(left * width)
        size = max(1, round(bottom * height) - corner[0]), max(1, round(right * width) - corner[1])
        return corner, (min(size[0], height - corner[0]), min(size[1], width - corner[1]))


def save_maps(
    maps: Sequence[FeatureMaps],
    path: str | Path,
    *,
    beside: Sequence[FeatureMaps] = (),
    alpha: float = 0.6,
    overwrite: bool = False,
    title: str = "What the features see",
    summary: str = "",
    notes: Sequence[str] = (),
    command: Sequence[str] = (),
) -> Path:
    """Write a film (`.mp4`, `.gif`), a sheet of moments (`.png`), a page (`.html`) or the numbers of one clip (`.npz`).

    Left stands the video, with a line around what the model sees of it; right that part under its colours.

    Args:
        maps: one or more clips of one job, one below the other.
        beside: of each clip another map, such as that of random weights, to stand at the right.
        alpha: share of the colours where they lie over the video, from 0 to 1.
        overwrite: replace a file that is there.
        title: of a page.
        summary: one sentence for a page; empty: the maps' caption.
        notes: what a page adds, in sentences.
        command: the command line that a page names.

    Raises:
        ConfigError: another suffix, or an alpha that is no share.
        InputError: numbers of more than one clip.
        OutputError: there is such a file already, or the directory does not exist.
        WriteError: the disk refuses.
    """
    path = Path(path)
    check_alpha(alpha)
    rows = [panel_row(each, beside[i] if beside else None, alpha) for i, each in enumerate(maps)]
    caption = maps[0].caption + (f" | {beside[0].label}: {beside[0].caption}" if beside else "")
    return write_picture(
        path,
        rows,
        caption=caption,
        fps=maps[0].volume.fps,
        page=lambda: _page(
            maps, rows, title=title, summary=summary or f"{caption}.", notes=notes, command=command, beside=beside
        ),
        numbers=lambda: _numbers(maps),
        overwrite=overwrite,
    )


def check_alpha(alpha: float) -> None:
    """Raise ConfigError unless it is a share."""
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha={alpha:g} must be from 0 to 1; pass 1 for the colours alone")


def panel_row(maps: FeatureMaps, beside: FeatureMaps | None, alpha: float) -> PanelRow:
    """Return the panels of one clip: the video, its colours, and those of another map."""

    def panels() -> Iterator[Sequence[np.ndarray]]:
        others = beside.overlaid(alpha) if beside is not None else iter(())
        for number, overlaid in enumerate(maps.overlaid(alpha)):
            panels = [maps.outlined(number), maps.cropped(overlaid)]
            yield panels if beside is None else [*panels, beside.cropped(next(others))]

    labels = ["video", maps.label, *([beside.label] if beside is not None else [])]
    return PanelRow(Path(maps.volume.name).name, maps.volume.frame_seconds, labels, panels)


def _page(
    maps: Sequence[FeatureMaps],
    rows: Sequence[PanelRow],
    *,
    title: str,
    summary: str,
    notes: Sequence[str],
    command: Sequence[str],
    beside: Sequence[FeatureMaps],
) -> Page:
    fps = maps[0].volume.fps
    parts: list[Part] = []
    for row in rows:
        name = row.name or "the video"
        parts += [
            Film(
                mp4=to_mp4(film_frames([row], caption=""), fps=fps),
                alt=f"Film of {name}: the video, and beside it what the model sees under its colours",
                title=name,
                note="Left the video, framed what the model sees of it; right that part under its colours.",
            ),
            Picture(
                image=to_webp(sheet([row], caption=""), quality=85),
                alt=f"Moments of {name} with their colours",
                title="The same at a glance",
                is_wide=True,
            ),
        ]
    parts.append(clip_table(maps, note=" ".join(notes)))
    meta = dict(maps[0].meta) | ({"beside": beside[0].caption} if beside else {})
    return Page(
        title=title,
        summary=summary,
        facts=map_facts(maps),
        parts=parts,
        settings=map_settings(meta),
        command=command,
    )


def clip_table(maps: Sequence[FeatureMaps], *, note: str) -> Table:
    """Return the table of a page that names the clips."""
    return Table(
        title="Clips" if len(maps) > 1 else "Clip",
        head=("clip", "frames", "seconds", "tokens"),
        rows=[
            (
                each.volume.name or "-",
                len(each),
                f"{len(each) / each.volume.fps:.2f}",
                int(np.prod(each.values.shape[:3])),
            )
            for each in maps
        ],
        note=note,
    )


def map_facts(maps: Sequence[FeatureMaps]) -> dict[str, str]:
    """Return what stands large in a page."""
    height, width = maps[0].values.shape[1:3]
    return ({"clips": f"{len(maps):,}"} if len(maps) > 1 else {}) | {
        "frames": f"{sum(map(len, maps)):,}",
        "grid of a frame": f"{height} × {width}",
        "frames a second": f"{maps[0].volume.fps:.3g}",
    }


def map_settings(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return meta as a page shows it."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in meta.items()}


def _numbers(maps: Sequence[FeatureMaps]) -> dict[str, np.ndarray]:
    """Return values, seconds and meta of one clip."""
    if len(maps) > 1:
        raise InputError(f"a .npz holds the numbers of one clip, not of {len(maps)}; pass one, or write a picture")
    return {"values": maps[0].values, **maps[0].arrays()}


def _at(values: np.ndarray, seconds: np.ndarray, second: float) -> np.ndarray:
    """Return values `[T', ...]` at a moment, linear between the two nearest."""
    place = float(np.interp(second, seconds, np.arange(len(seconds))))
    before = int(place)
    after = min(before + 1, len(values) - 1)
    mixed: np.ndarray = values[before] + (place - before) * (values[after] - values[before])
    return mixed


def _enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return values `[H', W', C]` as `[h, w, C]`."""
    image = torch.from_numpy(np.ascontiguousarray(values, np.float32)).permute(2, 0, 1)[None]
    larger = F.interpolate(image, size=size, mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
    return larger.numpy()
