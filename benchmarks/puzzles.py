"""Records per CPU second of the puzzle sources beside reasoning-gym's generators of the same puzzle, in one run.

    python benchmarks/puzzles.py
    python benchmarks/puzzles.py --seconds 5

Each contender generates for about `--seconds`, turn by turn, three times; the table shows medians of records per
second of this process's CPU time, so that a busy machine matters less. Ours include what the peer's do not:
checking that a problem is new and in its split and, for Sokoban, playing the shortest solution.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import reasoning_gym

from reasonkit.data.build import build

Contender = tuple[str, Callable[[], Iterator[Any]]]

MORE_THAN_ENOUGH = 1_000_000
TURNS = 3


def ours(name: str, **settings: Any) -> Callable[[], Iterator[Any]]:
    return lambda: build(name, "train", MORE_THAN_ENOUGH, 0, settings)


def peer(task: str, **config: Any) -> Callable[[], Iterator[Any]]:
    return lambda: iter(reasoning_gym.create_dataset(task, size=MORE_THAN_ENOUGH, seed=0, **config))


PAIRS: list[tuple[str, Callable[[], Iterator[Any]], Callable[[], Iterator[Any]] | None]] = [
    ("knights, 3 people", ours("knights", people=3), peer("knights_knaves", n_people=3)),
    ("knights, 5 people", ours("knights", people=5), peer("knights_knaves", n_people=5)),
    ("knights, 7 people", ours("knights", people=7), peer("knights_knaves", n_people=7)),
    ("countdown, 4 numbers", ours("countdown", numbers=4), peer("countdown", min_numbers=4, max_numbers=4)),
    ("countdown, 6 numbers", ours("countdown", numbers=6), peer("countdown", min_numbers=6, max_numbers=6)),
    (
        "zebra, 4 x 4",
        ours("zebra", houses=4, attributes=4),
        peer("zebra_puzzles", num_people=4, num_characteristics=4),
    ),
    (
        "sokoban, 6 x 6, 1 box",
        ours("sokoban"),
        peer("sokoban", min_w=6, max_w=6, min_h=6, max_h=6, min_boxes=1, max_boxes=1),
    ),
    ("ordering, 7 objects", ours("ordering", objects=7), None),
    ("graph, lookahead 8", ours("graph", lookahead=8), None),
]


def rate(records: Iterator[Any], seconds: float) -> float:
    next(records)  # tables that are made once are no part of the rate
    count, started = 0, time.process_time()
    while (spent := time.process_time() - started) < seconds:
        next(records)
        count += 1
    return count / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of generating, a contender and turn")
    seconds = parser.parse_args().seconds
    print(f"{'puzzle':24} {'reasonkit/s':>12} {'reasoning-gym/s':>16} {'ratio':>8}")
    for label, mine, theirs in PAIRS:
        rates: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(TURNS):
            rates[True].append(rate(mine(), seconds))
            if theirs is not None:
                rates[False].append(rate(theirs(), seconds))
        own = statistics.median(rates[True])
        if theirs is None:
            print(f"{label:24} {own:12,.0f} {'-':>16} {'-':>8}")
        else:
            other = statistics.median(rates[False])
            print(f"{label:24} {own:12,.0f} {other:16,.1f} {own / other:7,.0f}x")


if __name__ == "__main__":
    main()
