"""The few Linux calls that the standard library does not wrap, through ctypes.

Every function raises OSError with the kernel's errno, as `os` does. Nothing here decides anything.
"""

from __future__ import annotations

import ctypes
import os
import struct

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CAP_SYS_PTRACE, CAP_SYS_ADMIN = 19, 21
LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

# The same numbers on every architecture from Linux 5.0 on.
_OPENAT2 = 437
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}
MACHINE = os.uname().machine


def _check(outcome: int, what: str) -> int:
    if outcome < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")
    return outcome


def syscall(what: str, number: int, *arguments: object) -> int:
    return _check(_syscall(ctypes.c_long(number), *arguments), what)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    options = None if data is None else data.encode()
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), options), f"mount {source} on {target}")


def unmount(target: str) -> None:
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"unmount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    syscall("pivot_root", _PIVOT_ROOT[MACHINE], os.fsencode(new_root), os.fsencode(put_old))


def prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *padded), f"prctl {option}")


def set_capabilities(capabilities: int) -> None:
    """Permitted and effective become exactly this set; nothing is inherited by an exec."""
    header = struct.pack("Ii", 0x20080522, 0)
    low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
    syscall("capset", _CAPSET[MACHINE], header, struct.pack("6I", low, low, 0, high, high, 0))


def drop_bounding_set() -> None:
    """No exec of this process or its children can ever gain a capability."""
    for capability in range(LAST_CAPABILITY + 1):
        if _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            return  # past the last capability that this kernel knows
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def open_beneath(directory: int, name: str) -> int:
    """Opens for reading what truly lies beneath `directory`: no symlinks, no `..`, no FIFO that blocks."""
    resolve_beneath, resolve_no_symlinks, resolve_no_magiclinks, resolve_no_xdev = 0x08, 0x04, 0x02, 0x01
    how = struct.pack(
        "QQQ",
        os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY,
        0,
        resolve_beneath | resolve_no_symlinks | resolve_no_magiclinks | resolve_no_xdev,
    )
    return syscall("openat2", _OPENAT2, directory, os.fsencode(name), how, ctypes.c_size_t(len(how)))
