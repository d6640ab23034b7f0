"""Checkpoints of a run: a learner's folder with the controller's own state in it, complete or absent, never half.

What they hold and how they are written is saving.py's business: under a temporary name, while training goes on.
They are deleted under a temporary name too, so a kill at any moment leaves the whole of one or nothing that counts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reasonkit.errors import ReasonkitError
from reasonkit.rundir import TEMPORARY, RunDir
from reasonkit.train.learner import Learner
from reasonkit.train.saving import STATE


async def save_checkpoint(path: Path, learner: Learner, state: Mapping[str, Any]) -> None:
    """Begin to save the learner and the controller's state, which must be JSON, as one.

    Fails, too, if the checkpoint before it could not be written.
    """
    with _disk_full(path.parent):
        await learner.save(path, state)


async def finish_checkpoint(folder: RunDir, learner: Learner) -> None:
    """Wait until the last checkpoint is there."""
    with _disk_full(folder.path / "checkpoints"):
        await learner.saved()


async def load_checkpoint(path: Path, learner: Learner) -> dict[str, Any]:
    """Put the learner back where it was; returns the controller's state."""
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    await learner.load(path)
    return state


@contextmanager
def _disk_full(checkpoints: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        run = checkpoints.parent
        raise ReasonkitError(
            f"a checkpoint in {checkpoints} could not be written: {error}",
            f"make room (`df -h {run}`), then reasonkit train --resume {run}",
        ) from error


def keep_only(folder: RunDir, newest: int, *, also: Set[int | None] = frozenset()) -> None:
    """Delete all checkpoints but the newest few and those of the steps in `also`."""
    for step in folder.checkpoints()[:-newest]:
        if step not in also:
            doomed = folder.checkpoint(step)
            renamed = doomed.with_name(f"{TEMPORARY}{doomed.name}")
            shutil.rmtree(renamed, ignore_errors=True)  # left by a kill in the middle of an earlier deletion
            doomed.rename(renamed)
            shutil.rmtree(renamed)
