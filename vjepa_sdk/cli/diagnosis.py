"""Say what this installation can do here: versions, devices, decoders, the hub, its cache, and what confines code."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np

from .._version import __version__
from ..config.choices import Decoder
from ..config.registry import KNOWN_MODELS
from ..errors import VJEPAError
from ..hub.client import hub_api, is_offline, reason_of
from ..runtime.workers.pool import WorkerPool, can_start_processes
from ..video.reader import read_video

_PACKAGES = (
    "torch",
    "timm",
    "numpy",
    "safetensors",
    "huggingface_hub",
    "hf-xet",
    "av",
    "decord",
    "torchcodec",
    "transformers",
)
_REQUIRED = ("torch", "timm", "numpy", "safetensors", "huggingface_hub", "av")
_ABSENT = "not installed"
_FINE = "ok"
_SAMPLES = {
    "h264": ("libx264", "mp4", {}),
    "hevc": ("libx265", "mp4", {"x265-params": "log-level=none"}),
    "vp9": ("libvpx-vp9", "webm", {}),
    "av1": ("libsvtav1", "mp4", {}),
    "mpeg4": ("mpeg4", "avi", {}),
    "gif": ("gif", "gif", {}),
}
"""Encoder, container and options of a small video of each codec."""
_ASKED_FOR = KNOWN_MODELS["vjepa2-vitl16"].source
"""A repository that is public on the hub; a mirror may not have it, and says so as a hub does."""
_NUM_FRAMES = 4
_MAX_REASON = 200


@dataclass(frozen=True, kw_only=True)
class HubState:
    """The hub, as this process would use it."""

    endpoint: str
    state: str
    """`ok`, `offline` (HF_HUB_OFFLINE), or why it cannot be reached."""
    has_token: bool
    """A token is stored or in HF_TOKEN; whether it is valid was not asked."""


@dataclass(frozen=True, kw_only=True)
class CacheState:
    """The hub's cache."""

    directory: str
    bytes: int
    repositories: int
    free_bytes: int
    """On its disk."""


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    """What was found; the lists of problems is what an exit code of 1 means."""

    platform: str
    versions: dict[str, str]
    devices: dict[str, str]
    """Names for `device=`, the best first, and what they are."""
    decoders: dict[str, dict[str, str]]
    """By decoder and codec: `ok`, or why a small video of that codec was not read."""
    hub: HubState
    cache: CacheState
    sandbox: dict[str, bool]
    """What confines code that reads files of strangers, and whether this system allows it."""
    notes: tuple[str, ...]
    """What differs on this system from Linux, where all is there and tested."""
    problems: tuple[str, ...]


def examine() -> DoctorReport:
    """Look at everything; takes some seconds, asks the hub once, and changes nothing."""
    versions = {
        "python": platform.python_version(),
        "vjepa-sdk": __version__,
        **{name: _version(name) for name in _PACKAGES},
    }
    decoders, has_workers = _decoders()
    hub, cache = _hub(), _cache()
    place = Path(cache.directory)
    problems = [f"{name} is {_ABSENT}; install vjepa-sdk again" for name in _REQUIRED if versions[name] == _ABSENT]
    problems += [f"pyav cannot read {codec}: {state}" for codec, state in decoders["pyav"].items() if _is_bad(state)]
    if can_start_processes() and not has_workers:
        problems.append("decoding processes cannot be started; pass num_workers=0 (--num-workers 0)")
    if hub.state not in (_FINE, "offline"):
        problems.append(
            f"the hub at {hub.endpoint} cannot be reached: {hub.state}; set HF_HUB_OFFLINE=1 if that is meant"
        )
    if not (_existing(place).is_dir() and os.access(_existing(place), os.W_OK)):
        problems.append(f"the cache {place} is no directory that can be written to; set HF_HOME to one")
    return DoctorReport(
        platform=platform.platform(),
        versions=versions,
        devices=_devices(),
        decoders=decoders,
        hub=hub,
        cache=cache,
        sandbox=_sandbox(has_workers),
        notes=_notes(),
        problems=tuple(problems),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _ABSENT


def _is_bad(state: str) -> bool:
    return state != _FINE and not state.startswith("not tested")


def _devices() -> dict[str, str]:
    import torch

    found = {}
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return {**found, "cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"}


def _decoders() -> tuple[dict[str, dict[str, str]], bool]:
    """Try every decoder on every codec in a process of its own; return results, and whether processes work at all."""
    names = ["pyav", "decord", *(["torchcodec"] if find_spec("torchcodec") else [])]
    results: dict[str, dict[str, str]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory(prefix="vjepa-doctor-") as place:
        requests: list[tuple[str, str, str]] = []
        for codec, sample in _written_samples(Path(place)):
            for decoder, states in results.items():
                states[codec] = f"not tested: {sample}"
                if isinstance(sample, Path):
                    requests.append((decoder, codec, str(sample)))
        try:
            with WorkerPool(_decode, num_workers=int(can_start_processes()), deadline_seconds=60.0) as pool:
                for result in pool.map(requests, prefetch=1):
                    decoder, codec, _ = result.request
                    results[decoder][codec] = _FINE if result.error is None else _short(result.error, place)
        except VJEPAError:
            return results, False
    return results, can_start_processes()


def _short(error: str, place: str) -> str:
    """Return what a decoder says, without the place of our sample."""
    text = error.replace(f"{place}{os.sep}", "").partition(": ")[2] or error
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}..."


def _decode(request: tuple[str, str, str]) -> tuple[np.ndarray, dict[str, str]]:
    """Read a sample whole; the task of a decoding process."""
    decoder, _, path = request
    names: dict[str, Decoder] = {name: name for name in get_args(Decoder)}
    frames = read_video(path, decoder=names[decoder])
    if len(frames) != _NUM_FRAMES:
        raise VJEPAError(f"{len(frames)} frames of {_NUM_FRAMES}")
    return np.zeros(1, dtype=np.uint8), {}


def _written_samples(directory: Path) -> Iterator[tuple[str, Path | str]]:
    """Yield codec and path of small videos, or why there is none: wheels of PyAV differ in their encoders."""
    import av

    os.environ.setdefault("SVT_LOG", "1")  # or the AV1 encoder prints its settings
    for codec, (encoder, suffix, options) in _SAMPLES.items():
        path = directory / f"{codec}.{suffix}"
        try:
            with av.open(str(path), "w") as container:
                stream = container.add_stream(encoder, rate=10, options=options)
                assert isinstance(stream, av.VideoStream)
                stream.width, stream.height = 64, 64
                stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
                for number in range(_NUM_FRAMES):
                    image = np.full((64, 64, 3), 60 * number, dtype=np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
                container.mux(stream.encode())
        except (av.FFmpegError, ValueError, OSError):
            yield codec, "this PyAV cannot make a sample"
        else:
            yield codec, path


def _hub() -> HubState:
    from huggingface_hub import constants, get_session, get_token

    state = "offline"
    if not is_offline():
        try:
            hub_api(None)
            answer = get_session().get(
                f"{constants.ENDPOINT}/api/models/{_ASKED_FOR}",
                timeout=5,
                headers={"user-agent": f"vjepa-sdk/{__version__}"},
            )
            is_page = answer.status_code < 300 and "json" not in answer.headers.get("content-type", "")
            state = _FINE if answer.status_code < 500 else f"HTTP {answer.status_code}"
            state = "a web page answers in its place; a proxy or login page may stand in between" if is_page else state
        except VJEPAError as error:
            state = str(error)
        except Exception as error:  # whatever stands between here and the hub, it is one line of the report
            state = reason_of(error)
    return HubState(endpoint=constants.ENDPOINT, state=state, has_token=get_token() is not None)


def _cache() -> CacheState:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    place = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(_existing(place)).free
    try:
        found = scan_cache_dir(place)
    except (CacheNotFound, ValueError):  # not there yet, or a file; the latter is a problem
        return CacheState(directory=str(place), bytes=0, repositories=0, free_bytes=free)
    return CacheState(directory=str(place), bytes=found.size_on_disk, repositories=len(found.repos), free_bytes=free)


def _existing(place: Path) -> Path:
    """Return a path, or the nearest directory above it that is there."""
    return next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())


def _sandbox(has_workers: bool) -> dict[str, bool]:
    from ..runtime import sandbox
    from ..weights import unpickle

    is_linux = sys.platform == "linux"
    return {
        "decoding in processes with a deadline, without your tokens": has_workers,
        "these processes get no new privileges and die with their parent": has_workers and is_linux,
        "they have no network": has_workers and sandbox.can_isolate_network(),
        "their memory is limited": has_workers and is_linux,
        "vjepa convert reads pickles in a process with limits": sys.platform != "win32",
        "that process has no network": unpickle.can_isolate_network(),
    }


def _notes() -> tuple[str, ...]:
    if sys.platform == "linux":
        return ()
    notes = ["vjepa-sdk is tested on Linux, and built for this system without tests on it"]
    if not can_start_processes():
        notes += [
            "videos are decoded in the process itself, one at a time and without a deadline, whatever num_workers says",
            "vjepa convert reads pickles in another process, without limits of memory and time",
        ]
    else:
        notes += ["decoding processes have no limit of memory, reach the network, and may outlive their parent"]
    return tuple(notes)
