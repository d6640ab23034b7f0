"""The real command, struck by a signal at an exact place: `python killed_train.py PLACE HIT [SIGNAL] -- ARGUMENTS`.

HIT counts from 1 how often PLACE is passed before the process strikes itself: by SIGKILL, as a power cut would,
unless SIGNAL is another one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import reasonkit.train.rank
import reasonkit.train.ranks
import reasonkit.train.run
import reasonkit.train.saving
from reasonkit.cli.app import main
from reasonkit.engines.transformers import TransformersEngine
from reasonkit.train.journal import Journal

PLACES: dict[str, tuple[Any, str]] = {
    "in a rollout": (TransformersEngine, "generate"),
    "in an optimizer update": (reasonkit.train.rank, "compute_loss"),
    "in the optimizer": (reasonkit.train.rank, "apply_update"),
    "while a checkpoint is written": (reasonkit.train.saving, "save_model"),
    "while old checkpoints are removed": (reasonkit.train.run, "keep_only"),
    "between two steps": (Journal, "step"),
    "as two ranks are told": (reasonkit.train.ranks.Ranks, "_tell"),
}


AFTERWARDS = ("while a checkpoint is written", "as two ranks are told")
"""Places whose work has begun when the process dies: of a checkpoint the weights are there, the rest is not."""


def install(place: str, hit: int, signum: signal.Signals) -> None:
    owner, name = PLACES[place]
    original: Callable[..., Any] = getattr(owner, name)
    hits = 0

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal hits
        hits += 1
        if hits == hit and place not in AFTERWARDS:
            os.kill(os.getpid(), signum)
        result = original(*arguments, **options)
        if hits == hit and place in AFTERWARDS:
            os.kill(os.getpid(), signum)
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    end = sys.argv.index("--")
    where, when, *by = sys.argv[1:end]
    install(where, int(when), signal.Signals[by[0]] if by else signal.SIGKILL)
    sys.argv = ["reasonkit", *sys.argv[end + 1 :]]
    main()
