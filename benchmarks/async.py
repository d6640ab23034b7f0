"""Synchronous against asynchronous on the same CPUs: step time, idle time of both sides, reward at equal samples.

`python benchmarks/async.py [--steps 30] [--staleness 0 1 4] [--preset tiny-async]`: a run each of the same recipe,
one learner rank and one engine as actors, nothing else changed. Replies end where the model ends them, so their
lengths have a tail. With as many cores as processes the gain is what overlaps; on fewer cores the two sides take
them from each other, and the table shows that too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from reasonkit.rundir import RunDir, read_metrics

SKIPPED = 3
"""First steps, in which the buffer fills and caches are cold."""


def run(folder: Path, preset: str, staleness: int, steps: int) -> list[dict[str, Any]]:
    out = folder / f"staleness-{staleness}"
    changes = [f"rollout.max_staleness={staleness}", f"train.steps={steps}", "validation.every=0"]
    command = [sys.executable, "-m", "reasonkit", "train", "--preset", preset, "--out", str(out)]
    subprocess.run(
        [*command, *(word for change in changes for word in ("--set", change))],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return list(read_metrics(RunDir(out).metrics))


def row(staleness: int, rows: list[dict[str, Any]]) -> list[str]:
    steady = rows[SKIPPED:]
    wall = sum(each["seconds_step"] for each in steady)
    share = {
        side: sum(each[name] for each in steady) / wall
        for side, name in {"learner": "seconds_rollout", "engine": "seconds_engines_idle"}.items()
    }
    last = statistics.mean(each["accuracy"] for each in rows[-5:])
    lengths = [each["length_max"] / max(each["length_mean"], 1) for each in steady]
    return [
        str(staleness),
        f"{statistics.median(each['seconds_step'] for each in steady):.2f}",
        f"{share['learner']:.0%}",
        f"{share['engine']:.0%}",
        f"{statistics.mean(each['staleness'] for each in steady):.2f}",
        f"{statistics.mean(each['mismatch_kl'] for each in steady):.4f}",
        f"{statistics.mean(lengths):.1f}",
        f"{last:.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--preset", default="tiny-async")
    given = parser.parse_args()
    titles = [
        "staleness",
        "s/step",
        "learner idle",
        "engine idle",
        "mean lag",
        "mismatch",
        "max/mean length",
        "reward",
    ]
    with tempfile.TemporaryDirectory() as folder:
        lines = [row(each, run(Path(folder), given.preset, each, given.steps)) for each in given.staleness]
    print(
        f"{os.cpu_count()} cores, {given.preset}, {given.steps} steps; reward is the mean of the last 5 steps"
    )
    for line in [titles, *lines]:
        print("  ".join(cell.rjust(len(title)) for cell, title in zip(line, titles, strict=True)))


if __name__ == "__main__":
    main()
