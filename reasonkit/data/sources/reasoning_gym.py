"""Every task of the reasoning-gym library as a source, `rg:TASK`, scored by the library's own scorer.

The library seeds item i of a set with `seed + i`, so that sets with neighbouring seeds share nearly all
their items. Here each item is a set of size one with a hashed seed. Difficulty and all else that a task
can be told is `config`, in the library's own words.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from reasonkit.data.sources import Draw, Problem, QuestionSettings, Source, Split, distinct
from reasonkit.errors import ReasonkitError, UsageError, nearest
from reasonkit.records import Record
from reasonkit.verifiers.rg_labels import right_label

PREFIX = "rg:"

PATIENCE = 300
"""Fewer fruitless draws than elsewhere: some tasks take a third of a second for one."""

HASH_ORDERED = frozenset(
    {"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"}
)
"""Tasks that iterate over sets of strings, so that what they draw depends on Python's hash seed. They are
drawn in a process of their own with a fixed one."""

UNSOLVED = "Integral("
"""In a gold answer: the library asked for an integral that it could not do itself."""

FIXED_HASH_SEED = "0"

REUSED = frozenset(
    {
        "arc_agi",
        "caesar_cipher",
        "codeio",
        "emoji_mystery",
        "figlet_font",
        "group_anagrams",
        "letter_counting",
        "letter_jumble",
        "n_queens",
        "rush_hour",
        "sentence_reordering",
        "spell_backward",
        "word_ladder",
        "word_sequence_reversal",
        "word_sorting",
    }
)
"""Tasks whose set reads a file of words, fonts or grids when it is made, 1 to 300 ms: one set is kept and
given a new seed for each item. Not for all tasks: three draw while the set is made."""


class ReasoningGymSettings(QuestionSettings):
    config: dict[str, Any] = Field(
        {}, description="Settings of the reasoning-gym task itself, such as --set config.min_number=3."
    )


def task_names() -> list[str]:
    """All tasks of the installed library, but for its own mixer."""
    from reasoning_gym.factory import DATASETS

    return sorted(name for name in DATASETS if name != "composite")


def source_for(task: str) -> Source[ReasoningGymSettings]:
    """The source that `rg:TASK` means."""

    def build(split: Split, size: int, seed: int, settings: ReasoningGymSettings) -> Iterator[Record]:
        _check_config(task, settings.config)
        return _build(task, split, size, seed, settings)

    names = task_names()
    if task not in names:
        raise UsageError(f"reasoning-gym has no task '{task}'", nearest(task, names) or "reasonkit list data")
    return Source(f"{PREFIX}{task}", f"reasoning-gym's task {task}", ReasoningGymSettings, build)


def _check_config(task: str, config: Mapping[str, Any]) -> None:
    """Raise UsageError where the library knows no such setting or refuses its value."""
    from reasoning_gym.factory import DATASETS

    known = {field.name for field in dataclasses.fields(DATASETS[task][1])} - {"seed", "size"}
    for key in config:
        if key not in known:
            raise UsageError(
                f"{PREFIX}{task} has no setting config.{key}",
                nearest(key, known) or f"known: {', '.join(sorted(known))}",
            )
    try:
        _dataset(task, 0, config)
    except (AssertionError, TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value}" for key, value in config.items())
        raise UsageError(f"{PREFIX}{task} refuses {given}: {error}", "change --set config.…") from error


def entry(task: str, seed: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """One item of `task` in plain JSON values. Depends on nothing but the arguments and the hash seed."""
    import numpy as np
    from numpy.random import mtrand

    # Some tasks draw from the global generators; those of the caller are left as they were. Numpy's is exchanged,
    # which costs 3 µs; to copy its state out and in again would take a third of an item's time.
    python_state, numpy_generator = random.getstate(), mtrand.get_bit_generator()
    mtrand.set_bit_generator(_own_generator())
    random.seed(seed)
    np.random.seed(seed)
    try:
        item = _dataset(task, seed, config)[0]
    finally:
        random.setstate(python_state)
        mtrand.set_bit_generator(numpy_generator)
    plain: dict[str, Any] = json.loads(json.dumps(item, default=_plain, sort_keys=True))
    return plain


@functools.cache
def _own_generator() -> Any:
    import numpy as np

    return np.random.MT19937(0)


def _dataset(task: str, seed: int, config: Mapping[str, Any]) -> Any:
    import reasoning_gym

    if task not in REUSED:
        return reasoning_gym.create_dataset(task, size=1, seed=seed, **config)
    dataset = _loaded(task, json.dumps(config, sort_keys=True))
    dataset.seed = dataset.config.seed = seed
    return dataset


@functools.lru_cache(maxsize=len(REUSED))
def _loaded(task: str, config: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(task, size=1, seed=0, **json.loads(config))


def _plain(value: Any) -> Any:
    """What JSON has no words for, in words that the library's scorers still understand."""
    import numpy as np

    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return repr(value)


def _build(task: str, split: Split, size: int, seed: int, settings: ReasoningGymSettings) -> Iterator[Record]:
    with items(task, settings.config) as item_for:

        def draw(attempt: Draw) -> Problem | None:
            item_seed = attempt.seed >> 32  # numpy, which some tasks seed, takes 32 bits
            item = item_for(item_seed)
            if UNSOLVED in str(item["answer"]):
                return None
            if item["answer"] is not None:
                label = right_label(task, item["question"], item["answer"])
                if label is None:
                    return None
                item["answer"] = label
            metadata = {
                "ability": "reasoning",
                "task": task,
                "config": settings.config,
                "task_seed": item_seed,
                "entry": item,
            }
            return Problem(item["question"], settings.prompt(item["question"]), item["answer"], metadata)

        yield from distinct(
            f"{PREFIX}{task}",
            json.dumps(settings.config, sort_keys=True),
            split,
            size,
            seed,
            draw,
            verifier="reasoning_gym",
            patience=PATIENCE,
        )


@contextmanager
def items(task: str, config: Mapping[str, Any]) -> Iterator[Callable[[int], dict[str, Any]]]:
    """A function from a seed to an item of `task`."""
    if task not in HASH_ORDERED or os.environ.get("PYTHONHASHSEED") == FIXED_HASH_SEED:
        yield lambda seed: entry(task, seed, config)
        return
    child = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import serve; serve()", task, json.dumps(config)],
        env={**os.environ, "PYTHONHASHSEED": FIXED_HASH_SEED},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    requests, replies = child.stdin, child.stdout

    def ask(seed: int) -> dict[str, Any]:
        requests.write(f"{seed}\n")
        requests.flush()
        line = replies.readline()
        if not line:
            raise ReasonkitError(
                f"the process that draws {PREFIX}{task} ended with code {child.wait()}; its error is above",
                "check the task's --set config.… values",
            )
        item: dict[str, Any] = json.loads(line)
        return item

    with child:
        yield ask
        requests.close()


def serve() -> None:
    """The child's side of `items`: a seed a line in, an item a line out."""
    task, config = sys.argv[1], json.loads(sys.argv[2])
    for line in sys.stdin:
        print(json.dumps(entry(task, int(line), config)), flush=True)
