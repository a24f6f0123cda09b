"""Fit a probe to some videos and test it on others: the same way for every kind of features that are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..config.choices import ProbeKind
from ..errors import InputError, counted, printable
from ..runtime.devices import best_device
from .attentive import AttentiveOptions, fit_attentive
from .fit import Check, Examples, Fitted, Table, check_features, fit_logistic, fit_nearest, fit_ridge, predict_videos
from .labelled_features import PIXELS, TRAINED, LabelledFeatures
from .nearest import nearest_rows
from .probe_options import FitOptions
from .probe_report import PIXELS_ROW, RANDOM_ROW, TRAINED_ROW, Row
from .scores import Interval, Predictions, ProbeScores, difference, pooled_metrics, score
from .splits import INNER_FOLDS, group_folds

_NEAR = 0.97
_FEW = 5


@dataclass(frozen=True)
class Task:
    """Videos with features, labels and splits."""

    found: LabelledFeatures
    names: tuple[str, ...]
    """Of the classes; none for a number."""
    targets: np.ndarray
    """int `[videos]`, numbers of classes; or float64 `[videos]`."""
    splits: np.ndarray
    """`train`, `val` or `test` of each video."""
    options: FitOptions
    device: str | None
    show_progress_bar: bool | None

    @property
    def groups(self) -> list[str]:
        """Of each video."""
        return [clip.group for clip in self.found.clips]

    def parts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return videos to fit to and to test on: once, or for each fold.

        Raises:
            InputError: a class is in the test and not in what is fitted to.
        """
        if self.options.folds is not None:
            parts = group_folds(self.targets, self.groups, folds=self.options.folds, seed=self.options.seed)
            if not parts:
                raise InputError(f"{len(set(self.groups))} groups are too few for folds; pass more videos")
            return parts
        is_test = self.splits == "test"
        if self.names and (unseen := set(self.targets[is_test]) - set(self.targets[~is_test])):
            names = ", ".join(printable(self.names[number]) for number in sorted(unseen)[:5])
            raise InputError(f"labels {names} are in the test and not in train, so nothing can learn them; add clips")
        return [(np.flatnonzero(~is_test), np.flatnonzero(is_test))]

    def tested(self) -> np.ndarray:
        """Return the videos that are tested, in the order of `Outcome.predictions`."""
        return np.concatenate([test for _, test in self.parts()])

    def fit(self, table: Table, videos: np.ndarray, test: np.ndarray, *, kind: ProbeKind) -> Fitted:
        """Fit a probe to some videos.

        Args:
            table: features `[rows, ...]`.
            test: other videos, which are looked at only if the options say so.
        """
        every = Examples.of(table, self.found.video, self.targets)
        examples, checks = every.part(videos), self._checks(every, videos, test)
        options = self.options
        if kind == "regression":
            alpha = None if options.C is None else 1 / options.C
            return fit_ridge(examples, alpha=alpha, checks=checks)
        count = len(self.names)
        if kind == "knn":
            return fit_nearest(examples, count, k=options.k, temperature=options.temperature)
        if kind == "linear":
            return fit_logistic(examples, count, C=options.C, checks=checks, class_weight=options.class_weight)
        return fit_attentive(
            examples,
            checks,
            AttentiveOptions(
                num_classes=count,
                depth=options.depth,
                num_heads=options.num_heads,
                self_attention=options.self_attention,
                epochs=options.epochs,
                batch_size=options.batch_size,
                grid=options.grid,
                one_row_a_video=options.one_row_a_video,
                class_weight=options.class_weight,
                seed=options.seed,
                device=best_device(self.device),
                show_progress_bar=self.show_progress_bar,
            ),
        )

    def _checks(self, every: Examples, videos: np.ndarray, test: np.ndarray) -> list[Check]:
        """Return what hyper-parameters are chosen on: the part `val`, else folds of the groups."""
        if self.options.select == "test":
            return [(every.part(videos), every.part(test))]
        is_val = self.splits[videos] == "val"
        if is_val.any() and self.options.folds is None:
            return [(every.part(videos[~is_val]), every.part(videos[is_val]))]
        if self.options.kind == "attentive" and len(self.options.grid) == 1:
            return []  # nothing to choose
        groups = [self.found.clips[video].group for video in videos]
        folds = group_folds(self.targets[videos], groups, folds=INNER_FOLDS, seed=self.options.seed)
        return [(every.part(videos[fit]), every.part(videos[check])) for fit, check in folds]


@dataclass(frozen=True)
class Outcome:
    """What probes of one kind of features reach."""

    predictions: Predictions
    fitted: Fitted
    """The last of them."""


@dataclass(frozen=True)
class Comparison:
    """What the probe reaches, and what it is compared with."""

    fitted: Fitted
    """Of the trained encoder; if there are folds, fitted to all videos."""
    predictions: Predictions
    scores: ProbeScores
    rows: tuple[Row, ...]
    difference: float | None
    difference_interval: Interval | None
    grids: dict[str, dict[str, object]]
    """What was chosen for each kind of features."""


def compare(task: Task) -> Comparison:
    """Fit and test probes on every kind of features that there is."""
    options, kinds = task.options, task.found.kinds
    trained = outcome(task, _table(kinds[TRAINED], options.kind), options.kind)
    random = [outcome(task, _table(rows, options.kind), options.kind) for rows in task.found.random]
    scores = score(trained.predictions, task.names, bootstrap=options.bootstrap, seed=options.seed)
    rows = [Row(TRAINED_ROW, scores.metrics, scores.intervals)]
    grids = {TRAINED: trained.fitted.facts}
    found: tuple[float | None, Interval | None] = (None, None)
    if random:
        others = [each.predictions for each in random]
        rows.append(Row(RANDOM_ROW, *pooled_metrics(others, bootstrap=options.bootstrap, seed=options.seed)))
        found = difference(trained.predictions, others, scores.main, bootstrap=options.bootstrap, seed=options.seed)
        grids |= {f"random-{seed}": each.fitted.facts for seed, each in enumerate(random)}
    if PIXELS in kinds:
        kind: ProbeKind = "linear" if options.kind == "attentive" else options.kind
        pixels = outcome(task, _table(kinds[PIXELS], kind), kind)
        rows.append(Row(PIXELS_ROW, *pooled_metrics([pixels.predictions], bootstrap=options.bootstrap)))
        grids[PIXELS] = pixels.fitted.facts
    rows.append(_constant(task, trained.predictions))
    fitted = trained.fitted
    if options.folds is not None:
        everyone = np.arange(len(task.targets))
        fitted = task.fit(_table(kinds[TRAINED], options.kind), everyone, everyone[:0], kind=options.kind)
    return Comparison(fitted, trained.predictions, scores, tuple(rows), *found, grids)


def outcome(task: Task, table: Table, kind: ProbeKind) -> Outcome:
    """Fit a probe to what is to be fitted to, and let it predict what is tested."""
    outputs, parts = [], task.parts()
    for fit, test in parts:
        fitted = task.fit(table, fit, test, kind=kind)
        every = Examples.of(table, task.found.video, task.targets)
        outputs.append(predict_videos(fitted.probe, every.part(test)))
    tested = task.tested()
    codes = np.unique([task.groups[video] for video in tested], return_inverse=True)[1]
    stacked = np.concatenate(outputs)
    predictions = Predictions(task.targets[tested], stacked if task.names else stacked[:, 0], codes)
    return Outcome(predictions, fitted)


def notes_on(task: Task, num_without_label: int, grouped_by: str) -> list[str]:
    """Say what a reader of the numbers has to know."""
    found, options, tested = task.found, task.options, task.tested()
    notes = [f"groups are {grouped_by}; clips of one group are never on two sides"]
    if options.allow_group_overlap and options.folds is None:
        notes[0] = f"groups are {grouped_by}; some may be on two sides, as allowed, and then the numbers are too good"
    if num_without_label:
        notes.append(f"left out, without a label: {counted(num_without_label, 'row')}")
    if found.failed:
        notes.append(f"left out of train and test, without features: {counted(len(found.failed), 'clip')}")
    if options.select == "test":
        notes.append("chosen on the test videos, as official evaluations do: these are best-on-test numbers")
    fitted_to = task.parts()[0][0]
    if task.names:
        notes += _notes_on_classes(task, fitted_to, tested)
    table = found.kinds[TRAINED]
    if len(table.shape) == 2 and options.folds is None:
        copies = _near_copies(task, fitted_to, tested)
        if copies:
            notes.append(f"{copies} test videos have a near copy in train (centred cosine above {_NEAR:g})")
    return notes


def _notes_on_classes(task: Task, fitted_to: np.ndarray, tested: np.ndarray) -> list[str]:
    learnt, asked = Counter(task.targets[fitted_to].tolist()), Counter(task.targets[tested].tolist())
    few = [number for number in range(len(task.names)) if learnt[number] < _FEW]
    untested = [number for number in range(len(task.names)) if not asked[number]]
    notes = []
    if few:
        which = ", ".join(f"{printable(task.names[number])} ({learnt[number]})" for number in few[:5])
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        notes.append(f"classes with fewer than {_FEW} videos to learn from: {which}{more}")
    if untested:
        which = ", ".join(printable(task.names[number]) for number in untested[:5])
        notes.append(f"classes without a test video, of which these numbers say nothing: {which}")
    return notes


def _near_copies(task: Task, fitted_to: np.ndarray, tested: np.ndarray) -> int:
    """Count the test videos of which a row is nearly one of those that were fitted to."""
    rows, video = check_features(np.asarray(task.found.kinds[TRAINED])), task.found.video
    is_test, is_fit = np.isin(video, tested), np.isin(video, fitted_to)
    if np.ptp(rows, axis=0).max() == 0:
        return 0
    _, scores = nearest_rows(rows[is_test], rows, k=1, metric="centered", among=is_fit)
    return len(set(video[is_test][scores[:, 0] > _NEAR].tolist()))


def _table(rows: Table, kind: ProbeKind) -> Table:
    return rows if kind == "attentive" else check_features(np.asarray(rows))


def _constant(task: Task, predictions: Predictions) -> Row:
    """Return what always saying the most frequent class reaches, or the mean."""
    outputs = []
    for fit, test in task.parts():
        if task.names:
            counts = np.bincount(task.targets[fit], minlength=len(task.names))
            outputs.append(np.tile(counts / counts.sum(), (len(test), 1)))
        else:
            outputs.append(np.full(len(test), task.targets[fit].mean()))
    constant = Predictions(predictions.truth, np.concatenate(outputs), predictions.groups)
    what = "most frequent class" if task.names else "mean of train"
    return Row(what, {name: value for name, value in constant.metrics().items() if name != "top5_accuracy"})


def count_splits(task: Task, which: Sequence[str] = ("train", "val", "test")) -> dict[str, int]:
    """Return how many videos each split has."""
    return {name: int((task.splits == name).sum()) for name in which}
