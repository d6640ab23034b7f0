"""Exact answers, numbers, lists, GSM8K and tables: the short answers that need no algebra."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonkit.records import Record, Status, Verdict
from reasonkit.verifiers.exact import verify_exact
from reasonkit.verifiers.gsm8k import verify_gsm8k, verify_gsm8k_reasoning360
from reasonkit.verifiers.lists import verify_list, verify_set
from reasonkit.verifiers.numbers import parse_number, verify_number
from reasonkit.verifiers.tables import verify_table, verify_table_reasoning360


def record(answer: object, **metadata: object) -> Record:
    return Record("u", "s", (), answer, metadata=metadata)


def boxed(verify, gold: object, answer: str, **metadata: object) -> Verdict:
    return verify(record(gold, **metadata), f"\\boxed{{{answer}}}")


@pytest.mark.parametrize(
    "text", ["Paris", "so\n#### paris.", "<answer> PARIS </answer>", r"\boxed{Paris}", "x # Paris"]
)
def test_exact_forgives_case_space_and_edges(text: str) -> None:
    assert verify_exact(record("Paris"), text).score == 1.0


@pytest.mark.parametrize("text", ["Paris or Rome", "Pari s", "", "<think>Paris", "<answer></answer>"])
def test_exact_forgives_nothing_else(text: str) -> None:
    assert verify_exact(record("Paris"), text).score == 0.0


def test_exact_takes_any_of_several_gold_answers_and_no_empty_one() -> None:
    assert verify_exact(record(["NYC", "New York"]), "new york").score == 1.0
    assert verify_exact(record(["", "x"]), "<answer> </answer>").score == 0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.5", "1234.5"),
        ("$12", "12"),
        ("-7", "-7"),
        ("−7", "-7"),
        ("3/4", "0.75"),
        (r"\frac{3}{4}", "0.75"),
        (r"-\dfrac{3}{4}", "-0.75"),
        ("1.2e-3", "0.0012"),
        (r"1.2 \times 10^{-3}", "0.0012"),
        (".5", "0.5"),
        ("12 km", "12"),
        (r"12\text{ km}", "12"),
        ("**12**", "12"),
        ("€5", "5"),
    ],
)
def test_numbers_are_read_in_the_forms_that_people_write(text: str, value: str) -> None:
    number = parse_number(text)
    assert number is not None
    assert number.value == Fraction(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "-",
        "1 2",
        "12 or 13",
        "1/0",
        "1,23",
        "x",
        "NaN",
        "inf",
        "1e9999",
        "１２",
        "٣",
        "1\x00",
        "9" * 401,
        "__import__('os')",
    ],
)
def test_what_is_not_exactly_one_number_is_none(text: str) -> None:
    assert parse_number(text) is None


@given(st.fractions(max_denominator=1000), st.sampled_from(["{}", "${}$", " {} ", "\\text{{{}}}", "{}."]))
def test_every_fraction_is_read_back(value: Fraction, wrapping: str) -> None:
    number = parse_number(wrapping.format(value))
    assert number is not None
    assert number.value == value


@given(st.text(max_size=60))
def test_reading_a_number_never_raises(text: str) -> None:
    parse_number(text)


def test_numbers_match_exactly_unless_a_tolerance_is_stated() -> None:
    assert boxed(verify_number, 100, "100.0").score == 1.0
    assert boxed(verify_number, 100, "100.4").score == 0.0
    assert boxed(verify_number, 100, "100.4", rel_tol=0.005).score == 1.0
    assert boxed(verify_number, 100, "101", abs_tol=0.5).score == 0.0
    assert boxed(verify_number, "1000000000000000000", "1000000000000000001").score == 0.0


def test_a_percentage_is_its_value() -> None:
    assert boxed(verify_number, 0.5, r"50\%").score == 1.0
    assert boxed(verify_number, 50, r"50\%").score == 0.0
    assert boxed(verify_number, "50%", "0.5").score == 1.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (["a", "b"], "a, b"),
        (["a", "b"], '["a", "b"]'),
        ([1, 2.5], "1; 5/2"),
        ("1|2", "1 | 2"),
        ([1, 2], "[1, 2]"),
        ([1, 2], r"\{1, 2\}"),
    ],
)
def test_lists_match_item_by_item(gold: object, answer: str) -> None:
    assert verify_list(record(gold), f"<answer>{answer}</answer>").score == 1.0


def test_order_counts_in_a_list_and_not_in_a_set() -> None:
    swapped = "<answer>b, a</answer>"
    assert verify_list(record(["a", "b"]), swapped).status is Status.WRONG
    assert "order" in verify_list(record(["a", "b"]), swapped).reason
    assert verify_set(record(["a", "b"]), swapped).score == 1.0


@pytest.mark.parametrize("answer", ["a", "a, b, c", "a, a", "a, b, b", "", "[" * 20_000, "a," * 60_000])
def test_missing_surplus_and_repeated_items_are_wrong(answer: str) -> None:
    assert verify_set(record(["a", "b"]), f"<answer>{answer}</answer>").score == 0.0


@pytest.mark.parametrize(
    "text", ["work\n#### 72", "#### 1\n#### 72", "#### $72.00", r"\boxed{72}", "<answer>72</answer>"]
)
def test_gsm8k_reads_the_last_marked_number(text: str) -> None:
    assert verify_gsm8k(record("some work <<1+1=2>>\n#### 72"), text).score == 1.0


@pytest.mark.parametrize(
    "text", ["", "72", "70 71 72", "#### 71", "#### 71 or 72", "<think>#### 72</think>", "####"]
)
def test_gsm8k_takes_no_unmarked_number(text: str) -> None:
    assert verify_gsm8k(record("72"), text).score == 0.0


def test_gsm8k_reasoning360_mode_looks_at_the_last_300_characters_only() -> None:
    assert verify_gsm8k_reasoning360(record("72"), "#### 72").score == 1.0
    assert verify_gsm8k_reasoning360(record("72"), "#### 72" + " " * 300).status is Status.NO_ANSWER
    assert verify_gsm8k_reasoning360(record("72"), r"\boxed{72}").status is Status.NO_ANSWER


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("6.64", "6.64"),
        ("6.64", "6.64%"),
        ("6.64", "6.6400001"),
        ("0.0664", "6.64%"),
        ("a|2", "2|A"),
        ("-3", "−3"),
    ],
)
def test_table_values_match_rounded_and_in_any_order(gold: str, answer: str) -> None:
    assert boxed(verify_table, gold, answer).score == 1.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("0.0664", "6.64"),
        ("6.64", "0.0664"),
        ("6.64", "6.7"),
        ("1|2", "1"),
        ("1|2", "1|1"),
        ("1", "1|2"),
        ("6.64", ""),
        ("6.64", "__import__('os').mkdir('made')"),
    ],
)
def test_table_values_that_differ_are_wrong(gold: str, answer: str) -> None:
    assert boxed(verify_table, gold, answer).score == 0.0


def test_reasoning360_mode_forgives_a_factor_of_a_hundred_and_evaluates_nothing(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert boxed(verify_table_reasoning360, "0.0664", "6.64").score == 1.0
    assert boxed(verify_table_reasoning360, "1", "__import__('os').mkdir('made')").score == 0.0
    assert boxed(verify_table_reasoning360, "4", "2+2").score == 0.0
    assert not (tmp_path / "made").exists()
