"""Export features of a corpus: a job that can be killed anywhere and run again.

    inputs ── frozen plan ── batches ──> decoding processes ──> encoder ──> parts ──> one output, by one rename

A kill at any moment leaves either the work so far or the finished output, never something in between.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config.choices import Decoder, Device, Dtype, EncoderWeights, OnError, Pooling, Precision, Tail, device_name
from ...config.registry import DEFAULT_MODEL
from ...corpus.find import FoundClips, Inputs, Links, find_clips
from ...corpus.snapshot import describe_clips
from ...errors import OutputError
from ...features.embeddings import ERRORS, sidecar
from ...runtime.host import load_torch_from_anywhere
from ...runtime.signals import stop_on_signal
from ...runtime.workers.pool import prepare
from ...runtime.workers.start import Nursery
from ...weights.description import Shape, read_shape
from .batches import Encoding
from .columns import ListColumns, update_columns
from .environment import describe_environment, num_threads, on_threads
from .ledger import Ledger
from .model import describe_sampling, digest_model, find_model, load_model
from .options import EmbedOptions
from .output import check_output, existing_output, finish, write_output
from .plan import OUTPUT_FORMAT, Job
from .shards import Slots, take_share
from .workspace import Part, Workspace

if TYPE_CHECKING:
    from ...video.clips import ClipLoader, WindowLoader
    from ...video.segments import SegmentLoader
    from ..vjepa import VJEPA

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EmbedResult:
    """How a job ended."""

    out: Path
    rows: int
    """Clips, or windows of them, with features; so far if the run was interrupted."""
    failed: int
    """Clips without; `errors_path` says why."""
    already_complete: bool = False
    """The output was there before; nothing was encoded."""
    columns_updated: bool = False
    """Its list says other things of its clips by now, and the index took them over."""
    interrupted: bool = False
    """A signal stopped the run; its state is saved, call again to go on."""
    clips: int = 0
    """That this run decoded and encoded, or tried to."""
    windows: int = 0
    """Of these clips, encoded by this run; 0 where clips are not cut into windows."""
    seconds: float = 0.0
    """Of this run."""
    clips_seconds: float = 0.0
    """Of these, how long its clips took; the rest went into loading the model and writing the output."""
    decode_wait_seconds: float = 0.0
    """Of these, how long the encoder waited for decoding, once the first clip had come."""
    encode_seconds: float = 0.0
    """Of these, how long it encoded."""
    listing_seconds: float = 0.0
    """How long it took to find the clips, and what of them was left to do."""
    starting_seconds: float = 0.0
    """How long it took to load the model, to start the decoding processes, and until the first clip came of them."""
    decode_cpu_seconds: float = 0.0
    """Processor seconds of decoding processes, their start included; 0 where this process decoded."""

    @property
    def errors_path(self) -> Path:
        """List of the clips that failed, with reasons."""
        return sidecar(self.out, ERRORS)


def embed_files(
    inputs: Inputs,
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    revision: str | None = None,
    weights: EncoderWeights | None = None,
    pooling: Pooling = "mean",
    layers: int | Sequence[int] | None = None,
    num_frames: int | None = None,
    fps: float | None = None,
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
    tail: Tail = "pad",
    source_fps: float | None = None,
    batch_size: int = 8,
    normalize_embeddings: bool = False,
    dtype: Dtype = "float32",
    precision: Precision = "float32",
    compile: bool = False,
    decoder: Decoder = "pyav",
    device: Device = None,
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    max_failures: float | str | None = None,
    on_error: OnError = "skip",
    follow_symlinks: bool = False,
    shard: str | None = None,
    extend: bool = False,
    overwrite: bool = False,
    show_progress_bar: bool | None = None,
) -> EmbedResult:
    """Write one row of features for each clip, or each window of it, in sorted order; call again to go on after a kill.

    Beside `feats.npy` appear `feats.index.jsonl` (line i describes row i), `feats.errors.jsonl` (clips that failed, and
    why), `feats.inputs.jsonl` (every clip, and how many rows it gave) and `feats.meta.json`. Until all are complete the
    state is in `feats.npy.work/`. SIGINT or SIGTERM saves it and returns with `interrupted=True`.

    Args:
        inputs: files, directories (searched recursively), patterns such as `clips/**/*.mp4`, and lists of clips:
            `.txt`, `.csv` or `.jsonl`, see `vjepa_sdk.corpus.lists`, or data frames of pandas, polars or pyarrow. Their
            further columns go into the index. For video models a directory of numbered images is one video; for image
            models every image is a clip.
        out: `.npy` (all rows of one shape), `.npz`, `.safetensors` (one array for each row) or `.parquet` (a table,
            needs pyarrow).
        split: only lines of lists that have this in their column `split`.
        model: a name from `list_models()`, a model directory or a hub id.
        revision: branch, tag or commit of a hub repository.
        weights: `target` or `context` encoder; None takes what is there, target first.
        pooling: `mean` [D], `temporal` [T', D], `grid` [T', 3, 3, D], `change` [T' - 1, H', W'] or `none`
            [T', H', W', D].
        layers: the last so many blocks, or their numbers from 0; they add an axis before those of `pooling`. None: the
            model's output.
        num_frames: frames of each clip or window; None: the model's own.
        fps: take frames at this rate from the start, instead of spread evenly over the video; in windows, see
            `VJEPA.extract`.
        window_seconds: cut each video into windows of this length, a row for each, as `VJEPA.extract` does; those of a
            part of a video start where it starts. None: `num_frames / fps` if `stride_seconds` is given, else no
            windows.
        stride_seconds: from the start of one window to the start of the next; None: windows follow each other.
        tail: what becomes of an end that does not fill a window: `pad`, `drop` or `overlap`.
        source_fps: frame rate of frame directories, needed for their seconds and with `fps`.
        batch_size: clips encoded together.
        normalize_embeddings: scale each vector to length 1.
        dtype: of the features on disk.
        precision: what they are computed in: `float32`, `bfloat16`, `float16`, `int8`, or `auto`, which measures
            whether bfloat16 is quicker here; a job that goes on keeps what it began with.
        compile: let `torch.compile` make the model faster, at a cost of seconds to minutes at the start.
        decoder: `pyav`, or `decord` for frame-for-frame parity with the official pipelines.
        device: `cuda`, `mps` or `cpu`; None: the best there is.
        num_workers: decoding processes; 0 decodes in this process, without a deadline.
        deadline_seconds: a clip that takes longer to decode is tried once more, then it has failed. All windows of a
            video may take 60 times as long, and as long again for each MiB of it.
        max_failures: stop when more than this share of the clips has failed, such as 0.05 or `5%`; None: never.
        on_error: `skip` lists a clip that fails and goes on, `stop` raises.
        follow_symlinks: read what symbolic links point to; else those found in directories are left out, with a
            warning, and those named are an error.
        shard: take one share of the inputs, such as `3/16` (from `1/16` to `16/16`), by a hash of the ids, see
            `vjepa_sdk.inference.embed.shards`; or `auto`: as torchrun's RANK and WORLD_SIZE say, or Slurm's array.
            `merge_embeddings` makes one output of all shares.
        extend: add the clips that an existing output does not have yet, after its rows, which stay as they are.
        overwrite: replace an existing output, or unfinished work, that belongs to other settings.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: an option that is not valid.
        InputError: an input does not exist or is a link, a directory holds no clip, or a list is not valid.
        OutputError: the output exists with other settings, or cannot be written; a full disk.
        InUseError: another live run works on this output.
        ResumeError: unfinished work, or the output to extend, belongs to other inputs, settings, weights or versions.
        VideoDecodeError: every clip failed, more than `max_failures` did, or one did and `on_error` is `stop`.
    """
    options = EmbedOptions(
        split=split,
        # a path object is never a hub id, even if it looks like one
        model=model if isinstance(model, str) else os.path.join(os.curdir, os.path.expanduser(model)),
        revision=revision,
        weights=weights,
        pooling=pooling,
        layers=layers if layers is None or isinstance(layers, int) else tuple(layers),
        num_frames=num_frames,
        fps=fps,
        window_seconds=window_seconds,
        stride_seconds=stride_seconds,
        tail=tail,
        source_fps=source_fps,
        batch_size=batch_size,
        normalize_embeddings=normalize_embeddings,
        dtype=dtype,
        precision=precision,
        compile=compile,
        decoder=decoder,
        device=device_name(device),
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        on_error=on_error,
        follow_symlinks=follow_symlinks,
        shard=shard,
        extend=extend,
        overwrite=overwrite,
        show_progress_bar=show_progress_bar,
    )
    return run_job(options, inputs, Path(out))


def run_job(options: EmbedOptions, inputs: Inputs | FoundClips, out: Path) -> EmbedResult:
    """Run a job whose options are checked; see `embed_files`."""
    started = time.monotonic()
    load_torch_from_anywhere()
    path = check_output(out)
    with Workspace(path.with_name(f"{path.name}.work")) as work:
        if work.is_committed:  # a run was killed while it moved its output into place
            finish(path, work)
        result = _embed(options, path, inputs, work, started)
    return replace(result, seconds=time.monotonic() - started)


def _embed(
    options: EmbedOptions, out: Path, inputs: Inputs | FoundClips, work: Workspace, started: float
) -> EmbedResult:
    """Find out what is left to do, and do it. Whatever can be refused is refused before torch is imported."""
    output = None if options.overwrite else existing_output(out)
    if output is not None:
        output.check(options.settings, extend=options.extend)
    links: Links = "follow" if options.follow_symlinks else "refuse"
    if isinstance(inputs, FoundClips):
        found = inputs
    else:
        show = options.show_progress_bar
        found = find_clips(inputs, links=links, split=options.split, show_progress_bar=show)
    directory = find_model(options)
    shape = read_shape(directory)
    num_frames = options.frames_per_row(shape.config.num_frames)
    if options.clip_set is None:
        shape.config.check_num_frames(num_frames)
    wants_stills = shape.config.is_image_model and not options.has_windows
    sources = found.clips("stills" if wants_stills else "frames")
    share = take_share(
        sources,
        options.taken_shard,
        batch_size=options.batch_size,
        in_batches=options.clip_set is None and not options.has_windows,
    )
    clips = describe_clips(share.sources, show_progress_bar=options.show_progress_bar)
    columns = ListColumns.of(share.sources, inputs=sources)
    noted = [output.meta["plan"] if output is not None else None, work.read_plan()]
    digest = digest_model(directory, [each for each in noted if each is not None])
    settings = {**options.settings, "model_sha256": digest.sha256}
    extension = None
    if output is not None:
        output.check(settings, extend=options.extend, share=share.facts, clips=None if options.extend else clips)
        extension = output.extension(clips) if options.extend else None
        output.verify()
        if extension is None or not extension.clips:
            if is_new := update_columns(out, output.meta, work, columns):
                finish(out, work)
            rows, failed = output.rows, output.failed
            return EmbedResult(out=out, rows=rows, failed=failed, already_complete=True, columns_updated=is_new)
    todo = extension.clips if extension else clips
    slots = share.slots or Slots.in_turn(len(todo), options.batch_size)
    job = Job(options, out, settings, digest.stamps, todo, columns, share.facts, slots, extension)
    unfinished = job.unfinished(work)
    parts = work.recover() if unfinished is not None else []
    done = [job.clips[number].id for part in parts if part.end is None for number in range(part.first, part.last)]
    _check_room(job, shape, num_frames=num_frames, num_done=options.num_rows(done))
    # decoding processes load torch while this one does
    listed, before = time.monotonic(), _children_seconds()
    with prepare(options.num_workers, "vjepa_sdk.video.clips", "av") as nursery:
        result = _run(job, directory, work, parts, started, nursery, listed)
    return replace(result, decode_cpu_seconds=_children_seconds() - before)


def _children_seconds() -> float:
    """Return processor seconds of all child processes that have ended; 0 on Windows."""
    times = os.times()
    return times.children_user + times.children_system


def _run(
    job: Job,
    directory: Path,
    work: Workspace,
    parts: list[Part],
    started: float,
    nursery: Nursery | None,
    listed: float,
) -> EmbedResult:
    """Encode what no part has, and publish."""
    options, extension = job.options, job.extension
    environment = describe_environment(options)
    unfinished = job.unfinished(work, environment)
    model, loader = load_model(directory, options, precision=job.settled_precision(unfinished))
    threads = num_threads() if unfinished is None else unfinished["num_threads"]
    taken: dict[str, Any] = {"num_threads": threads}
    if options.precision == "auto":
        logger.info("precision=auto: features are computed in %s", model.precision)
        taken["precision"] = model.precision
    # from the plan on there is something to go on with, and a signal says so
    with stop_on_signal() as stop, on_threads(threads):
        if unfinished is None:
            parts = []
            work.start({**job.plan, "environment": environment, **taken}, job.units)
        row_shape = None if extension is None else extension.base.row_shape
        ledger = Ledger(len(job.clips), options=options, out=job.out, parts=parts, row_shape=row_shape, work=work)
        encoding = Encoding(job.clips, model, loader, slots=job.slots, options=options, ledger=ledger, nursery=nursery)
        ready = time.monotonic()
        is_complete = encoding.run(stop)
        result = EmbedResult(
            out=job.out,
            rows=ledger.rows_on_disk + (extension.base.rows if extension else 0),
            failed=ledger.failed + (extension.num_failed if extension else 0),
            interrupted=not is_complete,
            clips=ledger.num_taken,
            windows=encoding.num_windows,
            seconds=time.monotonic() - started,
            clips_seconds=encoding.seconds,
            decode_wait_seconds=encoding.decode_wait_seconds,
            encode_seconds=encoding.encode_seconds,
            listing_seconds=listed - started,
            starting_seconds=ready - listed + encoding.first_clip_seconds,
        )
        if is_complete:
            about = _about(result, job, {**environment, **taken}, model, loader)
            write_output(
                job.out, work, ledger.parts, clips=job.clips, columns=job.columns, extension=extension, about=about
            )
    return result


def _check_room(job: Job, shape: Shape, *, num_frames: int, num_done: int) -> None:
    """Refuse a job that cannot fit: what is left is written twice, as parts and as the output made of them."""
    size = np.dtype(job.options.dtype).itemsize
    layers = job.options.layers
    num_layers = 1 if layers is None else layers if isinstance(layers, int) else len(layers)
    row = size * shape.values_per_row(job.options.pooling, num_frames, num_layers=num_layers)
    row *= job.options.num_encoders
    num_rows = job.options.num_rows([clip.id for clip in job.clips])
    needed = row * (2 * num_rows - num_done)
    needed += job.out.stat().st_size if job.extension is not None else 0
    free = shutil.disk_usage(job.out.parent).free
    if job.options.clip_set is not None:
        logger.info(
            "%s: %s rows of %s bytes, %s bytes on disk, twice that while it is made, %s are free",
            job.out, f"{num_rows:,}", f"{row:,}", f"{num_rows * row:,}", f"{free:,}",
        )  # fmt: skip
    if needed > free:
        raise OutputError(f"{job.out}: needs {needed:,} bytes while it is made, {free:,} are free; free some space")


def _timings(result: EmbedResult) -> dict[str, float]:
    """Return where the seconds of a run went until its output is written; what is not told apart is its rows."""
    parts = {
        "listing": result.listing_seconds,
        "starting": result.starting_seconds,
        "waiting": result.decode_wait_seconds,
        "encoding": result.encode_seconds,
    }
    parts["rows"] = max(0.0, result.seconds - sum(parts.values()))
    return {name: round(seconds, 3) for name, seconds in parts.items()}


def _about(
    result: EmbedResult,
    job: Job,
    environment: Mapping[str, Any],
    model: VJEPA,
    loader: ClipLoader | WindowLoader | SegmentLoader,
) -> dict[str, Any]:
    """Return what the meta file says of an output, besides counts and checksums."""
    from ...config.schema import to_dict

    about = {
        "format_version": OUTPUT_FORMAT,
        "seconds": round(result.seconds, 3),
        "clips_seconds": round(result.clips_seconds, 3),
        "decode_wait_seconds": round(result.decode_wait_seconds, 3),
        "timings": _timings(result),
        "model": {
            "name": job.options.model,
            "sha256": job.settings["model_sha256"],
            "family": model.config.family,
            "encoder_weights": model.encoder_weights,
            "provenance": dict(model.provenance),
        },
        "settings": {**job.options.settings, **describe_sampling(loader)},
        "preprocess": to_dict(model.preprocess),
        "environment": dict(environment),
        "plan": job.described,
    }
    if job.columns.facts is not None:
        about["columns"] = job.columns.facts
    if job.extension is not None:  # its rows may come from other versions or another machine
        old = job.extension.base.meta
        runs = [*old.get("earlier_runs", []), {key: old[key] for key in ("rows", "seconds", "environment")}]
        about["earlier_runs"] = runs
    return about
