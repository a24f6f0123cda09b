"""Let a probe that was fitted score or name the videos of files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..config.choices import Decoder
from ..corpus.find import FoundClips, find_clips
from ..errors import ConfigError, StoppedError
from ..features.embeddings import Embeddings
from ..hub.locate import load_embeddings
from ..inference.embed.job import run_job
from ..inference.embed.model import find_model, model_sha256
from ..inference.embed.options import EmbedOptions
from ..models.attentive_probe import ProbeConfig
from ..models.vector_probe import VectorProbe
from ..video.safety import PathLike
from ..weights.cards import name_of
from .fit import Examples
from .labelled_features import failures_of, fingerprints, keep_clips, match
from .labels import LabelledClip, Labels, read_labels
from .probe import Probe
from .probe_report import TRAINED_ROW, ProbeReport, Row
from .scores import Predictions, score


@dataclass(frozen=True)
class VideoPrediction:
    """What a probe says of one video, or of one window of it."""

    id: str
    path: str
    start_seconds: float | None
    """Of a window; None: of the whole video."""
    end_seconds: float | None
    labels: tuple[tuple[str, float], ...]
    """The most probable labels with their probabilities, best first; none of a probe of numbers."""
    value: float | None
    """Of a probe of numbers."""
    is_unlike: bool | None
    """Whether it is unlike all that the probe was fitted to; None: the probe cannot tell."""


@dataclass(frozen=True)
class PredictionReport:
    """What a probe says of files."""

    predictions: tuple[VideoPrediction, ...]
    failed: tuple[Mapping[str, Any], ...]
    """Clips that could not be decoded: `id`, `path`, `reason`."""


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


def evaluate_probe(
    probe: Probe | str | os.PathLike[str],
    labels: Labels,
    *,
    model: str | os.PathLike[str] | None = None,
    features: str | os.PathLike[str] | None = None,
    split: Literal["train", "val", "test"] | None = None,
    unknown: Literal["error", "wrong"] = "error",
    label_column: str = "label",
    split_column: str = "split",
    group_column: str = "group",
    bootstrap: int = 1000,
    seed: int = 0,
    device: str | None = None,
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    max_failures: float | str | None = None,
    follow_symlinks: bool = False,
    show_progress_bar: bool | None = None,
) -> ProbeReport:
    """Score a probe on other labelled videos.

    Args:
        probe: a probe, its directory or hub id.
        labels: see `train_probe`.
        model: None: the one that the probe names.
        features: rows that `vjepa embed` wrote, instead of encoding the videos.
        split: use only the clips of this split; None: all.
        unknown: what becomes of labels that the probe does not know: an error, or they count as `wrong`.

    Raises:
        ConfigError: features of another model, pooling or preprocessing; or no clip of that split.
        InputError: labels that cannot be read, are unknown to the probe, or have no features.
        VideoDecodeError: every clip failed, or more than `max_failures` did.
        StoppedError: a signal came.
    """
    held = probe if isinstance(probe, Probe) else Probe.from_pretrained(probe, device=device)
    labelled = read_labels(
        labels,
        links="follow" if follow_symlinks else "refuse",
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
    )
    clips = [clip for clip in labelled.clips if split is None or clip.split == split]
    if not clips:
        raise ConfigError(f"no clip has split={split}; leave split out to score all {len(labelled.clips)}")
    options = UseOptions(
        model=None if model is None else os.fspath(model),
        window_seconds=None,
        stride_seconds=None,
        decoder=None,
        device=device,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        show_progress_bar=show_progress_bar,
    )
    if features is not None:
        embeddings, failed = load_embeddings(Path(features), memory_map=True), failures_of(Path(features))
        files = fingerprints(Path(features), clips)
    else:
        embeddings, failed, files = _encode(held, FoundClips(named=[clip.source for clip in clips]), options, clips)
    rows, owners = match(clips, embeddings, Path("features" if features is None else features))
    kept, video, without = keep_clips(clips, owners)
    chosen = Embeddings(embeddings.features[rows], [embeddings.index[row] for row in rows], embeddings.meta)
    predictions = _predictions(held, chosen, kept, video, unknown=unknown)
    more = () if predictions.is_number or predictions.outputs.shape[1] == len(held.names) else ("unknown to the probe",)
    scores = score(predictions, (*held.names, *more), bootstrap=bootstrap, seed=seed)
    notes = [f"groups are {labelled.grouped_by}"]
    known = set(held.fitted.get("files", []))
    if seen := sum(file in known for file in files):
        notes.append(f"{seen} of these videos were fitted to: what the probe says of them is no test")
    if without:
        notes.append(f"{len(without)} clips have no features and were left out")
    return ProbeReport(
        out="probe" if isinstance(probe, Probe) else os.fspath(probe),
        kind=held.kind,
        model=name_of(str(embeddings.meta["model"]["name"])),
        num_train=0,
        num_test=len(kept),
        num_groups=scores.num_groups,
        scores=scores,
        rows=(Row(TRAINED_ROW, scores.metrics, scores.intervals), _most_frequent(predictions)),
        difference=None,
        difference_interval=None,
        notes=tuple(notes),
        failed=tuple(each for each in failed if each["id"] in {clip.source.id for clip in without}),
        fitted=held.fitted,
    )


def predict_files(
    probe: Probe | str | os.PathLike[str],
    inputs: PathLike | Iterable[PathLike],
    *,
    model: str | os.PathLike[str] | None = None,
    top_k: int = 5,
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
    decoder: Decoder | None = None,
    device: str | None = None,
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    max_failures: float | str | None = None,
    follow_symlinks: bool = False,
    show_progress_bar: bool | None = None,
) -> PredictionReport:
    """Let a probe name what the videos of files show.

    Args:
        probe: a probe, its directory or hub id.
        inputs: as for `embed_files`.
        model: None: the one that the probe names; an official probe names none.
        top_k: labels of each video.
        window_seconds: name windows of this length too, and average them over each video; None: as the probe was
            fitted.
        stride_seconds: from window to window; None: they follow each other.
        decoder: None: as the probe was fitted.

    Raises:
        ConfigError: another model than the probe's; or an official probe without `model`.
        InputError: an input does not exist, or holds no video.
        VideoDecodeError: every clip failed, or more than `max_failures` did.
        StoppedError: a signal came.
    """
    if top_k < 1:
        raise ConfigError(f"top_k={top_k} must be at least 1")
    held = probe if isinstance(probe, Probe) else Probe.from_pretrained(probe, device=device)
    options = UseOptions(
        model=None if model is None else os.fspath(model),
        window_seconds=window_seconds,
        stride_seconds=stride_seconds,
        decoder=decoder,
        device=device,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        show_progress_bar=show_progress_bar,
    )
    found = find_clips(inputs, links="follow" if follow_symlinks else "refuse")
    embeddings, failed, _ = _encode(held, found, options)
    if window_seconds is not None and held.source.is_known:  # a window is a clip like those of the fit
        settings = {**held.source.settings, "window_seconds": embeddings.meta["settings"]["window_seconds"]}
        held = replace(held, source=replace(held.source, settings={**settings, "fps": None}))
    return PredictionReport(tuple(_describe(held, embeddings, top_k)), tuple(failed))


def _encode(
    probe: Probe, found: FoundClips, options: UseOptions, clips: Sequence[LabelledClip] = ()
) -> tuple[Embeddings, list[dict[str, Any]], list[str]]:
    """Encode clips as those of the probe's fit, in a temporary directory.

    Returns:
        The features, the clips that failed, and what tells the files of labelled `clips`.
    """
    job = _job(probe, options)
    if probe.source.is_known and model_sha256(find_model(job)) != probe.source.model.get("sha256"):
        raise ConfigError(
            f"the probe reads features of {probe.source.model.get('name')}, and {job.model} is another model; pass "
            "that one as model (--model), or fit a probe to this"
        )
    with tempfile.TemporaryDirectory(prefix="vjepa-probe-") as place:
        out = Path(place) / "features.npy"
        if run_job(job, found, out).interrupted:
            raise StoppedError("stopped by a signal; nothing was written, run the same command again")
        return load_embeddings(out), failures_of(out), fingerprints(out, clips)


def _job(probe: Probe, options: UseOptions) -> EmbedOptions:
    settings, config = probe.source.settings, probe.probe.config
    model = options.model or probe.model_name
    layers: Sequence[int] | int | None = settings.get("layers")
    if isinstance(config, ProbeConfig) and not probe.source.is_known:
        layers = config.layers or None
    windows = options.window_seconds is not None
    return EmbedOptions(
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
        decoder=options.decoder or settings.get("decoder", "pyav"),
        device=options.device,
        num_workers=options.num_workers,
        deadline_seconds=options.deadline_seconds,
        max_failures=options.max_failures,
        on_error="skip",
        follow_symlinks=False,
        extend=False,
        overwrite=False,
        show_progress_bar=options.show_progress_bar,
    )


def _predictions(
    probe: Probe, chosen: Embeddings, clips: Sequence[LabelledClip], video: np.ndarray, *, unknown: str
) -> Predictions:
    """Return what the probe says of labelled clips; of labels it does not know see `evaluate_probe`."""
    outputs = probe.outputs(chosen)
    labels = [clip.label for clip in clips]
    codes = np.unique([clip.group for clip in clips], return_inverse=True)[1]
    strange = [label not in probe.names for label in labels] if probe.kind != "regression" else []
    if any(strange) and unknown == "wrong":
        # one class more, which is never said
        outputs = np.concatenate([outputs, np.zeros((len(outputs), 1), outputs.dtype)], axis=1)
        known = {name: number for number, name in enumerate(probe.names)}
        truth = np.array([known.get(label, len(known)) for label in labels])
    else:
        truth = probe.targets_of(labels)
    averaged = Examples.of(chosen.features, video, truth).over_videos(outputs)
    return Predictions(truth, averaged[:, 0] if probe.kind == "regression" else averaged, codes)


def _most_frequent(predictions: Predictions) -> Row:
    """Return what always saying the most frequent class of these videos would reach, or their mean."""
    if predictions.is_number:
        constant = replace(predictions, outputs=np.full(len(predictions.truth), predictions.truth.mean()))
        return Row("mean of these", constant.metrics())
    counts = np.bincount(predictions.truth, minlength=predictions.outputs.shape[1])
    constant = replace(predictions, outputs=np.tile(counts / counts.sum(), (len(predictions.truth), 1)))
    kept = {name: value for name, value in constant.metrics().items() if name != "top5_accuracy"}
    return Row("most frequent class", kept)


def _describe(probe: Probe, embeddings: Embeddings, top_k: int) -> list[VideoPrediction]:
    outputs = probe.outputs(embeddings)
    can_tell = isinstance(probe.probe, VectorProbe) and probe.probe.centres is not None
    unlike = probe.is_unlike(embeddings) if can_tell else None
    described: list[VideoPrediction] = []
    rows_of: dict[str, list[int]] = {}
    for row, entry in enumerate(embeddings.index):
        rows_of.setdefault(entry["id"], []).append(row)
    for id_, rows in rows_of.items():
        entry = embeddings.index[rows[0]]
        has_windows = "window" in entry
        spans: list[tuple[float | None, float | None, list[int]]] = [(None, None, rows)]
        if has_windows:
            spans += [
                (embeddings.index[row]["start_seconds"], embeddings.index[row]["end_seconds"], [row]) for row in rows
            ]
        for start, end, part in spans:
            described.append(
                VideoPrediction(
                    id=id_,
                    path=entry["path"],
                    start_seconds=start,
                    end_seconds=end,
                    labels=_best(probe, outputs[part].mean(axis=0), top_k),
                    value=float(outputs[part].mean()) if probe.kind == "regression" else None,
                    is_unlike=None if unlike is None else bool(unlike[part].all()),
                )
            )
    return described


def _best(probe: Probe, shares: np.ndarray, top_k: int) -> tuple[tuple[str, float], ...]:
    if probe.kind == "regression":
        return ()
    order = np.argsort(-shares, kind="stable")[:top_k]
    return tuple((probe.names[number], round(float(shares[number]), 6)) for number in order)
