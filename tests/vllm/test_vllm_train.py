"""The real command with vLLM as a recipe's engine: trained, killed, and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.micro import reasonkit, write_micro

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore"),
]

SETTINGS = (
    "rollout.engine={vllm: {name: the sampler, bucket_mb: 1}}",
    "train.steps=4",
    "model.init.head_dim=64",
    "checkpoint.every=1",
)
HELD_UP = '''\
"""Holds the run up after its first step, until it has been killed."""

import time
from pathlib import Path


def digits(record, rollout, verdict):
    while Path("run/checkpoints/step_1").exists() and not Path("killed").exists():
        time.sleep(0.01)
    return sum(character.isdigit() for character in rollout.text) / 12
'''
PATIENCE = 600.0
"""Seconds: an engine takes up to minutes to start on a busy machine."""


def steps_of(run: Path) -> list[dict[str, Any]]:
    metrics = run / "metrics.jsonl"
    if not metrics.exists():
        return []
    whole = [line for line in metrics.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [row for row in map(json.loads, whole) if "loss" in row]


def test_a_run_with_vllm_survives_kill_9_and_leaves_no_process(tmp_path: Path) -> None:
    write_micro(tmp_path)
    (tmp_path / "micro_reward.py").write_text(HELD_UP)
    words = [word for each in SETTINGS for word in ("--set", each)]
    training = subprocess.Popen(
        [sys.executable, "-m", "reasonkit", "train", "micro.yaml", "--out", "run", *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "errors").open("wb"),
    )
    until = time.monotonic() + PATIENCE
    while not steps_of(tmp_path / "run") and time.monotonic() < until:
        assert training.poll() is None, (tmp_path / "errors").read_text()
        time.sleep(0.05)
    engine = [child for child in psutil.Process(training.pid).children(True) if "VLLM" in child.name()]
    assert len(engine) == 2
    training.kill()
    training.wait()
    (tmp_path / "killed").touch()
    _, alive = psutil.wait_procs(engine, timeout=60)
    assert alive == []

    done = reasonkit(tmp_path, "train", "--resume", "run", timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "finished"
    assert [row["step"] for row in steps_of(tmp_path / "run")] == [1, 2, 3, 4]
    log = (tmp_path / "run" / "run.log").read_text()
    for version in range(5):
        assert f"weights of version {version} to the sampler: " in log
