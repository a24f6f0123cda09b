"""Training clips: an order, crops and replacements that depend on seed and position alone."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from media import write_video
from PIL import Image
from tiny_models import IMAGE

from vjepa_sdk import pretrain
from vjepa_sdk.config.training import DataConfig, MaskConfig, SourceConfig, TrainConfig
from vjepa_sdk.errors import ConfigError, GuardError
from vjepa_sdk.runtime.workers.dispatcher import Dispatcher
from vjepa_sdk.training.data import order
from vjepa_sdk.training.data.batches import BadClips, Batch, TrainingData
from vjepa_sdk.training.data.order import ClipOrder, derive_seed


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clips")
    for number in range(6):
        write_video(directory / f"{number}.mp4", num_frames=12)
    return directory


@pytest.fixture(scope="module")
def corrupt_clips(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips, one of them none."""
    directory = tmp_path_factory.mktemp("corrupt")
    for number in range(10):
        shutil.copy(clips / f"{number % 6}.mp4", directory / f"{number}.mp4")
    (directory / "3.mp4").write_text("no video at all")
    return directory


def data(path: Path | None, *, num_frames: int = 4, batch_size: int = 2, **changes: object) -> TrainingData:
    settings = {"path": str(path or ""), "num_workers": 0, "frame_stride": (1, 3), "max_bad_fraction": 1.0, **changes}
    config = DataConfig(**settings)  # type: ignore[arg-type]
    return TrainingData(config, num_frames=num_frames, crop_size=32, batch_size=batch_size, seed=5, bad=BadClips())


def batches(source: TrainingData, first: int = 0, last: int = 6) -> list[Batch]:
    return list(source.batches(first_step=first, last_step=last))


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert [batch.paths for batch in left] == [batch.paths for batch in right]
    assert all(torch.equal(a.clips, b.clips) for a, b in zip(left, right, strict=True))


def test_every_epoch_shows_every_clip_once_in_a_new_order(clips: Path) -> None:
    shown = [path for batch in batches(data(clips)) for path in batch.paths]
    assert sorted(shown[:6]) == sorted(shown[6:]) == [str(path) for path in sorted(clips.iterdir())]
    assert shown[:6] != shown[6:]


def test_the_order_of_a_seed_never_changes() -> None:
    """Runs that began with an older version resume with the same clips."""
    assert [clip for _, clip in ClipOrder([6], [1.0], 5).walk(0, 14)] == [0, 2, 1, 4, 3, 5, 5, 0, 3, 2, 4, 1, 2, 1]
    large = ClipOrder([6], [3.0], 2**60 + 7)
    assert [clip for _, clip in large.walk(0, 14)] == [5, 4, 0, 3, 1, 2, 4, 2, 1, 0, 5, 3, 1, 2]


def test_the_crops_and_replacements_of_a_seed_never_change(clips: Path) -> None:
    source = data(clips)
    request = source._request(0, 0, 0, 0)
    assert (request.path, request.seed) == (str(clips / "0.mp4"), 8998383282213416150)
    first = source._replacement(source._request(3, 0, 0, 4))
    assert first is not None and (first.path, first.seed) == (str(clips / "0.mp4"), 6421849516079714363)
    second = source._replacement(first)
    assert second is not None and (second.path, second.seed) == (str(clips / "2.mp4"), 6860718433395987795)


def test_batches_start_anywhere(clips: Path) -> None:
    assert_same(batches(data(clips))[3:], batches(data(clips), first=3))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_number_of_workers_changes_no_pixel(corrupt_clips: Path, num_workers: int) -> None:
    options = {"color_jitter": 0.4, "rand_augment": True, "random_erasing": 0.5}
    alone = data(corrupt_clips, **options)
    shared = data(corrupt_clips, num_workers=num_workers, **options)
    assert_same(batches(shared, last=10), batches(alone, last=10))
    assert shared.bad == alone.bad and alone.bad.failed >= 2


def test_bad_clips_are_replaced_counted_and_listed(corrupt_clips: Path) -> None:
    source = data(corrupt_clips)
    found = batches(source, last=10)
    bad = str(corrupt_clips / "3.mp4")
    assert all(bad not in batch.paths for batch in found)
    assert all(len(batch.clips) == 2 for batch in found)
    assert list(source.bad.reasons) == [bad]
    assert source.bad.tried == 20 + source.bad.failed and source.bad.failed >= 2


def test_a_listed_clip_that_is_missing_is_a_bad_clip(clips: Path, tmp_path: Path) -> None:
    listed = [*map(str, sorted(clips.iterdir())), str(tmp_path / "gone.mp4")]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    source = data(tmp_path / "list.txt")
    assert len(batches(source, last=4)) == 4
    assert source.bad.reasons == {listed[-1]: f"{listed[-1]}: does not exist"}


def test_too_many_bad_clips_stop_the_run(corrupt_clips: Path) -> None:
    with pytest.raises(GuardError, match=r"of \d+ clips cannot be decoded, more than data.max_bad_fraction=0.01"):
        batches(data(corrupt_clips, max_bad_fraction=0.01), last=40)


def test_nothing_but_bad_clips_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "only.mp4").write_text("no video")
    with pytest.raises(GuardError, match="10 clips in a row cannot be decoded"):
        batches(data(tmp_path))


def test_a_late_burst_of_bad_clips_stops_the_run_whatever_came_before() -> None:
    bad = BadClips()
    for _ in range(100_000):
        bad.count([], limit=0.1)
    with pytest.raises(GuardError, match=r"201 of the last 1000 clips .* twice data.max_bad_fraction=0.1; .*: broken"):
        for _ in range(1000):
            bad.count([("a.mp4", "broken")], limit=0.1)
    assert bad.failed == 201


def test_a_steady_share_below_the_limit_never_stops_the_run() -> None:
    bad = BadClips()
    for number in range(20_000):
        bad.count([("a.mp4", "broken")] if number % 11 == 0 else [], limit=0.1)
    assert bad.failed == 1819 and len(bad.recent) < 100


def count_until_refused(share: float, seed: int, *, last: int) -> int | None:
    """Count clips of a thousand, of which a share is bad, and return after how many the run stops."""
    bad, order = BadClips(), ClipOrder([1000], [1.0], seed)
    replacements = np.random.default_rng(seed)
    for _, clip in order.walk(0, last):
        failures = []
        while clip < share * 1000:
            failures.append((f"{clip}.mp4", "broken"))
            clip = int(replacements.integers(1000))
        try:
            bad.count(failures, limit=0.1)
        except GuardError:
            return bad.tried
    return None


def test_share_at_the_limit_never_stops_the_run() -> None:
    """In a random order every other count lies above the limit, and early ones far above."""
    assert [count_until_refused(0.1, seed, last=3000) for seed in range(10)] == [None] * 10


@pytest.mark.parametrize(("share", "within"), [(0.5, 60), (0.2, 1200)])
def test_share_above_the_limit_stops_the_run_soon(share: float, within: int) -> None:
    stopped = [count_until_refused(share, seed, last=3000) for seed in range(10)]
    assert all(tried is not None and tried <= within for tried in stopped)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_tenth_of_bad_clips_is_survived(corrupt_clips: Path, num_workers: int) -> None:
    source = data(corrupt_clips, max_bad_fraction=DataConfig().max_bad_fraction, num_workers=num_workers)
    assert len(batches(source, last=60)) == 60
    assert source.bad.failed > 10


def test_counts_are_restored_to_the_same_state() -> None:
    bad, again = BadClips(), BadClips()
    for number in range(1500):
        bad.count([("a.mp4", "broken")] if number % 20 == 0 else [], limit=0.1)
    again.restore(bad.state())
    assert again == bad and again.recent


def test_seeds_depend_on_every_key() -> None:
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)
    assert len({derive_seed(1, 2, 3), derive_seed(1, 3, 2), derive_seed(1, 2), derive_seed(2, 2, 3)}) == 4


def test_sources_are_drawn_by_weight_however_large_they_are() -> None:
    weights, count = np.array([1.0, 2.0, 5.0]), 200_000
    drawn = Counter(source for source, _ in ClipOrder([1000, 7, 30], weights.tolist(), 3).walk(0, count))
    share = weights / weights.sum()
    error = np.sqrt(share * (1 - share) / count)
    assert np.all(np.abs(np.array([drawn[0], drawn[1], drawn[2]]) / count - share) < 4 * error)


def test_sources_are_drawn_independently_of_the_one_before() -> None:
    drawn = [source for source, _ in ClipOrder([5, 5], [1.0, 1.0], 3).walk(0, 100_000)]
    pairs = Counter(itertools.pairwise(drawn))
    assert all(abs(pairs[pair] - 25_000) < 4 * 150 for pair in itertools.product((0, 1), (0, 1)))


orders = st.lists(st.tuples(st.integers(1, 9), st.floats(0.01, 9)), min_size=1, max_size=4)


@given(sources=orders, seed=st.integers(0, 2**62), start=st.integers(0, 200))
@settings(deadline=None, max_examples=50)
def test_each_source_is_walked_in_epochs_without_repeats(
    sources: list[tuple[int, float]], seed: int, start: int
) -> None:
    sizes, weights = zip(*sources, strict=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_DRAWS", 32)
        walked = list(ClipOrder(sizes, weights, seed).walk(0, 230))
        assert list(ClipOrder(sizes, weights, seed).walk(start, 230)) == walked[start:]
    for source, size in enumerate(sizes):
        seen = [clip for number, clip in walked if number == source]
        epochs = [seen[first : first + size] for first in range(0, len(seen), size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs if len(epoch) == size)
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)


def test_sources_of_equal_size_have_orders_of_their_own() -> None:
    walked = list(ClipOrder([50, 50], [1.0, 1.0], 3).walk(0, 60))
    orders = [[clip for number, clip in walked if number == source][:20] for source in (0, 1)]
    assert orders[0] != orders[1]


def test_a_mixture_feeds_clips_of_all_sources_and_replaces_bad_ones_from_their_own(
    clips: Path, corrupt_clips: Path
) -> None:
    sources = (SourceConfig(path=str(clips), weight=1.0), SourceConfig(path=str(corrupt_clips), weight=3.0))
    mixed = data(None, sources=sources)
    found = batches(mixed, last=20)
    shown = Counter(Path(path).parent for batch in found for path in batch.paths)
    drawn = Counter(source for source, _ in mixed.order.walk(0, 40))
    assert mixed.bad.failed and (shown[clips], shown[corrupt_clips]) == (drawn[0], drawn[1])
    assert_same(batches(mixed, first=12, last=20), found[12:])


def test_a_mixture_is_told_from_one_list_and_from_another_division(clips: Path, tmp_path: Path) -> None:
    names = [str(path) for path in sorted(clips.iterdir())]
    digests = {data(clips).digest}
    for cut in (2, 3):
        lists = [tmp_path / f"{cut}{part}.txt" for part in "ab"]
        for path, part in zip(lists, (names[:cut], names[cut:]), strict=True):
            path.write_text("\n".join(part))
        mixed = data(None, sources=tuple(SourceConfig(path=str(path)) for path in lists))
        assert mixed.paths == names
        digests.add(mixed.digest)
    assert len(digests) == 3
    assert data(None, sources=(SourceConfig(path=str(clips)),)).digest in digests


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.path is empty; pass a directory or list of clips, or \[\[data\.s"):
        data(None)


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batches_of_one(corrupt_clips: Path, world_size: int) -> None:
    micro, per_batch = 2, 4

    def parts(batch: Batch) -> list[tuple[tuple[str, ...], torch.Tensor]]:
        starts = range(0, len(batch.paths), micro)
        return [(batch.paths[i : i + micro], batch.clips[i : i + micro]) for i in starts]

    def run(**share: int) -> list[Batch]:
        source = data(corrupt_clips, batch_size=micro * per_batch)
        return list(source.batches(first_step=1, last_step=3, micro_batch_size=micro, **share))

    shares = [run(rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, whole in enumerate(run()):
        for number, (paths, pixels) in enumerate(parts(whole)):
            theirs = parts(shares[number % world_size][step])[number // world_size]
            assert theirs[0] == paths and torch.equal(theirs[1], pixels)
    assert all(len(batch.paths) == 8 // world_size for share in shares for batch in share)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ({"micro_batch_size": 5}, "batch_size=12 must be a multiple of micro_batch_size=5; pass 10 or 15"),
        ({"world_size": 5, "micro_batch_size": 1}, "batch_size=12 must be a multiple of world_size=5; pass 10 or 15"),
        (
            {"world_size": 2},
            "micro_batch_size=12 cuts batch_size=12 into 1 parts, which world_size=2 .* of 1, 2, 3, 6$",
        ),
        ({"world_size": 4, "micro_batch_size": 2}, "into 6 parts, which world_size=4 processes cannot .* of 1, 3$"),
    ],
)
def test_shares_that_do_not_come_out_list_those_that_do(clips: Path, share: dict[str, int], message: str) -> None:
    source = data(clips, batch_size=12)
    with pytest.raises(ConfigError, match=message):
        source.batches(first_step=0, last_step=1, **share)


def inject_faults(monkeypatch: pytest.MonkeyPatch, faults: dict[int, signal.Signals]) -> None:
    """Send a signal to the process that has just been given clip number n, counted from 1."""
    hand_out, handed = Dispatcher._hand_out, itertools.count(1)

    def hand_out_and_hit(dispatcher: Dispatcher) -> None:
        idle = {worker for worker in dispatcher._workers if worker.ticket is None}
        hand_out(dispatcher)
        for worker in idle.intersection(dispatcher._workers):
            if worker.ticket is not None and (fault := faults.pop(next(handed), None)):
                os.kill(worker.process.pid, fault)

    monkeypatch.setattr(Dispatcher, "_hand_out", hand_out_and_hit)


def test_a_process_that_is_killed_at_work_costs_no_clip(
    clips: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = {5: signal.SIGKILL}
    inject_faults(monkeypatch, faults)
    source = data(clips, num_workers=1)
    assert_same(batches(source), batches(data(clips)))
    assert not faults and source.bad.failed == 0
    assert "was killed (signal 9), probably for lack of memory; use fewer workers; running the task" in caplog.text


@pytest.mark.soak
def test_twenty_faults_in_five_hundred_steps_change_no_clip(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {45 * (i + 1): (signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP)[i % 3] for i in range(20)}
    inject_faults(monkeypatch, faults)
    source = data(clips, num_workers=2, deadline_seconds=5.0)
    assert_same(batches(source, last=500), batches(data(clips), last=500))
    assert not faults and source.bad.failed == 0


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    """Write a folder of images with one subfolder a class, as ImageNet has."""
    for number in range(6):
        folder = tmp_path / "stills" / f"n0{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (50 + number, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.JPEG")
    return tmp_path / "stills"


def test_an_image_model_is_fed_from_a_folder_of_classes(stills: Path) -> None:
    source = data(stills, num_frames=1)
    (first, *rest) = batches(source, last=3)
    assert (first.clips.dtype, first.clips.shape) == (torch.uint8, (2, 1, 3, 32, 32))
    shown = {path for batch in (first, *rest) for path in batch.paths}
    assert shown == {str(path) for path in stills.glob("*/*.JPEG")}


def test_an_image_model_trains_on_a_folder_of_images(stills: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        model=dataclasses.replace(IMAGE, img_size=96),
        masks=(MaskConfig(kind="ijepa", num_blocks=2, spatial_scale=(0.15, 0.2), min_keep=1),),
        data=DataConfig(path=str(stills), num_workers=0),
        out=str(tmp_path / "run"),
        steps=2,
        batch_size=3,
    )
    assert pretrain(config).finished


def test_a_list_may_mix_videos_and_stills(clips: Path, stills: Path, tmp_path: Path) -> None:
    listed = [*sorted(clips.iterdir()), *sorted(stills.glob("*/*.JPEG"))]
    np.save(tmp_path / "list.npy", np.array([str(path) for path in listed]))
    for batch in batches(data(tmp_path / "list.npy"), last=6):
        for path, clip in zip(batch.paths, batch.clips, strict=True):
            is_repeated = bool((clip == clip[:1]).all())
            assert is_repeated == path.endswith(".JPEG")
