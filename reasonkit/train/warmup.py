"""Warm-up: imitate imperfect demonstrations until a measured gate opens, and no further.

RL needs a model that is sometimes right. The gate is measured on held-out problems, never a number of updates:
sampled and greedy accuracy have both reached LOW and are both still below HIGH, so that whatever comes after is
RL's doing, and replies copy their problem rightly. A gate that does not open is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasonkit.data.mixture import ListFeed
from reasonkit.dialogue import Dialogue
from reasonkit.engines import Engine
from reasonkit.errors import ReasonkitError
from reasonkit.evaluate.validation import accuracy
from reasonkit.recipe import LossConfig, Part, Recipe, TrainConfig, WarmupConfig
from reasonkit.records import Group, Record
from reasonkit.registry import load
from reasonkit.rollouts import Draw, Rollouts
from reasonkit.rundir import RunDir
from reasonkit.seeding import derive_seed
from reasonkit.train.journal import Observer
from reasonkit.train.learner import LocalLearner
from reasonkit.train.model import load_model, load_tokenizer
from reasonkit.train.packing import Batch
from reasonkit.train.rank import LearnerSettings, Rank
from reasonkit.train.sft import sft_batch

Demonstrator = Callable[[Record, int], str]
Copied = Callable[[Record, str], bool]

LOW, HIGH = 0.25, 0.5
"""The gate opens when sampled and greedy accuracy on held-out problems have both reached LOW, while below HIGH …"""
MIN_COPIED = 0.98
"""… and at least this fraction of replies copies its problem rightly."""
CHECK_EVERY = 50
"""Updates between two looks at the gate."""
BATCH = 64
"""Demonstrations an update."""
SCHEDULE = Part("cosine", {"warmup": 20})
OPTIMIZER = Part("adamw", {"betas": (0.9, 0.98), "weight_decay": 0.0})
DECAY_SHARE = 2 / 3
"""Of max_steps: the learning rate has fallen well before the warm-up gives up, because copying settles late."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a look at the gate takes: an engine to sample with, and problems that are not trained on."""

    engine: Engine
    rollouts: Rollouts
    held_out: Sequence[Record]
    samples: int

    async def look(self, learner: LocalLearner, copied: Copied) -> dict[str, float]:
        """On the draws of the validation that follows, so that the run starts exactly where the gate opened."""
        await self.engine.load_weights(learner.weights(), version=0)
        sampled = await self.rollouts.groups(self.held_out, Draw("validate", 0, self.samples))
        greedy = await self.rollouts.groups(self.held_out, Draw("validate", 0, 1, greedy=True))
        return {
            "sampled": accuracy(sampled).mean,
            "greedy": accuracy(greedy).mean,
            "copied": _share([*sampled, *greedy], copied),
        }


async def warm_up(
    recipe: Recipe, folder: RunDir, start: Path, gate: Gate, records: Sequence[Record], observer: Observer
) -> None:
    """Imitate from the model at `start` until the gate opens; the result is the run folder's `warm/`."""
    settings = recipe.warmup
    assert settings is not None
    dialogue, copied = Dialogue(load_tokenizer(start)), load(settings.copying)
    learner, feed = _imitator(recipe, settings, start), ListFeed(records, derive_seed(recipe.seed, "warm-up"))
    numbers: dict[str, float] = {}
    for update in range(1, settings.max_steps + 1):
        stats = await learner.step(_demonstrations(recipe, settings, dialogue, feed, update))
        if update % CHECK_EVERY:
            continue
        numbers = await gate.look(learner, copied)
        observer.warmup(update, settings.max_steps, {"loss": stats.metrics["loss"], **numbers})
        if is_open(numbers):
            await learner.save(folder.warm, {"updates": update})
            await learner.close()
            return
    raise ReasonkitError(
        f"the warm-up's gate did not open within warmup.max_steps ({settings.max_steps}): it wants "
        f"sampled and greedy accuracy in [{LOW}, {HIGH}) and copied ≥ {MIN_COPIED}; the last look found "
        + ", ".join(f"{name} {value:.3f}" for name, value in numbers.items()),
        "try another --set seed=…, a lower warmup.lr, or more warmup.max_steps",
    )


def is_open(numbers: dict[str, float]) -> bool:
    return (
        LOW <= numbers["sampled"] < HIGH
        and LOW <= numbers["greedy"] < HIGH
        and numbers["copied"] >= MIN_COPIED
    )


def _imitator(recipe: Recipe, settings: WarmupConfig, start: Path) -> LocalLearner:
    """A learner with imitation's loss and learning rate."""
    imitation = LearnerSettings(
        loss=LossConfig(policy=Part("nll")),
        train=TrainConfig(
            lr=settings.lr,
            lr_schedule=SCHEDULE,
            optimizer=OPTIMIZER,
            grad_clip=recipe.train.grad_clip,
            token_budget=recipe.train.token_budget,
        ),
        total_updates=round(settings.max_steps * DECAY_SHARE),
        max_tokens=recipe.rollout.max_tokens,
    )
    return LocalLearner(Rank(load_model(start), imitation, tokenizer=load_tokenizer(start)))


def _demonstrations(
    recipe: Recipe, settings: WarmupConfig, dialogue: Dialogue, feed: ListFeed, update: int
) -> Batch:
    demonstrate: Demonstrator = load(settings.demonstrator)
    pairs = [
        (record, demonstrate(record, derive_seed(recipe.seed, "demonstration", update, place)))
        for place, record in enumerate(feed.next(BATCH))
    ]
    return sft_batch(pairs, dialogue, recipe.model.context)


def _share(groups: Sequence[Group], copied: Copied) -> float:
    verdicts = [copied(group.record, rollout.text) for group in groups for rollout in group.rollouts]
    return sum(verdicts) / len(verdicts)
