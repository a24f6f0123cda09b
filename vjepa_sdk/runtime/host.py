"""Cope with the program that this package runs in: where it stands, and whether it is a Python that can be started."""

from __future__ import annotations

import gc
import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# python3.12, pypy3, graalpy, hython of Houdini; but not uwsgi, httpd or the program of somebody who embeds Python
_PYTHON = re.compile(r"py|ython", re.I)


def python_executable() -> str | None:
    """Return the interpreter that other processes are started with; None in a program that embeds or freezes Python."""
    executable = sys.executable
    if getattr(sys, "frozen", False) or not executable or not _PYTHON.search(Path(executable).name):
        return None
    return executable


def is_nowhere() -> bool:
    """Whether the working directory was deleted."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def working_directory() -> Path:
    """Return where relative paths begin; where that was deleted they lead nowhere, and stay relative."""
    return Path() if is_nowhere() else Path.cwd()


def load_torch_from_anywhere() -> None:
    """Import torch from another directory if the working directory was deleted.

    It asks for it when it is imported, and MKL ends a process that loads it in a directory that does not exist.
    """
    if "torch" not in sys.modules and is_nowhere():
        with _elsewhere():
            importlib.import_module("torch")


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Load modules without the garbage collector, which would search through torch many times and find nothing.

    That is a sixth of the time that `import torch` takes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _elsewhere() -> Iterator[None]:
    back = None
    with suppress(OSError):
        back = os.open(".", os.O_RDONLY)
    os.chdir(os.path.abspath(os.sep))
    try:
        yield
    finally:
        if back is not None and sys.platform != "win32":  # which deletes no directory that one is in
            os.fchdir(back)
            os.close(back)
