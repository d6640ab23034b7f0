"""The child side of the verifier pool: judges one text at a time, and may be killed at any of them.

Run as `python -m reasonkit.verifiers.worker`, freshly exec'd, so it shares neither threads nor CUDA state
with the process that trains. It preloads the slow imports once and then forks the process that judges:
a hostile text kills only that fork, and its successor is ready in milliseconds instead of a second.

The CPU limit of a verdict is a kernel timer (ITIMER_PROF) whose default action ends the process, so it
holds inside C code too, and a busy machine cannot turn a right answer into a timeout. Wall-clock limits
are the parent's business (pool.py). Jobs come in as pickles from the parent, which is trusted; verdicts go
back as JSON, because what goes back depends on text that is not.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pickle
import resource
import select
import signal
import struct
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from reasonkit.errors import ReasonkitError
from reasonkit.records import Record, Verdict
from reasonkit.registry import load

_ALGEBRA = (
    "math_verify",
    "sympy",
    # What sympy loads on demand:
    "sympy.assumptions.wrapper",
    "sympy.combinatorics",
    "sympy.physics.units",
    "sympy.sets.setexpr",
)

PRELOADS: dict[str, tuple[str, ...]] = {
    "reasonkit.verifiers.math": _ALGEBRA,
    "reasonkit.verifiers.math_reasoning360": _ALGEBRA,
    "reasonkit.verifiers.reasoning_gym": ("reasoning_gym",),
}
"""Slow imports of a verifier's module, made before its clock starts."""

MEMORY_BYTES = 4 << 30
LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Job:
    """One text to judge, with what judges it and the CPU seconds it may take."""

    number: int
    target: str
    record: Record
    text: str
    cpu_seconds: float


RECALL = LENGTH.pack(0)
"""An empty frame: forget the jobs not yet begun, another worker has them."""


def pack(jobs: list[Job]) -> bytes:
    """One frame of jobs, as the worker reads it."""
    body = pickle.dumps(jobs, protocol=5)
    return LENGTH.pack(len(body)) + body


def verdict_of(verifier: Callable[[Record, str], Verdict], record: Record, text: str) -> Verdict:
    """The verdict, with whatever the verifier raised turned into one that names the cause."""
    try:
        verdict = verifier(record, text)
    except (MemoryError, RecursionError) as error:
        return Verdict.timeout(f"the answer is too deep or too large to check ({type(error).__name__})")
    except Exception as error:  # the boundary of the pool: every cause is reported, none is a silent 0
        return Verdict.error(f"{type(error).__name__}: {error}")
    if not isinstance(verdict, Verdict):
        return Verdict.error(f"the verifier returned {type(verdict).__name__}, not a Verdict")
    if not 0.0 <= verdict.score <= 1.0:
        return Verdict.error(f"the verifier returned the score {verdict.score}, which is not in [0, 1]")
    return verdict


def main(preloads: list[str]) -> None:
    """Preload, then keep one judging fork alive until the parent closes its end."""
    commands, answers = os.dup(0), os.dup(1)
    for name in preloads:
        importlib.import_module(name)
    _silence()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.collect()
    gc.freeze()
    _send(answers, {"ready": True})
    while True:
        child = os.fork()
        if child == 0:
            _serve(commands, answers)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            return
        _send(answers, {"died": os.WTERMSIG(status)})


def _silence() -> None:
    """Send what libraries print to nowhere, so that it neither lands between verdicts nor fills a terminal."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)


def _serve(commands: int, answers: int) -> NoReturn:
    """Judge jobs in the order of their arrival; leave when the parent has closed the pipe."""
    waiting: deque[Job] = deque()
    verifiers: dict[str, Callable[[Record, str], Verdict]] = {}
    while True:
        if waiting and not select.select([commands], [], [], 0)[0]:
            job = waiting.popleft()
            _send(answers, {"job": job.number, "verdict": asdict(_run(job, verifiers))})
            continue
        frame = _read_frame(commands)
        if frame is None:
            os._exit(0)
        dropped = [job.number for job in waiting]
        waiting.clear()
        if frame:
            waiting.extend(pickle.loads(frame))
        else:
            _send(answers, {"recalled": dropped})


def _run(job: Job, verifiers: dict[str, Callable[[Record, str], Verdict]]) -> Verdict:
    if job.target not in verifiers:
        for name in PRELOADS.get(job.target.partition(":")[0], ()):
            importlib.import_module(name)
        try:
            verifiers[job.target] = load(job.target)
        except (ReasonkitError, ImportError) as error:
            return Verdict.error(f"verifier '{job.target}' cannot be loaded: {error}")
    signal.setitimer(signal.ITIMER_PROF, job.cpu_seconds)
    verdict = verdict_of(verifiers[job.target], job.record, job.text)
    signal.setitimer(signal.ITIMER_PROF, 0)
    return verdict


def _send(answers: int, message: dict[str, Any]) -> None:
    line = memoryview(json.dumps(message, default=str).encode() + b"\n")
    while line:
        line = line[os.write(answers, line) :]


def _read_frame(commands: int) -> bytes | None:
    """The next frame, or None once the parent has gone."""
    header = _read_exactly(commands, LENGTH.size)
    return None if header is None else _read_exactly(commands, LENGTH.unpack(header)[0])


def _read_exactly(commands: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(commands, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main(sys.argv[1:])
