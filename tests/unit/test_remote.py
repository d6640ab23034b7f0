"""What the controller makes of engines and of a Ray that are gone for good. Real processes: test_cluster.py."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from reasonkit.cluster import HeadLost, Lost, _listens
from reasonkit.cluster_host import as_bytes, from_bytes
from reasonkit.engines import Sampling, open_engine
from reasonkit.errors import ReasonkitError
from reasonkit.recipe import Part, Recipe
from reasonkit.train.mesh import Mesh
from reasonkit.train.remote import RESTARTS, ActorRank, RemoteEngines, RemoteLearner
from reasonkit.train.served import Parcels, ServedEngine
from reasonkit.train.topology import ends_with
from tests.tiny_models import tiny_model, tiny_tokenizer


class Dying:
    """An actor that is lost with whatever it is asked."""

    name = "engine-0"

    async def call(self, method: str, *_: Any, **__: Any) -> Any:
        raise Lost(f"{self.name} ended while {method}")

    async def pulse(self, deadline: float) -> int:
        return 0

    def kill(self) -> None: ...


def test_an_engine_that_cannot_be_brought_back_is_a_loss_of_the_run() -> None:
    async def run() -> None:
        placed = 0

        async def place(_: int) -> Any:
            nonlocal placed
            placed += 1
            return Dying()

        engines = RemoteEngines([Dying()], place)  # type: ignore[list-item]
        assert engines.lost is None
        with pytest.raises(Lost, match=f"engine 0 was lost {RESTARTS + 1} times"):
            await engines.generate([1], Sampling(1))
        assert placed == RESTARTS
        assert engines.lost is not None
        assert "engine-0 ended while generate" in engines.lost.message
        await engines.close()

    asyncio.run(run())


class Holding(Dying):
    """An actor that lives."""

    def __init__(self) -> None:
        self.loaded: list[tuple[Any, ...]] = []
        self.killed = False

    async def call(self, method: str, *arguments: Any, **_: Any) -> Any:
        if method == "load":
            self.loaded.append(arguments)
        return method

    def kill(self) -> None:
        self.killed = True


def test_a_replacement_that_fails_while_it_starts_or_loads_is_replaced_too() -> None:
    async def run() -> None:
        alive = Holding()
        replacements = iter([ReasonkitError("vLLM could not start"), Lost("no process"), Dying(), alive])

        async def place(_: int) -> Any:
            replacement = next(replacements)
            if isinstance(replacement, Exception):
                raise replacement
            return replacement

        engines = RemoteEngines([Holding()], place)  # type: ignore[list-item]
        await engines.load_weights(Parcels(("weights",), 1), version=1)
        engines._seats[0].losses = -1  # four deaths in a row are one more than may be
        engines._mend(engines._seats[0], engines.actors[0], Lost("dead"))
        assert await engines.generate([1], Sampling(1)) == "generate"  # type: ignore[comparison-overlap]
        assert engines.actors == [alive]
        assert alive.loaded == [(1, None, "weights")]
        await engines.close()

    asyncio.run(run())


def test_an_engine_that_is_lost_within_every_update_is_brought_back_every_time() -> None:
    class Once(Holding):
        """It dies of its second weights."""

        async def call(self, method: str, *arguments: Any, **_: Any) -> Any:
            if method == "load" and self.loaded:
                raise Lost("dead")
            return await super().call(method, *arguments)

    async def run() -> None:
        async def place(_: int) -> Any:
            return Once()

        engines = RemoteEngines([Once()], place)  # type: ignore[list-item]
        for version in range(RESTARTS + 3):
            await engines.load_weights(Parcels(("weights",), 1), version)
        assert engines.lost is None
        await engines.close()

    asyncio.run(run())


def test_requests_fail_when_no_engine_is_left_and_not_before() -> None:
    async def run() -> None:
        async def place(number: int) -> Any:
            await asyncio.sleep(0.05 * number)  # the first is given up while the second is on its way
            return Holding() if number else Dying()

        engines = RemoteEngines([Dying(), Dying()], place)  # type: ignore[list-item]
        asked = [engines.generate([1], Sampling(1)) for _ in range(2)]
        assert await asyncio.gather(*asked) == ["generate"] * 2
        assert engines.lost is not None
        assert await engines.generate([1], Sampling(1)) == "generate"  # type: ignore[comparison-overlap]
        await engines.close()

    asyncio.run(run())


def test_old_news_of_a_process_do_not_end_its_successor() -> None:
    class Mute(Holding):
        """Dies while it is asked; its pulse fails when its successor is there."""

        async def call(self, method: str, *_: Any, **__: Any) -> Any:
            await asyncio.sleep(0.01)
            raise Lost("dead")

        async def pulse(self, deadline: float) -> int:
            await asyncio.sleep(0.05)
            raise Lost("dead")

    async def run() -> None:
        successor = Holding()

        async def place(_: int) -> Any:
            return successor

        dead = Mute()
        engines = RemoteEngines([dead], place)  # type: ignore[list-item]
        await engines.generate([1], Sampling(1))
        await asyncio.sleep(0.1)
        engines._mend(engines._seats[0], dead, Lost("dead"))  # type: ignore[arg-type]
        assert engines.actors == [successor]
        assert not successor.killed
        await engines.close()

    asyncio.run(run())


class Partner(Holding):
    """A rank whose call fails, or never ends."""

    def __init__(self, name: str, fails: bool, dies: float | None) -> None:
        super().__init__()
        self.name, self._fails, self._dies = name, fails, dies

    async def begin(self, method: str, *_: Any, **__: Any) -> Any:
        if not self._fails:
            await asyncio.Event().wait()
        raise ReasonkitError(f"{self.name}: Connection closed by peer")

    async def pulse(self, deadline: float) -> int:
        if self._dies is not None:
            await asyncio.sleep(self._dies)
            raise Lost(f"{self.name}: its node is dead")
        return 0


@pytest.mark.parametrize(
    ("dies", "error", "said"),
    [(0.05, Lost, "learner-1: its node is dead"), (None, ReasonkitError, "learner-0: Connection closed")],
)
def test_a_death_that_is_heard_of_late_explains_the_errors_of_its_partners(
    dies: float | None, error: type[ReasonkitError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasonkit.train.remote.GRACE", 0.01)

    async def run() -> None:
        ranks = [Partner("learner-0", True, None), Partner("learner-1", False, dies)]
        learner = RemoteLearner(ranks)  # type: ignore[arg-type]
        with pytest.raises(ReasonkitError, match=said) as raised:
            await learner.saved()
        assert type(raised.value) is error
        assert all(rank.killed for rank in ranks)

    asyncio.run(run())


def test_weights_that_have_the_version_of_the_last_ones_are_loaded_too() -> None:
    """A warm-up looks at its gate with ever new weights, all of version 0."""

    async def run() -> None:
        actor = Holding()
        engines = RemoteEngines([actor], None)  # type: ignore[list-item, arg-type]
        for content in ("first", "second", "second"):
            await engines.load_weights(Parcels((content,), 1), version=0)
        assert actor.loaded == [(0, None, "first"), (0, None, "second"), (0, None, "second")]
        await engines.close()

    asyncio.run(run())


def test_work_ends_when_the_watch_over_it_does_with_its_error() -> None:
    async def watch() -> None:
        await asyncio.sleep(0.01)
        raise HeadLost("Ray's head is gone")

    async def run() -> None:
        with pytest.raises(HeadLost, match="is gone"):
            async with ends_with(watch()):
                await asyncio.sleep(60)
        await asyncio.sleep(0)  # this task goes on: it was not cancelled

    asyncio.run(run())


def test_a_watch_that_sees_nothing_is_over_when_the_work_is() -> None:
    ended = False

    async def watch() -> None:
        nonlocal ended
        try:
            await asyncio.sleep(60)
        finally:
            ended = True

    async def run() -> None:
        async with ends_with(watch()):
            await asyncio.sleep(0.01)
        with pytest.raises(KeyError):
            async with ends_with(watch()):
                raise KeyError
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert ended


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12).reshape(3, 4).T,
        torch.randn(8)[2:5].to(torch.bfloat16),
        torch.tensor([True, False]),
        torch.tensor(2.5, requires_grad=True),
        torch.empty(0, 3),
    ],
    ids=["transposed", "bfloat16", "bool", "a number", "empty"],
)
def test_tensors_travel_as_they_are_and_belong_to_whom_they_reach(tensor: torch.Tensor) -> None:
    sent = as_bytes(tensor)
    arrived = from_bytes(sent)
    assert len(sent[0]) == tensor.nbytes
    assert (arrived.dtype, arrived.shape) == (tensor.dtype, tensor.shape)
    assert arrived.equal(tensor.detach())
    arrived.zero_()  # unlike what lies in an object store
    assert from_bytes(sent).equal(tensor.detach())


def test_who_listens_is_there() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            assert await _listens("127.0.0.1", port)
        assert not await _listens("127.0.0.1", port)

    asyncio.run(run())


def test_of_a_model_with_adapters_these_alone_travel_and_the_engine_samples_as_if_all_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer()
    tiny_model("llama", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr("reasonkit.train.remote.put", lambda parcel: parcel)  # Ray's store, in this process
    lora = {"r": 2, "target_modules": ["q_proj", "down_proj"]}
    recipe = Recipe.model_validate(
        {
            "name": "t",
            "model": {"path": str(tmp_path), "context": 64, "lora": lora},
            "rollout": {"max_tokens": 16},
        }
    )
    rank = ActorRank.from_recipe(recipe, tmp_path, Mesh(torch.device("cpu")))
    assert isinstance(rank, ActorRank)
    with torch.no_grad():
        for name, tensor in rank.model.named_parameters():
            if ".lora_" in name:
                tensor.normal_()
    sent = rank.parcels()
    assert sent.base == str(tmp_path)
    assert sent.bytes < sum(tensor.nbytes for _, tensor in rank.weights()) / 4

    async def run() -> None:
        asked = [5, 6, 7], Sampling(8, temperature=0.0)
        whole = open_engine(tmp_path, Part("transformers"), recipe.model)
        untrained = await whole.generate(*asked)
        await whole.load_weights(rank.weights(), 1)
        served = ServedEngine(str(tmp_path), Part("transformers"), recipe.model, 1)
        for version in (1, 2):  # the base is kept for the second time
            await served.load(version, sent.base, *sent.references)
        expected, got = await whole.generate(*asked), await served.generate(*asked)
        assert got.token_ids == expected.token_ids != untrained.token_ids
        assert got.logprobs == pytest.approx(expected.logprobs, abs=1e-6)
        await whole.close()
        await served.close()

    asyncio.run(run())
