"""Scores equal scikit-learn's, and intervals over groups hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn import metrics as peer

from vjepa_sdk.downstream.scores import Predictions, confusion_matrix, difference, pooled_metrics, score
from vjepa_sdk.errors import ConfigError, InputError


def drawn(count: int = 200, classes: int = 12, *, seed: int = 0, groups: int = 40) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=count)
    outputs = rng.dirichlet(np.ones(classes) * 0.5, size=count)
    outputs[np.arange(count), truth] += 0.3
    return Predictions(truth, outputs / outputs.sum(1, keepdims=True), rng.integers(groups, size=count))


def test_metrics_of_classes_are_those_of_scikit_learn() -> None:
    given = drawn()
    found, said = given.metrics(), given.outputs.argmax(1)
    assert found["accuracy"] == pytest.approx(peer.accuracy_score(given.truth, said))
    assert found["balanced_accuracy"] == pytest.approx(peer.balanced_accuracy_score(given.truth, said))
    assert found["macro_f1"] == pytest.approx(peer.f1_score(given.truth, said, average="macro"))
    assert found["log_loss"] == pytest.approx(peer.log_loss(given.truth, given.outputs, labels=range(12)))
    assert found["top5_accuracy"] == pytest.approx(peer.top_k_accuracy_score(given.truth, given.outputs, k=5))


def test_weights_count_videos_as_often_as_repeating_them_does() -> None:
    given, times = drawn(50, 4), np.random.default_rng(1).integers(0, 4, size=50)
    repeated = Predictions(*(np.repeat(each, times, axis=0) for each in (given.truth, given.outputs, given.groups)))
    assert given.metrics(times.astype(float)) == pytest.approx(repeated.metrics())


def test_metrics_of_numbers_are_those_of_scikit_learn_and_scipy() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60)
    outputs = truth + rng.normal(size=60)
    found = Predictions(truth, outputs, np.arange(60)).metrics()
    assert found["r2"] == pytest.approx(peer.r2_score(truth, outputs))
    assert found["mean_absolute_error"] == pytest.approx(peer.mean_absolute_error(truth, outputs))
    assert found["root_mean_squared_error"] == pytest.approx(peer.root_mean_squared_error(truth, outputs))
    assert found["spearman"] == pytest.approx(spearmanr(truth, outputs).statistic)


def test_a_score_says_each_class_and_what_it_was_taken_for() -> None:
    given = drawn(classes=3)
    found = score(given, ["a", "b", "c"], bootstrap=0)
    said = given.outputs.argmax(1)
    precision, recall, f1, support = peer.precision_recall_fscore_support(given.truth, said)
    assert [each.label for each in found.per_class] == ["a", "b", "c"]
    measured = [[each.precision, each.recall, each.f1, each.support] for each in found.per_class]
    np.testing.assert_allclose(measured, np.stack([precision, recall, f1, support], axis=1))
    assert (found.confusion == peer.confusion_matrix(given.truth, said)).all()
    assert (confusion_matrix(given) == found.confusion).all()
    assert found.intervals == {}


def test_probabilities_that_are_right_are_calibrated_and_boasting_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.5, 1.0, size=20_000)
    truth = (rng.uniform(size=20_000) < chance).astype(int)
    right = score(Predictions(truth, np.stack([1 - chance, chance], 1), np.arange(20_000)), bootstrap=0)
    boasting = np.stack([np.full(20_000, 0.01), np.full(20_000, 0.99)], 1)
    wrong = score(Predictions(truth, boasting, np.arange(20_000)), bootstrap=0)
    assert right.calibration is not None and wrong.calibration is not None
    assert right.calibration.expected_error < 0.02
    assert wrong.calibration.expected_error == pytest.approx(0.99 - truth.mean())
    assert sum(each["count"] for each in right.calibration.bins) == 20_000


def simulated(rng: np.random.Generator, *, groups: int = 40) -> Predictions:
    """Draw videos of groups that share their luck: the true accuracy is 0.6."""
    luck = np.clip(rng.beta(3.0, 2.0, size=groups), 0, 1)
    sizes = rng.integers(4, 12, size=groups)
    codes = np.repeat(np.arange(groups), sizes)
    is_right = rng.uniform(size=len(codes)) < luck[codes]
    outputs = np.where(is_right[:, None], [0.9, 0.1], [0.1, 0.9])
    return Predictions(np.zeros(len(codes), int), outputs, codes)


def test_intervals_over_groups_hold_the_truth_about_19_times_in_20_and_over_videos_they_do_not() -> None:
    rng, held, held_over_videos = np.random.default_rng(0), [], []
    for run in range(400):
        given = simulated(rng)
        low, high = score(given, bootstrap=300, seed=run).intervals["accuracy"]
        held.append(low <= 0.6 <= high)
        if run < 100:
            alone = Predictions(given.truth, given.outputs, np.arange(len(given.truth)))
            low, high = score(alone, bootstrap=300, seed=run).intervals["accuracy"]
            held_over_videos.append(low <= 0.6 <= high)
    assert 0.93 <= np.mean(held) <= 0.97
    assert np.mean(held_over_videos) < 0.85


@pytest.mark.parametrize(("count", "groups"), [(29, 29), (200, 9)])
def test_too_few_videos_or_groups_get_no_interval(count: int, groups: int) -> None:
    given = drawn(count, 3)
    given = Predictions(given.truth, given.outputs, np.arange(count) % groups)
    assert score(given).intervals == {}
    assert difference(given, [given], "accuracy") == (0.0, None)


def test_a_probe_does_not_differ_from_itself_and_a_better_one_does() -> None:
    given = drawn()
    sure = Predictions(given.truth, np.eye(12)[given.truth], given.groups)
    assert difference(given, [given], "accuracy") == (0.0, (0.0, 0.0))
    mean, interval = difference(sure, [given, given], "accuracy")
    assert interval is not None and 0 < interval[0] < mean < interval[1]
    assert mean == pytest.approx(1 - given.metrics()["accuracy"])


def test_the_spread_of_several_probes_is_in_their_interval() -> None:
    given = drawn()
    sure = Predictions(given.truth, np.eye(12)[given.truth], given.groups)
    mean, intervals = pooled_metrics([given, sure])
    assert mean["accuracy"] == pytest.approx((1 + given.metrics()["accuracy"]) / 2)
    assert intervals["accuracy"][1] == 1.0 and intervals["accuracy"][0] < given.metrics()["accuracy"]


def test_equal_seeds_give_equal_intervals() -> None:
    assert score(drawn(), seed=3).intervals == score(drawn(), seed=3).intervals


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(InputError, match="no video to score"):
        score(Predictions(np.zeros(0, int), np.zeros((0, 2)), np.zeros(0, int)))
    with pytest.raises(ConfigError, match="bootstrap=-1 must be at least 0"):
        score(drawn(), bootstrap=-1)
