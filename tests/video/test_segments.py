"""Clips of official evaluations: the right frames, the right squares, the same draws each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from media import read_numbers, write_video
from PIL import Image
from tiny_models import IMAGE, VIDEO

from vjepa_sdk import PreprocessConfig
from vjepa_sdk.config.protocols import Augmentation, ClipSet
from vjepa_sdk.errors import ConfigError, InputError, VideoDecodeError
from vjepa_sdk.video.probe_views import random_view, square_views
from vjepa_sdk.video.segments import SegmentLoader, VideoPart, segment_indices

CROP = PreprocessConfig.for_crop(32)


def clip_set(**changes: Any) -> ClipSet:
    return ClipSet(**{"num_frames": 4, "frame_step": 2, "segments": 2, "views": 3, **changes})


@pytest.mark.parametrize(
    ("num_available", "sizes", "expected"),
    [
        # what the official loader gives; a clip of it starts at the start of its segment where nothing is drawn
        (20, (4, 4, 2), [[0, 7, 14, 14], [4, 11, 18, 18]]),
        (16, (4, 4, 2), [[0, 7, 14, 14], [0, 7, 14, 14]]),
        (10, (4, 4, 2), [[0, 8, 8, 8], [0, 8, 8, 8]]),
        (33, (8, 2, 2), [[0, 2, 5, 7, 10, 12, 14, 14], [17, 19, 22, 24, 27, 29, 31, 31]]),
        # the middle: 4 frames to spare in a segment of 20, so it is 2 later than the official first choice
        (40, (4, 4, 2), [[2, 7, 12, 17], [22, 27, 32, 37]]),
    ],
)
def test_frames_are_those_of_the_official_loader(
    num_available: int, sizes: tuple[int, int, int], expected: list[list[int]]
) -> None:
    count, step, segments = sizes
    chosen = clip_set(num_frames=count, frame_step=step, segments=segments)
    assert segment_indices(num_available, chosen).tolist() == expected


@given(st.integers(1, 300), st.integers(1, 8), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_frames_exist_and_rise(num_available: int, count: int, step: int, segments: int, draws: bool) -> None:
    generator = np.random.default_rng(0) if draws else None
    chosen = clip_set(num_frames=count, frame_step=step, segments=segments)
    indices = segment_indices(num_available, chosen, generator)
    assert indices.shape == (segments, count)
    assert indices.min() >= 0 and indices.max() < num_available
    assert (np.diff(indices, axis=1) >= 0).all() and (np.diff(indices[:, 0]) >= 0).all()


def test_drawn_clips_stay_in_their_segments() -> None:
    chosen = clip_set(segments=3)
    drawn = [segment_indices(90, chosen, np.random.default_rng(seed)) for seed in range(50)]
    for indices in drawn:
        assert (indices // 30 == np.arange(3)[:, None]).all()
    assert len({tuple(indices[0]) for indices in drawn}) > 10


@pytest.mark.parametrize(("height", "width"), [(32, 80), (80, 32), (32, 32)])
def test_squares_go_from_one_end_to_the_other(height: int, width: int) -> None:
    frames = torch.arange(height * width).view(1, 1, height, width).expand(2, 3, -1, -1)
    views = list(square_views(frames, views=3))
    assert all(view.shape == (2, 3, 32, 32) for view in views)
    assert torch.equal(views[0], frames[..., :32, :32]) and torch.equal(views[2], frames[..., -32:, -32:])
    middle = frames[..., 24:56, :] if height > 32 else frames[..., 24:56] if width > 32 else frames
    assert torch.equal(views[1], middle)


def test_a_test_reads_each_segment_in_each_view(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=40, width=96, height=32)
    loader = SegmentLoader(preprocess=PreprocessConfig.for_crop(32), clip_set=clip_set())
    clips = list(loader.clips(VideoPart(video=path, id="a")))
    expected = segment_indices(40, clip_set())
    assert [about["frames"] for _, about in clips] == [expected[n % 2].tolist() for n in range(6)]
    assert all(pixels.shape == (4, 3, 32, 32) and pixels.dtype == np.uint8 for pixels, _ in clips)
    whole = np.concatenate([clips[view * 2][0] for view in range(3)], axis=-1)  # three squares side by side: the frame
    assert read_numbers(whole.transpose(0, 2, 3, 1)) == expected[0].tolist()
    assert clips[0][1]["start_seconds"] == pytest.approx(expected[0, 0] / 10)


def test_a_part_of_a_video_is_cut_as_a_video_of_its_own(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=60)
    loader = SegmentLoader(preprocess=CROP, clip_set=clip_set())
    part = VideoPart(video=path, id="a", start_seconds=1.0, end_seconds=3.0)
    frames = [about["frames"] for _, about in loader.clips(part)][:2]
    assert frames == (10 + segment_indices(20, clip_set())).tolist()


def augmented(path: object, *, id: str = "a", seed: int = 0, first: int = 0) -> list[tuple[np.ndarray, dict[str, Any]]]:
    made = Augmentation(ids=frozenset({"a", "b"}), passes=3, seed=seed)
    loader = SegmentLoader(preprocess=CROP, clip_set=clip_set(), augmentation=made)
    return list(loader.clips(VideoPart(video=path, id=id), first))


def test_training_clips_differ_from_pass_to_pass_and_are_drawn_alike_each_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=60)
    clips, again = augmented(path), augmented(path)
    assert len(clips) == 3 * 2
    for (pixels, about), (repeated, said) in zip(clips, again, strict=True):
        assert np.array_equal(pixels, repeated) and about == said
    for one in range(6):
        for other in range(one):
            assert not np.array_equal(clips[one][0], clips[other][0])
    for another in (augmented(path, id="b"), augmented(path, seed=1)):
        assert not np.array_equal(clips[0][0], another[0][0])


def test_a_run_that_goes_on_draws_what_an_undisturbed_one_draws(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=60)
    whole, rest = augmented(path), augmented(path, first=3)
    assert len(rest) == 3
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(whole[3:], rest, strict=True))


def test_a_clip_is_changed_alike_in_all_its_frames() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for seed in range(12):
        clip = random_view([frame] * 3, CROP, seed=seed).float()
        same = (clip == clip[:1]).all(dim=1).float().mean()
        assert same > 0.6  # all of it, but where noise was drawn into a rectangle of at most a third


def test_erasing_hits_one_rectangle_of_one_clip_in_four() -> None:
    frame = np.full((64, 64, 3), 128, np.uint8)
    shares = []
    for seed in range(200):
        clip = random_view([frame] * 2, CROP, seed=seed)
        differs = (clip[0] != clip[1]).any(dim=0)
        shares.append(float(differs.float().mean()))
        if shares[-1]:
            rows, columns = differs.any(dim=1).nonzero(), differs.any(dim=0).nonzero()
            box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert float(differs.sum()) > 0.9 * float(box)
    assert 0.15 < np.mean([share > 0 for share in shares]) < 0.35


def test_global_random_numbers_are_left_alone() -> None:
    import random

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.random(), float(torch.rand(()))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    random_view([np.zeros((40, 40, 3), np.uint8)], CROP, seed=9)
    assert (random.random(), np.random.random(), float(torch.rand(()))) == expected


def test_an_image_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
    chosen = clip_set(segments=1, views=1, frame_step=1)
    made = Augmentation(ids=frozenset({"b"}), passes=2, seed=0)
    loader = SegmentLoader(preprocess=CROP, clip_set=chosen, augmentation=made)
    (tested, about), *more = loader.clips(VideoPart(video=path, id="a"))
    assert not more and about == {"frames": [0] * 4, "start_seconds": None, "end_seconds": None}
    assert tested.shape == (4, 3, 32, 32) and (tested == tested[:1]).all()
    learnt = [pixels for pixels, _ in loader.clips(VideoPart(video=path, id="b"))]
    assert len(learnt) == 2 and all((pixels == pixels[:1]).all() for pixels in learnt)
    assert not np.array_equal(*learnt)


def test_official_sampling_draws_by_seed_and_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=80)

    def frames(seed: int, id: str) -> list[int]:
        loader = SegmentLoader(preprocess=CROP, clip_set=clip_set(official_sampling=True, seed=seed))
        return [number for _, about in loader.clips(VideoPart(video=path, id=id)) for number in about["frames"]]

    assert frames(0, "a") == frames(0, "a")
    assert len({tuple(frames(seed, id)) for seed in range(3) for id in "ab"}) > 3


def test_what_cannot_be_cut_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads clips of 4 frames, and this model encodes images"):
        SegmentLoader.for_model(IMAGE, CROP, clip_set())
    with pytest.raises(ConfigError, match="reads clips of 3 frames, and this model encodes tubelets of 2 frames"):
        SegmentLoader.for_model(VIDEO, CROP, clip_set(num_frames=3))
    loader = SegmentLoader.for_model(VIDEO, CROP, clip_set())
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(VideoDecodeError, match="bad.mp4"):
        list(loader.clips(VideoPart(video=tmp_path / "bad.mp4", id="a")))
    frames = np.zeros((8, 40, 40, 3), np.uint8)
    with pytest.raises(InputError, match="has no frame rate, which parts in seconds need"):
        list(loader.clips(VideoPart(video=frames, id="a", end_seconds=1.0)))
