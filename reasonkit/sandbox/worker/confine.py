"""What a job's own process takes upon itself between fork and the first line of untrusted code.

Limits first, then Landlock, then capabilities, then seccomp last (it forbids some of the calls before it).
What can be is prepared once in the worker; where there is no PID namespace a job may signal only itself, so
its filter is assembled for its own PID.
"""

from __future__ import annotations

import fcntl
import math
import os
import resource
from dataclasses import dataclass
from typing import Any

from reasonkit.sandbox.worker import kernel, landlock, seccomp

_MB = 1 << 20
_OUT_OF_THE_WAY = 150  # a job's process puts its streams on the low numbers before it applies the rules
_MAX_TASKS = 96  # a JVM starts about 25 threads, Node 11
_STACK_BYTES = 120 * _MB  # as far as the stack can grow when the process began with the usual 8 MB

_ETC_READABLE = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime")
_PROC_READABLE = ("cpuinfo", "meminfo", "stat", "version", "filesystems", "sys/vm/overcommit_memory")
_DEVICE_WRITE = landlock.WRITE_FILE | landlock.READ_FILE | landlock.TRUNCATE


@dataclass(frozen=True)
class Walls:
    """What this worker can put around a job. `own_root`: the file system holds nothing that a job may not read;
    `private_pids`: signals cannot leave; `filtered`: seccomp and Landlock are used at all."""

    own_root: bool
    private_pids: bool
    filtered: bool
    landlock_abi: int
    max_tasks: int
    visible: tuple[str, ...]
    box: str
    box_is_mounted: bool


def max_tasks(*, private_user: bool) -> int:
    """RLIMIT_NPROC for a job. It can be tight only where the worker's user is nobody else's: in a user namespace
    of its own from Linux 5.14 on, or a user picked for this worker. Elsewhere it counts all that the user runs."""
    major, minor = (int(part) for part in os.uname().release.split(".")[:2])
    if private_user and ((major, minor) >= (5, 14) or os.getuid() >= 61184):
        return _MAX_TASKS
    running = sum(1 for name in os.listdir("/proc") if name.isdigit())
    return running + 1024


class Confinement:
    def __init__(self, walls: Walls) -> None:
        self.walls = walls
        self._rules = -1
        if walls.filtered and walls.own_root and walls.landlock_abi:
            # A tmpfs of T1 is mounted at the box later: Landlock looks through the mount at the folder above it.
            writable = os.path.dirname(walls.box) if walls.box_is_mounted else walls.box
            rules = landlock.ruleset(
                walls.landlock_abi, {"/": landlock.READ, writable: landlock.FULL, **_device_rules()}
            )
            self._rules = fcntl.fcntl(rules, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
            os.close(rules)
        self._filters: dict[seccomp.Policy, bytes] = {}
        if walls.filtered and walls.private_pids:
            for processes, execute in ((False, False), (False, True), (True, True)):
                policy = seccomp.Policy(processes, execute, private_pids=True)
                self._filters[policy] = seccomp.assemble(policy, kernel.MACHINE)

    def apply(self, job: dict[str, Any]) -> None:
        """In the job's process. `job` is the worker's order, not the job's payload."""
        _limit_resources(job, self.walls.max_tasks)
        if not self.walls.filtered:
            return
        if self.walls.landlock_abi:
            self._apply_landlock()
        kernel.set_capabilities(0)
        policy = seccomp.Policy(job["processes"], job["kind"] == "exec", self.walls.private_pids)
        program = self._filters.get(policy) or seccomp.assemble(policy, kernel.MACHINE, os.getpid())
        seccomp.install(program)

    def _apply_landlock(self) -> None:
        rules = self._rules
        if rules < 0:
            rules = landlock.ruleset(self.walls.landlock_abi, self._shared_root_rules())
        landlock.restrict(rules)
        os.close(rules)

    def _shared_root_rules(self) -> dict[str, int]:
        """On the host's own file system: what the tree of a namespace would hold, and nothing else."""
        rules = dict.fromkeys(("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"), landlock.READ)
        rules |= dict.fromkeys(self.walls.visible, landlock.READ)
        rules |= {f"/etc/{name}": landlock.READ for name in _ETC_READABLE}
        rules |= {f"/etc/{name}": landlock.READ for name in os.listdir("/etc") if name.startswith("java-")}
        rules |= {f"/proc/{name}": landlock.READ for name in _PROC_READABLE}
        rules |= {f"/proc/{os.getpid()}": landlock.READ}
        return {**rules, **_device_rules(), self.walls.box: landlock.FULL}


def _device_rules() -> dict[str, int]:
    return {f"/dev/{name}": _DEVICE_WRITE for name in ("null", "zero", "full", "random", "urandom")}


def _limit_resources(job: dict[str, Any], tasks: int) -> None:
    cpu = math.ceil(job["cpu_seconds"]) + 1  # the worker decides to the millisecond; this holds if it cannot
    _limit(resource.RLIMIT_CPU, cpu)
    if job["address_space"]:
        _limit(resource.RLIMIT_AS, job["memory_mb"] * _MB)
    _limit(resource.RLIMIT_FSIZE, job["box_mb"] * _MB)
    _limit(resource.RLIMIT_NOFILE, 256)
    _limit(resource.RLIMIT_NPROC, tasks)
    _limit(resource.RLIMIT_STACK, _STACK_BYTES)
    for none_at_all in (resource.RLIMIT_CORE, resource.RLIMIT_MSGQUEUE, resource.RLIMIT_RTPRIO):
        _limit(none_at_all, 0)
    _limit(resource.RLIMIT_MEMLOCK, 1 << 16)
    _limit(resource.RLIMIT_SIGPENDING, 256)


def _limit(which: int, value: int) -> None:
    """Never above what this machine already allows."""
    _, hard = resource.getrlimit(which)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (bound, bound))
