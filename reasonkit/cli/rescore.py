"""`reasonkit rescore`: a new grader on old replies, and both graders' scores side by side."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reasonkit.cli.eval import GraderName
from reasonkit.cli.output import JsonFlag, emit_json, print_table, progress, say
from reasonkit.errors import PartlyDone

if TYPE_CHECKING:
    from reasonkit.evaluate.rescore import Rescored

NOTHING = "–"


def rescore(
    evaluation: Annotated[Path, typer.Argument(help="The folder of an evaluation.", metavar="EVALUATION")],
    grader: Annotated[
        GraderName, typer.Option(help="`reasoning360` scores as the published grader did, quirks included.")
    ] = GraderName.STRICT,
    json_: JsonFlag = False,
) -> None:
    """Judge an evaluation's old replies again, without any model.

    Examples:

      reasonkit rescore evals/mine

      reasonkit rescore evals/mine --grader reasoning360
    """
    from reasonkit.evaluate.folder import EvaluationDir
    from reasonkit.evaluate.rescore import rescore as judge_again
    from reasonkit.evaluate.results import read_results, results_json

    folder = EvaluationDir(evaluation)
    folder.read_about()
    total = sum(result.drawn for result in read_results(evaluation))
    with progress("judging", total) as tell:
        done = asyncio.run(judge_again(folder, grader.value, tell))
    if json_:
        changed = {f"{each.result.model}, {each.result.task}": each.changed for each in done}
        emit_json({**results_json([each.result for each in done]), "changed": changed})
    else:
        print_table(
            ("model", "task", "n × k", "strict", "reasoning360", "changed"), [_row(each) for each in done]
        )
    missing = sum(each.result.drawn - each.result.judged for each in done)
    if missing:
        raise PartlyDone(
            f"{missing} replies could not be judged; they are left out of the scores",
            f"their verdicts say why: grep '\"error\"' {folder.path}/*/*/verdicts.jsonl",
        )
    say(f"the results are in {folder.results}")


def _row(each: Rescored) -> tuple[str, ...]:
    from reasonkit.evaluate.table import score_words

    result = each.result
    scores = (result.scores.get(name.value) for name in (GraderName.STRICT, GraderName.REASONING360))
    return (
        result.model,
        result.task,
        f"{result.n:,} × {result.k}",
        *(score_words(found.score) if found else NOTHING for found in scores),
        f"{each.changed:,}",
    )
