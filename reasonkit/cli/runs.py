"""What RUN and RUN@STEP mean on the command line: a run folder's path, or the name of one in ./runs."""

from __future__ import annotations

from pathlib import Path

from reasonkit.errors import UsageError, nearest
from reasonkit.rundir import RunDir, find_runs

RUNS = Path("runs")


def find_run(name: str) -> RunDir:
    """The run folder that `name` means."""
    for path in (Path(name).expanduser(), RUNS / name):
        if (path / "run.json").is_file():
            return RunDir(path)
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
