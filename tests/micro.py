"""A training run of seconds for tests: a model of a few thousand parameters and a dense reward."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warm_start import warm_python

RECIPE = """\
_base_: [models/tiny-llama, algorithms/grpo]
name: micro
model:
  init:
    {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2}
  context: 64
data:
  train: [{name: arithmetic_chain, size: 40}]
  held_out: [{name: arithmetic_chain, size: 6}]
rollout: {n: 4, max_tokens: 12, engine: {transformers: {slots: 16}}}
reward: {correctness: 1.0, micro_reward:digits: 1.0}
train:
  {steps: 6, prompts: 6, mini_batch: 3, updates_per_rollout: 4, lr: 0.01, threads: 1,
   lr_schedule: {constant: {warmup: 2}}, token_budget: 200}
validation: {every: 3}
checkpoint: {every: 2, keep: 2}
"""

REWARD = '''\
"""A dense reward, so that a random model learns from the first step."""


def digits(record, rollout, verdict):
    return sum(character.isdigit() for character in rollout.text) / 12
'''


def write_micro(folder: Path) -> None:
    (folder / "micro.yaml").write_text(RECIPE)
    (folder / "micro_reward.py").write_text(REWARD)


def finished_run(factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, to be read only. Who asks first makes it, for all of pytest's workers."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "finished"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            making = factory.mktemp("making")
            write_micro(making)
            done = reasonkit(making, "train", "micro.yaml", "--out", "run", warm=False)
            assert done.returncode == 0, done.stderr
            making.rename(folder)
    return folder / "run"


def reasonkit(
    folder: Path,
    *arguments: str,
    program: tuple[str, ...] = ("-m", "reasonkit"),
    timeout: float = 200,
    warm: bool = True,
) -> subprocess.CompletedProcess[str]:
    """The real command in `folder`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*(warm_python(environment) if warm else [sys.executable]), *program, *arguments],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )
