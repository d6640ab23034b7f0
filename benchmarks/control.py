"""Does the improvement come from the reward? `tiny` beside itself with shuffled rewards, everything else equal.

The control gives every attempt the reward of another one of the same batch, drawn at random, before advantages are
computed. Both runs start from the same warmed-up model (same seed, same gate).

    python benchmarks/control.py              # seeds 0; some minutes a run
    python benchmarks/control.py 0 1 2 3 4    # more seeds
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reasonkit.advantages import grpo
from reasonkit.records import Group
from reasonkit.seeding import derive_seed

HERE = Path(__file__).parent


def shuffled(groups: Sequence[Group]) -> list[list[float]]:
    """GRPO's advantages of rewards that have been dealt out again over the whole batch."""
    rewards = [rollout.reward for group in groups for rollout in group.rollouts]
    random.Random(derive_seed(0, "control", *(group.record.uid for group in groups))).shuffle(rewards)
    dealt = iter(rewards)
    return grpo(
        [
            replace(group, rollouts=tuple(replace(rollout, reward=next(dealt)) for rollout in group.rollouts))
            for group in groups
        ]
    )


def run(folder: Path, seed: int, *overrides: str) -> dict[str, Any]:
    sets = [word for override in (f"seed={seed}", *overrides) for word in ("--set", override)]
    command = [
        sys.executable,
        "-m",
        "reasonkit",
        "train",
        "--preset",
        "tiny",
        "--out",
        str(folder),
        "--json",
        *sets,
    ]
    done = subprocess.run(command, check=False, cwd=HERE, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"the run in {folder} failed; its messages are above")
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def numbers(outcome: dict[str, Any]) -> str:
    cells = [outcome[phase][kind] for phase in ("before", "after") for kind in ("sampled", "greedy")]
    return "   ".join(f"{cell['accuracy']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" for cell in cells)


def main(seeds: Sequence[int]) -> None:
    lines = [
        f"{'seed':6}{'rewards':10}{'before: sampled':25}{'greedy':24}{'after: sampled':24}{'greedy':24}seconds"
    ]
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            for name, overrides in (("true", ()), ("shuffled", ("algorithm=control:shuffled",))):
                outcome = run(Path(folder) / name, seed, *overrides)
                lines.append(f"{seed:<6}{name:10}{numbers(outcome)}   {outcome['seconds']:.0f}")
    print("\n".join(lines))


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or [0])
