"""The names that commands and recipes take, by kind, and what each of them is.

Names come from the literal tables that the product itself looks them up in. What a name does is read from
its docstring in the source, without importing it: an engine may take seconds to import, a listing must not.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeGuard

from reasonkit.cli.runs import RUNS
from reasonkit.errors import UsageError, nearest
from reasonkit.registry import load
from reasonkit.rundir import find_runs


class Kind(StrEnum):
    PRESETS = "presets"
    RUNS = "runs"
    TASKS = "tasks"
    DATA = "data"
    VERIFIERS = "verifiers"
    ENVS = "envs"
    ENGINES = "engines"
    REWARDS = "rewards"
    ALGORITHMS = "algorithms"
    LOSSES = "losses"
    CORRECTIONS = "corrections"
    FRAGMENTS = "fragments"


USED_BY: dict[Kind, str] = {
    Kind.PRESETS: "reasonkit train --preset NAME",
    Kind.RUNS: "reasonkit report RUN, reasonkit export RUN OUT, reasonkit train --resume RUN",
    Kind.TASKS: "reasonkit eval NAME, reasonkit data decontaminate FILE --against NAME",
    Kind.DATA: "data.train and data.held_out of a recipe",
    Kind.VERIFIERS: "a record's verifier",
    Kind.ENVS: "rollout.env of a recipe",
    Kind.ENGINES: "rollout.engine of a recipe",
    Kind.REWARDS: "reward of a recipe",
    Kind.ALGORITHMS: "algorithm of a recipe",
    Kind.LOSSES: "loss.policy of a recipe",
    Kind.CORRECTIONS: "loss.correction of a recipe",
    Kind.FRAGMENTS: "_base_ of a recipe",
}

TABLES: dict[Kind, str] = {
    Kind.TASKS: "reasonkit.tasks:TASKS",
    Kind.DATA: "reasonkit.data.build:SOURCES",
    Kind.VERIFIERS: "reasonkit.verifiers.routing:VERIFIERS",
    Kind.ENVS: "reasonkit.envs:ENVS",
    Kind.ENGINES: "reasonkit.engines:ENGINES",
    Kind.REWARDS: "reasonkit.rewards:REWARDS",
    Kind.ALGORITHMS: "reasonkit.advantages:ADVANTAGES",
    Kind.LOSSES: "reasonkit.losses:LOSSES",
    Kind.CORRECTIONS: "reasonkit.losses:CORRECTIONS",
}
"""Where the parts of a run are looked up by name."""

ANY_GYM_TASK = "rg:TASK"


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    about: str


@dataclass(frozen=True, slots=True)
class Option:
    name: str
    default: str
    """Empty where the option has none and must be given."""
    meaning: str


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a run in full."""

    name: str
    kind: Kind
    target: str
    about: str
    options: Sequence[Option]


def entries(kind: Kind) -> list[Entry]:
    """Every name of `kind` with one line about it."""
    if kind in LISTINGS:
        return list(LISTINGS[kind]())
    return [Entry(name, describe(target)[0].partition("\n")[0]) for name, target in table_of(kind).items()]


def names(kind: Kind) -> list[str]:
    """Every name of `kind`, without looking at what it names."""
    from reasonkit.config import fragment_names, preset_names

    match kind:
        case Kind.PRESETS:
            return preset_names()
        case Kind.FRAGMENTS:
            return fragment_names()
        case Kind.RUNS:
            return [run.path.name for run in find_runs(RUNS)]
        case Kind.DATA:
            return [*table_of(kind), ANY_GYM_TASK, *published()]
        case Kind.TASKS:
            return [*table_of(kind), *suites(), ANY_GYM_TASK]
        case _:
            return list(table_of(kind))


def table_of(kind: Kind) -> Mapping[str, str]:
    return _table(TABLES[kind])


def published() -> Mapping[str, str]:
    """The published sets that are records, by name, with what each is. Its parts are NAME:DOMAIN."""
    from reasonkit.data.published import PUBLISHED

    return {name: each.about for name, each in PUBLISHED.items() if not each.raw}


def is_published(name: str) -> bool:
    """Whether this is a published set of records, or a part of one."""
    from reasonkit.data.published import parts_named

    return name.partition(":")[0] in published() and bool(parts_named(name))


def suites() -> Mapping[str, Sequence[str]]:
    """Suites of tasks, by name, with their members; an alias is one of a single task."""
    from reasonkit.tasks import ALIASES, SUITES

    return SUITES | {name: (meaning,) for name, meaning in ALIASES.items()}


def is_task_file(name: str) -> bool:
    """Whether this is a YAML file that says where a task's items are, as no recipe does."""
    from reasonkit.config import read_tree

    path = Path(name).expanduser()
    return path.suffix in (".yaml", ".yml") and path.is_file() and "source" in read_tree(path).values


def find_parts(name: str) -> list[Part]:
    """The parts called `name`; a data source and its verifier often share one. `KIND/NAME` means one kind's. The
    file of a user's own task is one too."""
    if is_task_file(name):
        return [_task(name)]
    wanted, slash, bare = name.partition("/")
    if slash and wanted in set(TABLES):
        kinds, name = [Kind(wanted)], bare
    else:
        kinds = list(TABLES)
    found = [
        kind
        for kind in kinds
        if name in table_of(kind)
        or (kind is Kind.DATA and (name.startswith("rg:") or is_published(name)))
        or (kind is Kind.TASKS and name in suites())
    ]
    if not found:
        known = {each for kind in Kind for each in names(kind)}
        raise UsageError(f"unknown name '{name}'", nearest(name, known) or "reasonkit list")
    special = {Kind.DATA: _source, Kind.TASKS: _task}
    return [special[kind](name) if kind in special else _tabled(kind, name) for kind in found]


def _tabled(kind: Kind, name: str) -> Part:
    target = table_of(kind)[name]
    about, options = describe(target)
    return Part(name, kind, target, about, options)


def _source(name: str) -> Part:
    from reasonkit.data.build import source_named
    from reasonkit.data.published import PUBLISHED, parts_named, pull_command

    if is_published(name):
        base, _, part = name.partition(":")
        about = [published()[base]]
        if part:
            about.append(f"Files: {', '.join(p for each in parts_named(name) for p in each.patterns)}.")
        elif domains := sorted({each.domain for each in parts_named(name) if each.domain}):
            about.append(f"Parts, as {base}:PART: {', '.join(domains)}.")
        about.append(f"Fetch it: {pull_command(name)}")
        return Part(name, Kind.DATA, f"hf:{PUBLISHED[base].repo}", "\n\n".join(about), [])
    source = source_named(name)
    options = [
        Option(
            key,
            "" if field.is_required() else str(field.get_default(call_default_factory=True)),
            field.description or "",
        )
        for key, field in source.settings.model_fields.items()
    ]
    return Part(name, Kind.DATA, table_of(Kind.DATA).get(name, "reasoning_gym"), source.about, options)


def _task(name: str) -> Part:
    """A task with all that fixes its score; a suite with its members."""
    from reasonkit.tasks import Task, task_named

    if name in suites():
        return Part(name, Kind.TASKS, "reasonkit.tasks", f"A suite: {', '.join(suites()[name])}.", [])
    given = task_named(name).model_dump(mode="json", exclude_defaults=True)
    about = given.pop("about", "")
    options = [
        Option(key, str(value), " ".join((Task.model_fields[key].description or "").split()))
        for key, value in given.items()
        if key != "name"
    ]
    return Part(name, Kind.TASKS, table_of(Kind.TASKS).get(name, "a file"), about, options)


def describe(target: str) -> tuple[str, list[Option]]:
    """Docstring and options of `module:attribute`, read from the file; the module is not imported.

    A function is described by its own docstring and has its keyword-only arguments as options. A class is the
    subject of its file: the module's docstring comes first, and the options are its constructor's, or those of
    `from_path` where that opens it, as with engines.
    """
    tree, attribute = _module_of(target)
    doc = ast.get_docstring(tree) or ""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == attribute:
            return ast.get_docstring(node) or doc, _keyword_options(node.args)
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            opened = next((inner for inner in node.body if _is_function(inner, "from_path")), None)
            how = ast.get_docstring(opened) if opened is not None else None
            about = "\n\n".join(filter(None, (doc, ast.get_docstring(node), how)))
            if opened is None:
                return about, _constructor_options(node)
            named = _constants(tree)
            return about, [
                replace(option, default=named.get(option.default, option.default))
                for option in _keyword_options(opened.args)
            ]
    return doc, []


def _module_of(target: str) -> tuple[ast.Module, str]:
    """The parsed module of `module:attribute`, and the attribute's name."""
    module_name, _, attribute = target.partition(":")
    spec = importlib.util.find_spec(module_name)
    if spec is None or spec.origin is None:
        raise AssertionError(f"a table names {target}, which does not exist")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8")), attribute


def _table(target: str) -> Mapping[str, str]:
    """A literal table is read from its module's source: a module of losses takes seconds to import."""
    tree, attribute = _module_of(target)
    for node in tree.body:
        if (
            isinstance(node, ast.AnnAssign)
            and ast.unparse(node.target) == attribute
            and _is_literal(node.value)
        ):
            return dict(ast.literal_eval(node.value))
    return dict(load(target))


def _is_literal(table: ast.expr | None) -> TypeGuard[ast.Dict]:
    return isinstance(table, ast.Dict) and all(isinstance(value, ast.Constant) for value in table.values)


def _keyword_options(arguments: ast.arguments) -> list[Option]:
    return [
        _option(argument, default)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]


def _is_function(node: ast.stmt, name: str) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and node.name == name


def _constants(tree: ast.Module) -> dict[str, str]:
    """What the module's own names stand for, where that is written out."""
    return {
        ast.unparse(node.targets[0]): ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }


def _constructor_options(node: ast.ClassDef) -> list[Option]:
    for inner in node.body:
        if _is_function(inner, "__init__"):
            positional = inner.args.args[1:]
            missing = len(positional) - len(inner.args.defaults)
            defaults = [*[None] * missing, *inner.args.defaults]
            own = [_option(argument, default) for argument, default in zip(positional, defaults, strict=True)]
            return own + _keyword_options(inner.args)
    return []


def _option(argument: ast.arg, default: ast.expr | None) -> Option:
    annotation = ast.unparse(argument.annotation) if argument.annotation else ""
    return Option(argument.arg, ast.unparse(default) if default else "", annotation)


def _presets() -> Iterator[Entry]:
    from reasonkit.config import RECIPES, preset_names, read_tree

    for name in preset_names():
        yield Entry(name, str(read_tree(RECIPES / f"{name}.yaml").values.get("description", "")))


def _fragments() -> Iterator[Entry]:
    from reasonkit.config import RECIPES, fragment_names

    for name in fragment_names():
        first = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
        yield Entry(name, first.lstrip("# ") if first.startswith("#") else "")


def _runs() -> Iterator[Entry]:
    for run in find_runs(RUNS):
        yield Entry(run.path.name, str(run.info()["state"]))


def _sources() -> Iterator[Entry]:
    from reasonkit.data.build import source_named

    for name in table_of(Kind.DATA):
        yield Entry(name, source_named(name).about)
    yield Entry(ANY_GYM_TASK, "Every task of reasoning-gym, for example rg:leg_counting.")
    for name, about in published().items():
        yield Entry(name, about)


def _tasks() -> Iterator[Entry]:
    from reasonkit.tasks import task_named

    for name in table_of(Kind.TASKS):
        yield Entry(name, task_named(name).about)
    for name, members in suites().items():
        yield Entry(name, f"A suite: {', '.join(members)}")
    yield Entry(ANY_GYM_TASK, "Every task of reasoning-gym, and every other data set by its own name.")


LISTINGS: dict[Kind, Callable[[], Iterator[Entry]]] = {
    Kind.TASKS: _tasks,
    Kind.PRESETS: _presets,
    Kind.RUNS: _runs,
    Kind.DATA: _sources,
    Kind.FRAGMENTS: _fragments,
}
"""The kinds whose names do not come with a docstring to read."""
