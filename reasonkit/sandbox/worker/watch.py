"""From fork to the last process reaped: deadlines, memory, and an end that nothing of the job survives.

CPU time is read from the kernel's clock of the job's processes and decides. The wall limit counts only the
time that the job did not spend waiting for a core, so that a busy machine does not turn a slow answer into a
wrong one; ten times the limit is final all the same. Both begin when the process says that its walls stand: what
comes before is ours.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any

from reasonkit.sandbox.worker.box import Box

_TICK = 0.02
_DISK_TICK = 0.03  # a gigabyte a second in memory: what is beyond the limit by then is bearable
_WALL_BACKSTOP = 10
_CORES = os.cpu_count() or 1
_PREPARATION_SECONDS = 30.0


@dataclass
class Ending:
    code: int  # exit status, or minus the signal
    cpu: float
    wall: float  # without the time that it waited for a core
    stopped: str | None  # cpu, wall, memory, disk; killed: the other side asked for it


class HungUp(Exception):
    """Nobody is left to work for."""


def await_preparation(pid: int, told: int) -> bytes:
    """What the process says when its walls stand, or why they do not. Nothing where it takes for ever."""
    handle = os.pidfd_open(pid)
    try:
        readable, _, _ = select.select([told, handle], [], [], _PREPARATION_SECONDS)
    finally:
        os.close(handle)
    return os.read(told, 4096) if readable else b""


def supervise(
    pid: int, job: dict[str, Any], control: socket.socket, box: Box, own_cpu: float, *, private_pids: bool
) -> Ending:
    """`own_cpu` are the seconds that the process took for its preparation."""
    started = time.monotonic()
    try:
        stopped = _wait(pid, job, control, box, started, own_cpu)
    except HungUp:
        _end_all(pid, private_pids=private_pids)
        raise
    wall = time.monotonic() - started - _waited_for_core(pid)
    code, cpu = _end_all(pid, private_pids=private_pids)
    return Ending(code, max(cpu - own_cpu, 0.0), max(wall, 0.0), stopped)


def _wait(
    pid: int, job: dict[str, Any], control: socket.socket, box: Box, started: float, own_cpu: float
) -> str | None:
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(control, select.POLLIN)
    # One process with bounded addresses and a bounded folder needs no watching between its deadlines.
    family = job["processes"] or not job["address_space"]
    longest = _TICK if family else math.inf if box.mounted else _DISK_TICK
    disk_due = started + _DISK_TICK
    try:
        while True:
            elapsed = time.monotonic() - started
            used = (_family_cpu() if family else _cpu_of(pid)) - own_cpu
            reason = _exceeded(pid, job, used, elapsed, family=family)
            if reason is None and not box.mounted and started + elapsed > disk_due:
                reason = "disk" if box.overfull(job["box_mb"], _family()) else None
                disk_due = time.monotonic() + _DISK_TICK
            if reason is not None:
                return reason
            cpu_due = max((job["cpu_seconds"] - used) / _CORES, 0.004)
            wall_due = max(job["wall_seconds"] - elapsed, 0.05)
            ready = dict(poll.poll(min(cpu_due, wall_due, longest) * 1000))
            if handle in ready:
                return None
            if control.fileno() in ready:
                if not control.recv(64):
                    raise HungUp
                return "killed"
    finally:
        os.close(handle)


def _exceeded(pid: int, job: dict[str, Any], used: float, elapsed: float, *, family: bool) -> str | None:
    if used > job["cpu_seconds"]:
        return "cpu"
    wall = job["wall_seconds"]
    if elapsed > wall and (elapsed - _waited_for_core(pid) > wall or elapsed > wall * _WALL_BACKSTOP):
        return "wall"
    return "memory" if family and _family_megabytes() > job["memory_mb"] else None


def _end_all(pid: int, *, private_pids: bool) -> tuple[int, float]:
    """Kills until no child is left, and says how `pid` ended and what all of them used."""
    code, cpu = -signal.SIGKILL, 0.0
    while True:
        if private_pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            for child in _children(os.getpid()):
                os.kill(child, signal.SIGKILL)
        try:
            ended, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return code, cpu
        cpu += usage.ru_utime + usage.ru_stime
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)


def _cpu_of(pid: int) -> float:
    """The CPU time of a process with all its threads, from its clock: CPUCLOCK_SCHED of the PID."""
    try:
        return time.clock_gettime(((~pid) << 3) | 2)
    except OSError:
        return 0.0


def _family() -> list[int]:
    pending, found = _children(os.getpid()), []
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending.extend(_children(pid))
    return found


def _children(pid: int) -> list[int]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for task in tasks:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
            found.extend(int(child) for child in file.read().split())
    return found


_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def _family_cpu() -> float:
    return sum(_cpu_of(pid) + _cpu_of_reaped(pid) for pid in _family())


def _cpu_of_reaped(pid: int) -> float:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
        return (int(fields[13]) + int(fields[14])) / _TICKS_PER_SECOND  # cutime, cstime
    return 0.0


def _family_megabytes() -> float:
    """Anonymous and shared memory, not mapped files."""
    kilobytes = 0
    for pid in _family():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith(("RssAnon:", "RssShmem:")):
                    kilobytes += int(line.split()[1])
    return kilobytes / 1024


def _waited_for_core(pid: int) -> float:
    """Seconds that the busiest-waiting thread was ready to run but did not."""
    longest = 0
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                longest = max(longest, int(file.read().split()[1]))
    return longest / 1e9
