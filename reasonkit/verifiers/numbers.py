r"""Reads one number out of a short answer, and compares numbers exactly or within a stated tolerance.

Values are Fractions: 0.1 + 0.2 equals 0.3 here, and 10^18 + 1 does not equal 10^18. What may surround a number
is listed (currency, thousands separators, a percent sign, `\text{…}`, a unit word); anything else makes the
answer no number. Nothing is ever evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import final_answer

MAX_CHARACTERS = 400
_FORMATTING = re.compile(r"\\(?:left|right|displaystyle|[!,;: ])|\$|\*\*|[~` ]")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|boxed|operatorname)\s*\{([^{}]*)\}")
_CURRENCY = re.compile(r"^(?P<sign>[-+]?)\s*(?:US\$|[€£¥₹₽₩]|USD|EUR|GBP)\s*")
_LATEX_FRACTION = re.compile(r"^([-+]?)\\[dtc]?frac\{(\d+)\}\{(\d+)\}$")
_PLAIN = re.compile(
    r"^(?P<sign>[-+−]?)(?P<whole>\d{1,3}(?:,\d{3})+|\d*)(?P<decimals>\.\d*)?"
    r"(?:(?:[eE]|\s*(?:\\times|×|\*)\s*10\^)\{?(?P<exponent>[-+]?\d{1,3})\}?)?$"
)
_PERCENT = re.compile(r"\s*(?:\\?%|percent)$")
_UNIT = re.compile(r"\s+[A-Za-z°²³/µ]+(?:\s+[A-Za-z]+){0,3}\.?$")


@dataclass(frozen=True, slots=True)
class Number:
    """`value` is what stands there; a percent sign is noted and not applied."""

    value: Fraction
    percent: bool = False

    @property
    def as_fraction(self) -> Fraction:
        return self.value / 100 if self.percent else self.value


def parse_number(text: str) -> Number | None:
    """The number that `text` is, or None if it is not exactly one."""
    if len(text) > MAX_CHARACTERS or not text.isprintable():
        return None
    shown = (
        _TEXT.sub(r" \1 ", _FORMATTING.sub(lambda m: " " if m.group() in "~ " else "", text))
        .strip()
        .rstrip(".")
    )
    percent = _PERCENT.search(shown)
    shown = shown[: percent.start()] if percent else _UNIT.sub("", shown)
    value = _value(_CURRENCY.sub(lambda match: match["sign"], shown))
    return None if value is None else Number(value, percent is not None)


def _value(shown: str) -> Fraction | None:
    fraction = _LATEX_FRACTION.match(shown)
    if fraction:
        shown = f"{fraction[1]}{fraction[2]}/{fraction[3]}"
    if "/" in shown:
        above, _, below = (part.strip() for part in shown.partition("/"))
        top, bottom = _value(above), _value(below)
        return top / bottom if top is not None and bottom else None
    match = _PLAIN.match(shown)
    if not match or not shown.replace("−", "-").replace("×", "*").isascii():
        return None  # other alphabets' digits look like ours and are not
    whole, decimals = match["whole"].replace(",", ""), (match["decimals"] or "")[1:]
    if not whole and not decimals:
        return None
    value = Fraction(int(whole + decimals), 10 ** len(decimals)) * Fraction(10) ** int(match["exponent"] or 0)
    return -value if match["sign"] in ("-", "−") else value


def close(value: Fraction, gold: Fraction, relative: float = 0.0, absolute: float = 0.0) -> bool:
    """Whether `value` is within the larger of both tolerances of `gold`."""
    return abs(value - gold) <= max(Fraction(relative) * abs(gold), Fraction(absolute))


def verify_number(record: Record, text: str) -> Verdict:
    """The final answer is the gold number; `rel_tol` and `abs_tol` in the metadata allow a difference."""
    gold = parse_number(str(record.answer))
    if gold is None:
        raise ValueError(f"the gold answer '{record.answer}' is not a number")
    answer = final_answer(text)
    if answer is None:
        return Verdict.no_answer("the reply is empty")
    number = parse_number(answer)
    if number is None:
        return Verdict.wrong(answer, f"'{answer[:200]}' is not one number")
    relative = float(record.metadata.get("rel_tol", 0.0))
    absolute = float(record.metadata.get("abs_tol", 0.0))
    if close(number.as_fraction, gold.as_fraction, relative, absolute):
        return Verdict.correct(answer)
    return Verdict.wrong(answer, f"{answer[:200]} is not {record.answer}")
