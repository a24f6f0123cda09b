"""Encode the clips of a corpus, or the windows of its videos, batch by batch.

What shares a batch is frozen, so that the bytes of a row depend neither on failures nor on restarts nor on the number
of workers. Clips share batches with their neighbours in the plan, each in its slot: one that fails keeps it (as zeros,
its result is dropped), and slots without a clip are padded, as at the end. Windows share batches with windows of their
own video only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ...corpus.snapshot import Clip
from ...errors import VJEPAError, printable
from ...features.formats import Row
from ...runtime.files import size_on_disk
from ...runtime.progress import ProgressBar, progress_bar
from ...runtime.signals import StopRequest
from ...runtime.workers.pool import TaskResult, WorkerPool
from ...runtime.workers.start import Nursery
from ...runtime.workers.wire import WorkerResult
from .ledger import Ledger, Outcome
from .options import EmbedOptions
from .shards import Slots

if TYPE_CHECKING:
    from ...video.clips import ClipLoader, WindowLoader
    from ...video.segments import SegmentLoader
    from ..vjepa import VJEPA

_MAX_FRAMES = 1 << 48  # of a video
_AHEAD_BYTES = 1 << 30


def num_ahead(*, batch_size: int, num_workers: int, clip_bytes: int) -> int:
    """Return how many decoded clips may wait for the encoder, beside those of the batch that is being put together.

    Two batches, so that the next is there when one is encoded; but of large clips no more than a gibibyte, as long as
    that leaves each process one to put down.
    """
    return min(2 * batch_size, max(num_workers, _AHEAD_BYTES // clip_bytes))


@dataclass(frozen=True)
class _ClipReader:
    """Read one clip of the plan; runs in the decoding processes."""

    load: ClipLoader

    def __call__(self, clip: Clip) -> WorkerResult:
        sampling = replace(self.load.sampling, start_seconds=clip.start_seconds, end_seconds=clip.end_seconds)
        return replace(self.load, sampling=sampling)(clip.path)


@dataclass(frozen=True)
class _Windows:
    """The windows of clip `number` of the plan, from window `first` on."""

    number: int
    clip: Clip
    first: int


def _num_bytes_of(wanted: Clip | _Windows) -> int:
    return size_on_disk((wanted.clip if isinstance(wanted, _Windows) else wanted).path)


@dataclass(frozen=True)
class _WindowReader:
    """Read windows one by one; runs in the decoding processes."""

    load: WindowLoader

    def __call__(self, wanted: _Windows) -> Iterator[WorkerResult | None]:
        clip = wanted.clip
        windowing = replace(self.load.windowing, start_seconds=clip.start_seconds, end_seconds=clip.end_seconds)
        with replace(self.load, windowing=windowing).open(clip.path) as video:
            # Opening may mean to decode all of a file, and so may the way to a window far behind: each has its own
            # deadline, so that a run that goes on in mid-video fails where an undisturbed one does, and only there.
            yield None
            windows = video.windows
            for number, pixels in enumerate(video.clips(wanted.first), start=wanted.first):
                seconds = {"start_seconds": windows.start_seconds[number], "end_seconds": windows.end_seconds[number]}
                yield pixels, {"frames": windows.frame_indices[number].tolist(), **seconds}


@dataclass(frozen=True)
class _SegmentReader:
    """Read the clips of a clip set one by one; runs in the decoding processes."""

    load: SegmentLoader

    def __call__(self, wanted: _Windows) -> Iterator[WorkerResult | None]:
        from ...video.segments import VideoPart

        clip = wanted.clip
        part = VideoPart(video=clip.path, id=clip.id, start_seconds=clip.start_seconds, end_seconds=clip.end_seconds)
        yield from self.load.clips(part, wanted.first)


class Encoding:
    """Encode what a job's parts lack.

    Args:
        loader: what turns a file of the plan into one clip, or into windows.
        slots: of the clips in batches; windows have none.
        ledger: where the rows go.
        nursery: of the decoding processes, see `prepare`.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        model: VJEPA,
        loader: ClipLoader | WindowLoader | SegmentLoader,
        *,
        slots: Slots,
        options: EmbedOptions,
        ledger: Ledger,
        nursery: Nursery | None = None,
    ) -> None:
        self._nursery = nursery
        self._clips, self._model, self._loader = clips, model, loader
        self._slots, self._options, self._ledger = slots, options, ledger
        self._layers = None if options.layers is None else model.layer_numbers(options.layers)
        self.seconds = 0.0
        """How long the clips of this run took."""
        self.first_clip_seconds = 0.0
        """How long it took until the first clip came: processes start meanwhile, and there is nothing to encode."""
        self.decode_wait_seconds = 0.0
        """How long the encoder waited for clips after that."""
        self.encode_seconds = 0.0
        """How long it encoded."""
        self.num_windows = 0
        """That this run has encoded."""

    def run(self, stop: StopRequest) -> bool:
        """Encode what no part has; False if a signal came before the end."""
        from ...video.clips import ClipLoader, WindowLoader

        self._ledger.check_failures()
        started = time.monotonic()
        done, show = self._ledger.finished, self._options.show_progress_bar
        todo = [number for number in range(len(self._clips)) if number not in done]
        with progress_bar("embed", total=len(self._clips), done=len(done), show=show, unit="clip") as bar:
            if isinstance(self._loader, WindowLoader):
                self._run_windows(_WindowReader(self._loader), todo, stop, bar)
            elif isinstance(self._loader, ClipLoader):
                self._run_clips(_ClipReader(self._loader), todo, stop, bar)
            else:
                self._run_windows(_SegmentReader(self._loader), todo, stop, bar)
            self._ledger.commit()
        self.seconds = time.monotonic() - started
        return self._ledger.is_complete

    def _pool(self, task: _ClipReader | _WindowReader | _SegmentReader) -> WorkerPool[Any]:
        workers, deadline = self._options.num_workers, self._options.deadline_seconds
        return WorkerPool(
            task,
            num_workers=workers,
            deadline_seconds=deadline,
            crash_retries=1,
            num_bytes_of=_num_bytes_of,
            nursery=self._nursery,
        )

    def _num_ahead(self, batch_size: int) -> int:
        side, num_frames = self._loader.preprocess.crop_size, max(self._loader.clip_lengths)
        clip_bytes = num_frames * 3 * side * side
        return num_ahead(batch_size=batch_size, num_workers=self._options.num_workers, clip_bytes=clip_bytes)

    def _run_clips(self, task: _ClipReader, todo: Sequence[int], stop: StopRequest, bar: ProgressBar) -> None:
        """Go through the frozen batches of which no part has the clips."""
        size, left = self._slots.batch_size, set(todo)
        batches = [batch for batch in self._slots.batches() if not left.isdisjoint(batch)]
        with self._pool(task) as pool:
            results = pool.map((self._clips[n] for batch in batches for n in batch), prefetch=self._num_ahead(size))
            for batch in batches:
                decoded = self._take(results, len(batch), stop)
                if decoded is not None:
                    slots = self._slots.of[batch.start : batch.stop]
                    pixels: list[np.ndarray | None] = [None] * size
                    for slot, result in zip(slots, decoded, strict=True):
                        pixels[slot] = result.array if self._is_clip(result) else None
                    rows = self._encode(pixels, batch_size=size)
                    clips = [self._clips[number] for number in batch]
                    self._ledger.add(
                        batch.start, list(map(self._outcome, clips, decoded, (rows[slot] for slot in slots)))
                    )
                    bar.advance(self._note(), by=len(batch))
                if stop.is_requested:
                    break

    def _run_windows(
        self, task: _WindowReader | _SegmentReader, todo: Sequence[int], stop: StopRequest, bar: ProgressBar
    ) -> None:
        """Go through the videos of which no part has all windows, as many at a time as there are processes."""
        size = self._options.batch_size
        left = {number: _Windows(number, self._clips[number], self._ledger.num_stored(number)) for number in todo}
        firsts = {number: video.first for number, video in left.items()}
        batches: dict[int, list[TaskResult[Any]]] = {}
        with self._pool(task) as pool:
            results = pool.map_unordered(list(left.values()), prefetch=self._num_ahead(size))
            while left:
                taken = self._take(results, 1, stop)
                if taken is None:
                    return
                number = taken[0].request.number
                if number not in left:  # what is left of a video that has failed
                    continue
                batch = batches.setdefault(number, [])
                batch += taken
                if len(batch) < size and not taken[0].is_last:
                    continue
                piece = self._piece(self._clips[number], firsts[number], batches.pop(number))
                self._ledger.add_rows(number, piece)
                firsts[number] += len(piece.rows)
                self.num_windows += len(piece.rows)
                if piece.is_last:
                    del left[number]
                bar.advance(self._note(), by=int(piece.is_last))

    def _take(self, results: Iterator[TaskResult[Any]], count: int, stop: StopRequest) -> list[TaskResult[Any]] | None:
        """Wait for so many results; None if a signal came instead."""
        waiting_since = time.monotonic()
        try:
            with stop.interrupting():
                taken = list(islice(results, 1))
                if not self.first_clip_seconds:
                    self.first_clip_seconds = time.monotonic() - waiting_since
                    waiting_since += self.first_clip_seconds
                taken += islice(results, count - 1)
            # a decoder in this process takes the interruption for a bad clip
            return None if stop.is_requested else taken
        except KeyboardInterrupt:
            if not stop.is_requested:
                raise
            return None
        finally:
            self.decode_wait_seconds += time.monotonic() - waiting_since

    def _is_clip(self, decoded: TaskResult[Any]) -> bool:
        """Check what a decoding process sent: a hostile file may have taken it over."""
        array, side, info = decoded.array, self._loader.preprocess.crop_size, decoded.info
        shapes = [(num_frames, 3, side, side) for num_frames in self._loader.clip_lengths]
        if array is None or array.dtype != np.uint8 or array.shape not in shapes:
            return False
        if not info.keys() >= {"frames", "start_seconds", "end_seconds"}:
            return False
        frames, seconds = info["frames"], [info["start_seconds"], info["end_seconds"]]
        are_seconds = all(value is None or (type(value) is float and math.isfinite(value)) for value in seconds)
        are_frames = isinstance(frames, list) and all(type(n) is int and 0 <= n < _MAX_FRAMES for n in frames)
        return are_frames and len(frames) == len(array) and are_seconds

    def _piece(self, clip: Clip, first: int, decoded: Sequence[TaskResult[Any]]) -> Outcome:
        """Return the rows of a clip's windows from number `first` on; it fails with the first of them that does."""
        windows, end = [result for result in decoded if not result.is_last], decoded[-1]
        is_end = end.error is None and end.array is None and first + len(windows) > 0
        if end.is_last and not is_end:  # what else came in this batch is of no use
            return self._outcome(clip, end, None)
        pixels = [result.array if self._is_clip(result) else None for result in windows]
        rows: list[Row] = []
        for result, values in zip(windows, self._encode(pixels, batch_size=len(pixels)), strict=True):
            outcome = self._outcome(clip, result, values, window=first + len(rows))
            if outcome.failure is not None:
                return outcome
            rows += outcome.rows
        return Outcome(tuple(rows), None, is_last=end.is_last)

    def _outcome(
        self, clip: Clip, decoded: TaskResult[Any], values: np.ndarray | None, *, window: int | None = None
    ) -> Outcome:
        reason = decoded.error
        if reason is None and values is None:
            reason = "the decoding process sent something other than a clip"
        elif values is not None and not np.isfinite(values).all():
            reason = "features are not finite" if self._options.dtype == "float32" else "features do not fit float16"
        if reason is not None or values is None:
            reason = str(reason).removeprefix(f"{printable(clip.path)}: ")
            return Outcome((), {"id": clip.id, "path": clip.path, "reason": reason})
        entry = {
            "id": clip.id,
            "path": clip.path,
            **({} if window is None else {"window": window}),
            **{name: decoded.info[name] for name in ("start_seconds", "end_seconds", "frames")},
            "decoder": self._options.decoder,
            "size": clip.size,
        }
        return Outcome((Row(entry, values),), None)

    def _note(self) -> str:
        """Return what the progress bar says besides its numbers."""
        notes = [f"{self.num_windows} windows"] if self._options.has_windows else []
        return ", ".join([*notes, *([f"{self._ledger.failed} skipped"] if self._ledger.failed else [])])

    def _encode(self, clips: Sequence[np.ndarray | None], *, batch_size: int) -> list[np.ndarray | None]:
        """Return a row for each clip.

        Every shape of clip gets a full batch of its own, in which each clip has its own slot: on one machine a row's
        bits depend on slot and batch shape, not on the neighbours.
        """
        import torch
        from torch.nn import functional as F

        rows: list[np.ndarray | None] = [None] * len(clips)
        for shape in sorted({clip.shape for clip in clips if clip is not None}):
            batch = np.zeros((batch_size, *shape), dtype=np.uint8)
            slots = [slot for slot, clip in enumerate(clips) if clip is not None and clip.shape == shape]
            for slot in slots:
                batch[slot] = clips[slot]
            started = time.monotonic()
            try:
                features = self._model.embed_clips(
                    torch.from_numpy(batch), pooling=self._options.pooling, layers=self._layers
                )
            except torch.OutOfMemoryError as error:
                raise VJEPAError(
                    f"batch_size={batch_size} needs more memory than there is; pass a smaller one"
                ) from error
            if self._options.normalize_embeddings:
                features = F.normalize(features, dim=-1)
            with np.errstate(over="ignore"):  # what does not fit becomes infinite, and that is found
                values = features.cpu().numpy().astype(self._options.dtype)
            self.encode_seconds += time.monotonic() - started
            for slot in slots:
                rows[slot] = values[slot]
        return rows
