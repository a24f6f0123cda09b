"""Which masks a step draws: all of its sets, or one where they take turns."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tiny_models import VIDEO

from vjepa_sdk.config.training import MaskConfig, ObjectiveConfig, TrainConfig
from vjepa_sdk.training.data.masking import draw_masks
from vjepa_sdk.training.plan.estimate import plan

FUTURE, BLOCKS = MaskConfig(kind="future", share=3.0), MaskConfig(num_blocks=1, spatial_scale=(0.3, 0.3), share=1.0)
TURNS = TrainConfig(model=VIDEO, masks=(FUTURE, BLOCKS), objective=ObjectiveConfig(mask_token="shared"))


def test_sets_take_turns_by_their_shares() -> None:
    steps = [draw_masks(TURNS, batch_size=2, step=step) for step in range(400)]
    assert all(len(masks.context) == len(masks.target) == 1 for masks in steps)
    first = TURNS.model.grid[1] * TURNS.model.grid[2]
    futures = Counter(torch.equal(masks.context[0][0], torch.arange(first)) for masks in steps)[True]
    assert 260 < futures < 340


def test_turns_depend_on_seed_step_and_pass_alone() -> None:
    for step in range(20):
        one, other = (draw_masks(TURNS, batch_size=2, step=step, forward_pass=1) for _ in range(2))
        assert torch.equal(one.context[0], other.context[0])


def test_a_plan_weighs_the_operations_of_each_turn() -> None:
    def operations(*masks: MaskConfig) -> float:
        shared = ObjectiveConfig(mask_token="shared")
        return plan(TrainConfig(model=VIDEO, masks=masks, objective=shared, steps=16)).operations.total

    alone = [operations(FUTURE), operations(BLOCKS)]
    assert operations(FUTURE, BLOCKS) == pytest.approx(0.75 * alone[0] + 0.25 * alone[1], rel=0.05)
