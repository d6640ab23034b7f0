"""Which records a filter keeps: the band, the other filters, caps and balance; and how rates are joined."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.filter.choose import BINS, NO_VERDICT, Choice, Rules, bin_of, choose
from reasonkit.filter.histogram import counts, rows, save_pictures
from reasonkit.filter.rates import Rate, annotated, key_of, read_rates, truncated, unique, write_rates
from reasonkit.records import Record


def record(uid: str, source: str = "a", question: str = "", answer: Any = None) -> Record:
    prompt = ({"role": "user", "content": question or f"What is {uid}?"},)
    return Record(uid, source, prompt, uid if answer is None else answer)


def rate(passed: int, judged: int = 16, asked: int = 16, cut: int = 0) -> Rate:
    return Rate(asked, judged, passed, cut)


def chosen(passed: Mapping[str, tuple[int, ...]], rules: Rules = Rules()) -> Choice:  # noqa: B008 - frozen
    """The choice among records 0, 1, … that each model solved so often out of 16."""
    records = [record(str(number)) for number in range(len(next(iter(passed.values()))))]
    rates = {
        label: {key_of(each): rate(count) for each, count in zip(records, of, strict=True)}
        for label, of in passed.items()
    }
    return choose(records, rates, rules)


def uids(choice: Choice) -> str:
    return "".join(each.uid for each in choice.kept)


def reasons(choice: Choice) -> dict[str, str]:
    return {each.uid: rejection.reason for each, rejection in choice.dropped}


def test_the_band_is_gurus() -> None:
    # Strong never solves 0; weak solves 3 at 15 of 16, which is above 0.9, and 4 at 14.
    choice = chosen({"weak": (0, 0, 8, 15, 14), "strong": (0, 1, 16, 16, 16)})
    assert uids(choice) == "124"
    assert reasons(choice) == {"0": "too hard", "3": "too easy"}
    details = {each.uid: rejection.detail for each, rejection in choice.dropped}
    assert details == {"0": "strong solves 0 ≤ 1e-05", "3": "weak solves 0.9375 ≥ 0.9"}


def test_one_model_bounds_both_ways() -> None:
    assert uids(chosen({"m": (0, 2, 8, 14, 16)}, Rules(low=0.2, high=0.8))) == "2"


def test_of_several_models_two_are_named() -> None:
    with pytest.raises(UsageError, match=r"of several models \(x, y\) one must be called weak"):
        chosen({"x": (1,), "y": (1,)})
    assert uids(chosen({"weak": (1,), "strong": (2,), "other": (0,)})) == "0"


def test_a_record_that_only_the_weak_model_solves_may_be_dropped() -> None:
    passed = {"weak": (4, 4), "strong": (8, 2)}
    assert uids(chosen(passed)) == "01"
    assert reasons(chosen(passed, Rules(inverted=True))) == {"1": "inverted"}


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (-0.1, 0.5), (0.1, 1.2), (0.9, 0.1)])
def test_bounds_without_a_band_between_them_are_an_error(low: float, high: float) -> None:
    with pytest.raises(UsageError, match="leave no band"):
        Rules(low=low, high=high)


def test_samples_without_a_verdict_decide_nothing() -> None:
    records = [record("0"), record("1"), record("2")]
    rates = {
        "m": {key_of(each): of for each, of in zip(records, (rate(8), rate(8, 14), rate(0, 0)), strict=True)}
    }
    assert uids(choose(records, rates, Rules())) == "0"
    assert reasons(choose(records, rates, Rules(most_missing=0.2))) == {"2": NO_VERDICT}
    assert reasons(choose(records, rates, Rules(most_missing=1.0))) == {"2": NO_VERDICT}


def test_length_and_language() -> None:
    records = [
        record("0", question="Which of the two numbers is the larger one, and what is it for?"),
        record("1", question="Welche der beiden Zahlen ist die größere, und was ist mit der anderen?"),
        record("2", question="Which of the two is it? " * 40),
        record("3", question="And what is the answer to that one, if it is not for us?"),
    ]
    rates = {"m": {key_of(each): rate(8, cut=12 if each.uid == "3" else 0) for each in records}}
    rules = Rules(
        language="en",
        most_tokens=30,
        count_tokens=lambda each: len(each.prompt[0]["content"].split()),
        most_truncated=0.5,
    )
    assert reasons(choose(records, rates, rules)) == {
        "1": "not in language en",
        "2": "prompt over 30 tokens",
        "3": "replies cut at the length limit",
    }


def test_a_question_stays_once_and_an_answer_so_many_times() -> None:
    records = [
        record("0", question="1+1?", answer="2"),
        record("1", "b", question=" 1+1?\n", answer="2"),
        record("2", question="1+1?", answer="3"),
        *(record(uid, answer="yes") for uid in "345"),
        record("6", "b", answer="yes"),
    ]
    rates = {"m": {key_of(each): rate(8) for each in records}}
    choice = choose(records, rates, Rules(same_answer=2))
    assert reasons(choice) == {
        "1": "asked before",
        "2": "asked before, with another answer",
        "5": "as many records of its source have this answer",
    }
    assert uids(choice) == "0346"


def many(
    sizes: Mapping[str, int], solved: int = 8
) -> tuple[list[Record], dict[str, dict[tuple[str, str], Rate]]]:
    records = [
        record(f"{source}{number}", source) for source, size in sizes.items() for number in range(size)
    ]
    return records, {"m": {key_of(each): rate(solved) for each in records}}


def test_caps_of_sources() -> None:
    records, rates = many({"a": 30, "b": 30, "c": 5})
    rules = Rules(cap=20, caps={"b": 3})
    choice = choose(records, rates, rules)
    assert Counter(each.source for each in choice.kept) == {"a": 20, "b": 3, "c": 5}
    assert choice.reasons() == {"over the cap of its source": 37}
    # Which ones stay does not depend on the order of the file, but on the seed.
    again = choose(records[::-1], rates, rules)
    assert {each.uid for each in again.kept} == {each.uid for each in choice.kept}
    other = choose(records, rates, Rules(cap=20, caps={"b": 3}, seed=1))
    assert {each.uid for each in other.kept} != {each.uid for each in choice.kept}


def test_a_sample_takes_equal_shares_and_fills_up_what_small_sources_lack() -> None:
    records, rates = many({"a": 100, "b": 100, "c": 4})
    choice = choose(records, rates, Rules(size=50))
    assert Counter(each.source for each in choice.kept) == {"a": 23, "b": 23, "c": 4}
    assert len(choose(records, rates, Rules(size=500)).kept) == 204
    positions = [records.index(each) for each in choice.kept]
    assert positions == sorted(positions)


def test_a_sample_may_be_balanced_over_pass_rates() -> None:
    records = [record(str(number)) for number in range(90)]
    rates = {"m": {key_of(each): rate(2 if number < 80 else 10) for number, each in enumerate(records)}}
    choice = choose(records, rates, Rules(size=20, balance="rate"))
    assert Counter(rates["m"][key_of(each)].passed for each in choice.kept) == {2: 10, 10: 10}


def test_bins_part_impossible_and_perfect_from_the_rest() -> None:
    names = [BINS[bin_of(value)] for value in (0, 0.01, 0.2, 0.5, 0.79, 0.99, 1)]
    assert names == ["impossible", "very hard", "hard", "medium", "easy", "very easy", "perfect"]


def test_the_histogram(tmp_path: Path) -> None:
    _, rates = many({"a": 3})
    rates["m"]["a", "a0"] = rate(0, 0)
    spread = counts(rates)
    assert spread == {"m": [0, 0, 0, 2, 0, 0, 0]}
    assert rows(spread)[3] == ("m", "medium", "2", "█" * 40)
    png, svg = save_pictures(spread, tmp_path)
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert b"Date" not in svg.read_bytes()
    before = svg.read_bytes()
    save_pictures(spread, tmp_path)
    assert svg.read_bytes() == before


def test_rates_are_joined_by_source_and_uid_or_not_at_all(tmp_path: Path) -> None:
    records = [record("0"), record("0", "b"), record("1")]
    rates = {"weak": {key_of(each): rate(place, cut=place) for place, each in enumerate(records)}}
    path = tmp_path / "rates.jsonl"
    write_rates(rates, path)
    assert read_rates(path, records) == rates
    assert truncated(rates) == {"weak": 3 / 48}
    with pytest.raises(
        ReasonkitError, match="no rate of 'weak' for 1 of 4 records; the first is uid '7' of source 'a'"
    ):
        read_rates(path, [*records, record("7")])
    with path.open("a") as lines:
        lines.write(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(ReasonkitError, match="line 4: uid '0' of source 'a' has a rate already"):
        read_rates(path, records)
    path.write_text('{"idx": 3, "pass_rate": 0.5}\n')
    with pytest.raises(ReasonkitError, match="line 1 has no data_source, uid and models"):
        read_rates(path, records)
    with pytest.raises(ReasonkitError, match="two records of source 'a' with the uid '0'"):
        unique([records[0], records[1], records[0]], "train.parquet")


def test_annotated_records_say_what_was_measured() -> None:
    one = record("0")
    rates = {"weak": {key_of(one): rate(4)}, "strong": {key_of(one): rate(0, 0)}}
    assert annotated(one, rates).metadata == {
        "pass_rates": {"weak": {"rate": 0.25, "passed": 4, "samples": 16}}
    }
    assert json.dumps(annotated(one, rates).metadata)
