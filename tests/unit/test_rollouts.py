"""The rollout loop and the dialogue under it: token discipline, draws, and failures as data.

The engine here is scripted: it answers from a list, so that every token of a segment is known in advance.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from reasonkit.dialogue import Dialogue
from reasonkit.engines import Chat, Engine, Reply, Sampling, WeightSource
from reasonkit.envs import Env, Step
from reasonkit.envs.single_turn import SingleTurn
from reasonkit.episode import NO_LIMITS, Limits
from reasonkit.errors import ReasonkitError
from reasonkit.recipe import RolloutConfig
from reasonkit.records import Completion, Group, Message, Record, Rollout, Usage, Verdict, VersionSpan
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
    **options: Any,
) -> list[Group]:
    return asyncio.run(rollouts_of(engine, env=env, grade=grade, **options).groups(records, draw))


def rollouts_of(
    engine: Engine | Chat,
    *,
    env: Callable[[], Env] = SingleTurn,
    grade: Callable[[Record, str], object] = exact,
    context: int = 500,
    dialogue: Dialogue | None = DIALOGUE,
    limits: Limits = NO_LIMITS,
    in_flight: int = 100,
    reward: Mapping[str, float] = {"correctness": 1.0},
    **settings: Any,
) -> Rollouts:
    return Rollouts(
        engine,
        dialogue,
        env,
        grade,  # type: ignore[arg-type]
        RewardSum(reward),
        RolloutConfig(**{"max_tokens": 40, **settings}),
        context=context,
        seed=7,
        limits=limits,
        in_flight=in_flight,
    )


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


def test_one_attempt_is_the_one_that_a_batch_makes_in_its_place() -> None:
    batch, alone = ScriptedEngine(lambda _: "2"), ScriptedEngine(lambda _: "2")
    sample(batch, records=[RECORD, RECORD])
    rollout = asyncio.run(rollouts_of(alone).one(RECORD, DRAW, 1, 0))
    assert rollout.ok
    assert alone.asked[0][1].seed == batch.asked[2][1].seed


def test_a_key_may_be_a_uid() -> None:
    engine = ScriptedEngine(lambda _: "2")
    rollouts = rollouts_of(engine)
    for uid in ("a", "b"):
        asyncio.run(rollouts.one(replace(RECORD, uid=uid), Draw("eval", 0, 1), uid, 0))
    assert engine.asked[0][1].seed != engine.asked[1][1].seed


def test_equal_replies_of_a_group_are_judged_once() -> None:
    judged: list[str] = []

    async def judge(record: Record, text: str) -> Verdict:
        judged.append(text)
        await asyncio.sleep(0)
        return await exact(record, text)

    (group, other) = sample(
        ScriptedEngine(lambda place: "2" if place % 4 else "3"),
        grade=judge,
        records=[RECORD, replace(RECORD, uid="other")],
        draw=Draw("train", 1, 4),
    )
    assert sorted(judged) == ["2", "2", "3", "3"]
    assert group.rewards == other.rewards == [0.0, 1.0, 1.0, 1.0]


def test_a_verdict_that_failed_is_asked_for_again() -> None:
    answers = [Verdict.error("lost"), Verdict.correct("2")]

    async def recovering(record: Record, text: str) -> Verdict:
        return answers.pop(0)

    rollout = asyncio.run(
        rollouts_of(ScriptedEngine(lambda _: "2"), grade=recovering).group(RECORD, Draw("t", 1, 1), 0)
    )
    assert rollout.rewards == [1.0]


def test_both_tries_share_one_deadline_and_a_hang_is_not_tried_again() -> None:
    class Hanging(ScriptedEngine):
        async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
            self.asked.append((list(prompt_ids), sampling))
            await asyncio.sleep(60)
            raise AssertionError

    engine = Hanging(lambda _: "2")
    (group,) = sample(engine, draw=Draw("train", 1, 1), deadline=0.05, max_failed=1.0)
    assert len(engine.asked) == 1
    failure = group.rollouts[0].failure
    assert failure is not None
    assert failure.stage == "generate"


def test_an_environment_that_hangs_when_closed_does_not_hold_up_the_batch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Clinging(SingleTurn):
        async def close(self) -> None:
            await asyncio.sleep(60)

    monkeypatch.setattr("reasonkit.rollouts.CLOSE_SECONDS", 0.01)
    assert only(sample(ScriptedEngine(lambda _: "2"), env=Clinging)).reward == 1.0
    assert "closing the environment of r1 failed: TimeoutError" in caplog.text


def test_no_more_attempts_than_allowed_sample_at_once_but_scoring_does_not_count() -> None:
    class Counting(ScriptedEngine):
        live = most = 0

        async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
            self.live += 1
            self.most = max(self.most, self.live)
            await asyncio.sleep(0)
            completion = await super().generate(prompt_ids, sampling)
            self.live -= 1
            return completion

    scoring = most_scoring = 0

    async def slow(record: Record, text: str) -> Verdict:
        nonlocal scoring, most_scoring
        scoring += 1
        most_scoring = max(most_scoring, scoring)
        await asyncio.sleep(0.02)
        scoring -= 1
        return await exact(record, text)

    engine = Counting(str)
    groups = sample(engine, grade=slow, draw=Draw("train", 1, 20), in_flight=3)
    assert len(groups[0].rollouts) == 20
    assert engine.most == 3
    assert most_scoring > 3


class Judged(Echo):
    """Gives its own verdict, and a reward a turn."""

    async def step(self, reply: Reply) -> Step:
        step = await super().step(reply)
        return replace(step, verdict=Verdict.wrong(None, "half", score=0.5))


async def must_not_be_asked(record: Record, text: str) -> Verdict:
    raise AssertionError


def test_an_environments_own_verdict_stands_and_its_rewards_are_kept_by_turn() -> None:
    rollout = only(sample(ScriptedEngine(lambda _: "ok"), env=Judged, grade=must_not_be_asked))
    assert rollout.parts == {"correctness": 0.5, "env": 1.0}
    assert [turn.reward for turn in rollout.turns] == [0.5, 0.5]
    (segment,) = rollout.segments
    for turn in rollout.turns:
        assert segment.mask[turn.end - 1] == 1
        assert turn.end == len(segment.ids) or segment.mask[turn.end] == 0


@pytest.mark.parametrize(
    ("weights", "reward"), [({"env": 2.0}, 2.0), ({"correctness": 1.0, "env": 0.0}, 0.5)]
)
def test_a_recipe_may_weigh_what_the_environment_gives(weights: dict[str, float], reward: float) -> None:
    assert only(sample(ScriptedEngine(lambda _: "ok"), env=Judged, reward=weights)).reward == reward


def test_stop_texts_are_the_recipes_and_the_environments() -> None:
    class Stopping(SingleTurn):
        stop = ("</a>", "END")

    engine = ScriptedEngine(lambda _: "2")
    sample(engine, env=Stopping, stop=["END", "."], min_p=0.1)
    assert engine.asked[0][1].stop == ("END", ".", "</a>")
    assert engine.asked[0][1].min_p == 0.1


def test_an_answer_tag_is_asked_for_and_read() -> None:
    record = replace(RECORD, prompt=(Message(role="user", content="Say <answer>x</answer>"),))
    seen: list[str] = []

    async def judge(record: Record, text: str) -> Verdict:
        seen.append(text)
        return Verdict.correct(text)

    rollout = only(
        sample(
            ScriptedEngine(lambda _: "<ans>2</ans>"),
            env=lambda: SingleTurn(answer_tag="ans"),
            grade=judge,
            records=[record],
        )
    )
    assert seen == ["<answer>2</answer>"]
    assert rollout.text == "<ans>2</ans>"
    assert "Say <ans>x</ans>" in TOKENIZER.decode(list(rollout.segments[0].ids))


def test_what_is_over_its_limit_is_cut_marked_and_counted() -> None:
    limits = Limits(prompt=2, observation=2)
    rollout = only(sample(ScriptedEngine(lambda _: "ok"), env=Echo, limits=limits))
    text = TOKENIZER.decode(list(rollout.segments[0].ids))
    assert "1\n[... 2 tokens cut ...]\n=" in text
    assert "m\n[... 2 tokens cut ...]\ne" in text
    assert rollout.usage.cut_tokens == 4
    (recipes,) = sample(ScriptedEngine(lambda _: "ok"), env=Echo, max_observation=3)
    assert recipes.rollouts[0].usage.cut_tokens == 1


def test_an_episode_may_be_limited_in_tokens() -> None:
    engine = ScriptedEngine(lambda _: "ok")
    rollout = only(sample(engine, env=lambda: Echo(turns=9), limits=Limits(episode=7), draw=Draw("t", 1, 1)))
    assert [sampling.max_tokens for _, sampling in engine.asked] == [7, 4, 1]
    assert rollout.truncated


def test_what_truncates_the_distribution_is_warned_of_where_it_is_trained_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        sample(ScriptedEngine(lambda _: "2"), top_p=0.9, draw=Draw("eval", 1, 1))
        assert caplog.messages == []
        sample(ScriptedEngine(lambda _: "2"), top_p=0.9, top_k=3, records=[RECORD] * 3)
    assert len(caplog.messages) == 1
    assert "rollout.top_p and rollout.top_k" in caplog.messages[0]


class ScriptedChat:
    def __init__(self) -> None:
        self.asked: list[tuple[list[Message], Sampling]] = []

    async def reply(self, messages: list[Message], sampling: Sampling) -> Reply:
        self.asked.append((messages, sampling))
        return Reply("ok", "stop", prompt_tokens=10 * len(messages), completion_tokens=3)

    async def close(self) -> None: ...


def test_over_a_chat_messages_go_in_and_text_comes_out_and_nothing_else_differs() -> None:
    chat = ScriptedChat()
    rollouts = Rollouts.over_chat(
        chat,
        Echo,
        exact,
        RewardSum({"correctness": 1.0}),
        RolloutConfig(max_tokens=40, temperature=0.5),
        context=500,
        seed=7,
        limits=Limits(observation=1),
    )
    rollout = asyncio.run(rollouts.one(replace(RECORD, answer="ok"), Draw("eval", 0, 1), "r1", 0))
    first, second = (messages for messages, _ in chat.asked)
    assert first == list(RECORD.prompt)
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert rollout.segments == ()
    assert (rollout.reward, rollout.sampled_tokens) == (2.0, 6)
    assert rollout.usage == Usage(requests=2, prompt_tokens=40, completion_tokens=6)
    assert {sampling.temperature for _, sampling in chat.asked} == {0.5}


def test_tokens_are_counted_over_all_requests() -> None:
    engine = ScriptedEngine(lambda _: "ok")
    rollout = only(sample(engine, env=Echo))
    (segment,) = rollout.segments
    prompts = [len(asked) for asked, sampling in engine.asked if sampling.seed in _seeds(engine)[:2]]
    assert rollout.usage.requests == 2
    assert rollout.usage.completion_tokens == sum(segment.mask) == 6
    assert rollout.usage.prompt_tokens == sum(prompts)


def _seeds(engine: ScriptedEngine) -> list[int]:
    """Of the first attempt, turn by turn: its requests are every other one of two attempts."""
    return [sampling.seed for _, sampling in engine.asked[::2]]


class Interrupting(ScriptedEngine):
    """Says 'abcdef' two tokens at a time: interrupted after each, with other weights every time."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        self.asked.append((list(prompt_ids), sampling))
        version = len(self.asked)
        whole = [*ids("abcdef"), END]
        part = whole[sampling.drawn : sampling.drawn + 2]
        done = sampling.drawn + 2 >= len(whole)
        return Completion(
            tuple(part),
            tuple(-float(version) for _ in part),
            "stop" if done else "abort",
            (VersionSpan(version, 0, len(part)),),
            TOKENIZER.decode(part, skip_special_tokens=True),
        )


def test_an_interrupted_reply_goes_on_from_its_ids_with_exact_spans() -> None:
    engine = Interrupting(lambda _: "")
    rollout = asyncio.run(rollouts_of(engine).one(RECORD, Draw("train", 1, 1), 0, 0))
    (segment,) = rollout.segments
    start = segment.mask.index(1)
    assert rollout.text == "abcdef"
    assert list(segment.ids[start:]) == [*ids("abcdef"), END]
    assert segment.logprobs[start:] == (-1.0, -1.0, -2.0, -2.0, -3.0, -3.0, -4.0)
    assert segment.versions == (
        VersionSpan(1, start, start + 2),
        VersionSpan(2, start + 2, start + 4),
        VersionSpan(3, start + 4, start + 6),
        VersionSpan(4, start + 6, start + 7),
    )
    assert rollout.oldest_version == 1
    assert [(sampling.drawn, sampling.max_tokens) for _, sampling in engine.asked] == [
        (0, 40),
        (2, 38),
        (4, 36),
        (6, 34),
    ]
    assert len({sampling.seed for _, sampling in engine.asked}) == 1


def test_an_interrupted_reply_still_ends_at_its_limit() -> None:
    rollout = asyncio.run(rollouts_of(Interrupting(lambda _: ""), max_tokens=4).one(RECORD, DRAW, 0, 0))
    assert (rollout.text, rollout.finish_reason) == ("abcd", "length")


def test_an_attempt_with_tokens_that_are_too_old_begins_anew_and_that_is_no_failure() -> None:
    engine = Interrupting(lambda _: "")
    rollouts = rollouts_of(engine)

    async def two_updates_later() -> Rollout:
        rollouts.pause()
        running = asyncio.create_task(rollouts.one(RECORD, DRAW, 0, 0))
        await asyncio.sleep(0)
        assert engine.asked == []
        rollouts.resume()
        while len(engine.asked) < 2:
            await asyncio.sleep(0)
        rollouts.pause()
        rollouts.resume(oldest=2)
        return await running

    rollout = asyncio.run(two_updates_later())
    assert rollout.ok
    assert rollout.text == "abcdef"
    assert rollout.oldest_version == 3
    assert [sampling.drawn for _, sampling in engine.asked][:4] == [0, 2, 0, 2]


def test_waiting_while_paused_does_not_count_against_the_deadline() -> None:
    rollouts = rollouts_of(ScriptedEngine(lambda _: "2"), deadline=1.0)

    async def long_pause() -> Rollout:
        rollouts.pause()
        running = asyncio.create_task(rollouts.one(RECORD, DRAW, 0, 0))
        await asyncio.sleep(1.2)
        rollouts.resume()
        return await running

    assert asyncio.run(long_pause()).ok


def test_an_engine_that_only_ever_interrupts_meets_the_deadline() -> None:
    class Never(ScriptedEngine):
        async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
            return Completion((), (), "abort", (), "")

    rollout = asyncio.run(rollouts_of(Never(lambda _: ""), deadline=0.05).one(RECORD, DRAW, 0, 0))
    assert rollout.failure is not None
    assert "rollout.deadline" in rollout.failure.cause


def test_whatever_breaks_counts_add_up() -> None:
    """Of 40 attempts some meet an engine that breaks, an environment that breaks, or a verifier that is lost."""

    class Breaking(SingleTurn):
        async def step(self, reply: Reply) -> Step:
            if reply.text == "env":
                raise KeyError("state")
            return await super().step(reply)

    async def losing(record: Record, text: str) -> Verdict:
        if text == "lost":
            return Verdict.error("the worker is gone")
        if text == "slow":
            await asyncio.sleep(60)
        return await exact(record, text)

    def reply(place: int) -> str | Exception:
        kinds: list[str | Exception] = ["2", "3", "env", "lost", "slow", ConnectionError("refused")]
        return kinds[place % 6]

    records = [replace(RECORD, uid=str(place)) for place in range(10)]
    groups = sample(
        ScriptedEngine(reply),
        env=Breaking,
        grade=losing,
        records=records,
        draw=Draw("train", 1, 4),
        deadline=0.3,
        max_failed=1.0,
    )
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    failed = [rollout.failure for rollout in rollouts if rollout.failure is not None]
    assert len(rollouts) == 40
    assert len(failed) + sum(len(group.rewards) for group in groups) == 40
    assert {failure.stage for failure in failed} <= {"env", "verify", "generate"}
    assert all(rollout.verdict is None and rollout.reward == 0.0 for rollout in rollouts if not rollout.ok)
    assert any("KeyError" in failure.cause for failure in failed)
    assert any("rollout.deadline" in failure.cause for failure in failed)
