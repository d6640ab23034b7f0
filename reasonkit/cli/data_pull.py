"""`reasonkit data pull`: published data sets to local record files. The work is data/pull.py's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reasonkit.cli.output import JsonFlag, emit_json, print_table, progress, say
from reasonkit.errors import UsageError

if TYPE_CHECKING:
    from reasonkit.data.adapters import Reader
    from reasonkit.data.pull import Plan, Pulled

Names = Annotated[str | None, typer.Option(help="Comma-separated, for example math,logic.")]


def pull(
    name: Annotated[str, typer.Argument(help="guru, guru-online, kk, ii-thought, … or ORG/NAME on the Hub.")],
    domains: Names = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows of each file.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print files and sizes, and fetch nothing.")] = False,
    map_: Annotated[
        str | None, typer.Option("--map", help="Columns: question=COLUMN,answer=COLUMN[,system=…][,uid=…].")
    ] = None,
    verifier: Annotated[str | None, typer.Option(help="With --map: the verifier of these records.")] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="How rows are read; recognised by their columns unless given."),
    ] = None,
    files: Annotated[str | None, typer.Option(help="Comma-separated patterns of the files to take.")] = None,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
    update: Annotated[bool, typer.Option(help="Move to the newest revision.")] = False,
    raw: Annotated[bool, typer.Option(help="Keep the files as they are.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write to instead of the data folder.")] = None,
    json_: JsonFlag = False,
) -> None:
    """Fetch a data set from the Hub into record files: pinned, verified, resumable.

    Examples:

      reasonkit data pull guru --domains math,logic --dry-run

      reasonkit data pull openai/gsm8k --map question=question,answer=answer --verifier gsm8k
    """
    from reasonkit.data.pull import Request, plan
    from reasonkit.data.pull import pull as run
    from reasonkit.hub.client import Hub

    request = Request(
        name,
        domains=_listed(domains),
        limit=limit,
        revision=revision,
        update=update,
        files=_listed(files),
        read=_reader(name, map_, verifier, format_),
        read_as=" ".join(filter(None, (map_, verifier, format_))),
        raw=raw,
        out=out,
    )
    with Hub() as hub:
        planned = plan(request, hub)
        if dry_run:
            _show(planned, json_)
            return
        for left_out in planned.left_out:
            say(f"left out: {left_out} (large; ask for it with --domains {left_out})")
        with progress(f"pulling {name}", sum(target.bytes for target in planned.targets)) as advance:
            pulled = run(planned, hub, advance)
    _print_pulled(planned, pulled, json_)


def _print_pulled(planned: Plan, pulled: list[Pulled], json_: bool) -> None:
    from reasonkit.data.pull import as_json

    revision = planned.snapshot.revision
    if json_:
        emit_json({"repo": planned.snapshot.repo, "revision": revision, "sets": as_json(pulled)})
        return
    say(f"{planned.snapshot.repo} at {revision}")
    print_table(
        ("set", "rows", "records", "rejected", "file"),
        [(one.name, str(one.rows), str(one.records), str(one.rejected.total()), one.path) for one in pulled],
    )
    for one in pulled:
        for reason, count in one.rejected.most_common(5):
            say(f"{one.name}: {count} rejected: {reason}")


def _show(planned: Plan, json_: bool) -> None:
    targets = planned.targets
    if json_:
        emit_json(
            {
                "repo": planned.snapshot.repo,
                "revision": planned.snapshot.revision,
                "bytes": sum(target.bytes for target in targets),
                "left_out": planned.left_out,
                "sets": [
                    {
                        "name": target.name,
                        "split": target.split,
                        "bytes": target.bytes,
                        "path": str(target.path),
                    }
                    | {"files": {file.path: file.size for file in target.sources}}
                    for target in targets
                ],
            }
        )
        return
    rows = [
        (file.path, f"{file.size / 1e6:,.1f} MB", target.name)
        for target in targets
        for file in target.sources
    ]
    print_table(
        ("file", "size", "goes to"), [*rows, ("total", f"{sum(t.bytes for t in targets) / 1e6:,.1f} MB", "")]
    )
    for left_out in planned.left_out:
        say(f"left out: {left_out} (large; ask for it with --domains {left_out})")


def _reader(name: str, map_: str | None, verifier: str | None, format_: str | None) -> Reader | None:
    from reasonkit.data.adapters import columns_as, reader_named

    if map_ is None:
        if verifier is not None:
            raise UsageError("--verifier belongs to --map", "--map question=COLUMN,answer=COLUMN")
        return reader_named(format_) if format_ else None
    if format_ is not None:
        raise UsageError(f"--map ({map_}) and --format ({format_}) exclude each other", "give one of them")
    mapping = dict(pair.partition("=")[::2] for pair in map_.split(","))
    return columns_as(mapping, name.removeprefix("hf:").partition("@")[0], verifier)


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []
