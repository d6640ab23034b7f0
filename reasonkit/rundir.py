"""The run folder: its names, its atomic writes, and whether a run can be resumed.

    recipe.yaml            resolved; `train --resume RUN` needs nothing else
    run.json               versions, threads, hashes, and the state: running, stopped, failed, finished
    metrics.jsonl          one object a step
    data/*.parquet         the records that the run built for itself
    model/                 the starting model, where the run made it
    warm/                  the model after its warm-up, where the recipe has one
    rollouts/step_N.parquet
    checkpoints/step_N/    complete or absent, never half
    eval/step_N.json       validations
    run.log  report.html
    lock                   held by the process that trains the run, for as long as it lives

Every write is atomic: a temporary name beside the target, fsync, rename, fsync of the folder. A folder is
written under a temporary name too. What a kill leaves under a temporary name is removed on resume.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonkit.errors import ReasonkitError, UsageError

TEMPORARY = ".tmp-"
RUNS = Path("runs")
"""Where a run goes unless told otherwise, and where a bare name is looked up."""
HELD = (errno.EACCES, errno.EAGAIN)
"""What the system says of a lock that somebody else has."""


@dataclass(frozen=True, slots=True)
class RunDir:
    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "run.log"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def warm(self) -> Path:
        return self.path / "warm"

    def rollouts(self, step: int) -> Path:
        return self.path / "rollouts" / f"step_{step}.parquet"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step}"

    def evaluation(self, step: int) -> Path:
        return self.path / "eval" / f"step_{step}.json"

    def task_results(self, step: int) -> Path:
        return self.path / "eval" / f"tasks_step_{step}.json"

    def checkpoints(self) -> list[int]:
        """Steps whose checkpoints are complete, oldest first."""
        return _steps(self.path / "checkpoints")

    def rollout_steps(self) -> list[int]:
        return _steps(self.path / "rollouts")

    def evaluation_steps(self) -> list[int]:
        return _steps(self.path / "eval")

    def task_steps(self) -> list[int]:
        return _steps(self.path / "eval", "tasks_step_")

    def info(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self.run_json.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(
                f"{self.path} is not a run folder: it has no run.json", "reasonkit list runs"
            ) from None
        return content

    def update_info(self, **changes: Any) -> None:
        content = self.info() if self.run_json.exists() else {}
        write_json(self.run_json, {**content, **changes})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else trains this run meanwhile. The lock is the process's own: its children do not have it, and it
        ends with the process however that ends. File systems without locks do without."""
        with (self.path / "lock").open("a") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in HELD:
                    info = self.info()
                    raise UsageError(
                        f"{self.path} is being trained already, by process {info.get('pid')} on {info.get('host')}",
                        "wait until it ends, or stop it with Ctrl-C: reasonkit list runs",
                    ) from None
            yield

    def is_held(self) -> bool:
        """Whether a process, other than the one that asks, trains this run, or may: not every disk can tell."""
        with contextlib.suppress(FileNotFoundError), (self.path / "lock").open() as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def remove_leftovers(self) -> None:
        """Delete what a kill left under a temporary name."""
        for leftover in self.path.rglob(f"{TEMPORARY}*"):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)

    def forget_after(self, step: int) -> None:
        """Cut metrics, rollouts and validations back to `step`, so that resuming writes each of them once."""
        if self.metrics.exists():
            kept = [row for row in read_metrics(self.metrics) if row["step"] <= step]
            write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))
        for later in self.rollout_steps():
            if later > step:
                self.rollouts(later).unlink()
        for later in self.evaluation_steps():
            if later > step:
                self.evaluation(later).unlink()
        for later in self.task_steps():
            if later > step:
                self.task_results(later).unlink()


def create(recipe_name: str, out: Path | None) -> RunDir:
    """A new run folder: `out`, or ./runs/<recipe>-<time>. An existing run is an error, never overwritten."""
    path = out or Path("runs") / f"{recipe_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        if (path / "run.json").exists():
            raise UsageError(
                f"{path} already holds a run", f"reasonkit train --resume {path}   or choose another --out"
            )
        raise UsageError(f"{path} exists and is not empty", "choose another --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_text(path / f"{TEMPORARY}writable", "")
        (path / f"{TEMPORARY}writable").unlink()
    except OSError as error:
        raise ReasonkitError(
            f"cannot write to {path}: {error.strerror}", "choose a writable folder with --out FOLDER"
        ) from error
    return RunDir(path)


def locate_run(name: str) -> RunDir | None:
    """The run folder that `name` means: a path, or the name of a run in ./runs."""
    paths = (Path(name).expanduser(), RUNS / name)
    return next((RunDir(path) for path in paths if (path / "run.json").is_file()), None)


def find_runs(folder: Path) -> list[RunDir]:
    """Runs below `folder`, newest first."""
    runs = [RunDir(path.parent) for path in folder.glob("*/run.json")]
    return sorted(runs, key=lambda run: run.run_json.stat().st_mtime, reverse=True)


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a metrics file. A last line that a kill cut short is no row."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` only when the body ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; it becomes `path` only when the body ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _steps(folder: Path, prefix: str = "step_") -> list[int]:
    if not folder.is_dir():
        return []
    names = (path.name.removeprefix(prefix).split(".")[0] for path in folder.glob(f"{prefix}*"))
    return sorted(int(name) for name in names)
