"""Sampling and judging what an evaluation still lacks: all tasks on one loading of a model.

Replies are asked for in the order of tasks, items and samples, so many at once, with no pause between tasks; a
reply is written down as it comes and judged while the next are sampled. A reply whose grader fails is judged once
more and never sampled again. What fails is recorded and counted; when more than a set fraction has failed, no
more is asked of that model. Models come one after the other, or several at once where each has a place of its own.
Which samples a folder lacks is work.py's to say, how a model is opened models.py's, and where placement.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reasonkit.dialogue import Dialogue
from reasonkit.engines import Chat, Engine, Sampling
from reasonkit.engines.http_client import HttpSettings
from reasonkit.engines.http_ledger import CostExceeded, Ledger, Price
from reasonkit.envs import ENVS, Env
from reasonkit.evaluate.folder import EvaluationDir
from reasonkit.evaluate.results import TaskResult, read_results, results_json
from reasonkit.evaluate.samples import GAME, Sample, SampleFile, Samples
from reasonkit.evaluate.work import Pair, TaskPlan
from reasonkit.models import FoundModel, OpenModel, open_model
from reasonkit.recipe import RolloutConfig
from reasonkit.records import Message, Record, Rollout, Verdict
from reasonkit.registry import with_options
from reasonkit.rewards import RewardSum
from reasonkit.rollouts import Draw, Rollouts
from reasonkit.rundir import write_json
from reasonkit.verifiers import Grader, Mode

DEADLINE = 3600.0
"""Seconds that one reply may take, waiting in an engine's queue included."""
BACKLOG = 4
"""Replies that are being sampled or judged, at most, as a multiple of those being sampled."""
SHOWN = "shown to the grader"


@dataclass(frozen=True, slots=True)
class Options:
    """How an evaluation is carried out; nothing here changes what a reply is."""

    grader: Mode = "strict"
    concurrency: int | None = None
    """Replies sampled at once; None leaves it to the kind of model."""
    most_failed: float = 0.1
    """A model is given up when more than this fraction of its samples has failed."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    max_cost: float | None = None
    http: HttpSettings | None = None


Opener = Callable[..., contextlib.AbstractAsyncContextManager[OpenModel]]
"""open_model, or whatever else makes a found model answer: one that is placed on another machine."""


class Watcher(Protocol):
    """Whoever watches: a live table, plain lines, or nobody. Told, never asked."""

    def begins(self, model: str, pairs: Sequence[Pair]) -> None: ...

    def phase(self, model: str, name: str) -> None: ...

    def sampled(self, pair: Pair, sample: Sample) -> None: ...

    def judged(self, pair: Pair, verdict: Verdict) -> None: ...

    def ended(self, result: TaskResult) -> None: ...


@dataclass(frozen=True, slots=True)
class Evaluated:
    results: list[TaskResult]
    stopped: list[str]
    """Why models were given up before all was sampled."""


async def evaluate(
    models: Sequence[FoundModel],
    plans: Sequence[TaskPlan],
    folder: EvaluationDir,
    options: Options,
    watcher: Watcher,
    opener: Opener = open_model,
    at_once: int = 1,
) -> Evaluated:
    """Sample and judge what `folder` lacks, and write the results beside those of other tasks and models that it
    has. It must be claimed already.

    So many models `at_once`; they begin in their order.
    """
    ledger = Ledger(options.max_cost)
    room = asyncio.Semaphore(at_once)
    before = read_results(folder.path) if folder.results.exists() else []
    results: dict[str, list[TaskResult]] = {found.label: [] for found in models}
    async with Grader(mode=options.grader) as grader:
        for plan in plans:
            environment_of(plan)
            grader.check(plan.records)
            folder.keep_records(plan.name, plan.records)

        async def one(found: FoundModel) -> str:
            async with room:
                return await _evaluate_model(
                    found, plans, folder, grader, options, ledger, watcher, opener, results[found.label]
                )

        running = [asyncio.ensure_future(one(found)) for found in models]
        try:
            given_up = await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            done = [result for found in models for result in results[found.label]]
            both = {(result.model, result.task): result for result in [*before, *done]}
            write_json(folder.results, results_json(list(both.values())))
    return Evaluated(
        done,
        [f"{found.label}: {why}" for found, why in zip(models, given_up, strict=True) if why],
    )


async def _evaluate_model(
    found: FoundModel,
    plans: Sequence[TaskPlan],
    folder: EvaluationDir,
    grader: Grader,
    options: Options,
    ledger: Ledger,
    watcher: Watcher,
    opener: Opener,
    results: list[TaskResult],
) -> str:
    """One loading of a model for all tasks. What it scored is added to `results`, however it ends; returns why the
    model was given up, if it was."""
    with contextlib.ExitStack() as files:
        pairs = [
            Pair(
                found.label,
                found.identity,
                plan,
                files.enter_context(SampleFile(folder.pair(found.label, plan.name))),
            )
            for plan in plans
        ]
        watcher.begins(found.label, pairs)
        work = _Work(pairs, grader, options, watcher, options.concurrency or found.in_flight)
        try:
            if any(True for pair in pairs for _ in pair.missing()):
                watcher.phase(found.label, "loading")
                async with opener(
                    found, in_flight=work.concurrency, ledger=ledger, prices=options.prices, http=options.http
                ) as opened:
                    watcher.phase(found.label, "sampling")
                    await work.sample_and_judge(opened)
            else:
                await work.judge_again()
        finally:
            price = found.price(options.prices)
            for pair in pairs:
                result = pair.result(options.grader, price)
                write_json(folder.pair(found.label, pair.plan.name) / "results.json", result.as_json())
                watcher.ended(result)
                results.append(result)
    return work.given_up


class _Work:
    """What is to be done for one model, and how far it has come."""

    def __init__(
        self, pairs: Sequence[Pair], grader: Grader, options: Options, watcher: Watcher, concurrency: int
    ) -> None:
        self.concurrency = concurrency
        self.given_up = ""
        self._pairs = pairs
        self._grader = grader
        self._options = options
        self._watcher = watcher
        self._room = asyncio.Semaphore(concurrency)
        self._backlog = asyncio.Semaphore(BACKLOG * concurrency)
        self._planned = sum(pair.plan.samples for pair in pairs)
        self._failed = 0

    async def sample_and_judge(self, opened: OpenModel) -> None:
        async with asyncio.TaskGroup() as tasks:
            await self._judge_old(tasks)
            for pair in self._pairs:
                rollouts = rollouts_over(opened.model, opened.dialogue, pair.plan, opened.context)
                for record, number in pair.missing():
                    await self._backlog.acquire()
                    if self.given_up:
                        self._backlog.release()
                        return
                    tasks.create_task(self._attempt(rollouts, pair, record, number))

    async def judge_again(self) -> None:
        """Where every reply is there, some may still lack a verdict of this grader."""
        async with asyncio.TaskGroup() as tasks:
            await self._judge_old(tasks)

    async def _judge_old(self, tasks: asyncio.TaskGroup) -> None:
        for pair in self._pairs:
            for record, sample in list(pair.unjudged(self._options.grader)):
                await self._backlog.acquire()
                tasks.create_task(self._judge_and_release(pair, record, sample))

    async def _judge_and_release(self, pair: Pair, record: Record, sample: Sample) -> None:
        try:
            await self._judge(pair, record, sample)
        finally:
            self._backlog.release()

    async def _attempt(self, rollouts: Rollouts, pair: Pair, record: Record, number: int) -> None:
        try:
            async with self._room:
                if self.given_up:
                    return
                rollout = await rollouts.one(record, draw_of(pair.plan), record.uid, number)
            sample = sample_of(pair.key(record, number), number, rollout)
            pair.samples.add(sample)
            self._watcher.sampled(pair, sample)
            if rollout.failure is not None:
                self._count_failure(rollout.failure.cause)
            elif (game := games_verdict(rollout)) is not None:
                pair.samples.judge(sample.key, GAME, game)
                self._watcher.judged(pair, game)
            else:
                await self._judge(pair, record, sample)
        finally:
            self._backlog.release()

    async def _judge(self, pair: Pair, record: Record, sample: Sample) -> None:
        verdict = await judged(self._grader, record, sample.text)
        pair.samples.judge(sample.key, self._options.grader, verdict)
        self._watcher.judged(pair, verdict)

    def _count_failure(self, cause: str) -> None:
        self._failed += 1
        if cause.startswith(CostExceeded.__name__):
            self.given_up = cause.partition(": ")[2]
        elif self._failed > self._options.most_failed * self._planned and not self.given_up:
            self.given_up = (
                f"{self._failed} of {self._planned} samples failed, more than --fail-on-error "
                f"{self._options.most_failed:g} allows; the last: {cause}"
            )


async def validate_on_tasks(
    model: Engine | Chat,
    dialogue: Dialogue | None,
    grader: Grader,
    plans: Sequence[TaskPlan],
    *,
    context: int,
    label: str,
    concurrency: int = 256,
) -> list[TaskResult]:
    """A look at tasks during training, with whatever weights the engine holds. Nothing is written.

    The draws depend on the plan's seed and the items alone, so that two looks differ by the weights.
    """
    pairs = [Pair(label, label, plan, Samples()) for plan in plans]
    work = _Work(pairs, grader, Options(grader=grader.mode, most_failed=1.0), Nobody(), concurrency)
    await work.sample_and_judge(OpenModel(model, dialogue, context))
    return [pair.result(grader.mode) for pair in pairs]


def rollouts_over(model: Engine | Chat, dialogue: Dialogue | None, plan: TaskPlan, context: int) -> Rollouts:
    """Rollouts that sample as the plan says and leave judging to whoever asked for them."""
    return Rollouts(
        model,
        dialogue,
        environment_of(plan),
        _put_off,
        RewardSum({"correctness": 1.0}),
        _rollout_settings(plan.sampling),
        context=context,
        seed=plan.seed,
    )


def environment_of(plan: TaskPlan) -> Callable[[], Env]:
    """What makes the environment of each attempt. An unknown one, or one of its options, is an error here."""
    env = plan.task.env
    return with_options("environment", env.name, ENVS, env.options)


def draw_of(plan: TaskPlan) -> Draw:
    return Draw("evaluate", 0, plan.k, greedy=plan.sampling.temperature == 0)


def sample_of(key: str, number: int, rollout: Rollout) -> Sample:
    verdict = rollout.verdict
    shown = verdict.details.get(SHOWN, rollout.text) if verdict is not None else rollout.text
    several = len(rollout.turns) > 1
    return Sample(
        key=key,
        uid=rollout.uid,
        number=number,
        text=shown,
        finish_reason=rollout.finish_reason,
        prompt_tokens=rollout.usage.prompt_tokens,
        completion_tokens=rollout.usage.completion_tokens,
        seconds=rollout.timings.get("generate", 0.0),
        turns=[_turn(turn.text, turn.observation) for turn in rollout.turns] if several else (),
        failure=f"{rollout.failure.stage}: {rollout.failure.cause}" if rollout.failure else None,
    )


def games_verdict(rollout: Rollout) -> Verdict | None:
    """The environment's own verdict, where it gave one."""
    assert rollout.verdict is not None
    return None if SHOWN in rollout.verdict.details else rollout.verdict


async def judged(grader: Grader, record: Record, text: str) -> Verdict:
    """The verdict, asked for twice where the grader itself fails."""
    verdict = await grader.verify(record, text)
    return await grader.verify(record, text) if verdict.status.is_failure else verdict


async def _put_off(record: Record, text: str) -> Verdict:  # noqa: ARG001 - the signature of a Grade
    """Rollouts want a verdict with the reply; this one only says what there is to judge."""
    return Verdict.no_answer("not judged yet", **{SHOWN: text})


def _turn(text: str, observation: Iterable[Message]) -> tuple[str, str]:
    return text, "\n\n".join(message["content"] for message in observation)


def _rollout_settings(sampling: Sampling) -> RolloutConfig:
    return RolloutConfig(
        n=1,
        temperature=sampling.temperature or 1.0,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        stop=list(sampling.stop),
        max_tokens=sampling.max_tokens,
        deadline=DEADLINE,
    )


class Nobody:
    """Implements Watcher by not looking."""

    def begins(self, model: str, pairs: Sequence[Pair]) -> None:
        pass

    def phase(self, model: str, name: str) -> None:
        pass

    def sampled(self, pair: Pair, sample: Sample) -> None:
        pass

    def judged(self, pair: Pair, verdict: Verdict) -> None:
        pass

    def ended(self, result: TaskResult) -> None:
        pass
