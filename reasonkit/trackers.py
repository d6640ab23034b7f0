"""Metrics to wandb, trackio or tensorboard, beside metrics.jsonl, which is always written.

A tracker that fails is said so once and left alone: it never stops a run that costs more than it. The run's id
there is kept over a resume. Left out: anything that only a tracker would know; all they get are the rows of
metrics.jsonl, the validations and the recipe.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from reasonkit.errors import ConfigError

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tracked:
    """What a tracker calls the run, and where it may keep files."""

    project: str
    name: str
    id: str
    """The same after a resume."""
    folder: Path
    config: Mapping[str, Any]


class Tracker(Protocol):
    def write(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Wandb:
    """Weights & Biases, under the key that `wandb login` stored or WANDB_API_KEY holds."""

    def __init__(self, tracked: Tracked) -> None:
        import wandb

        self._run = wandb.init(
            project=tracked.project,
            name=tracked.name,
            id=tracked.id,
            resume="allow",
            dir=str(tracked.folder),
            config=dict(tracked.config),
        )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """Hugging Face's tracker, on this machine or in a Space."""

    def __init__(self, tracked: Tracked) -> None:
        import trackio

        self._trackio = trackio
        # trackio knows a run by its name alone
        name = f"{tracked.name}-{tracked.id}"
        trackio.init(project=tracked.project, name=name, resume="allow", config=dict(tracked.config))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        own = {name: value for name, value in numbers.items() if name != "time"}  # a key of trackio's own
        self._trackio.log(own, step=step)

    def close(self) -> None:
        self._trackio.finish()


class TensorBoard:
    """Event files in the run folder: `tensorboard --logdir RUN/tensorboard`."""

    def __init__(self, tracked: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(tracked.folder / "tensorboard"))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


TRACKERS: dict[str, Callable[[Tracked], Tracker]] = {
    "wandb": Wandb,
    "trackio": Trackio,
    "tensorboard": TensorBoard,
}


class Trackers:
    """Those that a recipe names; each is dropped at its first failure."""

    def __init__(self, names: Sequence[str], tracked: Tracked) -> None:
        self._open: dict[str, Tracker] = {}
        for name in names:
            check_installed(name)
            self._guard(name, partial(self._start, name, tracked))

    def write(self, row: Mapping[str, Any]) -> None:
        """One step's row; what is nested is flattened with slashes, what is no number left out."""
        numbers = dict(_numbers(row, ""))
        step = int(numbers.pop("step"))
        for name, tracker in list(self._open.items()):
            self._guard(name, partial(tracker.write, step, numbers))

    def close(self) -> None:
        for name, tracker in list(self._open.items()):
            self._guard(name, tracker.close)

    def _start(self, name: str, tracked: Tracked) -> None:
        self._open[name] = TRACKERS[name](tracked)

    def _guard(self, name: str, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:  # a tracker's network, disk or service is no reason to lose a run
            self._open.pop(name, None)
            LOGGER.warning("%s is left alone from here on: %s: %s", name, type(error).__name__, error)


def check_installed(name: str) -> None:
    """Found at the start, because a missing package is a mistake in the setup and no failure of a service."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(
            f"log.trackers names {name}, which is not installed",
            f"pip install 'reasonkit[{name}]'   "
            f"(pipx inject reasonkit {name}, uv tool install --with {name} reasonkit)",
        ) from None


def _numbers(values: Mapping[str, Any], above: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{above}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{above}{key}", float(value)))
    return found
