"""Look before a run starts whether its clips, disk, memory and time can be enough; refuse what cannot."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...config.training import DataConfig, TrainConfig
from ...corpus.survey import HeaderSample, sample_headers
from ...errors import VideoDecodeError, WriteError
from ...models.layers import transformer_blocks
from ..step import autocast
from .costs import Stack
from .estimate import Plan, decoding_seconds, step_seconds
from .memory import MemoryCheck, memory_text
from .report import disk_text, size_text, time_text

logger = logging.getLogger(__name__)

LONG_RUN_SECONDS = 60.0  # shorter ones are over before a better forecast is worth a line
_NUM_PROBES, _PROBE_SECONDS = 5, 0.3
_NUM_STEPS = 3
_MAX_CALIBRATION_OPERATIONS = {"cpu": 1e10, "mps": 1e12, "cuda": 1e13}


@dataclass(frozen=True)
class Preflight:
    """What was found; the same was logged, one line each."""

    clips: HeaderSample
    stills: HeaderSample | None
    disk_needed: int
    """Bytes, beside those of this run that are already there."""
    disk_free: int
    step_seconds: tuple[float, float]
    """By the fastest and the slowest of some probes of one block, or by decoding where that takes longer."""
    decoding_cores: float
    """Cores that have to decode to keep up with computing; an estimate from the sizes of the clips."""


def preflight(
    config: TrainConfig,
    memory: MemoryCheck,
    *,
    clips: Sequence[str],
    stills: Sequence[str] = (),
    device: torch.device,
    steps_left: int,
) -> Preflight:
    """Check a run's clips and disk and estimate its time; log one line each, in a few seconds.

    Args:
        memory: what `check_memory` returned.
        clips: paths, of which some are opened.
        steps_left: steps that are not done yet.

    Raises:
        VideoDecodeError: none of the clips that were opened can be.
        WriteError: the disk has too little room for the checkpoints and the model.
    """
    needed, free = _check_disk(config, memory.plan)
    checked = _check_clips(config.data, clips, "clips", config.model.num_frames)
    others = _check_clips(config.images.data, stills, "stills", 1) if config.images is not None else None
    text = memory_text(memory, device)
    if memory.remedy:
        logger.warning("%s; if it is too little, %s", text, memory.remedy)
    else:
        logger.info("%s", text)
    seconds, cores = _estimate_time(config, memory.plan, checked, device, steps_left)
    return Preflight(checked, others, needed, free, seconds, cores)


def _check_disk(config: TrainConfig, planned: Plan) -> tuple[int, int]:
    out = Path(config.out)
    present = sum(path.stat().st_size for path in out.rglob("*.safetensors") if path.is_file())
    place = out
    while not place.exists():
        place = place.parent
    needed, free = max(0, planned.disk.total - present), shutil.disk_usage(place).free
    content = disk_text(planned.disk)
    if needed > free:
        raise WriteError(
            f"{out}: {size_text(needed)} are needed for {content}, {size_text(free)} are free; free some, lower "
            f"keep_checkpoints={config.keep_checkpoints} or choose another --out"
        )
    logger.info("disk: %s needed for %s, %s free", size_text(needed), content, size_text(free))
    return needed, free


def _check_clips(data: DataConfig, paths: Sequence[str], content: str, num_frames: int) -> HeaderSample:
    sample = sample_headers(
        paths, decoder=data.decoder, num_workers=data.num_workers, deadline_seconds=data.deadline_seconds
    )
    first = next(iter(sample.unreadable.values()), "")
    if sample.headers == () and sample.found:
        raise VideoDecodeError(
            f"none of the {sample.checked} {content} that were checked can be opened; first: {first}"
        )
    typical = sample.typical
    size = f"; typical {typical.width} x {typical.height}, {typical.num_frames} frames" if typical else ""
    bad = f", {len(sample.unreadable)} cannot be opened (first: {first})" if sample.unreadable else ""
    logger.info("%s: %s found, %s checked%s%s", content, f"{sample.found:,}", f"{sample.checked:,}", bad, size)
    if len(sample.unreadable) > data.max_bad_fraction * sample.checked:
        logger.warning(
            "more than data.max_bad_fraction=%s of the %s that were checked cannot be opened; where the rest is like "
            "them the run will stop",
            data.max_bad_fraction,
            content,
        )
    short = sum(1 < each.num_frames < num_frames for each in sample.headers)  # stills are meant to repeat
    if short:
        logger.warning(
            "%s of %s %s have fewer frames than num_frames=%s; their last frame repeats",
            short,
            sample.checked,
            content,
            num_frames,
        )
    return sample


def _estimate_time(
    config: TrainConfig, planned: Plan, sample: HeaderSample, device: torch.device, steps_left: int
) -> tuple[tuple[float, float], float]:
    """Return the seconds of a step, at best and at worst, and the cores that decoding needs to keep up; estimates."""
    operations = planned.operations.total / planned.world_size
    speeds = [measure_speed(config, planned, device)]
    if steps_left * operations / speeds[0] > LONG_RUN_SECONDS:
        speeds = [measure_speed(config, planned, device, seconds=_PROBE_SECONDS) for _ in range(_NUM_PROBES)]
    computing = operations / max(speeds)
    decoding, workers, typical = 0.0, config.data.num_workers, sample.typical
    if typical is not None:
        decoding = config.batch_size * decoding_seconds(
            config.data,
            num_frames=config.model.num_frames,
            crop_size=config.model.img_size,
            width=typical.width,
            height=typical.height,
            fps=typical.fps,
        )
    decoding /= planned.world_size
    fastest, slowest = (
        step_seconds(operations / speed, decoding, num_workers=workers) for speed in (max(speeds), min(speeds))
    )
    probes = f"fastest and slowest of {len(speeds)} probes" if len(speeds) > 1 else "a probe"
    logger.info(
        "time: about %s for %s steps, %s a step (by %s of one block%s)",
        _range_text(steps_left * fastest, steps_left * slowest),
        f"{steps_left:,}",
        _range_text(fastest, slowest),
        probes,
        "; three steps will tell" if steps_left * slowest > LONG_RUN_SECONDS else "",
    )
    if workers and decoding / workers > 1.2 * computing:
        logger.warning(
            "decoding is likely slower than training: about %.0f cores are needed, data.num_workers=%s; raise it or "
            "re-encode the clips smaller",
            decoding / computing,
            workers,
        )
    return (fastest, slowest), decoding / computing


def _range_text(low: float, high: float) -> str:
    texts = time_text(low), time_text(high)
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


class Forecast:
    """Say how long the rest of a run takes, as three of its own steps tell; the first is slower and does not count."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def step_done(self, steps_left: int) -> None:
        """Note that a step has ended just now."""
        if len(self._ends) > _NUM_STEPS:
            return
        self._ends.append(time.perf_counter())
        if len(self._ends) > _NUM_STEPS:
            step = (self._ends[-1] - self._ends[0]) / _NUM_STEPS
            if steps_left * step > LONG_RUN_SECONDS:
                logger.info(
                    "time: about %s for the %s steps left, %s a step (measured over %s steps)",
                    time_text(steps_left * step),
                    f"{steps_left:,}",
                    time_text(step),
                    _NUM_STEPS,
                )


def measure_speed(config: TrainConfig, planned: Plan, device: torch.device, *, seconds: float = 0.0) -> float:
    """Return the operations per second of one block of the encoder, forward and backward.

    Args:
        seconds: how long to measure, at least two rounds; other work on the machine comes and goes.
    """
    model, limit = config.model, _MAX_CALIBRATION_OPERATIONS[device.type]
    stack = Stack(model.embed_dim, 1, model.num_heads, int(model.embed_dim * model.mlp_ratio))
    tokens = int(max(mask.context_tokens for mask in planned.passes[0].masks))
    while tokens > 64 and stack.training_operations(tokens) > limit:
        tokens //= 2
    batch = max(1, min(planned.passes[0].batch_size, int(limit / stack.training_operations(tokens))))
    with torch.device("meta"):  # neither time nor random numbers for weights that do not matter
        block = transformer_blocks(
            dim=model.embed_dim, depth=1, num_heads=model.num_heads, mlp_ratio=model.mlp_ratio, norm_eps=model.norm_eps
        )[0]
    block = block.to_empty(device=device)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.fill_(0.01)
    x = torch.linspace(-1.0, 1.0, model.embed_dim, device=device).expand(batch, tokens, -1)
    rounds, start, now = -1, 0.0, 0.0  # the first round is slower than all that follow, and not counted
    while rounds < 2 or now - start < seconds:
        with autocast(config.precision, device):
            total = block(x).sum()
        total.backward()
        total.item()  # waits for a GPU
        rounds, now = rounds + 1, time.perf_counter()
        start = start or now
    return rounds * batch * stack.training_operations(tokens) / (now - start)
