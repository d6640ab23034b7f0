"""Chooses the strongest walls that hold on this machine, by attacking them.

Strongest first: own namespaces (T1), bubblewrap's (bwrap), none but Landlock and seccomp (T2), a SandboxFusion
server (remote). With none of them, untrusted code is refused unless the caller insists on `unsafe`: limits on
resources, and nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import sys

from reasonkit.errors import ReasonkitError
from reasonkit.sandbox.interface import Sandbox
from reasonkit.sandbox.local import LocalSandbox
from reasonkit.sandbox.probes import ProbeOutcome, Report, assail_all, open_scene
from reasonkit.sandbox.process import WorkerFailed

LOCAL_TIERS = ("T1", "bwrap", "T2")


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
    if remote_url is not None:
        from reasonkit.sandbox.fusion import RemoteSandbox  # httpx is only needed here

        return RemoteSandbox(remote_url)
    if unsafe:
        return LocalSandbox("unsafe", workers)
    raise ReasonkitError(
        "this machine offers no wall to put around untrusted code\n" + describe(report),
        "run as a user that may make user namespaces, or `apt-get install bubblewrap`, or name a SandboxFusion"
        " server, or accept the risk with --unsafe-sandbox",
    )


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
