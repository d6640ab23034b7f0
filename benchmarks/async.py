"""Synchronous against asynchronous on the same CPUs: step time, idle time of both sides, accuracy at equal samples.

    python benchmarks/async.py [--steps 60] [--staleness 0 1 4] [--recipe tiny-async] [--warm RUN/warm]

A run each of the same recipe from the same warmed-up model, nothing else changed; `tiny-async` has one learner
rank and one engine as actors. Half of the problems take two steps and a few take twelve, so that lengths have a
long tail; the warm-up's gate looks at the shorter ones alone. With as many cores as processes the gain is what
overlaps; on fewer cores the two sides take them from each other, and the table shows that too. Held-out accuracy is
sampled / greedy, before training and after it.
"""

from __future__ import annotations

import argparse
import json
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
OPERATIONS = [2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 9, 12]
TAILED = f"""\
model: {{context: 128}}
rollout: {{max_tokens: 96}}
data:
  train: [{{name: arithmetic_chain, size: 1024, options: {{operations: {OPERATIONS}}}}}]
  held_out: [{{name: arithmetic_chain, size: 256, options: {{operations: {OPERATIONS}}}}}]
"""
COPYING = """\
from reasonkit.data.sources.arithmetic_chain import copies_rightly


def rightly(record, reply):
    return record.metadata["operations"] > 4 or copies_rightly(record, reply)
"""


def train(folder: Path, recipe: str, out: str, *settings: str) -> dict[str, Any]:
    """One run of the real command, in a process of its own."""
    named = [recipe] if recipe.endswith(".yaml") else ["--preset", recipe]
    sets = [word for each in settings for word in ("--set", each)]
    done = subprocess.run(
        [sys.executable, "-m", "reasonkit", "train", *named, "--out", out, "--json", *sets],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def row(folder: Path, recipe: str, staleness: int, steps: int) -> list[str]:
    out = f"staleness-{staleness}"
    changes = (f"rollout.max_staleness={staleness}", f"train.steps={steps}", "validation.every=0")
    outcome = train(folder, recipe, out, *changes)
    steady = list(read_metrics(RunDir(folder / out).metrics))[SKIPPED:]
    wall = sum(each["seconds_step"] for each in steady)
    idle = {
        side: sum(each[f"time_idle_{side}"] * each["seconds_step"] for each in steady) / wall
        for side in ("learner", "engines")
    }
    mismatch = [
        each["mismatch_kl"] for each in steady if "mismatch_kl" in each
    ]  # not where nothing was learned
    lengths = [each["length_max"] / max(each["length_mean"], 1) for each in steady]
    return [
        str(staleness),
        f"{statistics.median(each['seconds_step'] for each in steady):.2f}",
        f"{idle['learner']:.0%}",
        f"{idle['engines']:.0%}",
        f"{statistics.mean(each['staleness'] for each in steady):.2f}",
        f"{statistics.mean(mismatch):.4f}",
        f"{statistics.mean(lengths):.1f}",
        *(
            " / ".join(f"{outcome[when][kind]['accuracy']:.3f}" for kind in ("sampled", "greedy"))
            for when in ("before", "after")
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--recipe", default="tiny-async")
    parser.add_argument("--warm", type=Path, help="a run's warm/ folder to start from, rather than a new one")
    given = parser.parse_args()
    titles = [
        "staleness",
        "s/step",
        "learner idle",
        "engines idle",
        "mean lag",
        "mismatch",
        "max/mean length",
    ]
    titles += ["     before", "      after"]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "tailed.yaml").write_text(f"_base_: {given.recipe}\n{TAILED}")
        if given.warm is None:
            (folder / "tailed.py").write_text(COPYING)
            shorter = "data.held_out=[{name: arithmetic_chain, size: 256}]"
            train(folder, "tailed.yaml", "first", "train.steps=1", shorter, "warmup.copying=tailed:rightly")
        warm = given.warm.resolve() if given.warm else folder / "first" / "warm"
        (folder / "warmed.yaml").write_text(
            f"_base_: tailed.yaml\nmodel: {{path: {warm}, init: null}}\nwarmup: null\n"
        )
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {given.recipe}, {given.steps} steps")
        print("  ".join(titles), flush=True)
        for staleness in given.staleness:
            cells = row(folder, "warmed.yaml", staleness, given.steps)
            padded = [cell.rjust(len(title)) for cell, title in zip(cells, titles, strict=True)]
            print("  ".join(padded), flush=True)


if __name__ == "__main__":
    main()
