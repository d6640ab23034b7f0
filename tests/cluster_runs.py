"""Runs over a Ray of their own as processes that tests do things to."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

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


def assert_learns(folder: Path, preset: str, *settings: str) -> None:
    words = [word for each in settings for word in ("--set", each)]
    command(folder, "train", "--preset", preset, "--out", "run", *words)
    assert_learned(RunDir(folder / "run"))


def assert_learned(run: RunDir) -> None:
    """As `tiny` does in one process: to 0.98 from 0.4, where its demonstrator's mistake leaves it."""
    before, after = run.info()["before"], run.info()["after"]
    for way in ("sampled", "greedy"):
        assert before[way]["accuracy"] < 0.6, (way, before)
        assert after[way]["accuracy"] > 0.9, (way, after)
    assert [row["step"] for row in rows(run)] == list(range(1, run.info()["steps"] + 1))
    assert max(row["failed"] for row in rows(run)) == 0


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


@contextmanager
def ray_that_says_it_has_gpus(count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of one node, which RAY_ADDRESS names meanwhile. `folder` gets what it prints."""
    from ray.util import get_node_ip_address

    own = tempfile.mkdtemp(prefix="ray-")  # paths of sockets may have 107 letters
    node = get_node_ip_address()  # type: ignore[no-untyped-call, unused-ignore]
    port = 20_000 + os.getpid() % 10_000
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray = str(Path(sys.executable).with_name("ray"))
    start = [ray, "start", "--head", f"--port={port}", "--include-dashboard=false", "--block"]
    start += [f"--num-gpus={count}", "--num-cpus=4", f"--node-ip-address={node}", f"--temp-dir={own}"]
    with (folder / "ray.log").open("wb") as log:
        head = subprocess.Popen(start, stdout=log, stderr=log)
    monkeypatch.setenv("RAY_ADDRESS", f"{node}:{port}")
    try:
        subprocess.run([sys.executable, "-m", "reasonkit.cluster_survey", "1", "300"], check=True)
        yield
    finally:
        family = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        head.wait(60)
        _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    shutil.rmtree(own)


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

    def kill(self, name: str, sign: int = signal.SIGKILL) -> None:
        """Those of its family that are called so."""
        found = [each for each in self.family() if each.name() == name]
        assert found, [each.name() for each in self.family()]
        for each in found:
            each.send_signal(sign)

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
