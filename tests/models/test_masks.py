"""Hidden blocks: disjoint from what is shown, and the same area in every frame."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vjepa_sdk.config.training import MaskConfig
from vjepa_sdk.errors import InputError
from vjepa_sdk.models.masks import draw_mask_set


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


# tokens of context and target as measured on the official collator: reference grids, batches of one official rank
MEASURED = [
    ((8, 14, 14), 24, 8, 0.15, 370, 755),
    ((8, 14, 14), 24, 2, 0.70, 113, 1093),
    ((8, 16, 16), 24, 8, 0.15, 505, 961),
    ((8, 16, 16), 24, 2, 0.70, 135, 1445),
    ((32, 24, 24), 6, 8, 0.15, 5766, 9414),
    ((32, 24, 24), 6, 2, 0.70, 2010, 13523),
]


@pytest.mark.parametrize(("grid", "batch_size", "num_blocks", "scale", "context", "target"), MEASURED)
def test_truncated_shares_equal_the_official_ones(
    grid: tuple[int, int, int], batch_size: int, num_blocks: int, scale: float, context: int, target: int
) -> None:
    draw = masking(grid=grid, num_blocks=num_blocks, spatial_scale=(scale, scale), equalize="truncate")
    lengths = torch.tensor(
        [[index.shape[1] for index in draw(batch_size=batch_size, generator=generator(seed))] for seed in range(60)]
    ).double()
    error = 4 * lengths.std(dim=0) / 60**0.5
    assert abs(float(lengths[:, 0].mean()) - context) < float(error[0])
    assert abs(float(lengths[:, 1].mean()) - target) < float(error[1])


def test_truncation_cuts_the_late_frames_as_the_official_code_does() -> None:
    # share of the context in each tubelet, measured on the official collator
    measured = torch.tensor([0.196, 0.196, 0.195, 0.181, 0.131, 0.065, 0.027, 0.009])
    shares = torch.zeros(8)
    for seed in range(60):
        context, _ = masking(equalize="truncate", grid=(8, 16, 16))(batch_size=24, generator=generator(seed))
        shares += torch.bincount((context // 256).flatten(), minlength=8) / context.numel() / 60
    torch.testing.assert_close(shares, measured, atol=0.012, rtol=0.0)


def test_most_kept_tokens_are_a_limit_of_the_context_alone() -> None:
    for equalize in ("columns", "truncate"):
        draw, free = masking(max_keep=50, equalize=equalize), masking(equalize=equalize)
        context, target = draw(batch_size=2, generator=generator(0))
        assert context.shape[1] == (48 if equalize == "columns" else 50)
        assert target.shape == free(batch_size=2, generator=generator(0))[1].shape


def test_fewest_kept_tokens_of_columns_are_one_place() -> None:
    context, _ = masking(max_keep=8, grid=(8, 14, 14))(batch_size=4, generator=generator(0))
    assert context.shape == (4, 8)
    with pytest.raises(InputError, match="max_keep=7 is less than one place in all 8 frames .* pass at least 8"):
        masking(max_keep=7, grid=(8, 14, 14))(batch_size=4, generator=generator(0))


def test_late_frames_are_hidden_beyond_the_temporal_keep() -> None:
    draw = masking(max_temporal_keep=0.5, equalize="truncate")
    context, target = draw(batch_size=3, generator=generator(0))
    assert int(context.max()) < 2 * 196
    late = [set(range(2 * 196, 4 * 196)) & set(row.tolist()) for row in target]
    assert max(map(len, late)) > 0


@pytest.mark.parametrize("equalize", ["columns", "truncate"])
@pytest.mark.parametrize("side", ["target", "context"])
def test_complement_is_all_that_the_other_side_leaves(equalize: str, side: str) -> None:
    draw, plain = masking(complement=side, equalize=equalize), masking(equalize=equalize)
    context, target = draw(batch_size=3, generator=generator(1))
    kept = plain(batch_size=3, generator=generator(1))
    assert torch.equal(*((context, kept[0]) if side == "target" else (target, kept[1])))
    for shown, hidden in zip(context.tolist(), target.tolist(), strict=True):
        assert sorted(shown + hidden) == list(range(4 * 196)) and hidden == sorted(hidden) and shown == sorted(shown)


def test_inverted_sets_swap_context_and_target() -> None:
    context, target = masking()(batch_size=2, generator=generator(3))
    swapped = masking(invert=True)(batch_size=2, generator=generator(3))
    assert torch.equal(swapped[0], target) and torch.equal(swapped[1], context)


def test_random_tubes_scatter_the_official_share_over_all_frames() -> None:
    context, target = masking(kind="random_tube", hidden_share=0.9)(batch_size=3, generator=generator(0))
    assert context.shape == (3, 4 * int(196 * 0.1)) and context.shape[1] + target.shape[1] == 4 * 196
    places = context.view(3, 4, -1)
    assert torch.equal(places % 196, places[:, :1].expand_as(places) % 196)
    assert not torch.equal(places[0], places[1])


@given(side=st.integers(12, 20), batch_size=st.integers(1, 5), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_stills_hide_four_blocks_outside_one_context_block(side: int, batch_size: int, seed: int) -> None:
    draw = masking(grid=(1, side, side), kind="ijepa", num_blocks=4, spatial_scale=(0.15, 0.2))
    context, target = draw(batch_size=batch_size, generator=generator(seed))
    assert target.shape[:2] == (batch_size, 4) and target.shape[2] > 10 and context.shape[1] > 10
    assert 0.1 * side * side < target.shape[2] < 0.22 * side * side
    for shown, blocks in zip(context.tolist(), target.tolist(), strict=True):
        assert not set(shown) & {place for block in blocks for place in block}
        for block in blocks:
            rows, columns = {place // side for place in block}, {place % side for place in block}
            assert len(block) == len(rows) * len(columns) and max(rows) - min(rows) == len(rows) - 1


def test_stills_too_small_for_their_blocks_are_refused() -> None:
    draw = masking(grid=(1, 6, 6), kind="ijepa", num_blocks=4, spatial_scale=(0.15, 0.2))
    with pytest.raises(InputError, match="no more than min_keep=10 tokens 100 times; lower min_keep"):
        draw(batch_size=1, generator=generator(0))


@given(grid=grids.filter(lambda grid: grid[0] > 1), batch_size=st.integers(1, 6), seed=st.integers(0, 2**31))
@settings(deadline=None)
def test_the_future_is_all_that_comes_after_the_context(grid: tuple[int, int, int], batch_size: int, seed: int) -> None:
    draw = masking(grid=grid, kind="future", context_steps=(1, grid[0] - 1))
    context, target = draw(batch_size=batch_size, generator=generator(seed))
    per_frame = grid[1] * grid[2]
    assert context.shape[1] % per_frame == 0 and 0 < context.shape[1] < grid[0] * per_frame
    assert torch.equal(torch.cat([context, target], dim=1), torch.arange(grid[0] * per_frame).expand(batch_size, -1))


def test_the_length_of_the_past_is_drawn_from_its_interval() -> None:
    draw = masking(grid=(8, 6, 6), kind="future", context_steps=(2, 4))
    lengths = {draw(batch_size=2, generator=generator(seed))[0].shape[1] // 36 for seed in range(40)}
    assert lengths == {2, 3, 4}


def test_same_seed_draws_the_same_masks() -> None:
    first, second = (masking()(batch_size=4, generator=generator(7)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_blocks_that_leave_nothing_visible_are_refused() -> None:
    with pytest.raises(InputError, match="hid the whole grid .* lower num_blocks or spatial_scale"):
        masking(spatial_scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0))(batch_size=2, generator=generator(0))
