"""Give up what decoding does not need: a hostile file may take the process that decodes it over.

Every layer is taken where the system grants it, and `vjepa doctor` says which are. None is a substitute for a container
where files come from strangers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from .host import python_executable

_CLONE_NEWUSER, _CLONE_NEWNET, _PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 0x10000000, 0x40000000, 1, 38


def confine(parent_pid: int) -> bool:
    """Leave the network, die with the parent, write no core dump and never gain privileges.

    Returns:
        whether the network is out of reach. Kernels that forbid this to users are common.
    """
    has_no_network = False
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        # a namespace of its own has no network devices; a user namespace, which costs root its right to the files of
        # others, only where the system asks for one; first, since it would undo the next line
        has_no_network = 0 in map(libc.unshare, (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET))
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if sys.platform != "win32":
        with suppress(ModuleNotFoundError):
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    die_with(parent_pid)
    return has_no_network


def die_with(parent_pid: int) -> None:
    """Be killed when the parent dies; on Linux only. A forked process does not inherit this."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before its death could be told
        os._exit(1)


def limit_memory(num_bytes: int) -> None:
    """Let this process take so much more memory, and no more; on Linux only."""
    if sys.platform != "linux":
        return
    # not the address space: libraries and threads reserve many times what they use
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[5])
    except (FileNotFoundError, ModuleNotFoundError):  # some containers have no /proc: then there is no limit
        return
    limit, hard = pages * resource.getpagesize() + num_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def import_path() -> list[str]:
    """Return where this process imports from, as text: programs put path objects and worse there."""
    return [os.fspath(place) for place in sys.path if isinstance(place, str | os.PathLike)]


def can_isolate_network() -> bool:
    """Whether a process can be kept off the network here."""
    if (python := python_executable()) is None:
        return False
    code = f"import os; from {__name__} import confine; print(confine(os.getppid()))"
    command = [python, "-c", f"import sys; sys.path[:] = {import_path()!r}; {code}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout == "True\n"
