"""`reasonkit data`: make record files and look at them. Each command calls one function of reasonkit.data."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reasonkit.cli.data_clean import convert, decontaminate, dedup, limit_length, mix
from reasonkit.cli.data_clean import split as split_file
from reasonkit.cli.data_pull import pull
from reasonkit.cli.output import JsonFlag, emit_json, print_table, progress, say

if TYPE_CHECKING:
    from reasonkit.data.sources import Split

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
for command in (pull, dedup, decontaminate, limit_length, mix, convert):
    app.command(command.__name__.replace("_", "-"))(command)
app.command("split")(split_file)


class SplitName(StrEnum):
    TRAIN = "train"
    TEST = "test"


NameArgument = Annotated[
    str, typer.Argument(help="A source, rg:TASK, or a mixture such as knights=2,countdown,rg:gcd.")
]
RecordsArgument = Annotated[
    str, typer.Argument(help="A record file, a built or pulled set (guru:math), or a source.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the source as key=value; `reasonkit show NAME` lists them."),
]
SeedOption = Annotated[int, typer.Option(help="The same seed gives the same bytes.")]
SplitOption = Annotated[SplitName, typer.Option(help="Which split to look at.")]


@app.callback()
def data() -> None:
    """Build record files and look at them."""


@app.command()
def build(
    name: NameArgument,
    size: Annotated[int, typer.Option("--size", "--train-size", help="Records of the train split.")] = 1000,
    test_size: Annotated[int, typer.Option(help="Records of the test split.")] = 100,
    split: Annotated[
        SplitName | None, typer.Option(help="Build this split only, with --size records.")
    ] = None,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to instead of the data folder (REASONKIT_DATA).")
    ] = None,
    set_: SetOption = None,
    prefix: Annotated[
        str | None, typer.Option(help="Short for --set prefix=…: `chat` or `base` (sokoban).")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that draw a mixture; all cores unless given. Changes no byte."),
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Generate a data set: train and test never share a problem, and the same seed gives the same bytes.

    Examples:

      reasonkit data build knights --size 5000 --set people=[3,4,5]

      reasonkit data build rg:leg_counting --size 2048 --seed 42

      DIM_X=6 DIM_Y=6 NUM_BOXES=1 reasonkit data build sokoban --train-size 10000 --test-size 500 --prefix chat
    """
    from reasonkit.data.build import parse_settings
    from reasonkit.data.dataset import build_dataset
    from reasonkit.data.parallel import cores
    from reasonkit.datahome import dataset_folder

    settings = parse_settings([*(set_ or []), *([f"prefix={prefix}"] if prefix else [])])
    sizes: dict[Split, int] = {"train": size, "test": test_size}
    if split is not None:
        sizes = {split.value: size}
    folder = out or dataset_folder(name)
    with progress(f"building {name}", sum(sizes.values())) as advance:
        built = build_dataset(name, folder, sizes, seed, settings, advance, workers or cores())
    if json_:
        emit_json(asdict(built))
        return
    rows = [
        (kind, str(file.records), f"{file.bytes:,}", file.sha256[:16], file.path)
        for kind, file in built.files.items()
    ]
    print_table(("split", "records", "bytes", "sha256", "file"), rows)


@app.command()
def head(
    name: RecordsArgument,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many records to show.")] = 3,
    split: SplitOption = SplitName.TRAIN,
    seed: SeedOption = 0,
    set_: SetOption = None,
    json_: JsonFlag = False,
) -> None:
    """Show records in full: the prompt, the gold answer, and the verifier's verdict on the gold answer.

    Examples:

      reasonkit data head knights

      reasonkit data head rg:mini_sudoku -n 1 --json
    """
    from reasonkit.data.build import parse_settings
    from reasonkit.data.dataset import open_records
    from reasonkit.data.look import look

    records, where = open_records(name, split.value, count, seed, parse_settings(set_ or []))
    looks = [look(record) for record in records]
    if json_:
        emit_json([asdict(each) for each in looks])
        return
    say(where)
    for each in looks:
        print(
            f"--- {each.uid}\n{each.prompt}\n\n[gold]\n{each.gold}\n\n[verdict on the gold]\n{each.verdict}\n"
        )


@app.command()
def stats(name: RecordsArgument, split: SplitOption = SplitName.TRAIN, json_: JsonFlag = False) -> None:
    """Count a set's records by source, ability and difficulty, and say how long its prompts are.

    Examples:

      reasonkit data stats knights

      reasonkit data stats train.parquet --json
    """
    from reasonkit.data.dataset import open_records
    from reasonkit.data.look import stats as figures

    records, where = open_records(name, split.value, None)
    found = figures(records)
    if json_:
        emit_json(asdict(found))
        return
    say(where)
    rows = [("records", str(found.records))]
    for label, counts in (
        ("source", found.sources),
        ("ability", found.abilities),
        ("difficulty", found.difficulties),
    ):
        rows += [(f"{label} {value}", str(count)) for value, count in counts.items()]
    rows += [("repeated uids", str(found.repeated_uids)), ("repeated prompts", str(found.repeated_prompts))]
    if found.prompt_characters is not None:
        spread = found.prompt_characters
        rows.append(
            (
                "prompt characters",
                f"mean {spread.mean:.0f}, median {spread.median}, 95 % {spread.p95}, largest {spread.largest}",
            )
        )
    print_table(("what", "figure"), rows)
