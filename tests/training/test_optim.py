"""Schedules at their corners, and which parameters decay."""

from __future__ import annotations

import pytest
from torch import nn

from vjepa_sdk.training.optim import adamw, cosine, linear, set_hyperparameters, warmup_then


def learning_rate(step: int, schedule: str, **changes: float) -> float:
    arguments = {"start": 0.1, "peak": 1.0, "final": 0.01, "warmup_steps": 10, "total_steps": 100, **changes}
    return warmup_then(step, schedule=schedule, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["cosine", "constant", "linear", "wsd"])
def test_learning_rate_warms_up_to_its_peak(schedule: str) -> None:
    assert learning_rate(0, schedule) == pytest.approx(0.1 + 0.9 / 10)
    assert learning_rate(9, schedule) == pytest.approx(1.0)


@pytest.mark.parametrize(("schedule", "final"), [("cosine", 0.01), ("linear", 0.01), ("wsd", 0.01), ("constant", 1.0)])
def test_learning_rate_ends_at_its_final_value_and_stays(schedule: str, final: float) -> None:
    for step in (99, 150):
        assert learning_rate(step, schedule, decay_steps=20) == pytest.approx(final)


def test_wsd_is_constant_until_its_decay() -> None:
    rates = [learning_rate(step, "wsd", decay_steps=20) for step in (10, 50, 79)]
    assert rates == pytest.approx([1.0] * 3)
    assert learning_rate(89, "wsd", decay_steps=20) == pytest.approx((1.0 + 0.01) / 2)


def test_cosine_and_linear_meet_their_ends() -> None:
    assert cosine(99, start=0.04, final=0.4, total_steps=100) == pytest.approx(0.4)
    assert cosine(49, start=0.04, final=0.4, total_steps=100) == pytest.approx(0.22)
    assert linear(0, start=0.9, final=1.0, total_steps=100) == pytest.approx(0.9)
    assert linear(100, start=0.9, final=1.0, total_steps=100) == pytest.approx(1.0)


def test_biases_and_norms_do_not_decay() -> None:
    optimizer = adamw([nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))], betas=(0.9, 0.999), eps=1e-8)
    set_hyperparameters(optimizer, lr=0.5, weight_decay=0.1)
    shapes = [[tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups]
    assert shapes == [[(4, 3)], [(4,), (4,), (4,)]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
