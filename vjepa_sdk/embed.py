"""Export features of a corpus: a job that can be killed anywhere and run again.

    inputs ── frozen plan ── batches ──> decoding processes ──> encoder ──> parts ──> one output, by one rename

A kill at any moment leaves either the work so far or the finished output, never something in between.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .corpus import Clip, clip_changes, describe_clip, setting_changes
from .embeddings import Embeddings, check_suffix, json_line, load_embeddings, sidecar, write_features
from .encoding import Decoder, EmbedOptions, Encoding, OnError, Pooling, stored_outcomes
from .errors import InputError, OutputError, ResumeError, VideoDecodeError, WeightsError
from .journal import Part, Workspace, digest_of, disk_errors
from .registry import DEFAULT_MODEL
from .signals import stop_on_signal
from .storage import atomic_file, sha256_of, write_json
from .video import find_videos

if TYPE_CHECKING:
    from .api import VJEPA, ClipLoader

__all__ = ["EmbedResult", "Embeddings", "embed_files", "load_embeddings"]

FORMAT_VERSION = 1
_FEATURES, _INDEX, _ERRORS, _META = "features", "index.jsonl", "errors.jsonl", "meta.json"
_META_KEYS, _IDENTITY_KEYS = {"output", "plan", "rows", "failed", "sha256"}, {"settings", "inputs_sha256"}


@dataclass(frozen=True, kw_only=True)
class EmbedResult:
    """How a job ended."""

    out: Path
    rows: int
    """Clips with features, so far if the run was interrupted."""
    failed: int
    """Clips without; `errors_path` says why."""
    already_complete: bool = False
    """The output was there before; nothing was done."""
    interrupted: bool = False
    """A signal stopped the run; its state is saved, call again to go on."""
    seconds: float = 0.0
    """Of this run."""
    decode_wait_seconds: float = 0.0
    """Of these, how long the encoder waited for clips."""

    @property
    def errors_path(self) -> Path:
        """List of the clips that failed, with reasons."""
        return sidecar(self.out, _ERRORS)


def embed_files(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    revision: str | None = None,
    weights: Literal["target", "context"] | None = None,
    pooling: Pooling = "mean",
    num_frames: int | None = None,
    fps: float | None = None,
    batch_size: int = 8,
    normalize_embeddings: bool = False,
    decoder: Decoder = "pyav",
    device: str | None = None,
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    max_failures: float | None = None,
    on_error: OnError = "skip",
    overwrite: bool = False,
    show_progress_bar: bool | None = None,
) -> EmbedResult:
    """Write one row of features for each video, in sorted order; call again to go on after a kill.

    Beside `feats.npy` appear `feats.index.jsonl` (line i describes row i), `feats.errors.jsonl` (clips that failed, and
    why) and `feats.meta.json`. Until all are complete the state is in `feats.npy.work/`. SIGINT or SIGTERM saves it and
    returns with `interrupted=True`.

    Args:
        inputs: video files, directories (searched recursively) and patterns such as `clips/**/*.mp4`.
        out: `.npy` (all rows of one shape), `.npz` or `.safetensors` (one array for each row).
        model: a name from `list_models()`, a model directory or a hub id.
        revision: branch, tag or commit of a hub repository.
        weights: `target` or `context` encoder; None takes what is there, target first.
        pooling: `mean` [D], `temporal` [T', D] or `none` [T', H', W', D].
        num_frames: frames of each clip; None: the model's own.
        fps: take frames at this rate from the start, instead of spread evenly over the video.
        batch_size: clips encoded together.
        normalize_embeddings: scale each vector to length 1.
        decoder: `pyav`, or `decord` for frame-for-frame parity with the official pipelines.
        device: `cuda`, `mps` or `cpu`; None: the best there is.
        num_workers: decoding processes; 0 decodes in this process, without a deadline.
        deadline_seconds: a clip that takes longer to decode has failed.
        max_failures: stop when more than this fraction of the clips has failed; None: never.
        on_error: `skip` lists a clip that fails and goes on, `stop` raises.
        overwrite: replace an existing output, or unfinished work, that belongs to other settings.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: an option that is not valid.
        InputError: an input does not exist, or a directory holds no video.
        OutputError: the output exists with other settings, or cannot be written; a full disk.
        InUseError: another live run works on this output.
        ResumeError: unfinished work belongs to other inputs, settings, weights or versions.
        VideoDecodeError: every clip failed, more than `max_failures` did, or one did and `on_error` is `stop`.
    """
    options = EmbedOptions(
        # a path object is never a hub id, even if it looks like one
        model=model if isinstance(model, str) else os.path.join(os.curdir, os.path.expanduser(model)),
        revision=revision,
        weights=weights,
        pooling=pooling,
        num_frames=num_frames,
        fps=fps,
        batch_size=batch_size,
        normalize_embeddings=normalize_embeddings,
        decoder=decoder,
        device=device,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        on_error=on_error,
        overwrite=overwrite,
        show_progress_bar=show_progress_bar,
    )
    started = time.monotonic()
    path = _checked_output(Path(out))
    named = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    clips = [describe_clip(video) for video in find_videos(named)]
    if not clips:
        raise InputError("inputs is empty; pass at least one file, directory or pattern")
    with Workspace(path.with_name(f"{path.name}.work")) as work:
        return _embed(options, path, clips, work, started)


def _checked_output(out: Path) -> Path:
    """Refuse outputs that cannot work, before anything is imported or fetched."""
    check_suffix(out)
    if out.is_dir():
        raise OutputError(f"{out}: is a directory; name a file in it")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: its directory does not exist; make it with mkdir -p {out.parent}")
    owner = (_read_meta(out) or {}).get("output", out.name)
    if owner != out.name and out.with_name(str(owner)).exists():
        raise OutputError(f"{sidecar(out, _INDEX)}: belongs to {owner}; choose another name for {out.name}")
    return out


def _read_meta(out: Path) -> dict[str, Any] | None:
    """Return what `vjepa embed` wrote of an output, None if it did not."""
    try:
        meta = json.loads(sidecar(out, _META).read_bytes())
        is_ours = meta.keys() >= _META_KEYS and meta["plan"].keys() >= _IDENTITY_KEYS
    except (OSError, ValueError, AttributeError):
        return None
    return meta if is_ours else None


def _embed(options: EmbedOptions, out: Path, clips: Sequence[Clip], work: Workspace, started: float) -> EmbedResult:
    """Find out what is left to do, and do it."""
    plan: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "settings": options.settings,
        "inputs": [asdict(clip) for clip in clips],
    }
    if not options.overwrite:
        _existing_output(out, plan)  # refused before torch is imported and a model fetched
    directory = _locate_model(options)
    plan["settings"]["model_sha256"] = _model_sha256(directory)
    if not options.overwrite and (meta := _existing_output(out, plan)) is not None:
        _tidy(out, work, plan, meta)
        seconds = time.monotonic() - started
        return EmbedResult(out=out, rows=meta["rows"], failed=meta["failed"], already_complete=True, seconds=seconds)
    plan["environment"] = _environment(options)
    unfinished = _unfinished(work, plan, clips, overwrite=options.overwrite)
    model, loader = _load_model(directory, options)
    parts = [] if unfinished is None else work.recover()
    _check_room(out, model, loader, options, num_rows=2 * len(clips) - sum(part.last - part.first for part in parts))
    threads = _num_threads() if unfinished is None else unfinished["num_threads"]
    if unfinished is None:
        work.start({**plan, "num_threads": threads})
    encoding = Encoding(clips, model, loader, options=options, out=out, parts=parts, work=work)
    with stop_on_signal() as stop, _on_threads(threads):
        is_complete = encoding.run(stop)
        result = EmbedResult(
            out=out,
            rows=sum(part.facts["rows"] for part in encoding.parts),
            failed=encoding.failed,
            interrupted=not is_complete,
            seconds=time.monotonic() - started,
            decode_wait_seconds=encoding.decode_wait_seconds,
        )
        if is_complete:
            _publish(out, work, encoding.parts, about=_about(result, options, plan, model, loader))
    return result


def _existing_output(out: Path, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what is known of a complete output, None if there is none; refuse one made by another plan.

    Of settings only those that `plan` has already are compared.
    """
    if not os.path.lexists(out):
        return None
    meta = _read_meta(out)
    if meta is None:
        raise OutputError(f"{out}: exists and was not made by `vjepa embed`; choose another --out, or pass --overwrite")
    old, new = meta["plan"], _identity(plan)
    changes = setting_changes(old["settings"], new.pop("settings"))
    changes += ["inputs: other files, or modified"] if old["inputs_sha256"] != new["inputs_sha256"] else []
    if changes:
        raise OutputError(
            f"{out}: exists and was made differently ({'; '.join(changes)}); choose another --out, or pass --overwrite"
        )
    return meta


def _identity(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes two outputs the same: settings, weights and inputs, in any environment."""
    return {"settings": plan["settings"], "inputs_sha256": digest_of(plan["inputs"])}


def _tidy(out: Path, work: Workspace, plan: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Verify a complete output, and clear what a run that was killed after its last rename left behind."""
    if meta["sha256"] != sha256_of(out):
        raise OutputError(f"{out}: is not the file that {sidecar(out, _META)} describes; pass --overwrite to redo it")
    unfinished = work.read_plan()
    if unfinished is None or _identity(unfinished) == _identity(plan):
        work.remove()


def _unfinished(
    work: Workspace, plan: Mapping[str, Any], clips: Sequence[Clip], *, overwrite: bool
) -> dict[str, Any] | None:
    """Return the plan of unfinished work to go on with, None if there is none; refuse work that has another plan."""
    old = work.read_plan()
    if old is None:
        return None
    changes = setting_changes({"format_version": old["format_version"]}, {"format_version": plan["format_version"]})
    if not changes:  # another format may lack what is compared here
        changes += setting_changes(old["settings"], plan["settings"])
        changes += setting_changes(old["environment"], plan["environment"])
        changes += clip_changes(old["inputs"], clips)
    if changes and not overwrite:
        raise ResumeError(
            f"{work.directory}: holds unfinished work with another plan ({'; '.join(changes)}); "
            "restore that, or pass --overwrite to start over"
        )
    return None if changes else old


def _locate_model(options: EmbedOptions) -> Path:
    from .hub import locate_model

    return locate_model(options.model, revision=options.revision)


def _model_sha256(directory: Path) -> str:
    """Return one digest over everything that decides a model: its configuration and weights."""
    files = sorted(path for path in directory.glob("*") if path.suffix in (".json", ".safetensors"))
    if not files:
        raise WeightsError(f"{directory}: holds no model; pass a model directory or a name from `vjepa models`")
    return digest_of({path.name: sha256_of(path) for path in files})


def _environment(options: EmbedOptions) -> dict[str, str]:
    """Return what changes the last bits of features: versions, and the kind of processor."""
    import torch

    from . import __version__
    from .devices import best_device

    device = best_device(options.device)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    packages = ["av", "numpy", "torch", *(["decord"] if options.decoder == "decord" else [])]
    return {"vjepa_sdk": __version__, "device": f"{device.type} {kind}", **{name: version(name) for name in packages}}


def _load_model(directory: Path, options: EmbedOptions) -> tuple[VJEPA, ClipLoader]:
    from .api import VJEPA

    model = VJEPA.from_pretrained(directory, weights=options.weights, device=options.device)
    return model, model.clip_loader(num_frames=options.num_frames, fps=options.fps, decoder=options.decoder)


def _num_threads() -> int:
    import torch

    return torch.get_num_threads()


@contextmanager
def _on_threads(count: int) -> Iterator[None]:
    """Compute on as many threads as the job began with: they can change the last bits of a matrix product."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_room(out: Path, model: VJEPA, loader: ClipLoader, options: EmbedOptions, *, num_rows: int) -> None:
    """Refuse a job that cannot fit: `num_rows` are still to be written, as parts and as the output made of them."""
    values = model.config.embed_dim
    if options.pooling != "mean":
        values *= max(1, loader.sampling.num_frames // loader.tubelet_size)
    if options.pooling == "none":
        values *= (model.preprocess.crop_size // model.config.patch_size) ** 2
    needed = 4 * values * num_rows
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise OutputError(f"{out}: needs {needed:,} bytes while it is made, {free:,} are free; free some space")


def _about(
    result: EmbedResult, options: EmbedOptions, plan: Mapping[str, Any], model: VJEPA, loader: ClipLoader
) -> dict[str, Any]:
    """Return what the meta file says of an output, besides its checksum."""
    from .schema import to_dict

    return {
        "format_version": FORMAT_VERSION,
        "output": result.out.name,
        "clips": result.rows + result.failed,
        "rows": result.rows,
        "failed": result.failed,
        "seconds": round(result.seconds, 3),
        "decode_wait_seconds": round(result.decode_wait_seconds, 3),
        "model": {
            "name": options.model,
            "sha256": plan["settings"]["model_sha256"],
            "family": model.config.family,
            "encoder_weights": model.encoder_weights,
            "provenance": dict(model.provenance),
        },
        "settings": {**options.settings, "num_frames": loader.sampling.num_frames},
        "preprocess": to_dict(model.preprocess),
        "environment": {**plan["environment"], "num_threads": _num_threads()},
        "plan": _identity(plan),
    }


def _publish(out: Path, work: Workspace, parts: Sequence[Part], *, about: Mapping[str, Any]) -> None:
    """Assemble the output from the parts and move it into place."""
    parts = sorted(parts, key=lambda part: part.first)
    shapes: list[tuple[int, ...]] = []
    failures: list[dict[str, Any]] = []
    with disk_errors(out):
        with atomic_file(work.directory / _INDEX) as index:
            for outcome in stored_outcomes(work, parts):
                if outcome.row is None:
                    failures.append(outcome.entry)
                else:
                    index.write(json_line({"row": len(shapes), **outcome.entry}))
                    shapes.append(outcome.row.shape)
        with atomic_file(work.directory / _ERRORS) as errors:
            errors.writelines(map(json_line, failures))
        if not shapes:
            _give_up(out, work, failures)
        with atomic_file(work.directory / _FEATURES) as file:
            rows = (outcome.row for outcome in stored_outcomes(work, parts) if outcome.row is not None)
            write_features(file, rows, suffix=out.suffix, shapes=shapes)
        sha256 = sha256_of(work.directory / _FEATURES)
        write_json(work.directory / _META, {**about, "sha256": sha256})
    names = (_INDEX, _ERRORS, _META)
    work.publish([*((name, sidecar(out, name)) for name in names), (_FEATURES, out)], stale=out)
    work.remove()


def _give_up(out: Path, work: Workspace, failures: Sequence[Mapping[str, Any]]) -> None:
    """Report that every clip failed; the list of reasons stays, unless an older output stands there."""
    hint = ""
    if not os.path.lexists(out):
        os.replace(work.directory / _ERRORS, sidecar(out, _ERRORS))
        hint = f"; {sidecar(out, _ERRORS)} lists all reasons"
    work.remove()  # so that the next run tries them all again
    raise VideoDecodeError(
        f"all {len(failures)} clips failed, for example {failures[0]['path']}: {failures[0]['reason']}{hint}"
    )
