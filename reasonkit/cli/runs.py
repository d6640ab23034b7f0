"""What RUN and RUN@STEP mean on the command line: a run folder's path, or the name of one in ./runs."""

from __future__ import annotations

from pathlib import Path

from reasonkit.errors import UsageError, nearest
from reasonkit.rundir import RUNS, RunDir, find_runs, locate_run

__all__ = ["RUNS", "find_run", "split_step"]


def find_run(name: str) -> RunDir:
    """The run folder that `name` means."""
    found = locate_run(name)
    if found is not None:
        return found
    path = Path(name).expanduser()
    if path.is_dir():
        raise UsageError(f"{path} is not a run folder: it has no run.json", "reasonkit list runs")
    known = [run.path.name for run in find_runs(RUNS)]
    raise UsageError(
        f"there is no run '{name}', here or in {RUNS}", nearest(name, known) or "reasonkit list runs"
    )


def split_step(name: str) -> tuple[str, int | None]:
    """`RUN@STEP` as the run's name and the step; without `@` no step is meant."""
    run, separator, step = name.rpartition("@")
    if not separator:
        return name, None
    if not step.isdecimal():
        raise UsageError(f"'{name}' has no step number after @", f"for example {run}@100")
    return run, int(step)
