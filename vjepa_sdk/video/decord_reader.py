"""Read frames as decord's get_batch gives them, for parity with the official pipelines.

decord returns neighbouring frames for open-GOP and cut files and cannot read AV1 or GIF. What it would get wrong
without a word is refused: pixels that are not square, alpha, containers without times, MPEG streams, and packets that
are not frames.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import ConfigError
from .containers import VideoInfo, open_container, refuse_by_content, video_stream
from .outside_decoders import check_all_packets, refuse_what_it_shows_wrong
from .safety import PathLike, ascending_indices, checked_indices, decoder_errors, failure, open_regular_file

_NOT_DECODED = "is truncated or corrupt, or decord fails on it, which decoder='pyav' tells"
_LONGEST_SECONDS = 1e9  # thirty years; times beyond stand for none


class DecordReader:
    """Frames as decord's get_batch gives them, for parity with the official pipelines."""

    def __init__(self, path: PathLike) -> None:
        decord = _import_decord()
        self._file = open_regular_file(path)
        self._path = os.fspath(path)
        try:
            refuse_by_content(self._path, self._file)
            # decord has no allow-list of its own, so a file gets to it only if PyAV knows a harmless format in it.
            with decoder_errors(self._path), open_container(self._path, self._file) as container:
                stream = video_stream(self._path, container)
                codec = stream.codec_context.codec.canonical_name
                self._refuse_streams(container.format.name)
                refuse_what_it_shows_wrong("decord", self._path, container, stream)
                check_all_packets("decord", self._path, self._file, container, stream)
            with decoder_errors(self._path, "cannot be read by decord; decoder='pyav' reads more formats"):
                self._file.seek(0)
                descriptor = f"/proc/self/fd/{self._file.fileno()}"
                source = descriptor if os.path.exists(descriptor) else self._file
                self._reader = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=1)
                self.info = self._describe(codec)
        except BaseException:
            self.close()
            raise

    def _refuse_streams(self, container: str) -> None:
        if container in ("mpegts", "mpeg"):
            reason = "is an MPEG stream, of which decord skips the first frames and repeats the last"
            raise failure(self._path, f"{reason}; decoder='pyav' does not")

    def _times(self, num_frames: int) -> np.ndarray:
        """Return when each frame starts and ends, in seconds, float64 [N, 2]."""
        times = np.asarray(self._reader.get_frame_timestamp(range(num_frames)), dtype=np.float64)
        if not np.all(np.abs(times) < _LONGEST_SECONDS) or np.any(np.diff(times[:, 0]) <= 0):
            reason = "has no times that decord knows, and it would find wrong frames; decoder='pyav' reads it"
            raise failure(self._path, reason)
        return times

    def _describe(self, codec: str) -> VideoInfo:
        num_frames = len(self._reader)
        times = self._times(num_frames)
        self.timestamps = times[:, 0]
        height, width = self._reader[0].shape[:2]
        return VideoInfo(
            path=self._path,
            num_frames=num_frames,
            fps=float(self._reader.get_avg_fps()),
            width=width,
            height=height,
            rotation=0,  # decord turns frames upright without telling by how much
            codec=codec,
            duration_seconds=float(times[-1, 1] - times[0, 0]),
            start_seconds=float(times[0, 0]),
        )

    def __len__(self) -> int:
        return self.info.num_frames

    def get_frames(self, indices: ArrayLike) -> np.ndarray:
        wanted = checked_indices(indices, len(self), self._path)
        if not len(wanted):
            return np.empty((0, self.info.height, self.info.width, 3), dtype=np.uint8)
        with decoder_errors(self._path, _NOT_DECODED):
            frames: np.ndarray = self._reader.get_batch(wanted.tolist()).asnumpy()
        return frames

    def iter_frames(self, indices: ArrayLike | None = None) -> Iterator[np.ndarray]:
        wanted = np.arange(len(self)) if indices is None else ascending_indices(indices, len(self), self._path)
        with decoder_errors(self._path, _NOT_DECODED):
            for i in wanted.tolist():
                yield self._reader.get_batch([i]).asnumpy()[0]

    def close(self) -> None:
        self._reader = None
        self._file.close()

    def __enter__(self) -> DecordReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _import_decord() -> Any:
    try:
        import decord
    except ImportError as error:
        raise ConfigError(
            "decoder='decord' needs the package decord, which has no wheel for every platform; "
            "install it with `pip install decord`, or use decoder='pyav'"
        ) from error
    # Otherwise its FFmpeg prints file contents to the terminal.
    decord.logging.set_level(decord.logging.QUIET)  # type: ignore[no-untyped-call]
    return decord
