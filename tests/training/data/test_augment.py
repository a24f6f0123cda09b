"""Augmentations: one draw for all frames, from the given generator alone."""

from __future__ import annotations

import pytest
import torch

from vjepa_sdk.training.data.augment import augment

OFF = {"color_jitter": 0.0, "rand_augment": False, "random_erasing": 0.0}
ON = [{"color_jitter": 0.4}, {"rand_augment": True}, {"random_erasing": 1.0}]


def frames(count: int = 1, side: int = 32) -> torch.Tensor:
    """Draw `count` equal frames, brighter in the middle than white noise is."""
    noise = torch.randint(60, 200, (1, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    return noise.repeat(count, 1, 1, 1)


def augmented(clip: torch.Tensor, seed: int, **settings: object) -> torch.Tensor:
    return augment(clip, **{**OFF, **settings}, generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def test_nothing_on_changes_nothing_and_draws_nothing() -> None:
    clip, generator = frames(), torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert augment(clip, color_jitter=0.0, rand_augment=False, random_erasing=0.0, generator=generator) is clip
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("settings", ON)
def test_each_augmentation_varies_with_the_generator_alone(settings: dict[str, object]) -> None:
    clip = frames()
    first = [augmented(clip, seed, **settings) for seed in range(8)]
    torch.manual_seed(77)
    torch.rand(5)
    assert all(torch.equal(augmented(clip, seed, **settings), first[seed]) for seed in range(8))
    assert len({result.numpy().tobytes() for result in first}) > 4
    assert all((result.dtype, result.shape) == (torch.uint8, clip.shape) for result in first)


@pytest.mark.parametrize("settings", ON)
def test_all_frames_are_changed_alike(settings: dict[str, object]) -> None:
    for seed in range(8):
        clip = augmented(frames(4), seed, **settings)
        assert all(torch.equal(frame, clip[0]) for frame in clip)


def test_global_random_state_and_threads_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    threads_within = []

    class Spy:
        def __init__(self, **settings: object) -> None: ...

        def __call__(self, clip: torch.Tensor) -> torch.Tensor:
            threads_within.append(torch.get_num_threads())
            torch.rand(3)
            raise KeyError("stop")

    monkeypatch.setattr("torchvision.transforms.v2.ColorJitter", Spy)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        augmented(frames(), 0, color_jitter=0.5)
    assert (threads_within, torch.get_num_threads()) == ([1], 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_num_threads(threads)


def test_jitter_scales_brightness_by_at_most_its_strength() -> None:
    grey = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)  # contrast and saturation leave it as it is
    levels = [int(augmented(grey, seed, color_jitter=0.3)[0, 0, 0, 0]) for seed in range(100)]
    assert 69 <= min(levels) < 78 and 122 < max(levels) <= 131


def test_erasing_paints_one_rectangle_in_the_mean_colour() -> None:
    colour = torch.tensor([124, 116, 104], dtype=torch.uint8).view(3, 1, 1)
    clip = torch.full((2, 3, 40, 40), 7, dtype=torch.uint8)
    erased = (augmented(clip, 3, random_erasing=1.0) == colour).all(dim=1)
    rows, columns = erased[0].any(dim=1), erased[0].any(dim=0)
    assert 0 < erased[0].sum() < 40 * 40
    assert int(erased[0].sum()) == int(rows.sum()) * int(columns.sum())
    assert torch.equal(erased[0], erased[1])


def test_erasing_happens_with_its_probability() -> None:
    clip = frames()
    changed = sum(not torch.equal(augmented(clip, seed, random_erasing=0.25), clip) for seed in range(300))
    assert 45 < changed < 105
