"""What is seen while an evaluation runs: a table on a terminal, lines elsewhere, several models at once."""

from __future__ import annotations

import pytest
from rich.console import Console

from reasonkit.cli.eval_live import Lines, LiveTable
from reasonkit.engines import Sampling
from reasonkit.evaluate.samples import Sample, Samples
from reasonkit.evaluate.work import Pair, TaskPlan
from reasonkit.records import Message, Record, Verdict
from reasonkit.tasks import Task


def pair(model: str, had: int = 0) -> Pair:
    """Two items of which each is sampled twice; some of the four samples are there."""
    records = [Record(uid, "s", (Message(role="user", content=uid),), "1", "exact") for uid in "xy"]
    task = Task.model_validate({"name": "sums", "source": "sums"})
    made = Pair(model, model, TaskPlan(task, records, 2, Sampling(10)), Samples())
    for record, number in list(made.missing())[:had]:
        made.samples.add(sample(made, record, number))
    return made


def sample(of: Pair, record: Record, number: int, failure: str | None = None) -> Sample:
    return Sample(of.key(record, number), record.uid, number, "1", "stop", 5, 300, failure=failure)


def test_a_table_shows_every_model_and_task_under_way() -> None:
    table, a, b = LiveTable(), pair("a", had=1), pair("b")
    for each in (a, b):
        table.begins(each.model, [each])
        table.phase(each.model, "sampling")
    (first, *_, last) = a.missing()
    table.sampled(a, sample(a, *first))
    table.judged(a, Verdict.correct("1"))
    table.sampled(a, sample(a, *last, failure="generate: gone"))
    table.sampled(b, sample(b, *next(b.missing())))
    console = Console(width=100, color_system=None)
    with console.capture() as shown:
        console.print(table)
    lines = [line.split() for line in shown.get().splitlines() if line.strip()]
    assert shown.get().lstrip().startswith("a: sampling, b: sampling")
    assert ["a", "sums", "2/4", "100.0", "1"] in lines
    assert ["b", "sums", "1/4", "–"] in lines


def test_speed_is_that_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("reasonkit.cli.eval_live.time.monotonic", lambda: now)
    table, a = LiveTable(), pair("a")
    table.begins("a", [a])
    for _ in range(100):
        now += 1.0
        table.sampled(a, sample(a, *next(a.missing())))
    assert table.speed() == "300 tokens/s"
    now += 15.0
    assert table.speed() == "155 tokens/s", "sixteen replies since that of 31 seconds ago"


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines, a = Lines(), pair("a", had=3)
    lines.begins("a", [a])
    lines.phase("a", "sampling")
    said = capsys.readouterr().err
    assert "a: 1 tasks, 4 samples, 3 of them there already" in said
    assert "a: sampling" in said
