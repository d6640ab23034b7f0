"""`reasonkit report`: the page about training runs or about evaluations, or a single picture of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from reasonkit.cli.output import JsonFlag, emit_json, say
from reasonkit.errors import UsageError

PICTURES = (".svg", ".png")


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Training runs (folders, or names in ./runs), or evaluations: their folders, or results files "
            "of one task or several.",
            metavar="RUN...",
        ),
    ],
    title: Annotated[
        str, typer.Option(help="The heading; default the runs' names.", show_default=False)
    ] = "",
    rename: Annotated[
        list[str] | None,
        typer.Option(help="Call run or model A by the name B; may be given often.", metavar="A=B"),
    ] = None,
    rename_file: Annotated[
        Path | None, typer.Option(help="A file with one A=B a line.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Where to write: a page (.html, its charts beside it) or one picture (.svg, .png): reward and "
            "accuracy of runs, scores of evaluations. Default RUN/report.html, or ./report.html for several.",
            show_default=False,
        ),
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Write a report of one run, or of several laid over each other; of training, or of evaluations.

    Examples:

      reasonkit report runs/mine

      reasonkit report runs/a runs/b --rename a=baseline --output both.html

      reasonkit report evals/before evals/after/results.json --output scores.svg
    """
    inputs, is_evaluation = _inputs(runs)
    names = dict(_renames(rename or [], rename_file))
    default = inputs[0] / "report.html" if len(inputs) == 1 and inputs[0].is_dir() else Path("report.html")
    _write(inputs, is_evaluation, output or default, title, names, json_)


def _write(
    inputs: Sequence[Path],
    is_evaluation: bool,
    target: Path,
    title: str,
    names: Mapping[str, str],
    json_: bool,
) -> None:
    from reasonkit.report import (
        write_evaluation_picture,
        write_evaluation_report,
        write_picture,
        write_report,
    )

    if target.suffix in PICTURES:
        draw = write_evaluation_picture if is_evaluation else write_picture
        draw(inputs, target, title=title, rename=names)
        _tell({"picture": str(target)}, f"wrote {target}", json_)
        return
    if target.suffix not in (".html", ".htm"):
        raise UsageError(
            f"--output {target}: a report is a page or a picture", "end it in .html, .svg or .png"
        )
    write = write_evaluation_report if is_evaluation else write_report
    written = write(inputs, target, title=title, rename=names)
    about = f"{written.shown:,} of {written.total:,} rollouts in it, {len(written.charts)} images in charts/"
    content = {
        "report": str(target),
        "charts": [str(path) for path in written.charts],
        "shown": written.shown,
        "total": written.total,
    }
    _tell(content, f"wrote {target} ({about})", json_)


def _inputs(names: Sequence[str]) -> tuple[list[Path], bool]:
    """The folders or files that are meant, and whether they are evaluations; a mixture is an error."""
    from reasonkit.cli.runs import find_run
    from reasonkit.report.evaluation import is_evaluation

    kinds = [is_evaluation(Path(name).expanduser()) for name in names]
    if all(kinds):
        return [Path(name).expanduser() for name in names], True
    if any(kinds):
        raise UsageError(
            f"{names[kinds.index(True)]} is an evaluation and {names[kinds.index(False)]} is not",
            "report training runs and evaluations apart",
        )
    return [find_run(name).path for name in names], False


def _tell(content: dict[str, object], sentence: str, json_: bool) -> None:
    if json_:
        emit_json(content)
    else:
        say(sentence)


def _renames(pairs: Sequence[str], file: Path | None) -> Iterator[tuple[str, str]]:
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise UsageError(f"--rename-file {file} does not exist", "one A=B a line") from None
        for number, line in enumerate(lines, start=1):
            if line.strip() and not line.startswith("#"):
                yield _pair(line.strip(), f"{file}:{number}")
    for pair in pairs:
        yield _pair(pair, "--rename")


def _pair(text: str, where: str) -> tuple[str, str]:
    old, separator, new = text.partition("=")
    if not separator or not old.strip() or not new.strip():
        raise UsageError(f"{where}: '{text}' is not of the form A=B", "for example --rename run-1=baseline")
    return old.strip(), new.strip()
