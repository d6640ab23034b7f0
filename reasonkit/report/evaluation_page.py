"""The page about evaluations: the table, scores with intervals, paired differences, and every reply to look at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from reasonkit.errors import UsageError
from reasonkit.evaluate.compare import Comparison, compare
from reasonkit.evaluate.samples import Sample, read_samples, sample_key
from reasonkit.evaluate.table import COLUMNS, rows, warnings
from reasonkit.report.charts import COLOURS
from reasonkit.report.evaluation import Bars, Source, models_of, tasks_of
from reasonkit.report.page import chart_data, fill, in_words
from reasonkit.report.samples import OF_GROUP, Packed, Row, SampleSet, pack
from reasonkit.report.series import Chart

OF_REPLY = (
    "sample", "text", "turns", "score", "reason", "answer", "finish_reason", "length", "seconds", "failure",
)  # fmt: skip


def render_evaluation(
    title: str, sources: Sequence[Source], bars: Sequence[Bars], charts: Sequence[Chart], replies: Packed
) -> str:
    """The page as text."""
    results = [source.result for source in sources]
    models, tasks = models_of(sources), tasks_of(sources)
    compared, notes = comparisons(sources)
    return fill(
        "evaluation",
        {
            "charts": [chart_data(chart, models) for chart in charts],
            "models": models,
            "tasks": tasks,
            "ofGroup": OF_GROUP,
            "ofRollout": OF_REPLY,
        },
        title=title,
        models=[(model, COLOURS[index % len(COLOURS)]) for index, model in enumerate(models)],
        several_models=len(models) > 1,
        several_tasks=len(tasks) > 1,
        columns=COLUMNS,
        rows=list(rows(results)),
        warnings=[*warnings(results), *notes],
        bars=bars,
        charts=[(chart, in_words(chart, models)) for chart in charts],
        comparisons=compared,
        environments=[(str(each.path), list(_facts(each.read_about()))) for each in _folders(sources)],
        filters=[("model", "model", len(models) == 1), ("task", "task", len(tasks) == 1)],
        samples=replies,
    )


def pack_replies(sources: Sequence[Source], room: int) -> Packed:
    """The replies that fit into `room` characters of page."""
    models, tasks = models_of(sources), tasks_of(sources)
    sets = [
        SampleSet(
            {"model": models.index(source.result.model), "task": tasks.index(source.result.task)},
            source.result.drawn,
            partial(_read_replies, source),
        )
        for source in sources
        if source.folder is not None and source.result.items
    ]
    return pack(sets, room, sum(source.result.n * source.result.k for source in sources), OF_REPLY)


def comparisons(sources: Sequence[Source]) -> tuple[list[Comparison], list[str]]:
    """Every later model against the first, on the tasks that both were asked; and why one is not compared."""
    results = [
        [source.result for source in sources if source.result.model == model] for model in models_of(sources)
    ]
    made: list[Comparison] = []
    notes: list[str] = []
    for other in results[1:]:
        if {result.task for result in other} & {result.task for result in results[0]}:
            try:
                made.append(compare(other, results[0]))
            except UsageError as error:
                notes.append(f"{other[0].model} is not compared with {results[0][0].model}: {error.message}")
    return made, notes


def _folders(sources: Sequence[Source]) -> list[Any]:
    return list(dict.fromkeys(source.folder for source in sources if source.folder is not None))


def _read_replies(source: Source) -> list[Row]:
    assert source.folder is not None
    result = source.result
    samples = read_samples(source.folder.pair(source.kept_as, result.task))
    records = {record.uid: record for record in source.folder.read_records(result.task)}
    found: list[Row] = []
    for item in result.items:
        record = records[item["uid"]]
        about = {
            "uid": item["uid"],
            "prompt": "\n\n".join(message["content"] for message in record.prompt),
            "gold": record.answer if isinstance(record.answer, str) else json.dumps(record.answer),
        }
        for number in range(result.k):
            sample = samples.get(sample_key(item["key"], number))
            if sample is not None:
                found.append({**about, **_reply(sample, result.grader)})
    return found


def _reply(sample: Sample, grader: Any) -> dict[str, Any]:
    verdict = sample.verdict(grader)
    failed = "failed" if sample.failure is not None else "not judged"
    return {
        "sample": sample.number,
        "text": sample.text,
        "turns": sample.turns,
        "status": str(verdict.status) if verdict else failed,
        "score": verdict.score if verdict else None,
        "reward": verdict.score if verdict and not verdict.status.is_failure else None,
        "reason": verdict.reason if verdict else "",
        "answer": verdict.answer if verdict else None,
        "finish_reason": sample.finish_reason,
        "length": sample.completion_tokens,
        "seconds": sample.seconds,
        "failure": sample.failure,
    }


def _facts(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in about.items():
        if value not in (None, "", [], {}):
            yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
