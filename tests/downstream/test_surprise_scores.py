"""Events and metrics of surprise, against brute force and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from vjepa_sdk import find_events, surprise_metrics
from vjepa_sdk.downstream.surprise_scores import smooth_timeline
from vjepa_sdk.errors import ConfigError, InputError
from vjepa_sdk.inference.surprise import Surprise


def curve(values: list[float], *, kind: str = "fitted") -> Surprise:
    """Return a result with this timeline: tubelets of two frames at 10 a second, that start at 3 s."""
    return Surprise(
        errors=np.zeros((1, 1, len(values)), np.float32),
        floor=None,
        contexts=(1,),
        stride_tubelets=1,
        frame_seconds=3 + np.arange(2 * len(values) + 1) / 10,
        timeline=np.array(values, np.float32),
        timeline_kind=kind,  # type: ignore[arg-type]
        tokens=None,
        reduce_contexts="min",
        meta={},
    )


# scores from few values, so that ties are common
rows = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 0.5, 1.0, 2.0]), st.integers(0, 1), st.sampled_from("abc")), min_size=2
)


@given(rows)
def test_areas_are_those_of_scikit_learn_ties_included(drawn: list[tuple[float, int, str]]) -> None:
    scores, labels, videos = (np.array(column) for column in zip(*drawn, strict=True))
    if len(set(labels)) < 2:
        with pytest.raises(InputError, match="have one label only"):
            surprise_metrics(scores, labels)
        return
    found = surprise_metrics(scores, labels, video_ids=videos)
    assert found["auroc"] == found["micro_auc"] == roc_auc_score(labels, scores)
    assert found["auprc"] == average_precision_score(labels, scores)
    assert found["auprc_possible"] == average_precision_score(1 - labels, -scores)
    each = []
    for name in sorted(set(videos)):
        part = videos == name
        if len(set(labels[part])) == 2:
            each.append(roc_auc_score(labels[part], scores[part]))
    assert found["macro_auc"] == (np.mean(each) if each else None)
    assert found["macro_videos"] == len(each)
    assert found["macro_videos_left_out"] == len(set(videos)) - len(each)


@given(rows)
def test_the_area_is_the_chance_to_rank_a_pair_right(drawn: list[tuple[float, int, str]]) -> None:
    scores, labels, _ = (np.array(column) for column in zip(*drawn, strict=True))
    if len(set(labels)) < 2:
        return
    above, below = scores[labels == 1][:, None], scores[labels == 0]
    chance = np.mean((above > below) + 0.5 * (above == below))
    assert surprise_metrics(scores, labels)["auroc"] == pytest.approx(chance)


def test_pairs_count_where_the_possible_one_is_lower() -> None:
    found = surprise_metrics([1, 2, 5, 4, 3, 3], [0, 1, 0, 1, 0, 1], pairs=[(0, 1), (2, 3), (4, 5)])
    assert found["relative_accuracy"] == 1 / 3 and found["pairs"] == 3 and found["ties"] == 1


def test_rows_without_a_score_are_left_out_and_counted() -> None:
    found = surprise_metrics([np.nan, 1, 2, 3], [1, 0, 1, 0], pairs=[(1, 2), (3, 0)], video_ids=["a", "a", "a", "b"])
    assert (found["rows"], found["rows_left_out"], found["pairs"]) == (3, 1, 1)
    assert found["relative_accuracy"] == 1.0
    assert found["auroc"] == roc_auc_score([0, 1, 0], [1, 2, 3])


def test_scaling_each_video_hides_what_differs_between_videos() -> None:
    scores = [0, 1, 10, 11, np.nan, 5, 5]
    labels = [0, 1, 0, 1, 0, 0, 0]
    videos = ["a", "a", "b", "b", "b", "c", "c"]
    assert surprise_metrics(scores, labels, video_ids=videos)["micro_auc"] == pytest.approx(
        roc_auc_score([0, 1, 0, 1, 0, 0], [0, 1, 10, 11, 5, 5])
    )
    assert surprise_metrics(scores, labels, video_ids=videos, scaling="per_video")["micro_auc"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0, 1]}, "must be .n. each"),
        ({"labels": [0, 1, 2]}, "labels must be 1 for impossible or abnormal, else 0"),
        ({"scores": [0, np.inf, 1]}, "scores must be finite"),
        ({"video_ids": ["a"]}, "must be .n. each"),
        ({"pairs": [(0, 3)]}, "pairs must be rows from 0 to 2"),
        ({"pairs": [(1, 0)]}, "each pair must be a row with label 0, then one with label 1"),
        ({"pairs": [0, 1]}, "must be rows .possible, impossible."),
        ({"scores": [np.nan, 1, 2], "pairs": [(0, 1)]}, "no pair has two scores"),
        ({"scores": [1, np.nan, 2]}, "have one label only; metrics need both 0 and 1"),
    ],
)
def test_rows_that_do_not_belong_together_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        surprise_metrics(**({"scores": [1.0, 2.0, 3.0], "labels": [0, 1, 0]} | arguments))  # type: ignore[arg-type]


def test_scaling_needs_videos() -> None:
    with pytest.raises(ConfigError, match="scaling='per_video' must be 'none', or 'per_video' with video_ids"):
        surprise_metrics([1, 2], [0, 1], scaling="per_video")


def test_events_are_stretches_above_the_threshold() -> None:
    nan = float("nan")
    found = find_events(curve([nan, 1, 5, 9, 6, 0, nan, 7, nan, 4, 4.5]))
    assert [(event.start_seconds, event.end_seconds) for event in found] == [
        (pytest.approx(3.4), pytest.approx(4.0)),
        (pytest.approx(4.4), pytest.approx(4.6)),
        (pytest.approx(5.0), pytest.approx(5.2)),
    ]
    assert (found[0].peak_seconds, found[0].peak) == (pytest.approx(3.7), 9.0)
    assert len(find_events(curve([1, 5, 9]), threshold=8)) == 1
    assert find_events(curve([nan, nan])) == []


def test_without_a_normaliser_the_threshold_is_the_videos_own() -> None:
    calm = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0]
    assert find_events(curve(calm, kind="relative")) == []
    assert [event.peak for event in find_events(curve([*calm, 2.0], kind="relative"))] == [2.0]


def test_smoothing_looks_back_only_unless_asked() -> None:
    nan = float("nan")
    values = [0.0, nan, 8.0, 0.0, 0.0]
    causal = smooth_timeline(curve(values), half_life_seconds=0.2)
    # weights halve with each tubelet of 0.2 s; what is not there has none
    expected = [0, nan, 8 / 1.25, (0.5 * 8) / (1 + 0.5 + 0.125), (0.25 * 8) / (1 + 0.5 + 0.25 + 0.0625)]
    np.testing.assert_allclose(causal, expected, rtol=1e-6)
    both = smooth_timeline(curve(values), half_life_seconds=0.4, kind="gaussian")
    assert both[2] == pytest.approx(8 / (0.5 + 1 + 0.5**0.25 + 0.5))
    np.testing.assert_array_equal(smooth_timeline(curve(values)), np.array(values, np.float32))


def test_smoothing_keeps_long_timelines_finite() -> None:
    assert np.isfinite(smooth_timeline(curve([1.0] * 3000), half_life_seconds=0.01)).all()


def test_smoothing_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="half_life_seconds=-1 must be at least 0"):
        smooth_timeline(curve([1.0]), half_life_seconds=-1)
    with pytest.raises(ConfigError, match="kind='median' must be 'causal' or 'gaussian'"):
        smooth_timeline(curve([1.0]), half_life_seconds=1, kind="median")  # type: ignore[arg-type]
