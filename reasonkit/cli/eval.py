"""`reasonkit eval`: tasks × models into a folder that the same command goes on with, however it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reasonkit.cli.output import JsonFlag, emit_json, print_table, say
from reasonkit.cli.stopping import run_until_stopped
from reasonkit.errors import PartlyDone, ReasonkitError, UsageError

if TYPE_CHECKING:
    from reasonkit.evaluate.folder import EvaluationDir
    from reasonkit.evaluate.run import Evaluated, Options
    from reasonkit.evaluate.work import TaskPlan
    from reasonkit.models import FoundModel
    from reasonkit.placement import Places

EVALUATIONS = Path("evals")


GpusOption = Annotated[
    str | None,
    typer.Option(help="How many GPUs to use, or which of this machine (0-3,6); default all.", metavar="N"),
]
TpOption = Annotated[int, typer.Option(help="GPUs that share one copy of a model (vLLM).", min=1)]
EnginesOption = Annotated[
    int | None,
    typer.Option(
        help="Processes that sample side by side; default one for every --tp GPUs, without a GPU one.", min=1
    ),
]


class GraderName(StrEnum):
    STRICT = "strict"
    REASONING360 = "reasoning360"


def evaluate(  # long: an option a line
    tasks: Annotated[
        list[str],
        typer.Argument(
            help="Tasks, suites, data sets or YAML files; aime24:32 sets the samples an item.", metavar="TASK..."
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="MODEL",
            help="RUN, RUN@STEP, a folder, hf:…, vllm:…, openai:NAME@URL, …; may be given often. Default: the best "
            "checkpoint of the newest run.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder; default ./evals/MODELS.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many items of each task.", min=1)] = None,
    ids: Annotated[str | None, typer.Option(help="Only these items: uids, comma-separated.")] = None,
    k: Annotated[int | None, typer.Option(help="Samples an item; default the task's own.", min=1)] = None,
    pass_at: Annotated[int | None, typer.Option(help="The k of pass@k; default all samples.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Decides every draw, and which items generated tasks have.")] = 0,
    preset: Annotated[str | None, typer.Option(help="Sampling: guru, greedy, reason_io.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Overrides the preset; 0 is greedy.", min=0.0)] = None,
    top_p: Annotated[float | None, typer.Option(help="Overrides the preset.", min=0.0, max=1.0)] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of a reply; overrides task and preset.", min=1)] = None,
    grader: Annotated[
        GraderName, typer.Option(help="`reasoning360` scores as the published grader did, quirks included.")
    ] = GraderName.STRICT,
    concurrency: Annotated[
        int | None, typer.Option(help="Replies sampled at once; default 256, over HTTP 64.", min=1)
    ] = None,
    gpus: GpusOption = None,
    tp: TpOption = 1,
    engines: EnginesOption = None,
    price: Annotated[
        list[str] | None, typer.Option(metavar="MODEL=IN,OUT", help="Dollars per million tokens of an API's model.")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="Stop before the APIs cost more dollars.", min=0.0)] = None,
    fail_on_error: Annotated[
        float,
        typer.Option(help="Give a model up when more than this fraction of its samples fails.", min=0, max=1)
    ] = 0.1,
    offline: Annotated[bool, typer.Option("--offline", help="Use only data and models of this machine.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sampled and what it could show; load no model.")
    ] = False,
    json_: JsonFlag = False,
) -> None:  # fmt: skip
    """Evaluate models on tasks. The same command again goes on where it stopped.

    Examples:

      reasonkit eval aime24:32 math500 -m runs/mine -m hf:Qwen/Qwen2.5-7B

      reasonkit eval guru17 -m vllm:models/mine --limit 100 --gpus 8 --tp 2 --dry-run

      reasonkit eval gsm8k -m openai:NAME@http://localhost:8000/v1
    """
    from reasonkit.engines.http_ledger import parse_prices
    from reasonkit.evaluate.folder import EvaluationDir
    from reasonkit.evaluate.run import Options
    from reasonkit.models import distinct, find_model
    from reasonkit.placement import find_places

    options = Options(
        grader=grader.value,
        concurrency=concurrency,
        most_failed=fail_on_error,
        prices=parse_prices(price or []),
        max_cost=max_cost,
    )
    names = model or [_newest()]
    found = distinct([find_model(name, offline=offline) for name in names])
    places = find_places(gpus, tp, engines, found)
    changes = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    plans = _plans(tasks, limit, ids, k, pass_at, seed, preset, changes, offline)
    _warn_of_leaks(names, plans)
    folder = EvaluationDir(out or EVALUATIONS / "+".join(each.label for each in found))
    models, places = _share(found, plans, folder, places)
    if dry_run:
        _dry_run(models, plans, folder, concurrency, places, json_)
        return
    done = _carry_out(models, plans, folder, options, places)
    _show(done, folder, json_)


def _newest() -> str:
    from reasonkit.models import newest_checkpoint

    name = newest_checkpoint()
    say(f"no model is named (-m): evaluating {name}, the best checkpoint of the newest run")
    return name


def _warn_of_leaks(names: Sequence[str], plans: Sequence[TaskPlan]) -> None:
    """A word where a run was trained on what it is now asked."""
    from reasonkit.data.contamination import leaks_of_run
    from reasonkit.engines.names import parse_model
    from reasonkit.rundir import locate_run

    for name in names:
        run = locate_run(parse_model(name).name)
        if run is None:
            continue
        try:
            for leak in leaks_of_run(run, {plan.name: plan.records for plan in plans}):
                say(f"warning: {run.path}: {leak}")
        except ReasonkitError as error:  # its data has gone, or its recipe is another version's
            say(f"warning: the training data of {run.path} is not compared with the tasks: {error.message}")


def _plans(
    tasks: Sequence[str],
    limit: int | None,
    ids: str | None,
    k: int | None,
    pass_at: int | None,
    seed: int,
    preset: str | None,
    changes: dict[str, Any],
    offline: bool,
) -> list[TaskPlan]:
    from reasonkit.data.evaluation_sets import open_task, pins
    from reasonkit.evaluate.work import TaskPlan
    from reasonkit.tasks import expand

    wanted = None if ids is None else [uid.strip() for uid in ids.split(",")]
    there: dict[str, None] = {}
    given = {name: value for name, value in changes.items() if value is not None}
    plans: list[TaskPlan] = []
    for ref in expand(tasks):
        records = open_task(ref, limit=limit if wanted is None else None, seed=seed, offline=offline)
        if wanted is not None:
            there |= dict.fromkeys(record.uid for record in records)
            records = [record for record in records if record.uid in wanted][:limit]
        if not records:
            continue
        sampling = replace(ref.task.sampled_as(preset), **given)
        samples = k or ref.k
        if pass_at is not None and pass_at > samples:
            raise UsageError(
                f"pass@{pass_at} cannot be estimated from {samples} samples an item, as {ref.name} has",
                f"--k {pass_at}, or --pass-at {samples}",
            )
        plans.append(TaskPlan(ref.task, records, samples, sampling, seed, pass_at, pins(ref), ref.suite))
    unknown = [uid for uid in wanted or () if uid not in there]
    if unknown:
        raise UsageError(
            f"none of the tasks has an item called {', '.join(unknown)}",
            f"--ids {next(iter(there))}, or another of {len(there):,}: samples.jsonl and results.json name them",
        )
    return plans


def _dry_run(
    models: Sequence[FoundModel],
    plans: Sequence[TaskPlan],
    folder: EvaluationDir,
    concurrency: int | None,
    places: Places,
    json_: bool,
) -> None:
    from reasonkit.evaluate.dryrun import dry_run

    rows = dry_run(models, plans, folder, concurrency, places.on_gpus)
    if json_:
        emit_json([asdict(row) for row in rows])
        return
    print_table(
        (
            "model",
            "task",
            "items × k",
            "to sample",
            "prompt tokens",
            "reply tokens, at most",
            "detectable",
            "where",
        ),
        [
            (
                row.model,
                row.task,
                f"{row.items:,} × {row.k}",
                f"{row.missing:,}",
                f"~{row.prompt_tokens:,}",
                f"{row.most_tokens:,}",
                f"{100 * row.detectable:.1f} points",
                row.placement,
            )
            for row in rows
        ],
    )
    say(
        "detectable: the smallest true difference between two models that these items would show four times in "
        "five, for models that are right about half of the time"
    )


def _share(
    models: Sequence[FoundModel], plans: Sequence[TaskPlan], folder: EvaluationDir, places: Places
) -> tuple[list[FoundModel], Places]:
    """The models with the engines that each gets: none for those that have all their samples."""
    from reasonkit.evaluate.work import kept
    from reasonkit.placement import Places

    if not places.actors:
        return places.share(models), places
    lacking = [
        found
        for found in models
        if any(next(kept(folder, found, plan).missing(), None) is not None for plan in plans)
    ]
    shared = {found.label: found for found in places.share(lacking)}
    return [shared.get(found.label, found) for found in models], places if shared else Places()


def _carry_out(
    models: Sequence[FoundModel],
    plans: Sequence[TaskPlan],
    folder: EvaluationDir,
    options: Options,
    places: Places,
) -> Evaluated:
    from reasonkit.cli.eval_live import watch
    from reasonkit.evaluate.about import about
    from reasonkit.evaluate.run import evaluate
    from reasonkit.placement import placed

    folder.claim({found.label: found.identity for found in models}, about(models, plans, options))
    with placed(places, folder.logs) as opener, watch() as watcher:
        return run_until_stopped(
            evaluate(models, plans, folder, options, watcher, opener, places.at_once(models)),
            f"every finished sample is in {folder.path}",
        )


def _show(done: Evaluated, folder: EvaluationDir, json_: bool) -> None:
    from reasonkit.evaluate.results import results_json
    from reasonkit.evaluate.table import COLUMNS, rows, warnings
    from reasonkit.report import write_evaluation_report

    write_evaluation_report([folder.path], folder.report)
    if json_:
        emit_json({**results_json(done.results), "folder": str(folder.path), "stopped": done.stopped})
    else:
        print_table(COLUMNS, list(rows(done.results)))
        for line in warnings(done.results):
            say(line)
        say(f"samples and results: {folder.path}   report: {folder.report}")
    missing = sum(result.n * result.k - result.judged for result in done.results)
    if done.stopped or missing:
        raise PartlyDone(
            "\n".join(done.stopped) or f"{missing} samples have no verdict; they are left out of the scores",
            "the same command tries them again: what is finished is kept",
        )
