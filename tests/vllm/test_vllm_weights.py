"""Weight updates of real vLLM workers: exact, counted over engines, and never for ever."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from reasonkit.engines import Sampling, WeightSource
from reasonkit.engines.vllm import VllmEngine
from reasonkit.engines.vllm_weights import Sender, checkpoint_layout
from reasonkit.errors import ReasonkitError
from reasonkit.records import Completion, VersionSpan
from reasonkit.train.model import load_model
from reasonkit.train.weights import ModelWeights
from tests.vllm.conftest import CONTEXT, TOLERANCE, Engines, Folders, Run, assert_plain, plain_logprobs

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]

PROMPTS = [[7 + place, 20, 30] * (1 + place % 4) for place in range(24)]
LONG = CONTEXT - 20
TRIES = 5
"""Of what takes a reply in the middle: this process may be kept from its core for longer than a reply takes."""


@pytest.fixture
def restored(engines: Engines, run: Run[Any]) -> Iterator[None]:
    """The weights that other tests expect are in place again afterwards."""
    yield
    run(engines.qwen.load_weights(ModelWeights(load_model(engines.folders.qwen)), version=0))


@pytest.mark.usefixtures("restored")
def test_tokens_after_a_swap_match_the_new_weights_and_spans_say_where(
    engines: Engines, run: Run[Any]
) -> None:
    old, new = load_model(engines.folders.qwen), load_model(engines.folders.other_qwen)

    async def swap_after_the_shortest() -> list[Completion]:
        await engines.qwen.load_weights(ModelWeights(old), version=0)
        requests = [
            asyncio.create_task(engines.qwen.generate(prompt, Sampling(max_tokens=LONG, seed=place)))
            for place, prompt in enumerate(PROMPTS)
        ]
        await engines.qwen.generate(PROMPTS[0], Sampling(max_tokens=6, seed=100))
        await engines.qwen.load_weights(ModelWeights(new), version=7)
        return list(await asyncio.gather(*requests))

    for _ in range(TRIES):
        replies = run(swap_after_the_shortest())
        if any(len(reply.versions) == 2 for reply in replies):
            break
    else:
        pytest.fail("every reply had ended before the swap, each time")
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        assert [span.version for span in reply.versions] in ([0], [0, 7])
        assert reply.versions[0].start == 0
        assert reply.versions[-1].end == len(reply.token_ids)
        for one, other in zip(reply.versions, reply.versions[1:], strict=False):
            assert one.end == other.start
        for span, model in zip(reply.versions, (old, new), strict=False):
            expected = plain_logprobs(model, prompt, reply.token_ids)[span.start : span.end]
            got = torch.tensor(reply.logprobs[span.start : span.end])
            torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("restored")
def test_an_engine_that_slept_goes_on_with_new_weights(engines: Engines, run: Run[Any]) -> None:
    """A learner's turn on the same device: what was asked before and meanwhile waits, and nothing is lost."""
    new = load_model(engines.folders.other_qwen)

    async def learners_turn() -> tuple[Completion, Completion]:
        before = asyncio.create_task(
            engines.qwen.generate(PROMPTS[1], Sampling(max_tokens=LONG, temperature=0))
        )
        await engines.qwen.generate(PROMPTS[0], Sampling(max_tokens=2))
        await engines.qwen.sleep()
        meanwhile = asyncio.create_task(engines.qwen.generate(PROMPTS[2], Sampling(max_tokens=20, seed=1)))
        await asyncio.sleep(0.5)
        assert not meanwhile.done()
        await engines.qwen.load_weights(ModelWeights(new), version=3)
        return await before, await meanwhile

    before, meanwhile = run(learners_turn())
    assert before.versions[0].version == 0
    assert meanwhile.versions == (VersionSpan(3, 0, len(meanwhile.token_ids)),)
    assert_plain(new, PROMPTS[2], meanwhile)


def test_weights_that_do_not_fit_are_refused_and_change_nothing(engines: Engines, run: Run[Any]) -> None:
    model = load_model(engines.folders.qwen)
    fitting = dict(load_model(engines.folders.other_qwen).state_dict())
    name = "model.layers.0.mlp.up_proj.weight"
    refusals: dict[str, dict[str, Tensor]] = {
        "hold 'another', which the checkpoint": {**fitting, "another": fitting[name]},
        rf"'{name}' is \(256, 64\) in the weights of version 1 and \(256, 128\)": {
            **fitting,
            name: fitting[name][:, :64],
        },
        f"lack 1 of the model's 24 tensors, '{name}'": {
            each: tensor for each, tensor in fitting.items() if each != name
        },
    }
    for complaint, weights in refusals.items():
        with pytest.raises(ReasonkitError, match=complaint):
            run(engines.qwen.load_weights(list(weights.items()), version=1))
    reply = run(engines.qwen.generate(PROMPTS[3], Sampling(max_tokens=30, seed=1)))
    assert_plain(model, PROMPTS[3], reply)
    assert reply.versions[0].version == 0


@dataclass(frozen=True)
class Twins:
    """Engines that tests may break."""

    pair: VllmEngine
    """Two workers share the model."""
    single: VllmEngine


@pytest.fixture(scope="module")
def twins(folders: Folders, run: Run[Any]) -> Iterator[Twins]:
    with ThreadPoolExecutor() as pool:
        pair = pool.submit(
            VllmEngine.from_path,
            folders.qwen,
            dtype="float32",
            context=CONTEXT,
            tensor_parallel=2,
            bucket_mb=1,
            name="the pair",
        )
        single = pool.submit(
            VllmEngine.from_path,
            folders.qwen,
            dtype="float32",
            context=CONTEXT,
            name="the single",
        )
    engines = Twins(pair.result(), single.result())
    yield engines
    run(engines.pair.close())
    run(engines.single.close())


def sender(engines: list[VllmEngine], folders: Folders) -> Sender:
    return Sender(
        engines,
        checkpoint_layout(folders.qwen, tied=True),
        transfer="shm",
        dtype=torch.float32,
        bucket_bytes=300_000,
        deadline=120.0,
    )


def test_one_sender_serves_engines_of_different_sizes(twins: Twins, folders: Folders, run: Run[Any]) -> None:
    """Ranks count on from engine to engine: every worker signs for every bucket, under a rank of its own."""
    new = load_model(folders.other_qwen)
    everyone = [twins.pair, twins.single]
    assert [engine.workers for engine in everyone] == [2, 1]
    one = sender(everyone, folders)

    async def update_all(version: int) -> list[Completion]:
        for engine in everyone:
            engine.live_here()
        one.prepare(ModelWeights(new), version)
        await asyncio.to_thread(one.send)
        sampling = Sampling(max_tokens=40, seed=5)
        return [await engine.generate(PROMPTS[3], sampling) for engine in everyone]

    for version in (1, 2):
        first, second = run(update_all(version))
        assert first.versions[0].version == second.versions[0].version == version
        assert first.token_ids == second.token_ids
        assert_plain(new, PROMPTS[3], first)
        assert_plain(new, PROMPTS[3], second)
    one.close()


class Interrupted:
    """Weights during whose sending something happens. They are looked at once before they are sent."""

    def __init__(self, weights: WeightSource, happens: Callable[[], object]) -> None:
        self._weights = list(weights)
        self._happens = happens
        self._looked = False

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for place, item in enumerate(self._weights):
            if self._looked and place == len(self._weights) - 2:
                self._happens()
            yield item
        self._looked = True


def test_a_worker_killed_within_an_update_is_an_error_and_nothing_hangs(
    twins: Twins, folders: Folders, run: Run[Any]
) -> None:
    new = load_model(folders.other_qwen)
    worker = psutil.Process(twins.pair._running.processes[-1].pid)

    async def killed() -> None:
        request = asyncio.create_task(twins.pair.generate(PROMPTS[1], Sampling(max_tokens=LONG, seed=3)))
        await twins.pair.generate(PROMPTS[0], Sampling(max_tokens=2))
        weights = Interrupted(ModelWeights(new), worker.kill)
        with pytest.raises(ReasonkitError, match="the pair"):
            await twins.pair.load_weights(weights, version=1)
        [failure] = await asyncio.gather(request, return_exceptions=True)
        assert isinstance(failure, ReasonkitError)
        assert "the pair" in failure.message
        for again in (
            twins.pair.generate(PROMPTS[0], Sampling(max_tokens=2)),
            twins.pair.load_weights(ModelWeights(new), version=2),
        ):
            with pytest.raises(ReasonkitError, match="the pair"):
                await again

    run(killed())
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_worker_that_hangs_is_an_error_at_the_deadline_and_does_not_outlive_close(
    twins: Twins, folders: Folders, run: Run[Any]
) -> None:
    twins.single._deadline, twins.single._update_deadline = 4.0, 2.0
    processes, segments = list(twins.single._running.processes), twins.single._running.segments
    processes[-1].send_signal(signal.SIGSTOP)

    async def stuck() -> None:
        with pytest.raises(ReasonkitError, match="the single did not end its reply to a prompt of 3 tokens"):
            await twins.single.generate(PROMPTS[0], Sampling(max_tokens=2))
        unfinished = asyncio.create_task(twins.single.generate(PROMPTS[0], Sampling(max_tokens=2)))
        await asyncio.sleep(0)
        with pytest.raises(ReasonkitError, match="the single did not end step 'pause' of a weight update"):
            await twins.single.load_weights(ModelWeights(load_model(folders.qwen)), version=1)
        [failure] = await asyncio.gather(unfinished, return_exceptions=True)
        assert isinstance(failure, ReasonkitError)
        assert "the single" in failure.message
        await twins.single.close()

    run(stuck())
    assert [process for process in processes if process.is_running()] == []
    assert segments
    assert [name for name in segments if Path("/dev/shm", name).exists()] == []
    with pytest.raises(ReasonkitError, match="the single is closed"):
        run(twins.single.generate(PROMPTS[0], Sampling(max_tokens=2)))
