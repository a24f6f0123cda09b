"""Read frames with torchcodec, as pipelines of transformers do, at the times that the packets of the file list.

torchcodec counts frames that an edit list hides and misses some of transport streams: whatever it gives that is not the
listed frame is an error, and so is what it would show wrongly.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigError
from .containers import open_container, video_stream
from .outside_decoders import check_all_packets, refuse_what_it_shows_wrong
from .pyav_reader import PyAVReader
from .safety import PathLike, ascending_indices, checked_indices, decoder_errors, failure, open_regular_file

_FRAMES_AT_ONCE = 16
_SAME_SECONDS = 1e-5  # it computes times in floating point
_NOT_OPENED = "cannot be read by torchcodec; decoder='pyav' reads more formats"
_NOT_DECODED = "is truncated or corrupt, or torchcodec fails on it, which decoder='pyav' tells"


class TorchcodecReader:
    """Frames that torchcodec decodes, each held against the time that is listed for it."""

    def __init__(self, path: PathLike) -> None:
        decoder_class = _import_torchcodec()
        with PyAVReader(path) as listed:  # it has an allow-list of formats, and torchcodec none
            self.info, self.timestamps, is_listed = listed.info, listed.timestamps, listed.is_listed
        self._path = os.fspath(path)
        self._file = open_regular_file(path)
        try:
            if not is_listed:
                raise failure(
                    self._path, "does not list its frames, so torchcodec may miss some; decoder='pyav' does not"
                )
            with decoder_errors(self._path), open_container(self._path, self._file) as container:
                stream = video_stream(self._path, container)
                refuse_what_it_shows_wrong("torchcodec", self._path, container, stream)
                check_all_packets("torchcodec", self._path, self._file, container, stream)
            with decoder_errors(self._path, _NOT_OPENED):
                self._file.seek(0)
                self._decoder = _construct(decoder_class, self._file)
            if len(self._decoder) != len(self):
                reason = f"has {len(self)} frames, of which torchcodec makes {len(self._decoder)}"
                raise failure(self._path, f"{reason}; decoder='pyav' does not")
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self.info.num_frames

    def get_frames(self, indices: ArrayLike) -> np.ndarray:
        wanted = checked_indices(indices, len(self), self._path)
        shape = self.info.height, self.info.width, 3
        if not len(wanted):
            return np.empty((0, *shape), dtype=np.uint8)
        with decoder_errors(self._path, _NOT_DECODED):
            batch = self._decoder.get_frames_at(indices=wanted.tolist())
            frames: np.ndarray = batch.data.numpy()
            if frames.shape[1:] != shape:
                raise failure(self._path, f"torchcodec gives frames of {frames.shape[2]}x{frames.shape[1]}")
            if np.max(np.abs(batch.pts_seconds.numpy() - self.timestamps[wanted])) > _SAME_SECONDS:
                raise failure(self._path, "torchcodec gives other frames than those listed; decoder='pyav' does not")
        return frames

    def iter_frames(self, indices: ArrayLike | None = None) -> Iterator[np.ndarray]:
        wanted = np.arange(len(self)) if indices is None else ascending_indices(indices, len(self), self._path)
        for start in range(0, len(wanted), _FRAMES_AT_ONCE):
            yield from self.get_frames(wanted[start : start + _FRAMES_AT_ONCE])

    def close(self) -> None:
        self._decoder = None
        self._file.close()

    def __enter__(self) -> TorchcodecReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _import_torchcodec() -> Any:
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise ConfigError(
            "decoder='torchcodec' needs the package torchcodec; install it with `pip install 'vjepa-sdk[torchcodec]'`, "
            "or use decoder='pyav'"
        ) from error
    except (OSError, RuntimeError) as error:  # some versions look for FFmpeg here, others when a decoder is made
        raise _without_ffmpeg() from error
    return VideoDecoder


def _construct(decoder_class: Any, file: Any) -> Any:
    try:
        return decoder_class(file, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    except (OSError, RuntimeError) as error:
        if "libtorchcodec" in str(error):
            raise _without_ffmpeg() from error
        raise


def _without_ffmpeg() -> ConfigError:
    return ConfigError(
        "decoder='torchcodec' needs shared libraries of FFmpeg 4 to 9, which torchcodec does not bring, and does not "
        "find; install FFmpeg, as with `apt install ffmpeg` or `conda install ffmpeg`, or use decoder='pyav'"
    )
