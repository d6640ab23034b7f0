"""Records to trajectories: attempts of a steerer, and other ways on from the turns of those that failed.

An attempt is a rollout over a Chat with Steering as its environment, so deadlines, the second try and the
attribution of failures are those of every other rollout. A failed attempt is recorded with its cause and made again
by the next run. When the ceiling on cost is reached, no more is begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reasonkit.engines import Chat
from reasonkit.engines.http_ledger import Ledger
from reasonkit.recipe import RolloutConfig
from reasonkit.records import Record, Rollout
from reasonkit.rewards import RewardSum
from reasonkit.rollouts import Draw, Rollouts
from reasonkit.steer.env import Roles, Round, Steering
from reasonkit.steer.texts import OPENING, question_of
from reasonkit.steer.trajectories import Folder, Trajectory, Turn, problem_hash
from reasonkit.verifiers import Grader

STEERER_TOKENS = 1024
UNBOUNDED = 1 << 30
"""A Chat's context: its server knows."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many attempts, and how they are drawn."""

    samples: int = 1
    branches: int = 0
    """Other ways tried from each turn of a failed attempt, until one succeeds."""
    temperature: float = 0.0
    """The steerer's; attempts that go on from another are drawn at 1 at least."""
    seed: int = 0
    deadline: float = 1800.0
    """Seconds for one attempt."""
    in_flight: int = 32
    """Records worked on at once."""


@dataclass(slots=True)
class Guide:
    steerer: Chat
    roles: Roles
    grader: Grader
    plan: Plan
    folder: Folder
    ledger: Ledger

    async def all(
        self, records: Sequence[Record], advance: Callable[[], None] = lambda: None
    ) -> list[Trajectory]:
        """Every attempt at `records`, old and new."""
        room = asyncio.Semaphore(self.plan.in_flight)

        async def work(record: Record, sample: int) -> list[Trajectory]:
            async with room:
                made = await self._sample(record, sample)
            advance()
            return made

        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(work(record, sample))
                for record in records
                for sample in range(self.plan.samples)
            ]
        return [each for task in running for each in task.result()]

    async def _sample(self, record: Record, sample: int) -> list[Trajectory]:
        """An attempt from the start and, if it got the answer wrong, others from each of its turns."""
        problem = problem_hash(record)
        start = f"{record.uid}#{sample}"
        root = await self._attempt(record, problem, start, self.plan.temperature, ())
        made = [root] if root is not None else []
        if root is None or root.failure is not None or root.solved:
            return made
        for turn in range(len(root.turns)):
            for branch in range(self.plan.branches):
                temperature = max(1.0, self.plan.temperature)
                other = await self._attempt(
                    record, problem, f"{start}/{turn}.{branch}", temperature, root.turns[:turn]
                )
                if other is None:
                    return made
                made.append(other)
                if other.solved:
                    break
        return made

    async def _attempt(
        self, record: Record, problem: str, id: str, temperature: float, before: Sequence[Turn]
    ) -> Trajectory | None:
        """The attempt `id`, from the folder if it is there; None where there is no money left to make it."""
        kept = self.folder.find(id, problem)
        if kept is not None:
            return kept
        if self.ledger.failed["max-cost"]:
            return None
        earlier = [(turn.guidance, turn.shown, turn.round) for turn in before if turn.round is not None]
        rollouts = Rollouts.over_chat(
            self.steerer,
            lambda: Steering(self.roles, earlier),
            self.grader.verify,
            RewardSum({"correctness": 1.0}),
            RolloutConfig(
                temperature=temperature or 1.0, max_tokens=STEERER_TOKENS, deadline=self.plan.deadline
            ),
            context=UNBOUNDED,
            seed=self.plan.seed,
        )
        rollout = await rollouts.one(record, Draw("steer", 0, 1, greedy=temperature == 0.0), id, 0)
        if rollout.failure is not None and self.ledger.failed["max-cost"]:
            return None
        trajectory = _trajectory(record, problem, id, before, rollout)
        self.folder.add(trajectory)
        return trajectory


def _trajectory(
    record: Record, problem: str, id: str, before: Sequence[Turn], rollout: Rollout
) -> Trajectory:
    turns = [
        Turn(
            turn.text,
            turn.observation[0]["content"] if turn.observation else "",
            Round(**turn.info) if turn.info else None,
        )
        for turn in rollout.turns
    ]
    verdict = rollout.verdict
    return Trajectory(
        id=id,
        uid=record.uid,
        source=record.source,
        problem=problem,
        opening=OPENING.format(question=question_of(record)),
        turns=(*before, *turns),
        answer=(verdict.answer or "") if verdict is not None else "",
        status=verdict.status.value if verdict is not None else "",
        score=verdict.score if verdict is not None else 0.0,
        reason=verdict.reason if verdict is not None else "",
        failure=f"{rollout.failure.stage}: {rollout.failure.cause}" if rollout.failure is not None else None,
    )


def summary(trajectories: Sequence[Trajectory], ledger: Ledger) -> dict[str, Any]:
    """How the attempts went, by source and in all. Only those begun from the question count."""
    roots = [each for each in trajectories if each.root]
    sources = sorted({each.source for each in roots})
    return {
        "sources": {name: _figures([each for each in roots if each.source == name]) for name in sources},
        "all": _figures(roots),
        "branches": len(trajectories) - len(roots),
        "branches_solved": sum(each.solved for each in trajectories if not each.root),
        "usage": ledger.summary(),
    }


def _figures(roots: Sequence[Trajectory]) -> dict[str, Any]:
    finished = [each for each in roots if each.failure is None]
    rounds = [turn.round for each in finished for turn in each.turns if turn.round is not None]
    return {
        "attempts": len(roots),
        "failed": len(roots) - len(finished),
        "solved": sum(each.solved for each in finished),
        "score": sum(each.score for each in finished) / len(finished) if finished else None,
        "no_answer": sum(each.status == "no_answer" for each in finished),
        "guidance_turns": sum(len(each.turns) for each in finished) / len(finished) if finished else None,
        "programs": sum(each.program is not None for each in rounds) / len(rounds) if rounds else None,
    }
