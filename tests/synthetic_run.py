"""A run folder as training leaves it, made up from a seed: for tests and benchmarks of what reads runs."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reasonkit.evaluate.stats import item_scores, mean_interval
from reasonkit.rundir import RunDir, write_json, write_text

RECIPE = """\
name: synthetic
description: Sums of three numbers, steps written out
model:
  init: {model_type: llama, hidden_size: 64, alphabet: 0123456789+=}
  context: 64
rollout: {max_tokens: 32}
train: {steps: 12, prompts: 4}
"""


def write_run(
    path: Path,
    *,
    steps: int = 12,
    prompts: int = 4,
    n: int = 4,
    items: int = 40,
    words: int = 0,
    seed: int = 0,
    state: str = "finished",
) -> RunDir:
    """A run whose accuracy rises from a quarter to nearly 1. `words` lengthens each reply by so many."""
    generator = random.Random(seed)
    run = RunDir(path)
    path.mkdir(parents=True)
    write_text(run.recipe, RECIPE)
    rows = []
    for step in range(1, steps + 1):
        rate = 0.25 + 0.7 * step / steps
        rollouts = [
            rollout(generator, step, prompt, sample, rate, words)
            for prompt in range(prompts)
            for sample in range(n)
        ]
        run.rollouts(step).parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rollouts), run.rollouts(step), compression="zstd")
        rows.append(metrics(generator, step, rollouts))
    write_text(run.metrics, "".join(json.dumps(row) + "\n" for row in rows))
    before = validation(generator, 0, "before", items, 0.35)
    after = validation(generator, steps, "after", items, 0.95)
    summaries = {}
    for look in (before, after):
        write_json(run.evaluation(look["step"]), look)
        summaries[look["phase"]] = {"sampled": look["sampled"], "greedy": look["greedy"]}
    write_json(
        run.run_json,
        {
            "state": state,
            "version": "0.1.0",
            "created": "2026-01-01T00:00:00",
            "recipe": "synthetic",
            "step": steps,
            "steps": steps,
            "seconds": 93.4,
            "seed": seed,
            "threads": 1,
            "platform": "Linux-x86_64",
            "packages": {"torch": "2.13.0", "transformers": "5.19.0"},
            **summaries,
        },
    )
    return run


def rollout(
    generator: random.Random, step: int, prompt: int, sample: int, rate: float, words: int
) -> dict[str, Any]:
    a, b, c = _numbers(step, prompt)
    total = a + b + c
    status = "correct" if generator.random() < rate else generator.choice(("wrong", "wrong", "no_answer"))
    found = {"correct": str(total), "wrong": str(total + 1), "no_answer": None}[status]
    padding = " ".join(str(generator.randint(0, 9999)) for _ in range(words))
    text = f"{a}+{b}={a + b}\n{padding}{a + b}+{c}=" + (found or "")
    score = float(status == "correct")
    return {
        "step": step,
        "uid": f"sum-{step}-{prompt}",
        "sample": sample,
        "prompt": f"What is {a}+{b}+{c}? <b>&amp; show each step</b>",
        "text": text,
        "status": status,
        "score": score,
        "reason": {
            "correct": "",
            "wrong": f"{found} is not {total}",
            "no_answer": "no number after the last =",
        }[status],
        "answer": found,
        "gold": str(total),
        "reward": score - 0.1,
        "parts": json.dumps({"correctness": score, "brevity": -0.1}),
        "finish_reason": "stop" if found else "length",
        "length": len(text),
        "advantage": score - rate,
        "failure": None,
        "segments": "[]",
    }


def _numbers(step: int, prompt: int) -> list[int]:
    generator = random.Random(step * 1000 + prompt)
    return [generator.randint(10, 99) for _ in range(3)]


def metrics(generator: random.Random, step: int, rollouts: list[dict[str, Any]]) -> dict[str, Any]:
    accuracy = sum(row["score"] for row in rollouts) / len(rollouts)
    return {
        "step": step,
        "time": 1.5 * step,
        "reward": accuracy - 0.1,
        "accuracy": accuracy,
        "parts": {"correctness": accuracy, "brevity": -0.1},
        "loss": generator.gauss(0, 0.01),
        "grad_norm": 0.4 + generator.random() / 10,
        "entropy": 0.9 * math.exp(-step / 50),
        "kl_old": 0.001 * generator.random(),
        "length_mean": 18 + generator.random(),
        "length_max": 32.0,
        "truncated": 0.02,
        "no_answer": 0.05,
        "failed": 0.0,
        "zero_variance": 0.3,
        "tokens_per_second": 2000 + generator.randint(-50, 50),
        "lr": 0.0003,
        "mood": generator.random(),
    }


def validation(generator: random.Random, step: int, phase: str, items: int, rate: float) -> dict[str, Any]:
    content = []
    for number in range(items):
        replies = [rollout(generator, 900, number, sample, rate, 0) for sample in range(3)]
        shown = [{key: each[key] for key in ("text", "status", "score")} for each in replies]
        content.append(
            {
                "uid": f"held-{number}",
                "prompt": replies[0]["prompt"],
                "answer": replies[0]["gold"],
                "samples": shown[:2],
                "greedy": shown[2],
            }
        )
    return {
        "step": step,
        "phase": phase,
        "sampled": summary([[reply["score"] for reply in item["samples"]] for item in content]),
        "greedy": summary([[item["greedy"]["score"]] for item in content]),
        "items": content,
    }


def summary(scores: list[list[float]]) -> dict[str, Any]:
    estimate = mean_interval(item_scores(scores))
    return {
        "accuracy": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "k": len(scores[0]),
    }


@contextmanager
def trained_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the run meanwhile."""
    code = f"""
from pathlib import Path
from reasonkit.rundir import RunDir

with RunDir(Path({str(folder)!r})).held():
    print("held", flush=True)
    input()
"""
    started = [sys.executable, "-c", code]
    with subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()
