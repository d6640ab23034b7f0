"""`reasonkit report`: the page about one run or several, or a single picture of their curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from reasonkit.cli.output import JsonFlag, emit_json, say
from reasonkit.errors import UsageError

PICTURES = (".svg", ".png")


def report(
    runs: Annotated[
        list[str], typer.Argument(help="Run folders, or names of runs in ./runs.", metavar="RUN...")
    ],
    title: Annotated[
        str, typer.Option(help="The heading; default the runs' names.", show_default=False)
    ] = "",
    rename: Annotated[
        list[str] | None, typer.Option(help="Call run A by the name B; may be given often.", metavar="A=B")
    ] = None,
    rename_file: Annotated[
        Path | None, typer.Option(help="A file with one A=B a line.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Where to write: a page (.html, its charts beside it) or one picture of reward and accuracy "
            "(.svg, .png). Default RUN/report.html, or ./report.html for several runs.",
            show_default=False,
        ),
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Write a report of one run, or of several laid over each other.

    Examples:

      reasonkit report runs/mine

      reasonkit report runs/a runs/b --rename a=baseline --output both.html

      reasonkit report runs/mine --output reward.svg
    """
    from reasonkit.cli.runs import find_run
    from reasonkit.report import write_picture, write_report

    folders = [find_run(name) for name in runs]
    names = dict(_renames(rename or [], rename_file))
    target = output or (folders[0].report if len(folders) == 1 else Path("report.html"))
    paths = [folder.path for folder in folders]
    if target.suffix in PICTURES:
        write_picture(paths, target, title=title, rename=names)
        _tell({"picture": str(target)}, f"wrote {target}", json_)
    elif target.suffix in (".html", ".htm"):
        written = write_report(paths, target, title=title, rename=names)
        about = (
            f"{written.shown:,} of {written.total:,} rollouts in it, {len(written.charts)} images in charts/"
        )
        content = {
            "report": str(target),
            "charts": [str(path) for path in written.charts],
            "shown": written.shown,
            "total": written.total,
        }
        _tell(content, f"wrote {target} ({about})", json_)
    else:
        raise UsageError(
            f"--output {target}: a report is a page or a picture", "end it in .html, .svg or .png"
        )


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
