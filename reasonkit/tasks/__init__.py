"""Evaluation tasks as data: where the items are, how they are asked, played and judged, what is reported.

A Task is a frozen description and reads nothing; `reasonkit.data.evaluation_sets.open_task` turns one into
Records. Names of one grammar mean tasks: `aime24`, `aime24:32` (32 samples an item), a suite (`guru17`), any set
of the data tools (`rg:leg_counting`, `kk:5ppl`, `guru:math`, `hf:ORG/NAME@REV`, a record file), a user's own YAML
file or `module:attribute`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from reasonkit.config import read_tree
from reasonkit.engines import Sampling
from reasonkit.errors import ConfigError, UsageError, nearest
from reasonkit.recipe import NamedPart, Part, Positive, Settings, SourceConfig
from reasonkit.records import Message, Record
from reasonkit.registry import load, resolve

PRESETS: Mapping[str, Sampling] = {
    "guru": Sampling(max_tokens=28_672, temperature=1.0, top_p=0.7),
    "greedy": Sampling(max_tokens=28_672, temperature=0.0),
    "reason_io": Sampling(max_tokens=10_000, temperature=0.8, top_p=0.95),
}
"""How published figures were sampled: Guru's evaluation, ReasonIO's; and without chance."""


def _sources(value: Any) -> Any:
    """One source may stand alone, and by its name alone."""
    listed = value if isinstance(value, list | tuple) else [value]
    return tuple({"name": each} if isinstance(each, str) else each for each in listed)


class Task(Settings):
    """One benchmark. Everything that fixes its score stands here but the model."""

    name: str
    """What tables call it."""
    about: str = ""
    """One line."""
    source: Annotated[tuple[SourceConfig, ...], BeforeValidator(_sources)]
    """Where the items are, in the grammar of data names; several are one task."""
    split: Literal["test", "train", "validation"] = "test"
    """The split that holds the items; some published sets have only `train`."""
    adapt: str | None = None
    """`module:function` from all records of the source to the items: which of them, with what in their metadata."""
    system: str | None = None
    """A system turn in place of the source's own."""
    prompt: str | None = None
    """Text around the question, with `{question}` in it; null asks it as the source words it."""
    env: NamedPart = Part("single_turn")
    """What answers the model's replies: an environment of several turns (`reasonkit list envs`) with its options,
    or a user's `module:Class`. Its own judgement, where it has one, stands before the verifier's."""
    verifier: str | None = None
    """Null judges as the source says (`reasonkit list verifiers`)."""
    metric: Literal["accuracy", "score"] = "accuracy"
    """`accuracy` counts items that are right; `score` averages partial credit too."""
    cluster: str | None = None
    """The metadata key that items share which depend on each other: a table, a room, a program."""
    breakdown: tuple[str, ...] = ()
    """Metadata keys by which the score is also shown."""
    k: Positive = 1
    """Samples an item."""
    sampling: str = "guru"
    """A preset of sampling: guru, greedy, reason_io."""
    max_tokens: Positive | None = None
    """Of a reply, in an environment of each; null takes the preset's."""
    reference: dict[str, float] = Field(default_factory=dict)
    """Published scores in percent, by model."""
    obtain: str = ""
    """What to do where no command can fetch the items."""

    def sampled_as(self, preset: str | None = None) -> Sampling:
        """The sampling of a preset, this task's own where none is named."""
        name = preset or self.sampling
        if name not in PRESETS:
            raise UsageError(f"unknown sampling preset '{name}'", nearest(name, PRESETS))
        sampling = PRESETS[name]
        return replace(sampling, max_tokens=self.max_tokens) if self.max_tokens else sampling

    def cluster_of(self, record: Record) -> str:
        """What the item shares with those that depend on it: itself, where nothing."""
        return str(record.metadata[self.cluster]) if self.cluster else record.uid

    def items(self, records: Iterable[Record]) -> list[Record]:
        """The records of the source as this task asks and judges them."""
        chosen: Iterable[Record] = load(self.adapt)(list(records)) if self.adapt else records
        return [self._asked(record) for record in chosen]

    def _asked(self, record: Record) -> Record:
        turns = list(record.prompt)
        if self.prompt is not None:
            question = self.prompt.replace("{question}", turns[-1]["content"].strip())
            turns[-1] = Message(role=turns[-1]["role"], content=question)
        if self.system is not None:
            own = [turn for turn in turns if turn["role"] != "system"]
            turns = [Message(role="system", content=self.system), *own]
        return replace(record, prompt=tuple(turns), verifier=self.verifier or record.verifier)


@dataclass(frozen=True, slots=True)
class TaskRef:
    """A task as it was asked for."""

    task: Task
    k: int
    suite: str | None = None

    @property
    def name(self) -> str:
        return self.task.name


TASKS: dict[str, str] = {
    "aime24": "reasonkit.tasks.guru:AIME24",
    "math500": "reasonkit.tasks.guru:MATH500",
    "livecodebench": "reasonkit.tasks.guru:LIVECODEBENCH",
    "humaneval": "reasonkit.tasks.guru:HUMANEVAL",
    "mbpp": "reasonkit.tasks.guru:MBPP",
    "gpqa-diamond": "reasonkit.tasks.guru:GPQA_DIAMOND",
    "supergpqa": "reasonkit.tasks.guru:SUPERGPQA",
    "arc-agi-1": "reasonkit.tasks.guru:ARC_AGI_1",
    "zebra": "reasonkit.tasks.guru:ZEBRA",
    "codeio": "reasonkit.tasks.guru:CODEIO",
    "cruxeval-i": "reasonkit.tasks.guru:CRUXEVAL_I",
    "cruxeval-o": "reasonkit.tasks.guru:CRUXEVAL_O",
    "finqa": "reasonkit.tasks.guru:FINQA",
    "hitab": "reasonkit.tasks.guru:HITAB",
    "multihiertt": "reasonkit.tasks.guru:MULTIHIERTT",
    "ifeval": "reasonkit.tasks.guru:IFEVAL",
    "livebench": "reasonkit.tasks.guru:LIVEBENCH",
    "aime21": "reasonkit.tasks.mathematics:AIME21",
    "aime22": "reasonkit.tasks.mathematics:AIME22",
    "aime23": "reasonkit.tasks.mathematics:AIME23",
    "aime25": "reasonkit.tasks.mathematics:AIME25",
    "amc": "reasonkit.tasks.mathematics:AMC",
    "gsm8k": "reasonkit.tasks.mathematics:GSM8K",
    "olympiadbench": "reasonkit.tasks.mathematics:OLYMPIADBENCH",
    "minerva": "reasonkit.tasks.mathematics:MINERVA",
    "reason_io-deductive": "reasonkit.tasks.puzzles:REASON_IO_DEDUCTIVE",
    "reason_io-abductive": "reasonkit.tasks.puzzles:REASON_IO_ABDUCTIVE",
    "reason_io-inductive": "reasonkit.tasks.puzzles:REASON_IO_INDUCTIVE",
    "kk2": "reasonkit.tasks.puzzles:KK2",
    "kk3": "reasonkit.tasks.puzzles:KK3",
    "kk4": "reasonkit.tasks.puzzles:KK4",
    "kk5": "reasonkit.tasks.puzzles:KK5",
    "kk6": "reasonkit.tasks.puzzles:KK6",
    "kk7": "reasonkit.tasks.puzzles:KK7",
    "kk8": "reasonkit.tasks.puzzles:KK8",
    "knights": "reasonkit.tasks.puzzles:KNIGHTS",
    "sokoban": "reasonkit.tasks.puzzles:SOKOBAN",
    "sokoban-plan": "reasonkit.tasks.puzzles:SOKOBAN_PLAN",
    "frozen_lake": "reasonkit.tasks.puzzles:FROZEN_LAKE",
}
"""Tasks under names of their own; every data set is one too, under its own name."""

ALIASES: dict[str, str] = {"aime": "aime24:32"}

SUITES: dict[str, tuple[str, ...]] = {
    "guru17": (
        "aime24",
        "math500",
        "livecodebench",
        "humaneval",
        "mbpp",
        "gpqa-diamond",
        "supergpqa",
        "arc-agi-1",
        "zebra",
        "codeio",
        "cruxeval-i",
        "cruxeval-o",
        "finqa",
        "hitab",
        "multihiertt",
        "ifeval",
        "livebench",
    ),
    "aime-years": ("aime21", "aime22", "aime23", "aime24", "aime25"),
    "kk-all": ("kk2", "kk3", "kk4", "kk5", "kk6", "kk7", "kk8"),
    "reason_io": ("reason_io-deductive", "reason_io-abductive", "reason_io-inductive"),
}
"""Tasks that are run and averaged together."""


def expand(names: Iterable[str]) -> list[TaskRef]:
    """The tasks that `names` mean, suites taken apart; each task once."""
    refs: list[TaskRef] = []
    for text in names:
        name, k = _split_k(text)
        if name not in SUITES:
            refs.append(parse(text))
            continue
        for member in SUITES[name]:
            ref = parse(member)
            refs.append(replace(ref, suite=name, k=k or ref.k))
    seen: dict[str, TaskRef] = {}
    for ref in refs:
        if seen.setdefault(ref.name, ref).k != ref.k:
            had = seen[ref.name].k
            raise UsageError(f"'{ref.name}' is asked for with k = {had} and with k = {ref.k}", "name it once")
    return list(seen.values())


def parse(text: str) -> TaskRef:
    """The one task that `text` means."""
    name, k = _split_k(ALIASES.get(text, text))
    if name in ALIASES:
        name = _split_k(ALIASES[name])[0]
    if name in SUITES:
        raise UsageError(
            f"'{name}' is a suite of {len(SUITES[name])} tasks",
            f"one of them: {', '.join(SUITES[name][:4])}, …",
        )
    task = task_named(name)
    return TaskRef(task, k or task.k)


def _split_k(text: str) -> tuple[str, int | None]:
    name, colon, count = text.rpartition(":")
    if not colon or not count.isdecimal():
        return text, None
    if int(count) < 1:
        raise UsageError(f"'{text}' asks for {count} samples an item", f"{name}:1")
    return name, int(count)


def task_named(name: str) -> Task:
    """The task called `name`, or made of what else the name means."""
    if name in TASKS:
        task: Task = load(TASKS[name])
        return task
    if name.endswith((".yaml", ".yml")):
        return read_task(Path(name))
    if _is_attribute(name):
        task = resolve("task", name, TASKS)
        if not isinstance(task, Task):
            raise UsageError(
                f"{name} is a {type(task).__name__}, not a reasonkit.tasks.Task", "make it a Task(…)"
            )
        return task
    return Task(
        name=name,
        source=(SourceConfig(name=name),),
        about="a data set, as it is",
    )


def read_task(path: Path) -> Task:
    """A user's own task from YAML; its keys are Task's fields, and the file's name is its default name."""
    if not path.expanduser().is_file():
        raise UsageError(f"task file '{path}' does not exist", "reasonkit list tasks")
    tree = read_tree(path.expanduser().resolve())
    try:
        return Task.model_validate({"name": path.stem, **tree.values})
    except ValidationError as invalid:
        lines = []
        for error in invalid.errors():
            key = tuple(str(part) for part in error["loc"] if not isinstance(part, int))
            where = tree.origin(key) if key else str(path)
            if error["type"] == "extra_forbidden":
                lines.append(
                    f"unknown key '{'.'.join(key)}' ({where}): {nearest(key[-1], Task.model_fields)}"
                )
            else:
                lines.append(f"{'.'.join(key)} = {error['input']!r} ({where}): {error['msg']}")
        raise ConfigError("\n".join(lines), "reasonkit show tasks/gsm8k") from None


def _is_attribute(name: str) -> bool:
    """Whether `a.b:c` names something of an importable module, and not a part of a data set."""
    module, colon, attribute = name.partition(":")
    if (
        not colon
        or not attribute.isidentifier()
        or not all(part.isidentifier() for part in module.split("."))
    ):
        return False
    if (Path.cwd() / Path(*module.split("."))).with_suffix(".py").is_file():
        return True
    return module not in ("rg", "hf") and importlib.util.find_spec(module.partition(".")[0]) is not None
