"""Splits use every clip once, keep groups whole, and share out classes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vjepa_sdk.downstream.splits import assign_splits, check_groups, group_folds
from vjepa_sdk.errors import ConfigError, InputError

clips = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=4, max_size=120)


@given(clips, st.integers(2, 6), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_folds_check_every_clip_once_and_tear_no_group_apart(
    drawn: list[tuple[int, int]], folds: int, seed: int
) -> None:
    targets, groups = np.array([label for label, _ in drawn]), [f"group {group}" for _, group in drawn]
    parts = group_folds(targets, groups, folds=folds, seed=seed)
    if len(set(groups)) >= 2 and max(Counter(targets.tolist()).values()) >= 2:
        assert parts
    if parts:
        assert sorted(np.concatenate([check for _, check in parts]).tolist()) == list(range(len(drawn)))
    for fit, check in parts:
        assert not {groups[number] for number in fit} & {groups[number] for number in check}
        assert sorted([*fit, *check]) == list(range(len(drawn)))


@given(st.lists(st.integers(5, 40), min_size=2, max_size=5), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_each_class_is_in_the_test_by_its_share_to_within_one_group(sizes: list[int], seed: int) -> None:
    targets = np.repeat(np.arange(len(sizes)), sizes)
    groups = [str(number) for number in range(len(targets))]
    splits = assign_splits(targets, groups, [None] * len(targets), test_share=0.2, seed=seed)
    for label, size in enumerate(sizes):
        assert abs(np.count_nonzero(splits[targets == label] == "test") - 0.2 * size) <= 1


@given(clips, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_drawn_splits_tear_no_group_apart_and_test_no_class_that_is_not_learnt(
    drawn: list[tuple[int, int]], seed: int
) -> None:
    targets, groups = np.array([label for label, _ in drawn]), [f"group {group}" for _, group in drawn]
    try:
        splits = assign_splits(targets, groups, [None] * len(drawn), seed=seed)
    except ConfigError:
        return
    check_groups(groups, splits)
    assert set(targets[splits == "test"]) <= set(targets[splits == "train"])


def test_splits_that_are_given_are_taken() -> None:
    given_splits = ["train", "test", "val", "train"]
    assert assign_splits(np.arange(4), list("abcd"), given_splits).tolist() == given_splits


def test_equal_seeds_draw_equal_splits_and_others_others() -> None:
    targets, groups = np.arange(60) % 3, [str(number) for number in range(60)]
    first, again, other = (assign_splits(targets, groups, [None] * 60, seed=seed) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_a_group_on_two_sides_is_refused_unless_that_is_allowed() -> None:
    arguments = (np.array([0, 1, 0]), ["a", "a", "b"], ["train", "test", "train"])
    with pytest.raises(ConfigError, match="1 of 2 groups have clips in two splits, such as a in test and train"):
        assign_splits(*arguments)
    assert assign_splits(*arguments, allow_group_overlap=True).tolist() == ["train", "test", "train"]


def test_numbers_are_split_too() -> None:
    splits = assign_splits(np.linspace(0, 1, 50), [str(number) for number in range(50)], [None] * 50)
    assert Counter(splits.tolist()) == {"train": 40, "test": 10}


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="1 of 2 clips have no split"):
        assign_splits(np.array([0, 1]), ["a", "b"], ["train", None])
    with pytest.raises(ConfigError, match="no clip has split=test"):
        assign_splits(np.array([0, 1]), ["a", "b"], ["train", "val"])
    with pytest.raises(ConfigError, match=r"test_share=0\.9 must be above 0 and at most 0\.5"):
        assign_splits(np.array([0, 1]), ["a", "b"], [None, None], test_share=0.9)
    with pytest.raises(ConfigError, match="1 groups cannot be split"):
        assign_splits(np.array([0, 1]), ["a", "a"], [None, None])
