"""Training clips: an order, crops and replacements that depend on seed and position alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from media import write_video

from vjepa_sdk.config import DataConfig
from vjepa_sdk.data import BadClips, Batch, TrainingData, derive_seed, list_clips
from vjepa_sdk.errors import GuardError, InputError


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clips")
    for number in range(6):
        write_video(directory / f"{number}.mp4", num_frames=12)
    return directory


@pytest.fixture
def corrupt_clips(clips: Path, tmp_path: Path) -> Path:
    for path in clips.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "3.mp4").write_text("no video at all")
    return tmp_path


def data(path: Path, **changes: object) -> TrainingData:
    config = DataConfig(path=str(path), **{"num_workers": 0, "frame_stride": (1, 3), **changes})  # type: ignore[arg-type]
    return TrainingData(config, num_frames=4, crop_size=32, batch_size=2, seed=5, bad=BadClips())


def batches(source: TrainingData, first: int = 0, last: int = 6) -> list[Batch]:
    return list(source.batches(first_step=first, last_step=last))


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert [batch.paths for batch in left] == [batch.paths for batch in right]
    assert all(torch.equal(a.clips, b.clips) for a, b in zip(left, right, strict=True))


def test_every_epoch_shows_every_clip_once_in_a_new_order(clips: Path) -> None:
    shown = [path for batch in batches(data(clips)) for path in batch.paths]
    assert sorted(shown[:6]) == sorted(shown[6:]) == [str(path) for path in sorted(clips.iterdir())]
    assert shown[:6] != shown[6:]


def test_batches_start_anywhere(clips: Path) -> None:
    assert_same(batches(data(clips))[3:], batches(data(clips), first=3))


def test_number_of_workers_changes_nothing(corrupt_clips: Path) -> None:
    alone = data(corrupt_clips, max_bad_fraction=1.0)
    expected = batches(alone)
    for num_workers in (1, 2):
        source = data(corrupt_clips, max_bad_fraction=1.0, num_workers=num_workers)
        assert_same(batches(source), expected)
        assert source.bad == alone.bad


def test_bad_clips_are_replaced_counted_and_listed(corrupt_clips: Path) -> None:
    source = data(corrupt_clips, max_bad_fraction=1.0)
    found = batches(source)
    bad = str(corrupt_clips / "3.mp4")
    assert all(bad not in batch.paths for batch in found)
    assert all(len(batch.clips) == 2 for batch in found)
    assert list(source.bad.reasons) == [bad]
    assert source.bad.tried == 12 + source.bad.failed and source.bad.failed >= 2


def test_too_many_bad_clips_stop_the_run(corrupt_clips: Path) -> None:
    with pytest.raises(GuardError, match=r"clips cannot be decoded, more than data.max_bad_fraction=0.05"):
        batches(data(corrupt_clips, max_bad_fraction=0.05), last=40)


def test_nothing_but_bad_clips_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "only.mp4").write_text("no video")
    with pytest.raises(GuardError, match="10 clips in a row cannot be decoded"):
        batches(data(tmp_path, max_bad_fraction=1.0))


def test_short_clips_repeat_their_last_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", num_frames=3)
    cutter = data(tmp_path).cutter
    assert cutter.choose_frames(3, torch.Generator().manual_seed(0)).tolist() == [0, 1, 2, 2]


def test_stride_and_start_vary_and_stay_inside() -> None:
    cutter = data(Path(__file__).parent / "../examples/clips").cutter
    generator = torch.Generator().manual_seed(0)
    drawn = [cutter.choose_frames(24, generator) for _ in range(200)]
    assert {int(frames[1] - frames[0]) for frames in drawn} == {1, 2, 3}
    assert {int(frames[0]) for frames in drawn} >= {0, 5, 10}
    assert all(0 <= frames.min() and frames.max() < 24 for frames in drawn)


def test_seeds_depend_on_every_key() -> None:
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)
    assert len({derive_seed(1, 2, 3), derive_seed(1, 3, 2), derive_seed(1, 2), derive_seed(2, 2, 3)}) == 4


def test_csv_rows_of_a_split_are_listed_in_order(tmp_path: Path) -> None:
    source = tmp_path / "clips.csv"
    for name in "abc":
        (tmp_path / f"{name}.mp4").touch()
    source.write_text("path,split,label\nb.mp4,train,x\na.mp4,train,y\nc.mp4,test,x\n")
    assert list_clips(source, split="train") == [tmp_path / "b.mp4", tmp_path / "a.mp4"]
    assert len(list_clips(source)) == 3


def test_official_list_without_header_is_read(tmp_path: Path) -> None:
    source = tmp_path / "official.csv"
    (tmp_path / "my videos").mkdir()
    (tmp_path / "my videos/a.mp4").touch()
    source.write_text("my videos/a.mp4 3\n/data/b.mp4 0\n")
    assert list_clips(source) == [tmp_path / "my videos/a.mp4", Path("/data/b.mp4")]


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("path,split\na.mp4,train\n", "val", "lists no clips with split='val'; its splits are train"),
        ("path,label\na.mp4,x\n", "train", "has no column 'split'; its columns are path, label"),
        ("a.mp4 0\n", "train", r"split='train' needs the header path\[,split,label,group\]"),
        ("", None, "lists no clips"),
        ("path,split\n,train\n", None, "row 2 has no path; correct it"),
        ("label,path\n1\n", None, "row 2 has no path; correct it"),
        ("path\nabsent.mp4\n", None, "none of its 1 clips exists, for example .*absent.mp4; paths are relative"),
    ],
)
def test_unusable_lists_are_named(tmp_path: Path, text: str, split: str | None, message: str) -> None:
    source = tmp_path / "list.csv"
    source.write_text(text)
    with pytest.raises(InputError, match=message):
        list_clips(source, split=split)


def test_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.csv: no such file"):
        list_clips(tmp_path / "absent.csv")


def test_split_of_a_directory_is_refused(clips: Path) -> None:
    with pytest.raises(InputError, match="split='train' needs a CSV"):
        list_clips(clips, split="train")


def test_a_list_that_is_not_text_is_named(tmp_path: Path) -> None:
    (source := tmp_path / "list.csv").write_bytes(b"path,label\n\xff\xfe.mp4,1\n")
    with pytest.raises(InputError, match=r"list\.csv: not a CSV in UTF-8"):
        list_clips(source)
