"""Science questions of university level with short answers, from WebInstruct-verified, as Guru filtered them.

Answers are free text, so the records are for the LLM judge. Guru filtered further with models (19.3k to 3.6k
rows); that step cannot be redone from the source, `reasonkit filter` does one of its kind. Its limit of 30
tokens an answer is one of 120 characters here, for no tokenizer is at hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from reasonkit.data.sources import Problem, Source, Split
from reasonkit.data.sources.raw import (
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

NAME = "stem"
DOWNLOADS = (Download("TIGER-Lab/WebInstruct-verified", "train split", "see its card"),)

LONGEST_ANSWER = 120
LEVELS = frozenset({"University", "PhD"})
GUESSABLE = frozenset({"Boolean", "Multiple Choice"})
FINE_DECIMALS = re.compile(r"\d\.\d{4}")
INSTRUCTION = (
    "You are a knowledgeable assistant. Answer the following questions and think step by step. "
    "Please output the final answer within \\boxed{}. "
)


def convert(row: Row) -> Problem:
    answer = str(row["answer"] or "").strip()
    if row["category"] == "Mathematics":
        raise Skip("of mathematics")
    if row["difficulty"] not in LEVELS:
        raise Skip("below university level")
    if row["answer_type"] in GUESSABLE or re.fullmatch(r"\(?[A-Za-z]\)?", answer):
        raise Skip("that can be guessed")
    if not answer or len(answer) > LONGEST_ANSWER:
        raise Skip("without a short answer")
    if FINE_DECIMALS.search(answer):
        raise Skip("with more than three decimals")
    text = str(row["question"]).strip()
    metadata = {
        "ability": "QA",
        "question": text,
        **{key: row[key] for key in ("category", "difficulty", "answer_type")},
    }
    return Problem(text_key(text), question(INSTRUCTION + text), answer, metadata)


def build(split: Split, size: int, seed: int, settings: RawSettings) -> Iterator[Record]:
    folder = raw_folder(NAME, DOWNLOADS, settings)
    return converted(
        NAME, split, size, seed, lambda: raw_rows(folder, "*train*.parquet", "*train*.jsonl"), convert
    )


SOURCE = Source(NAME, "University science questions from raw WebInstruct-verified files", RawSettings, build)
