"""What `/health` says: the sandbox's tier and how it stood its attacks, the queue, the processes, the judge."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from reasonkit import __version__
from reasonkit.judge.admission import Admission
from reasonkit.judge.bench import Bench
from reasonkit.judge.board import HELD, IN_PROGRESS, QUEUED, UNSAID, Board
from reasonkit.judge.settings import Settings
from reasonkit.sandbox.tiers import report_at_start


def health_of(settings: Settings, bench: Bench, board: Board, admission: Admission) -> dict[str, Any]:
    sandbox, judge = _sandbox(bench), _judge(settings, bench)
    workers = board.workers()
    well = "failure" not in sandbox and "failure" not in judge and all(worker.alive for worker in workers)
    return {
        "status": "ok" if well else "degraded",
        "version": __version__,
        "sandbox": sandbox,
        "judge": judge,
        "queue": {
            "in_progress": int(board.total(IN_PROGRESS)),
            "held": int(board.total(HELD)),
            "bytes": int(board.total(QUEUED)),
            "limit_bytes": admission.limit * settings.workers,
        },
        "workers": {
            "wanted": settings.workers,
            "restarts": sum(worker.starts - 1 for worker in workers),
            "verifiers_each": settings.grading_workers,
            "processes": [
                {"pid": worker.pid, "alive": worker.alive, "seconds": round(worker.seconds)}
                for worker in workers
            ],
        },
        "legacy_failures": int(board.total(UNSAID)),
    }


def _sandbox(bench: Bench) -> dict[str, Any]:
    opened = bench.grader.sandbox_resource
    if opened.value is None:
        return {"tier": None, "failure": opened.failure or "not opened yet"}
    report = report_at_start()
    probes = report.outcomes.get(opened.value.tier, [])
    return {
        "tier": opened.value.tier,
        "attacks": len(probes),
        "stopped": sum(probe.stopped for probe in probes),
        "unavailable": dict(report.unavailable),
    }


def _judge(settings: Settings, bench: Bench) -> dict[str, Any]:
    if settings.judge is None:
        return {"model": None}
    opened = bench.grader.judge_resource
    address = urlsplit(settings.judge.url)
    about: dict[str, Any] = {
        "model": settings.judge.model,
        "host": address.hostname,  # not the address as given, which may hold a password
        "port": address.port,
    }
    if opened.value is None:
        return {**about, "failure": opened.failure or "not opened yet"}
    return {**about, "canary_false_positives": opened.value.false_positives}
