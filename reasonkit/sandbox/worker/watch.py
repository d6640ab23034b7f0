"""From fork to the last process reaped: deadlines, memory, and an end that nothing of the job survives.

CPU time is read from the kernel's clock of the job's processes and decides. The wall limit counts only the time that the
job did not spend waiting for a core, so that a busy machine does not turn a slow answer into a wrong one; ten times
the limit is final all the same.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any

from reasonkit.sandbox.worker.box import Box

_TICK = 0.02
_DISK_TICK = 0.1
_WALL_BACKSTOP = 10


@dataclass
class Ending:
    code: int  # exit status, or minus the signal
    cpu: float
    wall: float
    stopped: str | None  # cpu, wall, memory, disk; killed: the other side asked for it


class HungUp(Exception):
    """Nobody is left to work for."""


def supervise(
    pid: int, job: dict[str, Any], control: socket.socket, box: Box, *, private_pids: bool
) -> Ending:
    started = time.monotonic()
    stopped = _wait(pid, job, control, box, started)
    code, cpu = _end_all(pid, private_pids=private_pids)
    return Ending(code, cpu, time.monotonic() - started, stopped)


def _wait(pid: int, job: dict[str, Any], control: socket.socket, box: Box, started: float) -> str | None:
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(control, select.POLLIN)
    # One process with bounded addresses needs no watching between its deadlines.
    family = job["processes"] or not job["address_space"]
    disk_due = started + _DISK_TICK
    cores = os.cpu_count() or 1
    try:
        while True:
            used = _family_cpu() if family else _cpu_of(pid)
            elapsed = time.monotonic() - started
            if used > job["cpu_seconds"]:
                return "cpu"
            if elapsed > job["wall_seconds"] and (
                elapsed - _waited_for_core(pid) > job["wall_seconds"]
                or elapsed > job["wall_seconds"] * _WALL_BACKSTOP
            ):
                return "wall"
            if family and _family_megabytes() > job["memory_mb"]:
                return "memory"
            if not box.mounted and time.monotonic() > disk_due:
                if box.used_megabytes() > job["box_mb"]:
                    return "disk"
                disk_due = time.monotonic() + _DISK_TICK
            pause = max((job["cpu_seconds"] - used) / cores, 0.004)
            pause = min(pause, max(job["wall_seconds"] - elapsed, 0.05))
            if family:
                pause = min(pause, _TICK)
            elif not box.mounted:
                pause = min(pause, _DISK_TICK)
            ready = dict(poll.poll(pause * 1000))
            if handle in ready:
                return None
            if control.fileno() in ready:
                if not control.recv(64):
                    raise HungUp
                return "killed"
    finally:
        os.close(handle)


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
