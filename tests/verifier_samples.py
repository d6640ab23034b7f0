"""One record for every registered verifier, with a reply that is right. The audit and the attacks share them."""

from __future__ import annotations

from dataclasses import dataclass

from reasonkit.records import Record

QUESTION = ({"role": "user", "content": "What is the answer? Say only what was asked for."},)


@dataclass(frozen=True)
class Sample:
    record: Record
    gold: str
    """A reply that scores 1."""
    other: str
    """A right reply to another record of the same kind."""


def _sample(verifier: str, answer: object, gold: str, other: str, **metadata: object) -> Sample:
    return Sample(Record(verifier, "sample", QUESTION, answer, verifier, metadata), gold, other)


def _answer(text: str) -> str:
    return f"<think>hm</think><answer>{text}</answer>"


def _box(text: str) -> str:
    return f"<think>hm</think>\\boxed{{{text}}}"


_FILE = "".join(f"line {index}\n" for index in range(30))
_FIXED = _FILE.replace("line 7\n", "line seven\n")
_OTHER_FILE = "".join(f"other {index}\n" for index in range(30))

SAMPLES: dict[str, Sample] = {
    "exact": _sample("exact", "Paris", _answer("Paris"), _answer("Rome")),
    "gsm8k": _sample("gsm8k", "72", "so\n#### 72", "so\n#### 71"),
    "math": _sample("math", r"\frac{152}{3}", _box(r"\frac{152}{3}"), _box("7")),
    "choice": _sample("choice", "B", _box("B"), _box("C"), choices=["x", "y", "z"]),
    "list": _sample("list", ["a", "b"], _answer("a, b"), _answer("b, c")),
    "search": _sample("search", {"target": ["The Beatles"]}, _answer("beatles."), _answer("the who")),
    "set": _sample("set", ["a", "b"], _answer("b, a"), _answer("b, c")),
    "number": _sample("number", 12.5, _box("12.5"), _box("7")),
    "table": _sample("table", "3|5", _box("5|3"), _box("5|4")),
    "format": _sample("format", ["think", "box"], _box("x"), "<think>a</think>"),
    "ifeval": _sample(
        "ifeval",
        {"instruction_id_list": ["startend:quotation"], "kwargs": [{}]},
        '"quoted"',
        "My answer is yes.",
    ),
    "livebench": _sample(
        "livebench", "yes, no, yes", "**yes, no, yes**", "**no, no, yes**", task="web_of_lies_v2"
    ),
    "swe": _sample(
        "swe",
        {"input": _FILE, "ground_truth": _FIXED},
        f"```python\n{_FIXED}```\n",
        f"```python\n{_OTHER_FILE}```\n",
    ),
    "judge": _sample("judge", "about 12 metres", _box("About 12 metres."), _box(":")),
    "reasoning_gym": _sample(
        "reasoning_gym",
        "12",
        _answer("12"),
        _answer("13"),
        task="leg_counting",
        entry={"question": "How many legs?", "answer": "12", "metadata": {}},
    ),
    "arc": _sample("arc", [[1, 0], [0, 2]], _answer("[[1, 0], [0, 2]]"), _answer("[[1, 1], [1, 1]]")),
    "countdown": _sample(
        "countdown", {"numbers": [2, 3, 4], "target": 10}, _answer("2*3+4"), _answer("2+3+4")
    ),
    "graph": _sample("graph", "zebra", _answer("zebra"), _answer("horse")),
    "knights": _sample(
        "knights",
        {"solution_text_format": "(1) Zoey is a knight\n(2) Liam is a knave"},
        _answer("(1) Zoey is a knight (2) Liam is a knave"),
        _answer("(1) Zoey is a knave (2) Liam is a knight"),
    ),
    "ordering": _sample(
        "ordering", ["owl", "crow", "jay"], _answer("['owl', 'crow', 'jay']"), _answer("jay")
    ),
    "sokoban": _sample(
        "sokoban", {}, _answer("Right"), _answer("Left"), room="#####\n#PXO#\n#####", max_steps=5
    ),
    "zebra": _sample(
        "zebra",
        {"header": ["House", "Pet"], "rows": [["1", "cat"], ["2", "dog"]]},
        _answer('{"header": ["House", "Pet"], "rows": [["1", "cat"], ["2", "dog"]]}'),
        _answer('{"header": ["House", "Pet"], "rows": [["1", "dog"], ["2", "cat"]]}'),
    ),
}
