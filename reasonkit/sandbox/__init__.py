"""Untrusted code, run where it can do no harm: inputs go in, plain outputs come out, comparison happens outside.

    async with await open_sandbox() as sandbox:
        results = await sandbox.call(CallJob("def double(n): return 2 * n", "double", ([21],)))
        results[0].value == 42

`open_sandbox` takes the strongest walls that this machine allows and proves them by attacking them first.
What a program does becomes a `RunStatus`; exceptions are about the sandbox itself.
"""

from reasonkit.sandbox.interface import Sandbox
from reasonkit.sandbox.jobs import (
    CallJob,
    CallResult,
    Limits,
    ProgramJob,
    ProgramResult,
    RunStatus,
    ScriptJob,
    ScriptResult,
)
from reasonkit.sandbox.plain import NotPlain, plain
from reasonkit.sandbox.probes import ProbeOutcome, Report
from reasonkit.sandbox.tiers import open_sandbox, probe
from reasonkit.sandbox.toolchains import languages

__all__ = [
    "CallJob",
    "CallResult",
    "Limits",
    "NotPlain",
    "ProbeOutcome",
    "ProgramJob",
    "ProgramResult",
    "Report",
    "RunStatus",
    "Sandbox",
    "ScriptJob",
    "ScriptResult",
    "languages",
    "open_sandbox",
    "plain",
    "probe",
]
