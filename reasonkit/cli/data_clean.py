"""`reasonkit data dedup|decontaminate|split|mix|convert`: work on record files. Each calls reasonkit.data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reasonkit.cli.output import JsonFlag, emit_json, print_table, say
from reasonkit.errors import UsageError

if TYPE_CHECKING:
    from reasonkit.data.cleaning import Judged, Report
    from reasonkit.records import Record

FileArgument = Annotated[Path, typer.Argument(help="A record file.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Where to write; beside the file unless given.")
]


def dedup(
    file: FileArgument,
    near: Annotated[bool, typer.Option(help="Also near-duplicates, verified word by word.")] = False,
    contained: Annotated[bool, typer.Option(help="Also questions that stand in a longer one.")] = False,
    threshold: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="With --near: how much must overlap.")
    ] = 0.8,
    force: Annotated[bool, typer.Option(help="With --near: on generated puzzles too.")] = False,
    out: OutOption = None,
    json_: JsonFlag = False,
) -> None:
    """Drop repeated questions: equal ones always, contained and nearly equal ones when asked for.

    Example: reasonkit data dedup train.parquet --near --contained
    """
    from reasonkit.data import dedup as steps
    from reasonkit.data.cleaning import clean

    target = out or file.with_name(f"{file.stem}.deduped.parquet")

    def step(records: Iterable[Record]) -> Iterator[Judged]:
        judged = steps.exact(records)
        if contained:
            judged = _then(judged, steps.contained)
        if near:
            judged = _then(judged, lambda left: steps.near(left, threshold, force))
        return judged

    _show([clean("dedup", step, file, target)], json_)


def decontaminate(
    file: FileArgument,
    against: Annotated[
        list[str], typer.Option(help="A task, suite, data set or record file to keep apart; repeat it.")
    ],
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is on this machine.")] = False,
    out: OutOption = None,
    json_: JsonFlag = False,
) -> None:
    """Drop records that hold an item of an evaluation set, by runs of 13 words.

    Examples:

      reasonkit data decontaminate train.parquet --against guru17 --against kk:5ppl

      reasonkit data decontaminate train.parquet --against test.parquet --offline
    """
    from reasonkit.data.cleaning import clean
    from reasonkit.data.decontaminate import Evaluations
    from reasonkit.data.decontaminate import decontaminate as step
    from reasonkit.data.evaluation_sets import open_task
    from reasonkit.tasks import expand

    evaluations = Evaluations({ref.name: open_task(ref, offline=offline) for ref in expand(against)})
    target = out or file.with_name(f"{file.stem}.clean.parquet")
    report = clean("decontaminate", lambda records: step(records, evaluations), file, target)
    for name, masked in evaluations.masked.items():
        if masked:
            say(f"{name}: {masked} runs of words were taken for instructions and do not count")
    _show([report], json_)


def limit_length(
    file: FileArgument,
    model: Annotated[str, typer.Option("-m", "--model", help="The model whose tokens and template count.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest prompt to keep.")],
    out: OutOption = None,
    json_: JsonFlag = False,
) -> None:
    """Drop prompts that are too long for a model, counted through its own chat template.

    Example: reasonkit data limit-length train.parquet -m ./Qwen2.5-7B --max-tokens 4096
    """
    from transformers import AutoTokenizer

    from reasonkit.data.cleaning import clean
    from reasonkit.data.length_filter import length_filter
    from reasonkit.dialogue import Dialogue

    dialogue = Dialogue(AutoTokenizer.from_pretrained(model))
    target = out or file.with_name(f"{file.stem}.short.parquet")
    step = clean("limit-length", lambda records: length_filter(records, dialogue, max_tokens), file, target)
    _show([step], json_)


def split(
    file: FileArgument,
    test_size: Annotated[int, typer.Option(min=1, help="Records of the test half, about.")],
    by: Annotated[
        str | None, typer.Option(help="Metadata fields that must not be torn apart: program, template, room.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the groups.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for train.parquet and test.parquet.")] = None,
    json_: JsonFlag = False,
) -> None:
    """Split a set into train and test by whole groups, and report what still leaks.

    Example: reasonkit data split codeio.parquet --test-size 500 --by program
    """
    from reasonkit.data import split as cut
    from reasonkit.data.files import read_records, write_records

    fields = [name.strip() for name in by.split(",")] if by else []
    halves = cut.split(list(read_records(file)), test_size, seed, fields)
    leaked = cut.leaks(halves, fields)
    folder = out or file.with_name(f"{file.stem}-split")
    sizes = {
        name: write_records(records, folder / f"{name}.parquet")
        for name, records in (("train", halves.train), ("test", halves.test))
    }
    if json_:
        emit_json({"folder": str(folder), "records": sizes, "leaks": asdict(leaked)})
        return
    rows = [(name, str(size), str(folder / f"{name}.parquet")) for name, size in sizes.items()]
    print_table(("half", "records", "file"), rows)
    if leaked.none:
        say("no leaks: no group, question, opening or run of 13 words is in both halves")
    else:
        say(
            f"of {leaked.test_rows} test records, train has the same group for {leaked.same_group}, the same "
            f"question for {leaked.same_question}, the same opening for {leaked.same_opening}, 13 equal words in "
            f"a row for {leaked.shared_13_words}; for example {', '.join(leaked.examples[:3])}"
        )


def mix(
    parts: Annotated[
        list[str], typer.Argument(help="Record files, with weights: math.parquet=3 logic.parquet.")
    ],
    size: Annotated[int, typer.Option(min=1, help="Records of the mixture.")],
    out: Annotated[Path, typer.Option(help="The record file to write.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    json_: JsonFlag = False,
) -> None:
    """Mix record files by weight, shuffled, each record at most once.

    Example: reasonkit data mix math.parquet=3 logic.parquet --size 10000 --out mixed.parquet
    """
    from reasonkit.data import split as cut
    from reasonkit.data.files import read_records, write_records

    sets = {}
    for part in parts:
        name, _, weight = part.partition("=")
        try:
            sets[name] = (list(read_records(Path(name))), float(weight or 1))
        except ValueError:
            raise UsageError(f"'{part}' has no number for a weight", "write it as FILE=3") from None
    counts: dict[str, int] = {}
    write_records(cut.counted(cut.mix(sets, size, seed), counts), out)
    if json_:
        emit_json({"file": str(out), "records": size, "sources": counts})
        return
    print_table(("source", "records"), [(source, str(count)) for source, count in sorted(counts.items())])


def convert(
    file: FileArgument,
    to: Annotated[
        str,
        typer.Option(help="verl, logic_rl, reason_io, ii_thought, alpaca, sharegpt, messages, preference."),
    ],
    out: Annotated[Path, typer.Option(help="The file to write: .parquet or .jsonl.")],
    json_: JsonFlag = False,
) -> None:
    """Write a record file in the format of another tool.

    Example: reasonkit data convert train.parquet --to verl --out verl.parquet
    """
    from reasonkit.data.convert import convert as run

    written, rejected = run(file, to, out)
    if json_:
        emit_json({"file": str(out), "rows": written, "rejected": rejected})
        return
    print_table(("file", "rows", "rejected"), [(str(out), str(written), str(sum(rejected.values())))])
    for reason, count in rejected.items():
        say(f"{count} rejected: {reason}")


def _then(judged: Iterator[Judged], step: Any) -> Iterator[Judged]:
    """Give what one step keeps to the next; rejections pass by, in place."""
    rejected: list[Judged] = []

    def kept() -> Iterator[Record]:
        for record, rejection in judged:
            if rejection is None:
                yield record
            else:
                rejected.append((record, rejection))

    for one in step(kept()):
        yield from rejected
        rejected.clear()
        yield one
    yield from rejected


def _show(reports: list[Report], json_: bool) -> None:
    if json_:
        emit_json([report.as_json() for report in reports])
        return
    for report in reports:
        why = ", ".join(f"{count} {reason}" for reason, count in report.reasons.most_common()) or "nothing"
        print_table(
            ("step", "rows in", "rows out", "rejected"),
            [(report.step, str(report.rows_in), str(report.rows_out), why)],
        )
        say(f"kept: {report.kept}\nrejected, with reasons: {report.rejected}")
