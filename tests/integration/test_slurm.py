"""A job script as Slurm would run it, on one machine that plays two nodes: real Ray, real training."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from reasonkit.rundir import RunDir
from tests.cluster_runs import command, ended
from tests.micro import write_micro

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

FAKES = {
    "sbatch": 'SLURM_JOB_NODELIST="node[1-2]" bash "$1" > job.log 2>&1 || exit 1\necho done',
    "scontrol": "echo node1; echo node2",
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"',
}


def test_a_job_brings_ray_up_on_two_nodes_trains_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_micro(tmp_path)
    (tmp_path / "ray.yaml").write_text(
        "_base_: micro.yaml\nname: ray\ntrain: {steps: 2, threads: 3}\n"
        "cluster: {learners: 2, engines: 1, colocate: false}\n"
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in FAKES.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    command(tmp_path, "slurm", "--nodes", "2", "--submit", "--", "train", "ray.yaml", "--out", "run")
    run = RunDir(tmp_path / "run")
    assert run.info()["state"] == "finished"
    assert len(run.info()["placement"]) == 3
    assert ended([process for process in psutil.process_iter() if belongs(process, programs)])


def belongs(process: psutil.Process, programs: Path) -> bool:
    """Whether the job started it: Ray of other tests may run beside."""
    try:
        return str(programs) in process.environ().get("PATH", "")
    except psutil.Error:
        return False
