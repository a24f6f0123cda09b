"""Fixtures and helpers for tests of corpus jobs: nine tiny clips, a tiny model, and what they give."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from media import write_video
from tiny_models import save_tiny

from vjepa_sdk.features.embeddings import sidecar
from vjepa_sdk.inference.embed import batches, ledger
from vjepa_sdk.inference.embed.job import EmbedResult, embed_files
from vjepa_sdk.inference.vjepa import VJEPA

NUM_CLIPS = 9


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clips")
    for number in range(NUM_CLIPS):
        write_video(directory / f"{number}.mp4", num_frames=5 + 2 * number, width=64, height=48)
    return directory


FILES = {"feats.npy", "feats.index.jsonl", "feats.errors.jsonl", "feats.inputs.jsonl", "feats.meta.json"}

Embed = Callable[..., EmbedResult]


@pytest.fixture
def run(model: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> Embed:
    """Embed the shared clips, four a batch, each batch a part, decoding in this process."""
    monkeypatch.setattr(ledger, "PART_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and no test here cuts the power

    def embed_clips(out: Path, inputs: Any = None, **options: Any) -> EmbedResult:
        settings = {"model": model, "batch_size": 4, "num_workers": 0, **options}
        return embed_files([clips] if inputs is None else inputs, out, **settings)

    return embed_clips


@pytest.fixture(scope="session")
def expected(model: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("expected") / "feats.npy"
    embed_files([clips], out, model=model, batch_size=4, num_workers=0)
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    """Return an output's files that hold nothing of time or place."""
    return {"features": out.read_bytes()} | {
        name: sidecar(out, name).read_bytes() for name in ("index.jsonl", "errors.jsonl", "inputs.jsonl")
    }


def lines(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sidecar(out, name).read_text().splitlines()]


def copy_clips(clips: Path, directory: Path) -> Path:
    directory.mkdir()
    for path in clips.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
        os.utime(directory / path.name, (1, 1))
    return directory


def recording(method: Callable[..., Any], sizes: list[int]) -> Callable[..., Any]:
    def wrapped(self: VJEPA, batch: torch.Tensor, **options: Any) -> Any:
        sizes.append(len(batch))
        return method(self, batch, **options)

    return wrapped


def python(program: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, **options)


def interrupt(run: Embed, out: Path, monkeypatch: pytest.MonkeyPatch, *, rows: int = 8, **options: Any) -> Path:
    """Send SIGINT while the second batch is encoded."""
    encode, calls = batches.Encoding._encode, itertools.count(1)

    def signalling(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return encode(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(batches.Encoding, "_encode", signalling)
        result = run(out, **options)
    assert (result.interrupted, result.rows) == (True, rows)
    return out
