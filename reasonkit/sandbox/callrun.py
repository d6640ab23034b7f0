"""A CallJob on a worker: turns what came back, and how the process ended, into one result for each input.

Answers count only in order and only well-formed. When an input ends the process, the inputs after it run in a
new one, so that one crash costs one test; the CPU time already used stays used.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reasonkit.errors import UsageError
from reasonkit.sandbox.jobs import CallJob, CallResult, RunStatus
from reasonkit.sandbox.process import JobCancelled, Order, Outcome

_MAX_PROCESSES = 64
# What a job may say of itself; everything else is decided outside.
OWN_WORDS = {
    status.value: status
    for status in (
        RunStatus.OK, RunStatus.RUNTIME_ERROR, RunStatus.COMPILE_ERROR, RunStatus.MEMORY, RunStatus.OUTPUT_LIMIT,
    )
}  # fmt: skip


def check(job: CallJob) -> None:
    for number, given in enumerate(job.inputs):
        if job.entry is None:
            fits = isinstance(given, str)
        else:
            fits = isinstance(given, list | tuple) or (isinstance(given, dict) and "args" in given)
        if not fits:
            wanted = (
                "the text of standard input"
                if job.entry is None
                else 'a list of arguments or {"args": [...]}'
            )
            raise UsageError(f"input {number} of a call job is {given!r:.80}", f"give {wanted}")
    try:
        json.dumps(job.inputs)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"the inputs of a call job must be JSON: {error}", "convert them to plain values"
        ) from error


def run(job: CallJob, perform: Callable[[Order], Outcome], box: str) -> list[CallResult]:
    results: list[CallResult] = []
    cpu_left, wall_left = job.limits.cpu_seconds, job.limits.wall_seconds
    for _ in range(_MAX_PROCESSES):
        limits = replace(job.limits, cpu_seconds=cpu_left, wall_seconds=wall_left)
        outcome = perform(order(job, len(results), limits, box))
        loaded = read_answers(outcome.frames, job, results)
        cpu_left, wall_left = cpu_left - outcome.cpu, wall_left - outcome.wall
        missing = len(job.inputs) - len(results)
        if missing == 0:
            return results
        status, error = _end_of_process(outcome, job)
        last = (
            not loaded or bool(outcome.broken) or status in (RunStatus.SANDBOX_ERROR, RunStatus.WALL_TIMEOUT)
        )
        if status == RunStatus.CPU_TIMEOUT and outcome.code != -signal.SIGPROF:
            last = True
        if cpu_left <= 0 and not last:
            results.append(CallResult(status, error=error, cpu_seconds=outcome.cpu))
            status, error, last = (
                RunStatus.CPU_TIMEOUT,
                "the inputs before this one used up the CPU time",
                True,
            )
            missing -= 1
        results += [CallResult(status, error=error, cpu_seconds=outcome.cpu)] * (missing if last else 1)
        if len(results) >= len(job.inputs):
            return results
    rest = len(job.inputs) - len(results)
    return (
        results
        + [CallResult(RunStatus.RUNTIME_ERROR, error=f"not run: {_MAX_PROCESSES} inputs ended the process")]
        * rest
    )


def order(job: CallJob, first: int, limits: Any, box: str) -> Order:
    header: dict[str, Any] = {
        "code": job.code,
        "entry": job.entry,
        "inputs": job.inputs[first:],
        "first": first,
        "per_input_cpu": job.per_input_cpu,
        "output_bytes": job.limits.output_bytes,
        "env": {"HOME": box, "TMPDIR": f"{box}/tmp"},
        "files": [],
        "stdin_bytes": 0,
    }
    return Order("call", header, limits, most_frames=len(job.inputs) - first + 2)


def read_answers(frames: list[Any], job: CallJob, results: list[CallResult]) -> bool:
    """Adds the answers to `results`, up to the first that is not the next; says whether the code was loaded."""
    loaded = False
    for message in frames:
        if not isinstance(message, dict):
            return loaded
        if message.get("loaded") is True:
            loaded = True
            continue
        status, error = OWN_WORDS.get(str(message.get("status"))), message.get("error")
        if status is None or not isinstance(error, str):
            return loaded
        if message.get("all") is True:
            results += [CallResult(status, error=error)] * (len(job.inputs) - len(results))
            return loaded
        answer = _answer(message, status, error)
        if answer is None or message.get("index") != len(results) or len(results) == len(job.inputs):
            return loaded
        results.append(answer)
    return loaded


def _answer(message: dict[str, Any], status: RunStatus, error: str) -> CallResult | None:
    stdout, cpu = message.get("stdout"), message.get("cpu")
    if not isinstance(stdout, str) or not isinstance(cpu, float):
        return None
    value = message.get("value") if status == RunStatus.OK else None
    return CallResult(status, value, stdout, error, cpu)


def _end_of_process(outcome: Outcome, job: CallJob) -> tuple[RunStatus, str]:
    """What is to be said of an input that got no answer."""
    if outcome.stopped == "killed" and not outcome.broken:
        raise JobCancelled
    if not outcome.ready:
        return RunStatus.SANDBOX_ERROR, outcome.complaint or "the job's process never started"
    if outcome.broken:
        return RunStatus.RUNTIME_ERROR, f"the program wrote nonsense to the results: {outcome.broken}"
    return end_status(outcome.stopped, outcome.code, outcome.cpu, job.limits.cpu_seconds)


def end_status(stopped: str | None, code: int, cpu: float, cpu_limit: float) -> tuple[RunStatus, str]:
    if stopped == "cpu" or code in (-signal.SIGXCPU, -signal.SIGPROF) or cpu > cpu_limit:
        return RunStatus.CPU_TIMEOUT, f"used {cpu:.2f} s of CPU time"
    if stopped == "wall":
        return RunStatus.WALL_TIMEOUT, "slept or blocked for too long"
    if stopped == "memory":
        return RunStatus.MEMORY, "used too much memory"
    if stopped == "disk":
        return RunStatus.OUTPUT_LIMIT, "wrote too much to its folder"
    if code < 0:
        return RunStatus.RUNTIME_ERROR, f"killed by {signal.Signals(-code).name}"
    return RunStatus.RUNTIME_ERROR, f"the process ended with status {code}"
