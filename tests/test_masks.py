"""Hidden blocks: disjoint from what is shown, and the same area in every frame."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vjepa_sdk.config import MaskConfig
from vjepa_sdk.errors import InputError
from vjepa_sdk.masks import draw_mask_set


def masking(*, grid: tuple[int, int, int] = (4, 14, 14), **changes: object) -> Callable[..., tuple[Tensor, Tensor]]:
    return partial(draw_mask_set, MaskConfig(**changes), grid=grid)  # type: ignore[arg-type]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


grids = st.tuples(st.integers(1, 6), st.integers(6, 16), st.integers(6, 16))
sets = st.sampled_from([(8, 0.15), (4, 0.15), (2, 0.4), (1, 0.7)])


@given(grid=grids, blocks=sets, batch_size=st.integers(1, 6), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_collated_columns_cover_one_area_in_every_frame(
    grid: tuple[int, int, int], blocks: tuple[int, float], batch_size: int, seed: int
) -> None:
    draw = masking(grid=grid, num_blocks=blocks[0], spatial_scale=(blocks[1], blocks[1]))
    per_frame = grid[1] * grid[2]
    for index in draw(batch_size=batch_size, generator=generator(seed)):
        assert index.dtype == torch.int64 and index.shape[0] == batch_size
        places = index.view(batch_size, grid[0], -1)
        frames = places // per_frame
        assert (frames == torch.arange(grid[0])[None, :, None]).all()
        assert (places % per_frame == places[:, :1] % per_frame).all()


@given(
    grid=grids,
    blocks=sets,
    equalize=st.sampled_from(["columns", "truncate"]),
    batch_size=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_context_and_target_are_disjoint_ascending_and_not_empty(
    grid: tuple[int, int, int], blocks: tuple[int, float], equalize: str, batch_size: int, seed: int
) -> None:
    draw = masking(grid=grid, num_blocks=blocks[0], spatial_scale=(blocks[1], blocks[1]), equalize=equalize)
    context, target = draw(batch_size=batch_size, generator=generator(seed))
    assert context.shape[1] > 0 and target.shape[1] > 0
    for shown, hidden in zip(context.tolist(), target.tolist(), strict=True):
        assert not set(shown) & set(hidden)
        assert shown == sorted(set(shown)) and hidden == sorted(set(hidden))
        assert max(shown + hidden) < grid[0] * grid[1] * grid[2]


def test_truncation_cuts_the_late_frames() -> None:
    context, _ = masking(equalize="truncate", grid=(8, 14, 14))(batch_size=24, generator=generator(0))
    counts = torch.bincount((context // 196).flatten(), minlength=8)
    assert counts[-1] < counts[0] / 2


def test_mean_shares_of_the_paper_masks_match_the_official_code() -> None:
    # measured on the official collator at 224 px, 16 frames, batches of 24 (context and target tokens of 1568)
    for (num_blocks, scale), context_share, target_share in (((8, 0.15), 0.236, 0.48), ((2, 0.7), 0.072, 0.70)):
        draw = masking(grid=(8, 14, 14), num_blocks=num_blocks, spatial_scale=(scale, scale), equalize="truncate")
        shares = torch.tensor(
            [[index.shape[1] / 1568 for index in draw(batch_size=24, generator=generator(seed))] for seed in range(60)]
        ).mean(dim=0)
        assert shares[0] == pytest.approx(context_share, abs=0.02)
        assert shares[1] == pytest.approx(target_share, abs=0.02)


def test_same_seed_draws_the_same_masks() -> None:
    first, second = (masking()(batch_size=4, generator=generator(7)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_blocks_that_leave_nothing_visible_are_refused() -> None:
    with pytest.raises(InputError, match="hid the whole grid .* lower num_blocks or spatial_scale"):
        masking(spatial_scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0))(batch_size=2, generator=generator(0))
