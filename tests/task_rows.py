"""A hand-made row for every task with rows of its own, as its source has them, and replies of every kind.

Right, wrong, missing, truncated and hostile: what each must score stands in tests/integration/test_tasks.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

CUT = "<think>Let me see. The answer could be"
"""A reply that ended in its thinking, at the limit of tokens."""


@dataclass(frozen=True)
class Case:
    """A row, words that its prompt must hold, and replies with what they score."""

    rows: list[dict[str, Any]]
    asks: tuple[str, ...]
    right: str
    wrong: str
    hostile: str
    """Scores 0 in strict mode, whatever it does to a careless grader."""
    share: float = 0.0
    """Of the wrong reply, where there is partial credit."""
    published: dict[str, float] = field(default_factory=dict)
    """Replies that the published grader scores otherwise than the strict one."""
    nothing: str = ""
    """A reply without an answer."""


def verl(source: str, question: str, answer: Any, **extra: Any) -> dict[str, Any]:
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": question}],
        "ability": source.partition("__")[0],
        "apply_chat_template": True,
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"index": 0, "split": "test", **extra},
    }


BOXED = "Please output the final answer within \\boxed{}."
POWER_TOWER = "\\boxed{9^{9^{9^{9}}}}"
EVIL = "__import__('os').mkdir('pwned')"
EQUAL_TO_ALL = "```python\nclass E:\n    def __eq__(self, o): return True\ndef add(a, b): return E()\n```"
ADD = "```python\ndef add(a, b):\n    return a + b\n```"
SUBTRACT = "```python\ndef add(a, b):\n    return a - b\n```"
ZEBRA = {"header": ["Position", "Pet"], "rows": [["1", "cat"], ["2", "dog"]]}
TABLE = "You are given one or more tables.\n| year | sales |\n|---|---|\n| 2001 | 12.5 |\nThe question is:\nSales? "
KK = {
    "quiz": "Zoey says that Liam is a knave. Liam says that 1 = 2.",
    "names": ["Zoey", "Liam"],
    "solution_text_format": "(1) Zoey is a knight\n(2) Liam is a knave",
    "statements": "(('lying', 1), ('lying', 1))",
}


def answer(text: str) -> str:
    return f"<think>hm</think><answer>{text}</answer>"


def boxed(text: str) -> str:
    return f"<think>hm</think>So it is \\boxed{{{text}}}."


def code_of(program: str, asked: str, **cases: Any) -> dict[str, Any]:
    return verl(program, asked, json.dumps(cases))


def reason_io(kind: str, length: int) -> dict[str, Any]:
    asked = "input" if kind == "abductive" else "output"
    gold = {"x": 2} if asked == "input" else 3
    return {
        "data_source": "reason_io",
        "prompt": [
            {
                "role": "user",
                "content": f"<|im_start|>user\n{kind} {length}?<|im_end|>\n<|im_start|>assistant\n",
            }
        ],
        "reward_model": {
            "ground_truth": {
                "solution": json.dumps({asked: gold}),
                "task_type": kind,
                "io_pair": json.dumps({"input": {"x": 2}, "output": 3}),
                "reference_code_length": length,
            }
        },
    }


MATH = {
    "right": boxed("204"),
    "wrong": boxed("203"),
    "hostile": POWER_TOWER,
    "published": {boxed("20400"): 1.0, boxed("2.04"): 1.0},
}

CASES: dict[str, Case] = {
    "aime24": Case(
        [verl("math__aime_repeated_8x", f"Find x. {BOXED}", "204")] * 8, ("Find x.", "\\boxed"), **MATH
    ),
    "aime25": Case([verl("math__aime2025_repeated_8x", f"Find x. {BOXED}", "204")] * 8, ("Find x.",), **MATH),
    "math500": Case([verl("math__math", f"Simplify. {BOXED}", "204")], ("Simplify.",), **MATH),
    "livecodebench": Case(
        [code_of("codegen__livecodebench", "Double it.", inputs=["2\n", "5\n"], outputs=["4\n", "10\n"])],
        ("Double it.",),
        "```python\nprint(2 * int(input()))\n```",
        "```python\nprint(4)\n```",
        "```python\nimport os\nos._exit(0)\n```",
    ),
    "humaneval": Case(
        [
            code_of(
                "codegen__humaneval",
                "Write add.",
                functional="def check(f):\n    assert f(2, 3) == 5\ncheck(add)",
            )
        ],
        ("Write add.",),
        ADD,
        SUBTRACT,
        "```python\nimport sys\ndef add(a, b): sys.exit(0)\n```",
        published={"```python\nimport sys\nsys.exit(0)\n```": 1.0, EQUAL_TO_ALL: 1.0},
    ),
    "mbpp": Case(
        [code_of("codegen__mbpp", "Write add.", functional="assert add(2, 3) == 5\nassert add(0, 0) == 0\n")],
        ("Write add.",),
        ADD,
        SUBTRACT,
        EQUAL_TO_ALL,
        published={"```python\nimport os\nos._exit(0)\n```": 1.0},
    ),
    "gpqa-diamond": Case(
        [verl("stem__gpqa_diamond", "Which?\nA) acid\nB) base\n", "B")],
        ("Which?", "B) base"),
        boxed("B"),
        boxed("A"),
        boxed("ABCD"),
        published={boxed("BA"): 1.0},
    ),
    "supergpqa": Case(
        [verl("stem__supergpqa", "Which?\nA) acid\nJ) base\n", "J")],
        ("J) base",),
        boxed("J"),
        boxed("A"),
        "ABCDEFGHIJ",
    ),
    "arc-agi-1": Case(
        [verl("simulation__arcagi1", "Give the grid.", [[1, 0], [0, 2]])],
        ("Give the grid.",),
        answer("[[1, 0], [0, 2]]"),
        answer("[[1, 0], [2, 0]]"),
        answer("[" * 50_000),
        published={answer("1 0\n0 2"): 0.0},
    ),
    "zebra": Case(
        [verl("zebra_puzzle_dataset", "Who owns the zebra?", ZEBRA)],
        ("zebra",),
        answer(json.dumps(ZEBRA)),
        answer(json.dumps({"header": ["Position", "Pet"], "rows": [["1", "cat"], ["2", "owl"]]})),
        answer("{" * 50_000),
        share=0.5,
        published={
            answer(json.dumps(ZEBRA, indent=1)): 0.0,
            answer('{"rows": [["1", "x"], ["2", "y"]]}'): 0.5,
        },
    ),
    "codeio": Case(
        [verl("simulation__codeio", "Predict the output.", '"output": 3')],
        ("Predict the output.",),
        '```json\n{"output": 3}\n```',
        '```json\n{"output": 4}\n```',
        '```json\n{"output": true}\n```',
        published={'\\boxed{"output": 3}\n```json\n"output": 3\n```': 0.0},
    ),
    "cruxeval-i": Case(
        [
            verl(
                "simulation__cruxeval-i",
                "Find an input.\nassert f(??) == 17\n",
                json.dumps({"functional": "def f(x):\n    return x + 1"}),
                reference="17",
            )
        ],
        ("Find an input.",),
        "[ANSWER]\nassert f(16) == 17\n[/ANSWER]",
        "[ANSWER]\nassert f(15) == 17\n[/ANSWER]",
        "```python\nassert f(1) == f(1)\n```",
        published={"```python\nassert f(1) == f(1)\n```": 1.0},
    ),
    "cruxeval-o": Case(
        [
            verl(
                "simulation__cruxeval-o",
                "What does it return?\nassert f(16) == ??\n",
                json.dumps({"functional": "def f(x):\n    return x + 1"}),
                reference="17",
            )
        ],
        ("What does it return?",),
        "[ANSWER]\nassert f(16) == 17\n[/ANSWER]",
        "[ANSWER]\nassert f(16) == 18\n[/ANSWER]",
        "```python\nassert f(16) == f(16)\n```",
        published={"```python\nassert f(16) == f(16)\n```": 1.0},
    ),
    "finqa": Case(
        [verl("table__finqa", TABLE + BOXED, "12.5")],
        ("| 2001 | 12.5 |",),
        boxed("12.5"),
        boxed("13"),
        boxed(EVIL),
        published={boxed("0.125"): 1.0},
    ),
    "hitab": Case(
        [verl("table__hitab", TABLE + BOXED, "12.5|3")],
        ("Sales?",),
        boxed("3|12.5"),
        boxed("12.5"),
        boxed(EVIL),
    ),
    "multihiertt": Case(
        [verl("table__multihier", TABLE + BOXED, "12.5")],
        ("Sales?",),
        boxed("12.5"),
        boxed("25"),
        boxed(EVIL),
    ),
    "ifeval": Case(
        [
            verl(
                "ood__ifeval",
                "Say it without capitals.",
                [{"num_words": None}],
                instruction_id_list=["change_case:english_lowercase"],
            )
        ],
        ("without capitals",),
        "as you wish, all of this is in small letters.",
        "As you wish, this begins with a large letter.",
        "ABC " * 20_000,
    ),
    "livebench": Case(
        [
            verl(
                "ood__livebench",
                "Who tells the truth? Answer in bold.",
                "yes, no, yes",
                task="web_of_lies_v2",
                category="reasoning",
                date=datetime(2024, 6, 24),
            )
        ],
        ("Who tells the truth?",),
        "So **yes, no, yes**",
        "So **yes, no, no**",
        "**" * 50_000 + "yes, no, no",
    ),
    "amc": Case([{"id": 1, "problem": "Find x.", "answer": 204.0, "url": "-"}], ("Find x.", BOXED), **MATH),
    "gsm8k": Case(
        [{"question": "How many?", "answer": "200 + 4 = 204\n#### 204"}],
        ("How many?", BOXED),
        boxed("204"),
        boxed("203"),
        " ".join(map(str, range(300))),
    ),
    "olympiadbench": Case(
        [
            {
                "id": 7,
                "question": "Find x.",
                "context": "Let x > 0.",
                "final_answer": ["204"],
                "subfield": "Algebra",
            }
        ],
        ("Let x > 0.\nFind x.", BOXED),
        **MATH,
    ),
    "minerva": Case([{"question": "Find x.", "answer": "204"}], ("Find x.", BOXED), **MATH),
    "reason_io-deductive": Case(
        [reason_io("deductive", 10), reason_io("abductive", 20), reason_io("inductive", 30)],
        ("<|im_start|>user\ndeductive 10?",),
        answer('{"output": 3}'),
        answer('{"output": 4}'),
        answer("{" * 50_000),
    ),
    "reason_io-abductive": Case(
        [reason_io("deductive", 10), reason_io("abductive", 20), reason_io("inductive", 30)],
        ("abductive 20?",),
        answer('{"input": {"x": 2}}'),
        answer('{"input": {"x": 3}}'),
        answer(EVIL),
    ),
    "reason_io-inductive": Case(
        [reason_io("deductive", 10), reason_io("abductive", 20), reason_io("inductive", 30)],
        ("inductive 30?",),
        answer('{"output": 3}'),
        answer('{"output": "4"}'),
        answer("true"),
    ),
}
for _year in (21, 22, 23):
    CASES[f"aime{_year}"] = Case(
        [
            {"ID": f"20{year}-II-3", "Year": 2000 + year, "Question": f"Find x of {year}.", "Answer": "204"}
            for year in (21, 22, 23, 24)
        ],
        (f"Find x of {_year}.", BOXED),
        **MATH,
    )
for _people in range(2, 9):
    CASES[f"kk{_people}"] = Case(
        [KK],
        ("clearly state the identity", "Zoey says"),
        answer("(1) Zoey is a knight (2) Liam is a knave"),
        answer("(1) Zoey is a knave (2) Liam is a knave"),
        answer("Zoey is a knight knave, Liam is a knave knight"),
    )

FILES: dict[str, tuple[str, str]] = {
    "aime24": ("LLM360/guru-RL-92k", "offline_eval/math__aime_repeated_8x_240.parquet"),
    "aime25": ("LLM360/guru-RL-92k", "offline_eval/math__aime2025_repeated_8x_240.parquet"),
    "math500": ("LLM360/guru-RL-92k", "offline_eval/math__math_500.parquet"),
    "livecodebench": ("LLM360/guru-RL-92k", "offline_eval/codegen__livecodebench_279.parquet"),
    "humaneval": ("LLM360/guru-RL-92k", "offline_eval/codegen__humaneval_164.parquet"),
    "mbpp": ("LLM360/guru-RL-92k", "offline_eval/codegen__mbpp_500.parquet"),
    "gpqa-diamond": ("LLM360/guru-RL-92k", "offline_eval/stem__gpqa_diamond_198.parquet"),
    "supergpqa": ("LLM360/guru-RL-92k", "offline_eval/stem__supergpqa_1k.parquet"),
    "arc-agi-1": ("LLM360/guru-RL-92k", "offline_eval/logic__arcagi1_400.parquet"),
    "zebra": ("LLM360/guru-RL-92k", "offline_eval/logic__zebra_puzzle_dataset_200.parquet"),
    "codeio": ("LLM360/guru-RL-92k", "offline_eval/simulation__codeio_200.parquet"),
    "cruxeval-i": ("LLM360/guru-RL-92k", "offline_eval/simulation__cruxeval-i_800.parquet"),
    "cruxeval-o": ("LLM360/guru-RL-92k", "offline_eval/simulation__cruxeval-o_800.parquet"),
    "finqa": ("LLM360/guru-RL-92k", "offline_eval/table__finqa_1.1k.parquet"),
    "hitab": ("LLM360/guru-RL-92k", "offline_eval/table__hitab_1k.parquet"),
    "multihiertt": ("LLM360/guru-RL-92k", "offline_eval/table__multihier_336.parquet"),
    "ifeval": ("LLM360/guru-RL-92k", "offline_eval/ood__ifeval_541.parquet"),
    "livebench": ("LLM360/guru-RL-92k", "offline_eval/ood__livebench_reasoning_150.parquet"),
    "aime21": ("di-zhang-fdu/AIME_1983_2024", "default/train/0000.parquet"),
    "amc": ("AI-MO/aimo-validation-amc", "data/train-00000-of-00001.parquet"),
    "gsm8k": ("openai/gsm8k", "main/test-00000-of-00001.parquet"),
    "olympiadbench": ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet"),
    "minerva": ("math-ai/minervamath", "test.jsonl"),
    **{
        f"kk{people}": ("K-and-K/knights-and-knaves", f"test/people{people}_num100.jsonl")
        for people in range(2, 9)
    },
}
"""Where the Hub keeps the rows of each task; the other exams are in the file of the first."""
