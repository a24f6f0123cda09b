"""Take the tensors out of a checkpoint that `torch.save` wrote, in a process that can do little else.

Run as a script by `convert`, never imported: `python -I unpickle.py SOURCE OUT PATH...`. Nothing of this package is
imported, so that the process holds no more than it needs. It reads with `weights_only=True`, which builds tensors and
plain containers and calls nothing, and that is all the safety there must be; the rest is for the day it fails: no
network, no environment, no new privileges. Memory, time, output, depth and number of objects are bounded by the size of
the file: a few bytes can spell a tree without end.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

NETWORKS = ("encoder", "target_encoder", "ema_encoder", "predictor", "classifier", "classifiers")
"""Top-level keys that hold weights; everything else is training state."""
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Top-level keys under which others keep a bare dictionary of tensors."""

_MIN_TORCH = (2, 10)
_MAX_NAME = 1000
_MAX_DEPTH = 32  # checkpoints have four levels at most
_MAX_OBJECTS, _BYTES_PER_OBJECT = 2_000_000, 16  # a tensor takes a hundred bytes to write down
_SPARE_OBJECTS = 10_000
_SPARE_SECONDS, _BYTES_PER_SECOND = 30, 4 << 20  # a tenth of what one slow core does
_SPARE_MEMORY = 512 << 20  # for some hundred thousand tensors; their values come on top
_CLONE_NEWUSER, _CLONE_NEWNET, _PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 0x10000000, 0x40000000, 1, 38


def main(source: str, out: str, *paths: str) -> None:
    """Write the tensors of `source` to the safetensors file `out`, and a report as JSON to stdout."""
    isolated = _confine(os.path.getsize(source))
    sys.path.extend(paths)
    try:
        import torch  # noqa: F401  whose own needs are not the file's

        _limit_work(os.path.getsize(source))
        report = _extract(source, out)
    except Exception as error:
        # the parent turns this into one of its own errors; a traceback could carry bytes of the file
        report = {"error": _reason(error)}
    json.dump({**report, "network_isolated": isolated}, sys.stdout)


def _confine(size: int) -> bool:
    """Give up what reading a file does not need; return whether the network is among it."""
    _limit_resources(size)
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # a namespace of its own has no network devices; kernels that forbid it to users are common
    return bool(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def _limit_resources(size: int) -> None:
    """Bound files, time, output and memory; Windows has no such limits, and macOS none of the address space."""
    if sys.platform == "win32":
        return
    import resource

    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, 256)
    _lower(resource.RLIMIT_CPU, 3600)
    _lower(resource.RLIMIT_FSIZE, size + (64 << 20))
    if sys.platform == "linux":
        _lower(resource.RLIMIT_AS, 2 * size + (32 << 30))


def _limit_work(size: int) -> None:
    """End the process where a file asks for more time or memory than one of its size needs."""
    if sys.platform == "win32":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + _SPARE_SECONDS + size // _BYTES_PER_SECOND)
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[5])
        # the mapped file, copies of tensors that share memory, and what goes to the output
        _lower(resource.RLIMIT_DATA, pages * resource.getpagesize() + 3 * size + _SPARE_MEMORY)


def _lower(limit: int, value: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    hard = resource.getrlimit(limit)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def _extract(source: str, out: str) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _MIN_TORCH:
        raise ValueError(f"torch {torch.__version__} reads pickles with known holes; install 2.10 or newer to convert")
    torch.set_num_threads(1)
    with open(source, "rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    # newer versions of torch choose the format by the file's name
    alias = f"{out}.checkpoint"
    try:
        os.symlink(os.path.abspath(source), alias)
    except OSError:  # Windows allows links to few; an open file has no name either, and cannot be mapped
        with open(source, "rb") as file:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    else:
        checkpoint = torch.load(alias, map_location="cpu", weights_only=True, mmap=is_archive)
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"holds a {type(checkpoint).__name__}, not a dictionary")
    tensors: dict[str, Any] = {}
    size = os.path.getsize(source)
    budget, seen = size, set()
    objects_left = iter(range(min(_MAX_OBJECTS, _SPARE_OBJECTS + size // _BYTES_PER_OBJECT)))
    held = _weights_of(checkpoint)
    for name, value in _walk(held, objects_left):
        # a few bytes can claim, by strides of zero, to be a tensor of any size
        budget -= value.numel() * value.element_size()
        if budget < 0:
            raise ValueError(f"tensor {name!r} claims more bytes than the file has")
        storage = value.untyped_storage()
        # safetensors writes no views into, or second names of, one storage
        is_whole = storage.nbytes() == value.numel() * value.element_size() and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        value = value.detach()
        tensors[name] = value.contiguous() if is_whole else value.clone(memory_format=torch.contiguous_format)
    save_file(tensors, out)
    others = [(_text(key), type(checkpoint[key]).__name__) for key in checkpoint if key not in held]
    return {"others": dict(others[:100])}


def _weights_of(checkpoint: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the entries that hold weights: official keys, else a wrapped dictionary, else what is a tensor itself."""
    import torch

    for keys in (NETWORKS, WRAPPERS):
        if found := {key: checkpoint[key] for key in keys if isinstance(checkpoint.get(key), Mapping | list | tuple)}:
            return found
    return {key: value for key, value in checkpoint.items() if isinstance(value, torch.Tensor)}


def _walk(value: object, objects_left: Iterator[int], name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield every tensor with its path, such as `encoder/module.backbone.norm.bias` or `classifiers/0/...`."""
    import torch

    # a list that holds one list many times, which does so too, is short to write and endless to walk
    if next(objects_left, None) is None:
        raise ValueError("it holds more objects than a checkpoint of its size can")
    if depth > _MAX_DEPTH:
        raise ValueError(f"its objects are nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(item, objects_left, f"{name}/{_text(key)}" if name else _text(key), depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _walk(item, objects_left, f"{name}/{index}", depth + 1)
    else:
        raise ValueError(f"{name!r} is a {type(value).__name__}, not a tensor")


def _text(key: object) -> str:
    """Return a key of a dictionary; the text of a nested one can be endless."""
    if not isinstance(key, str | int) or (isinstance(key, str) and len(key) > _MAX_NAME):
        raise ValueError(f"a key is a {type(key).__name__}, not a name of at most {_MAX_NAME} characters")
    return str(key)


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it asks for more memory than a checkpoint of its size needs"
    text = str(error)
    # torch's own text is long and tells the reader to switch the protection off
    if match := re.search(r"unsupported (?:global|class|operand):?\s+(?:GLOBAL\s+)?(\S+)", text, re.IGNORECASE):
        return f"it holds code or objects ({match.group(1)[:100]}), not just tensors"
    if "weights_only" in text or "WeightsUnpickler" in text:
        return "it holds something else than tensors"
    return text[:300] if type(error) is ValueError else f"{type(error).__name__}: {text[:300]}"


if __name__ == "__main__":
    main(*sys.argv[1:])
