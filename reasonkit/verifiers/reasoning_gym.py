"""Every reasoning-gym task, by the library's own scorer, with guards where that scorer can be gamed.

The library pays partial credit for form, for a gold answer buried in prose, and for being near. Here only its
full score counts. Some of its scorers can be brought to the full score without solving anything, or evaluate the
reply as Python: `GUARDS` lists what an answer must satisfy besides, `EXACT` the tasks that are compared as text
instead, and `eval` is replaced by a literal parser in every module of the library that names it.

In the metadata: `task`, `entry` (the library's item) and optionally `config`. Labels that are known to be wrong are
put right, or make the record unusable (`rg_labels`). Left as they are: yes-or-no tasks, half of which any constant
answers.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.countdown import OPERATORS
from reasonkit.verifiers.extract import after_thinking, last_tagged
from reasonkit.verifiers.literals import parse_literal
from reasonkit.verifiers.numbers import close, parse_number
from reasonkit.verifiers.rg_labels import right_label

MAX_CHARACTERS = 20_000
MAX_EXPRESSION = 300
FULL_SCORE = 1.0
EVALUATING = (
    "reasoning_gym.algorithmic.binary_matrix",
    "reasoning_gym.algorithmic.spiral_matrix",
    "reasoning_gym.algorithmic.string_insertion",
    "reasoning_gym.games.n_queens",
)
"""Modules whose scorers call `eval` on the reply."""

EXACT = frozenset(
    {
        "figlet_font",  # ten right letters are full marks, whatever follows
        "game_of_life_halting",  # any text is taken for True, "False" as well
        "letter_jumble",  # surplus words are free
        "spell_backward",  # so are surplus letters, when the sum of floats rounds up
        "word_sorting",  # and surplus words
    }
)
"""Tasks compared as text, case and spaces aside."""

_ARITHMETIC = re.compile(r"[0-9+\-*/() ]+")
_ALGEBRA = re.compile(r"[A-Za-z0-9+\-*/^()., ]+")
_NAME = re.compile(r"[A-Za-z]+")
_FUNCTIONS = {
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "exp",
    "log",
    "ln",
    "sqrt",
    "Abs",
    "pi",
    "E",
    "C",
}


def verify_reasoning_gym(record: Record, text: str) -> Verdict:
    """The task's own scorer gives the last `<answer>` its full score, and the guards agree."""
    task, entry = str(record.metadata["task"]), _entry(record)
    label = entry["answer"] and right_label(task, str(entry.get("question", "")), str(entry["answer"]))
    if label is None and entry["answer"] is not None:
        return Verdict.error(f"{task} labels this question {entry['answer']}, which is wrong", unusable=True)
    entry = {**entry, "answer": label}
    reply = after_thinking(text)
    answer = last_tagged(reply)
    if answer is None or (not answer.strip() and str(entry["answer"]).strip()):
        return Verdict.no_answer("the reply has no filled <answer> after its thinking")
    if len(answer) > MAX_CHARACTERS:
        return Verdict.wrong(answer[:200], f"the answer has {len(answer)} characters")
    for form in (answer.strip(), answer.strip("\n")):  # in some boards the spaces at the ends belong to it
        objection = _objection(task, form, entry, record)
        if not objection:
            return Verdict.correct(answer.strip())
    return Verdict.wrong(answer.strip(), objection)


def _entry(record: Record) -> dict[str, Any]:
    entry = record.metadata["entry"]
    loaded: dict[str, Any] = json.loads(entry) if isinstance(entry, str) else dict(entry)
    metadata = dict(loaded["metadata"])
    if record.metadata["task"] in (
        "arc_agi",
        "rearc",
    ):  # JSON has made lists of what the scorer compares as tuples
        metadata["output"] = tuple(tuple(row) for row in metadata["output"])
    return {"answer": record.answer, **loaded, "metadata": metadata}


def _objection(task: str, answer: str, entry: dict[str, Any], record: Record) -> str:
    """Why `answer` is not right; an empty text where it is."""
    if task in EXACT:
        same = answer.casefold().split() == str(entry["answer"]).casefold().split()
        return "" if same else "the answer is not the one asked for"
    if task in GUARDS:
        guarded = GUARDS[task](answer, entry)
        if guarded:
            return guarded
    if task in ("countdown", "puzzle24"):
        return ""  # the guard has worked out the expression itself
    dataset = _dataset(task, json.dumps(record.metadata.get("config", {}), sort_keys=True))
    try:
        score = float(dataset.score_answer(answer, entry))
    except Exception as error:  # some scorers raise on a malformed answer, each in its own way
        return f"the task's scorer cannot read the answer ({type(error).__name__}: {error})"
    return "" if score >= FULL_SCORE else f"the task's scorer gives {score:.3g}"


@cache
def _dataset(task: str, config: str) -> Any:
    import reasoning_gym

    for name in EVALUATING:
        vars(sys.modules[name])["eval"] = ast.literal_eval
    return reasoning_gym.create_dataset(task, size=1, seed=0, **json.loads(config))


def _uses_given_numbers(answer: str, entry: Mapping[str, Any]) -> str:
    """Each given number once, in exact fractions. A sign in front is allowed, for library answers have some."""
    numbers, target = entry["metadata"]["numbers"], entry["metadata"].get("target", 24)
    if len(answer) > MAX_EXPRESSION or not _ARITHMETIC.fullmatch(answer):
        return "the answer is no expression of whole numbers with + - * / and brackets"
    used: list[int] = []
    try:
        value = _value(ast.parse(answer.strip(), mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError) as error:
        return f"the expression cannot be worked out: {error}"
    if sorted(used) != sorted(numbers):
        return f"it uses {sorted(used)}, not each of {sorted(numbers)} once"
    return "" if value == target else f"it makes {value}, not {target}"


def _value(node: ast.expr, used: list[int]) -> Fraction:
    """The value of an expression; the numbers in it are added to `used`."""
    match node:
        case ast.Constant(value=int() as number):
            used.append(number)
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, used)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in OPERATORS:
            return OPERATORS[type(operation)](_value(left, used), _value(right, used))
    raise ValueError(f"{ast.unparse(node)[:50]} is not allowed")


def _is_algebra(answer: str, entry: Mapping[str, Any]) -> str:
    """Only plain functions: `Integral(f, x)` is a right antiderivative of f that solves nothing."""
    if "".join(answer.split()) == "".join(str(entry["answer"]).split()):
        return ""  # some of the library's own answers are unevaluated
    letters = {name for name in _NAME.findall(answer) if len(name) > 1} - _FUNCTIONS
    if not _ALGEBRA.fullmatch(answer) or re.search(r"\.\s*[A-Za-z_]", answer):
        return "the answer is not a plain expression"
    if letters:
        return f"the answer names {min(letters)}"
    return (
        "the answer has a large power"
        if re.search(r"\*\*\s*\(?\s*\d{4,}|\*\*.*\*\*\s*\d+\s*\*\*", answer)
        else ""
    )


def _is_the_number(answer: str, entry: Mapping[str, Any]) -> str:
    number, gold = parse_number(answer), parse_number(str(entry["answer"]))
    if gold is None:
        return ""  # a word: the task's scorer compares it
    return (
        "" if number is not None and number.value == gold.value else "the answer is not the number asked for"
    )


def _is_the_probability(answer: str, entry: Mapping[str, Any]) -> str:
    number, gold = parse_number(answer), parse_number(str(entry["answer"]))
    near = number is not None and gold is not None and close(number.value, gold.value, relative=1e-3)
    return "" if near else "the answer is not the probability asked for"


def _is_the_value(answer: str, entry: Mapping[str, Any]) -> str:
    """The same JSON or literal value, with nothing beside it."""
    try:
        same = parse_literal(answer) == parse_literal(str(entry["answer"]))
    except ValueError as error:
        return str(error)
    return "" if same else "the answer is not the value asked for"


def _is_the_sorted_list(answer: str, entry: Mapping[str, Any]) -> str:
    try:
        found, gold = parse_literal(answer), parse_literal(str(entry["answer"]))
        same = [float(item) for item in found] == [float(item) for item in gold]
    except (ValueError, TypeError) as error:
        return f"the answer is no list of numbers ({error})"
    return "" if same else "the numbers are not those asked for"


def _says_no_root(answer: str, entry: Mapping[str, Any]) -> str:
    if str(entry["answer"]).strip() or answer.casefold() in ("none", "no real solutions", "no solution"):
        return ""
    return "the equation has no real solution"


def _adds_to_the_premises(answer: str, entry: Mapping[str, Any]) -> str:
    """A premise said again follows from the premises and concludes nothing."""
    said = answer.replace(" ", "").strip("()")
    premises = [str(premise).replace(" ", "").strip("()") for premise in entry["metadata"]["premises"]]
    return "the answer is one of the premises" if said in premises else ""


GUARDS: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
    "calendar_arithmetic": _is_the_number,  # a negative gold number makes every error a bonus
    "coin_flip": _is_the_probability,  # "0" starts like 0.25, which is full marks
    "countdown": _uses_given_numbers,
    "game_of_life": _is_the_value,  # surplus rows are free
    "gsm_symbolic": _is_the_number,  # the first number of any text is taken
    "intermediate_integration": _is_algebra,
    "number_sorting": _is_the_sorted_list,  # every number may be off by one
    "polynomial_equations": _says_no_root,  # without a root, any text that holds no number is full marks
    "polynomial_multiplication": _is_algebra,
    "propositional_logic": _adds_to_the_premises,
    "puzzle24": _uses_given_numbers,  # any four numbers are taken
    "simple_integration": _is_algebra,
}
"""What an answer must satisfy besides the library's scorer: an objection in words, or an empty text."""
