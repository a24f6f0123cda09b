"""Run every command of an installed vjepa-sdk once: `PYTHON tests/release/smoke.py`, with the environment's own Python.

The package is the one that is installed, not the checkout beside this file: Python puts the directory of the script on
its path, and the commands run in an empty directory. Nothing is fetched.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import typer.main

import vjepa_sdk
from vjepa_sdk.cli.app import app

COMMANDS = """
vjepa --version
vjepa doctor --json
vjepa models --cached
vjepa demo --out demo
vjepa check {clips}
vjepa embed {clips} --out feats.npy
vjepa embed {clips} --out part0.npy --shard 1/2
vjepa embed {clips} --out part1.npy --shard 2/2
vjepa merge part0.npy part1.npy --out merged.npy
vjepa embed {clips} --out tokens.safetensors --pooling none --num-workers 0
vjepa search {clip} --index feats.npy
vjepa duplicates feats.npy
vjepa outliers feats.npy
vjepa cluster feats.npy --n-clusters 2
vjepa surprise {clip} --fps 10
vjepa probe train {clips}/labels.csv --out probe --features feats.npy --no-baseline
vjepa probe eval probe {clips}/labels.csv --features feats.npy
vjepa probe predict probe {clip}
vjepa probe train {clips}/labels.csv --out attentive --kind attentive --no-baseline {one_fit}
vjepa viz pca {clip} --out pca.png
vjepa viz similarity {clip} --at 0,0.5,0.5 --out similarity.png
vjepa viz attention {clip} --probe attentive --out attention.png
vjepa viz embeddings feats.npy --out map.html --method pca
vjepa viz probe probe --out probe.svg
vjepa viz surprise {clip} --fps 10 --out surprise.html
vjepa pretrain {clips} --preset tiny --out run --set steps=2 --set batch_size=2
vjepa viz run run --out run.html
vjepa embed {clips} --out own.npy --model run/model
vjepa convert {golden} converted --config shape.json
vjepa bench {clips} --seconds 5
vjepa push feats.npy somebody/something --dry-run
"""
ONE_FIT = "--epochs 1 --learning-rates 0.001 --weight-decays 0.1"
GOLDEN = Path(__file__).parents[1] / "golden" / "vjepa2_tiny.pth.tar"
"""A checkpoint in the official layout, and below its shape."""
SHAPE = {"img_size": 64, "num_frames": 8, "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 3}
SHAPE |= {"predictor_embed_dim": 36, "predictor_depth": 2, "predictor_num_heads": 2, "num_mask_tokens": 10}
DEADLINE_SECONDS = 300
NOTHING_BROKEN = "No broken requirements found."
DECORD = "decord 0.6.0 is not supported on this platform"
"""Newer versions of pip read the tag inside of decord's wheel, which is not that of its name; it is, and works."""


def leaves() -> Iterator[str]:
    """Yield the names of all commands, `probe train` for one of a group."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        yield from (f"{name} {inner}" for inner in command.commands) if hasattr(command, "commands") else (name,)


def run(command: str, where: Path) -> float:
    """Run one command and return its seconds; exit with what it said if it fails."""
    script = Path(sys.executable).with_name("vjepa")
    start = time.perf_counter()
    done = subprocess.run(
        [script, *command.split()[1:]],
        cwd=where,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    if done.returncode != 0 or not done.stdout.strip():
        sys.exit(f"$ {command}\n{done.stdout}{done.stderr}\nexit code {done.returncode}, and not 0 with an answer")
    return time.perf_counter() - start


def check_requirements() -> None:
    """Run `pip check`: everything that the package asks for is there, in a version that fits."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line not in (NOTHING_BROKEN, DECORD)]
    if found or done.stderr:
        sys.exit("\n".join([*found, done.stderr]))


def main() -> None:
    """Run all of them, and compare what is promised to be the same."""
    assert "site-packages" in vjepa_sdk.__file__, f"{vjepa_sdk.__file__} is not an installed package"
    untried = [name for name in leaves() if f"\nvjepa {name} " not in COMMANDS and f"\nvjepa {name}\n" not in COMMANDS]
    assert not untried, f"commands that this script does not run: {untried}"
    check_requirements()
    clip = vjepa_sdk.sample_videos()[0]
    commands = COMMANDS.format(clip=clip, clips=Path(clip).parent, one_fit=ONE_FIT, golden=GOLDEN).split("\n")[1:-1]
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        (where / "shape.json").write_text(json.dumps(SHAPE))
        seconds = sum(run(command, where) for command in commands)
        assert (where / "merged.npy").read_bytes() == (where / "feats.npy").read_bytes()
        meta = json.loads((where / "feats.meta.json").read_text())
        assert vjepa_sdk.load_embeddings(where / "feats.npy").features.shape[0] == len(vjepa_sdk.sample_videos())
        assert meta["model"]["name"] == "vjepa-tiny"
    whose = f"vjepa-sdk {vjepa_sdk.__version__}, Python {platform.python_version()}"
    print(f"{whose}: {len(commands)} commands, {seconds:.0f} s")


if __name__ == "__main__":
    main()
