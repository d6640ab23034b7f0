"""Records to scored Groups: the one loop that training, evaluation and filtering sample with.

It owns the tokens: it renders what an Env says, appends sampled ids unchanged, and masks everything that was
not sampled. Rollouts are independent coroutines; scoring starts as each reply ends and overlaps generation.
A failed rollout is data: retried once, then recorded with its cause, and never a silent 0. Batching is
the engine's business, weights are the loop's.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from reasonkit.dialogue import Dialogue
from reasonkit.engines import Engine, Reply, Sampling
from reasonkit.envs import Env
from reasonkit.errors import ReasonkitError
from reasonkit.recipe import RolloutConfig
from reasonkit.records import (
    Completion,
    Failure,
    Group,
    Message,
    Record,
    Rollout,
    Segment,
    Stage,
    Status,
    Verdict,
    VersionSpan,
)
from reasonkit.rewards import RewardSum
from reasonkit.seeding import derive_seed

Grade = Callable[[Record, str], Awaitable[Verdict]]
"""Scores a reply, on whatever worker the verifier belongs on."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What a batch of rollouts is drawn for. Seeds are hashes of it, so no two purposes share a draw."""

    purpose: str
    step: int
    n: int
    greedy: bool = False


@dataclass(slots=True)
class Transcript:
    """The token sequence that a rollout builds: ids, and which of them the model sampled."""

    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[VersionSpan] = field(default_factory=list)

    def observe(self, ids: Sequence[int]) -> None:
        self.ids.extend(ids)
        self.mask.extend([0] * len(ids))
        self.logprobs.extend([0.0] * len(ids))

    def sample(self, completion: Completion) -> None:
        offset = len(self.ids)
        self.versions.extend(
            VersionSpan(span.version, span.start + offset, span.end + offset) for span in completion.versions
        )
        self.ids.extend(completion.token_ids)
        self.mask.extend([1] * len(completion.token_ids))
        self.logprobs.extend(completion.logprobs)

    def segment(self) -> Segment:
        return Segment(tuple(self.ids), tuple(self.mask), tuple(self.logprobs), tuple(self.versions))


@dataclass(slots=True)
class Episode:
    """One attempt in progress. Kept apart from the result, so that a failure can say how far it came."""

    stage: Stage = "env"
    transcript: Transcript = field(default_factory=Transcript)
    finished: list[Segment] = field(default_factory=list)
    reply: Reply = field(default_factory=lambda: Reply("", "abort"))
    env_reward: float = 0.0
    timings: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def segments(self) -> tuple[Segment, ...]:
        return (*self.finished, self.transcript.segment())


class Rollouts:
    """Samples and scores. Holds no state between calls, so that a step can be run again exactly."""

    def __init__(
        self,
        engine: Engine,
        dialogue: Dialogue,
        make_env: Callable[[], Env],
        grade: Grade,
        reward: RewardSum,
        settings: RolloutConfig,
        *,
        context: int,
        seed: int,
    ) -> None:
        self._engine = engine
        self._dialogue = dialogue
        self._make_env = make_env
        self._grade = grade
        self._reward = reward
        self._settings = settings
        self._context = context
        self._seed = seed

    async def groups(self, records: Sequence[Record], draw: Draw) -> list[Group]:
        """The group of every record, in order. Too many failures stop the run, saying what failed."""
        async with asyncio.TaskGroup() as tasks:
            running = [
                [tasks.create_task(self._attempt(record, draw, place, sample)) for sample in range(draw.n)]
                for place, record in enumerate(records)
            ]
        groups = [
            Group(record, tuple(task.result() for task in row))
            for record, row in zip(records, running, strict=True)
        ]
        self._stop_on_failures(groups)
        return groups

    async def _attempt(self, record: Record, draw: Draw, place: int, sample: int) -> Rollout:
        """A rollout, tried twice before its failure is recorded."""
        seed = derive_seed(self._seed, draw.purpose, draw.step, place, sample)
        first = await self._once(record, draw, sample, seed)
        return first if first.ok else await self._once(record, draw, sample, seed)

    async def _once(self, record: Record, draw: Draw, sample: int, seed: int) -> Rollout:
        episode, env = Episode(), self._make_env()
        try:
            async with asyncio.timeout(self._settings.deadline):
                await self._play(record, env, episode, draw, seed)
                return await self._score(record, episode, sample)
        except TimeoutError:
            cause = f"took longer than rollout.deadline ({self._settings.deadline:g} s)"
        except Exception as error:  # the one boundary around engines, environments and users' own code
            cause = f"{type(error).__name__}: {error}"
        finally:
            await env.close()
        return self._failed(record, episode, sample, cause)

    async def _play(self, record: Record, env: Env, episode: Episode, draw: Draw, seed: int) -> None:
        """Turns until the environment is done or the context is full."""
        messages = await env.reset(record, derive_seed(seed, "env"))
        episode.transcript.observe(self._dialogue.record_ids(record, messages))
        history = list(messages)
        for turn in range(self._context):
            room = self._context - len(episode.transcript.ids)
            if room < 1:
                episode.reply = replace(episode.reply, finish_reason="length")
                return
            completion = await self._generate(episode, draw, derive_seed(seed, "turn", turn), room)
            episode.reply = Reply(completion.text, completion.finish_reason)
            episode.stage = "env"
            step = await env.step(episode.reply)
            episode.env_reward += step.reward
            if step.done or step.truncated:
                return
            ended = completion.token_ids[-1:] == (self._dialogue.end_of_turn,)  # a stop text ends without it
            if self._dialogue.appends and not step.fresh:
                episode.transcript.observe(self._dialogue.bridge_ids(step.messages, ended))
                continue
            said = Message(role="assistant", content=completion.text)
            history = list(step.messages) if step.fresh else [*history, said, *step.messages]
            episode.finished.append(episode.transcript.segment())
            episode.transcript = Transcript()
            episode.transcript.observe(self._dialogue.prompt_ids(history))

    async def _generate(self, episode: Episode, draw: Draw, seed: int, room: int) -> Completion:
        episode.stage = "generate"
        started = time.perf_counter()
        sampling = Sampling(
            max_tokens=min(self._settings.max_tokens, room),
            temperature=0.0 if draw.greedy else self._settings.temperature,
            top_p=self._settings.top_p,
            top_k=self._settings.top_k,
            seed=seed,
        )
        completion = await self._engine.generate(episode.transcript.ids, sampling)
        episode.transcript.sample(completion)
        episode.timings["generate"] += time.perf_counter() - started
        return completion

    async def _score(self, record: Record, episode: Episode, sample: int) -> Rollout:
        episode.stage = "verify"
        started = time.perf_counter()
        verdict = await self._grade(record, episode.reply.text)
        episode.timings["verify"] += time.perf_counter() - started
        if verdict.status is Status.ERROR:
            return self._failed(record, episode, sample, verdict.reason)
        episode.stage = "reward"
        rollout = Rollout(
            uid=record.uid,
            sample=sample,
            segments=episode.segments(),
            text=episode.reply.text,
            finish_reason=episode.reply.finish_reason,
            verdict=verdict,
            reward=0.0,
            timings=dict(episode.timings),
        )
        parts = self._reward(record, rollout, verdict)
        if episode.env_reward:
            parts["env"] = episode.env_reward
        return replace(rollout, reward=sum(parts.values()), parts=parts)

    def _failed(self, record: Record, episode: Episode, sample: int, cause: str) -> Rollout:
        return Rollout(
            uid=record.uid,
            sample=sample,
            segments=episode.segments(),
            text=episode.reply.text,
            finish_reason="abort",
            verdict=None,
            reward=0.0,
            timings=dict(episode.timings),
            failure=Failure(episode.stage, cause),
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
