"""Runs over a Ray of their own as processes that tests do things to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from reasonkit.rundir import RunDir, read_metrics
from tests.micro import write_micro

PATIENCE = 900.0
"""Seconds in which anything happens that is to happen, on a machine with a lot else to do."""

RAY = "{learners: 2, engines: 1, colocate: false}"
STEPS = 12
"""Enough that none is over before a test has done to it what it does."""


def write_runs(folder: Path) -> None:
    write_micro(folder)
    base = f"_base_: micro.yaml\ntrain: {{steps: {STEPS}, threads: 3}}\ncheckpoint: {{every: 2, keep: 2}}\n"
    (folder / "here.yaml").write_text(f"{base}name: here\n")
    (folder / "ray.yaml").write_text(f"{base}name: ray\ncluster: {RAY}\n")
    (folder / "async.yaml").write_text(f"{base}name: async\ncluster: {RAY}\nrollout: {{max_staleness: 2}}\n")


def command(folder: Path, *arguments: str) -> None:
    """The real command to its end, in a process that owes nothing to others: Ray wants its own main thread. What a
    job of its wrote into job.log is told too."""
    done = subprocess.run(
        [sys.executable, "-m", "reasonkit", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE * 2,
    )
    job = folder / "job.log"
    assert done.returncode == 0, done.stderr + (job.read_text() if job.exists() else "")


def rows(run: RunDir) -> list[dict[str, Any]]:
    return list(read_metrics(run.metrics))


def last_step(run: RunDir) -> int:
    """Without reading the whole file, which may be long."""
    if not run.metrics.exists():
        return 0
    with run.metrics.open("rb") as file:
        file.seek(max(run.metrics.stat().st_size - 16384, 0))
        whole = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
    return int(json.loads(whole)["step"]) if whole else 0


def uids(run: RunDir, steps: int = STEPS) -> list[list[str]]:
    return [pq.read_table(run.rollouts(step)).column("uid").to_pylist() for step in range(1, steps + 1)]


class Running:
    """A run as a process that things are done to."""

    def __init__(self, folder: Path, *arguments: str, run: str = "run", within: Sequence[str] = ()) -> None:
        """`reasonkit train` with these arguments, whose run is in `run`; `within` goes before the command."""
        self.run = RunDir(folder / run)
        self._said = (folder / "said.txt").open("a")
        self.process = subprocess.Popen(
            [*within, sys.executable, "-m", "reasonkit", "train", *arguments],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=self._said,
            stderr=self._said,
        )

    def said(self) -> str:
        return Path(self._said.name).read_text()

    def until(self, what: Callable[[], bool], patience: float = PATIENCE) -> None:
        limit = time.monotonic() + patience
        while not what():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < limit, self.said()
            time.sleep(0.1)

    def until_step(self, step: int, patience: float = PATIENCE) -> None:
        self.until(lambda: last_step(self.run) >= step, patience)

    def pid(self, name: str) -> int:
        """0 where it has no process yet."""
        placement = self.run.info().get("placement", [])
        return next((int(each["pid"]) for each in placement if each["name"] == name), 0)

    def family(self) -> list[psutil.Process]:
        """All that it has started, Ray's own processes too."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self, name: str) -> None:
        """Those of its family that are called so."""
        found = [each for each in self.family() if each.name() == name]
        assert found, [each.name() for each in self.family()]
        for each in found:
            each.kill()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._said.close()


def ended(family: Sequence[psutil.Process]) -> bool:
    """Whether they all do, without being told."""
    _, alive = psutil.wait_procs(family, timeout=120)
    return not alive
