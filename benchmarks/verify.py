"""Verdicts per second on mathematical answers, beside Math-Verify as it comes, in one run of under a minute.

    python benchmarks/verify.py --workers 2

Replies are two thousand characters of reasoning that end in a box. Answers are drawn at random from the shapes that
problem sets have (integers, decimals, fractions, radicals, polynomials, sets, tuples, words, and some that take
computer algebra), half of them right, some in another form than the gold answer. `hostile` replaces a few by
expressions that never finish.

Contenders: the verifier pool; Math-Verify over the whole reply with its own five-second timeouts, one process a
worker as well (they need the main thread, so each process judges in it), on the first tenth of the same replies.
They take turns, and the table shows medians, by the clock and by CPU time of all processes, which other work on the
machine disturbs less. Verdicts differ on `\\log` for `\\ln`, which we take for right. The last lines show what an
honest verdict waits, with 32 in flight, alone and with hostile ones among them.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import psutil

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
        (rf"[{c}, {c + b})", rf"\left[{c},{c + b}\right)"),
        (rf"\frac{{\ln {a}}}{{{c}}}", rf"\frac{{\log {a}}}{{{c}}}"),
        (rf"{a}e^{{{c}x}}", rf"{a}\exp({c}x)"),
    ]
    weights = [80, 80, 10, 30, 20, 20, 20, 20, 20, 10, 10, 10, 4, 2, 2]
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


def cpu_seconds() -> float:
    """Of this process and all below it, those that have ended included."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    times = [process.cpu_times() for process in family if process.is_running()]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)


def timed(run: Callable[[list[Item]], list[bool]], items: list[Item]) -> tuple[float, float, list[bool]]:
    """Verdicts a second, verdicts a CPU second, and the verdicts."""
    began, used = time.perf_counter(), cpu_seconds()
    verdicts = run(items)
    seconds, used = time.perf_counter() - began, cpu_seconds() - used
    return len(items) / seconds, len(items) / used, verdicts


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--hostile", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    few = options.count // 10

    rates: dict[tuple[str, str], list[tuple[float, float]]] = {}
    differing = 0
    context = multiprocessing.get_context("spawn")
    with VerifierPool(options.workers) as pool, context.Pool(options.workers) as processes:
        contenders: dict[str, Callable[[list[Item]], list[bool]]] = {
            "reasonkit pool": lambda items: in_pool(pool, items),
            "Math-Verify": lambda items: processes.map(naive, items, chunksize=1),
        }
        for run in contenders.values():
            run(workload(100, 0, seed=-1))  # imports, and the first use of each shape
        for round_ in range(options.rounds):
            honest = workload(options.count, 0, seed=round_)
            hostile = workload(options.count, options.hostile, seed=round_)
            tasks = [
                ("reasonkit pool", "honest", honest),
                ("Math-Verify", "honest", honest[:few]),
                ("reasonkit pool", "hostile", hostile),
            ]
            if round_ == 0:  # every hostile reply holds a process of its own up for five seconds
                tasks.append(("Math-Verify", "hostile", workload(few, 2, seed=round_)))
            verdicts = {}
            for name, load, items in tasks:
                rate, by_cpu, verdicts[name, load] = timed(contenders[name], items)
                rates.setdefault((name, load), []).append((rate, by_cpu))
            pairs = zip(
                verdicts["reasonkit pool", "honest"][:few], verdicts["Math-Verify", "honest"], strict=True
            )
            differing += sum(ours != theirs for ours, theirs in pairs)
        quiet = latencies(pool, workload(options.count, 0, seed=99))
        disturbed = latencies(pool, workload(options.count, options.hostile, seed=99))

    print(f"{options.workers} workers, {options.rounds} rounds, load average {os.getloadavg()[0]:.1f}")
    print(f"{options.count} replies ({few} for Math-Verify), {options.hostile} hostile (2 for Math-Verify)")
    for (name, load), values in rates.items():
        rate, by_cpu = (statistics.median(each) for each in zip(*values, strict=True))
        print(f"{name:16} {load:8} {rate:8.0f} verdicts/s {by_cpu:8.0f} a CPU second")
    for place, what in ((0, "clock"), (1, "CPU time")):
        ours, theirs = (
            statistics.median(value[place] for value in rates[name, "honest"]) for name in contenders
        )
        print(f"ratio by {what}: {ours / theirs:.1f}")
    print(f"verdicts that differ on honest replies: {differing} of {options.rounds * few}")
    for name, values in (("quiet", quiet), ("with hostile", disturbed)):
        shown = [1e3 * percentile(values, share) for share in (0.5, 0.99, 1.0)]
        print(f"latency {name:13} p50 {shown[0]:7.1f} ms   p99 {shown[1]:7.1f} ms   max {shown[2]:7.1f} ms")


if __name__ == "__main__":
    main()
