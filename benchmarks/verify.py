"""Verdicts per second on mathematical answers, beside Math-Verify as it comes, in one run.

    python benchmarks/verify.py --workers 2

Replies are two thousand characters of reasoning that end in a box. Answers are drawn at random from the shapes
that problem sets have (integers, decimals, fractions, radicals, polynomials, sets, tuples, words), half of them
right, some in another form than the gold answer. `hostile` replaces a few by expressions that never finish.

Contenders: the verifier pool; Math-Verify over the whole reply with its own five-second timeouts, one process a
worker as well (they need the main thread, so each process judges in it). They take turns, and the table shows
medians. `delay` is how much longer an honest verdict takes at the 99th percentile, with 32 in flight, when hostile
ones are among them.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.pool import VerifierPool
from reasonkit.verifiers.routing import VERIFIERS

HOSTILE = (
    r"\binom{1000000}{500000}",
    r"9^{9^9}",
    r"\sum_{n=1}^{9999} \sin(n^n)",
    r"(10^9)!",
    r"\prod_{n=1}^{99999} (n^2+1)^n",
)
IN_FLIGHT = 32
Item = tuple[str, str]
"""A gold answer and a reply."""


def honest_item(draw: random.Random) -> Item:
    a, b, c = draw.randint(2, 99), draw.randint(2, 99), draw.randint(2, 9)
    shapes = [
        (str(a * b), str(a * b)),
        (str(a * b), str(a * b + 1)),
        (str(a * b), rf"{a} \cdot {b}"),
        (rf"\frac{{{a}}}{{{b}}}", rf"\frac{{{a * c}}}{{{b * c}}}"),
        (rf"\frac{{{a}}}{{{b}}}", rf"\frac{{{b}}}{{{a}}}"),
        (f"{a}.{b}", f"{a}.{b}0"),
        (rf"{c}\sqrt{{{a}}}", rf"\sqrt{{{a * c * c}}}"),
        (f"x^2+{a + b}x+{a * b}", f"(x+{a})(x+{b})"),
        (f"({a}, {b})", f"({a},{b})"),
        (rf"\{{{a}, {b}\}}", f"{b}, {a}"),
        (rf"\text{{{draw.choice(('Friday', 'Monday'))}}}", "Friday"),
        (f"{a}", rf"x = {a}"),
    ]
    weights = [8, 8, 1, 3, 2, 2, 2, 2, 2, 1, 1, 1]
    return draw.choices(shapes, weights)[0]


def workload(count: int, hostile: int, seed: int) -> list[Item]:
    draw = random.Random(seed)
    answers = [honest_item(draw) for _ in range(count)]
    for index, place in enumerate(draw.sample(range(count), hostile)):
        answers[place] = ("152", HOSTILE[index % len(HOSTILE)])
    prose = "We first note that the two terms are equal, and so we may write one for the other. " * 24
    return [
        (gold, f"<think>{prose}</think>\nSo the answer is $\\boxed{{{answer}}}$.") for gold, answer in answers
    ]


def in_pool(pool: VerifierPool, items: list[Item]) -> list[bool]:
    futures = [pool.submit(VERIFIERS["math"], Record("", "math", (), gold), reply) for gold, reply in items]
    return [future.result().score == 1.0 for future in futures]


def latencies(pool: VerifierPool, items: list[Item]) -> list[float]:
    """Seconds from submission to verdict of each honest item, with a bounded number in flight."""
    seconds: list[float] = []
    waiting: deque[Future[Verdict]] = deque()
    for gold, reply in items:
        while sum(not future.done() for future in waiting) >= IN_FLIGHT:
            time.sleep(0.0005)
        submitted = time.perf_counter()
        future = pool.submit(VERIFIERS["math"], Record("", "math", (), gold), reply)
        if not any(f"{{{expression}}}$" in reply for expression in HOSTILE):
            future.add_done_callback(lambda _, at=submitted: seconds.append(time.perf_counter() - at))
        waiting.append(future)
        while waiting[0].done() and len(waiting) > 1:
            waiting.popleft()
    for future in waiting:
        future.result()
    return seconds


def naive(item: Item) -> bool:
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    gold, reply = item
    return bool(verify(parse(f"\\boxed{{{gold}}}"), parse(reply)))


def timed(run: Callable[[list[Item]], list[bool]], items: list[Item]) -> tuple[float, list[bool]]:
    began = time.perf_counter()
    verdicts = run(items)
    return len(items) / (time.perf_counter() - began), verdicts


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--hostile", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    rates: dict[tuple[str, str], list[float]] = {}
    context = multiprocessing.get_context("spawn")
    with VerifierPool(options.workers) as pool, context.Pool(options.workers) as processes:
        contenders: dict[str, Callable[[list[Item]], list[bool]]] = {
            "reasonkit pool": lambda items: in_pool(pool, items),
            "Math-Verify": lambda items: processes.map(naive, items, chunksize=1),
        }
        for run in contenders.values():
            run(workload(200, 0, seed=-1))  # imports, and the first use of each shape
        differing = 0
        for round_ in range(options.rounds):
            for load, hostile in (("honest", 0), ("hostile", options.hostile)):
                items = workload(options.count, hostile, seed=round_)
                verdicts = []
                for name, run in contenders.items():
                    rate, found = timed(run, items)
                    rates.setdefault((name, load), []).append(rate)
                    verdicts.append(found)
                if not hostile:
                    differing += sum(ours != theirs for ours, theirs in zip(*verdicts, strict=True))
        quiet = latencies(pool, workload(options.count, 0, seed=99))
        disturbed = latencies(pool, workload(options.count, options.hostile, seed=99))

    print(
        f"{options.workers} workers, {options.count} replies, {options.hostile} hostile, {options.rounds} rounds"
    )
    for (name, load), values in rates.items():
        print(
            f"{name:16} {load:8} {statistics.median(values):8.0f} verdicts/s   rounds {[round(v) for v in values]}"
        )
    print(f"verdicts that differ on honest replies: {differing} of {options.rounds * options.count}")
    for name, values in (("quiet", quiet), ("with hostile", disturbed)):
        shown = [1e3 * percentile(values, share) for share in (0.5, 0.99, 1.0)]
        print(f"latency {name:13} p50 {shown[0]:7.1f} ms   p99 {shown[1]:7.1f} ms   max {shown[2]:7.1f} ms")


if __name__ == "__main__":
    main()
