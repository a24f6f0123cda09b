"""Surprise: given the past of a video, how wrong is the predicted future, as a curve over time.

Nothing that comes after a context has any influence on what is predicted from it: the context encoder gets the
context's pixels alone. The target of a window is encoded with all of the window, unless `targets="past"`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from .._version import __version__
from ..config.model import ModelConfig
from ..config.schema import to_dict
from ..config.surprise import ContextReduction, SurpriseSettings, TimeReduction
from ..errors import ConfigError
from ..runtime.files import canonical_json
from ..runtime.progress import progress_bar
from ..video.walk import FrameWalk, Walk, windows_of
from .prediction_error import ErrorMeter
from .timeline import Normalizer, TimelineKind, timeline_of, token_maps_of


@dataclass(frozen=True, eq=False, kw_only=True)
class Surprise:
    """How wrong predictions were in one video: W windows, C contexts, T' tubelets a window, J tubelets in all."""

    errors: np.ndarray
    """float32 `[W, C, T']`: mean error of a tubelet's tokens; NaN where it was context."""
    floor: np.ndarray | None
    """The same for the guess that nothing changes after the context; None unless asked for."""
    contexts: tuple[int, ...]
    """Lengths of the contexts in tubelets."""
    stride_tubelets: int
    """From window to window."""
    frame_seconds: np.ndarray
    """float64 `[J * tubelet_size + 1]`: when each frame that was looked at begins, and when the last one ends."""
    timeline: np.ndarray
    """float32 `[J]`: surprise at each tubelet, the mean over the windows and contexts that predict it; NaN where none
    does, as at the beginning."""
    timeline_kind: TimelineKind
    tokens: np.ndarray | None
    """float32 `[J, H', W']`: the same for each place; None unless asked for."""
    reduce_contexts: ContextReduction | int
    """What `score` takes of a window's contexts if not told otherwise."""
    meta: dict[str, Any]
    """Video, model, settings, encoders, preprocessing and versions, as plain JSON data."""

    def __len__(self) -> int:
        return len(self.errors)

    def __repr__(self) -> str:
        peak = "" if np.isnan(self.timeline).all() else f", peak {self.peak[1]:.3g} at {self.peak[0]:.2f} s"
        return f"Surprise({len(self)} windows, score {self.score():.4g}{peak})"

    @property
    def windows(self) -> np.ndarray:
        """float32 `[W, C]`: mean error of each window for each context, the official numbers."""
        return _over_time(self.errors)

    @property
    def start_seconds(self) -> np.ndarray:
        """float64 `[W]`: when each window starts."""
        starts: np.ndarray = self.frame_seconds[self._first_frames]
        return starts

    @property
    def end_seconds(self) -> np.ndarray:
        """float64 `[W]`: when each window ends."""
        ends: np.ndarray = self.frame_seconds[self._first_frames + self.errors.shape[2] * self._tubelet_size]
        return ends

    @property
    def context_end_seconds(self) -> np.ndarray:
        """float64 `[W, C]`: up to where each context reaches."""
        lengths = np.array(self.contexts) * self._tubelet_size
        ends: np.ndarray = self.frame_seconds[self._first_frames[:, None] + lengths]
        return ends

    @property
    def tubelet_start_seconds(self) -> np.ndarray:
        """float64 `[J]`: when the tubelets of the timeline start."""
        return self.frame_seconds[: -1 : self._tubelet_size]

    @property
    def tubelet_end_seconds(self) -> np.ndarray:
        """float64 `[J]`: when they end."""
        return self.frame_seconds[self._tubelet_size :: self._tubelet_size]

    @property
    def peak(self) -> tuple[float, float]:
        """When the timeline is highest, in seconds, the middle of that tubelet, and how high.

        Raises:
            ConfigError: the timeline is empty, since no horizon fits it.
        """
        if np.isnan(self.timeline).all():
            raise ConfigError("the timeline has no value anywhere, so it has no peak; pass a longer horizon")
        at = int(np.nanargmax(self.timeline))
        middle = (self.tubelet_start_seconds[at] + self.tubelet_end_seconds[at]) / 2
        return float(middle), float(self.timeline[at])

    def window_scores(self, reduce_contexts: ContextReduction | int | None = None) -> np.ndarray:
        """Return one number a window, float32 `[W]`.

        Args:
            reduce_contexts: `min` over contexts (the paper's `filtered`), `mean`, or the length of one context in
                tubelets; None: that of the measurement.

        Raises:
            ConfigError: another word, or a context that was not measured.
        """
        return self._reduced(self.windows, reduce_contexts)

    def score(
        self, *, reduce_contexts: ContextReduction | int | None = None, reduce_time: TimeReduction = "mean"
    ) -> float:
        """Return one number for the video; in the paper `mean` over time for pairs and `max` for single videos."""
        return _over_windows(self.window_scores(reduce_contexts), reduce_time)

    def floor_score(
        self, *, reduce_contexts: ContextReduction | int | None = None, reduce_time: TimeReduction = "mean"
    ) -> float:
        """Return what `score` would be for the guess that nothing changes.

        A model that is not clearly below it predicts nothing but stillness.

        Raises:
            ConfigError: the measurement has no floor.
        """
        if self.floor is None:
            raise ConfigError("the floor was not measured; pass floor=True")
        return _over_windows(self._reduced(_over_time(self.floor), reduce_contexts), reduce_time)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON data; NaN becomes None."""
        names = [field.name for field in fields(self) if field.name != "meta"]
        names += ["windows", "start_seconds", "end_seconds", "context_end_seconds"]
        names += ["tubelet_start_seconds", "tubelet_end_seconds"]
        return {name: _plain(getattr(self, name)) for name in names} | {"meta": self.meta}

    @property
    def _tubelet_size(self) -> int:
        return (len(self.frame_seconds) - 1) // len(self.timeline)

    @property
    def _first_frames(self) -> np.ndarray:
        return np.arange(len(self)) * self.stride_tubelets * self._tubelet_size

    def _reduced(self, windows: np.ndarray, reduce_contexts: ContextReduction | int | None) -> np.ndarray:
        how = self.reduce_contexts if reduce_contexts is None else reduce_contexts
        check_reduction(how, self.contexts)
        if isinstance(how, int):
            return windows[:, self.contexts.index(how)]
        reduced: np.ndarray = windows.min(axis=1) if how == "min" else windows.mean(axis=1, dtype=np.float64)
        return reduced.astype(np.float32)


def check_reduction(reduce: ContextReduction | int, contexts: tuple[int, ...]) -> None:
    """Raise ConfigError unless contexts can be reduced so."""
    if reduce not in (*get_args(ContextReduction), *contexts) or isinstance(reduce, bool):
        lengths = ", ".join(map(str, contexts))
        raise ConfigError(f"reduce={reduce!r} must be 'min', 'mean', or the tubelets of one context: {lengths}")


@dataclass(frozen=True, kw_only=True)
class SurpriseMeter:
    """Measure the surprise of videos, one after the other, with one model and the same settings."""

    meter: ErrorMeter
    normalize: Callable[[Tensor], Tensor]
    """Turns pixels `uint8 [B, T, 3, H, W]` into clips where the networks are."""
    walk: FrameWalk
    batch_size: int
    description: Mapping[str, Any]
    """What a result says of its model."""

    @property
    def settings(self) -> SurpriseSettings:
        """Which frames, windows and contexts."""
        return self.walk.settings

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""
        return self.meter.target_encoder.config

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be equal where errors are compared: the weights, and all settings but the length of videos."""
        settings = {name: value for name, value in to_dict(self.settings).items() if name != "max_frames"}
        return {"weights_sha256": self._digest(), "preprocess": to_dict(self.walk.preprocess), **settings}

    def measure(
        self,
        video: object,
        *,
        normalizer: Normalizer | None = None,
        reduce: ContextReduction | int = "min",
        horizon: int | None = None,
        keep_tokens: bool = False,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        show_progress_bar: bool | None = None,
    ) -> Surprise:
        """Measure one video; see `VJEPA.surprise`."""
        with self.walk.open(video, start_seconds=start_seconds, end_seconds=end_seconds) as walk:
            result = self.measure_walk(
                walk,
                normalizer=normalizer,
                reduce=reduce,
                horizon=horizon,
                keep_tokens=keep_tokens,
                show_progress_bar=show_progress_bar,
            )
        result.meta["video"] = os.fspath(video) if isinstance(video, str | os.PathLike) else None
        return result

    def measure_walk(
        self,
        walk: Walk,
        *,
        normalizer: Normalizer | None = None,
        reduce: ContextReduction | int = "min",
        horizon: int | None = None,
        keep_tokens: bool = False,
        show_progress_bar: bool | None = None,
    ) -> Surprise:
        """Measure frames that come from elsewhere, such as a decoding process."""
        settings, steps = self.settings, self.settings.num_frames // self.config.tubelet_size
        check_reduction(reduce, settings.context_tubelets)
        if horizon is not None and (type(horizon) is not int or not 1 <= horizon < steps):
            raise ConfigError(f"horizon={horizon!r} must be from 1 to {steps - 1} tubelets; None takes all")
        if normalizer is not None:
            normalizer.check(self.identity)
        errors, floors, tokens = [], [], []
        for found, floor in self.iter_errors(walk, show_progress_bar=show_progress_bar):
            errors.append(found.mean(axis=(3, 4), dtype=np.float64).astype(np.float32))
            if floor is not None:
                floors.append(floor.mean(axis=(3, 4), dtype=np.float64).astype(np.float32))
            if keep_tokens:
                tokens.append(found)
        measured = np.concatenate(errors)
        timeline = timeline_of(measured, settings, normalizer=normalizer, horizon=horizon)
        maps = None
        if keep_tokens:
            maps = token_maps_of(np.concatenate(tokens), settings, normalizer=normalizer, horizon=horizon)
        return Surprise(
            errors=measured,
            floor=np.concatenate(floors) if floors else None,
            contexts=settings.context_tubelets,
            stride_tubelets=settings.stride_tubelets,
            frame_seconds=walk.seconds[: len(timeline) * self.config.tubelet_size + 1],
            timeline=timeline,
            timeline_kind="relative" if normalizer is None else "fitted",
            tokens=maps,
            reduce_contexts=reduce,
            meta=self._meta(horizon),
        )

    def iter_errors(
        self, walk: Walk, *, show_progress_bar: bool | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yield errors, and floors if asked for, of batches of windows: float32 `[B, C, T', H', W']`."""
        settings = self.settings
        stride = settings.stride_tubelets * self.config.tubelet_size
        windows = windows_of(walk.frames, num_frames=settings.num_frames, stride=stride)
        total = (len(walk.seconds) - 1 - settings.num_frames) // stride + 1
        with progress_bar("surprise", total=total, show=show_progress_bar, unit="window") as bar:
            while batch := list(islice(windows, self.batch_size)):
                found = self.meter(self.normalize(torch.from_numpy(np.stack(batch))))
                yield found.errors.cpu().numpy(), None if found.floor is None else found.floor.cpu().numpy()
                bar.advance(by=len(batch))

    def _meta(self, horizon: int | None) -> dict[str, Any]:
        device = str(self.meter.target_encoder.patch_embed.proj.weight.device)
        return {
            "model": dict(self.description),
            "settings": to_dict(self.settings),
            "encoders": "one" if self.meter.context_encoder is self.meter.target_encoder else "two",
            "horizon": horizon,
            "decoder": self.walk.decoder,
            "source_fps": self.walk.source_fps,
            "preprocess": to_dict(self.walk.preprocess),
            "environment": {"vjepa_sdk": __version__, "torch": str(torch.__version__), "device": device},
        }

    def _digest(self) -> str:
        """Return the sha256 of the model's shape and of all weights that take part, as they are in memory."""
        digest = hashlib.sha256(canonical_json(to_dict(self.config)))
        for network in (self.meter.context_encoder, self.meter.target_encoder, self.meter.predictor):
            for name, tensor in network.state_dict().items():
                digest.update(f"{name} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _over_time(errors: np.ndarray) -> np.ndarray:
    """Return the mean over the tubelets that are not context, float32 `[W, C]`."""
    means: np.ndarray = np.nanmean(errors.astype(np.float64), axis=2).astype(np.float32)
    return means


def _over_windows(scores: np.ndarray, reduce_time: TimeReduction) -> float:
    if reduce_time not in get_args(TimeReduction):
        raise ConfigError(f"reduce_time={reduce_time!r} must be one of {', '.join(get_args(TimeReduction))}")
    if reduce_time == "max":
        return float(scores.max())
    return float(scores.mean(dtype=np.float64) if reduce_time == "mean" else np.percentile(scores, 95))


def _plain(value: object) -> Any:
    if isinstance(value, np.ndarray):
        plain = value.astype(object)
        plain[np.isnan(value)] = None
        return plain.tolist()
    return list(value) if isinstance(value, tuple) else value
