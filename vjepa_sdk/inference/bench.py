"""Measure what a machine does with a model: how fast it encodes and decodes, and with which options it is fastest."""

from __future__ import annotations

import logging
import math
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config.choices import Device, Precision
from ..config.model import ModelConfig
from ..config.registry import DEFAULT_MODEL
from ..corpus.find import find_clips
from ..corpus.samples import sample_videos
from ..errors import InputError, VideoDecodeError
from ..video.safety import PathLike
from .computation import WORTH
from .vjepa import VJEPA

logger = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
MAX_CLIPS = 12
_LEAST_COSINE = 0.999
"""Of pooled features in a precision that is recommended, with those in float32."""
_SECONDS_EACH, _MOST_ROUNDS = 1.0, 5
_PEAK_SIDE = 2048


@dataclass(frozen=True, kw_only=True)
class EncodeRate:
    """How fast clips are encoded with some options."""

    precision: Precision
    batch_size: int
    clips_per_second: float
    tokens_per_second: float
    gflop_per_second: float
    peak_share: float
    """Of what float32 matrix products reach here; more than 1 is possible in other precisions."""
    cosine: float
    """Of the pooled features of each clip with those in float32, the least."""


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What was measured, and what follows from it."""

    model: str
    device: str
    cores: int
    threads: int
    num_frames: int
    crop_size: int
    tokens: int
    """Of a clip."""
    gflop_per_clip: float
    """Of linear layers and attention."""
    gemm_gflop_per_second: float
    """That float32 matrix products reach on this device, the best of some."""
    clips: int
    """That were decoded."""
    decode_clips_per_second: float
    """Of one process."""
    rates: tuple[EncodeRate, ...]
    memory_mb: float | None
    """Most that the process, or the GPU, held at a time; None where it is not told."""
    batch_size: int
    num_workers: int
    precision: Precision
    command: str
    """With what was fastest."""

    @property
    def best(self) -> EncodeRate:
        """The fastest rate of those whose features are close enough."""
        return best_rate(self.rates)


def bench(
    clips: PathLike | Iterable[PathLike] | None = None,
    *,
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    device: Device = None,
    seconds: float = 40.0,
) -> BenchReport:
    """Measure decoding and encoding here, and recommend batch size, precision and workers.

    Other work on the machine shows in the numbers. Batch sizes grow, and precisions are tried, while `seconds` last.

    Args:
        clips: files, directories, patterns or lists; at most twelve are decoded. None: the sample clips.
        model: a name from `list_models()`, a model directory or a hub id.
        device: `cuda`, `mps` or `cpu`; None: the best there is.
        seconds: not to be exceeded by much; whatever is slow is measured once.

    Raises:
        InputError: no clip among the inputs.
        VideoDecodeError: none of them can be decoded.
    """
    end = time.monotonic() + seconds
    network = VJEPA.from_pretrained(model, device=device)
    if clips is not None and not isinstance(clips, str | os.PathLike):
        clips = list(clips)
    found = find_clips(clips if clips is not None else sample_videos())
    sources = found.clips("stills") if network.config.is_image_model else found.clips("frames")
    paths = [source.path for source in sources[:MAX_CLIPS]]
    if not paths:
        raise InputError("no clip to measure with; pass a file or a directory of videos")
    pixels, decode_seconds = _decoded(network, paths)
    peak = _gemm_peak(network.device)
    rates = _rates(network, pixels, peak=peak, end=end)
    best, cores = best_rate(rates), _cores()
    per_second = 1 / decode_seconds
    # a worker decodes under a deadline and in a sandbox, so there is always one
    workers = max(1, min(cores, math.ceil(best.clips_per_second * decode_seconds)))
    grid = network.encoder.grid_of(torch.empty(1, 3, *_size(pixels), device="meta"))
    words = ["vjepa", "embed", *(["CLIPS"] if clips is None else _words(clips)), "--out", "feats.npy"]
    words += [] if os.fspath(model) == DEFAULT_MODEL else ["--model", os.fspath(model)]
    words += ["--batch-size", str(best.batch_size), "--num-workers", str(workers)]
    words += [] if best.precision == "float32" else ["--precision", best.precision]
    return BenchReport(
        model=os.fspath(model),
        device=_device_name(network.device),
        cores=cores,
        threads=torch.get_num_threads(),
        num_frames=pixels.shape[1],
        crop_size=network.preprocess.crop_size,
        tokens=int(np.prod(grid)),
        gflop_per_clip=gflop_of(network.config, int(np.prod(grid))),
        gemm_gflop_per_second=peak,
        clips=len(pixels),
        decode_clips_per_second=per_second,
        rates=rates,
        memory_mb=_memory_mb(network.device),
        batch_size=best.batch_size,
        num_workers=workers,
        precision=best.precision,
        command=shlex.join(words),
    )


def gflop_of(config: ModelConfig, tokens: int) -> float:
    """Return the floating-point operations, in 10^9, that encoding a clip of so many tokens takes."""
    width = config.embed_dim
    patch = 2 * 3 * config.tubelet_size * config.patch_size**2 * width
    linear = config.depth * 2 * (4 * width**2 + 2 * width * int(config.mlp_ratio * width))
    attention = config.depth * 4 * tokens * width
    return tokens * (patch + linear + attention) / 1e9


def best_rate(rates: Sequence[EncodeRate]) -> EncodeRate:
    """Return the fastest rate whose features are close to those in float32; smaller batches where it hardly matters."""
    close = [rate for rate in rates if rate.cosine >= _LEAST_COSINE]
    fastest = max(rate.clips_per_second for rate in close)
    good = [rate for rate in close if rate.clips_per_second >= 0.97 * fastest]
    return min(good, key=lambda rate: (PRECISIONS.index(rate.precision), rate.batch_size))


def _rates(network: VJEPA, pixels: Tensor, *, peak: float, end: float) -> tuple[EncodeRate, ...]:
    """Measure growing batches in float32 until they gain nothing, then other precisions at the best size."""
    rates = [_rate(network, pixels, "float32", BATCH_SIZES[0], peak=peak, exact=None)]
    for size in BATCH_SIZES[1:]:
        one = 1 / rates[-1].clips_per_second
        if 2 * size * one > 0.5 * (end - time.monotonic()):  # half is for other precisions
            break
        rates.append(_rate(network, pixels, "float32", size, peak=peak, exact=None))
        if rates[-1].clips_per_second < WORTH * max(rate.clips_per_second for rate in rates):
            break
    size = max(rates, key=lambda rate: rate.clips_per_second).batch_size
    exact = network.embed_clips(pixels[torch.arange(size) % len(pixels)], precision="float32")
    for precision in PRECISIONS[1:]:
        if precision == "int8" and network.config.embed_dim % 8:
            continue
        if time.monotonic() + 3 * size / rates[-1].clips_per_second < end:
            rates.append(_rate(network, pixels, precision, size, peak=peak, exact=exact))
    return tuple(rates)


def _rate(
    network: VJEPA, pixels: Tensor, precision: Precision, size: int, *, peak: float, exact: Tensor | None
) -> EncodeRate:
    batch = pixels[torch.arange(size) % len(pixels)]

    def encode() -> Tensor:
        return network.embed_clips(batch, precision=precision)

    features = encode()
    times: list[float] = []
    while not times or (sum(times) < _SECONDS_EACH and len(times) < _MOST_ROUNDS):
        times.append(_timed(encode, network.device))
    rate = size / statistics.median(times)
    grid = network.encoder.grid_of(torch.empty(1, 3, *_size(pixels), device="meta"))
    tokens = int(np.prod(grid))
    gflop = rate * gflop_of(network.config, tokens)
    return EncodeRate(
        precision=precision,
        batch_size=size,
        clips_per_second=rate,
        tokens_per_second=rate * tokens,
        gflop_per_second=gflop,
        peak_share=gflop / peak,
        cosine=1.0 if exact is None else float(F.cosine_similarity(features, exact).min()),
    )


def _timed(call: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _decoded(network: VJEPA, paths: Sequence[str | Path]) -> tuple[Tensor, float]:
    """Return clips `uint8 [B, T, 3, H, W]`, and the median of the seconds of one; bad files are left out, by name."""
    load, clips, times, reason = network.clip_loader(), [], [], ""
    for path in paths:
        started = time.perf_counter()
        try:
            clips.append(torch.from_numpy(load(path)[0]))
        except VideoDecodeError as error:
            reason = str(error)
            logger.warning("%s; it is left out", reason)
            continue
        times.append(time.perf_counter() - started)
    if not clips:
        raise VideoDecodeError(f"no clip can be decoded; the last one: {reason}")
    return torch.stack([clip for clip in clips if clip.shape == clips[0].shape]), statistics.median(times)


def _gemm_peak(device: torch.device) -> float:
    """Return the best GFLOP/s of some float32 matrix products."""
    square = torch.ones(_PEAK_SIDE, _PEAK_SIDE, device=device)
    _timed(lambda: square @ square, device)
    return 2 * _PEAK_SIDE**3 / min(_timed(lambda: square @ square, device) for _ in range(5)) / 1e9


def _size(pixels: Tensor) -> tuple[int, int, int]:
    return pixels.shape[1], pixels.shape[3], pixels.shape[4]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type


def _memory_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _words(clips: PathLike | Iterable[PathLike]) -> list[str]:
    return [os.fsdecode(each) for each in ([clips] if isinstance(clips, str | os.PathLike) else clips)]
