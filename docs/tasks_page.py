"""Writes docs/reference/tasks.md from the tasks themselves, so that the page and the code cannot differ.

python docs/tasks_page.py           # write it
python docs/tasks_page.py --check   # exit 1 if it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic.fields import FieldInfo

from reasonkit.recipe import Part, SourceConfig
from reasonkit.tasks import ALIASES, PRESETS, SUITES, TASKS, Task, task_named

PAGE = Path(__file__).parent / "reference" / "tasks.md"

HEAD = """# Tasks

What `reasonkit eval NAME` and `reasonkit data decontaminate --against NAME` take; `NAME:8` draws eight samples an
item. Every data set is a task too, under its own name: `rg:leg_counting`, `kk:5ppl`, `guru:math`,
`hf:ORG/NAME@REV`, a record file. `reasonkit show NAME` prints a task in full. This page is written from them by
`docs/tasks_page.py`.

k is the number of samples an item. What is played in an environment takes several turns. An item counts as right or
not (accuracy), or with partial credit (score). Items that share a cluster depend on each other, which widens
intervals.
"""

FIELDS = """## A task of your own

A YAML file with these keys (or a `Task` in a module, named as `module:ATTRIBUTE`); only `source` is required.

| key | default | what it is |
|---|---|---|"""


def cell(value: object) -> str:
    return str(value).replace("|", "\\|")


def source_words(source: SourceConfig) -> str:
    files = f", {', '.join(source.options['files'])}" if "files" in source.options else ""
    return f"`{source.name}`{files}"


def row(task: Task) -> str:
    sources = "<br>".join(map(source_words, task.source))
    groups = ", ".join(task.breakdown)
    env = "" if task.env.name == "single_turn" else f"`{task.env.name}`"
    cells = (
        f"`{task.name}`", task.about, task.k, task.metric, env, f"`{task.verifier}`", task.cluster or "", groups,
        sources,
    )  # fmt: skip
    return f"| {' | '.join(map(cell, cells))} |"


def published(names: tuple[str, ...]) -> list[str]:
    """The published scores of a suite, a column a model."""
    tasks = [task_named(name) for name in names]
    models = list(dict.fromkeys(model for task in tasks for model in task.reference))
    lines = [f"| task | {' | '.join(models)} |", f"|---|{'---|' * len(models)}"]
    for task in tasks:
        scores = [f"{task.reference[model]:g}" if model in task.reference else "" for model in models]
        lines.append(f"| `{task.name}` | {' | '.join(scores)} |")
    return lines


def default_of(field: FieldInfo) -> object:
    value = field.get_default(call_default_factory=True)
    return value.name if isinstance(value, Part) else value


def page() -> str:
    tasks = [task_named(name) for name in TASKS]
    lines = [HEAD, "| name | what | k | metric | played in | verifier | cluster | also shown by | items |"]
    lines += ["|---|---|---|---|---|---|---|---|---|", *map(row, tasks), "", "## Suites and other names", ""]
    lines += [f"- `{name}`: {', '.join(f'`{member}`' for member in SUITES[name])}" for name in SUITES]
    lines += [f"- `{name}` means `{meant}`" for name, meant in ALIASES.items()]
    lines += ["", "## Sampling", "", "| preset | temperature | top-p | longest reply |", "|---|---|---|---|"]
    for name, preset in PRESETS.items():
        lines.append(f"| `{name}` | {preset.temperature:g} | {preset.top_p:g} | {preset.max_tokens:,} |")
    lines += ["", "## Published scores", "", "In percent. None of them came with an interval.", ""]
    lines += [*published(SUITES["guru17"]), "", *published(SUITES["kk-all"]), "", FIELDS]
    for name, field in Task.model_fields.items():
        if name == "name":
            default = "the file's name"
        else:
            default = "required" if field.is_required() else f"`{default_of(field)}`"
        lines.append(f"| `{name}` | {default} | {cell(' '.join((field.description or '').split()))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    written = page()
    if sys.argv[1:] == ["--check"]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != written:
            sys.exit(f"{PAGE} is out of date: python docs/tasks_page.py")
    else:
        PAGE.write_text(written, encoding="utf-8")
