"""What goes into the sandbox and what comes out: jobs, limits, results. Plain data, no behaviour.

Everything that a program does, however hostile, becomes a `RunStatus`; exceptions are kept for the
sandbox itself (no toolchain, no tier, closed). Expected answers have no place in a job: only inputs
go in, only outputs come out, and whoever asked compares them outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class RunStatus(StrEnum):
    OK = "ok"
    RUNTIME_ERROR = "runtime_error"
    COMPILE_ERROR = "compile_error"
    CPU_TIMEOUT = "cpu_timeout"
    WALL_TIMEOUT = "wall_timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    SANDBOX_ERROR = "sandbox_error"


@dataclass(frozen=True)
class Limits:
    """`cpu_seconds` decides verdicts: a busy machine does not use it up. `wall_seconds` only catches programs
    that sleep or block, and does not count the time that a job waits for a core."""

    cpu_seconds: float = 10.0
    wall_seconds: float = 30.0
    memory_mb: int = 1024
    output_bytes: int = 1_000_000
    """Per call or program run: value and printed text together. Also the most that each collected file may hold
    is 16 times this."""
    processes: bool = False
    """Allow child processes (threads are always allowed)."""


@dataclass(frozen=True)
class CallJob:
    """Python code run once, then called for each input, all in one process.

    `entry` is a function name, `Solution.method`, or None: the code is then a program, run from the start for
    each input, which is its standard input. An input of a function is the list of its positional arguments, or
    `{"args": [...], "kwargs": {...}}`. `limits.cpu_seconds` covers the whole job, `per_input_cpu` one input;
    after an input that kills the process the rest runs in a new one.
    """

    code: str
    entry: str | None
    inputs: tuple[Any, ...]
    limits: Limits = Limits()
    per_input_cpu: float | None = None


@dataclass(frozen=True)
class ProgramJob:
    """A program in any language of `languages()`, in a process of its own. `files` are placed in its folder under
    relative names; `collect` are patterns (`out/*.txt`) of files to hand back."""

    language: str
    code: str
    stdin: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    args: tuple[str, ...] = ()
    limits: Limits = Limits()
    collect: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScriptJob:
    """A solution and a script of assertions, or of pytest tests, that reaches it from another process.

    `prefix` is code of the source, which stands before both. The script names what the solution defines, or imports
    it from `solution`.
    """

    code: str
    script: str
    prefix: str = ""
    pytest: bool = False
    limits: Limits = Limits()
    """Of each of the two processes."""


@dataclass(frozen=True)
class ScriptResult:
    """`status` is OK where the script ran to its end, passed or not. `tamperable`: the solution's own word decided
    about some of it. `inseparable` says what the script does that it cannot do from outside the solution."""

    status: RunStatus
    passed: bool = False
    error: str = ""
    tamperable: bool = False
    inseparable: str = ""


@dataclass(frozen=True)
class CallResult:
    """`value` is plain JSON (see `plain`); `cpu_seconds` is what the job itself reported."""

    status: RunStatus
    value: Any = None
    stdout: str = ""
    error: str = ""
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class ProgramResult:
    status: RunStatus
    stdout: str = ""
    stderr: str = ""
    return_code: int | None = None
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    compile_output: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    tests: Mapping[str, str] = field(default_factory=dict)
    """Of pytest: what became of each test, by the report of a process that code under test shares."""
