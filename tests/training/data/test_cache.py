"""Decoded once: a cache holds the frames of its files, and of no others."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
from media import numbered_frame, read_numbers, write_video
from PIL import Image
from tiny_runs import assert_same_run, run_config, run_in_two, write_clips

from vjepa_sdk import pretrain
from vjepa_sdk.config.training import DataConfig
from vjepa_sdk.errors import ConfigError, InUseError, ResumeError, VideoDecodeError
from vjepa_sdk.runtime.lock import Lock
from vjepa_sdk.training.data import cache as cache_module
from vjepa_sdk.training.data.cache import open_cache
from vjepa_sdk.training.data.cutter import ClipCutter, ClipRequest


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    return DataConfig(cache=str(tmp_path / "cache"), num_workers=0)


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    (tmp_path / "clips").mkdir()
    return [str(path) for path in sorted(write_clips(tmp_path / "clips").iterdir())]


def test_holds_every_frame_of_every_clip(config: DataConfig, paths: list[str]) -> None:
    cache = open_cache(config, paths)
    for number, path in enumerate(paths):
        frames, fps = cache.read(path)
        assert read_numbers(frames) == list(range(10 + number)) and fps == 10


def test_frames_are_made_small_and_never_large(config: DataConfig, paths: list[str]) -> None:
    small, _ = open_cache(replace(config, cache_short_side=24), paths).read(paths[0])
    assert small.shape[1:] == (24, 32, 3) and read_numbers(small) == list(range(10))
    same, _ = open_cache(replace(config, cache_short_side=96), paths).read(paths[0])
    assert same.shape[1:] == (48, 64, 3)


def test_a_lower_rate_keeps_the_frames_on_screen_at_its_moments(config: DataConfig, paths: list[str]) -> None:
    frames, fps = open_cache(replace(config, cache_fps=5.0), paths).read(paths[0])
    assert fps == 5 and read_numbers(frames) == [0, 2, 4, 6, 8]


def test_a_long_clip_comes_in_groups_and_stays_whole(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_GROUP", 7)
    path = str(write_video(tmp_path / "long.mp4", num_frames=30))
    assert read_numbers(open_cache(config, [path]).read(path)[0]) == list(range(30))


def test_a_still_is_one_frame(config: DataConfig, tmp_path: Path) -> None:
    Image.fromarray(numbered_frame(5)).save(tmp_path / "a.png")
    frames, fps = open_cache(config, [str(tmp_path / "a.png")]).read(str(tmp_path / "a.png"))
    assert read_numbers(frames) == [5] and fps == 0


def test_what_cannot_be_decoded_says_why_when_it_is_read(config: DataConfig, paths: list[str]) -> None:
    Path(paths[0]).write_bytes(b"no video")
    cache = open_cache(config, paths)
    with pytest.raises(VideoDecodeError, match=r"0\.mp4"):
        cache.read(paths[0])
    assert len(cache.read(paths[1])[0]) == 11


def test_decodes_once(config: DataConfig, paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_cache(config, paths)
    monkeypatch.setattr(cache_module, "_decode", None)
    assert open_cache(config, paths[::-1]).clips == first.clips


@pytest.mark.parametrize("what", ["another file", "a damaged byte", "a cut file", "an index without end"])
def test_decodes_again_where_something_changed(
    what: str, config: DataConfig, paths: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    kept = open_cache(config, paths).path
    if what == "another file":
        write_video(Path(paths[0]), num_frames=17)
    elif what == "an index without end":
        index = kept.with_name("index.json")
        index.write_bytes(index.read_bytes()[:-9])
    else:
        data = bytearray(kept.read_bytes())
        data[1000] ^= 255
        kept.write_bytes(data if what == "a damaged byte" else data[:-1])
    assert read_numbers(open_cache(config, paths).read(paths[0])[0]) == list(
        range(17 if what == "another file" else 10)
    )
    assert "again" in caplog.text
    assert os.listdir(config.cache or "") == [kept.parent.name]


def test_more_bytes_than_allowed_are_refused_and_nothing_is_left(config: DataConfig, paths: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"cache_gigabytes=0\.001 is too little for 40 clips .*cache_short_side=\d+$"):
        open_cache(replace(config, cache_gigabytes=0.001), [*paths, *_copies(paths[0], 36)])
    assert not list(Path(config.cache or "").rglob("frames*"))


def _copies(path: str, count: int) -> list[str]:
    copies = [f"{path[:-4]}-{number}.mp4" for number in range(count)]
    for copy in copies:
        Path(copy).write_bytes(Path(path).read_bytes())
    return copies


def test_two_processes_do_not_decode_at_once(config: DataConfig, paths: list[str]) -> None:
    place = open_cache(config, paths).path.parent
    (place / "index.json").unlink()
    with Lock(place / "lock"), pytest.raises(InUseError, match="in use by process"):
        open_cache(config, paths)


def test_says_what_it_keeps(config: DataConfig, paths: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vjepa_sdk")
    open_cache(config, paths)
    assert "46 frames of 4 clips, short side 96 px, all frames, 0.00 GB in" in caplog.text


def test_clips_are_cut_from_the_frames_named(config: DataConfig, paths: list[str]) -> None:
    settings = replace(config, crop_scale=(1.0, 1.0), crop_aspect_ratio=(4 / 3, 4 / 3), horizontal_flip=False)
    cutter = ClipCutter(config=settings, num_frames=4, crop_size=48, cache=open_cache(config, paths))
    pixels, info = cutter(ClipRequest(0, 0, 0, paths[2], 3))
    assert read_numbers(pixels.transpose(0, 2, 3, 1)) == info["frames"]


def test_a_run_interrupted_and_resumed_is_the_same_run(tmp_path: Path, paths: list[str]) -> None:
    config = run_config(Path(paths[0]).parent, tmp_path / "whole")
    config = replace(config, data=replace(config.data, cache=str(tmp_path / "cache")))
    pretrain(config)
    run_in_two(replace(config, out=str(tmp_path / "parted")), step=5)
    assert_same_run(tmp_path / "whole", tmp_path / "parted")


def test_a_run_cannot_go_on_without_the_cache_it_began_with(tmp_path: Path, paths: list[str]) -> None:
    config = run_config(Path(paths[0]).parent, tmp_path / "run")
    pretrain(replace(config, data=replace(config.data, cache=str(tmp_path / "a"))))
    pretrain(replace(config, data=replace(config.data, cache=str(tmp_path / "b"))), resume=True)
    with pytest.raises(ResumeError, match=r"data\.cache: .* -> unset"):
        pretrain(config, resume=True)
