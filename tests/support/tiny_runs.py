"""Train tiny models on rendered clips, in this process or in one that may be killed, and compare runs bit by bit."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from media import numbered_frame, write_video
from PIL import Image
from safetensors.torch import load_file
from tiny_models import VIDEO

from vjepa_sdk import pretrain
from vjepa_sdk.config.training import DataConfig, ImagesConfig, MaskConfig, OptimConfig, TrainConfig
from vjepa_sdk.training.trainer import PretrainResult, Trainer

MODEL = dataclasses.replace(VIDEO, img_size=64)


def write_clips(directory: Path) -> Path:
    """Write four short clips."""
    for number in range(4):
        write_video(directory / f"{number}.mp4", num_frames=10 + number)
    return directory


def write_stills(directory: Path) -> Path:
    """Write four images."""
    for number in range(4):
        Image.fromarray(numbered_frame(number)).save(directory / f"{number}.png")
    return directory


def with_stills(config: TrainConfig, stills: Path) -> TrainConfig:
    """Return the run with three stills in every step."""
    images = ImagesConfig(
        data=DataConfig(path=str(stills), num_workers=0), masks=(MaskConfig(num_blocks=2),), img_size=64, batch_size=3
    )
    model = dataclasses.replace(config.model, image_tokenizer=True)
    return dataclasses.replace(config, model=model, images=images)


def run_config(clips: Path, out: Path, **changes: object) -> TrainConfig:
    """Return a run of eight steps that saves after every third."""
    settings = {
        "model": MODEL,
        "masks": (
            MaskConfig(num_blocks=2, spatial_scale=(0.3, 0.3)),
            MaskConfig(num_blocks=1, spatial_scale=(0.6, 0.6)),
        ),
        "data": DataConfig(path=str(clips), frame_stride=(1, 2), num_workers=0),
        "optim": OptimConfig(lr=1e-3, warmup_steps=2, max_grad_norm=1.0),
        "out": str(out),
        "steps": 8,
        "batch_size": 2,
        "log_every": 1,
        "save_every": 3,
    }
    return TrainConfig(**{**settings, **changes})  # type: ignore[arg-type]


def metrics(out: Path) -> list[dict[str, Any]]:
    """Read what a run logged."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def newest(out: Path) -> Path:
    """Return a run's newest checkpoint."""
    return max((out / "checkpoints").iterdir())


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Read weights, moving average and optimizer state from a run's newest checkpoint."""
    optimizer = load_file(newest(out) / "optimizer.safetensors")
    return load_file(newest(out) / "weights.safetensors") | {f"optimizer.{k}": v for k, v in optimizer.items()}


def assert_same_run(left: Path, right: Path) -> None:
    """Compare all that two runs logged, and all that they hold, bit by bit."""
    assert metrics(left) == metrics(right)
    assert (newest(left) / "state.json").read_text() == (newest(right) / "state.json").read_text()
    a, b = weights(left), weights(right)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def run_in_two(config: TrainConfig, *, step: int, **changes: object) -> PretrainResult:
    """Interrupt a run before a step, where it saves nothing, and resume it."""

    def advance(self: Trainer, *args: Any) -> str:
        if self.step == step:
            raise KeyboardInterrupt
        return original(self, *args)

    original = Trainer._advance
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_advance", advance)
        pretrain(config)
    return pretrain(dataclasses.replace(config, **changes), resume=True)  # type: ignore[arg-type]


_SERVER = """
import ctypes, json, os, signal, sys, traceback
import av, tomli_w, vjepa_sdk.cli.app, vjepa_sdk.training.trainer

for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child:
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # die with the server
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1), os.dup2(output, 2), os.close(0)
    code = 0
    try:
        exec(request["code"], {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)
"""


class Launcher:
    """Start processes that have torch imported already; one at a time.

    A server imports once and forks before any computation, so that a run starts in milliseconds.
    """

    def __init__(self, directory: Path) -> None:
        self._output = directory / "output.txt"
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        )

    def start(self, code: str) -> int:
        """Run Python code in a new process; return its id."""
        assert self._server.stdin and self._server.stdout
        request = {"code": textwrap.dedent(code), "output": str(self._output)}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def start_run(self, toml: Path, out: Path, *options: str, setup: str = "") -> int:
        """Start `vjepa pretrain`, after some code that prepares the process."""
        argv = ["vjepa", "pretrain", "--config", str(toml), "--out", str(out), "--preset", "tiny", *options]
        return self.start(f"{setup}\nimport sys\nsys.argv = {argv!r}\nfrom vjepa_sdk.cli.app import main\nmain()")

    def end(self) -> int:
        """Wait for the process; return its exit code, negative if a signal ended it."""
        assert self._server.stdout
        return int(self._server.stdout.readline())

    @property
    def output(self) -> str:
        """What the last process printed."""
        return self._output.read_text()

    def close(self) -> None:
        self._server.kill()
        self._server.wait()


@contextmanager
def launcher_in(directory: Path) -> Iterator[Launcher]:
    """Lend a launcher."""
    launcher = Launcher(directory)
    try:
        yield launcher
    finally:
        launcher.close()


def wait_for_lines(out: Path, count: int) -> None:
    """Wait until a run has logged so many steps."""
    deadline, path = time.monotonic() + 120, out / "metrics.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.001)
