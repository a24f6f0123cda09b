"""Say a plan in lines that people read."""

from __future__ import annotations

from dataclasses import asdict

from .estimate import ASSUMED_FPS, ASSUMED_HEIGHT, ASSUMED_WIDTH, DiskPlan, PassPlan, Plan, assumed_speed

_PREFIXES = (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_UNITS = (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60))


def plan_lines(plan: Plan) -> list[str]:
    """Return a plan as text: the subject at the start of its first line."""
    parameters = plan.parameters
    subjects: dict[str, list[str]] = {
        "run": [f"{plan.preset or 'no recipe'}: {plan.steps:,} steps in {plan.precision}"],
        "parameters": [
            f"context encoder {_short(parameters.context_encoder)}, predictor {_short(parameters.predictor)}, "
            f"target encoder {_short(parameters.target_encoder)}"
        ],
        **{part.content: _of_passes(part, plan.world_size) for part in plan.passes},
        "operations": _of_operations(plan),
        "memory": _of_memory(plan),
        "disk": [f"{size_text(plan.disk.total)}: {disk_text(plan.disk)}"],
        "decoding": _of_decoding(plan),
        "time": _of_time(plan),
    }
    return [
        f"{'' if number else subject:<12}{text}"
        for subject, texts in subjects.items()
        for number, text in enumerate(texts)
    ]


def _of_passes(part: PassPlan, world_size: int) -> list[str]:
    passes = f"{part.passes:,} passes" if part.passes > 1 else "one pass"
    texts = [f"{part.samples:,} a step, in {passes} of {part.batch_size:,} on {_devices(world_size)}"]
    for number, mask in enumerate(part.masks, start=1):
        blocks = f"{mask.target_blocks} blocks of " if mask.target_blocks > 1 else ""
        hidden = f"{blocks}{mask.target_tokens:,.0f} of {part.tokens:,} tokens"
        texts.append(f"mask set {number} shows {mask.context_tokens:,.0f} and hides {hidden}")
    return texts


def _of_operations(plan: Plan) -> list[str]:
    counts = {name: count for name, count in asdict(plan.operations).items() if name != "total" and count}
    shares = [f"{name.replace('_', ' ')} {count / plan.operations.total:.0%}" for name, count in counts.items()]
    return [
        f"{_short(plan.operations.total, 'FLOP')} a step, {_short(plan.total_operations, 'FLOP')} in all",
        ", ".join(shares),
    ]


def _of_memory(plan: Plan) -> list[str]:
    memory = plan.memory
    return [
        f"{size_text(memory.total)} on {_devices(plan.world_size)}",
        f"always: weights {size_text(memory.weights)}, gradients {size_text(memory.gradients)}, moments "
        f"{size_text(memory.moments)}",
        f"in a pass: activations {size_text(memory.activations)}, and {size_text(memory.working)} for a moment",
        f"beside them, in the computer's own memory: {size_text(memory.saving)} while a checkpoint is written",
    ]


def _of_decoding(plan: Plan) -> list[str]:
    source = f"{ASSUMED_WIDTH} x {ASSUMED_HEIGHT} at {ASSUMED_FPS:.0f} fps, a key frame every second"
    return [
        f"{plan.decoding.frames:,} frames a step, {time_text(plan.decoding.core_seconds)} of one core",
        f"{plan.decoding.cores_per_100_clips:,.1f} cores for 100 clips a second (assumed: {source})",
    ]


def _of_time(plan: Plan) -> list[str]:
    lines, processes = [], plan.decoding.processes
    for name, hours in plan.hours.items():
        speed = assumed_speed(name, plan.precision)
        why = f"assumed: {speed / 1e12:g} TFLOP/s"
        if name == "CPU core" or not processes:
            why += ", and decoding by turns"
        elif 3600 * hours * speed * plan.world_size > 1.01 * plan.total_operations:
            each = " each" if plan.world_size > 1 else ""
            why = f"so long takes decoding in {processes:,} process{'es' if processes > 1 else ''}{each}"
        lines.append(f"{time_text(3600 * hours)} on {plan.world_size:,} x {name} ({why})")
    return lines


def _devices(world_size: int) -> str:
    return "one device" if world_size == 1 else f"each of {world_size:,} devices"


def disk_text(disk: DiskPlan) -> str:
    """Say what the bytes of a run's directory are."""
    count = f"{disk.checkpoints} checkpoints" if disk.checkpoints > 1 else "one checkpoint"
    return f"{count} of {size_text(disk.checkpoint)} and a model of {size_text(disk.model)}"


def size_text(size: float) -> str:
    """Return bytes in MiB or GiB."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def time_text(seconds: float) -> str:
    """Return seconds in the largest unit of which there are at least two."""
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.2g} s" if seconds < 10 else f"{seconds:,.0f} s"


def _short(value: float, unit: str = "") -> str:
    """Return a number with the prefix of its thousands and its unit."""
    for prefix, size in _PREFIXES:
        if value >= size:
            return f"{value / size:,.1f} {prefix}{unit}"
    return f"{value:,.0f} {unit}".rstrip()
