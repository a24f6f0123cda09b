"""Split labelled clips into parts that share no group."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError, InputError, printable

INNER_FOLDS = 5
"""Of the training part, to choose how strongly a probe is held back."""


def assign_splits(
    targets: np.ndarray,
    groups: Sequence[str],
    given: Sequence[str | None],
    *,
    test_share: float = 0.2,
    seed: int = 0,
    allow_group_overlap: bool = False,
) -> np.ndarray:
    """Return `train`, `val` or `test` for each clip.

    Args:
        targets: int `[n]`, classes that are shared out evenly; or floats, which are not.
        groups: `[n]`.
        given: what the table of labels says; where it says nothing at all, whole groups are drawn for the test.
        test_share: of the groups, above 0 and at most 0.5.
        allow_group_overlap: take splits that tear a group apart.

    Raises:
        ConfigError: a group on two sides, no clip to train or to test on, or no such share.
        InputError: some clips have a split and some have none.
    """
    num_given = sum(split is not None for split in given)
    if 0 < num_given < len(given):
        raise InputError(f"{len(given) - num_given} of {len(given)} clips have no split; fill in all, or none")
    if not num_given:
        return _drawn(targets, groups, test_share=test_share, seed=seed)
    splits = np.array([str(split) for split in given])
    for name in ("train", "test"):
        if name not in splits:
            raise ConfigError(f"no clip has split={name}; mark some so, or leave the column out to have them drawn")
    check_groups(groups, splits, allow_group_overlap=allow_group_overlap)
    return splits


def check_groups(groups: Sequence[str], splits: np.ndarray, *, allow_group_overlap: bool = False) -> None:
    """Raise ConfigError if a group has clips in two splits, unless that is allowed."""
    sides: dict[str, set[str]] = {}
    for group, split in zip(groups, splits, strict=True):
        sides.setdefault(group, set()).add(str(split))
    torn = sorted(group for group, splits_of in sides.items() if len(splits_of) > 1)
    if torn and not allow_group_overlap:
        raise ConfigError(
            f"{len(torn)} of {len(sides)} groups have clips in two splits, such as {printable(torn[0])} in "
            f"{' and '.join(sorted(sides[torn[0]]))}: scores would be too good; move them, have splits "
            "drawn with an empty split_column (--split-column ''), or pass allow_group_overlap (--allow-group-overlap)"
        )


def group_folds(
    targets: np.ndarray, groups: Sequence[str], *, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows to fit and rows to check, `folds` times, each row checked once; fewer folds where groups are few.

    Args:
        targets: int `[n]`, classes that are shared out evenly; or floats, which are not.

    Returns:
        An empty list if there are too few groups for two folds.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    num_groups = len(np.unique(codes))
    is_number = np.issubdtype(targets.dtype, np.floating)
    most = num_groups if is_number else int(np.bincount(targets).max())
    folds = min(folds, num_groups, most)
    if folds < 2:
        return []
    nothing = np.zeros((len(targets), 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer clips than folds: the report names those
        if is_number:
            parts = GroupKFold(folds, shuffle=True, random_state=seed).split(nothing, groups=codes)
        else:
            cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
            parts = cut.split(nothing, targets, groups=codes)
        return [(fit, check) for fit, check in parts if len(fit) and len(check)]


def _drawn(targets: np.ndarray, groups: Sequence[str], *, test_share: float, seed: int) -> np.ndarray:
    if not 0 < test_share <= 0.5:
        raise ConfigError(f"test_share={test_share:g} must be above 0 and at most 0.5; pass 0.2")
    folds = group_folds(targets, groups, folds=round(1 / test_share), seed=seed)
    if not folds:
        raise ConfigError(
            f"{len(set(groups))} groups cannot be split into train and test; pass more videos, or a column of groups"
        )
    splits = np.full(len(targets), "train", dtype="<U5")
    splits[folds[0][1]] = "test"
    if not np.issubdtype(targets.dtype, np.floating):
        # a class of few groups is to be learnt before it can be tested
        unseen = ~np.isin(targets, targets[splits == "train"])
        splits[np.isin(np.asarray(groups), np.asarray(groups)[unseen])] = "train"
    return splits
