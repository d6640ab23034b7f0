"""Does `tiny` learn by every algorithm? Held-out accuracy before and after, from one warmed-up model.

The warmed-up model is that of `reasonkit train --preset tiny`, made first; every algorithm then starts from it, on
the same records, with `tiny`'s settings but for the lines below. SFT and DPO learn from replies that are written to
the training records: right ones, and for DPO those of the demonstrator as the worse ones. One seed: whether each
learns, no ranking.

    python benchmarks/algorithms.py                    # all of them, about 100 CPU-seconds each
    python benchmarks/algorithms.py ppo rloo           # these
    python benchmarks/algorithms.py --seed 1 cispo
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from reasonkit.data.sources.arithmetic_chain import (
    ArithmeticChainSettings,
    build,
    demonstration,
    solution,
)

ALGORITHMS: dict[str, tuple[str, ...]] = {
    "grpo": ("_base_: tiny",),
    "grpo_loo": ("_base_: tiny", "algorithm: grpo_loo"),
    "dr_grpo": ("_base_: [tiny, algorithms/dr_grpo]",),
    "dapo": ("_base_: [tiny, algorithms/dapo]", "train: {refill: 3}"),
    "rloo": ("_base_: [tiny, algorithms/rloo]",),
    "gspo": ("_base_: [tiny, algorithms/gspo]",),
    "cispo": ("_base_: [tiny, algorithms/cispo]",),
    "reinforce_pp": ("_base_: [tiny, algorithms/reinforce_pp]",),
    "reinforce_pp_baseline": ("_base_: [tiny, algorithms/reinforce_pp_baseline]",),
    "kl_in_reward": ("_base_: [tiny, algorithms/reinforce_pp]", "loss: {kl: 0.001, kl_kind: reward}"),
    "kl_in_loss": ("_base_: [tiny, algorithms/reinforce_pp]", "loss: {kl: 0.001, kl_kind: k3_exact}"),
    "sft": (
        "_base_: tiny",
        "algorithm: sft",
        "data: {train: [{name: right.jsonl}]}",
        "train: {steps: 100, prompts: 64, mini_batch: null, lr: 1.0e-3}",
    ),
    "dpo": (
        "_base_: tiny",
        "algorithm: dpo",
        "data: {train: [{name: pairs.jsonl}]}",
        "train: {steps: 100, prompts: 64, mini_batch: null, lr: 1.0e-4}",
    ),
    "dpo_nll": (
        "_base_: tiny",
        "algorithm: {dpo: {nll: 0.2}}",
        "data: {train: [{name: pairs.jsonl}]}",
        "train: {steps: 100, prompts: 64, mini_batch: null, lr: 1.0e-4}",
    ),
    "ppo": ("_base_: [tiny, algorithms/ppo]", "algorithm: {ppo: {critic: {lr: 1.0e-3}}}"),
}


def train(folder: Path, recipe: str, seed: int, *settings: str) -> dict[str, Any]:
    """One run of the real command, in a process of its own."""
    sets = [word for each in (f"seed={seed}", *settings) for word in ("--set", each)]
    command = [sys.executable, "-m", "reasonkit", "train", recipe, "--out", str(folder), "--json", *sets]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder.parent, env=environment, check=False, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{recipe} failed:\n{done.stderr}")
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def warmed_up(folder: Path, seed: int) -> Path:
    (folder / "warm.yaml").write_text("_base_: tiny\nname: warm\ntrain: {steps: 1}\n")
    train(folder / "warm", "warm.yaml", seed)
    return folder / "warm" / "warm"


def write_replies(folder: Path) -> None:
    """Of records that validation does not have."""
    right, pairs = [], []
    for place, record in enumerate(build("train", 2048, 0, ArithmeticChainSettings())):
        question, better, worse = record.prompt[-1]["content"], solution(record), demonstration(record, place)
        right.append({"instruction": question, "input": "", "output": better})
        if better != worse:
            pairs.append({"prompt": question, "chosen": better, "rejected": worse})
    for name, rows in (("right", right), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def accuracies(outcome: dict[str, Any], when: str) -> str:
    return " / ".join(f"{outcome[when][kind]['accuracy']:.3f}" for kind in ("sampled", "greedy"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="ALGORITHM", help=", ".join(ALGORITHMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm", type=Path, help="a run's warm/ folder to start from, rather than a new one")
    parser.add_argument("--steps", type=int, help="fewer or more than each has by itself (tiny: 60)")
    options = parser.parse_args()
    unknown = set(options.names) - ALGORITHMS.keys()
    if unknown:
        parser.error(f"{sorted(unknown)[0]} is none of {', '.join(ALGORITHMS)}")
    steps = [f"train.steps={options.steps}"] if options.steps else []
    steps += ["validation.every=0"]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        warm = options.warm.resolve() if options.warm else warmed_up(folder, options.seed)
        write_replies(folder)
        start = f"model:\n  path: {warm}\n  init: null\nwarmup: null\n"
        print(f"held-out accuracy, sampled / greedy, seed {options.seed}\n")
        print(f"| {'algorithm':<22} | {'before':<13} | {'after':<13} | CPU-s |")
        print(f"|{'-' * 24}|{'-' * 15}|{'-' * 15}|{'-' * 7}|", flush=True)
        for name in options.names or ALGORITHMS:
            lines = "\n".join(ALGORITHMS[name])
            (folder / f"{name}.yaml").write_text(f"{lines}\nname: {name}\n{start}")
            began = cpu_seconds()
            outcome = train(folder / name, f"{name}.yaml", options.seed, *steps)
            print(
                f"| {name:<22} | {accuracies(outcome, 'before'):<13} | {accuracies(outcome, 'after'):<13} "
                f"| {cpu_seconds() - began:>5.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
