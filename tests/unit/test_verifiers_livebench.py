"""LiveBench's nine rules: what is right, what earns a share, and what the published graders pay for besides."""

from __future__ import annotations

import pytest

from reasonkit.records import Record, Status
from reasonkit.verifiers.livebench import verify_livebench, verify_livebench_reasoning360

CSV = "name,age\nAnn,3\nBob,4.50\n"
WORDS = "a,b,c,d,e,f,g,h"
PLOT = "One goes. Two comes. Three stays. Four ends."


def record(task: str, answer: str, question: str = "?") -> Record:
    return Record(
        "1", "ood__livebench", ({"role": "user", "content": question},), answer, None, {"task": task}
    )


def strict(task: str, answer: str, reply: str, question: str = "?") -> float:
    return verify_livebench(record(task, answer, question), reply).score


def published(task: str, answer: str, reply: str, question: str = "?") -> float:
    return verify_livebench_reasoning360(record(task, answer, question), reply).score


@pytest.mark.parametrize(
    ("task", "answer", "reply", "score"),
    [
        ("web_of_lies_v2", "no, yes, yes", "So **no, yes, yes**.", 1),
        ("web_of_lies_v2", "no, yes, yes", "**Ann** lies.\n**no**, **yes**, **yes**", 1),
        ("web_of_lies_v2", "no, yes, yes", "**no, yes, no**", 0),
        ("web_of_lies_v2", "no, yes, yes", "**no, yes, yes, no**", 0),
        ("web_of_lies_v2", "no, yes, yes", "**no, yes, yes**, wait: **no, no, no**", 0),
        ("zebra_puzzle", "three", "It is ***3***", 1),
        ("zebra_puzzle", "action movies", "***action***", 1),
        ("zebra_puzzle", "norwegian", "***spaniard***", 0),
        ("spatial", "tetrahedra", "**two tetrahedra**", 1),
        ("spatial", "4", "**four**", 1),
        ("spatial", "4", "**4** or **5**", 0),
        ("spatial", "triangle", "**a circle, a square or a triangle**", 0),
        ("connections", WORDS, "**d, c, b, a, h, g, f, e**", 1),
        ("connections", WORDS, "**a, b, c, d**\n**e, f, g, h**", 1),
        ("connections", "a,b,c,d,e,f,g,h,i,j,k,l", "**a, b, c, d, e, f, g, i, h, j, k, l**", 1 / 3),
        ("connections", WORDS, "**a, b, c, d, a, b, c, d**", 0.5),
        ("plot_unscrambling", PLOT, f"<PLOT_SUMMARY> {PLOT} </PLOT_SUMMARY>", 1),
        ("plot_unscrambling", PLOT, "Two comes. One goes. Three stays. Four ends.", 0.5),
        ("plot_unscrambling", PLOT, "One went. Two comes! Three stays. Four ends.", 0.5),
        ("typos", "We find it.", "Here it is:\nWe find it.", 1),
        ("typos", "We find it.", "We fnd it.", 0),
        ("cta", "postal_code", "**Postal Code**", 1),
        ("cta", "postal_code", "code", 0),
        ("tablejoin", "{'a': 'x', 'b': 'y'}", "```python\n{'a': 'x', 'b': 'y'}\n```", 1),
        ("tablejoin", "{'a': 'x', 'b': 'y'}", "{'a': 'x'}", 2 / 3),
        ("tablejoin", "{'a': 'x', 'b': 'y'}", "{'a': 'y', 'c': 'z'}", 0),
    ],
)
def test_each_rule(task: str, answer: str, reply: str, score: float) -> None:
    assert strict(task, answer, reply) == pytest.approx(score)


@pytest.mark.parametrize(
    ("wanted", "gold", "reply", "score"),
    [
        ("CSV", CSV, f"Here is the table:\n{CSV}", 1),
        ("CSV", CSV, "```csv\nage,name\n3,Ann\n4.5,Bob\n```", 1),
        ("CSV", CSV, "name,age\nBob,4.5\nAnn,3", 0),
        ("TSV", CSV.replace(",", "\t"), "name\tage\nAnn\t3\nBob\t4.5", 1),
        ("JSON", '{"0": {"name": "Ann", "age": 3}}', '```json\n[\n{"name": "Ann", "age": 3.0}\n]\n```', 1),
        ("JSONL", '{"name": "Ann", "age": null}', 'Sure.\n{"age": "", "name": " Ann "}', 1),
        ("Markdown", "|    | name |\n|---:|:---|\n|  0 | Ann |", "| name |\n|---|\n| Ann |", 1),
        ("HTML", "<table><tr><th>name</th></tr><tr><td>Ann</td></tr></table>", "<table><tr><td>name", 0),
        ("CSV", CSV, "name,age\nAnn,3\nBob,5", 0),
        ("CSV", CSV, "I cannot do that.", 0),
        ("JSON", '{"0": {"name": "Ann"}}', "[" * 100_000, 0),
    ],
)
def test_a_table_counts_cell_by_cell(wanted: str, gold: str, reply: str, score: float) -> None:
    question = f"Please convert the Input Table from XML format to {wanted} format. Answer with the table."
    assert strict("tablereformat", gold, reply, question) == score
    assert published("tablereformat", gold, reply, question) == 0


def test_the_published_graders_pay_for_naming_everything() -> None:
    assert published("spatial", "4", "**4** or **5** or **6**") == 1
    assert strict("spatial", "4", "**4** or **5** or **6**") == 0
    assert published("zebra_puzzle", "cat", "No idea, but I have a cat") == 1
    assert (
        verify_livebench(record("zebra_puzzle", "cat"), "No idea, but I have a cat").status
        is Status.NO_ANSWER
    )
    assert published("connections", WORDS, f"**{WORDS}** or **{WORDS[::-1]}, z**") == 1
    assert published("cta", "age", "**age**") == 1
    assert published("cta", "age", "I say **age**") == 0


@pytest.mark.parametrize(
    "task", ["web_of_lies_v2", "spatial", "connections", "typos", "plot_unscrambling", "tablejoin"]
)
def test_a_missing_or_unfinished_answer_is_none(task: str) -> None:
    answer = "{'a': 'b'}" if task == "tablejoin" else "yes"
    for reply in ("", "<think>the answer is **yes**, {'a': 'b'}"):
        assert verify_livebench(record(task, answer), reply).status is Status.NO_ANSWER


def test_a_task_without_a_rule_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rule for LiveBench's task 'juggling'"):
        strict("juggling", "1", "1")
