"""Encode videos as a probe reads them, and let it say what they show."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.choices import Decoder
from ..config.protocols import ClipSet
from ..corpus.find import FoundClips
from ..errors import ConfigError, StoppedError
from ..features.embeddings import Embeddings
from ..hub.locate import load_embeddings
from ..inference.embed.job import run_job
from ..inference.embed.model import find_model, model_sha256
from ..inference.embed.options import EmbedOptions
from ..models.attentive_probe import ProbeConfig
from .fit import Examples
from .labelled_features import failures_of, keep_clips, match
from .labels import LabelledClip
from .probe import Probe
from .rows import views_of
from .view_predictions import predict_views


@dataclass(frozen=True, kw_only=True)
class UseOptions:
    """How videos are encoded for a probe; see `embed_files`."""

    model: str | None
    """None: the one that the probe names."""
    window_seconds: float | None
    """None: as the probe was fitted."""
    stride_seconds: float | None
    decoder: Decoder | None
    device: str | None
    num_workers: int
    deadline_seconds: float
    max_failures: float | str | None
    show_progress_bar: bool | None
    clip_set: ClipSet | None
    """Clips of an official protocol, instead of one or windows."""


@dataclass(frozen=True)
class Said:
    """What a probe says of labelled clips."""

    clips: list[LabelledClip]
    outputs: np.ndarray
    """Of each, the mean over its rows: probabilities `[n, classes]`, or numbers `[n, 1]`."""
    without: list[LabelledClip]
    """Clips that have no features."""
    failed: list[dict[str, Any]]
    model: str


def say(probe: Probe, clips: Sequence[LabelledClip], options: UseOptions, features: Path | None) -> Said:
    """Let a probe say what clips show, from a file of features or by encoding them."""
    sources = [clip.source for clip in clips]
    if features is None and options.clip_set is not None:
        job = checked_job(probe, options)
        found, failed = predict_views(probe, sources, job)
        kept = [clip for clip in clips if clip.source.id in found]
        outputs = np.stack([found[clip.source.id] for clip in kept])
        without = [clip for clip in clips if clip.source.id not in found]
        return Said(kept, outputs, without, failed, job.model)
    if features is not None:
        embeddings, failed = views_of(load_embeddings(features, memory_map=True)), failures_of(features)
    else:
        embeddings, failed = encode_for(probe, FoundClips(named=sources), options)
    rows, owners = match(clips, embeddings, features or Path("features"))
    kept, video, without = keep_clips(clips, owners)
    chosen = Embeddings(embeddings.features[rows], [embeddings.index[row] for row in rows], embeddings.meta)
    averaged = Examples.of(chosen.features, video, np.zeros(len(kept))).over_videos(probe.outputs(chosen))
    return Said(kept, averaged, without, failed, str(embeddings.meta["model"]["name"]))


def checked_job(probe: Probe, options: UseOptions) -> EmbedOptions:
    """Return the job that encodes clips for a probe; raises ConfigError if the model is not the probe's."""
    job = job_of(probe, options)
    if probe.source.is_known and model_sha256(find_model(job)) != probe.source.model.get("sha256"):
        raise ConfigError(
            f"the probe reads features of {probe.source.model.get('name')}, and {job.model} is another model; pass "
            "that one as model (--model), or fit a probe to this"
        )
    return job


def encode_for(probe: Probe, found: FoundClips, options: UseOptions) -> tuple[Embeddings, list[dict[str, Any]]]:
    """Encode clips as those of the probe's fit, in a temporary directory."""
    job = checked_job(probe, options)
    with tempfile.TemporaryDirectory(prefix="vjepa-probe-") as place:
        out = Path(place) / "features.npy"
        if run_job(job, found, out).interrupted:
            raise StoppedError("stopped by a signal; nothing was written, run the same command again")
        loaded = load_embeddings(out)
        return loaded, failures_of(out)


def job_of(probe: Probe, options: UseOptions) -> EmbedOptions:
    settings, config = probe.source.settings, probe.probe.config
    model = options.model or probe.model_name
    layers: Sequence[int] | int | None = settings.get("layers")
    if isinstance(config, ProbeConfig) and not probe.source.is_known:
        layers = config.layers or None
    windows = options.window_seconds is not None
    return EmbedOptions(
        split=None,
        model=model,
        revision=None,
        weights=probe.source.model.get("encoder_weights"),
        pooling=settings.get("pooling", "none" if probe.kind == "attentive" else "mean"),
        layers=tuple(layers) if isinstance(layers, Sequence) else layers,
        num_frames=settings.get("num_frames"),
        fps=None if windows else settings.get("fps"),
        window_seconds=options.window_seconds or settings.get("window_seconds"),
        stride_seconds=options.stride_seconds or settings.get("stride_seconds"),
        tail="pad" if windows else settings.get("tail") or "pad",
        source_fps=settings.get("source_fps"),
        batch_size=8,
        normalize_embeddings=bool(settings.get("normalize_embeddings")),
        dtype="float32",
        precision=settings.get("precision") or "float32",
        compile=False,
        decoder=options.decoder or settings.get("decoder", "pyav"),
        device=options.device,
        num_workers=options.num_workers,
        deadline_seconds=options.deadline_seconds,
        max_failures=options.max_failures,
        on_error="skip",
        follow_symlinks=False,
        shard=None,
        extend=False,
        overwrite=False,
        show_progress_bar=options.show_progress_bar,
        clip_set=options.clip_set,
    )
