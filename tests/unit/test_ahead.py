"""The buffer of rollout batches: how far ahead it goes, in which order, and how it comes back after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reasonkit.data.mixture import ListFeed
from reasonkit.engines import Sampling
from reasonkit.errors import ConfigError, ReasonkitError
from reasonkit.recipe import Recipe
from reasonkit.records import Completion, Group, Message, Record, Rollout, Segment, Verdict, VersionSpan
from reasonkit.rollouts import Draw
from reasonkit.rundir import RunDir, write_json
from reasonkit.train.ahead import Ahead, Clock, Metered, differ, staleness
from reasonkit.train.run import Run
from reasonkit.train.topology import check_topology, counts

RECORDS = [Record(f"r{place}", "test", (Message(role="user", content="?"),), "1") for place in range(12)]


def recipe(**changes: Any) -> Recipe:
    rollout = {"n": 1, **changes.pop("rollout", {})}
    train = {"prompts": 3, "steps": 8, **changes.pop("train", {})}
    return Recipe.model_validate(
        {"name": "t", "model": {"path": "m"}, "rollout": rollout, "train": train, **changes}
    )


class Sampler:
    """Stands for Rollouts: samples with the version that the engines hold when a batch begins, and says in which
    order batches began. Later steps end earlier."""

    def __init__(self, reward: Any = lambda draw, record: 1.0) -> None:
        self.version = 0
        self.began: list[tuple[int, list[str]]] = []
        self._reward = reward

    async def groups(self, records: Sequence[Record], draw: Draw) -> list[Group]:
        self.began.append((draw.step, [record.uid for record in records]))
        version = self.version
        for _ in range(20 - draw.step):
            await asyncio.sleep(0)
        segment = Segment((1, 2), (0, 1), (0.0, -1.0), (VersionSpan(version, 1, 2),))
        return [
            Group(
                record,
                tuple(
                    Rollout(
                        record.uid, sample, (segment,), "", "stop", Verdict.correct("1"),
                        self._reward(draw, record) * (sample + 1),
                    )
                    for sample in range(draw.n)
                ),
            )
            for record in records
        ]  # fmt: skip


class NoJudge:
    def at(self, split: str, step: int) -> AbstractContextManager[None]:
        return nullcontext()


def ahead(sampler: Sampler, settings: Recipe) -> Ahead:
    return Ahead(ListFeed(RECORDS, seed=0), sampler, NoJudge(), settings)  # type: ignore[arg-type]


async def walk(buffer: Ahead, sampler: Sampler, steps: range, lag: int) -> list[list[Group]]:
    """What the loop does with it."""
    batches = []
    for step in steps:
        for each in range(step, step + lag + 1):
            buffer.begin(each, None)
        batches.append((await buffer.take(step)).groups)
        sampler.version = step
    return batches


def uids(batches: list[list[Group]]) -> list[list[str]]:
    return [[group.record.uid for group in batch] for batch in batches]


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_staleness_is_bounded_and_reached_and_the_order_is_that_of_the_data(lag: int) -> None:
    async def run() -> None:
        sampler, plain = Sampler(), Sampler()
        buffer = ahead(sampler, recipe())
        batches = await walk(buffer, sampler, range(1, 9), lag)
        await buffer.close()
        lags = [staleness(batch, step)["staleness_max"] for step, batch in enumerate(batches, 1)]
        assert max(lags) == lag
        assert uids(batches) == uids(await walk(ahead(plain, recipe()), plain, range(1, 9), 0))

    asyncio.run(run())


def test_no_more_than_its_slots_are_under_way() -> None:
    async def run() -> None:
        sampler = Sampler()
        buffer = ahead(sampler, recipe())
        for step in (1, 2, 3):
            buffer.begin(step, None)
        buffer.begin(1, None)  # it has begun
        await buffer.take(1)
        assert buffer.ready == 0
        assert [step for step, _ in sampler.began] == [1, 2, 3]
        await asyncio.wait(buffer._under_way.values())
        await buffer.take(2)
        assert buffer.ready == 2
        await buffer.close()

    asyncio.run(run())


def test_a_batch_waits_for_the_weights_that_are_on_their_way() -> None:
    async def run() -> None:
        sampler, arrived = Sampler(), asyncio.Event()

        async def deliver() -> None:
            await arrived.wait()
            sampler.version = 5

        buffer = ahead(sampler, recipe())
        buffer.begin(6, asyncio.create_task(deliver()))
        await asyncio.sleep(0.01)
        assert sampler.began == []
        arrived.set()
        assert staleness((await buffer.take(6)).groups, 6) == {"staleness": 0.0, "staleness_max": 0.0}

    asyncio.run(run())


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("stopped", [1, 3, 6])
def test_a_restart_at_any_boundary_loses_and_repeats_nothing(lag: int, stopped: int) -> None:
    async def run() -> None:
        sampler = Sampler()
        whole = uids(await walk(ahead(sampler, recipe()), sampler, range(1, 9), 0))
        sampler = Sampler()
        buffer = ahead(sampler, recipe())
        first = uids(await walk(buffer, sampler, range(1, stopped + 1), lag))
        state = buffer.state()
        assert [entry["step"] for entry in state.get("ahead", [])] == list(
            range(stopped + 1, stopped + lag + 1)
        )
        await buffer.close()
        resumed = ahead(sampler, recipe())
        resumed.restore(state)
        assert resumed.state() == state
        rest = uids(await walk(resumed, sampler, range(stopped + 1, 9), lag))
        await resumed.close()
        assert first + rest == whole

    asyncio.run(run())


def test_other_data_than_at_the_checkpoint_is_refused() -> None:
    async def run() -> None:
        buffer = ahead(Sampler(), recipe())
        buffer.begin(1, None)
        state = buffer.state()
        state["ahead"][0]["uids"] = ["gone", "r1", "r2"]
        await buffer.close()
        with pytest.raises(ReasonkitError, match="'gone' then"):
            ahead(Sampler(), recipe()).restore(state)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("reward", "replaced"),
    [
        ({"correctness": 1.0, "overlong": {"options": {"max_tokens": 9, "buffer": 3}}}, True),
        ({"correctness": 0.0, "mine:part": 1.0}, False),
        ({"mine:part": 1.0}, False),
    ],
)
def test_refill_judges_scores_where_the_recipe_rewards_correctness(
    reward: dict[str, Any], replaced: bool
) -> None:
    """All replies are right and earn different rewards, a penalty on their length included."""
    attempts = tuple(
        Rollout("r0", sample, (), "", "stop", Verdict.correct("1"), 1.0 - 0.1 * sample) for sample in range(3)
    )
    wrong = replace(attempts[0], verdict=Verdict.wrong("2", "test"))
    parts = recipe(reward=reward).reward
    assert differ(Group(RECORDS[0], attempts), parts) is not replaced
    assert differ(Group(RECORDS[0], (wrong, attempts[0])), parts) is replaced, "equal rewards, other scores"


def test_refill_replaces_groups_that_teach_nothing() -> None:
    """At first, the rewards of the first two records are equal."""
    dull = [record.uid for record in ListFeed(RECORDS, seed=0).next(2)]

    def reward(draw: Draw, record: Record) -> float:
        return float(draw.purpose != "train" or record.uid not in dull)

    async def run() -> None:
        sampler = Sampler(reward)
        settings = recipe(rollout={"n": 2}, train={"refill": 3}, reward={"mine:part": 1.0})
        buffer = ahead(sampler, settings)
        buffer.begin(1, None)
        sampled = await buffer.take(1)
        assert [group.record.uid for group in sampled.left_out] == dull
        assert len(sampled.groups) == 3
        assert len(sampler.began) == 2
        assert len(sampler.began[1][1]) == len(dull)

    asyncio.run(run())


class Slow:
    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        await asyncio.sleep(0.05)
        return Completion((1,), (0.0,), "stop", (), "")

    async def load_weights(self, weights: Any, version: int) -> None: ...

    async def close(self) -> None: ...


def test_an_engine_is_busy_while_any_request_is_in_flight() -> None:
    async def run() -> None:
        engine = Metered(Slow())
        await asyncio.gather(*(engine.generate([1], Sampling(1)) for _ in range(3)))
        busy = engine.busy()
        assert busy >= 0.05
        await asyncio.sleep(0.05)
        assert engine.busy() == busy

    asyncio.run(run())


class Twice(Slow):
    """Looks at the names of the weights before it takes them, as vLLM's engine does."""

    async def load_weights(self, weights: Any, version: int) -> None:
        assert [name for name, _ in weights] == ["a", "b"]
        next(iter(weights))
        assert len(dict(weights)) == 2
        await asyncio.sleep(0.01)


def test_what_the_last_weights_cost_is_measured() -> None:
    async def run() -> None:
        engine = Metered(Twice())
        clock = Clock(engine)
        assert clock.read(0.0)["bytes_weights"] == 0
        await engine.load_weights([("a", torch.zeros(5)), ("b", torch.zeros(3))], 1)
        await engine.generate([1], Sampling(1))
        said = clock.read(0.0)
        assert said["bytes_weights"] == 8 * 4
        assert said["seconds_weights"] >= 0.01
        assert said["gb_per_second_weights"] == pytest.approx(32e-9 / said["seconds_weights"])
        assert 0 < said["seconds_engines_idle"] < said["seconds_step"]
        await engine.generate([1], Sampling(1))  # a validation between two steps
        clock.start()
        await asyncio.sleep(0.01)
        said = clock.read(0.0)
        assert said["seconds_engines_idle"] == pytest.approx(said["seconds_step"], abs=1e-4)

    asyncio.run(run())


class Doorkeeper(Slow):
    """An engine that takes weights when it is let."""

    def __init__(self) -> None:
        self.door = asyncio.Event()
        self.versions: list[int] = []

    async def load_weights(self, weights: Any, version: int) -> None:
        await self.door.wait()
        self.versions.append(version)


async def copied(weights: Any) -> Any:
    return weights


def run_of(settings: Recipe, engine: Any, learner: Any, folder: Any = None) -> Run:
    """A run of which there is only what concerns its boundaries."""
    absent: Any = dict.fromkeys(("rollouts", "advantage", "look_at_tasks", "wanted", "collapse"))
    buffer: Any = ahead(Sampler(), settings)
    journal: Any = SimpleNamespace(seconds=0.0)
    return Run(
        **absent, recipe=settings, folder=folder, ahead=buffer, learner=learner, engine=engine, detach=copied,
        clock=Clock(Metered(engine)), held_out=[], journal=journal, judge=buffer.judge,
    )  # fmt: skip


def test_a_steps_clock_begins_with_the_step() -> None:
    async def walk_on() -> None:
        run = run_of(recipe(), Slow(), None)
        began = time.monotonic()
        await asyncio.sleep(0.02)  # a validation, say
        await run.sample(1)
        step = run.clock.read(0.0)["seconds_step"]
        assert time.monotonic() - began - step >= 0.02

    asyncio.run(walk_on())


def test_the_best_checkpoint_stays_until_a_better_one_is_whole(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    for step, accuracy in enumerate((0.5, 0.1, 0.1, 0.9), start=1):
        write_json(folder.evaluation(step), {"sampled": {"accuracy": accuracy}})
    for step in (1, 2, 3):
        folder.checkpoint(step).mkdir(parents=True)

    async def begin(path: Path, state: Any) -> None:
        """It is being written."""

    run = run_of(recipe(checkpoint={"keep": 1}), Slow(), SimpleNamespace(save=begin), folder)
    run.step = 4
    run.read_scores()
    asyncio.run(run.checkpoint())
    assert folder.checkpoints() == [1, 3]
    folder.checkpoint(4).mkdir()
    asyncio.run(run.checkpoint())
    assert folder.checkpoints() == [4]


@pytest.mark.parametrize(("lag", "held_up"), [(0, True), (1, False)])
def test_the_learner_goes_on_while_weights_travel_if_it_may_be_ahead(lag: int, held_up: bool) -> None:
    """Nobody waits for them but the batch that must not be older, and the weights of the next step."""

    async def walk_on() -> None:
        settings, engine = recipe(rollout={"max_staleness": lag}), Doorkeeper()
        run = run_of(settings, engine, SimpleNamespace(weights=list))
        syncing = asyncio.create_task(run.sync(1))
        await asyncio.sleep(0.05)
        assert syncing.done() is not held_up
        if not held_up:
            following = asyncio.create_task(run.sync(2))
            await asyncio.sleep(0.05)
            assert not following.done(), "one set of weights is on its way at a time"
            engine.door.set()
            await following
        engine.door.set()
        await syncing
        await run.delivered()
        assert engine.versions == ([1] if held_up else [1, 2])

    asyncio.run(walk_on())


def test_what_cannot_be_honoured_is_refused_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match=r"train.refill \(2\).*max_staleness \(1\)"):
        check_topology(recipe(rollout={"max_staleness": 1}, train={"refill": 2}))
    with pytest.raises(ConfigError, match=r"tensor \(3\) does not divide"):
        check_topology(recipe(cluster={"learners": 2, "engines": 1, "parallel": {"tensor": 3}}))
    with pytest.raises(ConfigError, match="transfer is nccl"):
        check_topology(recipe(rollout={"engine": {"vllm": {"transfer": "nccl"}}}, cluster={"engines": 1}))
    apart = {"colocate": False}
    with pytest.raises(ConfigError, match=r"learners \(8\).*take 10 GPUs.*has 8"):
        counts(
            recipe(
                rollout={"engine": {"vllm": {"tensor_parallel": 2}}},
                cluster={"learners": 8, "engines": 1, **apart},
            ),
            8,
        )
    vllm = {"engine": {"vllm": {"tensor_parallel": 2}}}
    assert counts(recipe(rollout=vllm, cluster={"engines": 2, **apart}), 16) == (12, 2)
    assert counts(recipe(cluster={"learners": 2, "engines": 3}), 0) == (2, 3)
    assert counts(recipe(), 0) == (1, 1)
