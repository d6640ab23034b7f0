"""The form of a reply."""

import pytest

from reasonkit.records import Record
from reasonkit.verifiers.format import END_OF_SENTENCE, reward_server_format, verify_format


def score(asked: object, text: str) -> float:
    return verify_format(Record("u", "s", (), asked), text).score


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (["think", "answer"], "<think>a</think> <answer>b</answer>"),
        ("think", " <think>a</think>b"),
        ("box", r"<think>a</think>\boxed{b}"),
        ("fence", "```\nx\n```"),
        ("fence:python", "<think>\n</think>\n```python\nx\n```"),
    ],
)
def test_a_well_formed_reply_passes(asked: object, text: str) -> None:
    assert score(asked, text) == 1.0


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("think", "a"),
        ("think", "b <think>a</think>"),
        ("think", "</think>a<think>"),
        ("think", "<think>a</think><think>b</think>"),
        ("answer", "<answer>" * 50_000),
        ("answer", "<answer></answer>"),
        ("answer", "<think><answer>a</answer></think>"),
        ("answer", "<answer>a</answer> and more"),
        ("answer", "<answer>a</answer><answer>b</answer>"),
        ("box", r"<think>\boxed{b}</think>"),
        ("box", r"\boxed{}"),
        ("fence", "```\nx"),
        ("fence:python", "```cpp\nx\n```"),
        ("fence", ""),
    ],
)
def test_a_malformed_reply_fails(asked: object, text: str) -> None:
    assert score(asked, text) == 0.0


def test_an_unknown_part_is_an_error_of_the_record() -> None:
    with pytest.raises(ValueError, match="unknown part"):
        score("poem", "a")


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        (rf"<think>a</think>\boxed{{1}}{END_OF_SENTENCE}", "math_verifiable", 1.0),
        (rf"<think>a</think>1{END_OF_SENTENCE}", "math_verifiable", 0.0),
        (r"<think>a</think>\boxed{1}", "math_verifiable", 0.0),
        (rf"<think>答</think>\boxed{{1}}{END_OF_SENTENCE}", "math_verifiable", 0.0),
        (rf"\boxed{{1}}{END_OF_SENTENCE}", "math_verifiable", 0.0),
        (f"<think>a</think>\n```python\nx\n```\n{END_OF_SENTENCE}", "code_verifiable", 1.0),
        (f"<think>a</think>x{END_OF_SENTENCE}", "llm_judge", 1.0),
    ],
)
def test_the_reward_servers_rule(text: str, kind: str, expected: float) -> None:
    assert reward_server_format(text, kind) == expected
