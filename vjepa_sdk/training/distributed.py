"""Share one run among processes: torchrun starts them, this joins them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ConfigError, VJEPAError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Group:
    """The processes of one run; alone, every method is free and changes nothing.

    All processes must call the same methods in the same order. Nothing that is sent is unpickled. Methods raise
    VJEPAError when another process is gone.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device | None = None
    """Where tensors must lie that are summed; None: anywhere."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place; parameters without one must be the same everywhere."""
        if self.world_size > 1:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            with _all_present(self.rank):
                for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
                    work.wait()

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.world_size > 1:
            values = values.to(self.device, copy=True)
            with _all_present(self.rank):
                dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return bool(self.sum(torch.tensor(float(flag)))) if self.world_size > 1 else flag

    def gather(self, data: Any) -> list[Any]:
        """Return plain JSON data of all processes, in the order of their ranks."""
        if self.world_size == 1:
            return [data]
        text = torch.frombuffer(bytearray(json.dumps(data).encode()), dtype=torch.uint8).to(self.device)
        sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.world_size)]
        with _all_present(self.rank):
            dist.all_gather(sizes, torch.tensor([len(text)], device=self.device))
        padded = torch.zeros(max(map(int, sizes)), dtype=torch.uint8, device=self.device)
        padded[: len(text)] = text
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        with _all_present(self.rank):
            dist.all_gather(parts, padded)
        return [json.loads(bytes(part[: int(size)].cpu().numpy())) for part, size in zip(parts, sizes, strict=True)]

    def wait(self) -> None:
        """Return when all processes have come here."""
        self.sum(torch.zeros(1))

    @contextmanager
    def first_process_first(self) -> Iterator[None]:
        """Run the block in the first process, then in the others, which find done what it did on disk."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()
        self.wait()


@contextmanager
def _all_present(rank: int) -> Iterator[None]:
    """Say in one line that another process is gone; what ended it, that one has said itself."""
    try:
        yield
    except RuntimeError as error:
        raise VJEPAError(
            f"process {rank}: another process of the run ended or cannot be reached; its own message says why "
            f"({str(error).split('. ')[0]})"
        ) from error


def is_first_process() -> bool:
    """Return whether this process speaks for its group; true for one that is alone."""
    return int(os.environ.get("RANK", "0")) == 0


def is_distributed() -> bool:
    """Return whether torchrun, or something that sets its variables, started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def join_group(device: torch.device) -> Iterator[Group]:
    """Join the processes that torchrun started, or be alone; leave them when the block ends.

    Args:
        device: what each process computes on; several GPUs of a host are given out by `LOCAL_RANK`.

    Raises:
        ConfigError: some of torchrun's variables are missing.
    """
    if not is_distributed():
        yield Group(device=device)
        return
    missing = [name for name in (*_VARIABLES, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} but {', '.join(missing)} is not set; start with torchrun"
        )
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
