"""The rollout loop and the dialogue under it: token discipline, draws, and failures as data.

The engine here is scripted: it answers from a list, so that every token of a segment is known in advance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from reasonkit.dialogue import Dialogue
from reasonkit.engines import Reply, Sampling, WeightSource
from reasonkit.envs import Env, Step
from reasonkit.envs.single_turn import SingleTurn
from reasonkit.errors import ReasonkitError
from reasonkit.recipe import RolloutConfig
from reasonkit.records import Completion, Group, Message, Record, Rollout, Verdict, VersionSpan
from reasonkit.rewards import RewardSum
from reasonkit.rollouts import Draw, Rollouts
from tests.tiny_models import CHAT_TEMPLATE, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
DIALOGUE = Dialogue(TOKENIZER)
END = TOKENIZER.eos_token_id
RECORD = Record("r1", "test", (Message(role="user", content="1+1="),), "2")
DRAW = Draw("train", 1, 2)


def ids(text: str) -> list[int]:
    encoded: list[int] = TOKENIZER.encode(text, add_special_tokens=False)
    return encoded


class ScriptedEngine:
    """Says its replies in turn; a reply that is an exception is raised. Remembers what it was asked."""

    def __init__(
        self, replies: Callable[[int], str | Exception], version: int = 3, ended: bool = True
    ) -> None:
        self._replies = replies
        self._version = version
        self._ended = ended
        self.asked: list[tuple[list[int], Sampling]] = []

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        reply = self._replies(len(self.asked))
        self.asked.append((list(prompt_ids), sampling))
        await asyncio.sleep(0)
        if isinstance(reply, Exception):
            raise reply
        tokens = [*ids(reply), END] if self._ended else ids(reply)
        return Completion(
            token_ids=tuple(tokens),
            logprobs=tuple(-0.1 * place for place in range(1, len(tokens) + 1)),
            finish_reason="stop" if self._ended else "length",
            versions=(VersionSpan(self._version, 0, len(tokens)),),
            text=reply,
        )

    async def load_weights(self, weights: WeightSource, version: int) -> None:
        raise AssertionError("the rollout loop never touches weights")

    async def close(self) -> None:
        pass


class Echo(Env):
    """Says 'more' until it has been told something `turns` times."""

    def __init__(self, turns: int = 2, fresh: bool = False) -> None:
        self._left = turns
        self._fresh = fresh

    async def reset(self, record: Record, seed: int) -> list[Message]:
        return list(record.prompt)

    async def step(self, reply: Reply) -> Step:
        self._left -= 1
        more = [Message(role="user", content="more")]
        return Step(more, reward=0.5, done=not self._left, fresh=self._fresh)

    async def close(self) -> None:
        pass


async def exact(record: Record, text: str) -> Verdict:
    return Verdict.correct(text) if text == record.answer else Verdict.wrong(text, "differs")


def sample(
    engine: ScriptedEngine,
    *,
    env: Callable[[], Env] = SingleTurn,
    grade: Callable[[Record, str], object] = exact,
    records: Sequence[Record] = (RECORD,),
    draw: Draw = DRAW,
    context: int = 500,
    dialogue: Dialogue = DIALOGUE,
    **settings: object,
) -> list[Group]:
    rollouts = Rollouts(
        engine,
        dialogue,
        env,
        grade,  # type: ignore[arg-type]
        RewardSum({"correctness": 1.0}),
        RolloutConfig(max_tokens=40, **settings),  # type: ignore[arg-type]
        context=context,
        seed=7,
    )
    return asyncio.run(rollouts.groups(records, draw))


def only(groups: list[Group]) -> Rollout:
    return groups[0].rollouts[0]


def test_a_single_turn_is_prompt_then_reply_and_only_the_reply_is_sampled() -> None:
    rollout = only(sample(ScriptedEngine(lambda _: "2")))
    (segment,) = rollout.segments
    prompt = ids("<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n")
    assert segment.ids == (*prompt, *ids("2"), END)
    assert segment.mask == (*[0] * len(prompt), 1, 1)
    assert segment.logprobs == (*[0.0] * len(prompt), -0.1, -0.2)
    assert segment.versions == (VersionSpan(3, len(prompt), len(prompt) + 2),)
    assert (rollout.reward, rollout.parts) == (1.0, {"correctness": 1.0})


def test_turns_appended_equal_the_conversation_rendered_at_once() -> None:
    rollout = only(sample(ScriptedEngine(lambda _: "ok"), env=Echo))
    turns = [*RECORD.prompt, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "more"}]
    whole = TOKENIZER.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    (segment,) = rollout.segments
    assert segment.ids == (*ids(whole), *ids("ok"), END)
    sampled = [token for token, mask in zip(segment.ids, segment.mask, strict=True) if mask]
    assert sampled == [*ids("ok"), END] * 2
    assert rollout.parts["env"] == 1.0


def test_a_turn_cut_at_its_limit_is_closed_with_a_masked_token() -> None:
    rollout = only(sample(ScriptedEngine(lambda _: "ok", ended=False), env=Echo))
    (segment,) = rollout.segments
    cut = len(ids("<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\nok"))
    assert (segment.ids[cut], segment.mask[cut]) == (END, 0)
    assert rollout.truncated


def test_a_fresh_context_starts_a_new_segment() -> None:
    rollout = only(sample(ScriptedEngine(lambda _: "ok"), env=lambda: Echo(fresh=True)))
    assert len(rollout.segments) == 2
    assert rollout.segments[1].ids[: len(ids("<|im_start|>user\nmore"))] == tuple(
        ids("<|im_start|>user\nmore")
    )


def test_a_template_that_rewrites_history_gets_a_segment_a_turn() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "message['content'] +",
        "(message['content'] if loop.last or message['role'] == 'user' else '(cut)') +",
    )
    dialogue = Dialogue(tokenizer)
    assert not dialogue.appends
    rollout = only(sample(ScriptedEngine(lambda _: "ok"), env=Echo, dialogue=dialogue))
    assert len(rollout.segments) == 2
    assert "(cut)" in tokenizer.decode(list(rollout.segments[1].ids))


def test_a_raw_prompt_is_not_templated_again() -> None:
    raw = Record("r", "t", (Message(role="user", content="Q: "),), "2", metadata={"prompt_format": "raw"})
    (segment,) = only(sample(ScriptedEngine(lambda _: "2"), records=[raw])).segments
    assert segment.ids == (*ids("Q: "), *ids("2"), END)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ReasonkitError, match="no chat template"):
        Dialogue(tokenizer)


def test_every_sample_draws_from_its_own_seed_and_reruns_draw_the_same() -> None:
    records = [RECORD, RECORD]
    first, again, later = (ScriptedEngine(lambda _: "2") for _ in range(3))
    sample(first, records=records)
    sample(again, records=records)
    sample(later, records=records, draw=Draw("train", 2, 2))
    seeds = [[sampling.seed for _, sampling in engine.asked] for engine in (first, again, later)]
    assert len(set(seeds[0])) == 4
    assert seeds[0] == seeds[1]
    assert not set(seeds[0]) & set(seeds[2])


def test_a_greedy_draw_samples_at_temperature_zero() -> None:
    engine = ScriptedEngine(lambda _: "2")
    sample(engine, draw=Draw("validate", 0, 1, greedy=True))
    assert engine.asked[0][1].temperature == 0.0


def test_a_reply_gets_no_more_tokens_than_the_context_has_left() -> None:
    engine = ScriptedEngine(lambda _: "2")
    room = 3
    sample(engine, context=len(DIALOGUE.prompt_ids(RECORD.prompt)) + room)
    assert engine.asked[0][1].max_tokens == room


def test_a_failure_is_retried_once() -> None:
    engine = ScriptedEngine(lambda place: RuntimeError("lost") if place == 0 else "2")
    assert [each.ok for each in sample(engine)[0].rollouts] == [True, True]
    assert len(engine.asked) == 3


def test_a_lasting_failure_is_recorded_with_its_stage_and_cause_and_leaves_the_rewards() -> None:
    engine = ScriptedEngine(lambda place: RuntimeError("lost") if place in (0, 2) else "2")
    (group,) = sample(engine, max_failed=1.0)
    failed = group.rollouts[0].failure
    assert failed is not None
    assert (failed.stage, failed.cause) == ("generate", "RuntimeError: lost")
    assert group.rewards == [1.0]


def test_a_verifier_that_could_not_judge_is_a_failure_not_a_zero() -> None:
    async def broken(record: Record, text: str) -> Verdict:
        return Verdict.error("the sandbox is gone")

    (group,) = sample(ScriptedEngine(lambda _: "2"), grade=broken, max_failed=1.0)
    assert [rollout.failure.stage for rollout in group.rollouts if rollout.failure] == ["verify", "verify"]
    assert group.rewards == []


def test_a_rollout_that_hangs_fails_at_its_deadline() -> None:
    async def hang(record: Record, text: str) -> Verdict:
        await asyncio.sleep(60)
        raise AssertionError

    (group,) = sample(ScriptedEngine(lambda _: "2"), grade=hang, deadline=0.05, max_failed=1.0)
    failure = group.rollouts[0].failure
    assert failure is not None
    assert failure.stage == "verify"
    assert "rollout.deadline (0.05 s)" in failure.cause


def test_too_many_failures_stop_the_run_and_say_what_failed() -> None:
    engine = ScriptedEngine(lambda _: RuntimeError("no GPU"))
    with pytest.raises(ReasonkitError, match=r"2 of 2 rollouts failed.*\n.*generate: RuntimeError: no GPU"):
        sample(engine, max_failed=0.5)
