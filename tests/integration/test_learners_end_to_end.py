"""The real command with learners other than the plain one: adapters, and two ranks that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reasonkit.config import load_recipe
from reasonkit.rundir import RunDir, read_metrics
from tests.micro import reasonkit, write_micro

KILLED_TRAIN = str(Path(__file__).parents[1] / "killed_train.py")
SCARCE_TRAIN = str(Path(__file__).parents[1] / "scarce_train.py")
CLOCKS = ("time", "seconds_", "tokens_per_second", "gb_per_second", "idle", "memory", "mfu")
TWO = ("--set", "cluster.learners=2")


def run_of(folder: Path, *settings: str) -> RunDir:
    write_micro(folder)
    done = reasonkit(folder, "train", "micro.yaml", "--out", "run", *settings)
    assert done.returncode == 0, done.stderr
    return RunDir(folder / "run")


def tensors(folder: Path) -> dict[str, Any]:
    files = sorted(folder.rglob("*.safetensors"))
    assert files
    return {f"{file.name}: {name}": each for file in files for name, each in load_file(file).items()}


def assert_same(run: RunDir, other: RunDir, step: int) -> None:
    rows, expected = (
        [
            {key: value for key, value in row.items() if not key.startswith(CLOCKS)}
            for row in read_metrics(each.metrics)
        ]
        for each in (run, other)
    )
    assert rows == expected
    mine, theirs = tensors(run.checkpoint(step)), tensors(other.checkpoint(step))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert list(run.path.rglob(".tmp-*")) == []


@pytest.mark.slow
def test_adapters_train_resume_evaluate_and_export(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    settings = ("--set", "model.lora={r: 8}", "--set", "loss.kl=0.001", "--set", "train.lr=0.03")
    run = run_of(tmp_path, *settings)
    rows = list(read_metrics(run.metrics))
    assert 0 < rows[0]["kl_reference"] < rows[-1]["kl_reference"], "it moves away from where it started"
    kept = {path.name for path in run.checkpoint(6).iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= kept
    assert "model.safetensors" not in kept

    killed = reasonkit(
        tmp_path,
        "between two steps",
        "5",
        "--",
        "train",
        "micro.yaml",
        "--out",
        "killed",
        *settings,
        program=(KILLED_TRAIN,),
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert reasonkit(tmp_path, "train", "--resume", "killed").returncode == 0
    assert_same(RunDir(tmp_path / "killed"), run, 6)

    assert reasonkit(tmp_path, "export", "run", "adapters").returncode == 0
    merged = reasonkit(tmp_path, "export", "run", "whole", "--merge")
    assert merged.returncode == 0, merged.stderr
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    with_adapters = AutoModelForCausalLM.from_pretrained(tmp_path / "adapters")
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(model(ids).logits, with_adapters(ids).logits, rtol=0, atol=1e-4)
    assert "architecture `llama`" in (tmp_path / "whole" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "hit"),
    [("as two ranks are told", 17), ("as two ranks are told", 14), ("between two steps", 5)],
    ids=["in a step", "while a checkpoint is written", "between two steps"],
)
def test_two_ranks_killed_and_resumed_equal_two_undisturbed(tmp_path: Path, place: str, hit: int) -> None:
    undisturbed = run_of(tmp_path, *TWO)
    command = ("train", "micro.yaml", "--out", "killed", *TWO)
    killed = reasonkit(tmp_path, place, str(hit), "--", *command, program=(KILLED_TRAIN,))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = RunDir(tmp_path / "killed")
    assert run.info()["state"] == "running"
    assert 6 not in run.checkpoints()
    resumed = reasonkit(tmp_path, "train", "--resume", "killed", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["steps"] == 6
    assert_same(run, undisturbed, 6)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    undisturbed = run_of(tmp_path, *TWO)
    command = ("train", "micro.yaml", "--out", "killed", *TWO)
    killed = reasonkit(tmp_path, "between two steps", "5", "--", *command, program=(KILLED_TRAIN,))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = reasonkit(tmp_path, "train", "--resume", "killed", "--set", "cluster.learners=1")
    assert resumed.returncode == 0, resumed.stderr
    run = RunDir(tmp_path / "killed")
    assert load_recipe(run.recipe).cluster.learners == 1
    assert [row["step"] for row in read_metrics(run.metrics)] == [1, 2, 3, 4, 5, 6]
    mine, theirs = (
        AutoModelForCausalLM.from_pretrained(each.model).state_dict() for each in (run, undisturbed)
    )
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), TWO], ids=["one rank", "two ranks"])
def test_what_does_not_fit_shows_before_step_0_with_the_keys_to_lower(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    write_micro(tmp_path)
    large = ("--set", "train.token_budget=1000000", "--set", "model.context=10000", *settings)
    command = [sys.executable, SCARCE_TRAIN, "train", "micro.yaml", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    failed, done = (
        subprocess.run(
            [*command, out, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        for out, more in (("large", large), ("small", settings))
    )
    assert failed.returncode == 1, failed.stderr
    assert "a micro-batch of 1,000,000 tokens does not fit into the memory of cpu" in failed.stderr
    assert "lower train.token_budget (1000000) or model.context (10000)" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert RunDir(tmp_path / "large").checkpoints() == [], "nothing was sampled or trained"
    assert done.returncode == 0, done.stderr
