"""Train a probe from labels to numbers: encode, split, fit, compare, save."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._version import __version__
from ..config.choices import Decoder, EncoderWeights, Pooling, ProbeKind
from ..config.documents import read_json
from ..config.registry import DEFAULT_MODEL
from ..corpus.find import Images
from ..errors import ConfigError, OutputError
from ..features.embeddings import META, sidecar
from ..inference.embed.model import find_model
from ..runtime.files import atomic_file, digest_of, disk_errors
from ..weights.cards import name_of
from ..weights.description import read_shape
from ..weights.layout import CONFIG_NAME
from ..weights.probe_directory import PREDICTIONS
from .labelled_features import FeatureCache, LabelledFeatures, gather, look_up
from .labels import LabelledClips, Labels, check_classes, numbers_of, read_labels
from .probe import Probe
from .probe_fitting import Comparison, Task, compare, count_splits, notes_on
from .probe_options import EncodeOptions, FitOptions, Select
from .probe_report import ProbeReport
from .splits import assign_splits

_MAX_FILES, _MAX_CONFUSION = 10_000, 100  # a configuration stays below a megabyte
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def train_probe(
    labels: Labels,
    *,
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    features: str | os.PathLike[str] | None = None,
    kind: ProbeKind = "linear",
    pooling: Pooling | None = None,
    layers: int | Sequence[int] | None = None,
    num_frames: int | None = None,
    fps: float | None = None,
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
    source_fps: float | None = None,
    decoder: Decoder = "pyav",
    weights: EncoderWeights | None = None,
    revision: str | None = None,
    label_column: str = "label",
    split_column: str = "split",
    group_column: str = "group",
    test_share: float = 0.2,
    folds: int | None = None,
    select: Select = "val",
    allow_group_overlap: bool = False,
    baseline: bool = True,
    random_inits: int = 3,
    C: float | None = None,
    k: int = 20,
    temperature: float = 0.07,
    class_weight: Literal["balanced"] | None = None,
    depth: int = 1,
    num_heads: int | None = None,
    self_attention: Literal["before", "after"] = "before",
    epochs: int = 20,
    batch_size: int = 64,
    learning_rates: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3, 5e-3),
    weight_decays: Sequence[float] = (0.01, 0.1, 0.4, 0.8),
    bootstrap: int = 1000,
    seed: int = 0,
    device: str | None = None,
    num_workers: int = 2,
    deadline_seconds: float = 60.0,
    max_failures: float | str | None = None,
    follow_symlinks: bool = False,
    keep_cache: bool = False,
    overwrite: bool = False,
    show_progress_bar: bool | None = None,
) -> ProbeReport:
    """Fit a probe to labelled videos, test it on videos of other groups, and save it with what it reaches.

    Beside it the same probe is fitted to the same encoder with random weights, and to raw pixels: what a number is
    worth shows in the difference. All of them come from one pass over the videos, whose state is in `OUT.cache` until
    the probe is written: after a signal or a kill, call again to go on.

    Args:
        labels: a list (`.csv`, `.jsonl`, `.txt`) with `path`, `label` and optional `split` and `group`; a directory
            with one directory for each class; or a data frame. See `vjepa_sdk.downstream.labels`.
        out: directory of the probe.
        model: a name from `list_models()`, a model directory or a hub id.
        features: what `vjepa embed` wrote; its rows are used instead of encoding the videos. None: encode them.
        kind: `linear`, `knn`, `regression` (of a number), or `attentive` (on tokens).
        pooling: of the features; None: `none` (tokens) for `attentive`, else `mean`. `temporal` and `change` keep more
            of the motion.
        layers, num_frames, fps, window_seconds, stride_seconds, source_fps, decoder, weights, revision: as for
            `embed_files`. Windows of one video stay together, and count as one.
        label_column: column of the labels.
        split_column: `train`, `val`, `test`. Where there is none, or it is empty, whole groups are drawn, stratified by
            class.
        group_column: clips of one group never are on two sides. Where there is none: clips of one file.
        test_share: of the groups, where splits are drawn.
        folds: test every video once, in so many folds of the groups, and fit the probe itself to all.
        select: choose hyper-parameters on the part `val`, or where there is none in folds of what is not tested; `test`
            chooses them on the test, as official evaluations do, and says so.
        allow_group_overlap: take splits that tear groups apart.
        baseline: compare with random weights and raw pixels.
        random_inits: how many times weights are drawn.
        C: of `linear`, the reciprocal of the penalty of `regression`; None: chosen.
        k, temperature: of `knn`.
        class_weight: `balanced` lets rare classes weigh as much as frequent ones.
        depth: blocks of `attentive`: 1, or 4 as V-JEPA 2 has them.
        num_heads: of `attentive`; None: 16 where that divides the features.
        self_attention: blocks beyond the first come `before` the pooling (V-JEPA 2) or `after` it (V-JEPA 1).
        epochs, batch_size, learning_rates, weight_decays: of `attentive`; all pairs of the two are trained at once.
        bootstrap: samples of the groups for 95 % intervals.
        seed: of splits, folds, samples and initial weights of the probe.
        device, num_workers, deadline_seconds, max_failures: as for `embed_files`.
        follow_symlinks: read what symbolic links point to.
        keep_cache: leave the features in `OUT.cache`.
        overwrite: replace a probe that is there, and a cache of other clips or settings.
        show_progress_bar: on stderr; None: if it is a terminal.

    Raises:
        ConfigError: an option that is not valid, a group in two splits, one class only.
        InputError: labels that cannot be read or joined with features, or features that are not finite.
        OutputError: the directory exists, holds something else, or cannot be written.
        ResumeError: the cache belongs to other clips or settings, or the features to another model.
        StoppedError: a signal came; call again to go on.
        VideoDecodeError: every clip failed, or more than `max_failures` did.
    """
    options = FitOptions(
        kind=kind,
        C=C,
        k=k,
        temperature=temperature,
        class_weight=class_weight,
        select=select,
        folds=folds,
        test_share=test_share,
        allow_group_overlap=allow_group_overlap,
        baseline=baseline,
        random_inits=random_inits,
        bootstrap=bootstrap,
        seed=seed,
        depth=depth,
        num_heads=num_heads,
        self_attention=self_attention,
        epochs=epochs,
        batch_size=batch_size,
        learning_rates=tuple(learning_rates),
        weight_decays=tuple(weight_decays),
    )
    encode = EncodeOptions(
        model=model if isinstance(model, str) else os.path.join(os.curdir, os.path.expanduser(model)),
        revision=revision,
        weights=weights,
        pooling=pooling or ("none" if kind == "attentive" else "mean"),
        layers=layers if layers is None or isinstance(layers, int) else tuple(layers),
        num_frames=num_frames,
        fps=fps,
        window_seconds=window_seconds,
        stride_seconds=stride_seconds,
        source_fps=source_fps,
        decoder=decoder,
        batch_size=8,
        device=device,
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        show_progress_bar=show_progress_bar,
    )
    if kind == "attentive" and encode.pooling != "none":
        raise ConfigError(f"pooling={pooling} leaves nothing to attend to; leave it out for kind='attentive'")
    directory = check_probe_output(Path(out), overwrite=overwrite)
    cache = FeatureCache(directory.with_name(f"{directory.name}.cache"))
    given = None if features is None else Path(features)
    labelled = read_labels(
        labels,
        images=_images(encode, given) if isinstance(labels, str | os.PathLike) and Path(labels).is_dir() else "frames",
        links="follow" if follow_symlinks else "refuse",
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
    )
    _check_early(labelled, options)
    inits = random_inits if baseline else 0
    if given is None:
        found = gather(labelled.clips, cache, encode, random_inits=inits, overwrite=overwrite)
    else:
        found = look_up(labelled.clips, given, cache, encode, random_inits=inits, overwrite=overwrite)
    task = _task(found, options, device, show_progress_bar)
    comparison = compare(task)
    report = _report(directory, task, comparison, notes_on(task, labelled.num_without_label, labelled.grouped_by))
    _save(directory, task, comparison, report)
    if not keep_cache and cache.directory.exists():
        cache.remove()
    return report


def check_probe_output(directory: Path, *, overwrite: bool) -> Path:
    """Return the directory, unless something is there that a probe must not replace.

    Raises:
        OutputError: it is.
    """
    if not directory.parent.is_dir():
        raise OutputError(f"{directory}: {directory.parent} is no directory; make it first")
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise OutputError(f"{directory}: is not a directory; choose another --out")
    if not directory.exists() or not any(directory.iterdir()):
        return directory
    config = directory / CONFIG_NAME
    if not config.is_file() or "probe" not in read_json(config):
        raise OutputError(f"{directory}: holds something other than a probe; choose another --out")
    if not overwrite:
        raise OutputError(f"{directory}: holds a probe already; choose another --out, or pass --overwrite")
    return directory


def _images(encode: EncodeOptions, features: Path | None) -> Images:
    """Return what images in directories of classes are for the model."""
    if features is not None:
        num_frames = read_json(sidecar(features, META)).get("settings", {}).get("num_frames")
        return "stills" if num_frames == 1 else "frames"
    shape = read_shape(find_model(encode.embedding()))
    return "stills" if shape.config.is_image_model else "frames"


def _check_early(labelled: LabelledClips, options: FitOptions) -> None:
    """Refuse what can be refused before anything is encoded."""
    texts = [clip.label for clip in labelled.clips]
    if options.kind == "regression":
        targets = np.array(numbers_of(texts))
    else:
        check_classes(texts)
        names, targets = np.unique(texts, return_inverse=True)
        if len(names) < 2:
            raise ConfigError(f"all clips have the label {names[0]!r}, so nothing can be told apart; pass others too")
    _splits(labelled, targets, options)


def _splits(labelled: LabelledClips, targets: np.ndarray, options: FitOptions) -> np.ndarray:
    given = [clip.split for clip in labelled.clips]
    if options.folds is not None:
        if any(given):
            raise ConfigError("the labels have splits, so there are no folds to draw; leave folds or the splits out")
        return np.full(len(targets), "train")
    return assign_splits(
        targets,
        [clip.group for clip in labelled.clips],
        given,
        test_share=options.test_share,
        seed=options.seed,
        allow_group_overlap=options.allow_group_overlap,
    )


def _task(found: LabelledFeatures, options: FitOptions, device: str | None, show_progress_bar: bool | None) -> Task:
    texts = [clip.label for clip in found.clips]
    names: tuple[str, ...] = ()
    if options.kind == "regression":
        targets = np.array(numbers_of(texts))
    else:
        classes, targets = np.unique(texts, return_inverse=True)
        names = tuple(classes.tolist())
    splits = _splits(LabelledClips(found.clips, 0, ""), targets, options)
    return Task(found, names, targets, splits, options, device, show_progress_bar)


def _report(directory: Path, task: Task, comparison: Comparison, notes: list[str]) -> ProbeReport:
    tested = task.tested()
    counts = Counter(task.found.clips[video].label for video in range(len(task.targets))) if task.names else {}
    return ProbeReport(
        out=str(directory),
        kind=task.options.kind,
        model=name_of(str(task.found.source.model["name"])),
        num_train=len(task.targets) - len(tested) if task.options.folds is None else len(task.targets),
        num_test=len(tested),
        num_groups=comparison.scores.num_groups,
        scores=comparison.scores,
        rows=comparison.rows,
        difference=comparison.difference,
        difference_interval=comparison.difference_interval,
        notes=tuple(notes),
        failed=tuple(task.found.failed),
        fitted={
            **task.options.facts(),
            **comparison.fitted.facts,
            "vjepa_sdk": __version__,
            "splits": count_splits(task),
            "classes": dict(sorted(counts.items())),
            "labels_sha256": _labels_sha256(task),
            "files": _files(task),
            "compared": comparison.grids,
        },
    )


def _files(task: Task) -> list[str]:
    """Return what tells the files that the probe was fitted to, so that `evaluate_probe` can say that it saw them."""
    tested = set() if task.options.folds is not None else set(task.tested().tolist())
    files = {file for video, file in enumerate(task.found.files) if file and video not in tested}
    return sorted(files) if len(files) <= _MAX_FILES else []


def _labels_sha256(task: Task) -> str:
    """Return a digest over which clip has which label, split and group."""
    rows = [
        [clip.source.id, clip.label, str(split), clip.group]
        for clip, split in zip(task.found.clips, task.splits, strict=True)
    ]
    return digest_of(sorted(rows))


def _save(directory: Path, task: Task, comparison: Comparison, report: ProbeReport) -> None:
    with disk_errors(directory):
        directory.mkdir(exist_ok=True)
        with atomic_file(directory / PREDICTIONS) as file:  # file names need not be UTF-8
            file.write(_predictions(task, comparison).encode(errors="surrogateescape"))
    Probe(
        probe=comparison.fitted.probe,
        labels=task.names,
        provenance=_provenance(task),
        kind=task.options.kind,
        source=task.found.source,
        fitted=report.fitted,
        scores={**_stored(report), **report.card_table(), "notes": list(report.notes)},
    ).save_pretrained(directory)


def _stored(report: ProbeReport) -> dict[str, Any]:
    scores = report.scores.to_json()
    return scores if len(report.scores.labels) <= _MAX_CONFUSION else {**scores, "confusion": []}


def _provenance(task: Task) -> dict[str, Any]:
    made: dict[str, Any] = {"made_by": "vjepa probe train", "videos": len(task.targets)}
    model = task.found.source.model
    return {**made, "model": name_of(str(model["name"])), "model_sha256": model["sha256"]}


def _predictions(task: Task, comparison: Comparison) -> str:
    """Return what the probe says of each tested video, as CSV; spreadsheets take no label for a formula."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "path", "label", "predicted", *(["probability"] if task.names else [])])
    outputs = comparison.predictions.outputs
    for place, video in enumerate(task.tested()):
        clip = task.found.clips[video]
        if task.names:
            best = int(outputs[place].argmax())
            said = [_cell(clip.label), _cell(task.names[best]), f"{outputs[place, best]:.6f}"]
        else:
            said = [clip.label, f"{outputs[place]:.6g}"]
        writer.writerow([clip.source.id, clip.source.path, *said])
    return text.getvalue()


def _cell(label: str) -> str:
    return f"'{label}" if label.startswith(_FORMULA) else label
