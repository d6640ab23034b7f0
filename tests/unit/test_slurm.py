"""The batch script that `reasonkit slurm` writes, and what it refuses. tests/integration/test_slurm.py runs one."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reasonkit.cli.app import build_app
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.slurm import Job, submit


def run(*arguments: str) -> str:
    done = CliRunner().invoke(build_app(["slurm"]), ["slurm", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_script_is_bash_and_asks_for_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run(
        "--nodes", "8", "--gpus-per-node", "4", "--time", "12:00:00", "--partition", "big", "--account", "us",
        "--setup", "source env/bin/activate", "--sbatch=--qos=high", "--out", "job.sh", "--json",
        "--", "train", "--preset", "tiny-ray", "--set", "name=a b",
    )  # fmt: skip
    assert json.loads(said) == {"script": "job.sh", "submitted": ""}
    script = (tmp_path / "job.sh").read_text()
    checked = subprocess.run(["bash", "-n", "job.sh"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    asked = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {
        "--nodes=8", "--ntasks-per-node=1", "--gpus-per-node=4", "--time=12:00:00", "--partition=big",
        "--account=us", "--qos=high",
    } <= set(asked)  # fmt: skip
    assert not any(line.startswith("--cpus-per-task") for line in asked)
    assert f"cd {tmp_path}\nsource env/bin/activate\n" in script
    command = next(line for line in script.splitlines() if "-m reasonkit train" in line)
    words = shlex.split(command.removesuffix("&"))
    assert words[-5:] == ["train", "--preset", "tiny-ray", "--set", "name=a b"]


def test_only_commands_run_in_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="'trian' is no command"):
        run("--", "trian", "x.yaml")
    with pytest.raises(UsageError, match="'slurm' is no command"):
        run("--", "slurm", "train")
    assert list(tmp_path.iterdir()) == []


def test_submitting_says_what_sbatch_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, path = tmp_path / "job.sh", tmp_path / "bin"
    script.write_text(Job(["doctor"]).script(script))
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    with pytest.raises(UsageError, match="sbatch is not on this machine"):
        submit(script)
    fake = path / "sbatch"
    fake.write_text('#!/bin/sh\necho "Submitted batch job 17"\n')
    fake.chmod(0o755)
    assert submit(script) == "Submitted batch job 17"
    fake.write_text('#!/bin/sh\necho "invalid partition" >&2\nexit 1\n')
    with pytest.raises(ReasonkitError, match="invalid partition"):
        submit(script)
