"""Let this package, and nothing else, find itself on Windows or macOS; Python imports this file when it starts.

What the other system lacks is hidden from the modules of the package alone, since the standard library under it is
still Linux's. What the other system refuses is refused below the package: Windows neither deletes nor replaces a file
that is open, links nothing, opens no directory, flushes no file opened for reading, and knows names that no file
has. Processes that are started find this file too.
"""

from __future__ import annotations

import builtins
import errno
import os
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

SYSTEM = os.environ.get("PYTHON_OTHER_SYSTEM", "")

ABSENT: dict[str, dict[str, str]] = {
    "win32": {
        "os": "O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_NOCTTY O_SYNC O_DSYNC O_DIRECT O_PATH O_TMPFILE "
        "O_NOATIME fork forkpty fchmod fchown chown lchown chroot pread pwrite preadv pwritev readv writev "
        "posix_fadvise posix_fallocate sysconf sysconf_names pathconf fpathconf pathconf_names confstr "
        "statvfs fstatvfs uname getuid geteuid getgid getegid getgroups getpgid getpgrp getsid setsid setuid "
        "setgid setpgid killpg nice getpriority setpriority sched_getaffinity sched_setaffinity sched_yield "
        "mkfifo mknod openpty ttyname wait wait3 wait4 waitid WNOHANG WIFSIGNALED WTERMSIG WEXITSTATUS "
        "posix_spawn posix_spawnp sendfile sync fdatasync lockf getloadavg ctermid memfd_create pidfd_open "
        "eventfd getxattr setxattr listxattr set_blocking get_blocking register_at_fork fchdir "
        "copy_file_range splice environb getenvb",
        "signal": "SIGUSR1 SIGUSR2 SIGKILL SIGHUP SIGQUIT SIGALRM SIGCHLD SIGPIPE SIGSTOP SIGTSTP SIGCONT SIGBUS "
        "SIGTRAP SIGXCPU SIGXFSZ SIGIO alarm setitimer getitimer ITIMER_REAL pause pthread_kill "
        "pthread_sigmask sigpending sigwait sigwaitinfo sigtimedwait siginterrupt SIG_BLOCK SIG_UNBLOCK "
        "SIG_SETMASK",
        "socket": "AF_UNIX CMSG_LEN CMSG_SPACE SCM_RIGHTS send_fds recv_fds",
        "select": "poll epoll kqueue",
        "time": "clock_gettime clock_gettime_ns CLOCK_MONOTONIC CLOCK_REALTIME tzset",
        "mmap": "MADV_DONTNEED MADV_SEQUENTIAL MADV_RANDOM MADV_WILLNEED MAP_SHARED MAP_PRIVATE PROT_READ PROT_WRITE",
    },
    "darwin": {
        "os": "sched_getaffinity sched_setaffinity posix_fadvise posix_fallocate fdatasync memfd_create pidfd_open "
        "eventfd copy_file_range splice getxattr setxattr listxattr O_DIRECT O_PATH O_TMPFILE O_NOATIME "
        "getresuid setresuid",
        "signal": "sigtimedwait sigwaitinfo SIGSTKFLT SIGPWR SIGRTMIN SIGRTMAX",
        "select": "epoll",
        "resource": "prlimit RLIMIT_NICE RLIMIT_RTPRIO RLIMIT_SIGPENDING RLIMIT_MSGQUEUE",
    },
}
BLOCKED = {
    "win32": set("fcntl resource pwd grp termios tty pty posix syslog readline curses crypt nis spwd".split()),
    "darwin": {"spwd"},
}
_NOT_IN_A_NAME = set('<>:"|?*\\')


class Narrowed(types.ModuleType):
    """A module without some of its names, and with others in their place."""

    def __init__(self, module: types.ModuleType, absent: set[str], instead: Mapping[str, Any]) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(_module=module, _absent=absent, _instead=instead)

    def __getattr__(self, name: str) -> Any:
        if name in self._absent:
            raise AttributeError(f"module {self._module.__name__!r} has no attribute {name!r}")
        return self._instead[name] if name in self._instead else getattr(self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)


def _fsync(descriptor: int) -> None:
    import fcntl

    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    os.fsync(descriptor)


INSTEAD: dict[str, dict[str, dict[str, Any]]] = {
    "win32": {"sys": {"platform": "win32"}, "os": {"name": "nt", "fsync": _fsync, "O_BINARY": 0}},
    "darwin": {"sys": {"platform": "darwin"}},
}


def _is_ours(name: object) -> bool:
    return isinstance(name, str) and (name == "vjepa_sdk" or name.startswith("vjepa_sdk."))


def _hide() -> None:
    """Give the modules of the package narrowed ones where they import them."""
    import_module, narrowed = builtins.__import__, dict[str, Narrowed]()
    absent, instead = ABSENT[SYSTEM], INSTEAD[SYSTEM]

    def narrowing_import(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> types.ModuleType:
        if level or globals is None or not _is_ours(globals.get("__name__")):
            return import_module(name, globals, locals, fromlist, level)
        if name in BLOCKED[SYSTEM]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = import_module(name, globals, locals, fromlist, level)
        if name not in absent and name not in instead:
            return module
        if name not in narrowed:
            narrowed[name] = Narrowed(module, set(absent.get(name, "").split()), instead.get(name, {}))
        return narrowed[name]

    builtins.__import__ = narrowing_import


def _callers() -> Iterator[str]:
    """Yield the modules of those who called, the nearest first."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        yield str(frame.f_globals.get("__name__"))
        frame = frame.f_back


def _is_below_ours() -> bool:
    return any(map(_is_ours, _callers()))


def _is_asked_by_ours() -> bool:
    """Whether the package itself opens a file: other libraries know of this system's own."""
    return _is_ours(next((name for name in _callers() if name not in (__name__, "pathlib", "os")), None))


def _is_open(path: str) -> bool:
    """Whether this process has a file open or mapped, or one in a directory."""
    place = os.path.realpath(path)
    held = []
    for number in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # it was that of the listing
            continue
    with open("/proc/self/maps", encoding="utf-8") as maps:
        held += [line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/" in line]
    return any(each == place or each.startswith(f"{place}/") for each in held)


def _refuse_as_windows_does(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("open", "os.remove", "os.rename", "os.symlink", "os.mkdir") or not _is_below_ours():
        return
    path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
    if event == "os.remove" and int(arguments[1]) >= 0:  # shutil.rmtree names files from their directory
        path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), path)
    if path.startswith(("/proc/", "/sys/")):
        if not _is_asked_by_ours():
            return
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if event == "os.symlink":
        raise OSError(errno.EPERM, "A required privilege is not held by the client", path)
    paths = [os.fsdecode(each) for each in arguments[:2]] if event == "os.rename" else [path]
    if event in ("os.remove", "os.rename") and any(map(_is_open, paths)):
        raise PermissionError(errno.EACCES, "The process cannot access the file: it is being used", path)
    if event == "open" and path and os.path.isdir(path) and _is_asked_by_ours():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    is_made = event in ("os.mkdir", "os.rename") or (event == "open" and int(arguments[2] or 0) & os.O_CREAT)
    if is_made and (_NOT_IN_A_NAME & set(os.path.basename(paths[-1])) or paths[-1].endswith((" ", "."))):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), paths[-1])


def _refuse_as_macos_does(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and str(arguments[0]).startswith(("/proc/", "/sys/")) and _is_asked_by_ours():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), arguments[0])


if SYSTEM:
    _hide()
    inside = False

    def _audit(event: str, arguments: tuple[Any, ...]) -> None:
        global inside
        if inside or not event.startswith(("open", "os.")):
            return
        inside = True  # what the checks themselves open is not checked
        try:
            (_refuse_as_windows_does if SYSTEM == "win32" else _refuse_as_macos_does)(event, arguments)
        finally:
            inside = False

    sys.addaudithook(_audit)
