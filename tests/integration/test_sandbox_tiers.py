"""Which walls are chosen: the strongest that hold here, the next when they do not, none without being told so."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
from pathlib import Path

import pytest

from reasonkit.errors import ReasonkitError
from reasonkit.records import Record, Status, Verdict
from reasonkit.sandbox import (
    CallJob,
    ProbeOutcome,
    Report,
    RunStatus,
    Sandbox,
    open_sandbox,
    tiers,
    toolchains,
)
from reasonkit.sandbox.attacks import ATTACKS
from reasonkit.verifiers import Grader
from tests.fusion_server import serve

ROOT = Path(__file__).resolve().parents[2]
JOB = CallJob("def f(n): return n + 1", "f", ([1],))
ASK_FOR_A_TIER = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from reasonkit.sandbox import CallJob, open_sandbox
async def main():
    async with await open_sandbox(workers=1) as sandbox:
        result = await sandbox.call(CallJob("def f(n): return n + 1", "f", ([1],)))
        print(sandbox.tier, result[0].value)
asyncio.run(main())
"""


def nothing_holds() -> Report:
    escaped = ProbeOutcome("TCP and UDP", False, "it connected")
    return Report(None, {"T2": [escaped]}, {"T1": "no user namespaces"})


async def value_of(sandbox: Sandbox) -> tuple[str, RunStatus, object]:
    async with sandbox:
        result = (await sandbox.call(JOB))[0]
        return sandbox.tier, result.status, result.value


def test_every_tier_here_was_attacked_in_full() -> None:
    outcomes = tiers.probe_tier("T2")
    assert [outcome.attack for outcome in outcomes] == [attack.name for attack in ATTACKS]


def test_without_user_namespaces_the_next_tier_takes_over() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare of util-linux")
    python = toolchains.interpreter(as_other_user=True)
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    inside = ["sh", "-c", script, "sh", python, "-B", "-c", ASK_FOR_A_TIER, str(ROOT)]
    done = subprocess.run(
        ["unshare", "--map-root-user", *inside], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"no user namespace to take away: {done.stderr}")
    assert done.stdout.split() == ["T2", "2"], done.stderr


def test_no_wall_means_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "_at_start", nothing_holds)
    with pytest.raises(ReasonkitError) as caught:
        asyncio.run(open_sandbox())
    assert "T1: no user namespaces" in caught.value.message
    assert "TCP and UDP: it connected got through" in caught.value.message
    assert "--unsafe-sandbox" in caught.value.hint


def test_a_server_stands_in_before_anything_unsafe_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "_at_start", nothing_holds)

    async def remote(url: str) -> tuple[str, RunStatus, object]:
        return await value_of(await open_sandbox(remote_url=url, unsafe=True))

    async def unsafe() -> tuple[str, RunStatus, object]:
        return await value_of(await open_sandbox(workers=1, unsafe=True))

    with serve() as server:
        assert asyncio.run(remote(server.url)) == ("remote", RunStatus.OK, 2)
    assert asyncio.run(unsafe()) == ("unsafe", RunStatus.OK, 2)


def test_a_whole_process_can_accept_what_is_unsafe_and_is_told_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So that train, eval and filter take it too, in all of their processes."""
    monkeypatch.setattr(tiers, "_at_start", nothing_holds)
    monkeypatch.setattr(logging.getLogger("reasonkit"), "propagate", True)
    record = Record("u", "taco", (), {"fn_name": "f", "inputs": [[1]], "outputs": [2]}, "code")

    async def verdict(**accepted: bool) -> Verdict:
        async with Grader(workers=1, **accepted) as grader:
            return await grader.verify(record, "```python\ndef f(n): return n + 1\n```")

    refused = asyncio.run(verdict())
    assert refused.status is Status.ERROR
    assert "REASONKIT_UNSAFE_SANDBOX=1" in refused.reason
    accepted = asyncio.run(verdict(unsafe_sandbox=True))
    assert (accepted.status, accepted.details["tier"]) == (Status.CORRECT, "unsafe")
    assert "WITHOUT walls" in caplog.text
    monkeypatch.setenv(tiers.UNSAFE_VARIABLE, "1")
    assert asyncio.run(verdict()).details["tier"] == "unsafe"
    with serve() as server:
        monkeypatch.setenv(tiers.URL_VARIABLE, server.url)
        assert asyncio.run(verdict()).details["tier"] == "remote"
    monkeypatch.delenv(tiers.URL_VARIABLE)
    monkeypatch.setenv(tiers.UNSAFE_VARIABLE, "yes")
    assert "is 'yes'" in asyncio.run(verdict()).reason


def test_accepting_the_unsafe_takes_no_wall_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tiers.UNSAFE_VARIABLE, "1")
    tier, *_ = asyncio.run(_opened())
    assert tier in tiers.LOCAL_TIERS


async def _opened() -> tuple[str, RunStatus, object]:
    return await value_of(await open_sandbox(workers=1, unsafe=True))
