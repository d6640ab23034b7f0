"""`reasonkit filter`: sample models on a record file and keep what they can learn from. Calls reasonkit.filter."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reasonkit.cli.eval import EnginesOption, GpusOption, TpOption
from reasonkit.cli.output import JsonFlag, emit_json, print_table, say
from reasonkit.errors import PartlyDone, UsageError

if TYPE_CHECKING:
    from reasonkit.evaluate.folder import EvaluationDir
    from reasonkit.evaluate.run import Options
    from reasonkit.evaluate.work import TaskPlan
    from reasonkit.filter.choose import Choice
    from reasonkit.filter.rates import Rates
    from reasonkit.models import FoundModel
    from reasonkit.placement import Places
    from reasonkit.records import Record

DEFAULT_TOKENS = 4096
MANY = 0.01
"""Above this share of replies, being cut is worth a word."""
_LABELLED = re.compile(r"([A-Za-z_]\w*)=(.+)")


class BalanceName(StrEnum):
    SOURCE = "source"
    RATE = "rate"


@dataclass(frozen=True, slots=True)
class _Sampled:
    """One model, what is asked of it, and where its samples are."""

    found: FoundModel
    plan: TaskPlan
    folder: EvaluationDir


def filter_records(  # long: an option a line
    file: Annotated[Path, typer.Argument(help="A record file.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="[LABEL=]MODEL",
            help="One model, or weak=MODEL and strong=MODEL: a run, a folder, hf:…, vllm:…, openai:NAME@URL.",
        ),
    ] = None,
    low: Annotated[float, typer.Option(help="Drop what the (strong) model solves this often or less.")] = 1e-5,
    high: Annotated[float, typer.Option(help="Drop what the (weak) model solves this often or more.")] = 0.9,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Samples a record.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.0)] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.9,
    top_k: Annotated[int, typer.Option(min=0, help="0 keeps every token.")] = 100,
    max_tokens: Annotated[
        list[str] | None,
        typer.Option(metavar="[LABEL=]N", help=f"Of a reply; default {DEFAULT_TOKENS}. LABEL= sets one model's."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides every draw.")] = 0,
    rates: Annotated[
        Path | None, typer.Option(help="Sample nothing: take the rates.jsonl of an earlier run of this file.")
    ] = None,
    drop_inverted: Annotated[
        bool, typer.Option("--drop-inverted", help="Drop what the weak model solves more often than the strong.")
    ] = False,
    max_missing: Annotated[
        float, typer.Option(min=0, max=1, help="The share of a record's samples that may lack a verdict.")
    ] = 0.0,
    max_truncated: Annotated[
        float, typer.Option(min=0, max=1, help="The share of a record's samples that may be cut at --max-tokens.")
    ] = 1.0,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="The longest prompt, in tokens of the last model named.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Of the prompts, as an ISO 639-1 code: en, zh, …")] = None,
    max_same_answer: Annotated[
        int | None, typer.Option(min=1, help="Records of a source that may have one and the same answer.")
    ] = None,
    cap: Annotated[
        list[str] | None, typer.Option(metavar="[SOURCE=]N", help="Records of each source, or of one; repeat it.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Records in all, balanced.")] = None,
    balance: Annotated[
        BalanceName, typer.Option(help="With --size: as many of each source, or of each bin of pass rates.")
    ] = BalanceName.SOURCE,
    out: Annotated[Path | None, typer.Option(help="The kept records; beside FILE unless given.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of samples and rates; else beside FILE.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Replies sampled at once; default 256, over HTTP 64.")
    ] = None,
    gpus: GpusOption = None,
    tp: TpOption = 1,
    engines: EnginesOption = None,
    price: Annotated[
        list[str] | None, typer.Option(metavar="MODEL=IN,OUT", help="Dollars per million tokens of an API's model.")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(min=0.0, help="Stop before the APIs cost more dollars.")] = None,
    fail_on_error: Annotated[
        float, typer.Option(min=0, max=1, help="Give a model up when more than this fraction of its samples fails.")
    ] = 0.1,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch no model.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sampled; load no model.")] = False,
    json_: JsonFlag = False,
) -> None:  # fmt: skip
    """Keep the records that models solve sometimes. The same command again goes on where it stopped.

    Examples:

      reasonkit filter train.parquet -m runs/mine --low 0.1 --high 0.9

      reasonkit filter train.parquet -m weak=vllm:small -m strong=vllm:large --max-tokens strong=32768
    """
    from reasonkit.data.files import read_records
    from reasonkit.engines.http_ledger import parse_prices
    from reasonkit.evaluate.run import Options
    from reasonkit.filter.choose import Rules, choose
    from reasonkit.filter.rates import read_rates, unique
    from reasonkit.placement import find_places
    from reasonkit.recipe import SourceConfig
    from reasonkit.tasks import Task

    models = _labelled(model or [], offline)
    if (rates is None) == (not models):
        raise UsageError("give models to sample (-m), or the rates of an earlier run (--rates)", "-m MODEL")
    target = out or file.with_name(f"{file.stem}.filtered.parquet")
    folder = work or file.with_name(f"{file.stem}.filter")
    caps = _by_label(cap or [], "--cap")
    tokens = _by_label(max_tokens or [], "--max-tokens")
    rules = Rules(
        low=low, high=high, inverted=drop_inverted, most_missing=max_missing, most_truncated=max_truncated,
        most_tokens=max_prompt_tokens, count_tokens=_counter(models, max_prompt_tokens), language=language,
        same_answer=max_same_answer, cap=caps.pop("", None), caps=caps, size=size, balance=balance.value, seed=seed,
    )  # fmt: skip
    records = unique(read_records(file), str(file))
    if rates is not None:
        known: Rates = read_rates(rates, records)
        _finish(choose(records, known, rules), known, target, folder, [], json_)
        return
    options = Options(
        concurrency=concurrency,
        most_failed=fail_on_error,
        prices=parse_prices(price or []),
        max_cost=max_cost,
    )
    task = Task(name="filter", source=(SourceConfig(name=str(file)),), k=n)
    drawn = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    places = find_places(gpus, tp, engines, models)
    shared = [each for found in models for each in places.share([found])]
    sampled = _plans(shared, task, records, drawn, tokens, seed, folder)
    if dry_run:
        _dry_run(sampled, options, places, json_)
        return
    measured, stopped = _measure(sampled, records, options, folder, places)
    _finish(choose(records, measured, rules), measured, target, folder, stopped, json_)


def _labelled(names: Sequence[str], offline: bool) -> list[FoundModel]:
    """The models under their labels. One alone needs none; of several, all need one."""
    from dataclasses import replace

    from reasonkit.filter.choose import roles
    from reasonkit.models import find_model

    models: list[FoundModel] = []
    for name in names:
        match = _LABELLED.fullmatch(name)
        found = find_model(match[2] if match else name, offline=offline)
        models.append(replace(found, label=match[1]) if match else found)
    labels = [found.label for found in models]
    if len(set(labels)) < len(labels):
        raise UsageError(
            f"two models are called the same: {', '.join(labels)}", "-m weak=MODEL -m strong=MODEL"
        )
    if models:
        roles(labels)
    return models


def _by_label(texts: Sequence[str], option: str) -> dict[str, int]:
    """`LABEL=N` and `N` as numbers by label; what has none is under the empty one."""
    found: dict[str, int] = {}
    for text in texts:
        label, _, number = text.rpartition("=")
        if not number.isdecimal() or int(number) < 1:
            raise UsageError(
                f"{option} '{text}' is no number above 0", f"{option} 100, or {option} LABEL=100"
            )
        found[label] = int(number)
    return found


def _counter(models: Sequence[FoundModel], most: int | None) -> Callable[[Record], int] | None:
    if most is None:
        return None
    if not models or models[-1].folder is None:
        named = models[-1].text if models else "--rates"
        raise UsageError(
            f"--max-prompt-tokens needs a tokenizer, which {named} does not come with",
            "reasonkit data limit-length FILE -m MODEL --max-tokens N",
        )
    from transformers import AutoTokenizer

    from reasonkit.dialogue import Dialogue

    dialogue = Dialogue(AutoTokenizer.from_pretrained(models[-1].folder))
    return lambda record: len(dialogue.record_ids(record, record.prompt))


def _plans(
    models: Sequence[FoundModel],
    task: Any,
    records: Sequence[Record],
    drawn: dict[str, Any],
    tokens: dict[str, int],
    seed: int,
    folder: Path,
) -> list[_Sampled]:
    from reasonkit.engines import Sampling
    from reasonkit.evaluate.folder import EvaluationDir
    from reasonkit.evaluate.work import TaskPlan
    from reasonkit.filter.rates import as_items

    unknown = tokens.keys() - {found.label for found in models} - {""}
    if unknown:
        raise UsageError(
            f"--max-tokens names '{min(unknown)}', which is no model's label",
            f"labels: {', '.join(found.label for found in models)}",
        )
    items = as_items(records)
    plans = []
    for found in models:
        most = tokens.get(found.label, tokens.get("", DEFAULT_TOKENS))
        plan = TaskPlan(task, items, task.k, Sampling(max_tokens=most, **drawn), seed)
        plans.append(_Sampled(found, plan, EvaluationDir(folder / found.label)))
    return plans


def _dry_run(sampled: Sequence[_Sampled], options: Options, places: Places, json_: bool) -> None:
    from reasonkit.evaluate.dryrun import dry_run

    rows = [
        row
        for each in sampled
        for row in dry_run([each.found], [each.plan], each.folder, options.concurrency, places.on_gpus)
    ]
    if json_:
        emit_json([asdict(row) for row in rows])
        return
    print_table(
        ("model", "records × n", "to sample", "prompt tokens", "reply tokens, at most", "where"),
        [
            (
                row.model,
                f"{row.items:,} × {row.k}",
                f"{row.missing:,}",
                f"~{row.prompt_tokens:,}",
                f"{row.most_tokens:,}",
                row.placement,
            )
            for row in rows
        ],
    )


def _measure(
    sampled: Sequence[_Sampled], records: Sequence[Record], options: Options, folder: Path, places: Places
) -> tuple[Rates, list[str]]:
    """The rates of all models, and why some were given up."""
    from reasonkit.cli.eval_live import watch
    from reasonkit.cli.stopping import run_until_stopped
    from reasonkit.evaluate.work import kept
    from reasonkit.filter.rates import measured, sample, write_rates
    from reasonkit.placement import Places, placed

    stopped: list[str] = []
    for each in sampled:
        _claim(each, options)
    done = all(next(kept(each.folder, each.found, each.plan).missing(), None) is None for each in sampled)
    with placed(Places() if done else places, folder / "logs") as opener, watch() as watcher:
        for each in sampled:
            stopped += run_until_stopped(
                sample(each.found, each.plan, each.folder, options, watcher, opener),
                f"every finished sample is in {folder}",
            )
    rates = {each.found.label: measured(each.found, each.plan, each.folder, records) for each in sampled}
    write_rates(rates, folder / "rates.jsonl")
    return rates, stopped


def _claim(sampled: _Sampled, options: Options) -> None:
    from reasonkit.evaluate.about import about

    try:
        sampled.folder.claim(
            {sampled.found.label: sampled.found.identity}, about([sampled.found], [sampled.plan], options)
        )
    except UsageError as error:
        raise UsageError(error.message, "choose another folder for samples: --work FOLDER") from None


def _finish(
    choice: Choice, rates: Rates, target: Path, folder: Path, stopped: Sequence[str], json_: bool
) -> None:
    """Write what is kept and what is not, show the spread, and say whether some samples are missing."""
    from reasonkit.filter.choose import BINS, NO_VERDICT
    from reasonkit.filter.histogram import counts, rows, save_pictures
    from reasonkit.filter.rates import truncated
    from reasonkit.filter.write import write_choice

    dropped = write_choice(choice, rates, target)
    spread = counts(rates)
    pictures = save_pictures(spread, folder)
    reasons = dict(choice.reasons().most_common())
    if json_:
        emit_json(
            {
                "kept": len(choice.kept),
                "dropped": reasons,
                "file": str(target),
                "dropped_file": str(dropped),
                "rates": {label: dict(zip(BINS, of, strict=True)) for label, of in spread.items()},
                "pictures": [str(path) for path in pictures],
                "stopped": list(stopped),
            }
        )
    else:
        print_table(("model", "pass rate", "records", ""), rows(spread))
        print_table(
            ("records", "count"),
            [("kept", str(len(choice.kept))), *((reason, str(count)) for reason, count in reasons.items())],
        )
        for label, share in truncated(rates).items():
            if share > MANY:
                say(f"{label}: {share:.1%} of the replies were cut at --max-tokens")
        say(f"kept: {target}\ndropped, with reasons: {dropped}\npictures: {', '.join(map(str, pictures))}")
    unjudged = reasons.get(NO_VERDICT, 0)
    if stopped or unjudged:
        words = f"{unjudged} records have samples without a verdict, and were dropped for it"
        raise PartlyDone(
            "\n".join([*stopped, words]), "the same command samples what is missing, or --max-missing 0.25"
        )
