"""Put the errors of overlapping windows onto one line of time, near and far predictions made comparable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np

from ..config.surprise import SurpriseSettings

TimelineKind = Literal["fitted", "relative"]
"""Of a timeline's values. `fitted`: standard deviations above normal footage; `relative`: shares of what is usual in
this very video at that distance from the context, 1 being as usual."""


class Normalizer(Protocol):
    """What normal footage looks like; `vjepa_sdk.SurpriseNormalizer` is one."""

    def check(self, identity: Mapping[str, Any]) -> None:
        """Raise unless errors with these settings of this model can be compared."""

    def standardize(self, errors: np.ndarray) -> np.ndarray:
        """Return errors `[..., C, T']` in standard deviations."""

    def standardize_tokens(self, errors: np.ndarray) -> np.ndarray:
        """Return errors `[..., C, T', H', W']` in standard deviations."""


def timeline_of(
    errors: np.ndarray, settings: SurpriseSettings, *, normalizer: Normalizer | None, horizon: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Average what all windows and contexts say of each tubelet, each standardised, since far ones are always worse.

    Args:
        errors: float32 `[W, C, T']`.
        normalizer: None: errors are divided by the video's own median at their distance from the context.
        horizon: tubelets after the context that count; None: all.

    Returns:
        The timeline, float32 `[J]`, and those medians by distance, float64 `[T']`; entry 0 is of the first tubelet
        after the context.
    """
    distance = distances(settings.context_tubelets, errors.shape[2])
    usual = np.ones(errors.shape[2])
    if normalizer is not None:
        values = normalizer.standardize(errors).astype(np.float64)
    else:
        for number in range(int(distance.max()) + 1):
            median = float(np.median(errors[:, distance == number]))
            usual[number] = median if median > 0 else 1.0  # nothing but perfect guesses: nothing to divide by
        values = errors / usual[np.maximum(distance, 0)]
    counts = (distance >= 0) & (distance < (horizon or errors.shape[2]))
    places = np.arange(len(errors))[:, None, None] * settings.stride_tubelets + np.arange(errors.shape[2])
    places, values = np.broadcast_to(places, errors.shape)[:, counts].ravel(), values[:, counts].ravel()
    length = (len(errors) - 1) * settings.stride_tubelets + errors.shape[2]
    terms = np.bincount(places, minlength=length)
    sums = np.bincount(places, weights=values, minlength=length)
    timeline = np.where(terms > 0, sums / np.maximum(terms, 1), np.nan)
    return timeline.astype(np.float32), usual


def distances(contexts: tuple[int, ...], steps: int) -> np.ndarray:
    """Return how far each tubelet is behind each context, int64 `[C, T']`: 0 right after it, negative within it."""
    away: np.ndarray = np.arange(steps) - np.array(contexts)[:, None]
    return away


class TokenSums:
    """Add up maps of errors at their places in time, apart for each distance from the context."""

    def __init__(self, normalizer: Normalizer | None, settings: SurpriseSettings, horizon: int | None) -> None:
        self._normalizer, self._stride, self._contexts = normalizer, settings.stride_tubelets, settings.context_tubelets
        self._horizon, self._num_windows = horizon, 0
        self._sums: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []

    def add(self, errors: np.ndarray) -> None:
        """Add windows `[B, C, T', H', W']`, in their order."""
        values = errors if self._normalizer is None else self._normalizer.standardize_tokens(errors)
        steps = errors.shape[2]
        distance = distances(self._contexts, steps)
        for window in values:
            start = self._num_windows * self._stride
            for _ in range(start + steps - len(self._sums)):
                self._sums.append(np.zeros((steps, *errors.shape[3:]), np.float64))
                self._counts.append(np.zeros(steps, np.int64))
            for context, step in np.argwhere((distance >= 0) & (distance < (self._horizon or steps))):
                self._sums[start + step][distance[context, step]] += window[context, step]
                self._counts[start + step][distance[context, step]] += 1
            self._num_windows += 1

    def mean(self, usual: np.ndarray) -> np.ndarray:
        """Return the mean maps, float32 `[J, H', W']`, after errors at each distance were divided by the usual one."""
        sums, counts = np.stack(self._sums), np.stack(self._counts).sum(axis=1)
        total = (sums / usual[:, None, None]).sum(axis=1)
        with np.errstate(invalid="ignore"):
            maps: np.ndarray = (total / counts[:, None, None]).astype(np.float32)
        return maps
