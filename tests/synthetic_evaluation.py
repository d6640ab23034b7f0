"""The folder of an evaluation as `eval` leaves it, made up from a seed: for tests and benchmarks."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from reasonkit.engines import Sampling
from reasonkit.evaluate.folder import EvaluationDir
from reasonkit.evaluate.results import results_json
from reasonkit.evaluate.samples import Sample, SampleFile
from reasonkit.evaluate.work import Pair, TaskPlan
from reasonkit.records import Message, Record, Verdict
from reasonkit.rundir import write_json
from reasonkit.tasks import Task

RATES = {"small": 0.3, "large": 0.8}


def write_evaluation(
    path: Path,
    *,
    models: Mapping[str, float] = RATES,
    tasks: int = 3,
    items: int = 40,
    k: int = 2,
    words: int = 5,
    seed: int = 0,
) -> EvaluationDir:
    """Models with the chance that each is right. `words` lengthens each reply by so many."""
    folder = EvaluationDir(path)
    folder.claim({model: f"identity-{model}" for model in models}, {"version": "0", "platform": "Linux"})
    results = []
    plans = [_plan(f"task{number}", items, k) for number in range(tasks)]
    for plan in plans:
        folder.keep_records(plan.name, plan.records)
    for model, rate in models.items():
        for plan in plans:
            generator = random.Random(f"{seed} {model} {plan.name}")
            with SampleFile(folder.pair(model, plan.name)) as file:
                pair = Pair(model, f"identity-{model}", plan, file)
                for record, number in list(pair.missing()):
                    _answer(pair, record, number, rate, words, generator)
                results.append(pair.result("strict"))
            write_json(folder.pair(model, plan.name) / "results.json", results[-1].as_json())
    write_json(folder.results, results_json(results))
    return folder


def _plan(name: str, items: int, k: int) -> TaskPlan:
    records = [
        Record(
            f"{name}-{number}",
            "synthetic",
            (Message(role="user", content=f"{name}: what is {number} + 1? <b>&amp; why</b>"),),
            str(number + 1),
            "exact",
            {"level": number % 3},
        )
        for number in range(items)
    ]
    task = Task.model_validate({"name": name, "source": "synthetic", "breakdown": ["level"], "k": k})
    return TaskPlan(task, records, k, Sampling(1000))


def _answer(
    pair: Pair, record: Record, number: int, rate: float, words: int, generator: random.Random
) -> None:
    padding = " ".join(str(generator.randint(0, 9999)) for _ in range(generator.randint(1, 2 * words)))
    right = generator.random() < rate - 0.1 * record.metadata["level"]
    text = f"{padding} so {record.answer if right else 'nothing'}"
    key = pair.key(record, number)
    failed = generator.random() < 0.01
    failure = "generate: the server is gone" if failed else None
    said, ended = ("", "abort") if failed else (text, "stop")
    pair.samples.add(
        Sample(key, record.uid, number, said, ended, 12, len(said.split()), 0.5, failure=failure)  # type: ignore[arg-type]
    )
    if not failed:
        verdict = (
            Verdict.correct(record.answer) if right else Verdict.wrong("nothing", "nothing is not right")
        )
        pair.samples.judge(key, "strict", verdict)
