"""Predicted outputs and inputs, and CRUXEval's assertions: what is read from a reply, and how it is compared."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reasonkit.records import Record, Status, Verdict
from reasonkit.verifiers import Grader
from reasonkit.verifiers.codeio import last_object, verify_codeio_reasoning360
from reasonkit.verifiers.cruxeval import asked_for, same_literal, statement


def judge(record: Record, text: str) -> Verdict:
    """Where no code is to be run, no sandbox is opened."""

    async def alone() -> Verdict:
        async with Grader(workers=1) as grader:
            return await grader.verify(record, text)

    return asyncio.run(alone())


def codeio(answer: Any) -> Record:
    return Record("u", "simulation__codeio", (), answer)


OUTPUT = codeio('"output": {"total": 3, "ok": true}')


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"output": {"total": 3, "ok": true}}\n```',
        '```json\n"output": {"ok": true, "total": 3.0}\n```',
        '<answer>{"output": {"total": 3, "ok": true}}</answer>',
        '<answer>\n```json\n{"total": 3, "ok": true}\n```\n</answer>',
        '\\boxed{{"total": 3, "ok": true}}',
        'So it is {"total": 3, "ok": true}.',
        '```json\n{"output": 0}\n```\nno:\n```json\n{"output": {"total": 3, "ok": true}}\n```',
        "<answer>{'total': 3, 'ok': True}</answer>",
    ],
)
def test_a_right_output_in_every_form(text: str) -> None:
    assert judge(OUTPUT, f"<think>hm</think>{text}").status is Status.CORRECT


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"output": {"total": 3, "ok": 1}}\n```',
        '```json\n{"output": {"total": "3", "ok": true}}\n```',
        '```json\n{"output": {"total": 3, "ok": true, "more": 1}}\n```',
        '```json\n{"output": {"total": 3, "ok": true}}\n```\n```json\n{"output": null}\n```',
        '```json\n{"input": {"total": 3, "ok": true}}\n```',
        "```json\nnull\n```",
        '<think>{"output": {"total": 3, "ok": true}}</think>',
        "",
        "{",
        "}" * 1000,
        '{"output": ' * 1000,
    ],
)
def test_a_wrong_output_or_none(text: str) -> None:
    verdict = judge(OUTPUT, text)
    assert verdict.score == 0.0
    assert verdict.status in (Status.WRONG, Status.NO_ANSWER)


@pytest.mark.parametrize(
    ("gold", "given", "right"),
    [
        (1, "true", False),
        (True, "1", False),
        (True, "true", True),
        (0.3, "0.30000000000000004", True),
        (0.3, "0.31", False),
        (None, "null", True),
        (None, '"null"', False),
        ([], "[]", True),
        ("a", '"a"', True),
        ("3", "3", False),
    ],
)
def test_types_are_exact_and_floats_tolerant(gold: Any, given: str, right: bool) -> None:
    verdict = judge(codeio({"output": gold}), f'```json\n{{"output": {given}}}\n```')
    assert verdict.status is (Status.CORRECT if right else Status.WRONG)


def test_an_input_without_a_reference_program_must_be_the_gold_one() -> None:
    record = codeio({"input": {"x": 4}})
    assert judge(record, '```json\n{"input": {"x": 4}}\n```').score == 1.0
    assert judge(record, '```json\n{"input": {"x": 5}}\n```').score == 0.0
    assert judge(record, '```json\n{"x": 4}\n```').score == 1.0


REASON_IO = {"task_type": "deductive", "io_pair": "{}", "reference_code_length": 9}


@pytest.mark.parametrize("task", ["deductive", "abductive", "inductive"])
@pytest.mark.parametrize(
    ("gold", "given", "right"),
    [
        ('{"x": 1}', '{"x": 1}', True),
        ("\"{'x': 1}\"", '{"x": 1}', True),
        ('"False"', "false", True),
        ("1", "true", False),
        ("4", "5", False),
        ('"a"', '"a"', True),
    ],
)
def test_reason_io(task: str, gold: str, given: str, right: bool) -> None:
    asked = "input" if task == "abductive" else "output"
    answer = {**REASON_IO, "task_type": task, "solution": f'{{"{asked}": {gold}}}'}
    record = Record("u", "reason_io", (), answer)
    reply = f'<think>hm</think><answer>{{"{asked}": {given}}}</answer>'
    assert (judge(record, reply).score == 1.0) is right
    assert (verify_codeio_reasoning360(record, reply).score == 1.0) is right
    assert judge(record, "<think>hm</think>").status is Status.NO_ANSWER


def test_a_record_that_asks_for_nothing_is_unusable() -> None:
    assert judge(codeio({"result": 1}), "1").status is Status.ERROR


def test_the_published_grader_reads_the_first_fence_and_compares_as_python_does() -> None:
    def score(gold: Any, text: str) -> float:
        return verify_codeio_reasoning360(codeio({"output": gold}), text).score

    assert score(1, '```json\n{"output": 1}\n```\n```json\n{"output": 2}\n```') == 1.0
    assert score(1, '```json\n{"output": true}\n```') == 1.0
    assert score({"a": True}, '{"output": {"a": "true"}}') == 1.0
    assert score(1, 'so {"output": 0} or {"output": 1}') == 1.0
    assert score(1, '```json\n"output": 1\n```') == 0.0
    assert score(None, "nonsense") == 0.0, "no answer is no null"
    assert score(None, "") == 0.0


@pytest.mark.parametrize(
    "unit", ["{", "}", "{}", "```", "<answer>", "```json\n{\n", '{"output": ', "\\boxed{"]
)
@pytest.mark.timeout(60)
def test_a_flood_is_read_in_one_pass(unit: str) -> None:
    flood = unit * 100_000
    assert judge(OUTPUT, flood).score == 0.0
    assert verify_codeio_reasoning360(OUTPUT, flood).score == 0.0
    assert len(statement(flood) or "") <= len(flood)


def test_the_last_object_of_a_text() -> None:
    assert last_object('a {"x": {"y": 1}} b {"z": 2}!') == '{"z": 2}'
    assert last_object("none") is None
    assert last_object("}") is None


# CRUXEval

CODE = "def f(text):\n    return (text.upper(), len(text))"
PROMPT = ({"role": "user", "content": f"{CODE}\nassert f(16) == 17\n{CODE}\nassert f('ab') == ??"},)
PREDICT = Record(
    "u", "simulation__cruxeval-o", PROMPT, {"functional": CODE}, None, {"reference": "('AB', 2)"}
)


@pytest.mark.parametrize(
    "text",
    [
        "```python\nassert f('ab') == ('AB', 2)\n```",
        "[ANSWER]\nassert f('ab') == ('AB', 2)\n[/ANSWER]",
        "<answer>('AB', 2)</answer>",
        "<answer>```python\nassert f('ab') == ('AB', 2)\n```</answer>",
        "```python\nassert f('ab') == ('A', 2)\nassert f('ab') == ('AB', 2)\n```",
        "\\boxed{('AB', 2)}",
    ],
)
def test_a_right_output(text: str) -> None:
    assert judge(PREDICT, f"<think>x</think>{text}").status is Status.CORRECT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pass",
        "```python\npass\n```",
        "```python\n\n```",
        "```python\nassert f('ab') == f('ab')\n```",
        "```python\nassert f('ab') == ['AB', 2]\n```",
        "```python\nassert f('ab') == ('AB', True)\n```",
        "```python\nassert f('ab') == ??\n```",
        "```python\nassert True\n```",
        "```python\nassert ('AB', 2)\nassert f('ab') == 0\n```",
        "```python\nexit()\n```",
        "<answer>" + "(" * 10_000 + "</answer>",
        "<answer>" + "-" * 15_000 + "1</answer>",
        "<answer>" + "9" * 15_000 + "</answer>",
        "<answer>\x00</answer>",
    ],
)
def test_a_wrong_output_and_what_asserts_nothing(text: str) -> None:
    verdict = judge(PREDICT, text)
    assert verdict.score == 0.0
    assert verdict.status in (Status.WRONG, Status.NO_ANSWER), verdict


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ((1, 2), [1, 2], False),
        (True, 1, False),
        ([True], [1], False),
        ({"a": (1,)}, {"a": (1,)}, True),
        ({1, 2}, {2, 1}, True),
        (1, 1.0, True),
        ("1", 1, False),
        ({}, [], False),
        (None, None, True),
    ],
)
def test_literals(left: Any, right: Any, same: bool) -> None:
    assert same_literal(left, right) is same


def test_what_is_asked_for() -> None:
    assert asked_for(PREDICT) == "output"
    assert asked_for(Record("u", "simulation__cruxeval-i", (), {})) == "input"
    assert asked_for(Record("u", "mine", (), {}, "cruxeval", {"task": "input"})) == "input"
    with pytest.raises(ValueError, match="what is asked for"):
        asked_for(Record("u", "mine", (), {}, "cruxeval"))
