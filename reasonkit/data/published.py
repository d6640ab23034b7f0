"""Published data sets, by name: which files of which repository, for which split, and how their rows are read.

Only what the files cannot say themselves stands here. Revisions, sizes and hashes are resolved when a set is
first pulled and written to its manifest. `opt_in` parts are those that would surprise by their size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reasonkit.data.adapters import READERS, BadRow, Reader, Row, read_verl, stable_uid
from reasonkit.records import Message, Record, dumps


@dataclass(frozen=True, slots=True)
class PublishedPart:
    """Some files that make one record file."""

    domain: str
    patterns: tuple[str, ...]
    split: str = "train"
    opt_in: bool = False
    each: bool = False
    """Every file is a set of its own, named by its stem."""


@dataclass(frozen=True, slots=True)
class Published:
    """A data set on the Hub. With `raw`, its files are kept as they are, for `reasonkit data build`."""

    repo: str
    about: str
    parts: tuple[PublishedPart, ...]
    read: str = "verl"
    raw: bool = False


COMPLETE = "complete_"


def read_guru(row: Row) -> Record:
    """A row of Guru without its `complete_*` tests.

    Guru sampled eight tests a program and kept all the others beside them, in gigabytes that no verifier reads.
    """
    record = read_verl(row)
    tests = _without_complete(record.answer)
    return record if tests is record.answer else replace(record, answer=tests)


def _without_complete(answer: Any) -> Any:
    """The same object where there is nothing to leave out."""
    if isinstance(answer, dict):
        kept = {key: value for key, value in answer.items() if not key.startswith(COMPLETE)}
        return answer if len(kept) == len(answer) or not kept else kept
    if isinstance(answer, str) and f'"{COMPLETE}' in answer and answer.lstrip().startswith("{"):
        try:
            parsed = json.loads(answer)
        except (ValueError, RecursionError):
            return answer
        kept = _without_complete(parsed)
        return answer if kept is parsed else dumps(kept)
    return answer


def read_knights(row: Row) -> Record:
    """A row of K-and-K/knights-and-knaves, as the answer and source that Logic-RL gives it."""
    quiz, solution = row.get("quiz"), row.get("solution_text_format")
    if not isinstance(quiz, str) or not isinstance(solution, str):
        raise BadRow("columns quiz and solution_text_format are not both text")
    names: Any = row.get("names")
    prompt = (Message(role="user", content=quiz),)
    answer = {"solution_text_format": solution, "statements": str(row.get("statements", ""))}
    people = len(names) if isinstance(names, list) else solution.count("\n") + 1
    return Record(
        stable_uid(prompt, answer), "kk_logic", prompt, answer, None, {"ability": "logic", "people": people}
    )


def read_olympiadbench(row: Row) -> Record:
    """A row of Hothan/OlympiadBench. Several answers are joined by commas; some questions need their context."""
    question, answers = row.get("question"), row.get("final_answer")
    if not isinstance(question, str) or not isinstance(answers, list) or not answers:
        raise BadRow("columns question and final_answer are not a text and a list of answers")
    context = row.get("context")
    text = f"{context.strip()}\n{question}" if isinstance(context, str) and context.strip() else question
    metadata = {"ability": "math"} | {key: row[key] for key in ("subfield", "unit") if row.get(key)}
    prompt = (Message(role="user", content=text),)
    return Record(
        str(row.get("id") or stable_uid(prompt, answers)),
        "math__olympiadbench",
        prompt,
        ", ".join(map(str, answers)),
        None,
        metadata,
    )


_LCB = "codegen__livecodebench*"
_EVAL_DOMAINS = ("codegen", "logic", "math", "ood", "simulation", "stem", "table")


def _evaluations(folder: str) -> tuple[PublishedPart, ...]:
    listed = (
        PublishedPart(domain, (f"{folder}/{domain}__*.parquet",), "test", each=True)
        for domain in _EVAL_DOMAINS
    )
    return (*listed, PublishedPart("livecodebench", (f"{folder}/{_LCB}",), "test", opt_in=True, each=True))


_REASON_IO = "from Logic-RL-main/data/reason_io of github.com/Ovanerven/DL2_CodeI-O"
BY_HAND: Mapping[str, str] = {
    "reason_io": f"reason_io_dataset_train.parquet, {_REASON_IO}",
    "reason_io_ablation": f"deductive_abductive_only_ablation.parquet, {_REASON_IO}",
}
"""Published, but on no hub: the file to fetch, and where it is."""

PUBLISHED: Mapping[str, Published] = {
    "guru": Published(
        "LLM360/guru-RL-92k",
        "91.9k problems of six domains, filtered by difficulty; LiveCodeBench's 3.3 GB only on request",
        (
            PublishedPart("math", ("train/math__*.parquet",)),
            PublishedPart("codegen", ("train/codegen__*.parquet",)),
            PublishedPart("livecodebench", (f"train/{_LCB}",), opt_in=True),
            PublishedPart("logic", ("train/logic__*.parquet",)),
            PublishedPart("simulation", ("train/simulation__*.parquet",)),
            PublishedPart("table", ("train/table__*.parquet",)),
            PublishedPart("stem", ("train/stem__*.parquet",)),
        ),
        read="guru",
    ),
    "guru-online": Published(
        "LLM360/guru-RL-92k",
        "Guru's 13 evaluation sets for use during training",
        _evaluations("online_eval"),
        read="guru",
    ),
    "guru-offline": Published(
        "LLM360/guru-RL-92k",
        "Guru's evaluation sets for use after training",
        _evaluations("offline_eval"),
        read="guru",
    ),
    "ii-thought": Published(
        "Intelligent-Internet/II-Thought-RL-v0",
        "342k problems with verification_info: mathematics, code, science, software engineering",
        (PublishedPart("", ("*.parquet",)),),
        read="ii_thought",
    ),
    "kk": Published(
        "K-and-K/knights-and-knaves",
        "Knights & Knaves with 2 to 8 people, the data behind Logic-RL",
        tuple(
            PublishedPart(f"{people}ppl", (f"{split}/people{people}_*.jsonl",), split)
            for people in range(2, 9)
            for split in ("train", "test")
        ),
        read="knights",
    ),
    "olympiadbench": Published(
        "Hothan/OlympiadBench",
        "674 olympiad problems in English, without pictures, with answers that can be checked",
        (PublishedPart("", ("OE_TO_maths_en_COMP/*.parquet",), "test"),),
        read="olympiadbench",
    ),
    "dapo-math": Published(
        "BytedTsinghua-SIA/DAPO-Math-17k",
        "17,917 problems; the files repeat each of them a hundred times, and it is kept once",
        (PublishedPart("", ("*.parquet",)),),
    ),
    "codeio-pyedu": Published(
        "hkust-nlp/CodeIO-PyEdu-Reasoning-Raw",
        "Programs with inputs and outputs, as they are: for `data build codeio --set raw=…`",
        (PublishedPart("", ("0_368500_filtered_v2_ds25.sced.jsonl",)),),
        raw=True,
    ),
}


def parts_named(name: str) -> list[PublishedPart]:
    """The parts that `NAME` or `NAME:PART` means; none where there is no such set or part.

    A part that is many sets is meant by its own name and by that of each (guru-online:math__aime).
    """
    base, _, asked = name.partition(":")
    if base not in PUBLISHED:
        return []
    return [
        part
        for part in PUBLISHED[base].parts
        if asked in ("", part.domain) or (part.each and asked.startswith(f"{part.domain}__"))
    ]


def pull_command(name: str) -> str:
    """What to type to have a published set, a part of one, or a Hub set on this machine."""
    base, _, part = name.partition(":")
    if base == "hf":
        return f"reasonkit data pull {part}"
    domains = sorted({each.domain for each in parts_named(name)}) if part else []
    return f"reasonkit data pull {base}" + (f" --domains {','.join(domains)}" if domains else "")


PUBLISHED_READERS: Mapping[str, Reader] = {
    **READERS,
    "guru": read_guru,
    "knights": read_knights,
    "olympiadbench": read_olympiadbench,
}
