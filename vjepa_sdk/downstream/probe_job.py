"""What one call of `train_probe` does, once its options are checked: read labels, get features, fit, compare, save."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config.documents import read_json
from ..corpus.find import Images, Links
from ..errors import ConfigError
from ..features.embeddings import META, sidecar
from ..inference.embed.model import find_model
from ..weights.description import read_shape
from .evaluation import Evaluation, join_test, settle_splits
from .labelled_features import FeatureCache, LabelledFeatures, gather, look_up, stream
from .labels import LabelledClips, Labels, check_classes, numbers_of, read_labels, read_labels_of_features
from .probe_fitting import Comparison, Task, compare, notes_on
from .probe_options import EncodeOptions, FitOptions
from .probe_report import ProbeReport
from .probe_saving import make_report, save_results
from .splits import assign_splits
from .streaming import ViewEncoder


@dataclass(frozen=True, kw_only=True)
class LabelLists:
    """Where labels are; see `train_probe`."""

    labels: Labels | None
    """None: those that `features` come with."""
    test: Labels | None
    features: Path | None
    label_column: str
    split_column: str
    group_column: str
    links: Links

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory of classes."""
        return isinstance(self.labels, str | os.PathLike) and Path(self.labels).is_dir()

    def read(self, images: Images) -> LabelledClips:
        """Read the labels; raises what `read_labels` and `join_test` do."""
        learnt = self._read(self.labels, images)
        return learnt if self.test is None else join_test(learnt, self._read(self.test, images))

    def _read(self, labels: Labels | None, images: Images) -> LabelledClips:
        columns = {
            "label_column": self.label_column,
            "split_column": self.split_column,
            "group_column": self.group_column,
        }
        if labels is not None:
            return read_labels(labels, images=images, links=self.links, **columns)
        if self.features is None:
            raise ConfigError("labels is not given; pass a list with columns path and label, or features with labels")
        return read_labels_of_features(self.features, **columns)


@dataclass(frozen=True, kw_only=True)
class ProbeJob:
    """What one call of `train_probe` is to do."""

    out: Path
    options: FitOptions
    encode: EncodeOptions
    lists: LabelLists
    features: Path | None
    evaluation: Evaluation | None
    """The official evaluation that is repeated, if it is one."""
    overwrite: bool
    keep_cache: bool

    def run(self) -> ProbeReport:
        """Do it, and return what the probe reaches."""
        report = self._make(cache := FeatureCache(self.out.with_name(f"{self.out.name}.cache")))
        # not before all that reads it is gone: Windows deletes no file that is mapped
        if not self.keep_cache and cache.directory.exists():
            cache.remove()
        return report

    def _make(self, cache: FeatureCache) -> ProbeReport:
        """Find the features, and finish with them."""
        labelled = self.lists.read(self._images())
        _check_early(labelled, self.options)
        if self.evaluation is not None:
            return self._repeat(self.evaluation, labelled, cache)
        inits, overwrite = self._random_inits, self.overwrite
        if self.features is None:
            found = gather(labelled.clips, cache, self.encode, random_inits=inits, overwrite=overwrite)
        else:
            found = look_up(labelled.clips, self.features, cache, self.encode, random_inits=inits, overwrite=overwrite)
        return self._finish(found, labelled, self.options)

    @property
    def _random_inits(self) -> int:
        return self.options.random_inits if self.options.baseline else 0

    def _images(self) -> Images:
        """Return what images in directories of classes are: for the protocol, or for the model."""
        if not self.lists.is_directory:
            return "frames"
        if self.evaluation is not None:
            return "stills" if self.evaluation.protocol.clips.is_image else "frames"
        if self.features is not None:
            num_frames = read_json(sidecar(self.features, META)).get("settings", {}).get("num_frames")
            return "stills" if num_frames == 1 else "frames"
        shape = read_shape(find_model(self.encode.embedding()))
        return "stills" if shape.config.is_image_model else "frames"

    def _repeat(self, evaluation: Evaluation, labelled: LabelledClips, cache: FeatureCache) -> ProbeReport:
        """Repeat an official evaluation."""
        config = read_shape(find_model(self.encode.embedding())).config
        options = replace(self.options, num_heads=self.options.num_heads or evaluation.num_heads(config))
        targets = np.unique([clip.label for clip in labelled.clips], return_inverse=True)[1]
        labelled = settle_splits(labelled, targets, options)
        encode = replace(self.encode, layers=evaluation.layers(config, self.encode.layers))
        encode = evaluation.encoding(encode, labelled.clips, options.epochs)
        inits = self._random_inits
        if evaluation.cache == "tokens":
            found = gather(labelled.clips, cache, encode, random_inits=inits, overwrite=self.overwrite)
            return self._finish(found, labelled, options)
        with ViewEncoder(encode.embedding()) as encoder:
            return self._finish(stream(labelled.clips, encoder, random_inits=inits), labelled, options)

    def _finish(self, found: LabelledFeatures, labelled: LabelledClips, options: FitOptions) -> ProbeReport:
        """Fit, compare and save."""
        task = _task(found, options, self.encode.device, self.encode.show_progress_bar)
        comparison = compare(task)
        notes = notes_on(task, labelled.num_without_label, labelled.grouped_by)
        if self.evaluation is not None:
            comparison = self._beside_published(self.evaluation, task, comparison)
            notes += self._about(self.evaluation, task)
        facts = {} if self.evaluation is None else self.evaluation.facts()
        report = make_report(self.out, task, comparison, notes, facts)
        save_results(self.out, task, comparison, report)
        return report

    def _beside_published(self, evaluation: Evaluation, task: Task, comparison: Comparison) -> Comparison:
        row = evaluation.published_row(str(task.found.source.model["name"]))
        rows = comparison.rows if row is None else (comparison.rows[0], row, *comparison.rows[1:])
        return replace(comparison, rows=rows)

    def _about(self, evaluation: Evaluation, task: Task) -> list[str]:
        model, shape = str(task.found.source.model["name"]), read_shape(find_model(self.encode.embedding()))
        differences = evaluation.differences(
            model, shape, len(task.names), fit=task.options, has_other_layers=self.encode.layers is not None
        )
        return [*evaluation.notes(model), *differences]


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
