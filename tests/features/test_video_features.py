"""Features of windows are kept in one file, which is whole, plain and read back as it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from vjepa_sdk import VideoFeatures
from vjepa_sdk.errors import ConfigError, InputError, OutputError, WriteError
from vjepa_sdk.runtime import files

SUFFIXES = [".npz", ".safetensors"]


def _features(**changes: Any) -> VideoFeatures:
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {
        "embeddings": rng.normal(size=(3, 2, 5)).astype(np.float32),
        "start_seconds": np.array([0.0, 1.0, 2.0]),
        "end_seconds": np.array([1.0, 2.0, 2.5]),
        "frame_indices": np.arange(12).reshape(3, 4),
        "meta": {"video": "naïve \udcff.mp4", "layers": None, "sampling": {"fps": 4.0}},
    }
    return VideoFeatures(**(values | changes))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_features_are_read_back_as_they_were(suffix: str, tmp_path: Path) -> None:
    features = _features(embeddings=np.asfortranarray(_features().embeddings))
    assert features.save(tmp_path / f"a{suffix}") == tmp_path / f"a{suffix}"
    found = VideoFeatures.load(str(tmp_path / f"a{suffix}"))
    for name in ("embeddings", "start_seconds", "end_seconds", "frame_indices"):
        np.testing.assert_array_equal(getattr(found, name), getattr(features, name))
        assert getattr(found, name).dtype == getattr(features, name).dtype
    assert found.meta == features.meta
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_features_are_equal_bytes(suffix: str, tmp_path: Path) -> None:
    first, second = (_features().save(tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first == second


def test_files_need_no_sdk_to_be_read(tmp_path: Path) -> None:
    features = _features()
    arrays = np.load(features.save(tmp_path / "a.npz"), allow_pickle=False)
    np.testing.assert_array_equal(arrays["embeddings"], features.embeddings)
    assert json.loads(str(arrays["meta"]))["sampling"] == {"fps": 4.0}
    np.testing.assert_array_equal(
        load_file(features.save(tmp_path / "a.safetensors"))["embeddings"], features.embeddings
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_older_file_is_replaced(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    _features().save(path)
    assert len(VideoFeatures.load(path)) == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_write_that_fails_leaves_the_older_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _features().save(tmp_path / f"a{suffix}")
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(WriteError, match="cannot write \\(No space left on device\\)"):
        _features(meta={}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_suffix_without_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the suffix '\.npy' must be one of \.npz, \.safetensors; rename the file"):
        _features().save(tmp_path / "a.npy")
    with pytest.raises(ConfigError, match="the suffix '' must be one of"):
        VideoFeatures.load(tmp_path / "a")


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"none/a\.npz: its directory does not exist; make it with mkdir -p"):
        _features().save(tmp_path / "none" / "a.npz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.npz: does not exist"):
        VideoFeatures.load(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.99])
def test_a_cut_off_file_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    path = _features().save(tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match="is damaged or not written by VideoFeatures.save"):
        VideoFeatures.load(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"meta": np.array({"a": 1}, dtype=object)}, "allow_pickle"),
        ({"embeddings": np.array([object()] * 3)}, "allow_pickle"),
        ({"embeddings": np.zeros((3, 2), np.float64)}, "embeddings must be an array of float32, got float64"),
        ({"embeddings": np.zeros((2, 2), np.float32)}, r"must be \[W, \.\.\.\], \[W\], \[W\] and \[W, T\]"),
        ({"frame_indices": np.arange(3)}, r"must be \[W, \.\.\.\]"),
        ({"meta": np.array('{"format_version": 2}')}, "format_version=2 must be 1, upgrade vjepa-sdk"),
        ({"meta": np.array("{}")}, "format_version"),
        ({"meta": np.array("[")}, "damaged"),
    ],
)
def test_other_files_are_refused_and_never_unpickled(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    arrays = dict(np.load(_features().save(tmp_path / "a.npz")))
    np.savez(tmp_path / "b.npz", **(arrays | changes))
    with pytest.raises(InputError, match=reason):
        VideoFeatures.load(tmp_path / "b.npz")


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(InputError, match=r"of shapes .* must be \[W, \.\.\.\], \[W\], \[W\] and \[W, T\]"):
        _features(start_seconds=np.zeros(2))
    with pytest.raises(InputError, match="end_seconds must be an array of float64, got list"):
        _features(end_seconds=[1.0, 2.0, 3.0])


def test_features_are_frozen_and_say_what_they_are() -> None:
    features = _features()
    with pytest.raises(dataclasses.FrozenInstanceError):
        features.meta = {}  # type: ignore[misc]
    assert (len(features), repr(features)) == (3, "VideoFeatures(3 x [2, 5], 0 to 2.5 s)")
