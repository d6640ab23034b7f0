"""Logic and simulation beside Guru's: ReasonIO by kind, Knights & Knaves by people, generated games and islands.

The published K&K sets are asked with Logic-RL's system text, as its models were trained. ReasonIO's file has the
chat template in its prompts already, and is not on the Hub.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from reasonkit.instructions import LOGIC_RL_SYSTEM
from reasonkit.recipe import Part, SourceConfig
from reasonkit.records import Record
from reasonkit.tasks import Task

QUINTILES = 5
LOGIC_RL = {2: 99.0, 3: 99.0, 4: 94.0, 5: 92.0, 6: 91.0, 7: 80.0, 8: 67.0}
LOGIC_RL_BASE = {2: 49.0, 3: 40.0, 4: 25.0, 5: 11.0, 6: 2.0, 7: 6.0, 8: 1.0}
"""Published accuracy in percent by people: of Logic-RL's model, and of the one it started from."""


def _of_kind(kind: str) -> Callable[[Sequence[Record]], list[Record]]:
    def chosen(records: Sequence[Record]) -> list[Record]:
        """The questions of one kind, each with the quintile of its program's length among all kinds."""
        lengths = sorted(int(record.answer["reference_code_length"]) for record in records)
        edges = [lengths[len(lengths) * part // QUINTILES] for part in range(1, QUINTILES)] if lengths else []
        return [
            replace(
                record, metadata={**record.metadata, "task_type": kind, "quintile": _place(record, edges)}
            )
            for record in records
            if record.answer["task_type"] == kind
        ]

    return chosen


def _place(record: Record, edges: Sequence[int]) -> int:
    """1 for the shortest fifth, 5 for the longest."""
    return 1 + sum(int(record.answer["reference_code_length"]) >= edge for edge in edges)


deductive, abductive, inductive = map(_of_kind, ("deductive", "abductive", "inductive"))


def _reason_io(kind: str, about: str) -> Task:
    return Task(
        name=f"reason_io-{kind}",
        about=about,
        source=(SourceConfig(name="reason_io"),),
        adapt=f"reasonkit.tasks.puzzles:{kind}",
        verifier="codeio",
        breakdown=("quintile",),
        k=3,
        sampling="reason_io",
        obtain="put reason_io_dataset_val.parquet there, from Logic-RL-main/data/reason_io of "
        "github.com/Ovanerven/DL2_CodeI-O",
    )


def _people(people: int) -> Task:
    return Task(
        name=f"kk{people}",
        about=f"100 Knights & Knaves puzzles with {people} people, as Logic-RL tests them",
        source=(SourceConfig(name=f"kk:{people}ppl"),),
        system=LOGIC_RL_SYSTEM,
        verifier="knights",
        reference={"Logic-RL-7B": LOGIC_RL[people], "Qwen2.5-7B-Instruct-1M": LOGIC_RL_BASE[people]},
    )


REASON_IO_DEDUCTIVE = _reason_io("deductive", "what a program returns for an input")
REASON_IO_ABDUCTIVE = _reason_io("abductive", "an input that makes a program return an output")
REASON_IO_INDUCTIVE = _reason_io("inductive", "an output from other inputs and outputs, the program unseen")
KK2, KK3, KK4, KK5, KK6, KK7, KK8 = map(_people, range(2, 9))
KNIGHTS = Task(
    name="knights",
    about="Knights & Knaves of 3 to 7 people, generated: no download",
    source=(SourceConfig(name="knights"),),
    verifier="knights",
    breakdown=("people",),
)
SOKOBAN = Task(
    name="sokoban",
    about="Sokoban, played in five turns of one or two moves: generated rooms, no download",
    source=(SourceConfig(name="sokoban"),),
    env=Part("sokoban", {"max_turns": 5, "actions_per_turn": 2}),
    verifier="sokoban",
    breakdown=("bin",),
    max_tokens=4096,
)
SOKOBAN_PLAN = Task(
    name="sokoban-plan",
    about="the same rooms, to solve in one reply",
    source=(SourceConfig(name="sokoban"),),
    verifier="sokoban",
    breakdown=("bin",),
)
FROZEN_LAKE = Task(
    name="frozen_lake",
    about="frozen lakes to cross in at most ten turns of a move: generated, no download",
    source=(SourceConfig(name="frozen_lake"),),
    env=Part("frozen_lake", {"max_turns": 10}),
    verifier="by_env",
    breakdown=("optimal",),
    max_tokens=4096,
)
