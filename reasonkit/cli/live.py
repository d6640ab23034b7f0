"""Watching a run: a live panel on a terminal, one plain line a step elsewhere. All of it on stderr."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.console import Group as Stack
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reasonkit.cli.output import decorated, print_table, say

if TYPE_CHECKING:
    from reasonkit.evaluate.validation import Validation
    from reasonkit.records import Group, Rollout
    from reasonkit.train.journal import Observer
    from reasonkit.train.launch import Outcome

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 60


GIVEN = {"loss": ".4f", "margin": ".3f", "preferred": ".3f", "grad_norm": ".3f"}
"""What a step of learning from given replies shows, and how."""


@contextlib.contextmanager
def watch(title: str) -> Iterator[Observer]:
    """An observer for one run: a panel that redraws on a terminal, lines where there is none."""
    if not decorated(sys.stderr):
        yield Lines()
        return
    panel = LivePanel(title)
    with Live(panel, console=Console(stderr=True), refresh_per_second=4, transient=False):
        yield panel


class Lines:
    """For logs and pipes: a line an event, no control characters."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def phase(self, name: str) -> None:
        self._print(name)

    def warmup(self, update: int, limit: int, numbers: dict[str, float]) -> None:
        self._print(f"warm-up {update}: " + ", ".join(f"{key} {value:.3f}" for key, value in numbers.items()))

    def step(self, row: dict[str, Any], steps: int, groups: Sequence[Group]) -> None:
        self._print(f"step {row['step']}/{steps}: {_in_words(row)}")

    def validation(self, result: Validation) -> None:
        self._print(
            f"held-out {result.phase} (step {result.step}): sampled {result.sampled.mean:.3f}, "
            f"greedy {result.greedy.mean:.3f}"
        )

    def _print(self, line: str) -> None:
        print(f"[{time.monotonic() - self._started:6.1f}s] {line}", file=sys.stderr, flush=True)


class LivePanel:
    """Reward curve, accuracy, speed, time left, and one reply with its verdict. Rich asks it to draw itself."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._phase = "starting"
        self._rows: list[dict[str, Any]] = []
        self._steps = 0
        self._warmup: list[str] = []
        self._validations: list[Validation] = []
        self._sample: tuple[str, Rollout] | None = None
        self._training_since: float | None = None

    def phase(self, name: str) -> None:
        self._phase = name
        if name == "training":
            self._training_since = time.monotonic()

    def warmup(self, update: int, limit: int, numbers: dict[str, float]) -> None:
        self._warmup = [f"update {update}", *(f"{key} {value:.2f}" for key, value in numbers.items())]

    def step(self, row: dict[str, Any], steps: int, groups: Sequence[Group]) -> None:
        self._rows.append(row)
        self._steps = steps
        if groups:
            group = groups[row["step"] % len(groups)]
            self._sample = (group.record.prompt[-1]["content"], group.rollouts[0])

    def validation(self, result: Validation) -> None:
        self._validations.append(result)

    def __rich__(self) -> Panel:
        parts: list[Any] = [Text(self._phase, style="bold")]
        if self._warmup and not self._rows:
            parts.append(Text("  ".join(self._warmup)))
        if self._rows:
            parts += [self._numbers(), self._curve(), self._progress()]
        if self._validations:
            parts.append(Text(" · ".join(_validation_words(each) for each in self._validations[-3:])))
        if self._sample is not None:
            parts += [Text(), *_reply_lines(*self._sample)]
        return Panel(Stack(*parts), title=self._title, title_align="left", width=78)

    def _numbers(self) -> Text:
        return Text(_in_words(self._rows[-1]))

    def _curve(self) -> Text:
        name = "reward" if "reward" in self._rows[-1] else "loss"
        return Text(f"{name} " + sparkline([row[name] for row in self._rows], CURVE_WIDTH), style="cyan")

    def _progress(self) -> Table:
        done = self._rows[-1]["step"]
        table = Table.grid(padding=(0, 1))
        left = self._time_left()
        table.add_row(
            f"step {done}/{self._steps}", ProgressBar(total=self._steps, completed=done, width=40), left
        )
        return table

    def _time_left(self) -> str:
        """From the steps of this sitting; validations are part of the average."""
        if self._training_since is None:
            return ""
        per_step = (time.monotonic() - self._training_since) / len(self._rows)
        seconds = per_step * (self._steps - self._rows[-1]["step"])
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} left"


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as block characters; more values than `width` are averaged into bins."""
    if len(values) > width:
        edges = [round(place * len(values) / width) for place in range(width + 1)]
        values = [sum(values[low:high]) / (high - low) for low, high in itertools.pairwise(edges)]
    low, high = min(values), max(values)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in values)


def print_outcome(outcome: Outcome) -> None:
    """The before/after table, where the report is, and what to type next."""
    if outcome.before is not None and outcome.after is not None:
        rows = [
            (kind, _interval(outcome.before[kind]), _interval(outcome.after[kind]))
            for kind in ("sampled", "greedy")
        ]
        print_table(["held-out accuracy", "before", "after"], rows)
    say(f"{outcome.steps} steps in {outcome.seconds:.0f} s. Report: {outcome.folder.report}")
    say(f"Next: reasonkit export {outcome.folder.path} my-model")


def _interval(numbers: dict[str, Any]) -> str:
    return f"{numbers['accuracy']:.3f}  [{numbers['low']:.3f}, {numbers['high']:.3f}]"


def _validation_words(result: Validation) -> str:
    return f"held-out at {result.step}: {result.sampled.mean:.2f} sampled, {result.greedy.mean:.2f} greedy"


def _reply_lines(prompt: str, rollout: Rollout) -> list[Text]:
    verdict = rollout.verdict
    words = f"{verdict.status}: {verdict.reason}" if verdict else "failed"
    style = "green" if verdict is not None and verdict.score >= 1.0 else "red"
    return [Text(f"{prompt}  →  {rollout.text}"), Text(words, style=style)]


def _in_words(row: dict[str, Any]) -> str:
    """A step's numbers that are worth a glance: of sampled replies, or of given ones."""
    names = {"reward": ".3f", "accuracy": ".3f", "length_mean": ".1f"} if "reward" in row else GIVEN
    words = [f"{name.partition('_')[0]} {row[name]:{form}}" for name, form in names.items() if name in row]
    return ", ".join([*words, f"{row['tokens_per_second']:,.0f} tokens/s"])
