"""A day's worth of steps in miniature: nothing of a run over Ray grows, neither its processes nor what they hold.

REASONKIT_SOAK_STEPS says how many. A step takes about 0.06 s on two cores, so 10,000 take ten minutes there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.cluster_runs import PATIENCE, Running, rows, write_runs

STEPS = int(os.environ.get("REASONKIT_SOAK_STEPS", "10000"))
SLOWEST = 30.0
"""Seconds of a step, on a machine with a lot else to do."""
SLACK = 48 * 2**20
"""Bytes that a process may have more of at the end, beside a tenth: allocators keep what they once had."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE + STEPS * SLOWEST)]


@dataclass(frozen=True)
class Held:
    memory: int
    """Bytes of its own."""
    shared: int
    """Bytes of shared memory that it has touched: in Ray's daemon, the object store."""
    descriptors: int
    threads: int


def held(process: psutil.Process) -> Held:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    memory, shared = (int(status[name][0]) * 1024 for name in ("RssAnon", "RssShmem"))
    return Held(memory, shared, process.num_fds(), process.num_threads())


def snapshot(running: Running) -> Mapping[str, Held]:
    """Of the controller and its whole family, by name; those of a name are told apart by their age."""
    found: dict[str, Held] = {}
    family = [psutil.Process(running.process.pid), *running.family()]
    for process in sorted(family, key=lambda each: (each.create_time(), each.pid)):
        name = process.name().partition(".")[0]  # Ray's say behind it what they are doing
        found[f"{name} {sum(other.startswith(f'{name} ') for other in found)}"] = held(process)
    return found


def test_many_steps_leave_memory_actors_descriptors_and_shared_memory_as_they_were(tmp_path: Path) -> None:
    write_runs(tmp_path)
    settings = (
        f"train.steps={STEPS}", "train.prompts=3", "train.updates_per_rollout=1", "rollout.n=2",
        "rollout.max_tokens=4", "validation.every=0", f"checkpoint.every={max(STEPS // 20, 1)}", "log.rollouts=0",
        "cluster.learners=1",
    )  # fmt: skip
    words = [word for each in settings for word in ("--set", each)]
    with Running(tmp_path, "async.yaml", "--out", "run", *words) as running:
        running.until_step(STEPS // 5, patience=PATIENCE + STEPS * SLOWEST)
        first = snapshot(running)
        running.until_step(STEPS * 9 // 10, patience=STEPS * SLOWEST)
        last = snapshot(running)
        assert running.process.wait(timeout=PATIENCE + STEPS * SLOWEST) == 0, running.said()
    steps = [row["step"] for row in rows(running.run)]
    assert steps == list(range(1, STEPS + 1))
    report = "\n".join(f"{name}: {first.get(name)} -> {last.get(name)}" for name in sorted({*first, *last}))
    print(report)
    assert first.keys() == last.keys(), report
    for name, before in first.items():
        after = last[name]
        assert after.memory <= before.memory * 1.1 + SLACK, f"{name}\n{report}"
        assert after.shared <= before.shared * 1.1 + SLACK, f"{name}\n{report}"
        assert after.descriptors <= before.descriptors + 8, f"{name}\n{report}"
        assert after.threads <= before.threads + 8, f"{name}\n{report}"
