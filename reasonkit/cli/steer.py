"""`reasonkit steer`: guide a TaskLLM between code and text, and make training data of how that went.

`run` measures, `collect` also tries other ways where an attempt failed and writes demonstrations, `pairs` makes
preferences of what was collected, without any model.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reasonkit.cli.output import JsonFlag, emit_json, print_table, progress, say
from reasonkit.errors import PartlyDone, Stopped, UsageError

if TYPE_CHECKING:
    from reasonkit.engines import Chat
    from reasonkit.engines.http_cache import ReplyCache
    from reasonkit.engines.http_ledger import Ledger, Price
    from reasonkit.models import FoundModel
    from reasonkit.records import Record
    from reasonkit.steer.guide import Plan
    from reasonkit.steer.trajectories import Trajectory

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)

DEMONSTRATIONS, PREFERENCES = "sft.parquet", "pairs.jsonl"


class SplitName(StrEnum):
    TRAIN = "train"
    TEST = "test"


RecordsArgument = Annotated[
    str, typer.Argument(help="A record file, a built set, or a source (with --limit).", metavar="RECORDS")
]
SteererOption = Annotated[
    str,
    typer.Option(
        help="The model that guides: openai:NAME, openai:NAME@URL, RUN, hf:PATH, …", metavar="MODEL"
    ),
]
TaskOption = Annotated[str, typer.Option(help="The model that is guided, the TaskLLM.", metavar="MODEL")]
CheckerOption = Annotated[
    str | None, typer.Option(help="A model that writes programs which check answers.", metavar="MODEL")
]
ExtractorOption = Annotated[
    str | None, typer.Option(help="A model that states the final answer for the verifier.", metavar="MODEL")
]
OutOption = Annotated[Path, typer.Option(help="The folder of attempts; the same command goes on with it.")]
LimitOption = Annotated[int | None, typer.Option(help="Only the first so many records.", min=1)]
SplitOption = Annotated[SplitName, typer.Option(help="Which split of a set.")]
TurnsOption = Annotated[int, typer.Option(help="Answers that the TaskLLM may give.", min=1)]
SamplesOption = Annotated[int, typer.Option("-n", "--samples", help="Attempts a record.", min=1)]
MaxTokensOption = Annotated[int, typer.Option(help="Of one reply of the TaskLLM.", min=1)]
ShowOutputOption = Annotated[
    bool, typer.Option("--show-output", help="Show the TaskLLM what its own programs printed.")
]
SeedOption = Annotated[int, typer.Option(help="Decides the steerer's draws.")]
ConcurrencyOption = Annotated[int, typer.Option(help="Attempts under way at once.", min=1)]
DeadlineOption = Annotated[float, typer.Option(help="Seconds that one attempt may take.", min=1)]
PriceOption = Annotated[
    list[str] | None,
    typer.Option(metavar="MODEL=IN,OUT", help="Dollars per million tokens of an API's model."),
]
MaxCostOption = Annotated[float | None, typer.Option(help="Stop before the APIs cost more dollars.", min=0.0)]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Ask APIs anew, whatever they replied to the same request before.")
]


@app.callback()
def steer() -> None:
    """Guide a TaskLLM between writing code and reasoning in text."""


@dataclass(frozen=True, slots=True)
class _Setup:
    """What both `run` and `collect` are told."""

    records: str
    steerer: str
    task: str
    checker: str | None
    extractor: str | None
    out: Path
    limit: int | None
    split: SplitName
    turns: int
    max_tokens: int
    show_output: bool
    prices: list[str]
    max_cost: float | None
    cache: bool


@app.command()
def run(
    records: RecordsArgument,
    steerer: SteererOption,
    task: TaskOption,
    out: OutOption,
    checker: CheckerOption = None,
    extractor: ExtractorOption = None,
    samples: SamplesOption = 1,
    temperature: Annotated[float, typer.Option(help="Of the steerer; 0 is greedy.", min=0.0)] = 0.0,
    turns: TurnsOption = 5,
    max_tokens: MaxTokensOption = 2000,
    show_output: ShowOutputOption = False,
    limit: LimitOption = None,
    split: SplitOption = SplitName.TEST,
    seed: SeedOption = 0,
    concurrency: ConcurrencyOption = 32,
    deadline: DeadlineOption = 1800.0,
    price: PriceOption = None,
    max_cost: MaxCostOption = None,
    no_cache: NoCacheOption = False,
    json_: JsonFlag = False,
) -> None:
    """Guide the TaskLLM through records and say how many it then solves.

    Example:

      reasonkit steer run rg:letter_counting --limit 100 --steerer openai:A --task local:B --out steered
    """
    from reasonkit.steer.guide import Plan

    setup = _Setup(
        records, steerer, task, checker, extractor, out, limit, split, turns, max_tokens, show_output,
        price or [], max_cost, not no_cache,
    )  # fmt: skip
    plan = Plan(samples, 0, temperature, seed, deadline, concurrency)
    trajectories, figures = _guide(setup, plan)
    _show(figures, json_)
    _complain(trajectories, figures, len(trajectories), setup)


@app.command()
def collect(
    records: RecordsArgument,
    steerer: SteererOption,
    task: TaskOption,
    out: OutOption,
    checker: CheckerOption = None,
    extractor: ExtractorOption = None,
    samples: SamplesOption = 4,
    branches: Annotated[
        int,
        typer.Option(help="Other ways tried from each turn of a failed attempt, until one succeeds.", min=0),
    ] = 4,
    temperature: Annotated[float, typer.Option(help="Of the steerer.", min=0.0)] = 1.0,
    turns: TurnsOption = 5,
    max_tokens: MaxTokensOption = 2000,
    show_output: ShowOutputOption = False,
    limit: LimitOption = None,
    split: SplitOption = SplitName.TRAIN,
    seed: SeedOption = 0,
    concurrency: ConcurrencyOption = 32,
    deadline: DeadlineOption = 1800.0,
    price: PriceOption = None,
    max_cost: MaxCostOption = None,
    no_cache: NoCacheOption = False,
    json_: JsonFlag = False,
) -> None:
    """Collect attempts, and write what led to right answers as demonstrations (sft.parquet).

    Example:

      reasonkit steer collect train.parquet --steerer openai:A --task openai:B --out collected --max-cost 20
    """
    from reasonkit.data.files import write_records
    from reasonkit.steer.guide import Plan
    from reasonkit.steer.training import demonstrations

    setup = _Setup(
        records, steerer, task, checker, extractor, out, limit, split, turns, max_tokens, show_output,
        price or [], max_cost, not no_cache,
    )  # fmt: skip
    plan = Plan(samples, branches, temperature, seed, deadline, concurrency)
    trajectories, figures = _guide(setup, plan)
    figures["demonstrations"] = write_records(demonstrations(trajectories), out / DEMONSTRATIONS)
    _show(figures, json_)
    say(
        f"{figures['demonstrations']} demonstrations in {out / DEMONSTRATIONS}; next: reasonkit steer pairs {out}"
    )
    _complain(trajectories, figures, len(trajectories), setup)


@app.command()
def pairs(
    folder: Annotated[Path, typer.Argument(help="What `steer collect` wrote.", metavar="FOLDER")],
    margin: Annotated[
        float,
        typer.Option(help="How much more the chosen guidance must be worth; a turn is worth 1.", min=0.0),
    ] = 1.0,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; FOLDER/pairs.jsonl unless given.", show_default=False)
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Make preferences of collected attempts: at the same place, the guidance that led to more beside the others.

    Example:

      reasonkit steer pairs collected --margin 2
    """
    from reasonkit.rundir import atomic_file
    from reasonkit.steer.training import preferences
    from reasonkit.steer.trajectories import read_trajectories

    target = out or folder / PREFERENCES
    attempts = list(read_trajectories(folder))
    written = 0
    with atomic_file(target) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for row in preferences(attempts, margin):
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    if json_:
        emit_json({"attempts": len(attempts), "pairs": written, "file": str(target)})
        return
    print_table(("attempts", "pairs", "file"), [(str(len(attempts)), str(written), str(target))])


def _guide(setup: _Setup, plan: Plan) -> tuple[list[Trajectory], dict[str, Any]]:
    """Make what attempts the folder lacks, and write its summary."""
    from reasonkit.data.dataset import open_records
    from reasonkit.engines.http_ledger import Ledger, parse_prices
    from reasonkit.models import find_model
    from reasonkit.rundir import write_json
    from reasonkit.steer.guide import summary
    from reasonkit.steer.trajectories import RESULTS

    found, where = open_records(setup.records, setup.split.value, setup.limit)
    records = list(found)
    _refuse_repeated(records)
    names = {
        "steerer": setup.steerer,
        "task": setup.task,
        "checker": setup.checker,
        "extractor": setup.extractor,
    }
    models = {role: find_model(name) for role, name in names.items() if name is not None}
    ledger, prices = Ledger(setup.max_cost), parse_prices(setup.prices)
    say(f"{len(records)} records: {where}")
    try:
        trajectories = asyncio.run(_attempts(setup, plan, records, models, ledger, prices))
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, "stopped by Ctrl-C", "run the same command again to go on") from None
    figures = summary(trajectories, ledger)
    write_json(setup.out / RESULTS, figures)
    say(ledger.in_words())
    return trajectories, figures


async def _attempts(
    setup: _Setup,
    plan: Plan,
    records: list[Record],
    models: Mapping[str, FoundModel],
    ledger: Ledger,
    prices: Mapping[str, Price],
) -> list[Trajectory]:
    from reasonkit.engines.http_cache import ReplyCache, default_cache
    from reasonkit.steer.env import Roles
    from reasonkit.steer.guide import Guide
    from reasonkit.steer.trajectories import Folder
    from reasonkit.verifiers import Grader

    cache = ReplyCache(default_cache()) if setup.cache else None
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(Folder(setup.out, _identity(setup, plan, models)))
        grader = await stack.enter_async_context(Grader())
        grader.check(records)
        chats = await _open(models, stack, ledger, prices, cache, plan.in_flight)
        roles = Roles(
            chats["task"],
            await grader.sandbox(),
            chats.get("checker"),
            chats.get("extractor"),
            setup.turns,
            setup.max_tokens,
            setup.show_output,
        )
        guide = Guide(chats["steerer"], roles, grader, plan, folder, ledger)
        with progress("guiding", len(records) * plan.samples) as advance:
            return await guide.all(records, lambda: advance(1))


async def _open(
    models: Mapping[str, FoundModel],
    stack: AsyncExitStack,
    ledger: Ledger,
    prices: Mapping[str, Price],
    cache: ReplyCache | None,
    in_flight: int,
) -> dict[str, Chat]:
    """Each role's model; one that plays two roles is opened once."""
    from reasonkit.engine_chat import open_as_chat

    opened: dict[str, Chat] = {}
    for found in models.values():
        if found.identity not in opened:
            opened[found.identity] = await stack.enter_async_context(
                open_as_chat(found, ledger=ledger, prices=prices, cache=cache, in_flight=in_flight)
            )
    return {role: opened[found.identity] for role, found in models.items()}


def _identity(setup: _Setup, plan: Plan, models: Mapping[str, FoundModel]) -> dict[str, Any]:
    """What decides an attempt. More records, samples or branches only add to a folder."""
    return {
        **{role: found.identity for role, found in models.items()},
        "turns": setup.turns,
        "max_tokens": setup.max_tokens,
        "show_output": setup.show_output,
        "temperature": plan.temperature,
        "seed": plan.seed,
    }


def _refuse_repeated(records: list[Record]) -> None:
    seen: set[str] = set()
    for record in records:
        if record.uid in seen:
            raise UsageError(f"two records have the uid '{record.uid}'", "reasonkit data dedup FILE")
        seen.add(record.uid)


def _show(figures: Mapping[str, Any], json_: bool) -> None:
    if json_:
        emit_json(figures)
        return

    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    rows = [
        (
            name, str(each["attempts"]), str(each["solved"]), number(each["score"], ".3f"),
            str(each["no_answer"]), str(each["failed"]), number(each["guidance_turns"], ".2f"),
            number(each["programs"], ".0%"),
        )
        for name, each in [*figures["sources"].items(), ("all", figures["all"])]
    ]  # fmt: skip
    print_table(
        ("source", "attempts", "solved", "score", "no answer", "failed", "turns", "with a program"), rows
    )


def _complain(trajectories: list[Trajectory], figures: Mapping[str, Any], made: int, setup: _Setup) -> None:
    """Exit 3 where something is missing."""
    refused = figures["usage"]["failed"].get("max-cost", 0)
    if refused:
        raise PartlyDone(
            f"stopped at --max-cost {setup.max_cost:g} after {made} attempts",
            "raise it and run the same command again: what is there is kept",
        )
    failures = [each.failure for each in trajectories if each.failure is not None]
    if failures:
        raise PartlyDone(
            f"{len(failures)} of {made} attempts failed; the first: {failures[0]}",
            "run the same command again: only those are made again",
        )
