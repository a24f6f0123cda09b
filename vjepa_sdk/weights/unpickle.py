"""Take the tensors out of a checkpoint that `torch.save` wrote, without letting it do anything.

The only place that reads pickles, and only on behalf of `vjepa convert`: with `weights_only=True`, in a child process
without network, environment or privileges (`unpickle_child`). What comes back is safetensors, checked as any
download is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import safetensors
import torch

from ..errors import WeightsError
from ..runtime.host import python_executable
from .tensors import Stored, read_headers

_MAX_REPORT_BYTES = 1 << 20


@contextmanager
def unpickled(source: Path, *, near: Path) -> Iterator[tuple[dict[str, Stored], dict[str, Any]]]:
    """Read a pickle's tensors in a child process that can do little else.

    Args:
        source: a file that `torch.save` wrote.
        near: the tensors are kept beside this path until the block ends.

    Yields:
        the tensors, still on disk, named by their path of keys with `/` between; and facts: `others`, kinds of the
        top-level entries that are not weights, and `network_isolated`.

    Raises:
        WeightsError: it holds more than tensors, or is damaged.
    """
    if (python := python_executable()) is None:
        raise WeightsError(
            f"{source}: pickles are read by a Python of their own, and sys.executable={sys.executable!r} is none; run "
            "`vjepa convert` in a shell"
        )
    script = Path(__file__).with_name("unpickle_child.py")
    homes = {str(Path(str(module.__file__)).parents[1]) for module in (torch, safetensors, numpy)}
    with tempfile.TemporaryDirectory(prefix=f".{near.name}.", dir=near.parent.absolute()) as directory:
        work = Path(directory)
        tensors, report = work / "tensors.safetensors", work / "report.json"
        with open(report, "wb") as stdout, open(work / "stderr", "wb") as stderr:
            # -I and an empty environment: no PYTHON* variable, start-up file or token reaches the child
            code = subprocess.run(
                [python, "-I", script, source.resolve(), tensors, *sorted(homes)],
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=_environment(), cwd=work, check=False,
            ).returncode  # fmt: skip
        facts = _read_report(source, report, code)
        yield read_headers([tensors]), facts


def can_isolate_network() -> bool:
    """Whether the child process can be kept off the network here; kernels that forbid it to users are common."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import unpickle_child; print(unpickle_child._confine(0))"
    if (python := python_executable()) is None:
        return False
    command = [python, "-I", "-c", code, str(Path(__file__).parent)]
    return subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False).stdout == "True\n"


def _environment() -> dict[str, str]:
    """Return nothing, or on Windows what no process starts without."""
    return {name: value for name, value in os.environ.items() if os.name == "nt" and name.upper() == "SYSTEMROOT"}


def _read_report(source: Path, path: Path, code: int) -> dict[str, Any]:
    with open(path, "rb") as file:
        raw = file.read(_MAX_REPORT_BYTES)
    try:
        facts = json.loads(raw)
    except ValueError:
        raise WeightsError(
            f"{source}: reading it ended the process (exit {code}): it is damaged, or takes more time or memory "
            "than a checkpoint of its size needs; fetch it again, from its publisher"
        ) from None
    if not isinstance(facts, dict) or not isinstance(facts.get("others", {}), dict):
        raise WeightsError(f"{source}: reading it gave no report; the file is damaged")
    if "error" in facts:
        reason = "".join(char if char.isprintable() else " " for char in str(facts["error"]))[:400]
        raise WeightsError(f"{source}: cannot be read: {reason}; fetch it again, from its publisher")
    others = {str(name): str(kind) for name, kind in facts.get("others", {}).items()}
    return {"others": others, "network_isolated": facts.get("network_isolated") is True}
