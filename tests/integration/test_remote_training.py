"""A training run whose verdicts come from a server: the same curve as with its own, also when the server dies."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from reasonkit.rundir import RunDir, read_metrics
from tests.judge_server import free_port, judging
from tests.micro import reasonkit, write_micro

STEPS, SAMPLES = 6, 6 * 4
CLOCKS = ("time", "seconds_", "tokens_per_second", "gb_per_second")


def curve(run: RunDir) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if not key.startswith(CLOCKS)}
        for row in read_metrics(run.metrics)
    ]


def verdicts(run: RunDir) -> list[tuple[Any, ...]]:
    columns = ("uid", "sample", "text", "reward", "verdict_status", "verdict_reason")
    rows = [row for step in run.rollout_steps() for row in pq.read_table(run.rollouts(step)).to_pylist()]
    known = [column for column in columns if column in rows[0]]
    assert {"uid", "text", "reward"} <= set(known)
    return [tuple(row[column] for column in known) for row in rows]


def weights(run: RunDir) -> str:
    return hashlib.sha256((run.checkpoint(STEPS) / "model.safetensors").read_bytes()).hexdigest()


@contextmanager
def training(folder: Path, url: str, patience: float = 120.0) -> Iterator[subprocess.Popen[str]]:
    """The run `remote`, with its verdicts from `url`."""
    remote = f"verifier: {{remote: {{url: '{url}', patience: {patience}, save_dir: asked}}}}\n"
    (folder / "remote.yaml").write_text(f"_base_: micro.yaml\n{remote}")
    command = [sys.executable, "-m", "reasonkit", "train", "remote.yaml", "--out", "remote"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_the_curve_is_that_of_local_verdicts_though_the_server_is_killed_and_restarted(
    tmp_path: Path,
) -> None:
    write_micro(tmp_path)
    alone = reasonkit(tmp_path, "train", "micro.yaml", "--out", "alone")
    assert alone.returncode == 0, alone.stderr
    port = free_port()
    with judging(tmp_path, port=port) as server, training(tmp_path, server.url) as run:
        _wait_for(2, tmp_path, run)
        server.stop(signal.SIGKILL)
        time.sleep(1.0)  # the run meets a server that is not there
        assert run.poll() is None, run.communicate()[0]
        with judging(tmp_path, port=port):
            said, _ = run.communicate(timeout=200)
    assert run.returncode == 0, said
    here, there = RunDir(tmp_path / "alone"), RunDir(tmp_path / "remote")
    assert weights(there) == weights(here), "the same bits"
    assert curve(there) == curve(here)
    assert verdicts(there) == verdicts(here)
    rows = [
        row for path in (tmp_path / "asked").rglob("*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    assert len(rows) >= STEPS * SAMPLES
    assert all(row["score"] is not None for row in rows), "no question was asked in vain"


@pytest.mark.slow
def test_a_server_that_stays_away_stops_the_run_with_its_name(tmp_path: Path) -> None:
    write_micro(tmp_path)
    with judging(tmp_path) as server, training(tmp_path, server.url, patience=1.0) as run:
        _wait_for(1, tmp_path, run)
        server.stop(signal.SIGKILL)
        said, _ = run.communicate(timeout=200)
    assert run.returncode == 1, said
    assert "rollouts failed, more than rollout.max_failed" in said
    assert "no reward server" in said
    assert server.url in said


def _wait_for(steps: int, folder: Path, process: subprocess.Popen[str]) -> None:
    metrics, deadline = RunDir(folder / "remote").metrics, time.monotonic() + 150
    while time.monotonic() < deadline:
        if metrics.exists() and len(list(read_metrics(metrics))) >= steps:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError(f"{steps} steps were not reached")
