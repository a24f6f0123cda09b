"""Measure what `vjepa embed` of a dozen clips costs beside its parts, each alone: import torch, decode, encode.

    python -m tests.benchmarks.startup [--rounds 5]

Run it from the checkout, where nothing else is at work. Every part runs in a process of its own, in turns; what is
printed is the median of the rounds with the least and the most, in seconds, of wall clock and of processors, those of
decoding processes included. Parts are timed from the start of their process to its end, but for decoding and encoding,
of which the loading of modules and model is left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 1.3  # of the sum of the parts

_TORCH = "import torch"
_DECODE_AND_ENCODE = """
import time
import av, numpy as np, torch
from vjepa_sdk import VJEPA, sample_videos
model, clock = VJEPA.from_pretrained("vjepa-tiny", device="cpu"), lambda: (time.perf_counter(), time.process_time())
load = model.clip_loader()
before = clock()
clips = torch.from_numpy(np.stack([load(video)[0] for video in sample_videos()]))
decoded = clock()
for batch in clips.split(8):
    model.embed_clips(batch)
encoded = clock()
print(*(after - start for a, b in ((before, decoded), (decoded, encoded)) for start, after in zip(a, b)))
"""

Seconds = tuple[float, float]
"""Of wall clock, and of processors."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    measured: dict[str, list[Seconds]] = {}
    for _ in range(parser.parse_args().rounds):
        for name, seconds in one_round().items():
            measured.setdefault(name, []).append(seconds)
    print(f"{'':<30}{'wall clock':>22}{'processors':>22}")
    medians = {name: report(name, rounds) for name, rounds in measured.items()}
    alone = [sum(medians[name][kind] for name in ("import torch", "decode", "encode")) for kind in (0, 1)]
    for name in ("vjepa embed", "vjepa embed --num-workers 0"):
        wall, processors = (total / parts for total, parts in zip(medians[name], alone, strict=True))
        print(f"{name}: {wall:.2f} of the parts in wall clock (at most {LIMIT}), {processors:.2f} in processor seconds")


def one_round() -> dict[str, Seconds]:
    """Return what each part took, and the whole."""
    with tempfile.TemporaryDirectory() as place:
        embed = (sys.executable, "-m", "vjepa_sdk", "embed", "examples/clips", "-q", "--out")
        torch, _ = timed(sys.executable, "-c", _TORCH)
        _, printed = timed(sys.executable, "-c", _DECODE_AND_ENCODE)
        decode_wall, decode_cpu, encode_wall, encode_cpu = map(float, printed.split())
        return {
            "import torch": torch,
            "decode": (decode_wall, decode_cpu),
            "encode": (encode_wall, encode_cpu),
            "vjepa embed": timed(*embed, str(Path(place) / "a.npy"))[0],
            "vjepa embed --num-workers 0": timed(*embed, str(Path(place) / "b.npy"), "--num-workers", "0")[0],
        }


def timed(*command: str) -> tuple[Seconds, str]:
    """Run a command; return how long it took, its children included, and what it printed."""
    before, started = os.times(), time.perf_counter()
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    wall, after = time.perf_counter() - started, os.times()
    processors = after.children_user + after.children_system - before.children_user - before.children_system
    return (wall, processors), printed


def report(name: str, rounds: list[Seconds]) -> Seconds:
    """Print a line, and return the medians."""
    kinds = [sorted(kind) for kind in zip(*rounds, strict=True)]
    cells = [f"{statistics.median(kind):.2f} [{kind[0]:.2f}, {kind[-1]:.2f}]" for kind in kinds]
    print(f"{name:<30}{cells[0]:>22}{cells[1]:>22}")
    return statistics.median(kinds[0]), statistics.median(kinds[1])


if __name__ == "__main__":
    main()
