"""The filter, run by a small BPF machine: what is refused, what is allowed, on both architectures."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from reasonkit.sandbox.worker import seccomp
from reasonkit.sandbox.worker.seccomp import Policy, assemble

CALLS = Policy(processes=False, execute=False, private_pids=True)
EXEC = Policy(processes=False, execute=True, private_pids=True)
CHILDREN = Policy(processes=True, execute=True, private_pids=True)
SHARED = Policy(processes=False, execute=False, private_pids=False)
ALLOW, KILL = 0x7FFF0000, 0x80000000
TABLES = (
    seccomp.OTHER_PROCESSES, seccomp.NAMESPACES_AND_MOUNTS, seccomp.KERNEL_SURFACE, seccomp.CHANNELS_TO_OTHERS,
    seccomp.ABSENT, seccomp.NEW_PROCESSES, seccomp.EXEC, seccomp.GROUP_ESCAPES, seccomp.CLONE, seccomp.BY_ARGUMENT,
)  # fmt: skip
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def verdict(
    program: bytes, machine: str, number: int, arguments: tuple[int, ...] = (), arch: int | None = None
) -> int:
    """What the kernel would return: classic BPF over struct seccomp_data."""
    arch = seccomp.AUDIT_ARCH[machine] if arch is None else arch
    padded = [argument & (2**64 - 1) for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *padded)
    instructions = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    position = accumulator = 0
    while True:
        code, yes, no, value = instructions[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return value
        elif code == 0x05:
            position += value
        else:
            holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x45: bool(accumulator & value)}[
                code
            ]
            position += yes if holds else no


def refused(error: int) -> int:
    return 0x00050000 | error


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def number(name: str, machine: str) -> int:
    for table in TABLES:
        if name in table:
            found = table[name][("x86_64", "aarch64").index(machine)]
            assert found is not None
            return found
    raise KeyError(name)


def test_every_denied_call_is_refused_and_its_neighbours_are_not(machine: str) -> None:
    program = assemble(CALLS, machine)
    column = ("x86_64", "aarch64").index(machine)
    everything = {**seccomp.OTHER_PROCESSES, **seccomp.NAMESPACES_AND_MOUNTS, **seccomp.KERNEL_SURFACE}
    everything |= seccomp.CHANNELS_TO_OTHERS | seccomp.NEW_PROCESSES | seccomp.EXEC
    denied = {entry[column] for entry in everything.values() if entry[column] is not None}
    absent = {entry[column] for entry in seccomp.ABSENT.values()}
    special = {entry[column] for table in (seccomp.CLONE, seccomp.BY_ARGUMENT) for entry in table.values()}
    for call in range(seccomp.CEILING + 1):
        expected = (
            refused(errno.EPERM) if call in denied else refused(errno.ENOSYS) if call in absent else ALLOW
        )
        if call not in special:
            assert verdict(program, machine, call) == expected, call


@pytest.mark.parametrize("call", [457, 462, 500, 1023])
def test_calls_of_later_kernels_do_not_exist(machine: str, call: int) -> None:
    assert verdict(assemble(CHILDREN, machine), machine, call) == refused(errno.ENOSYS)


def test_other_architectures_end_the_job(machine: str) -> None:
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[machine]
    i386 = 0x40000003
    for arch in (seccomp.AUDIT_ARCH[other], i386):
        assert verdict(assemble(CHILDREN, machine), machine, 0, arch=arch) == KILL
    if machine == "x86_64":
        assert verdict(assemble(CHILDREN, machine), machine, seccomp.X32_BIT | 39) == KILL


def test_threads_always_processes_on_request_namespaces_never(machine: str) -> None:
    clone = number("clone", machine)
    thread, child, namespace = 0x3D0F00, 17, 0x10000000 | 17
    for policy, forks in ((CALLS, False), (EXEC, False), (CHILDREN, True)):
        program = assemble(policy, machine)
        assert verdict(program, machine, clone, (thread,)) == ALLOW
        assert verdict(program, machine, clone, (child,)) == (ALLOW if forks else refused(errno.EPERM))
        assert verdict(program, machine, clone, (namespace,)) == refused(errno.EPERM)
        assert verdict(program, machine, clone, (namespace | 0x10000,)) == refused(errno.EPERM)


def test_exec_only_where_it_is_asked_for(machine: str) -> None:
    execve = number("execve", machine)
    assert verdict(assemble(CALLS, machine), machine, execve) == refused(errno.EPERM)
    assert verdict(assemble(EXEC, machine), machine, execve) == ALLOW


def test_calls_by_pid_reach_only_oneself(machine: str) -> None:
    program = assemble(SHARED, machine, own_pid=4242)
    for name in ("prlimit64", "sched_setaffinity"):
        assert verdict(program, machine, number(name, machine), (0,)) == ALLOW
        assert verdict(program, machine, number(name, machine), (1,)) == refused(errno.EPERM)
    for name in ("kill", "tgkill"):
        assert verdict(program, machine, number(name, machine), (4242,)) == ALLOW
        for other in (1, 4241, -1, -4242):
            assert verdict(program, machine, number(name, machine), (other,)) == refused(errno.EPERM)
    assert verdict(program, machine, number("setsid", machine)) == refused(errno.EPERM)


def test_terminal_injection_is_refused(machine: str) -> None:
    ioctl, inject, size = number("ioctl", machine), 0x5412, 0x5413
    program = assemble(CHILDREN, machine)
    assert verdict(program, machine, ioctl, (0, inject)) == refused(errno.EPERM)
    assert verdict(program, machine, ioctl, (0, size)) == ALLOW


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_numbers_agree_with_the_system_headers(name: str) -> None:
    header = HEADERS[name]
    if not header.exists():
        pytest.skip(f"{header} is not installed: apt-get install linux-libc-dev")
    defined = {
        call: int(value)
        for call, value in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    }
    column = ("x86_64", "aarch64").index(name)
    checked = 0
    for table in TABLES:
        for call, numbers in table.items():
            if call in defined:
                assert numbers[column] == defined[call], call
                checked += 1
    assert checked > 80
