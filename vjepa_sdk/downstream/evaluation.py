"""Repeat an official evaluation: settle what it leaves to the model, and say how a repetition differs from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..config.model import ModelConfig
from ..config.protocols import Augmentation, ClipSet, ProbeProtocol, find_protocol
from ..config.registry import KNOWN_MODELS
from ..errors import ConfigError
from ..weights.description import Shape
from .labels import LabelledClip, LabelledClips
from .probe_options import EncodeOptions, FitOptions
from .probe_report import Row
from .splits import INNER_FOLDS, assign_splits, group_folds

Cache = Literal["tokens", "none"]
"""`tokens`: on disk, from so many passes over the training videos; `none`: made anew for every batch."""

PUBLISHED_ROW = "published"
_LAST_BLOCKS = 4


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An official evaluation as it is repeated here."""

    protocol: ProbeProtocol
    cache: Cache = "tokens"
    augmented_passes: int = 4
    official_sampling: bool = False
    seed: int = 0

    @classmethod
    def of(
        cls,
        name: str,
        *,
        cache: Cache = "tokens",
        augmented_passes: int = 4,
        official_sampling: bool = False,
        seed: int = 0,
    ) -> Evaluation | None:
        """Return the evaluation of that name, None for `simple`.

        Raises:
            ConfigError: there is none, or an option is not valid or not for `simple`.
        """
        if cache not in ("tokens", "none"):
            raise ConfigError(f"cache={cache!r} must be 'tokens' or 'none'")
        if augmented_passes < 1:
            raise ConfigError(f"augmented_passes={augmented_passes} must be at least 1")
        protocol = find_protocol(name)
        if protocol is None:
            if cache == "none" or official_sampling:
                option = "cache='none'" if cache == "none" else "official_sampling"
                raise ConfigError(f"{option} is for official protocols; pass protocol (--protocol), or leave it out")
            return None
        return cls(
            protocol=protocol,
            cache=cache,
            augmented_passes=augmented_passes,
            official_sampling=official_sampling,
            seed=seed,
        )

    @property
    def clip_set(self) -> ClipSet:
        """Which clips a test reads."""
        return replace(self.protocol.clips, official_sampling=self.official_sampling, seed=self.seed)

    def facts(self) -> dict[str, Any]:
        """Return what a probe's `config.json` says of it."""
        facts: dict[str, Any] = {"protocol": self.protocol.name, "cache": self.cache}
        if self.cache == "tokens":
            facts["augmented_passes"] = self.augmented_passes
        return facts

    def layers(self, config: ModelConfig, given: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        """Return the blocks that are read: those that are given, else the protocol's for this depth."""
        if given is not None or not self.protocol.layers:
            return given
        return self.protocol.layers.get(config.depth, min(_LAST_BLOCKS, config.depth))

    def num_heads(self, config: ModelConfig) -> int:
        """Return the heads of the probe; fewer where they do not divide the features."""
        return math.gcd(config.embed_dim, self.protocol.num_heads or config.num_heads)

    def encoding(self, encode: EncodeOptions, clips: Sequence[LabelledClip], epochs: int) -> EncodeOptions:
        """Return options with which the clips become tokens."""
        augmentation = Augmentation(
            ids=frozenset(clip.source.id for clip in clips if clip.split == "train"),
            passes=epochs if self.cache == "none" else min(self.augmented_passes, epochs),
            seed=self.seed,
        )
        return replace(encode, clip_set=self.clip_set, augmentation=augmentation)

    def published_row(self, model: str) -> Row | None:
        """Return the number that is published for a model, as a row of the table."""
        name = _known_name(model)
        top1 = self.protocol.published.get(name)
        return None if top1 is None else Row(f"{PUBLISHED_ROW}, {name}", {"accuracy": round(top1 / 100, 6)})

    def notes(self, model: str) -> list[str]:
        """Say what is published, and how that was made."""
        protocol, row = self.protocol, self.published_row(model)
        made = f"{protocol.settings()}, augmented anew in every epoch, clips drawn at random, best on test"
        if row is not None:
            top1 = protocol.published[_known_name(model)]
            return [f"published: {top1:.1f} on {protocol.data}, {protocol.source}: {made}"]
        numbers = ", ".join(f"{name} {top1:.1f}" for name, top1 in protocol.published.items())
        return [f"no number is published for this model on {protocol.data}; {protocol.source} has {numbers}: {made}"]

    def differences(
        self,
        model: str,
        shape: Shape,
        num_classes: int,
        *,
        fit: FitOptions | None = None,
        has_other_layers: bool = False,
        is_ours: bool = False,
    ) -> list[str]:
        """Name what is not as in the published evaluation.

        Args:
            model: its name.
            fit: how probes were trained; None: they were not, only tested.
            has_other_layers: blocks were asked for that are not the protocol's.
            is_ours: the probe that is tested was trained by this package.
        """
        protocol, config = self.protocol, shape.config
        found = [] if self.official_sampling or protocol.clips.is_image else ["clips in the middle of their segments"]
        found += ["a probe that was trained by this package"] if is_ours else []
        pairs: list[tuple[str, object, object]] = [
            ("pixels", _known_resolution(model, protocol), shape.preprocess.crop_size),
            ("classes", protocol.num_classes, num_classes),
        ]
        if fit is not None:
            if self.cache == "tokens" and self.augmented_passes < fit.epochs:
                found.append(f"{self.augmented_passes} augmented passes for {fit.epochs} epochs")
            if fit.select != "test":
                found.append("chosen on videos kept out of train instead of on the test")
            if has_other_layers:
                found.append("other blocks")
            elif protocol.layers and config.depth not in protocol.layers:
                found.append(f"blocks of our choice, none are listed for a depth of {config.depth}")
            if fit.grid != protocol.grid:
                found.append(f"another grid of {len(fit.grid)}")
            pairs += [
                ("epochs", protocol.epochs, fit.epochs),
                ("batch", protocol.batch_size, fit.batch_size),
                ("class weight", None, fit.class_weight),
                ("depth", protocol.depth, fit.depth),
                ("self-attention", protocol.self_attention, fit.self_attention),
                ("heads", protocol.num_heads or config.num_heads, fit.num_heads),
            ]
        found += [f"{name} {mine} instead of {theirs}" for name, theirs, mine in pairs if mine != theirs]
        return [f"not as published: {'; '.join(found)}"] if found else []


def join_test(labelled: LabelledClips, tested: LabelledClips) -> LabelledClips:
    """Return the clips of two lists, those to learn from and those to test on.

    Raises:
        ConfigError: a list has splits of its own, or they share a clip.
    """
    for clip in (*labelled.clips, *tested.clips):
        if clip.split is not None:
            raise ConfigError(
                f"split={clip.split} of {clip.source.id}: with a list of the test there are no splits; leave the "
                "column out (--split-column '') or the second list"
            )
    learnt = [replace(clip, split="train") for clip in labelled.clips]
    shared = {clip.source.id for clip in learnt} & {clip.source.id for clip in tested.clips}
    if shared:
        raise ConfigError(f"{len(shared)} clips are in both lists, such as {min(shared)}; leave them out of one")
    clips = [*learnt, *(replace(clip, split="test") for clip in tested.clips)]
    return LabelledClips(clips, labelled.num_without_label + tested.num_without_label, labelled.grouped_by)


def settle_splits(labelled: LabelledClips, targets: np.ndarray, options: FitOptions) -> LabelledClips:
    """Return clips of which each is to learn from, to choose by or to test on, before any is decoded.

    Where probes are chosen on videos to learn from, and none are marked for that, every fifth group is.

    Raises:
        ConfigError: as `assign_splits`; or too few groups to choose by.
    """
    groups = [clip.group for clip in labelled.clips]
    splits = assign_splits(
        targets,
        groups,
        [clip.split for clip in labelled.clips],
        test_share=options.test_share,
        seed=options.seed,
        allow_group_overlap=options.allow_group_overlap,
    )
    if options.select == "val" and "val" not in splits and len(options.grid) > 1:
        learnt = np.flatnonzero(splits == "train")
        folds = group_folds(
            targets[learnt], [groups[number] for number in learnt], folds=INNER_FOLDS, seed=options.seed
        )
        if not folds:
            raise ConfigError(f"there are too few groups to choose among {len(options.grid)} probes; pass more videos")
        splits[learnt[folds[0][1]]] = "val"
    clips = [replace(clip, split=str(split)) for clip, split in zip(labelled.clips, splits, strict=True)]
    return replace(labelled, clips=clips)


def _known_name(model: str) -> str:
    """Return the name of a released encoder; those that come with a probe are the same."""
    known = next((info.name for info in KNOWN_MODELS.values() if model in (info.name, info.source)), model)
    for data in ("-ssv2", "-diving48"):
        known = known.removesuffix(data)
    return known


def _known_resolution(model: str, protocol: ProbeProtocol) -> int:
    """Return the pixels with which a published number was made."""
    name = _known_name(model)
    return KNOWN_MODELS[name].resolution if name in protocol.published else protocol.resolution
