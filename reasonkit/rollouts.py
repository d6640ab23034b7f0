"""Records to scored Groups: the one loop that training, evaluation and filtering sample with.

Rollouts are independent coroutines; scoring starts as each attempt ends and overlaps generation. A failed rollout
is data: retried once, then recorded with its cause, and never a silent 0; none takes longer than
`rollout.deadline`, so nothing waits for ever on one sample. The tokens are kept by episode.py, batching is the
engine's business, weights are the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, cast

from reasonkit.dialogue import Dialogue
from reasonkit.engines import Chat, Engine, Punctual, Reply, Sampling
from reasonkit.envs import Env, Step
from reasonkit.episode import NO_LIMITS, ChatTalk, EngineTalk, Limits, Talk
from reasonkit.errors import ReasonkitError
from reasonkit.recipe import RolloutConfig
from reasonkit.records import (
    Failure,
    Group,
    Record,
    Rollout,
    Stage,
    Status,
    Turn,
    Verdict,
)
from reasonkit.rewards import RewardSum
from reasonkit.seeding import derive_seed

LOGGER = logging.getLogger(__name__)

TRAIN = "train"
"""The purpose whose rollouts are trained on."""
IN_FLIGHT = 1024
CLOSE_SECONDS = 30.0
"""What an environment may take to give back what it held."""

Grade = Callable[[Record, str], Awaitable[Verdict]]
"""Scores a reply, on whatever worker the verifier belongs on."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What a batch of rollouts is drawn for. Seeds are hashes of it, so no two purposes share a draw."""

    purpose: str
    step: int
    n: int
    greedy: bool = False


class OutOfTime(Exception):
    """The attempt used up its deadline."""


class TooOld(Exception):
    """The attempt holds tokens of weights that may not be trained on any more."""


@dataclass(slots=True)
class Episode:
    """One attempt in progress. Kept apart from the result, so that a failure can say how far it came."""

    talk: Talk
    left: float
    """Seconds; spent only at work, not while waiting for a place or for weights."""
    stage: Stage = "env"
    reply: Reply = field(default_factory=lambda: Reply("", "abort"))
    last: Step = field(default_factory=Step)
    turns: list[Turn] = field(default_factory=list)
    timings: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextlib.asynccontextmanager
    async def at(self, stage: Stage) -> AsyncIterator[None]:
        """What is awaited in here belongs to `stage`, and ends with the attempt's time."""
        self.stage = stage
        started = time.perf_counter()
        timer = asyncio.timeout(self.left)
        try:
            async with timer:
                yield
        except TimeoutError as error:
            if timer.expired():
                raise OutOfTime from error
            raise
        finally:
            spent = time.perf_counter() - started
            self.left -= spent
            self.timings[stage] += spent


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What stays the same when an attempt is made again."""

    record: Record
    draw: Draw
    sample: int
    seed: int
    grade: Grade
    room: contextlib.AbstractAsyncContextManager[object]


class Rollouts:
    """Samples and scores. Holds no state between calls, so that a step can be run again exactly."""

    def __init__(
        self,
        model: Engine | Chat,
        dialogue: Dialogue | None,
        make_env: Callable[[], Env],
        grade: Grade,
        reward: RewardSum,
        settings: RolloutConfig,
        *,
        context: int,
        seed: int,
        limits: Limits = NO_LIMITS,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        """Over an Engine with its Dialogue; `over_chat` says how over a Chat.

        `in_flight` bounds how many attempts of a call sample at once: more than the engine decodes at once, so that
        it never waits for one, but few enough that none spends its deadline in the engine's queue.
        """
        self._model = model
        self._dialogue = dialogue
        self._make_env = make_env
        self._grade = grade
        self._reward = reward
        self._settings = settings
        self._context = context
        self._seed = seed
        self._limits = replace(limits, observation=limits.observation or settings.max_observation)
        self._in_flight = in_flight
        self._resumed: asyncio.Event | None = None
        self._oldest = 0
        self._warned = False

    @classmethod
    def over_chat(
        cls,
        chat: Chat,
        make_env: Callable[[], Env],
        grade: Grade,
        reward: RewardSum,
        settings: RolloutConfig,
        *,
        context: int,
        seed: int,
        limits: Limits = NO_LIMITS,
        in_flight: int = IN_FLIGHT,
    ) -> Self:
        """Messages in, text out: the rollouts have no segments, and everything else is the same."""
        return cls(
            chat,
            None,
            make_env,
            grade,
            reward,
            settings,
            context=context,
            seed=seed,
            limits=limits,
            in_flight=in_flight,
        )

    async def one(self, record: Record, draw: Draw, key: int | str, sample: int) -> Rollout:
        """A single attempt. `key` is what makes its draws its own: the record's place in a batch, or its uid.

        Tried twice before its failure is recorded. Whoever calls this bounds how many run at once.
        """
        return await self._one(
            self._attempt(record, draw, key, sample, self._grade, contextlib.nullcontext())
        )

    async def group(self, record: Record, draw: Draw, key: int | str) -> Group:
        """All n attempts at a record; replies that are equal are judged once."""
        return await self._group(record, draw, key, contextlib.nullcontext())

    async def groups(self, records: Sequence[Record], draw: Draw) -> list[Group]:
        """The group of every record, in order. Too many failures stop the run, saying what failed."""
        room = asyncio.Semaphore(self._in_flight)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._group(record, draw, place, room))
                for place, record in enumerate(records)
            ]
        groups = [task.result() for task in running]
        self._stop_on_failures(groups)
        return groups

    def pause(self) -> None:
        """No request goes out until `resume`; replies under way end, or are interrupted by the engine's `abort`.

        Waiting here does not count against deadlines.
        """
        self._resumed = self._resumed or asyncio.Event()

    def resume(self, oldest: int = 0) -> None:
        """Attempts go on where they were; those with tokens of weights older than `oldest` begin anew."""
        self._oldest = oldest
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def _attempt(
        self,
        record: Record,
        draw: Draw,
        key: int | str,
        sample: int,
        grade: Grade,
        room: contextlib.AbstractAsyncContextManager[object],
    ) -> _Attempt:
        seed = derive_seed(self._seed, draw.purpose, draw.step, key, sample)
        return _Attempt(record, draw, sample, seed, grade, room)

    async def _group(
        self,
        record: Record,
        draw: Draw,
        key: int | str,
        room: contextlib.AbstractAsyncContextManager[object],
    ) -> Group:
        self._warn_of_truncation(draw)
        shared = _Shared(self._grade)
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._one(self._attempt(record, draw, key, sample, shared, room)))
                    for sample in range(draw.n)
                ]
        finally:
            shared.cancel()
        return Group(record, tuple(task.result() for task in running))

    async def _one(self, attempt: _Attempt) -> Rollout:
        """A rollout, tried twice within one deadline before its failure is recorded."""
        left, failures = self._settings.deadline, 0
        while True:
            episode = Episode(self._talk(), left)
            try:
                rollout = await self._once(attempt, episode)
            except TooOld:
                rollout = None
            left = episode.left
            if rollout is not None:
                failures += not rollout.ok
                if rollout.ok or failures == 2 or left <= 0:
                    return rollout

    async def _once(self, attempt: _Attempt, episode: Episode) -> Rollout:
        try:
            async with attempt.room:
                await self._play(attempt, episode)
            return await self._score(attempt, episode)
        except TooOld:
            raise
        except OutOfTime:
            cause = f"took longer than rollout.deadline ({self._settings.deadline:g} s)"
        except Exception as error:  # the one boundary around engines, environments and users' own code
            cause = f"{type(error).__name__}: {error}"
        return self._failed(attempt, episode, cause)

    async def _play(self, attempt: _Attempt, episode: Episode) -> None:
        """Turns until the environment is done or the context is full."""
        env = self._make_env()
        try:
            async with self._away(env), episode.at("env"):
                messages = await env.reset(attempt.record, derive_seed(attempt.seed, "env"))
            episode.talk.open(attempt.record, messages)
            for turn in itertools.count():
                reply = await self._hear(episode, self._sampling(attempt, turn, env.stop))
                if reply is None:
                    episode.reply = replace(episode.reply, finish_reason="length")
                    return
                episode.reply = reply
                segment, end = episode.talk.place()
                async with self._away(env), episode.at("env"):
                    step = await env.step(reply)
                episode.last = step
                episode.turns.append(
                    Turn(
                        reply.text,
                        reply.finish_reason,
                        step.reward,
                        tuple(step.messages),
                        segment,
                        end,
                        step.info,
                    )
                )
                if step.done or step.truncated:
                    return
                episode.talk.tell(step.messages, fresh=step.fresh)
        finally:
            await _close(env, attempt.record)

    async def _hear(self, episode: Episode, sampling: Sampling) -> Reply | None:
        """The next reply, however often it is interrupted."""
        while True:
            while self._resumed is not None:
                await self._resumed.wait()
            oldest = episode.talk.oldest_version()
            if oldest is not None and oldest < self._oldest:
                raise TooOld
            async with episode.at("generate"):
                reply = await episode.talk.reply(sampling)
                if reply is None or reply.finish_reason != "abort":
                    return reply
                await asyncio.sleep(
                    0
                )  # an engine that only ever interrupts must not keep the loop from its timers

    def _away(self, env: Env) -> contextlib.AbstractAsyncContextManager[None]:
        """Waiting here for the engine's turn does not count against the deadline."""
        if env.outside and isinstance(self._model, Punctual):
            return self._model.away()
        return contextlib.nullcontext()

    def _talk(self) -> Talk:
        if self._dialogue is None:
            return ChatTalk(cast(Chat, self._model), self._limits)
        return EngineTalk(cast(Engine, self._model), self._dialogue, self._context, self._limits)

    def _sampling(self, attempt: _Attempt, turn: int, stop: Sequence[str]) -> Sampling:
        return Sampling(
            max_tokens=self._settings.max_tokens,
            temperature=0.0 if attempt.draw.greedy else self._settings.temperature,
            top_p=self._settings.top_p,
            top_k=self._settings.top_k,
            min_p=self._settings.min_p,
            stop=tuple(dict.fromkeys((*self._settings.stop, *stop))),
            seed=derive_seed(attempt.seed, "turn", turn),
        )

    async def _score(self, attempt: _Attempt, episode: Episode) -> Rollout:
        verdict = episode.last.verdict
        if verdict is None:
            shown = episode.reply.text if episode.last.answer is None else episode.last.answer
            async with episode.at("verify"):
                verdict = await attempt.grade(attempt.record, shown)
        if verdict.status is Status.ERROR:
            return self._failed(attempt, episode, verdict.reason)
        episode.stage = "reward"
        rollout = self._so_far(attempt, episode, verdict)
        parts = self._reward(attempt.record, rollout, verdict)
        if rollout.env_reward and "env" not in parts:
            parts["env"] = rollout.env_reward
        return replace(rollout, reward=sum(parts.values()), parts=parts)

    def _failed(self, attempt: _Attempt, episode: Episode, cause: str) -> Rollout:
        rollout = self._so_far(attempt, episode, None)
        return replace(rollout, finish_reason="abort", failure=Failure(episode.stage, cause))

    def _so_far(self, attempt: _Attempt, episode: Episode, verdict: Verdict | None) -> Rollout:
        return Rollout(
            uid=attempt.record.uid,
            sample=attempt.sample,
            segments=episode.talk.segments(),
            text=episode.reply.text,
            finish_reason=episode.reply.finish_reason,
            verdict=verdict,
            reward=0.0,
            timings=dict(episode.timings),
            usage=episode.talk.usage,
            turns=tuple(episode.turns),
        )

    def _stop_on_failures(self, groups: Sequence[Group]) -> None:
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        failures = [rollout.failure for rollout in rollouts if rollout.failure is not None]
        if len(failures) <= self._settings.max_failed * len(rollouts):
            return
        causes = Counter(f"{failure.stage}: {failure.cause}" for failure in failures)
        worst = "\n".join(f"  {count} × {cause}" for cause, count in causes.most_common(3))
        raise ReasonkitError(
            f"{len(failures)} of {len(rollouts)} rollouts failed, more than rollout.max_failed "
            f"({self._settings.max_failed:g}) allows:\n{worst}",
            "mend the cause and resume, or raise --set rollout.max_failed=…",
        )

    def _warn_of_truncation(self, draw: Draw) -> None:
        settings = self._settings
        cut = {"top_p": settings.top_p < 1, "top_k": settings.top_k > 0, "min_p": settings.min_p > 0}
        if draw.purpose == TRAIN and any(cut.values()) and not self._warned:
            self._warned = True
            LOGGER.warning(
                "rollout.%s leaves out tokens when sampling, and the learner does not know which: its log-probs "
                "are of the whole vocabulary, so that ratios between equal weights differ from 1; train with "
                "top_p 1, top_k 0 and min_p 0",
                " and rollout.".join(name for name, does in cut.items() if does),
            )


class _Shared:
    """A group's verdicts: one for each distinct text, which is all that a verdict depends on."""

    def __init__(self, grade: Grade) -> None:
        self._grade = grade
        self._verdicts: dict[str, asyncio.Task[Verdict]] = {}

    async def __call__(self, record: Record, text: str) -> Verdict:
        task = self._verdicts.get(text)
        if task is None or _is_useless(task):
            task = self._verdicts[text] = asyncio.ensure_future(self._grade(record, text))
        return await asyncio.shield(task)  # the one whose time is up does not end it for the others

    def cancel(self) -> None:
        for task in self._verdicts.values():
            task.cancel()


def _is_useless(task: asyncio.Task[Verdict]) -> bool:
    """Whether it failed to give a verdict, so that whoever tries again asks again."""
    if not task.done():
        return False
    return task.cancelled() or task.exception() is not None or task.result().status is Status.ERROR


async def _close(env: Env, record: Record) -> None:
    """What an attempt earned does not depend on how its environment is put away."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await env.close()
    except Exception as error:  # users' own code
        LOGGER.warning(
            "closing the environment of %s failed: %s: %s", record.uid, type(error).__name__, error
        )
