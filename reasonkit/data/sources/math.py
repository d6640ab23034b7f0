"""Mathematics with short checkable answers, from sets that Guru merged: DAPO, Skywork-OR1, DeepScaleR, Big-Math.

Each row's question is freed of the instructions that its set put around it and gets one: to box the answer.
Rows of several sets may lie in one folder; the same question counts once. Near repetitions are left to
`reasonkit data dedup`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from reasonkit.data.sources import Problem, Source, Split
from reasonkit.data.sources.raw import (
    BOXED,
    Download,
    RawSettings,
    Row,
    Skip,
    converted,
    question,
    raw_folder,
    raw_rows,
    text_key,
)
from reasonkit.records import Record

NAME = "math"

DOWNLOADS = (
    Download("BytedTsinghua-SIA/DAPO-Math-17k", "1,791,700 rows of 17,917 problems", "see its card"),
    Download("Skywork/Skywork-OR1-RL-Data", "split math, 105,055 rows", "see its card"),
    Download("agentica-org/DeepScaleR-Preview-Dataset", "40,300 rows", "see its card"),
    Download("SynthLabsAI/Big-Math-RL-Verified", "about 250,000 rows, gated", "see its card"),
)

LONGEST_ANSWER = 100

DAPO_BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form"
)
DAPO_AFTER = "Remember to put your answer on its own line after"


def convert(row: Row) -> Problem:
    """A row of any of the four sets, told apart by its columns."""
    if "reward_model" in row:
        text, answer = _verl_question(row), _verl_answer(row["reward_model"]["ground_truth"])
    else:
        text, answer = str(row["problem"]), str(row["answer"])
    text = text.strip()
    if not text or not answer.strip():
        raise Skip("without question or answer")
    if len(answer) >= LONGEST_ANSWER:
        raise Skip(f"with an answer of {LONGEST_ANSWER} characters or more")
    metadata = {
        key: row[key] for key in ("source", "domain", "llama8b_solve_rate") if row.get(key) is not None
    }
    return Problem(
        text_key(text), question(f"{text} {BOXED}"), answer.strip(), {"ability": "math", **metadata}
    )


def _verl_question(row: Row) -> str:
    """The question of DAPO's and Skywork's rows, without DAPO's instructions before and after it."""
    text = str(row["prompt"][-1]["content"])
    if text.startswith(DAPO_BEFORE):
        _, _, text = text.partition("\n\n")
    text, _, _ = text.partition(DAPO_AFTER)
    return text


def _verl_answer(gold: str) -> str:
    """Skywork keeps a JSON list of one answer, DAPO the answer itself."""
    try:
        listed = json.loads(gold)
    except json.JSONDecodeError:
        return gold
    if not isinstance(listed, list):
        return gold
    if len(listed) != 1:
        raise Skip(f"with {len(listed)} answers")
    return str(listed[0])


def build(split: Split, size: int, seed: int, settings: RawSettings) -> Iterator[Record]:
    folder = raw_folder(NAME, DOWNLOADS, settings)
    return converted(
        NAME, split, size, seed, lambda: raw_rows(folder, "*.parquet", "*.jsonl", "*.json"), convert
    )


SOURCE = Source(
    NAME, "Mathematics from raw DAPO, Skywork-OR1, DeepScaleR and Big-Math files", RawSettings, build
)
