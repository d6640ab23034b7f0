"""Does training data hold evaluation items? Asked before a run trains, and before a run's model is evaluated.

Nothing is fetched for it: it compares with the tasks whose items are on this machine, and with what is handed in.
Whether a hit is a leak is for people to say; `reasonkit data decontaminate` drops them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reasonkit.config import load_recipe
from reasonkit.data.decontaminate import Evaluations, decontaminate
from reasonkit.data.evaluation_sets import is_here, open_task
from reasonkit.data.load import open_data, prepare
from reasonkit.errors import ReasonkitError
from reasonkit.records import Record
from reasonkit.rundir import RunDir
from reasonkit.tasks import TASKS, parse

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leak:
    """Training records that hold items of one task."""

    task: str
    records: int
    example: str
    """The training record's uid, the item's, and the words that they share."""

    def __str__(self) -> str:
        return f"{self.records} training records hold an item of {self.task}, for example {self.example}"


def tasks_here() -> dict[str, list[Record]]:
    """The items of every task that has been fetched to this machine."""
    found = {}
    for name in TASKS:
        ref = parse(name)
        if is_here(ref):
            try:
                found[name] = open_task(ref, offline=True)
            except ReasonkitError as error:  # a damaged copy: whoever evaluates on it is told in full
                log.warning("training data is not compared with %s: %s", name, error.message)
    return found


def leaks(training: Iterable[Record], evaluations: Mapping[str, Sequence[Record]]) -> list[Leak]:
    """Of each evaluation set that has items in the training records, how many hold one."""
    if not evaluations:
        return []
    found: dict[str, list[str]] = {}
    index = Evaluations(evaluations)
    for record, rejection in decontaminate(training, index):
        if rejection is not None:
            task = rejection.reason.removeprefix("holds an item of ")
            found.setdefault(task, []).append(f"{record.uid} holds {rejection.detail}")
    return [Leak(task, len(examples), examples[0]) for task, examples in found.items()]


def leaks_of_run(run: RunDir, evaluations: Mapping[str, Sequence[Record]]) -> list[Leak]:
    """The same for what a training run was fed. What it streamed cannot be read again, and is left out."""
    recipe = load_recipe(run.recipe)
    sources = prepare(recipe.data.train, "train", run.data, recipe.seed)
    stored = [source for source in sources if source.stream is None]
    for source in sources:
        if source.stream is not None:
            log.warning("%s was streamed: it is not compared with evaluations", source.source.title)
    with open_data(recipe.data, stored, [], recipe.seed, None) as data:
        return leaks((record for records in data.finite.values() for record in records), evaluations)
