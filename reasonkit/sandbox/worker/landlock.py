"""Landlock: which files a job may touch, whatever its user may; no TCP; no signals or abstract sockets outwards.

Works without privileges and without namespaces. Each Landlock version adds rights; those that the kernel
does not know are left out and `abi()` says which it knows (signal and socket scopes came with 6, Linux 6.12).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping

from reasonkit.sandbox.worker import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8
MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM, REFER = 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = WRITE_FILE | TRUNCATE
FULL = (
    READ | WRITE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REFER
)
_FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
_RIGHTS_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}


def abi() -> int:
    """The version that the kernel speaks; 0 when it has none or does not let us."""
    try:
        return kernel.syscall("landlock version", _CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    except OSError:
        return 0


def ruleset(version: int, rules: Mapping[str, int]) -> int:
    """A file descriptor of the rules `path -> rights`; paths that are not there for this user are left out."""
    handled = _RIGHTS_OF_ABI[min(version, 5)]
    tcp = 3 if version >= 4 else 0  # bind and connect, allowed nowhere
    scoped = 3 if version >= 6 else 0  # abstract sockets and signals stay inside
    attributes = struct.pack("QQQ", handled, tcp, scoped)[: 8 if version < 4 else 16 if version < 6 else 24]
    size = ctypes.c_size_t(len(attributes))
    descriptor = kernel.syscall("landlock ruleset", _CREATE_RULESET, attributes, size, 0)
    for path, rights in rules.items():
        try:
            target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            continue
        allowed = rights & handled & (-1 if os.path.isdir(path) else _FILE_RIGHTS)
        rule = struct.pack("=Qi", allowed, target)
        kernel.syscall("landlock rule", _ADD_RULE, descriptor, _PATH_BENEATH, rule, 0)
        os.close(target)
    return descriptor


def restrict(descriptor: int) -> None:
    """From here on the calling process and its children are under the rules. Needs no_new_privs."""
    kernel.syscall("landlock restrict", _RESTRICT_SELF, descriptor, 0)
