"""Watching an evaluation: a table that fills on a terminal, a line now and then elsewhere. All of it on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from reasonkit.cli.output import decorated, say

if TYPE_CHECKING:
    from reasonkit.evaluate.results import TaskResult
    from reasonkit.evaluate.run import Watcher
    from reasonkit.evaluate.samples import Sample
    from reasonkit.evaluate.work import Pair
    from reasonkit.records import Verdict

EVERY_SECONDS = 30.0
"""Between two lines about a model, where there is no terminal."""
RECENT_SECONDS = 30.0
"""Over which speed is measured."""


@dataclass(slots=True)
class Tally:
    """How far one model is on one task."""

    planned: int
    had: int
    """Replies that were there before."""
    sampled: int = 0
    failed: int = 0
    judged: int = 0
    total: float = 0.0

    @property
    def done(self) -> int:
        return self.had + self.sampled

    def words(self) -> str:
        score = f", score so far {100 * self.total / self.judged:.1f}" if self.judged else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done:,} of {self.planned:,}{score}{failed}"


class Tallies:
    """Counts what a Watcher is told."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.phases: dict[str, str] = {}
        """Of the models under way."""
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def begins(self, model: str, pairs: Sequence[Pair]) -> None:
        for pair in pairs:
            missing = sum(1 for _ in pair.missing())
            self.tallies[model, pair.plan.name] = Tally(pair.plan.samples, pair.plan.samples - missing)

    def phase(self, model: str, name: str) -> None:
        self.phases[model] = name

    def sampled(self, pair: Pair, sample: Sample) -> None:
        tally = self.tallies[pair.model, pair.plan.name]
        tally.sampled += sample.failure is None
        tally.failed += sample.failure is not None
        self._recent.append((time.monotonic(), sample.completion_tokens))

    def judged(self, pair: Pair, verdict: Verdict) -> None:
        tally = self.tallies[pair.model, pair.plan.name]
        tally.judged += not verdict.status.is_failure
        tally.total += verdict.score

    def ended(self, result: TaskResult) -> None:
        self.phases.pop(result.model, None)

    def speed(self) -> str:
        """Of all models together. The oldest reply only says since when."""
        now = time.monotonic()
        while len(self._recent) > 1 and now - self._recent[1][0] > RECENT_SECONDS:
            self._recent.popleft()
        (since, _), *replies = self._recent
        return f"{sum(tokens for _, tokens in replies) / max(now - since, 1e-3):,.0f} tokens/s"


class Lines(Tallies):
    """For logs and pipes: a line an event, and one now and then in between."""

    def __init__(self) -> None:
        super().__init__()
        self._started = self._told = time.monotonic()

    def begins(self, model: str, pairs: Sequence[Pair]) -> None:
        super().begins(model, pairs)
        had = sum(self.tallies[model, pair.plan.name].had for pair in pairs)
        total = sum(pair.plan.samples for pair in pairs)
        self._say(f"{model}: {len(pairs)} tasks, {total:,} samples, {had:,} of them there already")

    def phase(self, model: str, name: str) -> None:
        super().phase(model, name)
        self._say(f"{model}: {name}")

    def sampled(self, pair: Pair, sample: Sample) -> None:
        super().sampled(pair, sample)
        if time.monotonic() - self._told > EVERY_SECONDS:
            tally = self.tallies[pair.model, pair.plan.name]
            self._say(f"{pair.model}, {pair.plan.name}: {tally.words()}, {self.speed()}")

    def ended(self, result: TaskResult) -> None:
        super().ended(result)
        from reasonkit.evaluate.table import score_words

        score = score_words(result.score) if result.score else "nothing judged"
        self._say(f"{result.model}, {result.task}: {score}")

    def _say(self, line: str) -> None:
        self._told = time.monotonic()
        say(f"[{self._told - self._started:6.1f}s] {line}")


class LiveTable(Tallies):
    """Rich asks it to draw itself."""

    def __rich__(self) -> Table:
        now = ", ".join(f"{model}: {name}" for model, name in self.phases.items()) or "starting"
        table = Table(
            title=f"{now}   {self.speed()}", box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False
        )
        for column in ("model", "task"):
            table.add_column(column, no_wrap=True)
        for column in ("samples", "score so far", "failed"):
            table.add_column(column, justify="right")
        for (model, task), tally in self.tallies.items():
            score = f"{100 * tally.total / tally.judged:.1f}" if tally.judged else "–"
            table.add_row(
                model,
                task,
                f"{tally.done:,}/{tally.planned:,}",
                score,
                str(tally.failed) if tally.failed else "",
            )
        return table


@contextlib.contextmanager
def watch() -> Iterator[Watcher]:
    if not decorated(sys.stderr):
        yield Lines()
        return
    table = LiveTable()
    with Live(table, console=Console(stderr=True), refresh_per_second=4, transient=True):
        yield table
