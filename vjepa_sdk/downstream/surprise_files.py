"""Measure the surprise of many files: damaged ones are listed, and the rest is done."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.choices import Decoder, Device
from ..config.registry import DEFAULT_MODEL
from ..config.surprise import CONTEXTS, ContextReduction, SurpriseCrop, SurpriseProtocol, SurpriseTargets
from ..corpus.find import find_clips
from ..corpus.lists import ClipSource
from ..errors import ConfigError, OutputError, VJEPAError, printable
from ..features.parquet import check_installed
from ..inference.surprise import Surprise, SurpriseMeter
from ..inference.vjepa import VJEPA
from ..runtime.files import atomic_file, disk_errors, size_on_disk
from ..runtime.progress import ProgressBar, progress_bar
from ..runtime.workers.pool import TaskResult, WorkerPool
from ..runtime.workers.wire import WorkerResult
from ..video.safety import PathLike
from ..video.walk import FrameWalk, Walk
from .surprise import NormalFootage, SurpriseNormalizer, check_normalizer_path
from .surprise_labels import LabelledScores, read_surprise_labels

SUFFIXES = (".csv", ".jsonl", ".parquet")
COLUMNS = ("id", "path", "start_seconds", "end_seconds", "surprise", "p_value")
"""Of the curve: a row for each tubelet of each video. `p_value` is empty without a normaliser."""

_FRAMES_A_MESSAGE = 16


@dataclass(frozen=True)
class VideoSurprise:
    """The surprise of one video in a few numbers."""

    id: str
    path: str
    mean: float
    """Mean over windows of the error, see `Surprise.score`."""
    max: float
    """Highest window."""
    floor: float | None
    """Mean over windows of the guess that nothing changes; None unless asked for."""
    peak: float
    """Of the timeline."""
    peak_seconds: float
    windows: int


@dataclass(frozen=True)
class SurpriseReport:
    """What became of the files."""

    out: Path | None
    fitted: Path | None
    """The normaliser that was written."""
    fitted_windows: int
    """Of normal footage, that it rests on."""
    fitted_videos: int
    videos: tuple[VideoSurprise, ...]
    failures: tuple[dict[str, str], ...]
    """`id`, `path` and `reason` of each video that could not be measured."""
    metrics: dict[str, Any] | None
    """Against the labels, see `LabelledScores.metrics`."""


def surprise_files(
    inputs: PathLike | Iterable[PathLike],
    out: str | Path | None = None,
    *,
    model: str = DEFAULT_MODEL,
    revision: str | None = None,
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
    fit_normal: str | Path | None = None,
    normal: str | Path | None = None,
    labels: str | Path | None = None,
    source_fps: float | None = None,
    batch_size: int = 8,
    decoder: Decoder = "pyav",
    device: Device = None,
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    follow_symlinks: bool = False,
    overwrite: bool = False,
    show_progress_bar: bool | None = None,
) -> SurpriseReport:
    """Measure files, directories, patterns and lists of clips.

    Args:
        inputs: as for `embed_files`.
        out: the curve, with `COLUMNS`, as `.csv`, `.jsonl` or `.parquet`; None: none.
        model: name from `list_models()`, model directory or hub id.
        revision: branch, tag or commit of a hub repository.
        protocol: this and others up to `floor` as for `VJEPA.surprise`.
        fit_normal: take the inputs for normal footage, and write its normaliser here (`.safetensors`). With `out`, they
            are then gone through again and compared with it.
        normal: a normaliser to compare with.
        labels: a CSV that says what is abnormal, see `read_surprise_labels`.
        device: `cuda`, `mps` or `cpu`; None: the best there is.
        num_workers: decoding processes; 0 decodes in this process, without a deadline.
        deadline_seconds: for a piece of a file; one that takes longer is tried once more, then it counts as failed.
            All of a file may take 60 times as long, and as long again for each MiB.
        follow_symlinks: read what symbolic links point to.
        overwrite: replace what is there.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: an option that is not valid, or a suffix without its package.
        InputError: inputs or labels that are not there or not valid, or too little normal footage.
        OutputError: an output exists and `overwrite` is False.
        ResumeError: the normaliser is of another model or other settings.
        VJEPAError: not one video could be measured.
    """
    if fit_normal is not None and normal is not None:
        raise ConfigError("fit_normal and normal exclude each other; pass one")
    out = None if out is None else _checked_output(Path(out), overwrite=overwrite)
    fitted = None if fit_normal is None else check_normalizer_path(fit_normal, overwrite=overwrite)
    scored = None if labels is None else LabelledScores(read_surprise_labels(labels))
    clips = find_clips(inputs, links="follow" if follow_symlinks else "refuse").clips("frames")
    normalizer = None if normal is None else SurpriseNormalizer.load(normal)
    meter = VJEPA.from_pretrained(model, revision=revision, device=device).surprise_meter(
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
    if normalizer is not None:
        normalizer.check(meter.identity)
    pool = WorkerPool(
        _ReadFrames(meter.walk),
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        crash_retries=1,
        num_bytes_of=lambda clip: size_on_disk(clip.path),
    )
    with pool:
        job = _Job(meter, pool, clips, show_progress_bar)
        if fitted is not None:
            normalizer = job.fit(horizon)
            normalizer.save(fitted, overwrite=overwrite)
        if fitted is None or out is not None or scored is not None:
            job.measure(out, scored, normalizer=normalizer, reduce=reduce, horizon=horizon)
    return SurpriseReport(
        out=out,
        fitted=fitted,
        fitted_windows=normalizer.num_windows if normalizer is not None and fitted is not None else 0,
        fitted_videos=job.num_fitted,
        videos=tuple(job.videos),
        failures=tuple(job.failures.values()),
        metrics=None if scored is None else scored.metrics(),
    )


class _Job:
    """Go through the clips, once or twice."""

    def __init__(
        self, meter: SurpriseMeter, pool: WorkerPool[ClipSource], clips: Sequence[ClipSource], show: bool | None
    ) -> None:
        self._meter, self._pool, self._clips, self._show = meter, pool, clips, show
        self.videos: list[VideoSurprise] = []
        self.failures: dict[str, dict[str, str]] = {}
        self.num_fitted = 0

    def fit(self, horizon: int | None) -> SurpriseNormalizer:
        """Return what is usual in the clips."""
        footage = NormalFootage(self._meter, horizon=horizon)
        self._each("fit", lambda clip, walk: footage.add(walk))
        self.num_fitted = len(self._clips) - len(self.failures)
        return footage.normalizer()

    def measure(
        self,
        out: Path | None,
        scored: LabelledScores | None,
        *,
        normalizer: SurpriseNormalizer | None,
        reduce: ContextReduction | int,
        horizon: int | None,
    ) -> None:
        """Measure the clips, and write the curve."""
        with _curve(out) as write:

            def add(clip: ClipSource, walk: Walk) -> None:
                found = self._meter.measure_walk(
                    walk, normalizer=normalizer, reduce=reduce, horizon=horizon, show_progress_bar=False
                )
                write(_rows(clip, found, normalizer))
                self.videos.append(_summary(clip, found))
                if scored is not None:
                    scored.add(clip, found)

            self._each("surprise", add)

    def _each(self, title: str, use: Callable[[ClipSource, Walk], None]) -> None:
        """Hand each clip's frames on; note those that fail, and go on.

        Raises:
            VJEPAError: all failed.
        """
        clips = [clip for clip in self._clips if clip.id not in self.failures]
        results = self._pool.map(clips, prefetch=2 * _FRAMES_A_MESSAGE)
        with progress_bar(title, total=len(clips), show=self._show, unit="video") as bar:
            for clip in clips:
                self._one(clip, results, use, bar)
        next(results, None)  # lets the pool know that all is taken
        if len(self.failures) == len(self._clips):
            first = next(iter(self.failures.values()))
            raise VJEPAError(
                f"none of {len(self._clips)} videos could be measured; {printable(first['path'])}: {first['reason']}"
            )

    def _one(
        self,
        clip: ClipSource,
        results: Iterator[TaskResult[ClipSource]],
        use: Callable[[ClipSource, Walk], None],
        bar: ProgressBar,
    ) -> None:
        stream = _Stream(clip, results, self._meter.walk)
        try:
            use(clip, stream.walk())
        except _Failure as failure:
            reason = str(failure).removeprefix(f"{printable(clip.path)}: ")
            self.failures[clip.id] = {"id": clip.id, "path": clip.path, "reason": reason}
            stream.drain()
        bar.advance(f"{len(self.failures)} failed" if self.failures else "")


class _Failure(Exception):
    """One clip cannot be measured."""


@dataclass(frozen=True)
class _ReadFrames:
    """Read the frames of a clip; runs in the decoding processes. First their seconds, then they in groups."""

    walk: FrameWalk

    def __call__(self, clip: ClipSource) -> Iterator[WorkerResult | None]:
        with self.walk.open(clip.path, start_seconds=clip.start_seconds, end_seconds=clip.end_seconds) as walk:
            yield walk.seconds, {}
            group: list[np.ndarray] = []
            for frame in walk.frames:
                group.append(frame)
                if len(group) == _FRAMES_A_MESSAGE:
                    yield np.stack(group), {}
                    group = []
            if group:
                yield np.stack(group), {}


class _Stream:
    """One clip's part of what decoding processes send, checked: a hostile file may have taken one over."""

    def __init__(self, clip: ClipSource, results: Iterator[TaskResult[ClipSource]], walk: FrameWalk) -> None:
        self._clip, self._results, self._walk, self._is_done = clip, results, walk, False

    def walk(self) -> Walk:
        """Return the clip's frames.

        Raises:
            _Failure: it cannot be opened, or while they are gone through: it cannot be read.
        """
        seconds = self._next()
        if seconds is None or not self._are_seconds(seconds):
            raise _Failure("the decoding process sent something other than frames")
        return Walk(printable(self._clip.path), seconds, self._frames(len(seconds) - 1))

    def drain(self) -> None:
        """Skip what is left of the clip."""
        while not self._is_done:
            self._is_done = next(self._results).is_last

    def _next(self) -> np.ndarray | None:
        """Return the next array, None at the end."""
        result = next(self._results)
        self._is_done = result.is_last
        if result.error is not None:
            raise _Failure(result.error)
        return result.array

    def _are_seconds(self, array: np.ndarray) -> bool:
        is_line = array.dtype == np.float64 and array.ndim == 1 and len(array) > self._walk.settings.num_frames
        return is_line and bool(np.isfinite(array).all() and (np.diff(array) >= 0).all())

    def _frames(self, count: int) -> Iterator[np.ndarray]:
        side, seen = self._walk.preprocess.crop_size, 0
        while (group := self._next()) is not None:
            seen += len(group)
            if group.dtype != np.uint8 or group.shape[1:] != (3, side, side) or seen > count:
                raise _Failure("the decoding process sent something other than frames")
            yield from group
        if seen != count:
            raise _Failure(f"the decoding process sent {seen} of {count} frames")


def _summary(clip: ClipSource, found: Surprise) -> VideoSurprise:
    peak_seconds, peak = found.peak
    return VideoSurprise(
        id=clip.id,
        path=clip.path,
        mean=found.score(),
        max=found.score(reduce_time="max"),
        floor=None if found.floor is None else found.floor_score(),
        peak=peak,
        peak_seconds=peak_seconds,
        windows=len(found),
    )


def _rows(clip: ClipSource, found: Surprise, normalizer: SurpriseNormalizer | None) -> list[tuple[Any, ...]]:
    nothing = np.full(len(found.timeline), np.nan)
    p_values = nothing if normalizer is None else normalizer.p_values(found)
    columns = (found.tubelet_start_seconds, found.tubelet_end_seconds, found.timeline, p_values)
    return [(clip.id, clip.path, *map(_number, values)) for values in zip(*columns, strict=True)]


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(f"{value:.7g}")


def _checked_output(path: Path, *, overwrite: bool) -> Path:
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: the suffix {path.suffix!r} must be one of {', '.join(SUFFIXES)}; rename the file")
    if path.is_dir() or (not overwrite and (path.exists() or path.is_symlink())):
        raise OutputError(f"{path}: exists; pass overwrite=True (--overwrite) or choose another name")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: its directory does not exist; make it with mkdir -p {path.parent}")
    if path.suffix == ".parquet":
        check_installed()
    return path


@contextmanager
def _curve(out: Path | None) -> Iterator[Callable[[list[tuple[Any, ...]]], None]]:
    """Lend a function that writes rows; the file appears whole, when the block ends well."""
    if out is None:
        yield lambda rows: None
        return
    with disk_errors(out), atomic_file(out) as file:
        if out.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            kinds = [pa.string()] * 2 + [pa.float64()] * 2 + [pa.float32()] * 2
            schema = pa.schema(list(zip(COLUMNS, kinds, strict=True)))
            with pq.ParquetWriter(pa.PythonFile(file, mode="w"), schema) as writer:
                yield lambda rows: writer.write_table(_table(rows, schema))
            return

        def write(rows: list[tuple[Any, ...]]) -> None:
            text = _csv(rows) if out.suffix == ".csv" else _jsonl(rows)
            file.write(text.encode("utf-8", "surrogateescape"))

        if out.suffix == ".csv":
            write([COLUMNS])
        yield write


def _csv(rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _jsonl(rows: list[tuple[Any, ...]]) -> str:
    return "".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n" for row in rows)


def _table(rows: list[tuple[Any, ...]], schema: Any) -> Any:
    import pyarrow as pa

    columns = [list(column) for column in zip(*rows, strict=True)]
    # names of files that are no UTF-8
    columns[:2] = [[text.encode("utf-8", "backslashreplace").decode() for text in column] for column in columns[:2]]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)
