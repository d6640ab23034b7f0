"""One training run in progress: its parts, its position, and what to do at a step's boundary.

A boundary is where learner, engine and feed agree: checkpoints exist only there. Ctrl-C and SIGTERM
come into effect there too: rollouts under way are thrown away (they are sampled again, identically, on
resume), an optimizer step under way is finished first. How the parts are made is launch.py's business.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from reasonkit.advantages import Advantage, Advantages
from reasonkit.engines import Engine, WeightSource
from reasonkit.errors import Stopped
from reasonkit.evaluate.results import TaskResult
from reasonkit.evaluate.validation import validate
from reasonkit.recipe import Recipe
from reasonkit.records import Group, Record
from reasonkit.rollouts import Rollouts
from reasonkit.rundir import RunDir
from reasonkit.train.ahead import Ahead, Clock, staleness
from reasonkit.train.checkpoint import finish_checkpoint, keep_only, save_checkpoint
from reasonkit.train.collapse import Collapsed, Watch
from reasonkit.train.journal import Journal
from reasonkit.train.judging import Judge
from reasonkit.train.learner import Learner
from reasonkit.train.packing import Batch, assemble, mini_batches
from reasonkit.train.signals import Wanted, annotate

T = TypeVar("T")


@dataclass(slots=True)
class Run:
    recipe: Recipe
    folder: RunDir
    ahead: Ahead
    rollouts: Rollouts
    advantage: Advantage
    learner: Learner
    engine: Engine
    detach: Callable[[WeightSource], Awaitable[WeightSource]] | None
    """Copies weights out of the learner, which then goes on while engines load them; None where that is no help."""
    clock: Clock
    held_out: Sequence[Record]
    journal: Journal
    judge: Judge
    look_at_tasks: Callable[[], Awaitable[list[TaskResult]]] | None
    wanted: Wanted
    collapse: Watch
    step: int = 0
    """The last finished step."""
    scores: dict[int, float] = field(default_factory=dict)
    """Validation accuracy by step."""
    left_out: list[Group] = field(default_factory=list)
    """Groups of the last rollout batch that taught nothing and were replaced."""
    _cursor: dict[str, Any] = field(default_factory=dict)
    """The data's state at the boundary, so that a checkpoint is right although rollouts have drawn on."""
    _delivery: asyncio.Task[None] | None = None
    """Weights on their way to the engines."""
    _saved: int | None = None
    """The step of the last checkpoint, which may still be being written."""
    _sampling: asyncio.Task[Any] | None = None
    _stop: int | None = None
    """The signal that asked to stop."""

    def __post_init__(self) -> None:
        self._cursor = self.ahead.state()

    async def sample(self, step: int) -> list[Group]:
        """The groups of one rollout batch. Meanwhile, and while it trains, those of the next steps are sampled."""
        self.clock.start()
        last = min(step + self.recipe.rollout.max_staleness, self.recipe.train.steps)
        for each in range(step, last + 1):
            self.ahead.begin(each, self._delivery)
        sampled = await self._interruptible(self.ahead.take(step))
        self.left_out = sampled.left_out
        return sampled.groups

    async def sync(self, step: int) -> None:
        """Hand the weights of `step` to the engines; where batches are under way, without waiting for these."""
        await self.delivered()
        weights = self.learner.weights()
        if self.detach is None or not self.recipe.rollout.max_staleness:
            await self.engine.load_weights(weights, version=step)
            return
        copied = await self.detach(weights)
        self._delivery = asyncio.create_task(self.engine.load_weights(copied, version=step))

    async def delivered(self) -> None:
        """Wait until the engines hold the weights of the last `sync`."""
        if self._delivery is not None:
            await self._delivery
            self._delivery = None

    def measured(self, step: int, groups: Sequence[Group]) -> dict[str, float]:
        """How stale the samples were, how long both sides and samples waited, what the last weights cost, and where
        the data stands."""
        return {
            **staleness(groups, step),
            **self.clock.read(self.ahead.waited),
            "batches_queued": float(self.ahead.ready),
            **self.ahead.feed.notes(),
        }

    async def annotate(self, groups: Sequence[Group]) -> list[Group]:
        """What the learner has to say of every token, where the recipe needs it."""
        return await annotate(groups, self.learner, self.wanted)

    def pack(self, groups: Sequence[Group], advantages: Advantages) -> list[Batch]:
        """The optimizer updates of one rollout batch: whole groups a mini-batch, as many passes as asked."""
        one_pass = mini_batches(assemble(groups, advantages), self.recipe.mini_batch)
        passes = self.recipe.updates_per_rollout * self.recipe.mini_batch // self.recipe.train.prompts
        return one_pass * passes

    async def watch(self, row: Mapping[str, Any]) -> None:
        """Stop a run that has collapsed, where the recipe asks for it."""
        try:
            self.collapse.look(row)
        except Collapsed:
            await self.checkpoint(wait=True)
            raise

    def due(self, every: int) -> bool:
        """Whether something done `every` steps is due now. The last step is left to the run's end."""
        return every > 0 and self.step % every == 0 and self.step < self.recipe.train.steps

    def finish(self, step: int) -> None:
        self.step, self._cursor = step, self.ahead.state()

    def restore(self, step: int, state: Mapping[str, Any]) -> None:
        """Go to the boundary after `step`, which a checkpoint has described."""
        self.ahead.restore(state)
        self.finish(step)

    async def close(self) -> None:
        """End what is under way."""
        await self.ahead.close()
        if self._delivery is not None:
            self._delivery.cancel()
            await asyncio.gather(self._delivery, return_exceptions=True)

    @property
    def unseen(self) -> bool:
        """Whether there is anything to look at that was not looked at in this step."""
        tasks, held_out = self.folder.task_results(self.step), self.folder.evaluation(self.step)
        return bool(
            (self.look_at_tasks is not None and not tasks.exists())
            or (self.held_out and not held_out.exists())
        )

    async def validate(self, phase: str) -> None:
        """Look at held-out records and at the recipe's tasks, and keep the best checkpoint by it."""
        await self.delivered()
        if self.look_at_tasks is not None:
            results = await self._interruptible(self.look_at_tasks())
            self.journal.tasks(self.step, phase, results)
        if self.held_out:
            samples = self.recipe.validation.samples
            with self.judge.at("val", self.step):
                held_out = await self._interruptible(
                    validate(self.rollouts, self.held_out, samples, self.step, phase)
                )
            self.journal.validation(held_out)
        self.read_scores()
        if self.best() == self.step and self.recipe.validation.every:
            await self.checkpoint()

    def read_scores(self) -> None:
        """What the folder says of all validations up to here; a run that is resumed knows no less."""
        steps = {*self.folder.evaluation_steps(), *self.folder.task_steps()}
        self.scores = {step: _score(self.folder, step) for step in steps}

    def best(self, among: Collection[int] | None = None) -> int | None:
        """The step of the highest validation accuracy, the first of equals."""
        steps = [step for step in self.scores if among is None or step in among]
        return max(steps, key=lambda step: (self.scores[step], -step), default=None)

    async def checkpoint(self, *, wait: bool = False) -> None:
        """Save everything that resuming needs; leave the newest few and the best. Written while training goes on,
        unless `wait`."""
        if self.step not in (self._saved, *self.folder.checkpoints()):
            state = {"step": self.step, **self._cursor, "seconds": self.journal.seconds}
            await save_checkpoint(self.folder.checkpoint(self.step), self.learner, state)
            self._saved = self.step
        if wait:
            await finish_checkpoint(self.folder, self.learner)
        # The best of those that are there stays until a better one is whole.
        kept = {self.best(), self.best(self.folder.checkpoints())}
        keep_only(self.folder, self.recipe.checkpoint.keep, also=kept)

    def ask_to_stop(self, signum: int) -> None:
        """A signal's handler. The second one stops at once."""
        if self._stop is not None:
            signal.default_int_handler(signum, None)
        self._stop = signum
        if self._sampling is not None:
            self._sampling.cancel()

    async def stop_if_asked(self) -> None:
        if self._stop is not None:
            await self.checkpoint(wait=True)
            raise Stopped(
                self._stop,
                f"stopped by {signal.Signals(self._stop).name} after step {self.step}; a checkpoint was saved",
                f"reasonkit train --resume {self.folder.path}",
            )

    async def _interruptible(self, work: Awaitable[T]) -> T:
        """Await sampling, which a signal may cut short without losing anything."""
        task = asyncio.ensure_future(work)
        self._sampling = task
        try:
            return await task
        except asyncio.CancelledError:
            await self.stop_if_asked()
            raise
        finally:
            self._sampling = None


def _score(folder: RunDir, step: int) -> float:
    """By which checkpoints are compared: on the run's own problems, and where it has none over its tasks."""
    if folder.evaluation(step).exists():
        return float(json.loads(folder.evaluation(step).read_text(encoding="utf-8"))["sampled"]["accuracy"])
    return float(json.loads(folder.task_results(step).read_text(encoding="utf-8"))["score"])
