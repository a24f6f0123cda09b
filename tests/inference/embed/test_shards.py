"""Shares of a job: which clips are in which, whatever else there is, and where they stand in a batch."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from vjepa_sdk.corpus.lists import whole
from vjepa_sdk.errors import ConfigError
from vjepa_sdk.inference.embed.shards import Shard, Slots, read_shard, share_of, take_share

ARRAY = {
    f"SLURM_ARRAY_TASK_{name}": value for name, value in {"ID": "5", "MIN": "3", "MAX": "10", "COUNT": "8"}.items()
}


class TestShareOf:
    def test_the_share_of_an_id_never_changes(self) -> None:
        # coreutils: printf %s ID | sha256sum | cut -c -16, then 1 + that number modulo the count
        assert [share_of("clips/a.mp4", count) for count in (1, 2, 5, 16)] == [1, 1, 3, 13]
        assert [share_of("ü 視.mp4", count) for count in (1, 2, 5, 16)] == [1, 2, 1, 10]

    def test_names_that_are_no_text_have_a_share_by_their_bytes(self) -> None:
        assert {share_of(f"{number}\udcff.mp4", 2) for number in range(20)} == {1, 2}

    @pytest.mark.parametrize("count", [1, 2, 5, 16])
    def test_every_clip_is_in_exactly_one_share(self, count: int) -> None:
        shards = [Shard(index=index, count=count) for index in range(1, count + 1)]
        assert {sum(shard.holds(f"{number}.mp4") for shard in shards) for number in range(200)} == {1}

    def test_shares_are_about_equal(self) -> None:
        sizes = [0] * 16
        for number in range(16_000):
            sizes[share_of(f"clips/{number:05d}.mp4", 16) - 1] += 1
        assert all(abs(size - 1000) < 5 * 1000**0.5 for size in sizes)


class TestReadShard:
    @pytest.mark.parametrize("text", ["1/1", "3/16", "16/16"])
    def test_a_share_is_written_as_it_is_read(self, text: str) -> None:
        assert str(read_shard(text, {})) == text

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("3", "shard=3 must be a share such as 3/16, or auto"),
            ("", "must be a share such as 3/16"),
            ("-1/4", "must be a share such as 3/16"),
            ("1/4\n", "must be a share such as 3/16"),
            ("0/16", "shard=0/16 must be from 1/16 to 16/16"),
            ("17/16", "shard=17/16 must be from 1/16 to 16/16"),
            ("1/0", "shard=1/0 must be one of at least 1 share"),
        ],
    )
    def test_others_are_refused(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            read_shard(text, {})

    def test_auto_takes_the_rank_of_torchrun(self) -> None:
        assert read_shard("auto", {"RANK": "0", "WORLD_SIZE": "4"}) == Shard(index=1, count=4)

    def test_auto_takes_the_task_of_a_slurm_array_wherever_it_begins(self) -> None:
        assert read_shard("auto", ARRAY) == Shard(index=3, count=8)

    @pytest.mark.parametrize(
        ("environment", "message"),
        [
            ({}, "neither RANK and WORLD_SIZE nor an array's are set"),
            ({"RANK": "1"}, "neither RANK and WORLD_SIZE nor an array's are set"),
            ({**ARRAY, "RANK": "0", "WORLD_SIZE": "1"}, "both RANK and SLURM_ARRAY_TASK_ID are set"),
            ({**ARRAY, "SLURM_ARRAY_TASK_COUNT": "3"}, "an array without gaps, not 3 tasks from 3 to 10"),
            ({"SLURM_ARRAY_TASK_ID": "5"}, "needs SLURM_ARRAY_TASK_MIN, which is None"),
            ({"RANK": "x", "WORLD_SIZE": "1"}, "needs RANK, which is 'x'"),
            ({"RANK": "4", "WORLD_SIZE": "4"}, "shard=5/4 must be from 1/4 to 4/4"),
        ],
    )
    def test_auto_never_guesses(self, environment: dict[str, str], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            read_shard("auto", environment)


class TestSlots:
    @pytest.mark.parametrize("seed", range(20))
    def test_shares_hold_every_clip_once_each_in_its_slot_of_the_whole_job(self, seed: int) -> None:
        generator = random.Random(seed)
        sources = [whole(Path(f"{number:04d}.mp4")) for number in range(generator.randrange(1, 300))]
        count, batch_size = generator.randrange(1, 18), generator.randrange(1, 12)
        width = min(batch_size, len(sources))
        slot_of = {source.id: number % width for number, source in enumerate(sources)}
        seen = []
        for index in range(1, count + 1):
            shard = Shard(index=index, count=count)
            share = take_share(sources, shard, batch_size=batch_size, in_batches=True)
            assert share.slots is not None
            assert share.slots.batch_size == width
            batches = [[share.sources[number] for number in batch] for batch in share.slots.batches()]
            assert [source for batch in batches for source in batch] == share.sources
            for batch in batches:
                slots = [slot_of[source.id] for source in batch]
                assert len(set(slots)) == len(slots)
            assert [slot_of[source.id] for source in share.sources] == list(share.slots.of)
            seen += share.sources
        assert sorted(seen, key=lambda source: source.id) == sources

    def test_few_slots_of_a_large_share_stay_empty(self) -> None:
        sources = [whole(Path(f"{number}.mp4")) for number in range(20_000)]
        share = take_share(sources, Shard(index=1, count=2), batch_size=8, in_batches=True)
        assert share.slots is not None
        assert 8 * len(list(share.slots.batches())) < 1.05 * len(share.sources)

    def test_a_job_over_all_fills_one_batch_after_the_other(self) -> None:
        assert list(Slots.in_turn(7, 3).batches()) == [range(0, 3), range(3, 6), range(6, 7)]
        assert list(Slots.in_turn(2, 8).batches()) == [range(0, 2)]
        assert list(Slots.in_turn(3, 1).batches()) == [range(0, 1), range(1, 2), range(2, 3)]
        assert list(Slots.in_turn(0, 4).batches()) == []

    def test_windows_stay_in_the_order_of_the_whole_job(self) -> None:
        sources = [whole(Path(f"{number:03d}.mp4")) for number in range(100)]
        share = take_share(sources, Shard(index=1, count=3), batch_size=4, in_batches=False)
        assert share.sources == sorted(share.sources, key=lambda source: source.id)
