"""Turn whatever a user calls a video into frames, all at once or one by one, or say why not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..config.choices import Decoder
from ..errors import InputError, printable
from .decoder_objects import is_decoder, iter_decoded, times_of
from .images import is_still_file, iter_images, list_frame_directory, read_image, rgb_of, size_of
from .in_memory import NAMELESS, content_of, is_open_file_or_row, is_still, lent_path
from .reader import iter_clip, open_video
from .sampling import FrameTimes, Sampling, Span, check_ascending, choose_frames, steady_times
from .transforms import as_frames, crop_in_groups

if TYPE_CHECKING:
    from PIL.Image import Image

Video: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | Tensor | Image | Sequence[Image]"
"""A path, a directory of frames, bytes or an open file, an array `[T, H, W, 3]`, a tensor `[T, 3, H, W]`, an image, a
list of images. Beside these, a `VideoDecoder` of torchcodec, and the row of a data set, with `path` and `bytes`."""


@dataclass(frozen=True)
class Frames:
    """Frames of one video."""

    pixels: Tensor
    """`uint8 [T, 3, H, W]`."""
    indices: tuple[int, ...]
    """Which frames of the source these are."""
    start_seconds: float | None = None
    """When the first of them appears, by the source's time stamps; None where the rate is not known."""
    end_seconds: float | None = None
    """When the last of them goes."""


def is_image(video: object) -> bool:
    """Whether an input is one still image."""
    video = content_of(video)
    if isinstance(video, bytes):
        return is_still(video)
    if isinstance(video, str | os.PathLike):
        return is_still_file(video)
    if isinstance(video, np.ndarray | Tensor):
        return video.ndim == 3
    return _is_pil(video)


def split_batch(videos: object, *, images: bool) -> tuple[list[object], bool]:
    """Return the single inputs in `videos`, and whether it was a batch.

    Args:
        images: the model takes single images, so a list of images is a batch and not a video.
    """
    if isinstance(videos, np.ndarray) and videos.ndim == 1 and videos.dtype.kind in "OU":
        videos = videos.tolist()  # a column of paths
    if isinstance(videos, np.ndarray | Tensor):
        is_batch = videos.ndim == (4 if images else 5)
        if is_batch and len(videos) == 0:
            raise InputError(f"a batch of shape {tuple(videos.shape)} is empty; pass at least one video")
        return (list(videos) if is_batch else [videos]), is_batch
    is_one = isinstance(videos, str | os.PathLike) or is_open_file_or_row(videos) or _is_pil(videos)
    if isinstance(videos, Iterable) and not is_one:
        videos = list(videos)
        if not videos:
            raise InputError("got an empty list; pass at least one video")
        if all(map(_is_pil, videos)) and not images:
            return [videos], False
        return videos, True
    return [videos], False


def load_frames(video: object, sampling: Sampling, crop: Callable[[Tensor], Tensor] = lambda frames: frames) -> Frames:
    """Read and sample one input.

    Args:
        crop: makes frames `uint8 [K, 3, H, W]` smaller. Those of files and directories get there in groups, so that a
            clip of large ones is never held in full size.

    Raises:
        InputError: not a video, an ambiguous layout, or pixels neither uint8 nor in [0, 1].
        VideoDecodeError: a file that cannot be decoded.
    """
    video = content_of(video)
    if isinstance(video, bytes):
        with lent_path(video) as path:
            return _from_path(path, sampling, crop, is_still=is_still(video))
    if isinstance(video, str | os.PathLike):
        return _from_path(video, sampling, crop, is_still=is_image(video))
    if is_decoder(video):
        indices, span = choose_frames(FrameTimes(times_of(video), is_known=True), sampling, name=NAMELESS)
        needed, places = np.unique(indices, return_inverse=True)
        frames = crop_in_groups(iter_decoded(video, needed), crop)
        return Frames(frames[torch.from_numpy(places)], tuple(indices.tolist()), *span)
    if isinstance(video, np.ndarray | Tensor):
        pixels = _from_array(video)
    elif _is_pil(video):
        pixels = _from_images([video])
    elif isinstance(video, list | tuple) and video and all(map(_is_pil, video)):
        pixels = _from_images(video)
    else:
        raise InputError(
            f"a {type(video).__name__} is not a video; pass a path, bytes, an array [T, H, W, 3], a tensor "
            "[T, 3, H, W], an image or a list of images"
        )
    indices, span = choose_frames(steady_times(len(pixels), sampling), sampling, name=NAMELESS)
    return Frames(crop(pixels[torch.from_numpy(indices)]), tuple(indices.tolist()), *span)


def _from_path(
    path: str | os.PathLike[str], sampling: Sampling, crop: Callable[[Tensor], Tensor], *, is_still: bool
) -> Frames:
    span: Span = (None, None)
    if Path(path).is_dir():
        files = list_frame_directory(path)
        indices, span = choose_frames(steady_times(len(files), sampling), sampling, name=_name(path))
        frames = crop_in_groups(iter_images([files[i] for i in np.unique(indices)]), crop)
    elif is_still:
        indices, frames = np.zeros(1, np.int64), crop(as_frames([read_image(path)]))
    else:
        with open_video(path, decoder=sampling.decoder) as reader:
            times = np.append(reader.timestamps, reader.timestamps[0] + reader.info.duration_seconds)
            indices, span = choose_frames(FrameTimes(times, is_known=True), sampling, name=_name(path))
            frames = crop_in_groups(iter_clip(reader, np.unique(indices)), crop)
    places = np.unique(indices, return_inverse=True)[1]
    return Frames(frames[torch.from_numpy(places)], tuple(indices.tolist()), *span)


@dataclass(frozen=True)
class FrameSource:
    """A video whose frames are read as they are needed."""

    name: str
    """What errors call it."""
    timestamps: np.ndarray
    """Presentation times of all frames in seconds, float64 [N], ascending."""
    end_seconds: float
    """When the last frame ends."""
    read: Callable[[np.ndarray], Iterator[Tensor]]
    """Yield the frames at ascending indices, one by one, as `uint8 [1, 3, H, W]`."""
    is_timed: bool = True
    """False where nobody said at which rate the frames were taken; then one a second stands for that."""


@contextmanager
def open_frames(video: object, *, source_fps: float | None, decoder: Decoder) -> Iterator[FrameSource]:
    """Open one video for reading frame by frame.

    Args:
        source_fps: frame rate of arrays, lists of images and frame directories, which have no times of their own.

    Raises:
        InputError: not a video, an ambiguous layout, or no frame rate.
        VideoDecodeError: a file that cannot be decoded.
    """
    if is_image(video):
        name = _name(video) if isinstance(video, str | os.PathLike) else "this"
        raise InputError(f"{name} is a still image, without length in time; pass a video, or the image to encode")
    video = content_of(video)
    if isinstance(video, bytes):
        with lent_path(video) as path, open_frames(path, source_fps=source_fps, decoder=decoder) as source:
            yield replace(source, name=f"{NAMELESS}:")
        return
    if is_decoder(video):
        *starts, end = times_of(video)
        yield FrameSource(
            name=NAMELESS,
            timestamps=np.array(starts),
            end_seconds=float(end),
            read=lambda indices: (as_frames([frame]) for frame in iter_decoded(video, indices)),
        )
        return
    if isinstance(video, str | os.PathLike) and not Path(video).is_dir():
        with open_video(video, decoder=decoder) as reader:
            check_ascending(reader.timestamps, name=_name(video))
            yield FrameSource(
                name=_name(video),
                timestamps=reader.timestamps,
                end_seconds=reader.info.start_seconds + reader.info.duration_seconds,
                read=lambda indices: (as_frames([frame]) for frame in reader.iter_frames(indices)),
            )
        return
    name, count, read = _open_rateless(video)
    if source_fps is None:
        raise InputError(f"{name} has no frame rate, which seconds need; pass source_fps=")
    yield FrameSource(name, np.arange(count) / source_fps, count / source_fps, read)


@contextmanager
def open_numbered(video: object, *, decoder: Decoder) -> Iterator[FrameSource]:
    """Open one video, or a still image as a video of one frame, to read frames by their numbers.

    Raises:
        InputError: not a video, or an ambiguous layout.
        VideoDecodeError: a file that cannot be decoded.
    """
    video = content_of(video)
    if (isinstance(video, bytes) and not is_still(video)) or is_decoder(video):
        with open_frames(video, source_fps=None, decoder=decoder) as source:
            yield source
        return
    if isinstance(video, bytes):
        with lent_path(video) as lent:
            image = as_frames([read_image(lent)])
        yield FrameSource(NAMELESS, np.zeros(1), 1.0, lambda _: iter([image]), False)
        return
    if isinstance(video, str | os.PathLike) and not Path(video).is_dir():
        if not is_image(video):
            with open_frames(video, source_fps=None, decoder=decoder) as source:
                yield source
            return
        path = video
        yield FrameSource(_name(path), np.zeros(1), 1.0, lambda _: iter([as_frames([read_image(path)])]), False)
        return
    name, count, read = _open_rateless([video] if _is_pil(video) else video)
    yield FrameSource(name, np.arange(count, dtype=np.float64), float(count), read, is_timed=False)


def _open_rateless(video: object) -> tuple[str, int, Callable[[np.ndarray], Iterator[Tensor]]]:
    """Return name, number of frames and reader of a video that is no file."""
    if isinstance(video, str | os.PathLike):
        files = list_frame_directory(video)
        return (
            _name(video),
            len(files),
            lambda indices: (as_frames([frame]) for frame in iter_images([files[i] for i in indices])),
        )
    if isinstance(video, np.ndarray | Tensor):
        _check_array(video)
        return NAMELESS, len(video), lambda indices: (_from_array(video[i : i + 1]) for i in indices.tolist())
    if isinstance(video, list | tuple) and video and all(map(_is_pil, video)):
        _check_sizes(video)
        return NAMELESS, len(video), lambda indices: (_from_images([video[i]]) for i in indices.tolist())
    raise InputError(
        f"a {type(video).__name__} is not one video; pass a path, bytes, an array [T, H, W, 3], a tensor [T, 3, H, W] "
        "or a list of images"
    )


def _name(path: str | os.PathLike[str]) -> str:
    return f"{printable(os.fspath(path))}:"


def _from_array(array: np.ndarray | Tensor) -> Tensor:
    """Return `uint8 [T, 3, H, W]`."""
    _check_array(array)
    if isinstance(array, np.ndarray):
        # torch takes native byte order and memory it may write to
        dtype = np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
        tensor = torch.from_numpy(np.require(array.astype(dtype, copy=False), requirements=["C", "W"]))
        tensor = (tensor if tensor.ndim == 4 else tensor[None]).permute(0, 3, 1, 2)
    else:
        tensor = array.detach().cpu() if array.ndim == 4 else array.detach().cpu()[None]
    return _to_uint8(tensor)


def _check_array(array: np.ndarray | Tensor) -> None:
    """Refuse what is not `[T, H, W, 3]` or a tensor `[T, 3, H, W]`, with or without T, or could be both."""
    shape = tuple(array.shape)
    if isinstance(array, np.ndarray):
        if array.dtype == object or array.dtype.kind not in "uf":
            raise InputError(f"pixels of dtype {array.dtype} must be uint8 or float in [0, 1]; convert them")
        if array.ndim not in (3, 4) or shape[-1] != 3:
            raise InputError(f"an array of shape {shape} must be [T, H, W, 3]; transpose it")
        if array.ndim == 4 and shape[1] == 3:
            raise InputError(
                f"an array of shape {shape} could be [T, H, W, 3] or [T, 3, H, W]; pass a tensor [T, 3, H, W]"
            )
    elif array.ndim not in (3, 4) or shape[-3] != 3:
        raise InputError(f"a tensor of shape {shape} must be [T, 3, H, W]; permute it")
    if 0 in shape:
        raise InputError(f"a video of shape {shape} is empty; pass at least one frame")


def _to_uint8(pixels: Tensor) -> Tensor:
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise InputError(f"pixels of dtype {pixels.dtype} must be uint8 or float in [0, 1]; convert them")
    if not torch.isfinite(pixels).all():
        raise InputError("pixels must be finite, got NaN or infinity; clean them")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0.0 or high > 1.0:
        raise InputError(
            f"float pixels must lie in [0, 1], got {low:g} to {high:g}; divide by 255, "
            "or pass clips that are normalised already to forward_features"
        )
    return (pixels.float() * 255.0).round().to(torch.uint8)


def _from_images(images: Sequence[object]) -> Tensor:
    _check_sizes(images)
    arrays = [rgb_of(image) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def _check_sizes(images: Sequence[object]) -> None:
    sizes = set(map(size_of, images))
    if len(sizes) > 1:
        raise InputError(f"the images of one video must have one size, got {sorted(sizes)}; resize them")


def _is_pil(value: object) -> bool:
    # without importing pillow: only an instance of an imported class can be one
    return any(base.__module__.startswith("PIL.") for base in type(value).__mro__)
