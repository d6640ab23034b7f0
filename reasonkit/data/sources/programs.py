"""Programming problems with tests: LeetCodeDataset, TACO-verified, and PrimeIntellect's of DeepCoder.

Tests stay data wherever they are data: calls are arguments and results, programs are stdin and stdout; only
LeetCode's come as a `check` function. A problem is kept only if its own solution passes its tests in the
sandbox (`check=false` skips that). Many sets carry hundreds of tests a problem, gigabytes in all; a
sample of `tests` of them is kept.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import Field

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
from reasonkit.errors import ReasonkitError
from reasonkit.records import Record, Status
from reasonkit.seeding import derive_seed

LEETCODE = "leetcode"
TACO = "taco"
PRIMEINTELLECT = "primeintellect"
DOWNLOADS = {
    LEETCODE: (
        Download("newfacade/LeetCodeDataset", "LeetCodeDataset-{train,test}.jsonl, 101 MB", "Apache-2.0"),
    ),
    TACO: (Download("likaixin/TACO-verified", "train split, about 12,000 rows", "see its card"),),
    PRIMEINTELLECT: (
        Download("agentica-org/DeepCoder-Preview-Dataset", "folder primeintellect", "see its card"),
    ),
}

LONGEST_PROMPT = 20_480
LONGEST_STDIN = 4096
FEWEST_LETTERS = 100
ASK = "Solve the programming task below in a Python markdown code block."


class ProgramSettings(RawSettings):
    tests: int = Field(8, ge=1, description="Tests to keep of each problem.")
    check: bool = Field(
        True, description="Run each problem's own solution in the sandbox and leave out those that fail."
    )


def convert_leetcode(row: Row, settings: ProgramSettings) -> Problem:  # noqa: ARG001 (all share one signature)
    """The prompt is `query`; the tests are a function `check(candidate)` that asserts."""
    text = str(row["query"]).replace("### Answer: (use the provided format with backticks)", "").strip()
    tests = f"{row['test']}\n\ncheck({str(row['entry_point']).strip()})"
    metadata = {
        "prefix": row["prompt"],
        "difficulty": row["meta"]["difficulty"],
        "title": row["meta"]["question_title"],
    }
    return _problem(text, {"functional": tests}, str(row["completion"]), metadata)


def convert_taco(row: Row, settings: ProgramSettings) -> Problem:
    """`input_output` is JSON of inputs and outputs, with `fn_name` where they are calls."""
    text = str(row["question"])
    if row["source"] in ("geeksforgeeks", "leetcode"):
        raise Skip("of a site whose rows are badly formed")
    if sum(character.isalnum() for character in text) < FEWEST_LETTERS:
        raise Skip("with too short a text")
    if "image" in text.lower() or "\n![" in text:
        raise Skip("with an image")
    if not row["solutions"]:
        raise Skip("without a solution")
    cases = json.loads(row["input_output"])
    starter = str(row["starter_code"] or "").strip()
    hint = f"\nYou may build on this starter code:\n```python\n{starter}\n```" if starter else ""
    if "fn_name" in cases:
        # Codewars wraps each result in a list of its own.
        unwrapped = [value[0] if row["source"] == "codewars" else value for value in cases["outputs"]]
        gold = _calls(text, str(cases["fn_name"]), cases["inputs"], unwrapped, settings.tests)
    else:
        gold = _programs(
            text, [_lines(each) for each in cases["inputs"]], map(_lines, cases["outputs"]), settings.tests
        )
    return _problem(f"{ASK}\n{text.strip()}{hint}", gold, str(row["solutions"][-1]), {"site": row["source"]})


def convert_primeintellect(row: Row, settings: ProgramSettings) -> Problem:
    """`tests` is JSON: function calls with arguments and a list of one result, or stdin and stdout."""
    text = str(row["problem"]).strip()
    if re.match(r"(example|input)\b", text, re.IGNORECASE) or "<image>" in text or "![" in text:
        raise Skip("with no text of its own or an image")
    if not row["solutions"]:
        raise Skip("without a solution")
    tests = json.loads(row["tests"])
    if not tests:
        raise Skip("without tests")
    if tests[0]["type"] == "function_call":
        outputs = [test["output"][0] for test in tests]
        gold = _calls(
            text, str(tests[0]["fn_name"]), [test["input"] for test in tests], outputs, settings.tests
        )
    else:
        gold = _programs(
            text, [test["input"] for test in tests], (test["output"] for test in tests), settings.tests
        )
    return _problem(text, gold, _unfenced(str(row["solutions"][0])), {})


def _calls(text: str, name: str, inputs: Sequence[Any], outputs: Sequence[Any], tests: int) -> dict[str, Any]:
    picked = _sample(text, list(zip(inputs, outputs, strict=True)), tests)
    return {"fn_name": name, "inputs": [given for given, _ in picked], "outputs": [got for _, got in picked]}


def _programs(text: str, inputs: Sequence[str], outputs: Iterator[str], tests: int) -> dict[str, Any]:
    pairs = [(given, got.replace("\r\n", "\n")) for given, got in zip(inputs, outputs, strict=True)]
    picked = _sample(text, [pair for pair in pairs if len(pair[0]) <= LONGEST_STDIN], tests)
    return {"inputs": [given for given, _ in picked], "outputs": [got for _, got in picked]}


def _sample(text: str, pairs: list[Any], tests: int) -> list[Any]:
    """At most `tests` of the pairs, in their order; the same for the same problem in every build."""
    if not pairs:
        raise Skip("without a usable test")
    rng = random.Random(derive_seed(0, "data", "tests", text))
    return [pairs[index] for index in sorted(rng.sample(range(len(pairs)), min(tests, len(pairs))))]


def _lines(value: str | list[str]) -> str:
    return "\n".join(value) if isinstance(value, list) else value


def _unfenced(solution: str) -> str:
    """The content of the first fence, or the whole text."""
    fence = re.search(r"```[a-z]*\n(.*?)```", solution, re.DOTALL)
    return fence[1] if fence else solution


def _problem(text: str, gold: dict[str, Any], reference: str, metadata: dict[str, Any]) -> Problem:
    if len(text) > LONGEST_PROMPT:
        raise Skip(f"with more than {LONGEST_PROMPT} characters")
    extra = {"ability": "codegen", "reference": reference, **metadata}
    return Problem(text_key(text), question(text), gold, extra)


def passes_its_tests(record: Record) -> bool:
    """Whether the verifier accepts the record's own solution, by tests that no solution can tamper with. A sandbox
    that fails is an error, not a verdict."""
    from reasonkit.verifiers import verify

    verdict = verify(record, f"```python\n{record.metadata['reference']}\n```")
    if verdict.details.get("unusable") or verdict.details.get("tamperable"):
        return False
    if verdict.status.is_failure:
        raise ReasonkitError(
            f"the solution of {record.uid} could not be run: {verdict.reason}",
            "reasonkit doctor   or skip the check with --set check=false",
        )
    return verdict.status is Status.CORRECT


def _builder(
    name: str,
    patterns: dict[Split, Sequence[str]],
    convert: Callable[[Row, ProgramSettings], Problem],
    own_split: bool,
) -> Callable[[Split, int, int, ProgramSettings], Iterator[Record]]:
    def build(split: Split, size: int, seed: int, settings: ProgramSettings) -> Iterator[Record]:
        folder = raw_folder(name, DOWNLOADS[name], settings)
        return converted(
            name,
            split,
            size,
            seed,
            lambda: raw_rows(folder, *patterns[split]),
            lambda row: convert(row, settings),
            own_split=own_split,
            keep=passes_its_tests if settings.check else lambda _: True,
        )

    return build


ANY: dict[Split, Sequence[str]] = {"train": ("*.parquet", "*.jsonl"), "test": ("*.parquet", "*.jsonl")}
SPLIT_FILES: dict[Split, Sequence[str]] = {
    "train": ("*train*.jsonl", "*train*.parquet"),
    "test": ("*test*.jsonl", "*test*.parquet"),
}

LEETCODE_SOURCE = Source(
    LEETCODE,
    "LeetCode problems with tests, from raw LeetCodeDataset files",
    ProgramSettings,
    _builder(LEETCODE, SPLIT_FILES, convert_leetcode, own_split=True),
)
TACO_SOURCE = Source(
    TACO,
    "Contest problems with tests, from raw TACO-verified files",
    ProgramSettings,
    _builder(TACO, ANY, convert_taco, own_split=False),
)
PRIMEINTELLECT_SOURCE = Source(
    PRIMEINTELLECT,
    "Contest problems with tests, from raw DeepCoder files",
    ProgramSettings,
    _builder(PRIMEINTELLECT, ANY, convert_primeintellect, own_split=False),
)
