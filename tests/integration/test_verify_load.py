"""Verdicts on programs and patches are the same on a busy machine, and for a user without rights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from reasonkit.sandbox import toolchains
from tests.integration.test_sandbox_load import every_core_busy

RUNNER = Path(__file__).resolve().parent.parent / "code_verdicts.py"
NOBODY = "65534"
NEEDED = (
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_extensions",
    "typing_inspection",
    "yaml",
    "_yaml",
)
"""What the package imports before it judges a program."""


def run(command: list[str], **environment: str) -> dict[str, Any]:
    env = {**os.environ, **environment}
    done = subprocess.run(
        [*command, "-B", str(RUNNER)], capture_output=True, text=True, cwd="/", env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    verdicts: dict[str, Any] = json.loads(done.stdout)
    return verdicts


@cache
def alone() -> dict[str, Any]:
    return run([sys.executable])


def test_the_verdicts_are_what_they_should_be() -> None:
    statuses = {name: status for name, (status, *_) in alone().items()}
    for name, status in statuses.items():
        said = name.rpartition(", ")[2]
        if said in ("right", "wrong", "endless"):
            expected = {"right": "correct", "wrong": "wrong", "endless": "timeout"}[said]
            assert status == expected or name in ("shares, right", "pytest, wrong"), (name, status)
    assert (statuses["codeio, 7"], statuses["codeio, 5"], statuses["codeio, -1"]) == (
        "correct",
        "wrong",
        "timeout",
    )
    assert "error" not in statuses.values()


@pytest.mark.timeout(400)
def test_a_busy_machine_changes_no_verdict() -> None:
    with every_core_busy():
        assert run([sys.executable]) == alone()


@pytest.mark.timeout(400)
def test_an_unprivileged_user_gets_the_same_verdicts(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("changing the user takes root; the tests of this user run anyway")
    python = toolchains.interpreter(as_other_user=True)
    question = [python, "-c", "import sys; print(*sys.version_info[:2])"]
    version = subprocess.run(question, capture_output=True, text=True, check=True).stdout.split()
    if tuple(map(int, version)) != sys.version_info[:2] or not toolchains.open_to_all(str(RUNNER)):
        pytest.skip(f"{python} is Python {'.'.join(version)}, or nobody cannot read {RUNNER}")
    packages = Path("/var/tmp") / f"reasonkit-packages-{os.getpid()}"
    packages.mkdir(mode=0o755)
    try:
        for name in NEEDED:
            copy(name, packages)
        nobody = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", python]
        judged = run(nobody, PYTHONPATH=str(packages), HOME="/nonexistent", TMPDIR="/dev/shm")
    finally:
        shutil.rmtree(packages)
    wanted = alone()
    if subprocess.run([python, "-c", "import pytest"], capture_output=True, check=False).returncode:
        wanted = {name: verdict for name, verdict in wanted.items() if not name.startswith(("pytest", "swe"))}
    assert {name: judged[name] for name in wanted} == wanted


def copy(name: str, folder: Path) -> None:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin)
    if source.name == "__init__.py":
        shutil.copytree(source.parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, folder / source.name)
