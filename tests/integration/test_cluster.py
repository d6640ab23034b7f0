"""The cluster runtime on real processes: actors of a Ray of its own, killed and stopped; whole runs over it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from reasonkit.cluster import Actor, Cluster, Lost, Needs
from reasonkit.engines import Sampling
from reasonkit.recipe import ModelConfig, Part, Recipe
from reasonkit.records import Completion
from reasonkit.rundir import RunDir
from reasonkit.train.learner import LocalLearner
from reasonkit.train.lora import ADAPTERS
from reasonkit.train.model import load_model
from reasonkit.train.remote import RemoteEngines, RemoteLearner
from reasonkit.train.served import ServedEngine
from tests.cluster_runs import (
    PATIENCE,
    STEPS,
    Running,
    assert_learns,
    command,
    ended,
    rows,
    uids,
    write_runs,
)
from tests.tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.timeout(3600)

PROMPTS = [[5, 6, 7, place] for place in range(8, 24)]
ENGINE = (Part("transformers"), ModelConfig(path="unused", context=64), 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    tiny_model("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two places for learner ranks, one for an engine."""
    others = set(psutil.Process().children(recursive=True))  # that other tests hold
    opened = Cluster([Needs()] * 3, tmp_path_factory.mktemp("logs"), fewer="ask for less")
    yield opened
    family = [each for each in psutil.Process().children(recursive=True) if each not in others]
    opened.close()
    gone, alive = psutil.wait_procs(family, timeout=60)
    assert gone
    assert alive == []


async def engines_of(cluster: Cluster, model: Path, silent: float) -> RemoteEngines:
    async def place(number: int) -> Actor:
        actor = await cluster.place(2 + number, f"engine-{number}", waits=True)
        await actor.started()
        await actor.make(ServedEngine, str(model), *ENGINE)
        return actor

    return RemoteEngines([await place(0)], place, silent=silent)


async def completions(engines: RemoteEngines) -> list[Completion]:
    asked = [engines.generate(prompt, Sampling(40, seed=number)) for number, prompt in enumerate(PROMPTS)]
    return list(await asyncio.gather(*asked))


def ids(said: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in said]


@pytest.mark.slow
def test_an_engine_that_is_killed_or_stopped_is_replaced_and_its_requests_are_asked_again(
    cluster: Cluster, model: Path
) -> None:
    """Whatever its process suffers, each request gets the reply that it gets undisturbed, of the newest weights."""
    other = tiny_model("llama", len(tiny_tokenizer()), seed=1)

    async def run() -> None:
        engines = await engines_of(cluster, model, silent=10.0)
        first = await completions(engines)
        await engines.load_weights(list(other.state_dict().items()), 7)
        undisturbed = await completions(engines)
        assert ids(undisturbed) != ids(first)
        for sign in (signal.SIGKILL, signal.SIGSTOP):
            where = engines.actors[0].where
            assert where is not None
            under_way = asyncio.ensure_future(completions(engines))
            await asyncio.sleep(0)
            os.kill(where.pid, sign)
            again = await under_way
            assert ids(again) == ids(undisturbed)
            assert all(span.version == 7 for each in again for span in each.versions)
            now = engines.actors[0].where
            assert now is not None
            assert now.pid != where.pid
            psutil.wait_procs([psutil.Process(where.pid)] if psutil.pid_exists(where.pid) else [], timeout=60)
            assert not psutil.pid_exists(where.pid)
        await engines.close()

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("waits", [True, False])
def test_an_actor_that_is_stopped_while_it_makes_its_object_is_lost_and_ended(
    cluster: Cluster, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(*_: object) -> None:
        time.sleep(3600)

    async def run() -> int:
        actor = await cluster.place(0, "engine-0", waits=waits)
        where = await actor.started()
        monkeypatch.setattr("reasonkit.cluster.SILENT", 5.0)
        making = asyncio.ensure_future(actor.make(pause))
        await asyncio.sleep(7)
        assert not making.done()  # it answers, as long as it can
        os.kill(where.pid, signal.SIGSTOP)
        with pytest.raises(Lost, match=rf"engine-0 \(process {where.pid} .* while making its pause"):
            await making
        return where.pid

    assert wait_gone(asyncio.run(run()))


@pytest.mark.slow
def test_a_lost_rank_ends_the_learner_and_is_named(cluster: Cluster, model: Path) -> None:
    recipe = Recipe.model_validate(
        {"name": "t", "model": {"path": str(model), "context": 64}, "rollout": {"max_tokens": 16}}
    )

    async def run(sign: int) -> None:
        actors = [await cluster.place(rank, f"learner-{rank}", waits=False) for rank in range(2)]
        for actor in actors:
            await actor.started()
        await RemoteLearner.on(actors, recipe, model, 1)
        learner = RemoteLearner(actors, silent=10.0)
        here = LocalLearner.from_recipe(recipe, model)
        gathered = dict(await learner.parcels())
        for name, tensor in here.weights():
            assert tensor.equal(gathered[name])
        where = actors[1].where
        assert where is not None
        os.kill(where.pid, sign)
        with pytest.raises(Lost, match="learner-1"):
            await learner.rehearse(64)
        with pytest.raises(Lost, match="learner-1"):  # and it stays lost
            await learner.parcels()
        await learner.close()
        assert all(
            not psutil.pid_exists(each.where.pid) or wait_gone(each.where.pid)
            for each in actors
            if each.where
        )

    for sign in (signal.SIGKILL, signal.SIGSTOP):
        asyncio.run(run(sign))


def wait_gone(pid: int) -> bool:
    until = time.monotonic() + 120
    while psutil.pid_exists(pid) and time.monotonic() < until:
        time.sleep(0.2)
    return not psutil.pid_exists(pid)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run in one process."""
    folder = tmp_path_factory.mktemp("here")
    write_runs(folder)
    command(folder, "train", "here.yaml", "--out", "run")
    return RunDir(folder / "run")


def test_two_ranks_and_an_engine_on_ray_do_what_one_process_does(tmp_path: Path, here: RunDir) -> None:
    write_runs(tmp_path)
    command(tmp_path, "train", "ray.yaml", "--out", "run")
    run = RunDir(tmp_path / "run")
    for mine, theirs in zip(rows(run), rows(here), strict=True):
        for name in ("reward", "loss", "grad_norm", "entropy", "length_mean"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), (mine["step"], name)
    assert uids(run) == uids(here)
    mine, theirs = (load_model(each.checkpoint(STEPS)).state_dict() for each in (run, here))
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    names = [each["name"] for each in run.info()["placement"]]
    assert sorted(names) == ["engine-0", "learner-0", "learner-1"]
    assert sorted(path.stem for path in (run.path / "logs").iterdir()) == sorted(names)
    for row in rows(run):
        assert row["bytes_weights"] > 0
        assert row["gb_per_second_weights"] > 0
        assert 0 <= row["time_idle_learner"] < 1
        assert 0 <= row["time_idle_engines"] < 1


@pytest.mark.slow
def test_adapters_trained_on_ray_are_those_of_one_process_and_travel_alone(tmp_path: Path) -> None:
    write_runs(tmp_path)
    settings = (
        "model.lora={r: 1, target_modules: [q_proj, down_proj]}",
        "train.steps=2",
        "validation.every=0",
    )
    words = [word for each in settings for word in ("--set", each)]
    for name in ("ray", "here"):
        command(tmp_path, "train", f"{name}.yaml", "--out", name, *words)
    over_ray, here = RunDir(tmp_path / "ray"), RunDir(tmp_path / "here")
    for mine, theirs in zip(rows(over_ray), rows(here), strict=True):
        assert 0 < mine["bytes_weights"] < theirs["bytes_weights"] / 4  # adapters, and the whole model
        for name in ("reward", "loss", "grad_norm", "length_mean"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), (mine["step"], name)
    start, *trained = (
        load_file(run.checkpoint(step) / ADAPTERS) for run, step in ((here, 0), (here, 2), (over_ray, 2))
    )
    assert trained[0].keys() == trained[1].keys() == start.keys()
    for name, tensor in trained[0].items():
        assert not tensor.equal(start[name]), name
        assert torch.allclose(tensor, trained[1][name], rtol=1e-2, atol=1e-4), name


@pytest.mark.slow
def test_an_asynchronous_run_survives_engine_and_rank_and_resumes_after_its_controller(
    tmp_path: Path, here: RunDir
) -> None:
    """Every step is trained once, on the records that an undisturbed run trains it on; nobody is left behind."""
    write_runs(tmp_path)
    with Running(tmp_path, "async.yaml", "--out", "run", "--max-restarts", "1") as running:
        running.until_step(1)
        os.kill(running.pid("engine-0"), signal.SIGKILL)
        running.until_step(3)
        rank = running.pid("learner-1")
        os.kill(rank, signal.SIGKILL)
        running.until(lambda: running.pid("learner-1") not in (0, rank))
        running.until_step(5)
        family = running.family()
        running.process.kill()
        running.process.wait()
        assert ended(family)
        assert "engine 0 is started anew" in running.said()
        assert "starting again from the last checkpoint" in running.said()
    command(tmp_path, "train", "--resume", "run")
    assert [row["step"] for row in rows(running.run)] == list(range(1, STEPS + 1))
    assert uids(running.run) == uids(here)
    assert max(row["staleness_max"] for row in rows(running.run)) == 2
    assert running.run.info()["state"] == "finished"


@pytest.mark.slow
def test_a_lost_rank_without_restarts_ends_the_run_with_a_word(tmp_path: Path) -> None:
    write_runs(tmp_path)
    with Running(tmp_path, "ray.yaml", "--out", "run") as running:
        running.until_step(1)
        os.kill(running.pid("learner-0"), signal.SIGKILL)
        assert running.process.wait(timeout=PATIENCE) == 1
        assert "learner-0" in running.said()
        assert "train --resume" in running.said()
    assert json.loads(running.run.run_json.read_text())["state"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny-ray", "tiny-async"])
def test_the_shipped_recipes_learn_as_tiny_does(preset: str, tmp_path: Path) -> None:
    assert_learns(tmp_path, preset)
