"""Put panels together into films and sheets, and encode them: equal input gives equal bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import islice

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .page import plain_text, shortened

_GAP, _TITLE_HEIGHT, _NAME_HEIGHT = 8, 36, 28
_GROUND, _INK, _SOFT = (18, 21, 26), (236, 239, 243), (160, 171, 184)
_SHEET_SIDE, _MOMENTS = 176, 6
_PALETTE_FRAMES = 8


@dataclass(frozen=True)
class PanelRow:
    """Panels of one clip that move together."""

    name: str
    seconds: np.ndarray
    """float64 `[T]`: when each frame is shown."""
    labels: Sequence[str]
    """What each panel is."""
    panels: Callable[[], Iterator[Sequence[np.ndarray]]]
    """Begin anew, and yield for each frame its panels, uint8 `[h, w, 3]`."""

    def __len__(self) -> int:
        return len(self.seconds)


def film_frames(rows: Sequence[PanelRow], *, caption: str) -> Iterator[np.ndarray]:
    """Yield the frames of a film, uint8 `[H, W, 3]`: one row a clip, under a strip with the caption if there is one.

    Shorter clips stay at their last frame.
    """
    moving = [row.panels() for row in rows]
    shown: list[np.ndarray] = [np.empty(0)] * len(rows)
    for number in range(max(map(len, rows))):
        for place, (row, panels) in enumerate(zip(rows, moving, strict=True)):
            if number < len(row):
                line = _side_by_side(_labelled(next(panels), row.labels))
                shown[place] = np.concatenate([_strip(line.shape[1], row.name, f"{row.seconds[number]:.2f} s"), line])
        width = max(line.shape[1] for line in shown)
        yield _even(_stacked([*_title(width, caption), *shown], width=width))


def sheet(rows: Sequence[PanelRow], *, caption: str, moments: int = _MOMENTS) -> np.ndarray:
    """Return a sheet of moments, uint8 `[H, W, 3]`: a column a moment, and under each other the panels of each clip."""
    lines: list[np.ndarray] = []
    for row in rows:
        count = min(moments, len(row))
        chosen = np.unique(np.rint(np.linspace(0, len(row) - 1, count)).astype(int))
        taken = [panels for number, panels in enumerate(row.panels()) if number in set(chosen.tolist())]
        columns: list[np.ndarray] = []
        for number, panels in zip(chosen, taken, strict=True):
            small = [_of_width(panel, _SHEET_SIDE) for panel in panels]
            column = _stacked(small if columns else _labelled(small, row.labels), gap=4)
            columns.append(np.concatenate([_strip(column.shape[1], "", f"{row.seconds[number]:.2f} s"), column]))
        line = _side_by_side(columns)
        lines += [_strip(line.shape[1], row.name, ""), line]
    width = max(line.shape[1] for line in lines)
    return _stacked([*_title(width, caption), *lines], width=width)


def to_mp4(frames: Iterable[np.ndarray], *, fps: float) -> bytes:
    """Encode frames as H.264 that every browser and player shows (yuv420p, by one thread)."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        # how threads share the work would show in the bytes, and so would the memory that x264's macroblock tree reads
        # beyond its rows where these are not a multiple of eight blocks
        options = {"crf": "21", "preset": "veryfast", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(frames):
            if not number:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = number, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return file.getvalue()


def to_gif(frames: Callable[[], Iterable[np.ndarray]], *, count: int, fps: float) -> bytes:
    """Encode frames as an endless GIF with one palette for all of them, so that no colour flickers.

    Args:
        frames: begins anew at each call.
        count: how many there are.
    """
    chosen = set(np.rint(np.linspace(0, count - 1, min(_PALETTE_FRAMES, count))).astype(int).tolist())
    sample = np.concatenate([frame for number, frame in enumerate(frames()) if number in chosen])
    palette = Image.fromarray(sample).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    images = (Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames())
    file = io.BytesIO()
    first = next(islice(images, 1))
    # a GIF counts hundredths of a second
    pause = max(20, round(100 / fps) * 10)
    first.save(file, "GIF", save_all=True, append_images=images, duration=pause, loop=0, optimize=False)
    return file.getvalue()


def to_png(picture: np.ndarray) -> bytes:
    """Encode one picture, uint8 `[H, W, 3]`."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return file.getvalue()


def to_webp(picture: np.ndarray, *, quality: int = 75) -> bytes:
    """Encode one picture, uint8 `[H, W, 3]`, small rather than exact."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()


def _title(width: int, caption: str) -> list[np.ndarray]:
    if not caption:
        return []
    strip = np.full((_TITLE_HEIGHT, width, 3), _GROUND, np.uint8)
    text = plain_text(caption)
    while len(text) > 8 and _font().getlength(text) > width - 2 * _GAP:
        text = shortened(text, length=len(text) - 1)
    _write(strip, (_GAP, 10), text, _SOFT)
    return [strip]


def _strip(width: int, name: str, moment: str) -> np.ndarray:
    """Return a strip with the name of a clip at the left and the moment at the right."""
    strip = np.full((_NAME_HEIGHT, width, 3), _GROUND, np.uint8)
    length = _font().getlength(moment)
    _write(strip, (round(width - length - _GAP), 6), moment, _SOFT)
    _write(strip, (_GAP, 6), shortened(plain_text(name), length=max(8, int((width - length) / 8))), _INK)
    return strip


def _labelled(panels: Sequence[np.ndarray], labels: Sequence[str]) -> list[np.ndarray]:
    """Write in the corner of each panel what it is."""
    tagged = []
    for panel, label in zip(panels, labels, strict=True):
        width = min(panel.shape[1], round(_font(12).getlength(label)) + 10)
        tag = np.full((min(20, panel.shape[0]), width, 3), _GROUND, np.uint8)
        _write(tag, (5, 3), label, _INK, size=12)
        panel = panel.copy()
        panel[: tag.shape[0], :width] = tag
        tagged.append(panel)
    return tagged


def _write(
    picture: np.ndarray, place: tuple[int, int], text: str, colour: tuple[int, int, int], *, size: int = 14
) -> None:
    """Draw text into a picture."""
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text(place, text, font=_font(size), fill=colour)
    picture[:] = np.asarray(image)


@cache
def _font(size: int = 14) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    height = max(panel.shape[0] for panel in panels)
    gap = np.full((height, _GAP, 3), _GROUND, np.uint8)
    pieces: list[np.ndarray] = []
    for panel in panels:
        below = np.full((height - panel.shape[0], panel.shape[1], 3), _GROUND, np.uint8)
        pieces += [gap, np.concatenate([panel, below])]
    return np.concatenate(pieces[1:], axis=1)


def _stacked(lines: Sequence[np.ndarray], *, width: int | None = None, gap: int = 0) -> np.ndarray:
    width = width or max(line.shape[1] for line in lines)
    pieces: list[np.ndarray] = []
    for line in lines:
        beside = np.full((line.shape[0], width - line.shape[1], 3), _GROUND, np.uint8)
        pieces += [np.full((gap, width, 3), _GROUND, np.uint8), np.concatenate([line, beside], axis=1)]
    return np.concatenate(pieces[1:])


def _of_width(panel: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(panel.shape[0] * width / panel.shape[1]))
    return np.asarray(Image.fromarray(panel).resize((width, height), Image.Resampling.LANCZOS))


def _even(frame: np.ndarray) -> np.ndarray:
    """Add a row or column where there is an odd number, which H.264 does not take."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
