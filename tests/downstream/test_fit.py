"""Fitted probes are the optimum of what is stated, and neighbours vote as they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vjepa_sdk.downstream.fit import (
    C_GRID,
    Examples,
    check_features,
    class_weights,
    fit_logistic,
    fit_nearest,
    fit_ridge,
    predict_rows,
    predict_videos,
)
from vjepa_sdk.errors import ConfigError, InputError
from vjepa_sdk.models.vector_probe import LinearProbe


def blobs(count: int, dim: int, classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows around a centre for each class."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    centres = rng.normal(size=(classes, dim)) * 0.5
    return (centres[targets] + rng.normal(size=(count, dim))).astype(np.float32), targets


def examples(count: int, dim: int, classes: int, *, seed: int = 0) -> Examples:
    rows, targets = blobs(count, dim, classes, seed=seed)
    return Examples.of(rows, np.arange(count), targets)


def standardized(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return (rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-6)


def weights_of(probe: LinearProbe) -> tuple[np.ndarray, np.ndarray]:
    return probe.weight.numpy().astype(np.float64), probe.bias.numpy().astype(np.float64)


@pytest.mark.parametrize(("count", "dim", "classes"), [(60, 5, 3), (120, 8, 10), (20, 50, 4)])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_the_gradient_of_the_stated_objective_vanishes(
    count: int, dim: int, classes: int, class_weight: str | None
) -> None:
    rows, targets = blobs(count, dim, classes)
    kept = np.r_[np.arange(count - 3), [count - 1]]  # classes of unequal size
    given = Examples.of(rows[kept], np.arange(len(kept)), targets[kept])
    weight, bias = weights_of(fit_logistic(given, classes, C=0.3, class_weight=class_weight).probe)  # type: ignore[arg-type]
    x, weights = standardized(rows[kept]), class_weights(given.targets, class_weight)
    logits = x @ weight.T + bias
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    error = 0.3 * weights[:, None] * (shares - np.eye(classes)[given.targets])
    assert np.abs(error.T @ x + weight).max() < 1e-5 * len(kept)
    assert np.abs(error.sum(0)).max() < 1e-5 * len(kept)


def test_the_probabilities_of_two_classes_are_those_of_an_optimum_that_torch_finds_from_elsewhere() -> None:
    rows, targets = blobs(80, 6, 2)
    probe = fit_logistic(Examples.of(rows, np.arange(80), targets), 2, C=0.5).probe
    x, y = torch.from_numpy(standardized(rows)), torch.from_numpy(2.0 * targets - 1)
    w = torch.full((6,), 0.7, dtype=torch.float64, requires_grad=True)
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([w, b], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = 0.5 * torch.nn.functional.softplus(-y * (x @ w + b)).sum() + 0.5 * w.square().sum()
        value.backward()
        return value

    solver.step(loss)
    expected = torch.sigmoid(x @ w + b).detach().numpy()
    np.testing.assert_allclose(predict_rows(probe, rows)[:, 1], expected, atol=1e-4)


def test_more_numbers_than_rows_give_the_same_optimum_as_without_the_shortcut() -> None:
    rows, targets = blobs(20, 50, 4)
    weight, bias = weights_of(fit_logistic(Examples.of(rows, np.arange(20), targets), 4, C=2.0).probe)  # type: ignore[arg-type]
    from sklearn.linear_model import LogisticRegression

    peer = LogisticRegression(C=2.0, tol=1e-10, max_iter=10_000).fit(standardized(rows), targets)
    np.testing.assert_allclose(weight, peer.coef_, atol=1e-4)
    np.testing.assert_allclose(bias, peer.intercept_, atol=1e-4)


def test_windows_of_one_video_weigh_as_much_as_one_row_of_another() -> None:
    rows, targets = blobs(30, 4, 3)
    single = Examples.of(rows, np.arange(30), targets)
    repeated = Examples.of(
        np.concatenate([rows, rows[:5], rows[:5]]), np.r_[np.arange(30), np.arange(5), np.arange(5)], targets
    )
    same = [fit_logistic(each, 3, C=1.0, standardize=False).probe for each in (single, repeated)]
    # weights sum to the number of rows, so the penalty counts less: it is C that makes up for it
    other = fit_logistic(repeated, 3, C=30 / 40, standardize=False).probe
    assert np.abs(weights_of(same[0])[0] - weights_of(other)[0]).max() < 1e-4  # type: ignore[arg-type]


def test_c_is_the_one_with_the_least_cross_entropy_on_the_checks() -> None:
    every = examples(90, 6, 3)
    checks = [(every.part(np.arange(60)), every.part(np.arange(60, 90)))]
    found = fit_logistic(every, 3, checks=checks)
    losses = []
    for C in C_GRID:
        probe = fit_logistic(checks[0][0], 3, C=C).probe
        shares = predict_rows(probe, checks[0][1].features)
        losses.append(-np.log(shares[np.arange(30), checks[0][1].targets]).mean())
    assert found.facts["C"] == C_GRID[int(np.argmin(losses))]
    assert [entry["penalty"] for entry in found.facts["grid"]] == list(C_GRID)
    tried = [entry["value"] for entry in found.facts["grid"] if entry["value"] is not None]
    assert len(tried) == min(9, int(np.argmin(losses)) + 3)
    np.testing.assert_allclose(-np.array(tried), losses[: len(tried)], rtol=1e-3)


def test_ridge_is_the_closed_form() -> None:
    rows, _ = blobs(40, 5, 2)
    values = rows[:, 0] * 3.0 - rows[:, 1] + np.random.default_rng(1).normal(size=40)
    probe = fit_ridge(Examples.of(rows, np.arange(40), values), alpha=2.0).probe
    x = standardized(rows)
    weight = np.linalg.solve(x.T @ x + 2.0 * np.eye(5), x.T @ (values - values.mean()))
    np.testing.assert_allclose(predict_rows(probe, rows)[:, 0], x @ weight + values.mean(), atol=1e-4)


@pytest.mark.parametrize("k", [1, 7, 1000])
def test_neighbours_vote_as_brute_force_says(k: int) -> None:
    rows, targets = blobs(50, 6, 3)
    queries, _ = blobs(20, 6, 3, seed=5)
    probe = fit_nearest(Examples.of(rows, np.arange(50), targets), 3, k=k, temperature=0.1).probe
    unit = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = np.zeros((20, 3))
    for number, query in enumerate(queries.astype(np.float64)):
        cosines = unit @ query / np.linalg.norm(query)
        for row in sorted(range(50), key=lambda row: (-cosines[row], row))[:k]:
            expected[number, targets[row]] += np.exp(cosines[row] / 0.1)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(predict_rows(probe, queries), expected, atol=1e-5)


def test_of_equal_neighbours_the_first_rows_vote() -> None:
    rows = np.tile(np.array([[1.0, 0.0]], np.float32), (6, 1))
    rows[5] = [0.0, 1.0]
    probe = fit_nearest(Examples.of(rows, np.arange(6), np.array([1, 0, 0, 0, 0, 0])), 2, k=1).probe
    assert predict_rows(probe, np.array([[1.0, 0.0]], np.float32)).argmax() == 1


def test_what_is_said_of_windows_is_averaged_over_the_video() -> None:
    rows, targets = blobs(30, 4, 3)
    probe = fit_logistic(Examples.of(rows, np.arange(30), targets), 3, C=1.0).probe
    video = np.array([0, 1, 0, 0])
    averaged = predict_videos(probe, Examples.of(rows[:4], video, np.array([0, 1])))
    shares = predict_rows(probe, rows[:4])
    np.testing.assert_allclose(averaged, [shares[[0, 2, 3]].mean(0), shares[1]], atol=1e-7)


def test_a_row_far_from_every_class_is_unlike_training_and_one_in_a_hundred_of_its_own_is() -> None:
    rows, targets = blobs(400, 6, 2)
    rows[:, 0] += np.where(targets == 0, 8, 0)
    rows[:, 1] += 8
    probe = fit_nearest(Examples.of(rows, np.arange(400), targets), 2).probe
    assert probe.is_unlike(torch.from_numpy(-rows[:5])).all()  # type: ignore[union-attr]
    assert 0 < probe.is_unlike(torch.from_numpy(rows)).float().mean() < 0.03  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((0, 3)), "are no rows of one shape"),
        (np.zeros(3), "are no rows of one shape"),
        (np.array([[1.0, 2.0], [np.nan, 0.0]]), "row 1 of the features is not finite"),
        (np.array([[1.0, np.inf]]), "row 0 of the features is not finite"),
    ],
)
def test_features_that_are_none_are_refused(rows: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_features(rows)


def test_features_without_a_difference_are_refused() -> None:
    constant = Examples.of(np.ones((6, 3), np.float32), np.arange(6), np.arange(6) % 2)
    with pytest.raises(InputError, match="the same in every row"):
        fit_logistic(constant, 2)


def test_one_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="one class only"):
        fit_logistic(examples(6, 3, 1), 1)


def test_a_c_without_an_optimum_is_named() -> None:
    rows, targets = blobs(200, 40, 2)
    stretched = Examples.of((rows * np.logspace(-4, 4, 40)).astype(np.float32), np.arange(200), targets)
    with pytest.raises(ConfigError, match=r"C=1e\+08: no optimum within 1,000 iterations; pass a smaller C"):
        fit_logistic(stretched, 2, C=1e8, standardize=False)


def test_two_examples_are_enough_to_fit() -> None:
    given = Examples.of(np.array([[0.0, 1.0], [1.0, 0.0]], np.float32), np.arange(2), np.array([0, 1]))
    found = fit_logistic(given, 2)
    assert predict_videos(found.probe, given).argmax(1).tolist() == [0, 1]
    assert "too few groups" in found.facts["note"]
