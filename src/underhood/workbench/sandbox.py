"""What a learner's process may not do. ``lock`` is called in that process, before the learner's file runs, and cannot be undone.

Everywhere: an audit hook refuses connections, new processes, and writing outside the temporary folder. On Linux the kernel does so as well (Landlock for
files, seccomp for sockets, programs and signals) and bounds memory, processor time and file sizes. Where the kernel does not help this is a guard against
carelessness, not a sandbox: ``strength`` says which it is.
"""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

MEMORY = 6 * 2**30  # bytes of address space; torch alone reserves two
PROCESSOR = 240  # seconds
FILE = 16 * 2**20  # bytes of one file
OPEN_FILES = 256

_WRITING = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "shutil.rmtree", "shutil.move"}
_NEVER = {
    *("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn", "os.kill", "os.killpg"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto"),
}


class _Calls(NamedTuple):
    """System calls by number on one kind of processor. ``denied``: sockets, programs, signals, tracing, mounts, name spaces, keys, rings."""

    architecture: int
    denied: tuple[int, ...]
    clone: int  # allowed for threads only
    tgkill: int  # allowed within this process only


_CALLS = {
    "x86_64": _Calls(
        0xC000003E,
        (*range(41, 45), 46, 49, 50, 53, 57, 58, 59, 62, 101, 129, 165, 166, 200, 248, 250, 272, 297, 298, 308, 310, 311, 321, 322, 424, 425),
        clone=56,
        tgkill=234,
    ),
    "aarch64": _Calls(
        0xC00000B7,
        (39, 40, 97, 117, 129, 130, 138, *range(198, 204), 206, 211, 217, 219, 221, 240, 241, 268, 270, 271, 280, 281, 424, 425),
        clone=220,
        tgkill=131,
    ),
}
_CLONE3 = 435


def lock(folder: Path, hidden: Sequence[str]) -> str:
    """Lock this process: writing only in ``folder``, the files ``hidden`` unreadable. Returns how strong it is: "kernel" or "guard"."""
    strong = False
    if sys.platform == "linux":
        _limits()
        strong = _landlock(folder, hidden) and _seccomp()
    sys.addaudithook(_Guard(folder, hidden))
    return "kernel" if strong else "guard"


class _Guard:
    """The audit hook."""

    def __init__(self, folder: Path, hidden: Sequence[str]) -> None:
        self.folder, self.hidden = os.path.realpath(folder), list(hidden)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            self._open(*args[:3])
        elif event in _WRITING and args and isinstance(args[0], (str, bytes, os.PathLike)):
            self._inside(args[0])
        elif event in _NEVER:
            raise PermissionError(f"{event} is not allowed here")

    def _open(self, path: Any, mode: Any, flags: Any) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        if _answers(Path(os.path.realpath(os.fsdecode(path))), self.hidden):
            raise PermissionError("this file would be the answer")
        writing = isinstance(mode, str) and any(c in mode for c in "wax+")
        if writing or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)):
            self._inside(path)

    def _inside(self, path: Any) -> None:
        real = os.path.realpath(os.fsdecode(path))
        if real != os.devnull and not real.startswith(self.folder + os.sep):
            raise PermissionError(f"only the temporary folder may be written, not {real}")


def _limits() -> None:
    import resource

    limits = {"AS": MEMORY, "CPU": PROCESSOR, "FSIZE": FILE, "NOFILE": OPEN_FILES, "CORE": 0}
    for name, most in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (value, value))


# ── Landlock: which files (Linux 5.13 and later) ──────────────────────────────────────────────────────────────────────

_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, read a folder
_ALL = (1 << 13) - 1  # the rights of the first version; later ones are added below as the kernel knows them


def _landlock(folder: Path, hidden: Sequence[str]) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(444, None, 0, 1)
    if version < 1:
        return False
    rights = _ALL | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    attributes = struct.pack("=Q", rights) + (struct.pack("=Q", 3) if version >= 4 else b"")  # and no TCP, either way
    ruleset = libc.syscall(444, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    for path in _readable(hidden):
        _allow(libc, ruleset, path, rights & _READ if os.path.isdir(path) else rights & (1 << 0 | 1 << 2))
    _allow(libc, ruleset, str(Path(__file__).parents[1]), 1 << 3)  # our package's folders may be listed, its files one by one
    _allow(libc, ruleset, str(folder), rights)
    for device in ("/dev/null", "/dev/urandom", "/dev/zero"):
        _allow(libc, ruleset, device, rights & (1 << 1 | 1 << 2))
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges, which the kernel asks for
    good = libc.syscall(446, ruleset, 0) == 0
    os.close(ruleset)
    return bool(good)


def _allow(libc: Any, ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    libc.syscall(445, ruleset, 1, struct.pack("=Qi", rights, place), 0)
    os.close(place)


def _readable(hidden: Sequence[str]) -> list[str]:
    """What Python needs to import: its own folders, the system's libraries, and our package file by file, without what would be the answer."""
    package = Path(__file__).resolve().parents[1]
    folders = {os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, *sys.path) if p and os.path.isdir(p)}
    folders = {f for f in folders if not str(package).startswith(f + os.sep) and f != str(package)}
    system = [p for p in ("/usr", "/lib", "/lib64", "/etc", "/proc", "/sys/devices/system/cpu", "/opt") if os.path.isdir(p)]
    return [*folders, *system, *(str(f) for f in package.rglob("*") if f.is_file() and not _answers(f, hidden))]


def _answers(file: Path, hidden: Sequence[str]) -> bool:
    """Whether ``file`` is one of ``hidden``, or what Python compiled from it."""
    source = file.parent.parent / f"{file.name.split('.')[0]}.py" if file.suffix == ".pyc" else file
    return os.path.realpath(source) in {os.path.realpath(h) for h in hidden}


# ── seccomp: which system calls ───────────────────────────────────────────────────────────────────────────────────────


class _Filter(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_Filter)))


def _seccomp() -> bool:
    calls = _CALLS.get(platform.machine())
    if calls is None:
        return False
    load, equal, at_least, has, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, missing = 0x7FFF0000, 0x00050001, 0x00050000 | 38  # allow; EPERM; ENOSYS, on which libc falls back to clone
    rows = [(load, 0, 0, 4), (equal, 1, 0, calls.architecture), (give, 0, 0, refuse), (load, 0, 0, 0)]
    rows += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]  # the other numbering of x86-64
    for number in calls.denied:
        rows += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    rows += [(equal, 0, 1, _CLONE3), (give, 0, 0, missing)]
    rows += [(equal, 0, 4, calls.clone), (load, 0, 0, 16), (has, 0, 1, 0x10000), (give, 0, 0, allow), (give, 0, 0, refuse)]
    rows += [(equal, 0, 4, calls.tgkill), (load, 0, 0, 16), (equal, 0, 1, os.getpid()), (give, 0, 0, allow), (give, 0, 0, refuse)]
    rows += [(give, 0, 0, allow)]
    program = (_Filter * len(rows))(*(_Filter(*row) for row in rows))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    return bool(libc.prctl(22, 2, ctypes.byref(_Program(len(rows), program)), 0, 0) == 0)
