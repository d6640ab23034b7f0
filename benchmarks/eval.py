"""What an evaluation costs beside generation, how fast its report opens, and how fast mathematics is graded.

    python benchmarks/eval.py [--samples 10000] [--lm-eval PYTHON] [--lm-eval-samples 1000]

1. Overhead: `evaluate` over a chat that answers at once, so that all time is bookkeeping, grading and writing: once
   with a verifier that runs in place, once with mathematics in the worker pool (on two processes).
2. The report of 100,000 samples: writing it, and opening it in headless Chromium from disk.
3. Grading answers to mathematical problems (benchmarks/verify.py makes them) by two workers, through the Grader
   that `eval` uses, beside lm-eval's own grading of its minerva_math task (`process_results`), in two processes
   too, in the same run. `--lm-eval` names a Python that has `lm-eval[math]`, which needs an environment of its own.

Times are by the clock and by CPU time of all processes, which other work on the machine does not touch.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import opening, spread
from benchmarks.verify import Item, cpu_seconds, workload
from reasonkit.engines import Reply, Sampling
from reasonkit.evaluate.folder import EvaluationDir
from reasonkit.evaluate.run import Nobody, Options, evaluate
from reasonkit.evaluate.work import TaskPlan
from reasonkit.models import FoundModel, OpenModel
from reasonkit.records import Message, Record, Verdict
from reasonkit.report import write_evaluation_report
from reasonkit.tasks import Task
from reasonkit.verifiers import Grader
from tests.synthetic_evaluation import write_evaluation

WORKERS = 2
LM_EVAL = """
import json, sys, time, logging, multiprocessing
logging.disable(logging.CRITICAL)
from lm_eval.tasks.minerva_math.utils import process_results
def judge(item):
    gold, reply = item
    doc = {"problem": "", "solution": f"\\\\boxed{{{gold}}}", "answer": gold}
    return process_results(doc, [reply])["math_verify"]
if __name__ == "__main__":
    items = json.load(open(sys.argv[1]))
    with multiprocessing.Pool(2) as pool:
        pool.map(judge, items[:20])
        started = time.perf_counter()
        right = sum(pool.map(judge, items, chunksize=8))
        wall = time.perf_counter() - started
        pool.close(); pool.join()
    import resource
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"wall": wall, "cpu": used.ru_utime + used.ru_stime, "right": right}))
"""


class AtOnce:
    """A chat that has its answer ready."""

    def __init__(self, replies: dict[str, str]) -> None:
        self._replies = replies

    async def reply(self, messages: list[Message], sampling: Sampling) -> Reply:  # noqa: ARG002
        return Reply(self._replies[messages[-1]["content"]], "stop", 100, 500)

    async def close(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--lm-eval", metavar="PYTHON")
    parser.add_argument("--lm-eval-samples", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    items = [
        (gold, f"{reply}\nFinal Answer: The final answer is {_boxed(reply)}. I hope it is correct.")
        for gold, reply in workload(options.samples, 0, seed=0)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for verifier in ("exact", "math"):
            overhead(folder / verifier, items, verifier)
        report(folder / "report", options.repeats)
        grading(items, "reasonkit")
        if options.lm_eval:
            lm_eval(folder, items[: options.lm_eval_samples], options.lm_eval)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def overhead(path: Path, items: list[Item], verifier: str) -> None:
    """Four samples an item."""
    chosen = items[: len(items) // 4]
    records = [
        Record(str(n), "bench", (Message(role="user", content=f"problem {n}"),), gold, verifier)
        for n, (gold, _) in enumerate(chosen)
    ]
    chat = AtOnce({f"problem {n}": reply for n, (_, reply) in enumerate(chosen)})

    @contextlib.asynccontextmanager
    async def opener(*_: object, **__: object) -> AsyncIterator[OpenModel]:
        yield OpenModel(chat, None, 1 << 20)

    task = Task.model_validate({"name": "bench", "source": "bench", "k": 4})
    plan = TaskPlan(task, records, 4, Sampling(1000))
    folder = EvaluationDir(path)
    found = FoundModel("bench", "bench", "http", "bench")
    folder.claim({"bench": "bench"}, {})
    wall, cpu = time.perf_counter(), cpu_seconds()
    done = asyncio.run(evaluate([found], [plan], folder, Options(), Nobody(), opener))
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    assert done.results[0].complete
    count = plan.samples
    size = (folder.pair("bench", "bench") / "samples.jsonl").stat().st_size
    print(
        f"overhead, graded by {verifier:<6} {count:>7,} samples of {size / count / 1e3:.1f} kB: "
        f"{1e3 * wall / count:.2f} ms a sample by the clock, {1e3 * cpu / count:.2f} ms of CPU"
    )


def report(path: Path, repeats: int) -> None:
    folder = write_evaluation(path, tasks=10, items=1000, k=5)
    with measured() as took:
        written = write_evaluation_report([folder.path], folder.report)
    seconds = [opening(folder.report, "document.documentElement.dataset.ready") for _ in range(repeats)]
    size = folder.report.stat().st_size
    print(
        f"report of {written.total:,} samples, {written.shown:,} in it, {size / 1e6:.2f} MB: "
        f"written in {took['cpu']:.1f} CPU-s, opens in {statistics.median(seconds):.2f} s ({spread(seconds)})"
    )


def grading(items: list[Item], name: str) -> None:
    async def judge() -> list[Verdict]:
        records = [
            (Record(str(n), "bench", (), gold, "math"), reply) for n, (gold, reply) in enumerate(items)
        ]
        async with Grader(workers=WORKERS) as grader:
            await asyncio.gather(*(grader.verify(*each) for each in records[:20]))
            with measured() as took:
                verdicts = await asyncio.gather(*(grader.verify(*each) for each in records))
            figures.update(took)
            return list(verdicts)

    figures: dict[str, float] = {}
    right = sum(verdict.score == 1.0 for verdict in asyncio.run(judge()))
    tell(name, len(items), right, figures)


def lm_eval(folder: Path, items: list[Item], python: str) -> None:
    (folder / "items.json").write_text(json.dumps(items))
    (folder / "judge.py").write_text(LM_EVAL)
    done = subprocess.run(
        [python, "judge.py", "items.json"], cwd=folder, check=True, capture_output=True, text=True
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    tell("lm-eval", len(items), figures["right"], figures)


def tell(name: str, count: int, right: int, took: dict[str, float]) -> None:
    print(
        f"grading by {name:<10} {count:>7,} replies, {right / count:.1%} right: {count / took['wall']:,.0f} a "
        f"second by the clock, {1e3 * took['cpu'] / count:.2f} ms of CPU each"
    )


@contextlib.contextmanager
def measured() -> Iterator[dict[str, float]]:
    took: dict[str, float] = {}
    wall, cpu = time.perf_counter(), cpu_seconds()
    yield took
    took |= {"wall": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu}


def _boxed(reply: str) -> str:
    return reply.rpartition("\\boxed{")[2].rpartition("}")[0]


if __name__ == "__main__":
    main()
