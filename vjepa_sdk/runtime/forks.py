"""Say in one line what a forked process would say by hanging: that torch's threads have stayed in its parent.

OpenMP keeps the threads of the first parallel computation for the next. `os.fork` copies the memory in which it notes
them, but no thread, so that the same thread of the child waits for them for ever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings

from ..errors import VJEPAError

_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.005


class _Forked:
    """Whether this process is a fork, and what was found out about it."""

    is_known = False
    computes = False


def check_fork() -> None:
    """Raise VJEPAError where torch would wait for ever: in a forked process whose parent has computed on threads.

    It is tried out in another fork, once a process; other processes pay nothing.
    """
    if _Forked.computes or not (_Forked.is_known or _is_started_by_fork()):
        return
    import torch

    if torch.get_num_threads() == 1:  # which waits for nobody
        return
    if not _can_compute():
        raise VJEPAError(
            "this process was forked from one in which torch has run, and would wait for ever for threads that it "
            'lacks; start it with multiprocessing.get_context("spawn"), or call torch.set_num_threads(1) in it first'
        )
    _Forked.computes = True


def _is_started_by_fork() -> bool:
    """Whether `multiprocessing` forked this process, perhaps before this module was there to notice."""
    found = sys.modules.get("multiprocessing.process")
    if found is None or multiprocessing.parent_process() is None:
        return False
    method = getattr(multiprocessing.current_process(), "_start_method", None)
    return (method or multiprocessing.get_start_method(allow_none=True)) == "fork"


def _can_compute() -> bool:
    """Whether a fork of this very thread gets through a computation on several threads."""
    if sys.platform == "win32":
        return True  # where nothing forks
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that forks and threads do not mix is what is looked at
        child = os.fork()
    if child == 0:
        try:
            torch.zeros(1 << 20).add_(1)
        finally:
            os._exit(0)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    try:
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return False
            time.sleep(_POLL_SECONDS)
    except ChildProcessError:  # the program does not want to hear of children, and so they end unheard
        pass
    return True


def _note() -> None:
    _Forked.is_known, _Forked.computes = True, False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)
