"""The loop of algorithms that learn from given replies: records in, batches out, no engine in between.

Everything else is a run as any other: the same learner, checkpoints, resume, journal and validation by sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from reasonkit.dialogue import Dialogue
from reasonkit.errors import ConfigError
from reasonkit.recipe import LossConfig, Recipe
from reasonkit.records import Record
from reasonkit.train.dpo import Preference
from reasonkit.train.learner import Learner
from reasonkit.train.packing import Batch
from reasonkit.train.run import Run
from reasonkit.train.sft import Imitation

OBJECTIVES: dict[str, type[Imitation] | type[Preference]] = {"sft": Imitation, "dpo": Preference}


class Objective(Protocol):
    async def prepare(self, records: Callable[[], Sequence[Record]]) -> None:
        """Called once, with the weights that training starts from."""

    async def batch(self, records: Sequence[Record], step: int) -> tuple[Batch, dict[str, float]]: ...


def is_supervised(recipe: Recipe) -> bool:
    return recipe.algorithm.name in OBJECTIVES


def learning(recipe: Recipe) -> Recipe:
    """The recipe as the learner sees it: an objective brings the loss that it is made for. Nobody sampled what it
    learns from, so log-probs are the model's own, whatever temperature validation samples at."""
    if is_supervised(recipe) and recipe.updates_per_rollout != 1:
        raise ConfigError(
            f"algorithm {recipe.algorithm.name} makes one update a step, but train.mini_batch "
            f"({recipe.train.mini_batch}) and train.updates_per_rollout ({recipe.train.updates_per_rollout}) "
            f"ask for {recipe.updates_per_rollout}",
            "set train.prompts to the records of an update, and leave these two out",
        )
    if not is_supervised(recipe):
        return recipe
    loss: LossConfig = OBJECTIVES[recipe.algorithm.name].loss(recipe.loss)
    rollout = recipe.rollout.model_copy(update={"temperature": 1.0})
    return recipe.model_copy(update={"loss": loss, "rollout": rollout})


def make_objective(recipe: Recipe, dialogue: Dialogue, learner: Learner, folder: Path) -> Objective:
    if recipe.algorithm.name == "dpo":
        return Preference.of(recipe, dialogue, learner, folder)
    return Imitation.of(recipe, dialogue, learner)


async def supervise(run: Run, objective: Objective) -> None:
    """From the run's last finished step to the recipe's last: records, batch, step."""
    recipe = run.recipe
    for step in range(run.step + 1, recipe.train.steps + 1):
        records = run.ahead.feed.next(recipe.train.prompts)
        with run.journal.timed("prepare"):
            batch, measured = await objective.batch(records, step)
        with run.journal.timed("train"):
            stats = await run.learner.step(batch)
        run.finish(step)
        row = run.journal.supervised_step(
            step, batch, {**stats.metrics, **measured, **run.ahead.feed.notes()}
        )
        await run.watch(row)
        if run.due(recipe.validation.every):
            await run.engine.load_weights(run.learner.weights(), version=step)
            await run.validate("during")
        if run.due(recipe.checkpoint.every):
            await run.checkpoint()
        await run.stop_if_asked()
    await run.engine.load_weights(run.learner.weights(), version=run.step)
