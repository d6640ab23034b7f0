"""`reasonkit list` and `reasonkit show`: every name that another command takes, and one of them in full.

What names there are is names.py's business; here they are only printed.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reasonkit.cli.names import USED_BY, Kind, entries, find_parts, is_task_file, names
from reasonkit.cli.output import JsonFlag, emit_json, print_table, say
from reasonkit.errors import UsageError

if TYPE_CHECKING:
    from reasonkit.rundir import RunDir


def list_names(
    kind: Annotated[Kind | None, typer.Argument(help="What to list; nothing gives an overview.")] = None,
    json_: JsonFlag = False,
) -> None:
    """List every name that another command takes, each with one line.

    Examples:

      reasonkit list

      reasonkit list presets
    """
    if kind is None:
        _overview(json_)
        return
    if kind is Kind.RUNS:
        _list_runs(json_)
        return
    listed = entries(kind)
    if json_:
        emit_json([asdict(entry) for entry in listed])
    else:
        print_table(("name", "about"), [(entry.name, entry.about) for entry in listed])


def show(
    name: Annotated[
        str, typer.Argument(help="A preset, fragment, file of a recipe or task, run, or any listed name.")
    ],
    origins: Annotated[
        bool, typer.Option("--origins", help="For a recipe: every value, and where it was set.")
    ] = False,
    json_: JsonFlag = False,
) -> None:
    """Print one name in full: a recipe as YAML that loads again, a run's state, a part's description.

    Examples:

      reasonkit show tiny > my.yaml

      reasonkit show tiny --origins

      reasonkit show brevity
    """
    from reasonkit.config import fragment_names, preset_names

    if name in preset_names() or (name.endswith((".yaml", ".yml")) and not is_task_file(name)):
        _show_recipe(name, origins, json_)
    elif origins:
        raise UsageError(f"--origins needs a recipe, and '{name}' is none", "reasonkit list presets")
    elif name in fragment_names():
        _show_fragment(name, json_)
    elif _is_run(name):
        _show_run(name, json_)
    else:
        _show_parts(name, json_)


def _overview(json_: bool) -> None:
    named = {kind: names(kind) for kind in Kind}
    if json_:
        emit_json({kind.value: each for kind, each in named.items()})
        return
    rows = [(kind.value, str(len(each)), _short(each), USED_BY[kind]) for kind, each in named.items()]
    print_table(("kind", "number", "names", "used by"), rows)
    say("\nreasonkit list KIND gives one line about each name; reasonkit show NAME one of them in full.")


def _short(listed: list[str]) -> str:
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")


def _list_runs(json_: bool) -> None:
    from reasonkit.cli.runs import RUNS
    from reasonkit.rundir import find_runs

    rows = [_run_row(run) for run in find_runs(RUNS)]
    if json_:
        emit_json(rows)
    elif not rows:
        say(f"no runs in {RUNS.resolve()}\n  try: reasonkit train --preset tiny")
    else:
        cells = [
            (row["name"], row["state"], f"{row['step']}/{row['steps']}", _percent(row["before"]),
             _percent(row["after"]), row["where"], row["changed"])
            for row in rows
        ]  # fmt: skip
        print_table(("name", "state", "step", "before", "after", "where", "last change"), cells)


def _run_row(run: RunDir) -> dict[str, Any]:
    info = run.info()
    return {
        "name": run.path.name,
        "path": str(run.path),
        "state": _state(run, info),
        "step": _steps_done(run, info),
        "steps": info.get("steps"),
        "before": info.get("before"),
        "after": info.get("after"),
        "where": _where(info),
        "placement": info.get("placement", []),
        "changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(_last_change(run))),
    }


def _where(info: Mapping[str, Any]) -> str:
    """The machine of the controller, and of a cluster's actors how many of which kind run on each machine."""
    kinds = Counter((each["host"], each["name"].partition("-")[0]) for each in info.get("placement", []))
    actors = [f"{host}: {count} {kind}{'s' * (count > 1)}" for (host, kind), count in kinds.items()]
    return ", ".join(actors) or str(info.get("host", ""))


def _state(run: RunDir, info: Mapping[str, Any]) -> str:
    """The run's state; `killed` for one that calls itself running although nobody on this machine trains it."""
    state = str(info["state"])
    here = info.get("host") == socket.gethostname()
    return "killed" if state == "running" and here and not run.is_held() else state


def _last_change(run: RunDir) -> float:
    return max(file.stat().st_mtime for file in (run.run_json, run.metrics) if file.exists())


def _steps_done(run: RunDir, info: Mapping[str, Any]) -> int:
    """run.json is written at the run's turns; between them the metrics file knows better."""
    from reasonkit.rundir import read_metrics

    last = 0
    if run.metrics.exists():
        for row in read_metrics(run.metrics):
            last = row["step"]
    return max(last, int(info.get("step") or 0))


def _percent(result: Mapping[str, Any] | None) -> str:
    return f"{100 * result['sampled']['accuracy']:.1f} %" if result else "–"


def _show_recipe(name: str, origins: bool, json_: bool) -> None:
    from reasonkit.config import dump_recipe, resolve_recipe

    resolved = resolve_recipe(name)
    if origins:
        rows = [{"key": key, "value": value, "origin": origin} for key, value, origin in resolved.rows()]
        if json_:
            emit_json(rows)
        else:
            cells = [(row["key"], _value(row["value"]), row["origin"]) for row in rows]
            print_table(("key", "value", "origin"), cells)
    elif json_:
        emit_json(resolved.recipe.model_dump(mode="json"))
    else:
        print(dump_recipe(resolved.recipe), end="")


def _value(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _show_fragment(name: str, json_: bool) -> None:
    from reasonkit.config import RECIPES, read_tree

    path = RECIPES / f"{name}.yaml"
    if json_:
        emit_json(read_tree(path).values)
    else:
        print(path.read_text(encoding="utf-8"), end="")


def _is_run(name: str) -> bool:
    from reasonkit.cli.runs import RUNS

    return any((path / "run.json").is_file() for path in (Path(name).expanduser(), RUNS / name))


def _show_run(name: str, json_: bool) -> None:
    from reasonkit.cli.runs import find_run

    run = find_run(name)
    info, row = run.info(), _run_row(run)
    summary = {**info, **row, "checkpoints": run.checkpoints(), "report": _existing(run.report)}
    if json_:
        emit_json(summary)
        return
    print_table(("", run.path.name), list(_run_lines(summary)))
    if row["state"] == "finished":
        say(f"try: reasonkit report {run.path}   or   reasonkit export {run.path} OUT")
    elif row["state"] in ("stopped", "failed", "killed"):
        say(f"try: reasonkit train --resume {run.path}")


def _existing(path: Path) -> str | None:
    return str(path) if path.exists() else None


def _run_lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "path", summary["path"]
    yield "state", f"{summary['state']}, step {summary['step']} of {summary['steps']}"
    yield "last change", summary["changed"]
    for phase in ("before", "after"):
        for decoding, result in (summary[phase] or {}).items():
            low, high = 100 * result["low"], 100 * result["high"]
            text = f"{100 * result['accuracy']:.1f} % ({low:.1f} to {high:.1f}) on {result['n']} problems"
            yield f"{phase}, {decoding}", text
    if summary["checkpoints"]:
        yield "checkpoints", ", ".join(map(str, summary["checkpoints"]))
    for key in ("error", "report", "seconds", "seed", "threads", "version", "platform"):
        if summary.get(key) is not None:
            yield key, _value(summary[key])


def _show_parts(name: str, json_: bool) -> None:
    parts = find_parts(name)
    if json_:
        emit_json([asdict(part) for part in parts])
        return
    for number, part in enumerate(parts):
        print("\n" * min(number, 1) + f"{part.name}   ({part.kind}, {part.target})\n\n{part.about}")
        if part.options:
            print()
            rows = [(option.name, option.default or "required", option.meaning) for option in part.options]
            print_table(("option", "default", "meaning"), rows)
