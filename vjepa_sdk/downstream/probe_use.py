"""Let a probe that was fitted score or name the videos of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..config.choices import Decoder, Device, device_name
from ..config.protocols import SIMPLE, ClipSet
from ..corpus.find import FoundClips, find_clips
from ..errors import ConfigError, counted
from ..features.embeddings import Embeddings
from ..inference.embed.model import find_model
from ..models.vector_probe import VectorProbe
from ..video.safety import PathLike
from ..weights.cards import name_of
from ..weights.description import read_shape
from .evaluation import Evaluation
from .labels import Labels, fingerprints, read_labels
from .probe import Probe
from .probe_encoding import Said, UseOptions, checked_job, encode_for, job_of, say
from .probe_report import TRAINED_ROW, ProbeReport, Row
from .scores import Predictions, score
from .view_predictions import predict_views


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


def evaluate_probe(
    probe: Probe | str | os.PathLike[str],
    labels: Labels,
    *,
    model: str | os.PathLike[str] | None = None,
    features: str | os.PathLike[str] | None = None,
    protocol: str = SIMPLE,
    official_sampling: bool = False,
    split: Literal["train", "val", "test"] | None = None,
    unknown: Literal["error", "wrong"] = "error",
    label_column: str = "label",
    split_column: str = "split",
    group_column: str = "group",
    bootstrap: int = 1000,
    seed: int = 0,
    device: Device = None,
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
        protocol: test as in this official evaluation, see `list_protocols()`, as is right for an official probe;
            `simple`: as the probe was fitted. Labels may be numbers of the probe's classes then, as in official lists.
        official_sampling: see `train_probe`.
        split: use only the clips of this split; None: all.
        unknown: what becomes of labels that the probe does not know: an error, or they count as `wrong`.
            All that is not listed here is as for `train_probe`.

    Raises:
        ConfigError: features of another model, pooling or preprocessing; or no clip of that split.
        InputError: labels that cannot be read, are unknown to the probe, or have no features.
        VideoDecodeError: every clip failed, or more than `max_failures` did.
        StoppedError: a signal came.
    """
    held = probe if isinstance(probe, Probe) else Probe.from_pretrained(probe, device=device)
    evaluation = Evaluation.of(protocol, official_sampling=official_sampling, seed=seed)
    if evaluation is not None and features is not None:
        raise ConfigError(f"features and protocol={protocol!r} exclude each other; leave one out")
    clip_set = held.source.clip_set if evaluation is None else evaluation.clip_set
    labelled = read_labels(
        labels,
        images="stills" if clip_set is not None and clip_set.is_image else "frames",
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
        device=device_name(device),
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        show_progress_bar=show_progress_bar,
        clip_set=clip_set,
    )
    said = say(held, clips, options, None if features is None else Path(features))
    by_number = evaluation is not None
    predictions = _predictions(held, said, unknown=unknown, by_number=by_number)
    more = () if predictions.is_number or predictions.outputs.shape[1] == len(held.names) else ("unknown to the probe",)
    scores = score(predictions, (*held.names, *more), bootstrap=bootstrap, seed=seed)
    rows = [Row(TRAINED_ROW, scores.metrics, scores.intervals), _most_frequent(predictions)]
    notes = [f"groups are {labelled.grouped_by}"]
    known = set(held.fitted.get("files", []))
    if seen := sum(file in known for file in (fingerprints(clips) if known else [])):
        notes.append(f"{seen} of these videos were fitted to: what the probe says of them is no test")
    if said.without:
        notes.append(f"left out, without features: {counted(len(said.without), 'clip')}")
    if evaluation is not None:
        shape = read_shape(find_model(job_of(held, options)))
        row = evaluation.published_row(said.model)
        rows[1:1] = [] if row is None else [row]
        notes += evaluation.notes(said.model)
        notes += evaluation.differences(said.model, shape, len(held.names), is_ours=bool(held.fitted))
    return ProbeReport(
        out="probe" if isinstance(probe, Probe) else os.fspath(probe),
        kind=held.kind,
        model=name_of(said.model),
        num_train=0,
        num_test=len(said.clips),
        num_groups=scores.num_groups,
        scores=scores,
        rows=tuple(rows),
        difference=None,
        difference_interval=None,
        notes=tuple(notes),
        failed=tuple(each for each in said.failed if each["id"] in {clip.source.id for clip in said.without}),
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
    device: Device = None,
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
        device=device_name(device),
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        show_progress_bar=show_progress_bar,
        clip_set=held.source.clip_set,
    )
    found = find_clips(inputs, links="follow" if follow_symlinks else "refuse")
    if options.clip_set is not None:
        return _name_views(held, found, options, options.clip_set, top_k)
    embeddings, failed = encode_for(held, found, options)
    if window_seconds is not None and held.source.is_known:  # a window is a clip like those of the fit
        settings = {**held.source.settings, "window_seconds": embeddings.meta["settings"]["window_seconds"]}
        held = replace(held, source=replace(held.source, settings={**settings, "fps": None}))
    return PredictionReport(tuple(_describe(held, embeddings, top_k)), tuple(failed))


def _name_views(
    probe: Probe, found: FoundClips, options: UseOptions, clip_set: ClipSet, top_k: int
) -> PredictionReport:
    """Let a probe that reads the clips of a protocol name videos."""
    if options.window_seconds is not None or options.stride_seconds is not None:
        raise ConfigError("the probe reads the clips of a protocol, which has no windows; leave window_seconds out")
    sources = found.clips("stills" if clip_set.is_image else "frames")
    shares, failed = predict_views(probe, sources, checked_job(probe, options))
    predictions = [
        VideoPrediction(source.id, source.path, None, None, _best(probe, shares[source.id], top_k), None, None)
        for source in sources
        if source.id in shares
    ]
    return PredictionReport(tuple(predictions), tuple(failed))


def _predictions(probe: Probe, said: Said, *, unknown: str, by_number: bool) -> Predictions:
    """Return what the probe says of labelled clips; of labels it does not know see `evaluate_probe`.

    Args:
        by_number: take labels that are numbers for those of classes whose names are no numbers.
    """
    outputs = said.outputs
    labels = [clip.label for clip in said.clips]
    codes = np.unique([clip.group for clip in said.clips], return_inverse=True)[1]
    if by_number and not set(labels) & set(probe.names) and all(label.isdecimal() for label in labels):
        labels = [probe.names[int(label)] if int(label) < len(probe.names) else label for label in labels]
    strange = [label not in probe.names for label in labels] if probe.kind != "regression" else []
    if any(strange) and unknown == "wrong":
        # one class more, which is never said
        outputs = np.concatenate([outputs, np.zeros((len(outputs), 1), outputs.dtype)], axis=1)
        known = {name: number for number, name in enumerate(probe.names)}
        truth = np.array([known.get(label, len(known)) for label in labels])
    else:
        truth = probe.targets_of(labels)
    return Predictions(truth, outputs[:, 0] if probe.kind == "regression" else outputs, codes)


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
