"""The tour on the sample videos."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vjepa_sdk import load_embeddings, sample_videos
from vjepa_sdk.corpus import samples
from vjepa_sdk.errors import InputError, OutputError
from vjepa_sdk.viz.demo import run_demo


def test_twelve_small_sample_videos_come_with_the_package() -> None:
    videos = sample_videos()
    assert len(videos) == 12 and all(path.is_file() for path in videos)
    assert sum(path.stat().st_size for path in videos) < 80_000


def test_an_installation_without_samples_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(samples, "_PLACES", (tmp_path / "samples",))
    with pytest.raises(InputError, match="samples: the sample videos are not there; install vjepa-sdk again"):
        sample_videos()


def test_the_demo_finds_a_likeness_and_writes_features_and_one_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vjepa_sdk", "demo", "-o", tmp_path / "tour", "--json", "-q"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert done.stderr == ""
    assert [hit["rank"] for hit in found["hits"]] == [2, 3, 4, 5, 6]  # the first is the query itself
    assert load_embeddings(tmp_path / "tour" / "feats.npy").features.shape == (12, found["dim"])
    page = Path(found["page"]).read_text()
    assert "data:video/mp4" in page and "http" not in page.replace("http-equiv", "").replace("www.w3.org", "")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty; pass --overwrite to do a demo again"):
        run_demo(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_place_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made .*; choose another --out"):
        run_demo(tmp_path / "file" / "tour")
