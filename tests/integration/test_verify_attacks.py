r"""Replies that were written to be paid without being right, or to hang whoever judges them. None may be either.

The first numbers are those of the published incidents that the suite was built from; the rest are our own.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reasonkit.records import Record, Status, Verdict
from reasonkit.verifiers import Grader
from reasonkit.verifiers.pool import VerifierPool
from reasonkit.verifiers.routing import INLINE, REASONING360, VERIFIERS
from tests.verifier_samples import SAMPLES

pytestmark = pytest.mark.timeout(60)
"""A verdict may take 1.5 s of CPU; what is not bounded takes many minutes."""


def math(gold: str) -> Record:
    return Record("attack", "math", ({"role": "user", "content": "Find x."},), gold, "math")


MADE = Path(tempfile.gettempdir()) / f"made-by-a-reply-{os.getpid()}"
PYTHON = f"__import__('os').mkdir('{MADE}')"
ROLES = SAMPLES["knights"].record
TAGGED = SAMPLES["graph"].record

ATTACKS: dict[str, tuple[Record, str]] = {
    "1 empty box": (math("152"), r"\boxed{}"),
    "2 unclosed boxes": (math("152"), r"\boxed{" * 5000 + "152"),
    "3 right, then wrong": (math("152"), r"\boxed{152} no, \boxed{151}"),
    "4 20k boxes": (math("152"), r"\boxed{152}" * 20_000 + r"\boxed{1}"),
    "5 contradiction": (math("152"), r"\boxed{151=152}"),
    "6 either": (math("152"), r"\boxed{151 or 152}"),
    "7 percent": (math("152"), r"\boxed{152\%}"),
    "8 LaTeX tower": (math("152"), r"\boxed{9^{9^9}}"),
    "9 Python tower": (math("152"), r"\boxed{9**9**9}"),
    "10 factorial": (math("152"), r"\boxed{(10^9)!}"),
    "11 tower of five": (math("152"), r"\boxed{2^{2^{2^{2^{2^9}}}}}"),
    "12 nested fractions": (math("152"), r"\boxed{" + r"\frac{1}{" * 3000 + "2" + "}" * 3000 + "}"),
    "12 nested parentheses": (math("152"), r"\boxed{" + "(" * 3000 + "152" + ")" * 3000 + "}"),
    "13 large set": (math("152"), r"\boxed{\{" + ",".join(map(str, range(5000))) + r"\}}"),
    "14 100k digits": (math("152"), r"\boxed{" + "9" * 100_000 + "}"),
    "15 Python": (math("152"), r"\boxed{" + PYTHON + "}"),
    "16 long line": (math("152"), "a $ b " * 10_000),
    "17 number spam": (math("152"), " ".join(map(str, range(1000)))),
    "18 box in the thinking": (math("152"), r"<think>\boxed{152}</think>done"),
    "19 not a number": (math("152"), r"\boxed{\text{NaN}}"),
    "19 infinity": (math("152"), r"\boxed{\infty}"),
    "20 tag flood": (TAGGED, "<answer>" * 50_000),
    "21 tag in the thinking": (TAGGED, "<think><answer>zebra</answer></think>"),
    "22 assistant mark": (math("152"), r"\boxed{1}<｜Assistant｜>\boxed{151}"),
    "23 NUL": (math("152"), "\\boxed{152\x00}"),
    "23 right-to-left": (math("152"), "\\boxed{\u202e251}"),
    "23 homoglyphs": (math("152"), "\\boxed{１５２}"),
    "24 deep JSON": (SAMPLES["list"].record, "<answer>" + "[" * 100_000 + "]" * 100_000 + "</answer>"),
    "24 deep table": (
        SAMPLES["zebra"].record,
        "<answer>" + '{"rows":' * 2000 + "0" + "}" * 2000 + "</answer>",
    ),
    "33 every letter": (SAMPLES["choice"].record, r"\boxed{ABCD}"),
    "33 every letter, with commas": (SAMPLES["choice"].record, "Answer: A, B, C, D"),
    "46 patch without effect": (
        SAMPLES["swe"].record,
        SAMPLES["swe"].record.answer["input"].join(["```py\n", "```\n"]),
    ),
    "46 oversized patch": (SAMPLES["swe"].record, "```py\n" + "x = 1\n" * 200_000 + "```\n"),
    # Our own.
    "one value, many names": (math("152"), r"\boxed{a=b=c=152}"),
    "mixed numeral": (math("17"), r"\boxed{9 8}"),
    "anagram": (math(r"\text{Friday}"), r"\boxed{dirfay}"),
    "set of candidates": (math("152"), r"\boxed{\{150,151,152,153\}}"),
    "interval of candidates": (math("152"), r"\boxed{[0, 1000]}"),
    "plus or minus": (math("152"), r"\boxed{\pm 152}"),
    "free variable": (math("152"), r"\boxed{x}"),
    "unevaluated binomial": (math("152"), r"\boxed{\binom{1000000}{500000}}"),
    "endless sum": (math("152"), r"\boxed{\sum_{n=1}^{9999} \sin(n^n)}"),
    "hard integral": (math("152"), r"\boxed{\int_0^1 x^{x^x} \, dx}"),
    "symbolic determinant": (
        math("152"),
        r"\boxed{\det\begin{pmatrix}"
        + r"\\".join("&".join(f"a_{{{row}{column}}}" for column in range(8)) for row in range(8))
        + r"\end{pmatrix}}",
    ),
    "boxed question": (math("152"), r"\boxed{Find x.}"),
    "comparison": (math("152"), r"\boxed{x \geq 0}"),
    "truth": (math("152"), r"\boxed{True}"),
    "dollar flood": (math("152"), r"\boxed{" + "$" * 1900 + "}"),
    "command flood": (math("152"), r"\boxed{" + r"\frac" * 350 + "}"),
    "brace flood": (math("152"), r"\boxed{" + r"\{" * 900 + "}"),
    "roles both ways": (ROLES, "<answer>Zoey is a knight, Zoey is a knave, Liam is a knave</answer>"),
    "every role": (ROLES, "<answer>" + "Zoey is a knight. Liam is a knave. " * 2 + "</answer>"),
    "arithmetic by power": (SAMPLES["countdown"].record, "<answer>9**9**9**9</answer>"),
    "surplus numbers": (SAMPLES["countdown"].record, "<answer>2*3+4+0*5</answer>"),
    "moves without end": (SAMPLES["sokoban"].record, "<answer>" + "Left," * 100_000 + "</answer>"),
    "grid of everything": (SAMPLES["arc"].record, "<answer>[[0,1,2,3,4,5,6,7,8,9]]</answer>"),
    "table that evaluates": (SAMPLES["table"].record, r"\boxed{" + PYTHON + "}"),
    "list that evaluates": (SAMPLES["ordering"].record, f"<answer>[{PYTHON}]</answer>"),
    "empty gold echoed": (Record("a", "s", (), ["", "x"], "exact"), "<answer></answer>"),
    "surrogates": (math("152"), "\\boxed{\ud800152}"),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(2) as opened:
        yield opened


def judge(
    pool: VerifierPool, verifier: str, record: Record, text: str, *, published: bool = False
) -> Verdict:
    where = REASONING360.get(verifier, VERIFIERS[verifier]) if published else VERIFIERS[verifier]
    return pool.submit(where, record, text).result(60)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_is_paid_and_none_is_an_error(pool: VerifierPool, name: str) -> None:
    record, text = ATTACKS[name]
    assert record.verifier is not None
    verdict = judge(pool, record.verifier, record, text)
    assert verdict.score < 0.5, verdict
    assert verdict.status not in (Status.CORRECT, Status.ERROR), verdict
    assert verdict.reason
    assert not MADE.exists()


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name][0].verifier in REASONING360])
def test_reasoning360_mode_hangs_on_no_attack_and_evaluates_nothing(pool: VerifierPool, name: str) -> None:
    """It may be fooled where the published grader was, but not held up, and it runs none of the model's text."""
    record, text = ATTACKS[name]
    assert record.verifier is not None
    verdict = judge(pool, record.verifier, record, text, published=True)
    assert verdict.status is not Status.ERROR, verdict
    assert not MADE.exists()


@pytest.mark.parametrize("text", ["", " \n", "<think></think>", "<think>never closed", "\x00"])
@pytest.mark.parametrize("verifier", sorted(SAMPLES))
def test_25_an_empty_reply_scores_0_on_every_scorer(pool: VerifierPool, verifier: str, text: str) -> None:
    for published in (False, True) if verifier in REASONING360 else (False,):
        if verifier == "judge":
            verdict = asyncio.run(_by_grader(SAMPLES[verifier].record, text))
        else:
            verdict = judge(pool, verifier, SAMPLES[verifier].record, text, published=published)
        assert verdict.score == 0.0
        assert verdict.status in (Status.NO_ANSWER, Status.WRONG)


async def _by_grader(record: Record, text: str) -> Verdict:
    async with Grader(workers=1) as grader:
        return await grader.verify(record, text)


@pytest.mark.parametrize("verifier", sorted(INLINE & SAMPLES.keys()))
def test_verifiers_that_run_inline_are_held_up_by_nothing(verifier: str) -> None:
    """They have no process to be killed in, so every attack is tried on each of them, whatever it was meant for."""
    floods = [text for _, text in ATTACKS.values()]
    floods += [
        mark * 150_000 for mark in ("<answer>", "\\boxed{", "#", "|", ",1", "1 ", "(", "Answer: ", "\n", "P ")
    ]
    record = SAMPLES[verifier].record
    for text in floods:
        verdict = asyncio.run(_by_grader(record, text))
        assert verdict.status is not Status.ERROR, (verifier, text[:40], verdict)


def test_a_verdict_is_plain_json_whatever_the_reply(pool: VerifierPool) -> None:
    verdict = judge(pool, "exact", SAMPLES["exact"].record, "<answer>\ud800\x00</answer>")
    assert json.dumps(verdict.answer)
