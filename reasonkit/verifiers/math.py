r"""Mathematical answers: the last box of the reply against the gold expression, judged by Math-Verify.

Around Math-Verify stand three layers of our own. Before any parser sees the answer, its size, nesting, digits
and powers are bounded. Then come cheap certain verdicts: the same text, number or polynomial, words that are not
products of letters. And what Math-Verify is known to get wrong is decided here: a chain of equations that
contradicts itself (`151=152`), a percent sign that the question did not ask for, digits in another base, two
numbers side by side read as a mixed numeral, `\log` for `\ln`, complex units.

Left to Math-Verify, and lenient: `y=2x+3` equals `2x+3`, the one-element set `{152}` equals 152, units and
degree signs are dropped. Its own timeouts are off: they need the main thread and do not hold inside C code. Run
this in the killable pool only.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product
from typing import Any

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, answer_line, last_box, last_tagged
from reasonkit.verifiers.math_bounds import why_too_large
from reasonkit.verifiers.math_exact import same_exactly
from reasonkit.verifiers.numbers import Number, parse_number

_NOISE = re.compile(r"\\(?:left|right|displaystyle|[!,;: ])|[\s$~]")
_SPACE_BETWEEN_DIGITS = re.compile(r"(?<=\d)\s+(?=\d)")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z'-]{3,}(?: +[A-Za-z'-]+)*|[A-Za-z'-]+(?: +[A-Za-z'-]+)+")
_BASED = re.compile(r"([0-9A-Za-z]+)_(?:\{(\d{1,2})\}|(\d{1,2}))")
_NAME = re.compile(r"(?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?)?'*(?:\([^()]{0,20}\))?")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LETTER = re.compile(r"[A-Za-z]")
_SIDE_BY_SIDE = re.compile(r"\d(?:\s|\\[ ,;:!])+\d")
_GROUPED = re.compile(r"(?<!\d)\d{1,3}(?:(?:\s|\\[ ,;:!])+\d{3})+(?!\d)")
_PERCENT = re.compile(r"%|percent", re.IGNORECASE)
_NATURAL_LOG = re.compile(r"\\log(?![A-Za-z_])")
_IMAGINARY = re.compile(r"(?<![A-Za-z])i(?![A-Za-z])|\\imath|\\sqrt\{-")
_NOT_A_NUMBER = re.compile(r"(?<![a-z])nan(?![a-z])", re.IGNORECASE)


def verify_math(record: Record, text: str) -> Verdict:
    """The expression in the last box (or answer tag, or `Answer:` line) is equivalent to the gold one."""
    reply = after_thinking(text)
    answer = boxed_answer(reply)
    if answer is None:
        return Verdict.no_answer("the reply has no box, answer tag or 'Answer:' line after its thinking")
    answer = answer.strip()
    if not answer:
        return Verdict.no_answer("the box is empty")
    answer = _GROUPED.sub(lambda group: re.sub(r"\D", "", group[0]), answer)
    gold = gold_answer(record)
    if canonical(answer) == canonical(gold):
        return Verdict.correct(answer)
    large = why_too_large(answer)
    if large:
        return Verdict.timeout(f"the answer is too large to check: {large}")
    question = " ".join(message["content"] for message in record.prompt)
    objection = _objection(answer, gold, question)
    if objection:
        return Verdict.wrong(answer, objection)
    if _same_value(answer, gold, question):
        return Verdict.correct(answer)
    return Verdict.wrong(answer, f"'{answer[:200]}' is not '{gold[:200]}'")


def boxed_answer(reply: str) -> str | None:
    """The last box; else the last answer tag, or what a last line that opens with `Answer:` says."""
    for found in (last_box(reply), last_tagged(reply), answer_line(reply)):
        if found is not None:
            return found
    return None


def gold_answer(record: Record) -> str:
    gold = str(record.answer).strip()
    boxed = last_box(gold)
    gold = gold if boxed is None else boxed.strip()
    if not gold:
        raise ValueError(f"record {record.uid} has an empty gold answer")
    return gold


def canonical(latex: str) -> str:
    """The same text for answers that differ in spacing, text wrappers and fraction style only."""
    unwrapped = _TEXT.sub(r"\1", latex)
    kept = _SPACE_BETWEEN_DIGITS.sub("␣", unwrapped)  # 1 2 is not 12
    bare = _NOISE.sub("", kept).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return bare.rstrip(".")


def equivalent(gold: str, answer: str) -> bool:
    """Math-Verify's verdict on two expressions."""
    from math_verify import verify

    return bool(verify(_parse(gold), _parse(answer), timeout_seconds=None))


@lru_cache(maxsize=4096)
def _parse(latex: str) -> list[Any]:
    from math_verify import parse

    parsed: list[Any] = parse(f"\\boxed{{{latex}}}", parsing_timeout=None)
    return parsed


def _objection(answer: str, gold: str, question: str) -> str:
    """Why `answer` cannot be right, where Math-Verify would not see it."""
    if len(canonical(answer)) == 1 == len(canonical(gold)) and canonical(answer).isalpha():
        return f"'{answer}' is not '{gold}'"
    if _NOT_A_NUMBER.search(answer):
        return "the answer is not a number"
    if not _SIDE_BY_SIDE.search(gold) and _SIDE_BY_SIDE.search(_TEXT.sub("text", answer)):
        return "two numbers stand side by side"
    if _PERCENT.search(answer) and not _PERCENT.search(gold + question):
        number = parse_number(answer)
        gold_number = parse_number(gold)
        if number is None or gold_number is None or number.as_fraction != gold_number.value:
            return "the answer is a percentage and neither the gold answer nor the question is"
    return _contradiction(answer, gold)


def _contradiction(answer: str, gold: str) -> str:
    """Why a chain `a=b=c` is no answer: it states two values, or gives one value to several names."""
    if "," in answer:
        return ""
    sides = [side.strip() for side in answer.split("=")]
    if len(sides) < 2 or len(sides) == canonical(gold).count("=") + 1:
        return ""
    if len(sides) > 6:
        return f"a chain of {len(sides)} equations"
    if sum(_NAME.fullmatch(side) is not None for side in sides[:-1]) > 1:
        return "one value is given to several names"
    for side in sides[:-1]:
        if not _LETTER.search(_COMMAND.sub("", side)) and not equivalent(sides[-1], side):
            return f"the answer says that {side[:100]} equals {sides[-1][:100]}"
    return ""


def _same_value(answer: str, gold: str, question: str) -> bool:
    based = _same_in_base(answer, gold, question)
    if based is not None:
        return based
    certain = _same_numbers(answer, gold)
    if certain is not None:
        return certain
    words = _TEXT.sub(r"\1", gold).strip()
    if _WORDS.fullmatch(words):
        return _TEXT.sub(r"\1", answer).strip().rstrip(".").casefold() == words.rstrip(".").casefold()
    if _is_tuple(gold) and "," in answer and answer[:1] not in "([{\\":
        answer = f"({answer})"
    exactly = same_exactly(answer, gold)
    if exactly is not None:
        return exactly
    if equivalent(gold, answer):
        return True
    if ("\\ln" in gold) != ("\\ln" in answer) and _NATURAL_LOG.search(gold + answer):
        return equivalent(_NATURAL_LOG.sub(r"\\ln", gold), _NATURAL_LOG.sub(r"\\ln", answer))
    if _IMAGINARY.search(gold) or _IMAGINARY.search(answer):
        return _equal_over_complex(gold, answer)
    return False


def _same_numbers(answer: str, gold: str) -> bool | None:
    """Whether two numbers, or two sets of numbers, are equal; None where that takes more than arithmetic."""
    name, equals, value = answer.partition("=")
    if equals and "=" not in gold and _NAME.fullmatch(name.strip()):
        answer = value.strip()
    golds = _numbers(gold)
    answers = _numbers(answer) if golds else None
    if golds is None or answers is None or any(a.percent != b.percent for a, b in product(answers, golds)):
        return None
    if {number.value for number in answers} == {number.value for number in golds}:
        return True
    return None if "." in gold + answer else False  # 0.3333333 is a third


def _numbers(expression: str) -> list[Number] | None:
    """The numbers of a lone number, `a, b` or `\\{a, b\\}`; None for anything else."""
    lone = parse_number(expression)
    if lone is not None:
        return [lone]
    bare = expression.removeprefix("\\left").removeprefix("\\{").removesuffix("\\}").removesuffix("\\right")
    parts = [parse_number(part.strip()) for part in bare.split(",")] if "," in bare else [None]
    return [part for part in parts if part is not None] if None not in parts else None


def _is_tuple(gold: str) -> bool:
    return gold.startswith("(") and gold.endswith(")") and "," in gold


def _same_in_base(answer: str, gold: str, question: str) -> bool | None:
    """Whether two numerals agree, one of which names its base (`1011_2`); None where neither does."""
    numeral, gold_numeral = (_BASED.fullmatch(canonical(side)) for side in (answer, gold))
    if numeral is None and gold_numeral is None:
        return None
    if numeral is not None and gold_numeral is not None:
        return _base_value(numeral) == _base_value(gold_numeral)
    if gold_numeral is not None:
        return canonical(answer) == gold_numeral[1]
    assert numeral is not None
    if "base" in question.lower() and canonical(gold) == numeral[1]:
        return True
    return str(_base_value(numeral)) == canonical(gold)


def _base_value(numeral: re.Match[str]) -> int | tuple[str, str]:
    """The numeral's value, or its digits and base where those do not go together."""
    base = numeral[2] or numeral[3]
    try:
        return int(numeral[1], int(base))
    except ValueError:
        return numeral[1], base


def _equal_over_complex(gold: str, answer: str) -> bool:
    """Equality with `i` read as the imaginary unit, which Math-Verify reads as a variable."""
    from sympy import Expr, I, simplify

    sides = [_parse(gold), _parse(answer)]
    if not all(parsed and isinstance(parsed[0], Expr) for parsed in sides):
        return False
    numbers = [
        parsed[0]
        .subs({symbol: I for symbol in parsed[0].free_symbols if symbol.name in ("i", "imath")})
        .doit()
        for parsed in sides
    ]
    return bool(simplify(numbers[0] - numbers[1]) == 0)
