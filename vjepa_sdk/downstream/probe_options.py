"""Check the options of `train_probe`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, Literal, get_args

from ..config.choices import Decoder, EncoderWeights, Pooling, ProbeKind
from ..config.protocols import Augmentation, ClipSet, GridPoint
from ..config.schema import check_types
from ..errors import ConfigError
from ..features.source import FeatureSource
from ..inference.embed.options import Baselines, ComparedOptions, EmbedOptions

Select = Literal["val", "test"]


_LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 5e-3)
_WEIGHT_DECAYS = (0.01, 0.1, 0.4, 0.8)


def grid_of(
    learning_rates: Sequence[float] | None, weight_decays: Sequence[float] | None, default: Sequence[GridPoint] = ()
) -> tuple[GridPoint, ...]:
    """Return all pairs of learning rates and weight decays.

    Args:
        learning_rates: None: those of V-JEPA 2.
        weight_decays: None: those of V-JEPA 2.
        default: what is returned instead where both are None, if it is not empty.

    Raises:
        ConfigError: none, or one that is not positive.
    """
    if learning_rates is None and weight_decays is None and default:
        return tuple(default)
    rates = _LEARNING_RATES if learning_rates is None else tuple(learning_rates)
    decays = _WEIGHT_DECAYS if weight_decays is None else tuple(weight_decays)
    if not rates or not all(rate > 0 for rate in rates):
        raise ConfigError(f"learning_rates={rates!r} must be above 0")
    if not decays or not all(decay >= 0 for decay in decays):
        raise ConfigError(f"weight_decays={decays!r} must be at least 0")
    return tuple(GridPoint(rate, decay) for rate, decay in product(rates, decays))


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How clips become features."""

    model: str
    revision: str | None
    weights: EncoderWeights | None
    pooling: Pooling
    layers: int | tuple[int, ...] | None
    num_frames: int | None
    fps: float | None
    window_seconds: float | None
    stride_seconds: float | None
    source_fps: float | None
    decoder: Decoder
    batch_size: int
    device: str | None
    num_workers: int
    deadline_seconds: float
    max_failures: float | str | None
    show_progress_bar: bool | None
    clip_set: ClipSet | None = None
    augmentation: Augmentation | None = None

    def of_source(self, source: FeatureSource) -> EncodeOptions:
        """Return options with which clips become features of `source`."""
        settings = source.settings
        layers = settings["layers"]
        return replace(
            self,
            model=source.model["name"],
            weights=source.model["encoder_weights"],
            layers=tuple(layers) if isinstance(layers, list) else layers,
            **{name: settings[name] for name in ("pooling", "num_frames", "fps", "source_fps", "decoder")},
            **{name: settings[name] for name in ("window_seconds", "stride_seconds")},
        )

    def compared(self, baselines: Baselines, *, normalize_embeddings: bool = False) -> ComparedOptions:
        """Return the options of the job that encodes clips, and what they are compared with."""
        plain = self.embedding(normalize_embeddings=normalize_embeddings)
        return ComparedOptions(**{each.name: getattr(plain, each.name) for each in fields(plain)}, baselines=baselines)

    def embedding(self, *, normalize_embeddings: bool = False) -> EmbedOptions:
        """Return the options of the job that encodes clips."""
        return EmbedOptions(
            split=None,
            model=self.model,
            revision=self.revision,
            weights=self.weights,
            pooling=self.pooling,
            layers=self.layers,
            num_frames=self.num_frames,
            fps=self.fps,
            window_seconds=self.window_seconds,
            stride_seconds=self.stride_seconds,
            tail="pad",
            source_fps=self.source_fps,
            batch_size=self.batch_size,
            normalize_embeddings=normalize_embeddings,
            dtype="float16" if self.pooling == "none" else "float32",
            precision="float32",
            compile=False,
            decoder=self.decoder,
            device=self.device,
            num_workers=self.num_workers,
            deadline_seconds=self.deadline_seconds,
            max_failures=self.max_failures,
            on_error="skip",
            follow_symlinks=False,
            shard=None,
            extend=False,
            overwrite=False,
            show_progress_bar=self.show_progress_bar,
            clip_set=self.clip_set,
            augmentation=self.augmentation,
        )


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How features become a probe, and how that is scored."""

    kind: ProbeKind
    C: float | None
    k: int
    temperature: float
    class_weight: Literal["balanced"] | None
    select: Select
    folds: int | None
    test_share: float
    allow_group_overlap: bool
    baseline: bool
    random_inits: int
    bootstrap: int
    seed: int
    depth: int
    num_heads: int | None
    self_attention: Literal["before", "after"]
    epochs: int
    batch_size: int
    grid: tuple[GridPoint, ...]
    one_row_a_video: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        for name, is_valid, rule in (
            ("kind", self.kind in get_args(ProbeKind), f"one of {', '.join(get_args(ProbeKind))}"),
            ("C", self.C is None or self.C > 0, "above 0"),
            ("folds", self.folds is None or self.folds >= 2, "at least 2"),
            ("random_inits", self.random_inits >= 1, "at least 1; pass baseline=False (--no-baseline) for none"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
        ):
            if not is_valid:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be {rule}")
        if self.select == "test" and self.folds is not None:
            raise ConfigError("select='test' and folds exclude each other; leave one out")

    def facts(self) -> dict[str, Any]:
        """Return what a probe's `config.json` says of them."""
        names = ("kind", "select", "folds", "seed", "class_weight", "baseline")
        more = ("depth", "self_attention", "epochs", "batch_size") if self.kind == "attentive" else ()
        return {name: getattr(self, name) for name in (*names, *more)}
