"""The system calls that a job may not make, as a BPF program assembled here.

A deny list over the whole table: each call up to `CEILING` was read and either lies in one of the groups
below or is harmless to a process without privileges, without sockets and in a file system of its own; a call
newer than `CEILING` does not exist for a job (ENOSYS), so a kernel update opens nothing. Numbers for x86_64 and
aarch64; any other architecture, and 32-bit or x32 calls on these, end the job.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from dataclasses import dataclass

from reasonkit.sandbox.worker import kernel

CEILING = 456  # futex_requeue, Linux 6.7; what came later (statmount, listmount, lsm_*) is introspection

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000

# name: (x86_64, aarch64); None where the architecture has no such call.
Numbers = dict[str, tuple[int | None, int | None]]

OTHER_PROCESSES: Numbers = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "ioprio_set": (251, 30),
    "setpriority": (141, 140), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}  # fmt: skip

NAMESPACES_AND_MOUNTS: Numbers = {
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "swapon": (167, 224), "swapoff": (168, 225), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "sethostname": (170, 161), "setdomainname": (171, 162), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "uselib": (134, None), "vhangup": (153, 58),
}  # fmt: skip

KERNEL_SURFACE: Numbers = {
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "seccomp": (317, 277),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "reboot": (169, 142), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "syslog": (103, 116),
    "acct": (163, 89), "nfsservctl": (180, 42), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "clock_adjtime": (305, 266), "adjtimex": (159, 171), "iopl": (172, None), "ioperm": (173, None),
    "modify_ldt": (154, None), "lookup_dcookie": (212, 18), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450), "personality": (135, 92), "_sysctl": (156, None),
    "sysfs": (139, None), "ustat": (136, None),
}  # fmt: skip

CHANNELS_TO_OTHERS: Numbers = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183), "mq_notify": (244, 184), "mq_getsetattr": (245, 185),
}  # fmt: skip

# Callers ask for these and fall back politely when the kernel does not have them.
ABSENT: Numbers = {
    "clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}  # fmt: skip

NEW_PROCESSES: Numbers = {"fork": (57, None), "vfork": (58, None)}
EXEC: Numbers = {"execve": (59, 221), "execveat": (322, 281)}

# Without a PID namespace: what would reach processes outside, or let a child slip out of the job's group.
GROUP_ESCAPES: Numbers = {
    "setsid": (112, 157), "setpgid": (109, 154), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}  # fmt: skip

CLONE: Numbers = {"clone": (56, 220)}
BY_ARGUMENT: Numbers = {
    "prlimit64": (302, 261), "sched_setaffinity": (203, 122), "prctl": (157, 167), "ioctl": (16, 29),
    "kill": (62, 129), "tgkill": (234, 131), "socketpair": (53, 199),
}  # fmt: skip

NEW_NAMESPACES = 0x7E020000
CLONE_THREAD = 0x00010000
# Names, timer slack, memory labels and read-only questions: what language runtimes ask for. Not PR_SET_PDEATHSIG,
# by which a job dies with its worker.
PRCTL_ALLOWED = (2, 3, 15, 16, 21, 23, 27, 29, 30, 38, 39, 40, 41, 42, 0x53564D41)
IOCTL_DENIED = (0x5412, 0x541C, 0x540E)  # TIOCSTI, TIOCLINUX, TIOCSCTTY
AF_UNIX = 1


@dataclass(frozen=True)
class Policy:
    """`processes` allows fork, `execute` allows exec; `private_pids` says that a PID namespace confines signals."""

    processes: bool
    execute: bool
    private_pids: bool


_LOAD, _EQUAL, _GREATER, _BITS, _JUMP, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x05, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH = 0, 4


def _argument(index: int) -> int:
    return 16 + 8 * index  # the low half; both architectures are little-endian


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def _refuse(error: int) -> bytes:
    return _op(_RETURN, _ERRNO | error)


_PASS = _op(_RETURN, _ALLOW)


def _only_values(argument: int, allowed: tuple[int, ...]) -> bytes:
    checks = b"".join(_op(_EQUAL, value & 0xFFFFFFFF, 0, 1) + _PASS for value in allowed)
    return _op(_LOAD, _argument(argument)) + checks + _refuse(errno.EPERM)


def _not_values(argument: int, denied: tuple[int, ...]) -> bytes:
    checks = b"".join(_op(_EQUAL, value, 0, 1) + _refuse(errno.EPERM) for value in denied)
    return _op(_LOAD, _argument(argument)) + checks + _PASS


def _clone_rule(processes: bool) -> bytes:
    flags = _op(_LOAD, _argument(0)) + _op(_BITS, NEW_NAMESPACES, 0, 1) + _refuse(errno.EPERM)
    if processes:
        return flags + _PASS
    return flags + _op(_BITS, CLONE_THREAD, 1, 0) + _refuse(errno.EPERM) + _PASS


def assemble(policy: Policy, machine: str, own_pid: int = 0) -> bytes:
    """The filter's instructions. Without `private_pids`, `own_pid` is the only process that may be signalled."""
    column = ("x86_64", "aarch64").index(machine)
    head = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, AUDIT_ARCH[machine], 1, 0),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        head += [_op(_BITS, X32_BIT, 0, 1), _op(_RETURN, _KILL)]
    head += [_op(_GREATER, CEILING, 0, 1), _refuse(errno.ENOSYS)]
    return b"".join(head) + _search(sorted(_rules(policy, column, own_pid).items()))


def _search(rules: list[tuple[int, bytes]]) -> bytes:
    """Binary, not one after the other: the kernel runs the filter for every number when it is installed."""
    if len(rules) == 1:
        number, body = rules[0]
        return _op(_EQUAL, number, 0, len(body) // 8) + body + _PASS
    middle = len(rules) // 2
    low, high = _search(rules[:middle]), _search(rules[middle:])
    return _op(_GREATER, rules[middle - 1][0], 0, 1) + _op(_JUMP, len(low) // 8) + low + high


def _rules(policy: Policy, column: int, own_pid: int) -> dict[int, bytes]:
    """What becomes of each call that is not simply allowed, by its number."""
    denied = {**OTHER_PROCESSES, **NAMESPACES_AND_MOUNTS, **KERNEL_SURFACE, **CHANNELS_TO_OTHERS}
    denied |= {} if policy.processes else NEW_PROCESSES
    denied |= {} if policy.execute or policy.processes else EXEC
    denied |= {} if policy.private_pids else GROUP_ESCAPES
    named = dict.fromkeys(denied, _refuse(errno.EPERM)) | dict.fromkeys(ABSENT, _refuse(errno.ENOSYS))
    named |= {
        "clone": _clone_rule(policy.processes),
        # The worker runs under the same user: these calls would reach it by its PID.
        "prlimit64": _only_values(0, (0,)),
        "sched_setaffinity": _only_values(0, (0,)),
        "prctl": _only_values(0, PRCTL_ALLOWED),
        "ioctl": _not_values(1, IOCTL_DENIED),
        "socketpair": _only_values(0, (AF_UNIX,)),
    }
    if not policy.private_pids:
        named["kill"] = _only_values(0, (own_pid, 0))  # 0: the job's own process group
        named["tgkill"] = _only_values(0, (own_pid,))
    table = {**denied, **ABSENT, **CLONE, **BY_ARGUMENT}
    numbered = ((table[name][column], body) for name, body in named.items())
    return {number: body for number, body in numbered if number is not None}


def install(program: bytes) -> None:
    """From here on the calling process and its children are under the filter. Needs no_new_privs."""
    instructions = ctypes.create_string_buffer(program, len(program))
    descriptor = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    holder = ctypes.create_string_buffer(descriptor, len(descriptor))
    mode_filter = 2
    kernel.prctl(kernel.PR_SET_SECCOMP, mode_filter, ctypes.addressof(holder))
