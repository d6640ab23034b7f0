"""Checkpoints of a run: a learner's folder plus the controller's own state, complete or absent, never half.

A checkpoint is a plain Hugging Face model folder that also holds what resuming needs. It is written under a
temporary name and renamed last, and deleted under a temporary name too, so a kill at any moment leaves either
the whole of it or nothing that counts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from reasonkit.errors import ReasonkitError
from reasonkit.rundir import TEMPORARY, RunDir, atomic_folder
from reasonkit.train.learner import Learner

STATE = "state.json"


async def save_checkpoint(path: Path, learner: Learner, state: Mapping[str, Any]) -> None:
    """Save the learner and the controller's state, which must be JSON, as one."""
    try:
        with atomic_folder(path) as temporary:
            await learner.save(temporary)
            (temporary / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ReasonkitError(
            f"the checkpoint {path} could not be written: {error}",
            f"make room (`df -h {path.parent.parent}`), then reasonkit train --resume {path.parent.parent}",
        ) from error


async def load_checkpoint(path: Path, learner: Learner) -> dict[str, Any]:
    """Put the learner back where it was; returns the controller's state."""
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    await learner.load(path)
    return state


def keep_only(folder: RunDir, newest: int, *, also: Set[int] = frozenset()) -> None:
    """Delete all checkpoints but the newest few and those of the steps in `also`."""
    for step in folder.checkpoints()[:-newest]:
        if step not in also:
            doomed = folder.checkpoint(step)
            renamed = doomed.with_name(f"{TEMPORARY}{doomed.name}")
            shutil.rmtree(renamed, ignore_errors=True)  # left by a kill in the middle of an earlier deletion
            doomed.rename(renamed)
            shutil.rmtree(renamed)
