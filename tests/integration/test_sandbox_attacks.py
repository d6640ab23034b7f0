"""Every attack is stopped: on each local tier, as root and as an unprivileged user, judged from outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from reasonkit.sandbox import toolchains
from reasonkit.sandbox.attacks import ATTACKS
from tests.sandbox_more_attacks import MORE_ATTACKS

RUNNER = Path(__file__).parent.parent / "sandbox_attack_runner.py"
NOBODY = "65534"
NAMES = [attack.name for attack in (*ATTACKS, *MORE_ATTACKS)]
SETTINGS = [("T1", "self"), ("T1", "nobody"), ("bwrap", "nobody"), ("T2", "self"), ("T2", "nobody")]


def command(user: str) -> list[str]:
    if user == "self":
        return [sys.executable]
    if os.geteuid() != 0:
        pytest.skip("changing the user takes root; the tests of this user run anyway")
    if not toolchains.open_to_all(str(RUNNER)):
        pytest.skip(f"nobody cannot read {RUNNER}")
    python = toolchains.interpreter(as_other_user=True)
    return ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", python, "-B"]


@cache
def outcomes(tier: str, user: str, *names: str) -> dict[str, dict[str, object]]:
    if tier == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    memory = Path("/dev/shm")  # creating files until the limit takes seconds on some disks
    environment = {**os.environ, "TMPDIR": str(memory)} if memory.is_dir() else None
    arguments = [*command(user), str(RUNNER), tier, *names]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd="/", env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return {outcome["attack"]: outcome for outcome in json.loads(done.stdout)}


@pytest.mark.parametrize(("tier", "user"), SETTINGS)
def test_no_attack_escapes(tier: str, user: str) -> None:
    got_through = [outcome for outcome in outcomes(tier, user).values() if not outcome["stopped"]]
    assert got_through == []


@pytest.mark.parametrize(("tier", "user"), SETTINGS)
def test_every_attack_was_tried(tier: str, user: str) -> None:
    assert list(outcomes(tier, user)) == NAMES


def test_the_attacks_work_where_nothing_stops_them() -> None:
    """An attack that cannot succeed anywhere would prove nothing: without walls, these get through."""
    if os.geteuid() != 0:
        pytest.skip("without walls they would hit this user; root's worker becomes a user of its own")
    chosen = (
        "write outside",
        "files to the next job",
        "/etc/passwd",
        "TCP and UDP",
        "abstract socket",
        "io_uring",
        "kernel interfaces",
        "prctl",
        "32-bit and x32 calls",
    )
    assert [name for name, outcome in outcomes("unsafe", "self", *chosen).items() if outcome["stopped"]] == []
