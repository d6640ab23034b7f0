"""Who sits where in a cluster, and that those who share a GPU take turns on it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reasonkit.cluster import Lost, Needs
from reasonkit.engines import Sampling
from reasonkit.errors import ConfigError
from reasonkit.recipe import Part, Recipe
from reasonkit.train.packing import Batch
from reasonkit.train.remote import RemoteEngines, RemoteLearner
from reasonkit.train.served import Parcels
from reasonkit.train.topology import (
    SHARED_MEMORY,
    Layout,
    beside_ranks,
    counts,
    describe,
    lay_out,
    uses_cluster,
)

VLLM = {"vllm": {"tensor_parallel": 2}}


def recipe(engine: Any = VLLM, *, max_staleness: int = 0, algorithm: str = "grpo", **cluster: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "t",
            "algorithm": algorithm,
            "model": {"path": "unused", "context": 64},
            "rollout": {"max_tokens": 16, "engine": engine, "max_staleness": max_staleness},
            "cluster": cluster,
        }
    )


def placed(asked: Recipe, available: int) -> Layout:
    return lay_out(asked, *counts(asked, available), available)


@pytest.mark.parametrize(
    ("engine", "gpus", "cluster", "expected"),
    [
        ("vllm", 1, {}, True),
        ("vllm", 0, {}, False),
        ("transformers", 1, {}, False),
        ("transformers", 0, {"engines": 1}, True),
    ],
)
def test_actors_are_for_who_asks_and_for_vllm_on_gpus(
    engine: str, gpus: int, cluster: dict[str, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert uses_cluster(recipe(engine, **cluster)) is expected


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ({}, (8, 4)),
        ({"engines": 1}, (8, 1)),
        ({"learners": 5}, (5, 2)),
        ({"colocate": False}, (6, 1)),
        ({"colocate": False, "engines": 3}, (2, 3)),
    ],
)
def test_of_eight_gpus_and_engines_of_two(cluster: dict[str, Any], expected: tuple[int, int]) -> None:
    assert counts(recipe(**cluster), 8) == expected


def test_an_engine_shares_a_place_with_the_ranks_whose_gpus_it_sees() -> None:
    """A place is whole on one node, so no engine is spread over two."""
    layout = placed(recipe(learners=5), 8)
    assert layout.places == [Needs(3, 2), Needs(3, 2), Needs(1, 1)]
    assert layout.ranks == [0, 0, 1, 1, 2]
    assert layout.engines == [0, 1]
    assert layout.shared


def test_apart_everybody_has_a_place_of_its_own() -> None:
    layout = placed(recipe(colocate=False, engines=2), 6)
    assert layout.places == [Needs(1, 1)] * 2 + [Needs(1, 2)] * 2
    assert (layout.ranks, layout.engines, layout.shared) == ([0, 1], [2, 3], False)


@pytest.mark.parametrize(
    "asked",
    [
        recipe("transformers", learners=2, engines=2),
        recipe({"transformers": {"device": "cpu"}}, learners=2, engines=2, max_staleness=3),
        recipe(algorithm="sft", learners=2, engines=2),
    ],
    ids=["engine on the CPU", "the same, ahead", "no sampling"],
)
def test_whoever_has_nothing_to_share_is_not_refused(asked: Recipe) -> None:
    layout = placed(asked, 6)
    assert not layout.shared
    assert len(layout.places) == 4


def test_without_gpus_nothing_is_shared() -> None:
    assert placed(recipe(learners=2, engines=1, max_staleness=1), 0) == Layout(
        [Needs()] * 3, [0, 1], [2], shared=False, gpus=False
    )


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        (
            recipe(max_staleness=2),
            r"cluster.colocate \(true\).*8 GPUs.*rollout.max_staleness \(2\)",
            "--set cluster.colocate=false   or   --set rollout.max_staleness=0",
        ),
        (recipe(learners=9), r"cluster.learners \(9\).*has 8", "--set cluster.learners=8   or more nodes"),
        (
            recipe(learners=5, engines=3),
            r"cluster.engines \(3, 2 GPUs each\) sit on 6 GPUs.*there are 5 \(cluster.learners\)",
            "--set cluster.engines=2",
        ),
        (
            recipe({"vllm": {"tensor_parallel": 4}}, learners=2),
            r"cluster.engines \(1, 4 GPUs each\).*there are 2",
            "--set rollout.engine.vllm.tensor_parallel=2",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(asked: Recipe, message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        counts(asked, 8)
    assert refused.value.hint == hint


def test_vllm_beside_a_rank_sleeps_and_leaves_it_memory_unless_the_recipe_says_how_much() -> None:
    assert beside_ranks(Part("vllm")).options == {"sleeps": True, "memory": SHARED_MEMORY}
    assert beside_ranks(Part("vllm", {"memory": 0.6})).options == {"sleeps": True, "memory": 0.6}
    assert beside_ranks(Part("transformers", {"device": "cuda"})).options == {"device": "cuda"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            recipe(learners=8),
            "8 learner ranks, engines on the same GPUs, 2 each: 4; asleep while ranks work",
        ),
        (
            recipe(learners=8, engines=1, max_staleness=2),
            (
                "8 learner ranks, engines on the same GPUs, 2 each: 1; "
                "refused where there are GPUs, as rollout.max_staleness is 2"
            ),
        ),
        (
            recipe(engines=3, colocate=False),
            "learner ranks on all GPUs left, 3 engines apart from them",
        ),
    ],
)
def test_a_dry_run_says_who_sits_where(asked: Recipe, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    assert describe(asked) == said


class Recorded:
    """An actor that does nothing but say that it was asked, and dies when told to."""

    def __init__(self, name: str, said: list[str], dies_at: str = "") -> None:
        self.name = name
        self._said = said
        self._dies_at = dies_at

    async def call(self, method: str, *arguments: Any, **_: Any) -> Any:
        self._said.append(f"{self.name} {method}" + (f" {arguments[0]}" if method == "load" else ""))
        if method == self._dies_at:
            raise Lost(f"{self.name} ended")
        return None

    async def begin(self, method: str, *_: Any, **__: Any) -> Any:
        await self.call(method)
        return {"parcels": Parcels(("reference",), 1), "logprobs": {}, "values": {}}.get(method)

    async def pulse(self, deadline: float) -> int:
        return 0

    def kill(self) -> None: ...


NOTHING = cast(Batch, SimpleNamespace(samples=()))


def both(said: list[str], engine: Recorded, **options: Any) -> tuple[RemoteLearner, RemoteEngines]:
    engines = RemoteEngines([engine], **options)  # type: ignore[list-item]
    learner = RemoteLearner([Recorded("rank", said)], alone=engines.sleep)  # type: ignore[list-item]
    return learner, engines


def test_ranks_work_while_engines_sleep_and_new_weights_wake_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasonkit.train.remote.put", lambda value: value)
    said: list[str] = []

    async def run() -> None:
        learner, engines = both(said, Recorded("engine", said), place=None)
        await learner.rehearse(64)
        await engines.load_weights(learner.weights(), 0)
        for step in (1, 2):
            await engines.generate([1], Sampling(1))
            await learner.logprobs(NOTHING, reference=False)
            await learner.step(NOTHING)
            await engines.load_weights(learner.weights(), step)
            await learner.save(Path("checkpoint"), {})
        await engines.close()

    asyncio.run(run())
    turn = ["engine generate", "engine sleep", "rank logprobs", "rank step", "rank parcels", "rank release"]
    assert said == [
        "engine sleep", "rank rehearse", "rank parcels", "rank release", "engine load 0",
        *turn, "engine load 1", "rank save",
        *turn, "engine load 2", "rank save",
        "engine close",
    ]  # fmt: skip


def test_requests_to_a_sleeping_engine_wake_it_once_with_the_weights_it_had() -> None:
    said: list[str] = []

    async def run() -> None:
        _, engines = both(said, Recorded("engine", said), place=None)
        await engines.load_weights(Parcels(("reference",), 1), 3)
        await engines.sleep()
        await engines.sleep()
        await asyncio.gather(*(engines.generate([1], Sampling(1)) for _ in range(3)))
        await engines.close()

    asyncio.run(run())
    assert said == [
        "engine load 3",
        "engine sleep",
        "engine load 3",
        *["engine generate"] * 3,
        "engine close",
    ]


def test_an_engine_that_dies_as_it_falls_asleep_is_started_anew_and_put_to_sleep() -> None:
    said: list[str] = []

    async def run() -> None:
        async def place(_: int) -> Any:
            return Recorded("another", said)

        _, engines = both(said, Recorded("engine", said, dies_at="sleep"), place=place)
        await engines.load_weights(Parcels(("reference",), 1), 3)
        await engines.sleep()
        await engines.close()

    asyncio.run(run())
    assert said == ["engine load 3", "engine sleep", "another load 3", "another sleep", "another close"]
