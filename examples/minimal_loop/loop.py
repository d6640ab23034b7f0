"""GRPO in one file, with reasonkit's own modules: for reading, and for trying an idea.

    reasonkit train --preset tiny --set train.steps=1 --out runs/start    # makes a warmed-up model
    python loop.py runs/start/warm

What `reasonkit train` adds and this leaves out: recipes, checkpoints and resume, metrics and reports,
intervals, the gate of the warm-up, mini-batches, signals. What is the same: every module called here.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import torch

from reasonkit.advantages import grpo
from reasonkit.data.build import build
from reasonkit.data.mixture import ListFeed
from reasonkit.dialogue import Dialogue
from reasonkit.engines.transformers import TransformersEngine
from reasonkit.envs.single_turn import SingleTurn
from reasonkit.recipe import LossConfig, RolloutConfig, TrainConfig
from reasonkit.records import Group
from reasonkit.rewards import RewardSum
from reasonkit.rollouts import Draw, Rollouts
from reasonkit.train.learner import LocalLearner
from reasonkit.train.model import load_model, load_tokenizer
from reasonkit.train.packing import assemble, mini_batches
from reasonkit.train.rank import LearnerSettings, Rank
from reasonkit.verifiers import Grader

PROMPTS, SAMPLES, CONTEXT = 32, 16, 96


def accuracy(groups: list[Group]) -> float:
    scores = [rollout.verdict.score for group in groups for rollout in group.rollouts if rollout.verdict]
    return sum(scores) / len(scores)


async def train(model: Path, steps: int, seed: int) -> None:
    # Problems. Train and test share none, whatever the sizes.
    feed = ListFeed(list(build("arithmetic_chain", "train", 2048, seed)), seed)
    held_out = list(build("arithmetic_chain", "test", 256, seed))

    # The two ends: an engine that samples, a learner that updates. Each has its own copy of the weights.
    settings = RolloutConfig(n=SAMPLES, max_tokens=48)
    engine = TransformersEngine.from_path(model, slots=256, context=CONTEXT)
    updates = LearnerSettings(
        loss=LossConfig(policy={"clipped": {"low": 0.2, "high": 0.28}}),
        train=TrainConfig(
            lr=5e-4,
            lr_schedule={"constant": {"warmup": 5}},
            optimizer={"adamw": {"betas": (0.9, 0.98), "weight_decay": 0.0}},
        ),
        total_updates=steps,
        max_tokens=settings.max_tokens,
    )
    learner = LocalLearner(Rank(load_model(model), updates))

    async with Grader() as grader:
        # Records to scored groups: prompts rendered, replies sampled, verdicts given, rewards summed.
        rollouts = Rollouts(
            engine,
            Dialogue(load_tokenizer(model)),
            SingleTurn,
            grader.verify,
            RewardSum({"correctness": 1.0}),
            settings,
            context=engine.context,
            seed=seed,
        )
        print(f"before: {accuracy(await rollouts.groups(held_out, Draw('validate', 0, 1))):.3f}")
        for step in range(1, steps + 1):
            records = feed.next(PROMPTS)
            groups = await rollouts.groups(records, Draw("train", step, SAMPLES))
            advantages = grpo(groups)
            (batch,) = mini_batches(assemble(groups, advantages), PROMPTS)
            stats = await learner.step(batch)
            await engine.load_weights(learner.weights(), version=step)
            print(f"step {step}: accuracy {accuracy(groups):.3f}, loss {stats.metrics['loss']:.4f}")
        print(f"after: {accuracy(await rollouts.groups(held_out, Draw('validate', 0, 1))):.3f}")
    await engine.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a model folder to start from")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    asyncio.run(train(arguments.model, arguments.steps, arguments.seed))
