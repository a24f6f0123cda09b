"""What to make of surprise: find events in it, and say how well it tells videos and frames apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..errors import ConfigError, InputError
from ..inference.surprise import Surprise

Scaling = Literal["none", "per_video"]
"""Of scores before they are compared. `per_video`: to 0..1 within each video, as many papers do; it uses the whole test
video, and that each has an anomaly, so nothing that runs can do it."""

_MAD_TO_STD = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class SurpriseEvent:
    """A stretch of a video that is surprising throughout."""

    start_seconds: float
    end_seconds: float
    peak_seconds: float
    """The middle of the most surprising tubelet."""
    peak: float


def find_events(
    surprise: Surprise, *, threshold: float | None = None, half_life_seconds: float = 0.0
) -> list[SurpriseEvent]:
    """Find where the timeline is above a threshold, in the order of time.

    Args:
        surprise: of one video.
        threshold: None: 4 standard deviations above normal footage; without a normaliser, 4 above the video's own
            median, which needs all of the video.
        half_life_seconds: smooth the timeline first, see `smooth_timeline`.
    """
    timeline = smooth_timeline(surprise, half_life_seconds=half_life_seconds)
    known = timeline[~np.isnan(timeline)]
    if not len(known):
        return []
    if threshold is None:
        threshold = event_threshold(surprise, half_life_seconds=half_life_seconds)
    is_above = np.nan_to_num(timeline, nan=-np.inf) > threshold
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_above, [False]]).astype(np.int8)))
    starts, ends = surprise.tubelet_start_seconds, surprise.tubelet_end_seconds
    events = []
    for first, after in edges.reshape(-1, 2).tolist():
        top = first + int(np.argmax(timeline[first:after]))
        middle = float(starts[top] + ends[top]) / 2
        events.append(SurpriseEvent(float(starts[first]), float(ends[after - 1]), middle, float(timeline[top])))
    return events


def event_threshold(surprise: Surprise, *, half_life_seconds: float = 0.0) -> float:
    """Return above what `find_events` takes a moment for an event if not told otherwise; NaN of an empty timeline."""
    if surprise.timeline_kind == "fitted":
        return 4.0
    timeline = smooth_timeline(surprise, half_life_seconds=half_life_seconds)
    known = timeline[~np.isnan(timeline)]
    if not len(known):
        return float("nan")
    median = float(np.median(known))
    return median + 4.0 * _MAD_TO_STD * float(np.median(np.abs(known - median)))


def smooth_timeline(
    surprise: Surprise, *, half_life_seconds: float = 0.0, kind: Literal["causal", "gaussian"] = "causal"
) -> np.ndarray:
    """Smooth a timeline over time, float32 `[J]`; what has no value keeps none and has no influence.

    Args:
        surprise: of one video.
        half_life_seconds: after which a value's weight has halved; 0 changes nothing.
        kind: `causal`: exponential, of what came before; `gaussian`: to both sides, which hides how late a score
                comes.

    Raises:
        ConfigError: a negative half-life, or another kind.
    """
    if not 0 <= half_life_seconds < 1e6:
        raise ConfigError(f"half_life_seconds={half_life_seconds} must be at least 0; pass for example 0.5")
    if kind not in ("causal", "gaussian"):
        raise ConfigError(f"kind={kind!r} must be 'causal' or 'gaussian'")
    if half_life_seconds == 0:
        return surprise.timeline
    middles = (surprise.tubelet_start_seconds + surprise.tubelet_end_seconds) / 2
    known = np.flatnonzero(~np.isnan(surprise.timeline))
    times, values = middles[known] / half_life_seconds, surprise.timeline[known].astype(np.float64)
    smoothed = np.full(len(middles), np.nan)
    if kind == "causal":
        total = weight = 0.0
        for number, decay in enumerate(0.5 ** np.diff(times, prepend=times[:1])):
            total, weight = decay * total + values[number], decay * weight + 1.0
            smoothed[known[number]] = total / weight
    else:
        for number, (first, last) in enumerate(zip(*np.searchsorted(times, (times - 6, times + 6)), strict=True)):
            weights = 0.5 ** (times[first:last] - times[number]) ** 2
            smoothed[known[number]] = weights @ values[first:last] / weights.sum()
    return smoothed.astype(np.float32)


def surprise_metrics(
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    pairs: Sequence[tuple[int, int]] | np.ndarray | None = None,
    video_ids: Sequence[str] | np.ndarray | None = None,
    scaling: Scaling = "none",
) -> dict[str, float | int | None]:
    """Say how well scores tell what is impossible, or abnormal, from what is not.

    Args:
        scores: of videos, or of frames with `video_ids`; those that are NaN are left out and counted.
        labels: 1 for impossible or abnormal, else 0.
        pairs: rows (possible, impossible) that belong together.
        video_ids: the video of each row, when rows are frames.
        scaling: see `Scaling`; needs `video_ids`.

    Returns:
        `auroc`, `auprc` (abnormal rows are the positives) and `auprc_possible` (the possible ones are, as in the
        paper's code); `rows`, `rows_left_out`. With pairs, `relative_accuracy`, the share of pairs in which the
        possible one has the lower score, `pairs`, and `ties`, which count as wrong, as in the paper. With videos,
        `micro_auc`, of all frames at once, `macro_auc`, the mean over videos that have both labels (None if there is
        none), `macro_videos` and `macro_videos_left_out`.

    Raises:
        InputError: arrays that do not belong together, labels other than 0 and 1, or one of them only.
        ConfigError: an unknown scaling, or one without videos.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    values, truth = np.asarray(scores, np.float64), np.asarray(labels)
    videos = None if video_ids is None else np.asarray(video_ids)
    _check_rows(values, truth, videos)
    if scaling not in get_args(Scaling) or (scaling != "none" and videos is None):
        raise ConfigError(f"scaling={scaling!r} must be 'none', or 'per_video' with video_ids")
    is_known = ~np.isnan(values)
    found: dict[str, float | int | None] = {"rows": int(is_known.sum()), "rows_left_out": int((~is_known).sum())}
    if pairs is not None:
        found |= _pair_metrics(values, truth, np.asarray(pairs))
    if scaling == "per_video" and videos is not None:
        values = _scaled(values, videos)
    values, truth = values[is_known], truth[is_known].astype(int)
    if len(np.unique(truth)) < 2:
        raise InputError("the rows with a score have one label only; metrics need both 0 and 1")
    found["auroc"] = float(roc_auc_score(truth, values))
    found["auprc"] = float(average_precision_score(truth, values))
    found["auprc_possible"] = float(average_precision_score(1 - truth, -values))
    if videos is not None:
        parts = [videos[is_known] == name for name in np.unique(videos)]
        each = [float(roc_auc_score(truth[p], values[p])) for p in parts if len(np.unique(truth[p])) == 2]
        found["micro_auc"] = found["auroc"]
        found["macro_auc"] = float(np.mean(each)) if each else None
        found |= {"macro_videos": len(each), "macro_videos_left_out": len(parts) - len(each)}
    return found


def _check_rows(scores: np.ndarray, labels: np.ndarray, videos: np.ndarray | None) -> None:
    shapes = [array.shape for array in (scores, labels, videos) if array is not None]
    if scores.ndim != 1 or len(set(shapes)) > 1:
        raise InputError(f"scores, labels and video_ids of shapes {shapes} must be [n] each")
    if not np.isin(labels, (0, 1)).all():
        raise InputError("labels must be 1 for impossible or abnormal, else 0")
    if np.isinf(scores).any():
        raise InputError("scores must be finite; NaN stands for none")


def _pair_metrics(scores: np.ndarray, labels: np.ndarray, pairs: np.ndarray) -> dict[str, float | int | None]:
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs) or pairs.dtype.kind not in "iu":
        raise InputError(f"pairs of shape {list(pairs.shape)} must be rows (possible, impossible), [m, 2]")
    if pairs.min() < 0 or pairs.max() >= len(scores):
        raise InputError(f"pairs must be rows from 0 to {len(scores) - 1}")
    if labels[pairs[:, 0]].any() or not labels[pairs[:, 1]].all():
        raise InputError("each pair must be a row with label 0, then one with label 1")
    possible, impossible = scores[pairs[:, 0]], scores[pairs[:, 1]]
    is_known = ~np.isnan(possible) & ~np.isnan(impossible)
    if not is_known.any():
        raise InputError("no pair has two scores")
    possible, impossible = possible[is_known], impossible[is_known]
    return {
        "relative_accuracy": float((possible < impossible).mean()),
        "pairs": int(is_known.sum()),
        "ties": int((possible == impossible).sum()),
    }


def _scaled(scores: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """Scale the scores of each video to 0..1; where they are all equal, to 0."""
    scaled = scores.copy()
    for name in np.unique(videos):
        part = videos == name
        known = scores[part & ~np.isnan(scores)]
        if len(known):
            low, high = known.min(), known.max()
            scaled[part] = (scores[part] - low) / (high - low if high > low else 1.0)
    return scaled
