"""Building by name: determinism, distinctness, disjoint splits, mixtures, and errors that help."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable

import pytest

from reasonkit.data.build import SOURCES, build, parse_name, parse_settings, shares, source_named
from reasonkit.data.gold import gold_reply
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.instructions import ANSWER_INSTRUCTION
from reasonkit.records import Record, Status, to_row
from reasonkit.verifiers import verify


def content(record: Record) -> tuple[str, str]:
    return record.prompt[-1]["content"], repr(record.answer)


PROCEDURAL = sorted(name for name in SOURCES if "raw" not in source_named(name).settings.model_fields)


@pytest.mark.parametrize("name", PROCEDURAL)
class TestEverySource:
    def test_the_same_seed_gives_the_same_rows_and_another_seed_gives_others(self, name: str) -> None:
        once, again, other = (
            [to_row(record) for record in build(name, "train", 20, seed)] for seed in (5, 5, 6)
        )
        assert once == again
        assert len({row["uid"] for row in once} & {row["uid"] for row in other}) <= 2

    def test_a_longer_set_begins_with_the_shorter_one(self, name: str) -> None:
        short = list(build(name, "train", 5, 1))
        assert list(itertools.islice(build(name, "train", 10, 1), 5)) == short

    def test_no_problem_repeats_within_a_set(self, name: str) -> None:
        records = list(build(name, "train", 60, 2))
        assert len({record.uid for record in records}) == 60
        assert len({content(record) for record in records}) == 60

    def test_train_and_test_share_nothing_whatever_their_seeds(self, name: str) -> None:
        train = {record.uid for seed in (0, 1) for record in build(name, "train", 30, seed)}
        test = {record.uid for seed in (0, 1) for record in build(name, "test", 10, seed)}
        assert not train & test


WITH_GOLD = sorted(set(PROCEDURAL) - {"episodes", "frozen_lake"})
"""The other two are judged by what their environments do."""


@pytest.mark.parametrize("name", WITH_GOLD)
def test_gold_scores_1_and_the_gold_of_another_problem_0(name: str) -> None:
    records = list(build(name, "train", 24, 3))
    replies = [gold_reply(record) or "" for record in records]
    assert [verify(record, reply).score for record, reply in zip(records, replies, strict=True)] == [1.0] * 24
    others = [verify(record, reply) for record, reply in zip(records, replies[1:], strict=False)]
    # A digit, or a way of four moves, may be right elsewhere by chance.
    assert sum(verdict.status is Status.CORRECT for verdict in others) <= 5
    # A zebra's verdict gives a share for each right cell.
    assert all(verdict.score < 0.2 for verdict in others if verdict.status is not Status.CORRECT)


DIFFICULTY: dict[str, Callable[[str, Record], int]] = {
    "arithmetic_chain": lambda text, _: len(re.findall(r"\d[-+]", text)),
    "countdown": lambda text, _: len(json.loads(re.findall(r"\[[\d, ]+\]", text)[0])),
    "knights": lambda text, record: len(
        set(re.findall(r"\w+(?= is a kn)", record.answer["solution_text_format"]))
    ),
    "ordering": lambda text, record: len({word for word in record.answer if word in text}),
    "sokoban": lambda text, record: len(record.answer["solution"].split("||")),
    "zebra": lambda text, record: len(record.answer["rows"]) * (len(record.answer["header"]) - 1),
}
"""The difficulty as anyone can count it. That of graph is searched for in test_sources_logic_puzzles.py."""


@pytest.mark.parametrize("name", DIFFICULTY)
def test_the_difficulty_is_what_its_name_says(name: str) -> None:
    records = list(build(name, "train", 24, 4))
    counted = [DIFFICULTY[name](record.prompt[-1]["content"], record) for record in records]
    assert counted == [record.metadata["difficulty"] for record in records]
    assert len(set(counted)) > 1 or name == "zebra", "one setting of a source has several levels"


def test_what_is_decided_by_an_environment_has_no_gold_to_copy() -> None:
    for name in set(PROCEDURAL) - set(WITH_GOLD):
        assert {record.verifier for record in build(name, "train", 3, 0)} == {"by_env"}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_source_says_what_it_is(name: str) -> None:
    source = source_named(name)
    assert source.name == name
    assert source.about
    assert all(field.description for field in source.settings.model_fields.values())


def test_the_instruction_stands_before_the_question_only_where_it_is_asked_for() -> None:
    (plain,) = build("countdown", "train", 1, 0, {"add_instructions": False})
    (instructed,) = build("countdown", "train", 1, 0, {"add_instructions": True})
    assert instructed.prompt[0]["content"] == ANSWER_INSTRUCTION + plain.prompt[0]["content"]
    assert ANSWER_INSTRUCTION == (
        "Think step by step and solve the problem carefully. When you have your final answer, format it as: "
        "<answer>your answer here</answer>\n\n"
    )


def test_a_set_larger_than_a_source_s_variety_is_an_error_that_says_how_many_there_are() -> None:
    with pytest.raises(ReasonkitError, match=r"only about \d+ different train problems"):
        list(build("countdown", "train", 10_000, 0, {"numbers": 2, "largest": 10, "largest_target": 20}))


class TestMixtures:
    def test_each_part_gets_its_exact_share(self) -> None:
        records = list(build("knights=2,countdown", "train", 30, 0))
        assert [record.source for record in records].count("knights") == 20
        assert [record.source for record in records].count("countdown") == 10

    def test_parts_are_interleaved(self) -> None:
        sources = [record.source for record in build("knights,countdown", "train", 40, 0)]
        assert sources[:20].count("knights") in range(4, 17)

    def test_settings_are_given_by_source(self) -> None:
        records = build("knights,countdown", "train", 20, 0, {"knights": {"people": 2}})
        assert {record.metadata["people"] for record in records if record.source == "knights"} == {2}

    def test_reasoning_gym_tasks_inherit_the_prefix(self) -> None:
        names = [part.source.name for part in parse_name("rg:gcd=2,lcm,knights")]
        assert names == ["rg:gcd", "rg:lcm", "knights"]

    @pytest.mark.parametrize("size", [0, 1, 7, 100])
    def test_shares_add_up(self, size: int) -> None:
        assert sum(shares([1, 2, 0.5], size)) == size
        assert shares([1, 1], 10) == [5, 5]

    @pytest.mark.parametrize("name", ["knights=0", "knights=-1", "knights=x", "knights=inf", "knights=nan"])
    def test_a_weight_that_is_no_positive_number_is_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match="weight"):
            parse_name(name)

    def test_a_source_named_twice_is_refused(self) -> None:
        with pytest.raises(UsageError, match="twice"):
            parse_name("knights,knights")

    def test_a_bad_setting_of_a_part_is_refused_before_anything_is_drawn(self) -> None:
        with pytest.raises(UsageError, match="people"):
            build("knights,countdown", "train", 2, 0, {"knights": {"people": 1}})

    def test_a_setting_of_no_part_is_refused(self) -> None:
        with pytest.raises(UsageError, match="belongs to no source"):
            build("knights,countdown", "train", 2, 0, {"people": 3})


class TestErrors:
    def test_an_unknown_source_names_the_nearest(self) -> None:
        with pytest.raises(UsageError, match="unknown data source 'knight'") as caught:
            build("knight", "train", 1)
        assert "knights" in caught.value.hint

    def test_an_unknown_reasoning_gym_task_names_the_nearest(self) -> None:
        with pytest.raises(UsageError, match="leg_count") as caught:
            build("rg:leg_count", "train", 1)
        assert "leg_counting" in caught.value.hint

    def test_an_unknown_setting_names_the_nearest(self) -> None:
        with pytest.raises(UsageError, match="no setting 'peple'") as caught:
            build("knights", "train", 1, 0, {"peple": 3})
        assert "people" in caught.value.hint

    def test_a_negative_size_is_refused(self) -> None:
        with pytest.raises(UsageError, match="-1 records"):
            build("knights", "train", -1)


def test_settings_are_read_as_yaml_and_dots_nest() -> None:
    assert parse_settings(["people=[3,4]", "config.min=2", "config.name=x"]) == {
        "people": [3, 4],
        "config": {"min": 2, "name": "x"},
    }
    with pytest.raises(UsageError, match="key=value"):
        parse_settings(["people"])
