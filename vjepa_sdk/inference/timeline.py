"""Put the errors of overlapping windows onto one line of time, near and far predictions made comparable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np

from ..config.surprise import SurpriseSettings

TimelineKind = Literal["fitted", "relative"]
"""Of a timeline's values. `fitted`: standard deviations above normal footage; `relative`: shares of what is usual in
this very video for that context and distance from it, 1 being as usual."""


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
) -> np.ndarray:
    """Put errors onto one line, each standardised, since far predictions and short contexts are always worse.

    Args:
        errors: float32 `[W, C, T']`.
        normalizer: None: errors are divided by the video's own median at their context and distance from it.
        horizon: tubelets after the context that count; None: all.

    Returns:
        float32 `[J]`.
    """
    values = errors / usual_of(errors) if normalizer is None else normalizer.standardize(errors)
    return _overlaid(values, settings, horizon)


def token_maps_of(
    tokens: np.ndarray, settings: SurpriseSettings, *, normalizer: Normalizer | None, horizon: int | None
) -> np.ndarray:
    """Do the same for each place: of errors of tokens, float32 `[W, C, T', H', W']`, make `[J, H', W']`."""
    if normalizer is not None:
        return _overlaid(normalizer.standardize_tokens(tokens), settings, horizon)
    usual = usual_of(tokens.mean(axis=(3, 4), dtype=np.float64).astype(np.float32))
    return _overlaid(tokens / usual[:, :, None, None], settings, horizon)


def usual_of(errors: np.ndarray) -> np.ndarray:
    """Return the median over windows, `[C, T']`; 1 where all guesses were perfect and there is nothing to divide by."""
    median = np.median(errors, axis=0)
    usual: np.ndarray = np.where(median == 0, np.float32(1), median)
    return usual


def _overlaid(values: np.ndarray, settings: SurpriseSettings, horizon: int | None) -> np.ndarray:
    """Average values `[W, C, T', ...]` that lie at the same place in time: float32 `[J, ...]`; NaN where none does."""
    steps = values.shape[2]
    stride, last = settings.stride_tubelets, (len(values) - 1) * settings.stride_tubelets
    sums = np.zeros((last + steps, *values.shape[3:]))
    terms = np.zeros(last + steps, np.int64)
    for number, length in enumerate(settings.context_tubelets):
        for step in range(length, steps if horizon is None else min(steps, length + horizon)):
            places = slice(step, last + step + 1, stride)
            sums[places] += values[:, number, step]
            terms[places] += 1
    sums[terms == 0] = np.nan
    means: np.ndarray = sums / np.maximum(terms, 1).reshape(-1, *[1] * (sums.ndim - 1))
    return means.astype(np.float32)
