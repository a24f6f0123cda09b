"""Check the options of an embedding job."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...config.choices import Decoder, Dtype, EncoderWeights, OnError, Pooling, Precision, Tail
from ...config.protocols import Augmentation, ClipSet
from ...config.schema import check_types
from ...errors import ConfigError
from ...runtime.files import digest_of
from ...video.windows import as_seconds, settle_windows
from .shards import Shard, read_shard


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """What a job shall do; the arguments of `embed_files`, checked."""

    split: str | None
    model: str
    revision: str | None
    weights: EncoderWeights | None
    pooling: Pooling
    layers: int | tuple[int, ...] | None
    num_frames: int | None
    fps: float | None
    window_seconds: float | None
    stride_seconds: float | None
    tail: Tail
    source_fps: float | None
    batch_size: int
    normalize_embeddings: bool
    dtype: Dtype
    precision: Precision
    compile: bool
    decoder: Decoder
    device: str | None
    num_workers: int
    deadline_seconds: float
    max_failures: float | str | None
    on_error: OnError
    follow_symlinks: bool
    shard: str | None
    extend: bool
    overwrite: bool
    show_progress_bar: bool | None
    clip_set: ClipSet | None = None
    """A row for each of these clips, instead of one."""
    augmentation: Augmentation | None = None
    """Of a clip set."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, is_valid, rule in (
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("num_workers", self.num_workers >= 0, "at least 0"),
            ("deadline_seconds", self.deadline_seconds > 0, "above 0"),
            ("fps", self.fps is None or self.fps > 0, "a number above 0; pass for example 4"),
            ("source_fps", self.source_fps is None or self.source_fps > 0, "a number above 0; pass for example 4"),
        ):
            if not is_valid:
                raise ConfigError(f"{name}={getattr(self, name)} must be {rule}")
        for name in ("window_seconds", "stride_seconds"):
            as_seconds(name, getattr(self, name))
        if self.tail != "pad" and not self.has_windows:
            raise ConfigError(f"tail={self.tail} is for the end of windows; pass window_seconds, or leave it out")
        _ = self.failure_share, self.taken_shard
        if self.extend and self.overwrite:
            raise ConfigError("extend and overwrite exclude each other; pass one")
        if self.extend and self.shard is not None:
            raise ConfigError(
                "extend and shard exclude each other, since rows that are added to a share have no place among those "
                "of the others; embed the new clips as shares of their own, or extend what was merged"
            )

    @property
    def failure_share(self) -> float:
        """The largest share of clips that may fail, from 0 to 1."""
        given = self.max_failures
        if given is None:
            return 1.0
        try:
            share = float(given[:-1]) / 100 if isinstance(given, str) and given.endswith("%") else float(given)
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            raise ConfigError(f"max_failures={given} must be a fraction from 0 to 1 or a percentage; pass 0.05 or 5%")
        return share

    @property
    def taken_shard(self) -> Shard | None:
        """Which share of the clips is wanted; None: all."""
        return None if self.shard is None else read_shard(self.shard)

    @property
    def has_windows(self) -> bool:
        """Whether a clip gives a row for each of its windows, instead of one."""
        return self.window_seconds is not None or self.stride_seconds is not None

    def frames_per_row(self, default: int) -> int:
        """Return how many frames a row is made of; `default`: of the model.

        Raises:
            ConfigError: options that make no windows.
        """
        if self.clip_set is not None:
            return self.clip_set.num_frames
        if not self.has_windows:
            return default if self.num_frames is None else self.num_frames
        num_frames, _ = settle_windows(
            window_seconds=self.window_seconds, num_frames=self.num_frames, fps=self.fps, default_num_frames=default
        )
        return num_frames

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the features, besides inputs, weights and environment."""
        names = (
            *("weights", "pooling", "num_frames", "fps", "source_fps", "batch_size", "normalize_embeddings", "dtype"),
            *("decoder", "window_seconds", "stride_seconds"),
        )
        settings = {
            **{name: getattr(self, name) for name in names},
            "tail": self.tail if self.has_windows else None,
            "layers": list(self.layers) if isinstance(self.layers, tuple) else self.layers,
            # None is what outputs have that were made before there was a choice
            "precision": None if self.precision == "float32" else self.precision,
            "compile": self.compile or None,
        }
        if self.clip_set is not None:  # other outputs do not say that they have none
            settings["clip_set"] = self.clip_set.to_dict()
        if self.augmentation is not None:
            made = {"passes": self.augmentation.passes, "seed": self.augmentation.seed}
            settings["augmentation"] = {**made, "ids_sha256": digest_of(sorted(self.augmentation.ids))}
        return settings

    def num_rows(self, ids: Sequence[str]) -> int:
        """Return how many rows these clips have at least: of windows one each, since their number is not known yet."""
        if self.clip_set is None:
            return len(ids)
        views, augmentation = self.clip_set.views, self.augmentation
        cut = 0 if augmentation is None else sum(each in augmentation.ids for each in ids)
        passes = 0 if augmentation is None else augmentation.passes
        return self.clip_set.segments * (views * (len(ids) - cut) + passes * cut)

    @property
    def num_encoders(self) -> int:
        """Networks whose features a row holds, side by side."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """What else is computed of every clip, in the one pass that decodes it."""

    trained: bool
    """Whether the model's own features are wanted, or are there already."""
    random_inits: int
    """The same network with random weights, so many times; raw pixels come last."""


@dataclass(frozen=True, kw_only=True)
class ComparedOptions(EmbedOptions):
    """Options of a job whose rows hold what the model's features are compared with too."""

    baselines: Baselines

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the rows."""
        return {**super().settings, "baselines": asdict(self.baselines)}

    @property
    def num_encoders(self) -> int:
        """Networks whose features a row holds, side by side."""
        return int(self.baselines.trained) + self.baselines.random_inits
