"""Exact resume: a run killed at any moment and continued ends bit for bit as one that was left alone."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from reasonkit.rundir import RunDir, read_metrics
from tests.micro import finished_run, reasonkit, write_micro

KILLED_TRAIN = str(Path(__file__).parents[1] / "killed_train.py")
LAST = 6
CLOCKS = ("time", "seconds_", "tokens_per_second", "gb_per_second")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return RunDir(finished_run(tmp_path_factory))


def weights(run: RunDir) -> str:
    return hashlib.sha256((run.checkpoint(LAST) / "model.safetensors").read_bytes()).hexdigest()


def training(run: RunDir) -> dict[str, Any]:
    """Moments and position, by name."""
    state: dict[str, Any] = load_file(run.checkpoint(LAST) / "training" / "training.safetensors")
    return state


def metrics(run: RunDir) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if not key.startswith(CLOCKS)}
        for row in read_metrics(run.metrics)
    ]


def rollouts(run: RunDir) -> list[list[dict[str, Any]]]:
    return [pq.read_table(run.rollouts(step)).to_pylist() for step in run.rollout_steps()]


def validations(run: RunDir) -> list[str]:
    return [run.evaluation(step).read_text() for step in run.evaluation_steps()]


def assert_same(run: RunDir, other: RunDir) -> None:
    assert metrics(run) == metrics(other)
    assert rollouts(run) == rollouts(other)
    assert validations(run) == validations(other)
    assert weights(run) == weights(other)
    mine, theirs = training(run), training(other)
    assert mine.keys() == theirs.keys()
    assert {name.rpartition(".")[2] for name in mine} == {"updates", "exp_avg", "exp_avg_sq", "step"}
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert run.info()["state"] == other.info()["state"] == "finished"
    assert run.info()["after"] == other.info()["after"]
    assert run.info()["best"] == other.info()["best"]
    assert run.checkpoints() == other.checkpoints()
    assert list(run.path.rglob(".tmp-*")) == []


def test_the_undisturbed_run_learns_something(undisturbed: RunDir) -> None:
    """Otherwise equal weights would prove nothing."""
    rows = metrics(undisturbed)
    assert rows[-1]["reward"] > rows[0]["reward"] + 0.1
    assert [row["step"] for row in rows] == list(range(1, LAST + 1))
    assert undisturbed.evaluation_steps() == [0, 3, 6]


@pytest.mark.parametrize(
    ("place", "hit"),
    [
        ("in a rollout", 12 + 2 * 24 + 12 + 5),
        ("in an optimizer update", 3),  # of the first step: what is known of step 0 is in the folder alone
        ("in an optimizer update", 18),
        ("in the optimizer", 15),
        ("while a checkpoint is written", 3),
        ("while old checkpoints are removed", 4),
        ("between two steps", 4),
    ],
)
def test_killed_and_resumed_equals_undisturbed(
    tmp_path: Path, undisturbed: RunDir, place: str, hit: int
) -> None:
    write_micro(tmp_path)
    command = ("train", "micro.yaml", "--out", "run")
    killed = reasonkit(tmp_path, place, str(hit), "--", *command, program=(KILLED_TRAIN,))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = RunDir(tmp_path / "run")
    assert run.info()["state"] == "running"
    assert LAST not in run.checkpoints()
    resumed = reasonkit(tmp_path, "train", "--resume", "run")
    assert resumed.returncode == 0, resumed.stderr
    assert_same(run, undisturbed)


@pytest.mark.slow
def test_killed_at_an_epochs_end_and_resumed_equals_undisturbed(tmp_path: Path) -> None:
    """Twelve records are two steps: every checkpoint stands where the next step begins an epoch."""
    write_micro(tmp_path)
    command = ("train", "micro.yaml", "--set", "data.train=[{name: arithmetic_chain, size: 12}]", "--out")
    whole = reasonkit(tmp_path, *command, "whole")
    assert whole.returncode == 0, whole.stderr
    in_step_5 = str(12 + 3 * 24 + 12 + 24 + 5)
    killed = reasonkit(tmp_path, "in a rollout", in_step_5, "--", *command, "run", program=(KILLED_TRAIN,))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = RunDir(tmp_path / "run")
    assert run.checkpoints()[-1] in (2, 4), "that of step 4 may still have been written"
    resumed = reasonkit(tmp_path, "train", "--resume", "run")
    assert resumed.returncode == 0, resumed.stderr
    assert_same(run, RunDir(tmp_path / "whole"))
    assert [row["data_epoch"] for row in metrics(run)] == [0, 0, 1, 1, 2, 2]


def test_a_validation_that_ctrl_c_cut_short_is_made_up_for(tmp_path: Path, undisturbed: RunDir) -> None:
    write_micro(tmp_path)
    command = ("train", "micro.yaml", "--out", "run")
    in_validation = str(12 + 3 * 24 + 5)
    stopped = reasonkit(
        tmp_path, "in a rollout", in_validation, "SIGINT", "--", *command, program=(KILLED_TRAIN,)
    )
    assert stopped.returncode == 128 + signal.SIGINT, stopped.stderr
    run = RunDir(tmp_path / "run")
    assert run.checkpoints()[-1] == 3
    assert run.evaluation_steps() == [0]
    resumed = reasonkit(tmp_path, "train", "--resume", "run")
    assert resumed.returncode == 0, resumed.stderr
    assert_same(run, undisturbed)


def test_resuming_a_finished_run_says_so_and_touches_nothing(undisturbed: RunDir) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.path.rglob("*")}
    done = reasonkit(undisturbed.path.parent, "train", "--resume", "run", "--json")
    assert done.returncode == 0
    assert "finished" in done.stderr
    outcome = json.loads(done.stdout)
    assert (outcome["steps"], outcome["after"]) == (LAST, undisturbed.info()["after"])
    assert {path: path.stat().st_mtime_ns for path in undisturbed.path.rglob("*")} == before
