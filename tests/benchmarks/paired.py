"""Time ways to do one thing against each other: interleaved in random order, and compared round by round."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("vjepa-sdk", "torch", "transformers", "numpy", "av", "decord", "torchcodec")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Ways to do one thing, the first of which is ours."""

    name: str
    ways: Mapping[str, Callable[[], float | None]]
    """Each does it once; what it returns is taken instead of the CPU seconds it took."""
    unit: str = "ms"
    notes: Sequence[str] = ()
    rounds: int | None = None
    """None: as many as are asked for."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How one way did."""

    median: float
    low: float
    high: float
    ratio: float
    """This way over ours, the median of rounds."""
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """Of a case."""

    name: str
    unit: str
    ways: Mapping[str, Way]
    notes: Sequence[str] = field(default_factory=list)


def cpu_seconds() -> float:
    """Return what this process and its children that have ended have taken."""
    times = os.times()  # in hundredths of a second
    return time.process_time() + times.children_user + times.children_system


def measure(case: Case, *, rounds: int) -> Result:
    """Run each way once without counting, then in rounds of all ways."""
    taken: dict[str, list[float]] = {name: [] for name in case.ways}
    for number in range((case.rounds or rounds) + 1):
        for name in random.sample(list(case.ways), len(case.ways)):
            before = cpu_seconds()
            value = case.ways[name]()
            value = 1000 * (cpu_seconds() - before) if value is None else value
            if number:
                taken[name].append(value)
    ours = next(iter(taken.values()))
    ways = {}
    for name, values in taken.items():
        ratios = [value / own for value, own in zip(values, ours, strict=True)]
        ways[name] = Way(
            median=statistics.median(values),
            low=min(values),
            high=max(values),
            ratio=statistics.median(ratios),
            ratio_low=min(ratios),
            ratio_high=max(ratios),
        )
    return Result(name=case.name, unit=case.unit, ways=ways, notes=list(case.notes))


def describe_machine() -> dict[str, Any]:
    """Return hardware, versions and settings."""
    import torch

    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].split(":", 1)[1].strip() if names else processor
    return {
        "processor": processor,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def heading(machine: Mapping[str, Any]) -> str:
    """Return a line of what it was measured on and with."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    hardware = machine["gpu"] or f"{machine['processor']} ({machine['capability']})"
    return f"{hardware}, {machine['threads']} threads; {versions}.\n"


def table(result: Result, *, earlier: Result | None) -> str:
    """Return a result as Markdown; `earlier` adds how much longer each way takes now."""
    lines = [
        f"### {result.name}",
        "",
        f"| way | {result.unit} | ÷ ours |{' ÷ earlier |' if earlier else ''}",
        f"|---|---|---|{'---|' if earlier else ''}",
    ]
    for name, way in result.ways.items():
        line = f"| {name} | {way.median:.4g} [{way.low:.4g}–{way.high:.4g}] "
        line += f"| {way.ratio:.2f} [{way.ratio_low:.2f}–{way.ratio_high:.2f}] |"
        if earlier:
            old = earlier.ways.get(name)
            line += f" {way.median / old.median:.2f} |" if old else " – |"
        lines.append(line)
    return "\n".join([*lines, "", *(f"{note}." for note in result.notes), *([""] if result.notes else [])])


def to_json(results: Sequence[Result], machine: Mapping[str, Any]) -> str:
    """Return what `from_json` reads."""
    return json.dumps({"machine": machine, "results": [asdict(result) for result in results]}, indent=2)


def from_json(text: str) -> list[Result]:
    """Return the results of an earlier run."""
    results = json.loads(text)["results"]
    return [Result(**{**each, "ways": {name: Way(**way) for name, way in each["ways"].items()}}) for each in results]
