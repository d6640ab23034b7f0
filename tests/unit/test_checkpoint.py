"""Checkpoints: bit-exact continuation, also in another process; complete or absent; loadable by any tool."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasonkit.advantages import grpo
from reasonkit.errors import ReasonkitError
from reasonkit.recipe import LossConfig, TrainConfig
from reasonkit.rundir import RunDir
from reasonkit.train import saving
from reasonkit.train.checkpoint import finish_checkpoint, keep_only, load_checkpoint, save_checkpoint
from reasonkit.train.learner import LocalLearner
from reasonkit.train.mesh import Mesh
from reasonkit.train.model import load_model, load_tokenizer
from reasonkit.train.packing import assemble, mini_batches
from tests.learners import local_learner
from tests.micro import reasonkit
from tests.rollout_batches import random_groups
from tests.tiny_models import save_tiny_model

ROOT = Path(__file__).parents[2]


def make_learner(model: Path, mesh: Mesh | None = None) -> LocalLearner:
    return local_learner(
        load_model(model),
        mesh=mesh,
        loss=LossConfig(entropy=0.01, kl=0.1),
        train=TrainConfig(lr=1e-3, lr_schedule={"cosine": {"warmup": 3}}, token_budget=40),
        total_updates=4,
        max_tokens=32,
        tokenizer=load_tokenizer(model),
    )


def train(learner: LocalLearner, first: int, last: int) -> list[float]:
    """Updates first … last; each one's batch depends on its number alone."""
    losses = []
    for number in range(first, last + 1):
        groups = random_groups(40, seed=number)
        [batch] = mini_batches(assemble(groups, grpo(groups)), len(groups))
        losses.append(asyncio.run(learner.step(batch)).metrics["loss"])
    return losses


def digest(learner: LocalLearner) -> str:
    total = hashlib.sha256()
    for name, tensor in learner.weights():
        total.update(name.encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def save(path: Path, learner: LocalLearner, step: int = 2) -> Path:
    async def to_the_end() -> None:
        await save_checkpoint(path, learner, {"step": step, "feed": {"epoch": 1}})
        await finish_checkpoint(RunDir(path.parents[1]), learner)

    asyncio.run(to_the_end())
    return path


def continue_elsewhere(model: Path, checkpoint: Path) -> str:
    """The weights' digest after updates 3 and 4 in a new process that begins with the checkpoint."""
    program = (
        "import asyncio, sys, torch; from pathlib import Path; torch.set_num_threads(1);"
        "from tests.unit.test_checkpoint import *;"
        "learner = make_learner(Path(sys.argv[1]));"
        "asyncio.run(load_checkpoint(Path(sys.argv[2]), learner));"
        "train(learner, 3, 4); print(digest(learner))"
    )
    done = reasonkit(ROOT, str(model), str(checkpoint), program=("-c", program))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "model")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_four_updates_are_two_and_two_with_a_checkpoint_and_a_new_process_between(
    model: Path, tmp_path: Path
) -> None:
    straight = make_learner(model)
    train(straight, 1, 4)
    stopped = make_learner(model)
    train(stopped, 1, 2)
    checkpoint = save(tmp_path / "checkpoints" / "step_2", stopped)
    assert continue_elsewhere(model, checkpoint) == digest(straight)


def test_loading_puts_a_learner_back_wherever_it_has_gone(model: Path, tmp_path: Path) -> None:
    learner = make_learner(model)
    train(learner, 1, 2)
    checkpoint = save(tmp_path / "checkpoints" / "step_2", learner)
    losses = train(learner, 3, 4)
    expected = digest(learner)
    state = asyncio.run(load_checkpoint(checkpoint, learner))
    assert state == {"step": 2, "feed": {"epoch": 1}}
    assert train(learner, 3, 4) == losses
    assert digest(learner) == expected


def test_a_checkpoint_is_a_plain_model_folder(model: Path, tmp_path: Path) -> None:
    learner = make_learner(model)
    train(learner, 1, 1)
    checkpoint = save(tmp_path / "checkpoints" / "step_1", learner)
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint)
    for name, tensor in learner.weights():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert AutoTokenizer.from_pretrained(checkpoint).chat_template
    assert "attn" not in json.loads((checkpoint / "config.json").read_text()), "the packed kind is ours alone"
    assert loaded.generate(torch.tensor([[5, 6]]), max_new_tokens=3).shape[1] > 2


def test_a_save_that_fails_leaves_nothing_and_says_what_to_do(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    learner = make_learner(model)
    monkeypatch.setattr(saving, "save_model", full)
    with pytest.raises(ReasonkitError, match="No space left on device") as raised:
        save(tmp_path / "run" / "checkpoints" / "step_1", learner)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert f"--resume {tmp_path / 'run'}" in raised.value.hint


@pytest.mark.parametrize("share", [0.5, 1.5], ids=["at the weights", "at the optimizer's state"])
def test_a_file_that_cannot_be_written_whole_is_reported_the_same_way(
    model: Path, tmp_path: Path, share: float
) -> None:
    """A limit on file size stands for a full disk. The optimizer's state is twice the weights."""
    learner = make_learner(model)
    train(learner, 1, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = int(share * (model / "model.safetensors").stat().st_size)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        with pytest.raises(ReasonkitError, match="could not be written"):
            save(tmp_path / "checkpoints" / "step_1", learner)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_whoever_waits_for_a_disk_ticks_as_long_as_bytes_move(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner that does not tick is taken for stuck, and ended."""
    ticks, hung = [0], threading.Event()

    def slowly(_model: object, folder: Path, _weights: object) -> None:
        for size in range(3):
            (folder / "weights").write_bytes(b"." * size)
            seen = ticks[0]
            while ticks[0] == seen:
                time.sleep(0.001)
        ticks[0] = 0
        hung.wait(0.2)

    monkeypatch.setattr(saving, "save_model", slowly)
    monkeypatch.setattr(saving, "LOOK", 0.01)

    def tick() -> None:
        ticks[0] += 1

    learner = make_learner(model, Mesh(torch.device("cpu"), tick=tick))
    save(tmp_path / "checkpoints" / "step_1", learner)
    assert ticks[0] <= 2, "it ticks for the files that come afterwards, not for time that passes"


def test_a_rank_that_loads_ticks_with_every_tensor(model: Path, tmp_path: Path) -> None:
    ticks: list[None] = []
    learner = make_learner(model, Mesh(torch.device("cpu"), tick=lambda: ticks.append(None)))
    checkpoint = save(tmp_path / "checkpoints" / "step_0", learner)
    ticks.clear()
    asyncio.run(load_checkpoint(checkpoint, learner))
    assert len(ticks) > len(dict(learner.weights())) / 2


def test_the_newest_and_the_named_checkpoints_are_kept(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    for step in (2, 4, 6, 8, 10):
        folder.checkpoint(step).mkdir(parents=True)
    (tmp_path / "checkpoints" / ".tmp-step_2").mkdir()  # left by a kill in the middle of an earlier deletion
    keep_only(folder, 2, also={4})
    assert folder.checkpoints() == [4, 8, 10]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step_10",
        "step_4",
        "step_8",
    ]
    keep_only(folder, 5)
    assert folder.checkpoints() == [4, 8, 10]
