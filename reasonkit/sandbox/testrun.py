"""A ScriptJob on two workers: the solution in one, the tests in the other, and what they say carried between them.

Two workers, because a worker's walls stand between it and its neighbours: no fork, memory, folder or process is
shared. What the tests ask is passed on as it is; what the solution answers is parsed and written anew, so the tests
are only ever sent whole, bounded JSON.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from reasonkit.sandbox.callrun import OWN_WORDS, end_status
from reasonkit.sandbox.jobs import Limits, RunStatus, ScriptJob, ScriptResult
from reasonkit.sandbox.process import Exchange, JobCancelled, Order, Outcome, WorkerProcess

_PATIENCE = 3
"""Each side also waits while the other one works, so both have this many times the wall limit."""
_MOST_FRAMES = 64
"""That may lie unread: the two take turns."""


def run(
    job: ScriptJob, solution: WorkerProcess, tests: WorkerProcess, cancelled: threading.Event
) -> ScriptResult:
    limits = replace(job.limits, wall_seconds=_PATIENCE * job.limits.wall_seconds)
    source = f"{job.prefix}\n{job.code}" if job.prefix else job.code
    with solution.begin(_order("asked", solution, limits, {"code": source}), cancelled) as asked:
        first = asked.hear()
        if first is None:
            return _ended(asked.run(), limits, cancelled)
        exports = first[0].get("exports") if isinstance(first[0], dict) else None
        if not isinstance(exports, dict):
            asked.stop()
            return _not_loaded(first[0])
        result = _talk(job, limits, exports, asked, tests, cancelled)
        asked.stop()
        return result


def _talk(
    job: ScriptJob,
    limits: Limits,
    exports: dict[str, Any],
    asked: Exchange,
    tests: WorkerProcess,
    cancelled: threading.Event,
) -> ScriptResult:
    header = {"script": job.script, "prefix": job.prefix, "pytest": job.pytest, "exports": exports}
    files = {"test_solution.py": job.script.encode("utf-8", "replace")} if job.pytest else {}
    order = _order("asking", tests, limits, header, files)
    with tests.begin(order, cancelled) as asking:
        while (heard := asking.hear()) is not None:
            message, blob = heard
            if "verdict" in message:
                asking.run()
                return ScriptResult(RunStatus.OK, **message["verdict"])
            asked.say(message, blob)
            answer = asked.hear()
            if answer is None:
                asking.stop()
                return _ended(asked.run(), limits, cancelled)
            asking.say(answer[0] if isinstance(answer[0], dict) else {})
        return _ended(asking.run(), limits, cancelled)


def _order(
    kind: str,
    worker: WorkerProcess,
    limits: Limits,
    header: dict[str, Any],
    files: dict[str, bytes] | None = None,
) -> Order:
    listing = [(name, len(content), 0o600) for name, content in (files or {}).items()]
    env = {"HOME": worker.box, "TMPDIR": f"{worker.box}/tmp"}
    shared = {"output_bytes": limits.output_bytes, "env": env, "files": listing, "stdin_bytes": 0}
    content = b"".join((files or {}).values())
    return Order(kind, {**header, **shared}, limits, content, most_frames=_MOST_FRAMES)


def _not_loaded(message: Any) -> ScriptResult:
    said = message if isinstance(message, dict) else {}
    status = OWN_WORDS.get(str(said.get("failed")), RunStatus.RUNTIME_ERROR)
    return ScriptResult(
        RunStatus.RUNTIME_ERROR if status is RunStatus.OK else status, error=str(said.get("error"))
    )


def _ended(outcome: Outcome, limits: Limits, cancelled: threading.Event) -> ScriptResult:
    """One of the two processes is gone before the tests were through."""
    if cancelled.is_set():
        raise JobCancelled
    if not outcome.ready:
        return ScriptResult(RunStatus.SANDBOX_ERROR, error=outcome.complaint or "a process never started")
    if outcome.broken:
        return ScriptResult(RunStatus.RUNTIME_ERROR, error=f"the solution wrote nonsense: {outcome.broken}")
    status, error = end_status(outcome.stopped, outcome.code, outcome.cpu, limits.cpu_seconds)
    return ScriptResult(status, error=error)
