"""The training loop, readable as the algorithm. It knows no algorithm's name and no machine.

What is left out: where engine and learner live (launch.py), how samples become batches (packing.py), what is
written down (journal.py), and what happens once before and after (launch.py).
"""

from __future__ import annotations

from reasonkit.train.run import Run


async def train(run: Run) -> None:
    """From the run's last finished step to the recipe's last: sample, score, learn, hand on the weights."""
    recipe = run.recipe
    for step in range(run.step + 1, recipe.train.steps + 1):
        with run.journal.timed("rollout"):
            groups = await run.sample(step)
        with run.journal.timed("annotate"):
            groups = await run.annotate(groups)
        advantages = run.advantage(groups)
        batches = run.pack(groups, advantages)
        with run.journal.timed("train"):
            stats = [await run.learner.step(batch) for batch in batches]
        with run.journal.timed("sync"):
            await run.sync(step)
        run.finish(step)
        measured = run.measured(step, groups)
        row = run.journal.step(step, groups, advantages, stats, run.left_out, measured)
        await run.watch(row)
        if run.due(recipe.validation.every):
            await run.validate("during")
        if run.due(recipe.checkpoint.every):
            await run.checkpoint()
        await run.stop_if_asked()
