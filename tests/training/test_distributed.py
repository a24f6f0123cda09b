"""Processes that share a step do the step of one process."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import metrics, run_config, write_clips

from vjepa_sdk.config.documents import to_toml
from vjepa_sdk.errors import ConfigError
from vjepa_sdk.training.distributed import Group, join_group

THREE_STEPS = """
import sys
import torch
from safetensors.torch import save_file
from tiny_models import VIDEO
from vjepa_sdk.config.training import OptimConfig, TrainConfig
from vjepa_sdk.training.distributed import join_group
from vjepa_sdk.models.jepa import JEPA
from vjepa_sdk.models.masks import Masks
from vjepa_sdk.training.step import ForwardPass, make_optimizer, train_step

config = TrainConfig(model=VIDEO, optim=OptimConfig(lr=1e-3, max_grad_norm=1.0), steps=10)
torch.manual_seed(0)
jepa = JEPA(config.model, config.objective)
optimizer = make_optimizer(jepa, config)
masks = Masks((torch.tensor([[0, 1, 4, 5]]),) * 2, (torch.tensor([[2, 3, 6, 7]]),) * 2)
with join_group(torch.device("cpu")) as group:
    for step in range(3):
        clips = torch.rand(4, 1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(step))
        passes = [ForwardPass(each, masks, 0.25) for each in clips[group.rank :: group.world_size]]
        loss = train_step(jepa, optimizer, passes, config=config, step=step, group=group).loss
    assert group.gather({"rank": group.rank}) == [{"rank": rank} for rank in range(group.world_size)]
    assert group.any(group.rank == group.world_size - 1) and not group.any(False)
    save_file({**jepa.state_dict(), "loss": torch.tensor(loss)}, f"{sys.argv[1]}/{group.world_size}-{group.rank}")
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_processes(world_size: int, command: list[str]) -> list[str]:
    """Start a command as torchrun does; return what each process printed."""
    codes, outputs, errors = zip(*start_processes(world_size, command), strict=True)
    assert codes == (0,) * world_size, errors
    return list(outputs)


def start_processes(world_size: int, command: list[str]) -> list[tuple[int, str, str]]:
    """Start a command as torchrun does; return each process's exit code, output and errors."""
    port, processes = free_port(), []
    for rank in range(world_size):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
        environment |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in group.items()}}
        processes.append(
            subprocess.Popen(
                [sys.executable, *command],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    texts = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    for world_size in (1, 2):
        run_processes(world_size, ["-c", THREE_STEPS, str(tmp_path)])
    alone, first, second = (load_file(tmp_path / name) for name in ("1-0", "2-0", "2-1"))
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected, rtol=1e-5, atol=1e-6)


def test_one_process_needs_no_group() -> None:
    group = Group()
    assert group.is_first and group.any(True) and group.gather([1]) == [[1]]
    assert torch.equal(group.sum(torch.tensor([2.0])), torch.tensor([2.0]))


def test_half_a_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match="WORLD_SIZE=2 but RANK, LOCAL_RANK, .* is not set; start with torchrun"),
        join_group(torch.device("cpu")),
    ):
        pass


def test_what_ends_one_process_is_one_line_from_each(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    clips, out = write_clips(tmp_path / "clips"), tmp_path / "run"
    out.mkdir()
    (out / "thesis.txt").touch()
    command = ["-m", "vjepa_sdk", "pretrain", str(clips), "--out", str(out), "--set", "micro_batch_size=8"]
    (code, _, first), (other_code, _, second) = start_processes(2, command)
    assert (code, other_code) == (2, 1)
    assert first == f"vjepa: {out}: is not empty; pass --resume to continue it, or choose another --out\n"
    assert second.startswith("vjepa: process 1: another process of the run ended") and second.count("\n") == 1


def test_run_of_two_processes_equals_that_of_one(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    clips = write_clips(tmp_path / "clips")
    for world_size in (1, 2):
        config = dataclasses.replace(
            run_config(clips, tmp_path / f"run-{world_size}"), steps=4, batch_size=4, micro_batch_size=2, save_every=2
        )
        (tmp_path / "run.toml").write_text(to_toml(config))
        command = ["-m", "vjepa_sdk", "pretrain", "--config", str(tmp_path / "run.toml"), "--out", config.out]
        outputs = run_processes(world_size, [*command, "--log", "tensorboard"])
        assert [bool(output) for output in outputs] == [True] + [False] * (world_size - 1)
        assert len([*(tmp_path / f"run-{world_size}" / "tensorboard").iterdir()]) == 1  # the first process's alone
    alone, together = (metrics(tmp_path / f"run-{world_size}") for world_size in (1, 2))
    for line, expected in zip(together, alone, strict=True):
        assert line == pytest.approx(expected, rel=1e-4)
    first, second = (load_file(tmp_path / f"run-{n}" / "model" / "model.safetensors") for n in (1, 2))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-4, atol=1e-5)
