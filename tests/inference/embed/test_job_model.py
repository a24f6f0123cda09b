"""Weights are read once, and again when anybody may have written to them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from corpora import NUM_CLIPS, Embed, interrupt

from vjepa_sdk.errors import OutputError
from vjepa_sdk.hub.locate import load_embeddings
from vjepa_sdk.inference.embed import model as models


@pytest.fixture
def own(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model whose files count as old enough to be known by their time."""
    monkeypatch.setattr(models, "_SETTLED_NS", -1)
    return Path(shutil.copytree(model, tmp_path / "model"))


def unread(path: Path) -> str:
    raise AssertionError(f"{path} is read")


def test_weights_of_a_complete_output_are_not_read_again(
    run: Embed, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "feats.npy", model=own)
    monkeypatch.setattr(models, "sha256_of", unread)
    assert run(tmp_path / "feats.npy", model=own).already_complete


def test_weights_of_unfinished_work_are_not_read_again(
    run: Embed, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = interrupt(run, tmp_path / "feats.npy", monkeypatch, model=own)
    monkeypatch.setattr(models, "sha256_of", unread)
    assert run(out, model=own).rows == NUM_CLIPS


def test_weights_that_were_written_to_are_read_whatever_time_they_have(run: Embed, own: Path, tmp_path: Path) -> None:
    run(tmp_path / "feats.npy", model=own)
    weights = own / "model.safetensors"
    before, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(OutputError, match=r"made differently \(model_sha256: "):
        run(tmp_path / "feats.npy", model=own)


def test_weights_in_another_directory_are_the_same_model(run: Embed, own: Path, tmp_path: Path) -> None:
    run(tmp_path / "feats.npy", model=own)
    assert run(tmp_path / "feats.npy", model=Path(shutil.copytree(own, tmp_path / "other"))).already_complete


def test_weights_that_were_just_written_are_not_known_by_their_time(
    run: Embed, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_SETTLED_NS", 10**15)
    run(tmp_path / "feats.npy", model=own)
    assert "model_stamps" not in load_embeddings(tmp_path / "feats.npy").meta["plan"]
