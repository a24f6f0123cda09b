"""Say what a pretraining run will cost before it starts: operations, memory, disk, decoding, time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace

import torch

from ...config.choices import Content
from ...config.schema import check_range
from ...config.training import DataConfig, ImagesConfig, TrainConfig
from ...models.encoder import VideoEncoder
from ...models.masks import Masks
from ...models.predictor import Predictor
from ..data.batches import check_shares
from ..data.masking import draw_image_masks, draw_masks
from .costs import FLOAT32, MaskLengths, Operations, PassMemory, PassShape, pass_memory, pass_operations

# TFLOP/s that one device is assumed to reach, in float32 and in 16 bits. GPUs: 40 % of the maker's dense peak, not
# measured. CPU: measured with the recipe `tiny` on an EPYC with AVX-512 and bfloat16 instructions.
ASSUMED_TFLOPS = {
    "CPU core": (0.05, 0.07),
    "RTX 4090": (33.0, 66.0),
    "A100": (7.8, 125.0),
    "H100": (27.0, 400.0),
}
# What one core was measured to decode (H.264, PyAV, one thread) and to crop, and what opening a file takes.
DECODED_PIXELS_PER_SECOND, CROPPED_PIXELS_PER_SECOND, OPENING_SECONDS = 150e6, 100e6, 0.003
ASSUMED_WIDTH, ASSUMED_HEIGHT, ASSUMED_FPS = 320, 240, 30.0

_MOST_DRAWS, _MOST_DRAWN_SAMPLES = 16, 512


@dataclass(frozen=True)
class Parameters:
    """Numbers that are learnt, by network."""

    context_encoder: int
    target_encoder: int
    """Follows the context encoder; without gradient and moments."""
    predictor: int


@dataclass(frozen=True)
class MaskPlan:
    """What one mask set shows and hides of a sample; means over the masks of a run's first steps."""

    context_tokens: float
    target_tokens: float
    """Of each target block."""
    target_blocks: int
    """1, but for I-JEPA's masks, whose blocks are predicted one by one."""


@dataclass(frozen=True)
class PassPlan:
    """Forward passes over clips, or over the stills beside them."""

    content: Content
    batch_size: int
    """Samples per forward pass."""
    passes: int
    """Forward passes per step, on each device."""
    samples: int
    """Samples per step, on all devices."""
    tokens: int
    """Tokens of one sample."""
    masks: tuple[MaskPlan, ...]
    operations: Operations
    """Of all these passes in one step, on all devices."""
    memory: PassMemory
    """Of the largest pass of a run's first steps."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each device."""

    weights: int
    """Three networks in float32."""
    gradients: int
    moments: int
    """AdamW's two."""
    activations: int
    """Of the largest forward pass, kept for its backward pass."""
    working: int
    """On top of the activations for a moment."""
    total: int
    """At the highest moment; without what PyTorch and CUDA take for themselves."""
    certain: int
    """Part of the total that is surely held at one moment: nothing runs with less."""
    saving: int
    """In the computer's own memory, not a GPU's: a copy while a checkpoint is written in the background."""


@dataclass(frozen=True)
class DiskPlan:
    """Bytes in the run's directory, at most."""

    checkpoint: int
    """Weights and moments."""
    checkpoints: int
    """How many there are at most; the newest is written before the oldest is deleted."""
    model: int
    """The exported model directory."""
    total: int


@dataclass(frozen=True)
class DecodingPlan:
    """Work of the decoding processes, for clips of 320 x 240 pixels at 30 frames per second."""

    frames: int
    """Frames that one step sees."""
    core_seconds: float
    """For the samples of one step."""
    cores_per_100_clips: float
    """Cores that keep up with 100 clips per second, stills beside them included."""
    processes: int
    """Decoding processes of each device; 0 decodes between steps."""


@dataclass(frozen=True)
class Plan:
    """What one run will cost."""

    preset: str | None
    steps: int
    world_size: int
    precision: str
    activation_checkpointing: bool
    parameters: Parameters
    passes: tuple[PassPlan, ...]
    operations: Operations
    """Of one step, on all devices."""
    total_operations: float
    memory: MemoryPlan
    disk: DiskPlan
    decoding: DecodingPlan
    hours: dict[str, float]
    """By kind of device, `world_size` of them: at the speeds of `ASSUMED_TFLOPS`, or as long as decoding takes where
    that is longer. A CPU core does both by turns; beside the other kinds each decoding process has a core."""


def plan(config: TrainConfig, *, world_size: int = 1) -> Plan:
    """Compute what a pretraining run will cost, without training, clips or allocating the networks.

    Mask lengths are those of the run's first steps, drawn by the code that training runs. Operations and memory follow
    from the shapes (`vjepa_sdk.training.plan.costs`), parameters are counted on the networks.

    Args:
        config: the run; clips and output may be missing.
        world_size: devices that share each step.

    Raises:
        ConfigError: so many devices cannot share a step equally.
        InputError: the masks do not fit the grid.
    """
    check_range("world_size", world_size, 1, 1_000_000)
    passes = [_passes(config, "clips", world_size)]
    if config.images is not None:
        passes.append(_passes(config, "stills", world_size))
    operations = _sum(each.operations for each in passes)
    parameters, weights = _networks(config)
    decoding = _decoding(config)
    return Plan(
        preset=config.preset,
        steps=config.steps,
        world_size=world_size,
        precision=config.precision,
        activation_checkpointing=config.activation_checkpointing,
        parameters=parameters,
        passes=tuple(passes),
        operations=operations,
        total_operations=operations.total * config.steps,
        memory=_memory(weights, parameters, passes),
        disk=_disk(config, weights, parameters),
        decoding=decoding,
        hours={
            name: config.steps
            * step_seconds(
                operations.total / (assumed_speed(name, config.precision) * world_size),
                decoding.core_seconds / world_size,
                num_workers=0 if name == "CPU core" else decoding.processes,
            )
            / 3600
            for name in ASSUMED_TFLOPS
        },
    )


def assumed_speed(device: str, precision: str) -> float:
    """Return the operations a second that a kind of device is assumed to reach."""
    return ASSUMED_TFLOPS[device][precision != "float32"] * 1e12


def step_seconds(computing: float, decoding: float, *, num_workers: int) -> float:
    """Return how long a step takes whose clips decode while the one before is computed, or before it without processes.

    Args:
        decoding: of one core.
    """
    return max(computing, decoding / num_workers) if num_workers else computing + decoding


def _passes(config: TrainConfig, content: Content, world_size: int) -> PassPlan:
    """Plan the forward passes over clips, or over the stills beside them."""
    part: TrainConfig | ImagesConfig = config
    frames, side, draw = config.model.num_frames, config.model.img_size, draw_masks
    if content == "stills" and config.images is not None:
        part, frames, side, draw = config.images, 1, config.images.img_size, draw_image_masks
    size = part.micro_batch_size or part.batch_size
    check_shares(part.batch_size, size, world_size)
    shape = PassShape(
        model=config.model,
        objective=config.objective,
        precision=config.precision,
        activation_checkpointing=config.activation_checkpointing,
        batch_size=size,
        num_frames=frames,
        img_size=side,
    )
    count = min(config.steps, max(2, min(_MOST_DRAWS, _MOST_DRAWN_SAMPLES // size)))
    turns = [
        (share, [_lengths(draw(turn, batch_size=size, step=step)) for step in range(count)])
        for share, turn in _turns(config, content)
    ]
    draws = [lengths for _, drawn in turns for lengths in drawn]
    return PassPlan(
        content=content,
        batch_size=size,
        passes=part.batch_size // size // world_size,
        samples=part.batch_size,
        tokens=shape.tokens,
        masks=tuple(_mean(lengths) for _, drawn in turns for lengths in zip(*drawn, strict=True)),
        operations=_sum(
            _sum((pass_operations(shape, each) for each in drawn), times=share * part.batch_size / size / count)
            for share, drawn in turns
        ),
        memory=max((pass_memory(shape, each) for each in draws), key=lambda need: need.activations + need.working),
    )


def _turns(config: TrainConfig, content: Content) -> list[tuple[float, TrainConfig]]:
    """Return the run as it is in each kind of its passes, with the kind's share: one, unless mask sets take turns."""
    masks = config.masks if content == "clips" or config.images is None else config.images.masks
    shares = [mask.share for mask in masks if mask.share is not None]
    if not shares:
        return [(1.0, config)]
    alone = [(replace(mask, share=None),) for mask in masks]
    if content == "clips" or config.images is None:
        runs = [replace(config, masks=each) for each in alone]
    else:
        runs = [replace(config, images=replace(config.images, masks=each)) for each in alone]
    return [(share / sum(shares), run) for share, run in zip(shares, runs, strict=True)]


def _lengths(masks: Masks) -> list[MaskLengths]:
    return [
        MaskLengths(context.shape[1], target.shape[-1], target.shape[1] if target.ndim == 3 else 1)
        for context, target in zip(masks.context, masks.target, strict=True)
    ]


def _mean(lengths: Sequence[MaskLengths]) -> MaskPlan:
    return MaskPlan(
        context_tokens=sum(each.context for each in lengths) / len(lengths),
        target_tokens=sum(each.target for each in lengths) / len(lengths),
        target_blocks=lengths[0].blocks,
    )


def _sum(counts: Iterable[Operations], *, times: float = 1.0) -> Operations:
    parts = zip(*map(astuple, counts), strict=True)
    return Operations(*(times * sum(part) for part in parts))


def _networks(config: TrainConfig) -> tuple[Parameters, int]:
    """Lay the networks out without memory; return their parameters and the bytes of all that a checkpoint keeps."""
    with torch.device("meta"):
        encoder, predictor = VideoEncoder(config.model), Predictor(config.model)
    learnt, guessed = (sum(each.numel() for each in network.parameters()) for network in (encoder, predictor))
    one, other = (sum(each.nbytes for each in network.state_dict().values()) for network in (encoder, predictor))
    return Parameters(context_encoder=learnt, target_encoder=learnt, predictor=guessed), 2 * one + other


def _memory(weights: int, parameters: Parameters, passes: Sequence[PassPlan]) -> MemoryPlan:
    gradients = FLOAT32 * (parameters.context_encoder + parameters.predictor)
    moments = 2 * gradients
    largest = max((each.memory for each in passes), key=lambda need: need.activations + need.working)
    # the gradients of a step's first pass come as its activations go
    beside = gradients if any(each.passes > 1 for each in passes) or len(passes) > 1 else 0
    return MemoryPlan(
        weights=weights,
        gradients=gradients,
        moments=moments,
        activations=largest.activations,
        working=largest.working,
        total=weights + moments + gradients + largest.activations + largest.working,
        certain=weights + moments + max(gradients, beside + largest.activations),
        saving=weights + moments,
    )


def _disk(config: TrainConfig, weights: int, parameters: Parameters) -> DiskPlan:
    checkpoint = weights + 2 * FLOAT32 * (parameters.context_encoder + parameters.predictor)
    saves = 1 + -(-config.steps // config.save_every)  # the first before training, to see that there is room
    kept = 0 if config.keep_every is None else 1 + config.steps // config.keep_every
    count = min(saves, config.keep_checkpoints + 1 + kept)
    return DiskPlan(checkpoint=checkpoint, checkpoints=count, model=weights, total=count * checkpoint + weights)


def _decoding(config: TrainConfig) -> DecodingPlan:
    model, images = config.model, config.images
    clip = decoding_seconds(config.data, num_frames=model.num_frames, crop_size=model.img_size)
    frames, seconds = config.batch_size * model.num_frames, config.batch_size * clip
    if images is not None:
        frames += images.batch_size
        seconds += images.batch_size * decoding_seconds(images.data, num_frames=1, crop_size=images.img_size)
    return DecodingPlan(
        frames=frames,
        core_seconds=seconds,
        cores_per_100_clips=seconds / config.batch_size * 100,
        processes=config.data.num_workers,
    )


def decoding_seconds(
    data: DataConfig,
    *,
    num_frames: int,
    crop_size: int,
    width: float = ASSUMED_WIDTH,
    height: float = ASSUMED_HEIGHT,
    fps: float = ASSUMED_FPS,
) -> float:
    """Estimate how long one core decodes and crops one clip of a video with a key frame every second.

    Frames between the sampled ones are decoded too, and those from the key frame before: half a second on average.
    """
    if data.cache is not None:
        return num_frames * crop_size**2 / CROPPED_PIXELS_PER_SECOND
    frames = 1.0
    if num_frames > 1:
        stride = max(1.0, fps / data.fps) if data.fps else sum(data.frame_stride) / 2
        frames = (num_frames - 1) * stride + 1 + fps / 2
    decoded, cropped = frames * width * height, num_frames * crop_size**2
    return OPENING_SECONDS + decoded / DECODED_PIXELS_PER_SECOND + cropped / CROPPED_PIXELS_PER_SECOND
