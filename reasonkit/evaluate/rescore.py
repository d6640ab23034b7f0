"""Old replies, judged again: by another grader, or by another version of the same. No model is asked.

The verdicts are added to the folder and stand beside those of other graders; the results are made anew from them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from reasonkit.evaluate.folder import EvaluationDir
from reasonkit.evaluate.results import TaskResult, read_results, results_json
from reasonkit.evaluate.run import judged
from reasonkit.evaluate.samples import GAME, Sample, SampleFile, sample_key
from reasonkit.evaluate.work import rejudged
from reasonkit.records import Record
from reasonkit.rundir import write_json
from reasonkit.verifiers import Grader, Mode

AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Rescored:
    result: TaskResult
    changed: int
    """Replies whose score is not what the same grader said before; 0 where it had said nothing."""


async def rescore(folder: EvaluationDir, mode: Mode, tell: Callable[[int], None]) -> list[Rescored]:
    """Judge every reply of an evaluation by `mode` and write the results. `tell` hears of each verdict."""
    old = read_results(folder.path)
    done: list[Rescored] = []
    async with Grader(mode=mode) as grader:
        for result in old:
            done.append(await _rescore_pair(folder, result, grader, tell))
    write_json(folder.results, results_json([each.result for each in done]))
    return done


async def _rescore_pair(
    folder: EvaluationDir, result: TaskResult, grader: Grader, tell: Callable[[int], None]
) -> Rescored:
    records = {record.uid: record for record in folder.read_records(result.task)}
    pair = folder.pair(result.model, result.task)
    changed = 0
    with SampleFile(pair) as file:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(record: Record, sample: Sample) -> None:
            nonlocal changed
            async with room:
                verdict = await judged(grader, record, sample.text)
            before = sample.verdicts.get(grader.mode)
            changed += before is not None and before.score != verdict.score
            file.judge(sample.key, grader.mode, verdict)
            tell(1)

        async with asyncio.TaskGroup() as tasks:
            for item in result.items:
                for number in range(result.k):
                    sample = file.by_key.get(sample_key(item["key"], number))
                    if sample is not None and sample.failure is None and GAME not in sample.verdicts:
                        tasks.create_task(one(records[item["uid"]], sample))
        again = rejudged(result, file, grader.mode)
    write_json(pair / "results.json", again.as_json())
    return Rescored(again, changed)
