"""`reasonkit compare`: two evaluated models on the same items, with the items on which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reasonkit.cli.output import JsonFlag, emit_json, print_table, say
from reasonkit.errors import UsageError

if TYPE_CHECKING:
    from reasonkit.evaluate.compare import Comparison, TaskComparison
    from reasonkit.evaluate.results import TaskResult


def compare(
    evaluations: Annotated[
        list[str],
        typer.Argument(
            help="Two evaluations (folders or results files) of one model each, or one that holds both models.",
            metavar="A [B]",
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Which model of A, then which of B, where there are several."),
    ] = None,
    flips: Annotated[int, typer.Option(help="Items to list a task and direction; 0 lists none.", min=0)] = 5,
    json_: JsonFlag = False,
) -> None:
    """Say whether A is better than B, task by task, on the same items, and on which items they differ.

    Examples:

      reasonkit compare evals/after evals/before

      reasonkit compare evals/both -m mine@60 -m warm
    """
    from reasonkit.evaluate.compare import as_json
    from reasonkit.evaluate.compare import compare as compare_results

    a, b = _sides(evaluations, model or [])
    comparison = compare_results(a, b)
    if json_:
        emit_json(as_json(comparison))
        return
    _print(comparison)
    for task in comparison.tasks:
        if task.unpaired:
            say(f"{task.task}: {task.unpaired} items that only one of the two was asked are left out")
        _print_flips(comparison, task, flips)


def _print_flips(comparison: Comparison, task: TaskComparison, most: int) -> None:
    for better, worse, a_wins in ((comparison.a, comparison.b, True), (comparison.b, comparison.a, False)):
        found = [flip for flip in task.flips if (flip.a > flip.b) is a_wins]
        for flip in found[:most]:
            high, low = max(flip.a, flip.b), min(flip.a, flip.b)
            say(f"{task.task}: {better} better than {worse} on {flip.uid} ({high:.2f} against {low:.2f})")
        if len(found) > most > 0:
            say(f"{task.task}: … and on {len(found) - most} more (--flips, --json)")


def _sides(names: Sequence[str], wanted: Sequence[str]) -> tuple[list[TaskResult], list[TaskResult]]:
    from reasonkit.evaluate.results import read_results

    if len(names) > 2:
        raise UsageError(
            f"{len(names)} evaluations are named, and two are compared", "reasonkit report A B C"
        )
    if len(names) == 1:
        results = read_results(Path(names[0]).expanduser())
        models = list(wanted) or list(dict.fromkeys(result.model for result in results))
        if len(models) != 2:
            raise UsageError(
                f"{names[0]} holds {len(models)} models ({', '.join(models)}), and two are compared",
                "-m A -m B, or two evaluations",
            )
        return _of(results, models[0], names[0]), _of(results, models[1], names[0])
    sides = []
    for position, name in enumerate(names):
        results = read_results(Path(name).expanduser())
        models = list(dict.fromkeys(result.model for result in results))
        if not wanted and len(models) > 1:
            raise UsageError(
                f"{name} holds several models: {', '.join(models)}", "-m MODEL_OF_A -m MODEL_OF_B"
            )
        if wanted and len(wanted) != 2:
            raise UsageError(
                f"{len(wanted)} models are named, and two are compared", "-m MODEL_OF_A -m MODEL_OF_B"
            )
        sides.append(_of(results, wanted[position] if wanted else models[0], name))
    return sides[0], sides[1]


def _of(results: Sequence[TaskResult], model: str, where: str) -> list[TaskResult]:
    found = [result for result in results if result.model == model]
    if not found:
        known = ", ".join(dict.fromkeys(result.model for result in results))
        raise UsageError(f"{where} holds no model '{model}'", f"it holds {known}")
    return found


def _print(comparison: Comparison) -> None:
    rows = [_row(task) for task in comparison.tasks]
    if comparison.suite is not None:
        suite = comparison.suite
        rows.append(
            ("mean of tasks", str(suite.n), "", "", _points(suite.mean, suite.low, suite.high), *[""] * 5)
        )
    print_table(
        ("task", "items", comparison.a, comparison.b, "A − B, 95 %", "p", "p, all tasks", "test", "better / worse",
         "detectable"),
        rows,
    )  # fmt: skip
    say("p, all tasks: adjusted by Holm for the number of tasks. detectable: the smallest true difference that so "
        "many items show four times in five.")  # fmt: skip


def _row(task: TaskComparison) -> tuple[str, ...]:
    difference = task.difference
    return (
        task.task,
        str(difference.n),
        f"{100 * task.a:.1f}",
        f"{100 * task.b:.1f}",
        _points(difference.mean, difference.low, difference.high),
        _p(difference.p),
        _p(task.holm_p),
        difference.test,
        f"{difference.better} / {difference.worse}",
        f"{100 * task.detectable:.1f}",
    )


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _points(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
