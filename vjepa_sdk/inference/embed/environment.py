"""What changes the last bits of features: versions, the kind of processor, the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from ..._version import __version__
from ...runtime.host import collector_at_rest
from .options import EmbedOptions


def describe_environment(options: EmbedOptions) -> dict[str, str]:
    """Return the versions and the processor that a job runs with."""
    with collector_at_rest():
        import torch

        from ...runtime.devices import best_device

    device = best_device(options.device)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    packages = ["av", "numpy", "torch", *([options.decoder] if options.decoder in ("decord", "torchcodec") else [])]
    return {"vjepa_sdk": __version__, "device": f"{device.type} {kind}", **{name: version(name) for name in packages}}


def num_threads() -> int:
    """Return on how many threads torch computes."""
    import torch

    return torch.get_num_threads()


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Compute on as many threads as the job began with: they can change the last bits of a matrix product."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
