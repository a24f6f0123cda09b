"""Choose where tensors live."""

from __future__ import annotations

import torch

from ..errors import ConfigError
from .forks import check_fork


def best_device(name: str | torch.device | None = None) -> torch.device:
    """Return the named device, or the best there is: cuda, then mps, then cpu.

    Raises:
        ConfigError: the device is unknown or not available here.
        VJEPAError: torch cannot compute in this process, which was forked.
    """
    check_fork()
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    # PyTorch itself writes the only device of these kinds with and without a number
    name = {"cpu:0": "cpu", "mps:0": "mps"}.get(str(name), str(name))
    available = ["cpu"]
    available += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    available += ["mps"] if torch.backends.mps.is_available() else []
    if name == "cuda" and len(available) > 1 and available[1] == "cuda:0":
        return torch.device("cuda")
    if name not in available:
        raise ConfigError(f"device={name!r} is not available here; pass one of {', '.join(available)}")
    return torch.device(name)
