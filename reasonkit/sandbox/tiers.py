"""Chooses the strongest walls that hold on this machine, by attacking them.

Strongest first: own namespaces (T1), bubblewrap's (bwrap), none but Landlock and seccomp (T2), a SandboxFusion
server (remote). With none of them, untrusted code is refused unless the caller insists on `unsafe`: limits on
resources, and nothing else.

Both ways out can also be set for a whole process and its children, by REASONKIT_SANDBOX_URL and
REASONKIT_UNSAFE_SANDBOX=1. Neither ever replaces walls that hold.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.sandbox.interface import Sandbox
from reasonkit.sandbox.local import LocalSandbox
from reasonkit.sandbox.probes import ProbeOutcome, Report, assail_all, open_scene
from reasonkit.sandbox.process import WorkerFailed

LOCAL_TIERS = ("T1", "bwrap", "T2")
URL_VARIABLE = "REASONKIT_SANDBOX_URL"
UNSAFE_VARIABLE = "REASONKIT_UNSAFE_SANDBOX"

log = logging.getLogger(__name__)


async def open_sandbox(
    workers: int | None = None, *, unsafe: bool = False, remote_url: str | None = None
) -> Sandbox:
    """The sandbox of the best tier that stands up to the start-up attacks. `workers`: one a core unless given.

    `remote_url` is a SandboxFusion server to use when no local tier holds.
    """
    return await asyncio.to_thread(_open, workers, unsafe, remote_url)


def _open(workers: int | None, unsafe: bool, remote_url: str | None) -> Sandbox:
    report = _at_start()
    if report.tier is not None:
        return LocalSandbox(report.tier, workers)
    url = remote_url or os.environ.get(URL_VARIABLE)
    if url:
        from reasonkit.sandbox.fusion import RemoteSandbox  # httpx is only needed here

        return RemoteSandbox(url)
    if unsafe or _truth(UNSAFE_VARIABLE):
        log.warning("code runs WITHOUT walls on this machine: limits on resources are all there is")
        return LocalSandbox("unsafe", workers)
    raise ReasonkitError(
        "this machine offers no wall to put around untrusted code\n" + describe(report),
        "run as a user that may make user namespaces, or `apt-get install bubblewrap`, or name a SandboxFusion"
        f" server ({URL_VARIABLE}=http://HOST:8080), or accept the risk (reasonkit verify --unsafe-sandbox, or"
        f" {UNSAFE_VARIABLE}=1 for any command)",
    )


def _truth(variable: str) -> bool:
    given = os.environ.get(variable, "0")
    if given not in ("0", "1"):
        raise UsageError(f"{variable} is '{given}'", "set it to 1 or 0, or leave it unset")
    return given == "1"


@functools.cache
def _at_start() -> Report:
    """Machines do not change their walls while a process runs: attacked once."""
    return _survey(everything=False)


def report_at_start() -> Report:
    """What the attacks found that `open_sandbox` chose its tier by."""
    return _at_start()


def probe() -> Report:
    """Every attack on every local tier, for `reasonkit doctor`. Takes a few seconds."""
    return _survey(everything=True)


def _survey(*, everything: bool) -> Report:
    report = Report()
    for tier in LOCAL_TIERS:
        if report.tier is not None and not everything:
            break
        if sys.platform != "linux":
            report.unavailable[tier] = f"needs Linux, this is {sys.platform}"
            continue
        try:
            outcomes = probe_tier(tier, everything=everything)
        except (WorkerFailed, ReasonkitError, OSError) as error:
            report.unavailable[tier] = str(error).strip().splitlines()[-1]
            continue
        report.outcomes[tier] = outcomes
        if report.tier is None and not report.escaped(tier):
            report.tier = tier
    return report


def probe_tier(tier: str, *, everything: bool = True) -> list[ProbeOutcome]:
    """The attacks on one tier; WorkerFailed or ReasonkitError where it cannot even be started."""
    with open_scene() as scene:
        sandbox = LocalSandbox(tier, 1)
        try:
            return assail_all(sandbox, scene, everything=everything)
        finally:
            sandbox.close_blocking()


def describe(report: Report) -> str:
    """One line a tier: why it is not there, or what got through."""
    lines = [f"  {tier}: {why}" for tier, why in report.unavailable.items()]
    for tier, outcomes in report.outcomes.items():
        escaped = report.escaped(tier)
        got_through = "; ".join(f"{outcome.attack}: {outcome.detail}" for outcome in escaped)
        verdict = f"{got_through} got through" if escaped else f"stopped all {len(outcomes)} attacks"
        lines.append(f"  {tier}: {verdict}")
    return "\n".join(lines)
