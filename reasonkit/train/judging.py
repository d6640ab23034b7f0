"""Who judges a run's replies: this process's own verifiers, or a reward server; and on which tasks beside its data.

What belongs to a recipe's `verifier` and `validation.tasks`. Verdicts of both graders mean the same; a grader that
cannot judge gives an error, never a zero.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Protocol, cast

from reasonkit.data.contamination import leaks, tasks_here
from reasonkit.data.evaluation_sets import open_task, pins
from reasonkit.evaluate.work import TaskPlan
from reasonkit.recipe import Part, Recipe
from reasonkit.records import Record, Verdict
from reasonkit.registry import bind, resolve
from reasonkit.tasks import expand
from reasonkit.verifiers import Grader, Mode

LOGGER = logging.getLogger(__name__)

GRADERS = {"strict": "reasonkit.verifiers:Grader", "reasoning360": "reasonkit.verifiers:Grader"} | {
    "remote": "reasonkit.verifiers.remote:RemoteGrader"
}


class Judge(Protocol):
    """What Grader and RemoteGrader have in common."""

    def check(self, records: Iterable[Record]) -> None: ...

    async def verify(self, record: Record, text: str) -> Verdict: ...

    def at(self, split: str, step: int, /) -> AbstractContextManager[None]: ...

    async def __aenter__(self) -> Judge: ...

    async def __aexit__(self, *exception: object) -> None: ...


def open_judge(part: Part) -> Judge:
    make = resolve("verifier", part.name, GRADERS)
    if make is Grader:
        make = partial(Grader, mode=cast(Mode, part.name))
    return cast(Judge, bind("verifier", part.name, make, part.options)())


def task_plans(recipe: Recipe) -> list[TaskPlan]:
    """`validation.tasks`, opened. Their own k and sampling, but replies no longer than the run's."""
    plans = []
    for ref in expand(recipe.validation.tasks):
        sampling = ref.task.sampled_as(None)
        longest = min(sampling.max_tokens, recipe.rollout.max_tokens)
        plans.append(
            TaskPlan(
                ref.task,
                open_task(ref, limit=None, seed=recipe.seed, offline=False),
                ref.k,
                replace(sampling, max_tokens=longest),
                recipe.seed,
                pins=pins(ref),
                suite=ref.suite,
            )
        )
    return plans


def warn_of_leaks(training: Sequence[Record]) -> None:
    """Say so where training data holds items of an evaluation set that is on this machine."""
    for leak in leaks(training, tasks_here()):
        LOGGER.warning("%s   (reasonkit data decontaminate FILE --against %s)", leak, leak.task)
