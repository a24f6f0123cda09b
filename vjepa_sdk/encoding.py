"""Encode the clips of a corpus, batch by batch, into parts on disk.

Which clips share a batch is frozen. A clip that fails keeps its slot (as zeros, its result is dropped), and the last
batch is padded. So the bytes of a row depend neither on failures nor on restarts nor on the number of workers.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .corpus import Clip
from .embeddings import Dtype, Row, check_shapes, from_bytes, json_line, to_bytes
from .errors import ConfigError, VideoDecodeError, VJEPAError
from .files import printable
from .journal import Part, Workspace
from .progress import ProgressBar, progress_bar
from .schema import check_types
from .signals import StopRequest
from .workers import TaskResult, WorkerPool, WorkerResult

if TYPE_CHECKING:
    from .api import VJEPA, ClipLoader

Pooling = Literal["mean", "temporal", "none"]
Decoder = Literal["pyav", "decord"]
OnError = Literal["skip", "stop"]

PART_SECONDS, PART_BYTES = 5.0, 64 << 20  # what a kill may cost; they have no influence on the output


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """What a job shall do; the arguments of `embed_files`, checked."""

    model: str
    revision: str | None
    weights: Literal["target", "context"] | None
    pooling: Pooling
    num_frames: int | None
    fps: float | None
    source_fps: float | None
    batch_size: int
    normalize_embeddings: bool
    dtype: Dtype
    decoder: Decoder
    device: str | None
    num_workers: int
    deadline_seconds: float
    max_failures: float | str | None
    on_error: OnError
    follow_symlinks: bool
    extend: bool
    overwrite: bool
    show_progress_bar: bool | None

    def __post_init__(self) -> None:
        check_types(self)
        for name, is_valid, rule in (
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("num_workers", self.num_workers >= 0, "at least 0"),
            ("deadline_seconds", self.deadline_seconds > 0, "above 0"),
        ):
            if not is_valid:
                raise ConfigError(f"{name}={getattr(self, name)} must be {rule}")
        _ = self.failure_share
        if self.extend and self.overwrite:
            raise ConfigError("extend and overwrite exclude each other; pass one")

    @property
    def failure_share(self) -> float:
        """The largest share of clips that may fail, from 0 to 1."""
        given = self.max_failures
        if given is None:
            return 1.0
        try:
            share = float(given[:-1]) / 100 if isinstance(given, str) and given.endswith("%") else float(given)
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            raise ConfigError(f"max_failures={given} must be a fraction from 0 to 1 or a percentage; pass 0.05 or 5%")
        return share

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the features, besides inputs, weights and environment."""
        names = ("weights", "pooling", "num_frames", "fps", "source_fps", "batch_size", "normalize_embeddings", "dtype")
        return {name: getattr(self, name) for name in (*names, "decoder")}


@dataclass(frozen=True)
class Outcome:
    """What became of one clip: its rows, or its line among the errors."""

    rows: tuple[Row, ...]
    failure: dict[str, Any] | None


@dataclass(frozen=True)
class _Loader:
    """Read one clip of the plan; runs in the decoding processes."""

    load: ClipLoader

    def __call__(self, clip: Clip) -> WorkerResult:
        sampling = replace(self.load.sampling, start_seconds=clip.start_seconds, end_seconds=clip.end_seconds)
        return replace(self.load, sampling=sampling)(clip.path)


class Encoding:
    """Fill the parts that are missing.

    Args:
        parts: those an earlier run has finished.
        row_shape: what rows must have because they are added to others, None for any.
        work: where parts go.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        model: VJEPA,
        loader: ClipLoader,
        *,
        options: EmbedOptions,
        out: Path,
        parts: Sequence[Part],
        row_shape: tuple[int, ...] | None,
        work: Workspace,
    ) -> None:
        self._row_shape = row_shape
        self._clips, self._model, self._loader = clips, model, loader
        self._options, self._out, self._work = options, out, work
        self._batch_size = min(options.batch_size, len(clips))  # a small corpus needs no padding beyond its size
        self.parts = list(parts)
        self.failed = sum(part.facts["failed"] for part in parts)
        self.num_clips = 0
        """How many this run has tried."""
        self.seconds = 0.0
        """How long they took."""
        self.decode_wait_seconds = 0.0
        """How long the encoder waited for clips."""
        self._pending: list[Outcome] = []
        self._pending_first = 0
        self._pending_since = time.monotonic()

    def run(self, stop: StopRequest) -> bool:
        """Encode the batches that no part has; False if a signal came before the end."""
        self._guard([])  # an earlier run may have been allowed more failures
        started = time.monotonic()
        options, size, total = self._options, self._batch_size, len(self._clips)
        done = {first for part in self.parts for first in range(part.first, part.last, size)}
        batches = [range(i, min(i + size, total)) for i in range(0, total, size) if i not in done]
        num_left = sum(map(len, batches))
        workers, deadline, show = options.num_workers, options.deadline_seconds, options.show_progress_bar
        with (
            WorkerPool(_Loader(self._loader), num_workers=workers, deadline_seconds=deadline, crash_retries=1) as pool,
            progress_bar("embed", total=total, done=total - num_left, show=show, unit="clip") as bar,
        ):
            results = pool.map((self._clips[i] for batch in batches for i in batch), prefetch=2 * size)
            for batch in batches:
                decoded = self._next(results, len(batch), stop)
                if decoded is not None:
                    self._add(batch, self._outcomes(batch, decoded), bar)
                if stop.is_requested:
                    break
            self._commit()
        self.seconds = time.monotonic() - started
        return sum(part.last - part.first for part in self.parts) == total

    def _next(self, results: Iterator[TaskResult[Any]], count: int, stop: StopRequest) -> list[TaskResult[Any]] | None:
        """Wait for the clips of a batch; None if a signal came instead."""
        waiting_since = time.monotonic()
        try:
            with stop.interrupting():
                decoded = list(islice(results, count))
            # a decoder in this process takes the interruption for a bad clip
            return None if stop.is_requested else decoded
        except KeyboardInterrupt:
            if not stop.is_requested:
                raise
            return None
        finally:
            self.decode_wait_seconds += time.monotonic() - waiting_since

    def _outcomes(self, batch: range, decoded: Sequence[TaskResult[Any]]) -> list[Outcome]:
        pixels = [result.array if self._is_clip(result) else None for result in decoded]
        rows = _encode(self._model, pixels, batch_size=self._batch_size, options=self._options)
        return [self._outcome(self._clips[i], result, row) for i, result, row in zip(batch, decoded, rows, strict=True)]

    def _is_clip(self, decoded: TaskResult[Any]) -> bool:
        """Check what a decoding process sent: a hostile file may have taken it over."""
        array, side, info = decoded.array, self._loader.preprocess.crop_size, decoded.info
        if array is None or array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (3, side, side):
            return False
        frames, seconds = info.get("frames"), [info.get("start_seconds"), info.get("end_seconds")]
        are_seconds = all(value is None or (type(value) is float and math.isfinite(value)) for value in seconds)
        return isinstance(frames, list) and all(type(frame) is int for frame in frames) and are_seconds

    def _outcome(self, clip: Clip, decoded: TaskResult[Any], values: np.ndarray | None) -> Outcome:
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
            **{name: decoded.info[name] for name in ("start_seconds", "end_seconds", "frames")},
            "decoder": self._loader.sampling.decoder,
            "size": clip.size,
        }
        return Outcome((Row(entry, values),), None)

    def _add(self, batch: range, outcomes: list[Outcome], bar: ProgressBar) -> None:
        """Take a batch into the pending part, and commit that when it is due."""
        failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
        self._guard(failures)
        self.failed += len(failures)
        self.num_clips += len(batch)
        if batch.start != self._pending_first + len(self._pending):
            self._commit()
            self._pending_first = batch.start
        self._pending += outcomes
        bar.advance(f"{self.failed} skipped" if self.failed else "", by=len(batch))
        num_bytes = sum(row.values.nbytes for outcome in self._pending for row in outcome.rows)
        if num_bytes >= PART_BYTES or time.monotonic() - self._pending_since >= PART_SECONDS:
            self._commit()

    def _guard(self, failures: Sequence[Mapping[str, Any]]) -> None:
        """Stop at a failure, or at too many, as the options say; the batch it happened in is tried again."""
        if failures and self._options.on_error == "stop":
            self._commit()
            raise VideoDecodeError(
                f"{failures[0]['path']}: {failures[0]['reason']}; remove it, or pass on_error='skip'"
            )
        failed, total, share = self.failed + len(failures), len(self._clips), self._options.failure_share
        if failed > share * total:
            self._commit()
            example = f", for example {failures[0]['path']}: {failures[0]['reason']}" if failures else ""
            raise VideoDecodeError(
                f"{failed} of {total} clips failed, --max-failures {self._options.max_failures} "
                f"allows {int(share * total)}{example}"
            )

    def _commit(self) -> None:
        if self._pending:
            rows = [row for outcome in self._pending for row in outcome.rows]
            shapes = sorted({row.values.shape for row in rows})
            earlier = (shape for part in self.parts for shape in part.facts["shapes"])
            check_shapes(self._out, [*shapes, *earlier, *([self._row_shape] if self._row_shape else [])])
            first, last = self._pending_first, self._pending_first + len(self._pending)
            failed = sum(outcome.failure is not None for outcome in self._pending)
            facts = {"rows": len(rows), "failed": failed, "shapes": shapes}
            data = _pack(self._pending, self._options.dtype)
            self.parts.append(self._work.commit(first=first, last=last, data=data, facts=facts))
        self._pending_first, self._pending = self._pending_first + len(self._pending), []
        self._pending_since = time.monotonic()


def _encode(
    model: VJEPA, clips: Sequence[np.ndarray | None], *, batch_size: int, options: EmbedOptions
) -> list[np.ndarray | None]:
    """Return a row for each clip.

    Every shape of clip gets a full batch of its own, in which each clip has its own slot: on one machine a row's bits
    depend on slot and batch shape, not on the neighbours.
    """
    import torch
    from torch.nn import functional as F

    rows: list[np.ndarray | None] = [None] * len(clips)
    for shape in sorted({clip.shape for clip in clips if clip is not None}):
        batch = np.zeros((batch_size, *shape), dtype=np.uint8)
        slots = [slot for slot, clip in enumerate(clips) if clip is not None and clip.shape == shape]
        for slot in slots:
            batch[slot] = clips[slot]
        try:
            features = model.embed_clips(torch.from_numpy(batch), pooling=options.pooling)
        except torch.OutOfMemoryError as error:
            raise VJEPAError(f"batch_size={batch_size} needs more memory than there is; pass a smaller one") from error
        if options.normalize_embeddings:
            features = F.normalize(features, dim=-1)
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and that is found
            values = features.cpu().numpy().astype(options.dtype)
        for slot in slots:
            rows[slot] = values[slot]
    return rows


def _pack(outcomes: Sequence[Outcome], dtype: Dtype) -> list[bytes]:
    """Return a part's content: one line of JSON, then the values of the rows."""
    header = {
        "dtype": dtype,
        "clips": [
            {"failure": outcome.failure, "rows": [[row.entry, row.values.shape] for row in outcome.rows]}
            for outcome in outcomes
        ],
    }
    return [json_line(header), *(to_bytes(row.values, dtype) for outcome in outcomes for row in outcome.rows)]


def _unpack(data: bytes) -> Iterator[Outcome]:
    start = data.index(b"\n") + 1
    header = json.loads(data[:start])
    for clip in header["clips"]:
        rows = []
        for entry, shape in clip["rows"]:
            rows.append(Row(entry, values := from_bytes(data, header["dtype"], shape=shape, offset=start)))
            start += values.nbytes
        yield Outcome(tuple(rows), clip["failure"])


def stored_outcomes(work: Workspace, parts: Sequence[Part]) -> Iterator[Outcome]:
    """Read back, clip by clip, what became of them."""
    for part in parts:
        yield from _unpack(work.read(part))
