"""The model of a job: find it, tell it from others by a digest, load it with what reads its clips."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config.choices import Precision
from ...errors import WeightsError
from ...runtime.files import digest_of, sha256_of
from ...weights.description import local_directory
from .options import ComparedOptions, EmbedOptions

if TYPE_CHECKING:
    from ...video.clips import ClipLoader, WindowLoader
    from ...video.segments import SegmentLoader
    from ..vjepa import VJEPA

_SETTLED_NS = 2_000_000_000  # file systems count time in steps, some in seconds


def find_model(options: EmbedOptions) -> Path:
    """Return the model's directory; the hub's client is imported only for what is not on this disk."""
    # a revision is for the hub; with a directory it is refused there
    if options.revision is None and (local := local_directory(options.model)) is not None:
        return local
    from ...hub.client import HubOptions
    from ...hub.locate import locate_model

    return locate_model(options.model, HubOptions(revision=options.revision))


@dataclass(frozen=True)
class ModelDigest:
    """Which model a directory holds."""

    sha256: str
    """Over everything that decides it: its configuration and weights."""
    stamps: dict[str, list[int]] | None
    """Of its files, by which the digest is known again without reading them; None: they are too new to tell from what
    may be written in the same instant."""


def digest_model(directory: Path, noted: Iterable[Mapping[str, Any]]) -> ModelDigest:
    """Return the digest of a model, from what was noted of the same files where they were not touched since.

    Args:
        noted: what plans and meta files say: `settings` with the digest, and `model_stamps`.

    Raises:
        WeightsError: the directory holds no model.
    """
    now, stamps = time.time_ns(), {path.name: _stamp(path) for path in _files(directory)}
    for each in noted:
        if each.get("model_stamps") == stamps:
            return ModelDigest(str(each["settings"]["model_sha256"]), stamps)
    newest = max(stamp[-1] for stamp in stamps.values())
    return ModelDigest(model_sha256(directory), stamps if now - newest > _SETTLED_NS else None)


def model_sha256(directory: Path) -> str:
    """Return one digest over everything that decides a model: its configuration and weights."""
    return digest_of({path.name: sha256_of(path) for path in _files(directory)})


def _files(directory: Path) -> list[Path]:
    files = sorted(path for path in directory.glob("*") if path.suffix in (".json", ".safetensors"))
    if not files:
        raise WeightsError(f"{directory}: holds no model; pass a model directory or a name from `vjepa models`")
    return files


def _stamp(path: Path) -> list[int]:
    """Return numbers that change when a file is written or replaced, whatever time it is given: the last is of that."""
    facts = path.stat()
    return [facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def load_model(
    directory: Path, options: EmbedOptions, *, precision: Precision | None = None
) -> tuple[VJEPA, ClipLoader | WindowLoader | SegmentLoader]:
    """Load the model, and check against it what can only be checked now.

    Args:
        precision: what `auto` was settled to; None: that of the options.
    """
    from ...video.segments import SegmentLoader
    from ..vjepa import VJEPA

    model = VJEPA.from_pretrained(
        directory,
        weights=options.weights,
        device=options.device,
        precision=precision or options.precision,
        compile=options.compile,
    )
    if isinstance(options, ComparedOptions):
        from ..baselines import WithBaselines

        model = WithBaselines(model, options.baselines)
    if options.layers is not None:
        model.layer_numbers(options.layers)
    if options.clip_set is not None:
        return model, SegmentLoader.for_model(
            model.config,
            model.preprocess,
            options.clip_set,
            augmentation=options.augmentation,
            decoder=options.decoder,
        )
    if not options.has_windows:
        return model, model.clip_loader(
            num_frames=options.num_frames, fps=options.fps, source_fps=options.source_fps, decoder=options.decoder
        )
    return model, model.window_loader(
        window_seconds=options.window_seconds,
        num_frames=options.num_frames,
        fps=options.fps,
        stride_seconds=options.stride_seconds,
        tail=options.tail,
        source_fps=options.source_fps,
        decoder=options.decoder,
    )


def describe_sampling(loader: ClipLoader | WindowLoader | SegmentLoader) -> dict[str, Any]:
    """Return the settings that were left to the model, or follow from others."""
    from ...video.clips import WindowLoader
    from ...video.segments import SegmentLoader

    if isinstance(loader, SegmentLoader):
        return {"num_frames": loader.clip_set.num_frames}
    if not isinstance(loader, WindowLoader):
        return {"num_frames": loader.sampling.num_frames}
    names = ("num_frames", "window_seconds", "stride_seconds")
    return {name: getattr(loader.windowing, name) for name in names}
