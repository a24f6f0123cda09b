"""Train a probe from labels to numbers: encode, split, fit, compare, save."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ..config.choices import Decoder, Device, EncoderWeights, Pooling, ProbeKind, device_name
from ..config.protocols import SIMPLE
from ..config.registry import DEFAULT_MODEL
from ..errors import ConfigError
from .evaluation import Cache, Evaluation
from .labels import Labels
from .probe_job import LabelLists, ProbeJob
from .probe_options import EncodeOptions, FitOptions, Select, grid_of
from .probe_report import ProbeReport
from .probe_saving import check_probe_output


def train_probe(
    labels: Labels | None = None,
    *,
    out: str | os.PathLike[str],
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    features: str | os.PathLike[str] | None = None,
    protocol: str = SIMPLE,
    test_labels: Labels | None = None,
    cache: Cache = "tokens",
    augmented_passes: int = 4,
    official_sampling: bool = False,
    kind: ProbeKind | None = None,
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
    depth: int | None = None,
    num_heads: int | None = None,
    self_attention: Literal["before", "after"] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rates: Sequence[float] | None = None,
    weight_decays: Sequence[float] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    device: Device = None,
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
            with one directory for each class; or a data frame. See `vjepa_sdk.downstream.labels`. None: those that
            `features` come with, from the list that was embedded.
        out: directory of the probe.
        model: a name from `list_models()`, a model directory or a hub id.
        features: what `vjepa embed` wrote; its rows are used instead of encoding the videos. None: encode them.
        protocol: an official evaluation by name, see `list_protocols()`: its clips, probes and training, and its
            published number in the report; `simple`: none, one clip a video as `encode` takes it.
        test_labels: the test, where it is a list or directory of its own, as official ones are; all of `labels` is then
            to learn from.
        cache: of an official protocol: `tokens` on disk, or `none`, where every batch is decoded, augmented and encoded
            anew, as officially. That takes no room, and cannot be resumed.
        augmented_passes: how often training videos are cut at random for the cache; epochs take turns with them.
        official_sampling: draw where test clips lie in their segments, as officially, instead of taking the middle.
        kind: `linear`, `knn`, `regression` (of a number), or `attentive` (on tokens); None: `linear`, and `attentive`
            with an official protocol.
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
        depth: blocks of `attentive`: 1, or 4 as V-JEPA 2 has them; None: the protocol's, else 1.
        num_heads: of `attentive`; None: 16 where that divides the features.
        self_attention: blocks beyond the first come `before` the pooling (V-JEPA 2) or `after` it (V-JEPA 1); None:
            the protocol's, else `before`.
        epochs, batch_size: of `attentive`; None: the protocol's, else 20 and 64.
        learning_rates, weight_decays: of `attentive`, all pairs are trained at once; None: the protocol's, else those
            of V-JEPA 2.
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
    evaluation = Evaluation.of(
        protocol, cache=cache, augmented_passes=augmented_passes, official_sampling=official_sampling, seed=seed
    )
    official = None if evaluation is None else evaluation.protocol
    if official is not None:
        asked = {"features": features, "pooling": pooling, "num_frames": num_frames, "fps": fps, "folds": folds}
        asked |= {"window_seconds": window_seconds, "stride_seconds": stride_seconds, "source_fps": source_fps}
        _check_unused(protocol, asked, kind)
    options = FitOptions(
        kind=kind or ("linear" if official is None else "attentive"),
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
        depth=depth or (1 if official is None else official.depth),
        num_heads=num_heads,
        self_attention=self_attention or ("before" if official is None else official.self_attention),
        epochs=_given(epochs, 20 if official is None else official.epochs),
        batch_size=_given(batch_size, 64 if official is None else official.batch_size),
        grid=grid_of(learning_rates, weight_decays, () if official is None else official.grid),
        one_row_a_video=official is not None,
    )
    encode = EncodeOptions(
        model=model if isinstance(model, str) else os.path.join(os.curdir, os.path.expanduser(model)),
        revision=revision,
        weights=weights,
        pooling=pooling or ("none" if options.kind == "attentive" else "mean"),
        layers=layers if layers is None or isinstance(layers, int) else tuple(layers),
        num_frames=num_frames,
        fps=fps,
        window_seconds=window_seconds,
        stride_seconds=stride_seconds,
        source_fps=source_fps,
        decoder=decoder,
        batch_size=8,
        device=device_name(device),
        num_workers=num_workers,
        deadline_seconds=deadline_seconds,
        max_failures=max_failures,
        show_progress_bar=show_progress_bar,
    )
    if options.kind == "attentive" and encode.pooling != "none":
        raise ConfigError(f"pooling={pooling} leaves nothing to attend to; leave it out for kind='attentive'")
    lists = LabelLists(
        labels=labels,
        test=test_labels,
        features=None if features is None else Path(features),
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        links="follow" if follow_symlinks else "refuse",
    )
    job = ProbeJob(
        out=check_probe_output(Path(out), overwrite=overwrite),
        options=options,
        encode=encode,
        lists=lists,
        features=None if features is None else Path(features),
        evaluation=evaluation,
        overwrite=overwrite,
        keep_cache=keep_cache,
    )
    return job.run()


def _check_unused(protocol: str, asked: Mapping[str, object], kind: str | None) -> None:
    """Raise ConfigError where an option is given that the protocol settles."""
    name = next((name for name, value in asked.items() if value is not None), None)
    if name is not None:
        raise ConfigError(f"{name}={asked[name]} and protocol={protocol!r} exclude each other; leave one out")
    if kind not in (None, "attentive"):
        raise ConfigError(f"kind={kind!r}: protocol={protocol!r} is of attentive probes; leave one out")


def _given(value: int | None, default: int) -> int:
    return default if value is None else value
