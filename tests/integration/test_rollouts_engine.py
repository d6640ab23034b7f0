"""The rollout loop over the real embedded engine: interruption, new weights in flight, a dead engine, gradients."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from reasonkit.dialogue import Dialogue
from reasonkit.engines import Reply
from reasonkit.engines.transformers import TransformersEngine
from reasonkit.envs import Env, Step
from reasonkit.recipe import LossConfig, RolloutConfig, TrainConfig
from reasonkit.records import Group, Message, Record, Rollout, Segment, Verdict, VersionSpan
from reasonkit.rewards import RewardSum
from reasonkit.rollouts import Draw, Rollouts
from reasonkit.train.packing import assemble, mini_batches
from tests.learners import local_learner
from tests.tiny_models import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
DIALOGUE = Dialogue(TOKENIZER)
RECORDS = [
    Record(f"r{place}", "test", (Message(role="user", content=f"{place}+1="),), str(place + 1))
    for place in range(2)
]
DRAW = Draw("train", 1, 3)
TURNS = 3


class Asks(Env):
    """Wants three replies, and earns by their letters. Whoever listens hears of every one: what a test does then
    happens while the other attempts are in the middle of theirs, however fast the machine is."""

    def __init__(self, heard: Callable[[], None] = lambda: None) -> None:
        self._left = TURNS
        self._heard = heard

    async def reset(self, record: Record, seed: int) -> list[Message]:
        return list(record.prompt)

    async def step(self, reply: Reply) -> Step:
        self._left -= 1
        self._heard()
        asked = [Message(role="user", content=f"{self._left} more")]
        return Step(asked, reward=sum(map(str.isalpha, reply.text)) / 10, done=self._left == 0)


async def no_verdict(record: Record, text: str) -> Verdict:
    return Verdict.wrong(None, "")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine_of(model: PreTrainedModel, slots: int = 5) -> TransformersEngine:
    return TransformersEngine(model, [DIALOGUE.end_of_turn], TOKENIZER, slots=slots)


def rollouts_of(engine: TransformersEngine, env: Callable[[], Env] = Asks, **settings: Any) -> Rollouts:
    return Rollouts(
        engine,
        DIALOGUE,
        env,
        no_verdict,
        RewardSum({"env": 1.0}),
        RolloutConfig(**{"max_tokens": 8, "max_failed": 1.0, **settings}),
        context=200,
        seed=5,
    )


class Disturbance:
    """Does something to the engine after every second reply that an environment hears."""

    def __init__(self, act: Callable[[int], Awaitable[None]]) -> None:
        self._act = act
        self._heard = 0
        self._tasks: list[asyncio.Task[None]] = []

    def env(self) -> Env:
        return Asks(self._hear)

    async def over(self) -> int:
        """How often it happened, once all is done."""
        await asyncio.gather(*self._tasks)
        return len(self._tasks)

    def _hear(self) -> None:
        self._heard += 1
        if self._heard % 2 == 0:
            self._tasks.append(asyncio.ensure_future(self._act(self._heard // 2)))


def attempts(groups: list[Group]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group.rollouts]


def plain_logprobs(model: PreTrainedModel, segment: Segment) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([segment.ids])).logits[0, :-1]
    return logits.log_softmax(-1)[torch.arange(len(segment.ids) - 1), torch.tensor(segment.ids[1:])]


def check_logprobs(rollout: Rollout, models: dict[int, PreTrainedModel]) -> None:
    """Every sampled token has the log-prob that the weights of its span give it; spans cover what was sampled."""
    for segment in rollout.segments:
        covered = [0] * len(segment.ids)
        for span in segment.versions:
            expected = plain_logprobs(models[span.version], segment)[span.start - 1 : span.end - 1]
            got = torch.tensor(segment.logprobs[span.start : span.end])
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
            covered[span.start : span.end] = [1] * (span.end - span.start)
        assert tuple(covered) == segment.mask


def test_several_turns_over_the_engine_are_one_sequence_with_exact_logprobs() -> None:
    model = tiny_model("llama")
    groups = asyncio.run(rollouts_of(engine_of(tiny_model("llama"))).groups(RECORDS, DRAW))
    for rollout in attempts(groups):
        assert rollout.ok
        assert len(rollout.turns) == TURNS
        check_logprobs(rollout, {0: model})


def test_an_interruption_under_the_same_weights_changes_no_token() -> None:
    undisturbed = asyncio.run(rollouts_of(engine_of(tiny_model("llama"))).groups(RECORDS, DRAW))
    engine = engine_of(tiny_model("llama"))

    async def interrupt(_: int) -> None:
        rollouts.pause()
        await engine.abort()
        rollouts.resume()

    disturbance = Disturbance(interrupt)
    rollouts = rollouts_of(engine, disturbance.env)

    async def interrupted() -> list[Group]:
        groups = await rollouts.groups(RECORDS, DRAW)
        assert await disturbance.over() > 3
        return groups

    made = attempts(asyncio.run(interrupted()))
    assert any(rollout.usage.requests > TURNS for rollout in made)
    for one, other in zip(made, attempts(undisturbed), strict=True):
        assert [segment.ids for segment in one.segments] == [segment.ids for segment in other.segments]
        assert one.text == other.text
        check_logprobs(one, {0: tiny_model("llama")})


def test_new_weights_in_flight_and_partial_replies_keep_exact_spans() -> None:
    """Half of the updates come in flight, half interrupt what is under way and let it go on."""
    models = {version: tiny_model("llama", seed=version) for version in range(TURNS * len(RECORDS) * DRAW.n)}
    engine = engine_of(tiny_model("llama"))

    async def update(version: int) -> None:
        if version % 2:
            rollouts.pause()
            await engine.abort()
        await engine.load_weights(list(models[version].state_dict().items()), version)
        rollouts.resume()

    disturbance = Disturbance(update)
    rollouts = rollouts_of(engine, disturbance.env)

    async def updated() -> list[Group]:
        groups = await rollouts.groups(RECORDS, DRAW)
        await disturbance.over()
        return groups

    made = attempts(asyncio.run(updated()))
    assert all(rollout.ok for rollout in made)
    for rollout in made:
        check_logprobs(rollout, models)
    assert any(len(versions(rollout)) > 2 for rollout in made)


def versions(rollout: Rollout) -> set[int]:
    return {span.version for segment in rollout.segments for span in segment.versions}


def test_what_would_be_too_stale_begins_anew() -> None:
    engine, newer = engine_of(tiny_model("llama")), tiny_model("llama", seed=1)

    async def update(count: int) -> None:
        if count == 2:
            rollouts.pause()
            await engine.abort()
            await engine.load_weights(list(newer.state_dict().items()), 1)
            rollouts.resume(oldest=1)

    disturbance = Disturbance(update)
    rollouts = rollouts_of(engine, disturbance.env)
    made = attempts(asyncio.run(rollouts.groups(RECORDS, DRAW)))
    assert all(rollout.ok for rollout in made)
    assert all(len(versions(rollout)) == 1 for rollout in made)
    assert {1} in [versions(rollout) for rollout in made]
    models = {0: tiny_model("llama"), 1: newer}
    for rollout in made:
        check_logprobs(rollout, models)


def test_a_dead_engine_fails_what_it_had_and_the_batch_completes() -> None:
    engine = engine_of(tiny_model("llama"))

    async def kill(count: int) -> None:
        if count == 4:
            await engine.close()

    disturbance = Disturbance(kill)
    made = attempts(asyncio.run(rollouts_of(engine, disturbance.env).groups(RECORDS, DRAW)))
    failed = [rollout.failure for rollout in made if rollout.failure is not None]
    assert len(made) == len(RECORDS) * DRAW.n
    assert failed
    assert all(failure.stage == "generate" and "closed" in failure.cause for failure in failed)


def test_what_the_environment_says_never_gets_gradient() -> None:
    """Log-probs at its tokens, and tokens that nothing sampled follows, may be anything: the update is the same."""
    groups = asyncio.run(rollouts_of(engine_of(tiny_model("llama"))).groups(RECORDS, DRAW))

    def update(change: bool) -> dict[str, torch.Tensor]:
        changed = [
            Group(group.record, tuple(_perturbed(each, change) for each in group.rollouts))
            for group in groups
        ]
        learner = local_learner(
            tiny_model("llama"),
            loss=LossConfig(entropy=0.01, kl=0.01),
            train=TrainConfig(lr=1e-2),
            total_updates=5,
            max_tokens=32,
        )
        advantages = [
            [0.5 - (place + sample) % 2 for sample in range(DRAW.n)] for place in range(len(groups))
        ]
        [batch] = mini_batches(assemble(changed, advantages), len(groups))
        asyncio.run(learner.step(batch))
        return {name: tensor.clone() for name, tensor in learner.weights()}

    before, after = update(change=False), update(change=True)
    assert all(torch.equal(before[name], after[name]) for name in before)
    start = dict(tiny_model("llama").state_dict())
    assert any(not torch.equal(before[name], start[name]) for name in before)


def _perturbed(rollout: Rollout, change: bool) -> Rollout:
    """With a last observation that follows everything sampled; changed ones say and score otherwise."""
    (segment,) = rollout.segments
    said = TOKENIZER.encode("zzzz" if change else "more", add_special_tokens=False)
    noise = -7.0 if change else 0.0
    logprobs = [value if mask else noise for value, mask in zip(segment.logprobs, segment.mask, strict=True)]
    longer = Segment(
        (*segment.ids, *said),
        (*segment.mask, *[0] * len(said)),
        (*logprobs, *[noise] * len(said)),
        segment.versions,
    )
    return replace(rollout, segments=(longer,))


def test_spans_are_of_the_sequence_not_of_the_reply() -> None:
    """A later turn's span begins where that turn's tokens do."""
    (group, *_) = asyncio.run(
        rollouts_of(engine_of(tiny_model("llama"))).groups(RECORDS[:1], Draw("train", 1, 1))
    )
    (rollout,) = group.rollouts
    (segment,) = rollout.segments
    ends = [turn.end for turn in rollout.turns]
    assert [span.end for span in segment.versions] == ends
    assert all(
        isinstance(span, VersionSpan) and segment.mask[span.start - 1] == 0 for span in segment.versions
    )


class Elsewhere(Asks):
    """Its answers come from outside the event loop, and take as long as the clock will have it."""

    outside = True

    def __init__(self, waits: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._waits = waits

    async def step(self, reply: Reply) -> Step:
        await self._waits()
        return await super().step(reply)


def test_batches_do_not_depend_on_how_long_environments_are_away() -> None:
    """More attempts than slots and at once, so that joining at another step would be in another batch."""
    draw = replace(DRAW, n=6)

    def run(seconds: Callable[[], float]) -> list[tuple[Segment, ...]]:
        async def waits() -> None:
            await asyncio.to_thread(time.sleep, seconds())

        rollouts = Rollouts(
            engine_of(tiny_model("llama"), slots=4),
            DIALOGUE,
            lambda: Elsewhere(waits),
            no_verdict,
            RewardSum({"env": 1.0}),
            RolloutConfig(max_tokens=24),
            context=200,
            seed=5,
            in_flight=8,
        )
        return [rollout.segments for rollout in attempts(asyncio.run(rollouts.groups(RECORDS, draw)))]

    at_once = run(lambda: 0.0)
    for seed in (1, 2):
        delays = random.Random(seed)
        assert run(lambda: delays.choice((0.0, 0.002, 0.05))) == at_once  # noqa: B023 - called before the next


def test_who_is_away_for_too_long_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes back only once all others have ended, so the engine must have gone on without it."""
    monkeypatch.setattr("reasonkit.engines.transformers.AWAY_SECONDS", 0.05)
    others = len(RECORDS) * DRAW.n - 1
    ended, turns = asyncio.Semaphore(0), itertools.count()

    async def first_waits_for_all_others() -> None:
        if next(turns) == 0:
            for _ in range(others):
                await ended.acquire()

    class Straggler(Elsewhere):
        def __init__(self) -> None:
            super().__init__(first_waits_for_all_others)

        async def close(self) -> None:
            ended.release()

    groups = asyncio.run(rollouts_of(engine_of(tiny_model("llama")), Straggler).groups(RECORDS, DRAW))
    assert all(rollout.ok and len(rollout.turns) == TURNS for rollout in attempts(groups))
    assert "the engine waits for none" in caplog.text


def test_an_environment_that_breaks_while_it_is_away_holds_up_nobody() -> None:
    async def breaks() -> None:
        await asyncio.sleep(0.01)
        raise OSError("the server is gone")

    rollouts = rollouts_of(engine_of(tiny_model("llama")), lambda: Elsewhere(breaks))
    for rollout in attempts(asyncio.run(rollouts.groups(RECORDS, DRAW))):
        assert rollout.failure is not None
        assert rollout.failure.cause == "OSError: the server is gone"


def test_closing_the_engine_calls_back_who_is_away() -> None:
    engine = engine_of(tiny_model("llama"))

    async def closed() -> None:
        await asyncio.sleep(0)
        await engine.close()

    rollouts = rollouts_of(engine, lambda: Elsewhere(closed))
    failures = [rollout.failure for rollout in attempts(asyncio.run(rollouts.groups(RECORDS, DRAW)))]
    assert {failure.cause.split(":")[0] for failure in failures if failure is not None} == {"ReasonkitError"}
