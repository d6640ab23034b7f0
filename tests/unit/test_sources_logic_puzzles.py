"""Ordering, zebra and graph puzzles as worded: solved here by brute force from the English alone."""

from __future__ import annotations

import itertools
import re
from collections import deque

import pytest

from reasonkit.data.build import build
from reasonkit.data.sources.zebra import ATTRIBUTES, WORDING, Solver, true_clues
from reasonkit.errors import UsageError
from reasonkit.records import Record

ORDERING = (
    (r"The (\w+) is somewhere to the left of the (\w+)\.", lambda at, a, b: at[a] < at[b]),
    (r"The (\w+) is somewhere to the right of the (\w+)\.", lambda at, a, b: at[a] > at[b]),
    (r"The (\w+) is immediately to the left of the (\w+)\.", lambda at, a, b: at[a] + 1 == at[b]),
    (r"The (\w+) is right next to the (\w+)\.", lambda at, a, b: abs(at[a] - at[b]) == 1),
    (r"The (\w+) is not next to the (\w+)\.", lambda at, a, b: abs(at[a] - at[b]) != 1),
    (
        r"The (\w+) is somewhere between the (\w+) and the (\w+)\.",
        lambda at, a, b, c: at[b] < at[a] < at[c] or at[c] < at[a] < at[b],
    ),
    (r"The (\w+) is the rightmost\.", lambda at, a: at[a] == len(at) - 1),
    (r"The (\w+) is number (\d) from the left\.", lambda at, a, n: at[a] == int(n) - 1),
    (r"The (\w+) is not number (\d) from the left\.", lambda at, a, n: at[a] != int(n) - 1),
)


def ordering_solutions(record: Record) -> list[list[str]]:
    question = record.prompt[0]["content"]
    names = re.search(r"in a row .+?: (.+)\.\n", question)[1].split(", ")  # type: ignore[index]
    clues = [line for line in question.splitlines() if line.startswith("The ")]
    assert len(clues) == record.metadata["clues"]
    read = []
    for clue in clues:
        ((match, fits),) = [(m, fits) for pattern, fits in ORDERING if (m := re.fullmatch(pattern, clue))]
        read.append((match.groups(), fits))
    return [
        list(order)
        for order in itertools.permutations(names)
        if all(fits({name: i for i, name in enumerate(order)}, *groups) for groups, fits in read)
    ]


@pytest.mark.parametrize("objects", [3, 4, 5, 6, 7])
def test_an_ordering_puzzle_has_exactly_the_gold_order(objects: int) -> None:
    for record in build("ordering", "train", 15, 2, {"objects": objects}):
        assert ordering_solutions(record) == [record.answer]
        assert len(record.answer) == objects


def test_no_clue_of_an_ordering_puzzle_can_be_left_out() -> None:
    for record in build("ordering", "train", 10, 4, {"objects": 5}):
        question = record.prompt[0]["content"]
        for line in [line for line in question.splitlines() if line.startswith("The ")]:
            shorter = question.replace(line + "\n", "", 1)
            fewer = Record(
                "u",
                "s",
                ({"role": "user", "content": shorter},),
                None,
                None,
                {"clues": record.metadata["clues"] - 1},
            )
            assert len(ordering_solutions(fewer)) > 1


ZEBRA = (
    ("{a} does not live in house {n}.", lambda a, n: a != n),
    ("{a} lives in house {n}.", lambda a, n: a == n),
    ("{a} lives somewhere to the left of {b}.", lambda a, b: a < b),
    ("{a} lives directly to the left of {b}.", lambda a, b: a + 1 == b),
    ("{a} lives next to {b}.", lambda a, b: abs(a - b) == 1),
    ("{a} is not {b}.", lambda a, b: a != b),
    ("{a} is {b}.", lambda a, b: a == b),
)


def zebra_solutions(record: Record) -> list[list[tuple[str, ...]]]:
    """Columns of every filling that fits the clues."""
    question = record.prompt[0]["content"]
    listed = [
        (line[2:].split(": ")[0], line.split(": ")[1].split(", "))
        for line in question.splitlines()
        if line.startswith("- ")
    ]
    spoken = {WORDING[name].format(value=value): value for name, values in listed for value in values}
    anyone = "|".join(re.escape(words) for words in sorted(spoken, key=len, reverse=True))
    read = []
    for line in re.findall(r"^\d+\. (.+)$", question, re.MULTILINE):
        for pattern, fits in ZEBRA:
            regex = re.escape(pattern).replace(r"\{a\}", f"({anyone})").replace(r"\{b\}", f"({anyone})")
            match = re.fullmatch(regex.replace(r"\{n\}", r"(\d)"), line, re.IGNORECASE)
            if match:
                read.append(([spoken_value(spoken, group) for group in match.groups()], fits))
                break
        else:
            raise AssertionError(f"no wording fits: {line}")
    assert len(read) == record.metadata["clues"]
    found = []
    for columns in itertools.product(*(itertools.permutations(values) for _, values in listed)):
        house = {value: number for column in columns for number, value in enumerate(column, 1)}
        if all(fits(*(int(v) if v.isdigit() else house[v] for v in values)) for values, fits in read):
            found.append(list(columns))
    return found


def spoken_value(spoken: dict[str, str], words: str) -> str:
    if words.isdigit():
        return words
    return next(value for each, value in spoken.items() if each.lower() == words.lower())


@pytest.mark.parametrize(("houses", "attributes"), [(2, 2), (3, 2), (3, 3), (4, 3)])
def test_a_zebra_puzzle_has_exactly_the_gold_filling(houses: int, attributes: int) -> None:
    for record in build("zebra", "train", 6, 5, {"houses": houses, "attributes": attributes}):
        gold = [tuple(column) for column in zip(*(row[1:] for row in record.answer["rows"]), strict=True)]
        assert zebra_solutions(record) == [gold]
        assert record.answer["header"][0] == "House"
        assert record.metadata["difficulty"] == houses * attributes


def test_the_zebra_solver_finds_every_filling_where_there_are_many() -> None:
    assert len(list(Solver(3, 2, []).fillings())) == 36
    clues = [true_clues(3, 2)["place"][0]]
    assert len(list(Solver(3, 2, clues).fillings())) == 12


def test_words_of_different_attributes_do_not_clash() -> None:
    values = [value for column in ATTRIBUTES.values() for value in column]
    assert len(values) == len(set(values))
    assert ATTRIBUTES.keys() == WORDING.keys()


def read_graph(record: Record) -> tuple[dict[str, list[str]], str, str]:
    question = record.prompt[0]["content"]
    roads: dict[str, list[str]] = {}
    for origin, end in re.findall(r"From (\w+) you can go to (\w+)\.", question):
        roads.setdefault(origin, []).append(end)
    start, goal = re.search(r"You are at (\w+) and want to get to (\w+)\.", question).groups()  # type: ignore[union-attr]
    return roads, start, goal


def distance(roads: dict[str, list[str]], start: str, goal: str) -> int | None:
    steps, waiting = {start: 0}, deque([start])
    while waiting:
        node = waiting.popleft()
        if node == goal:
            return steps[node]
        for end in roads.get(node, []):
            if end not in steps:
                steps[end] = steps[node] + 1
                waiting.append(end)
    return None


@pytest.mark.parametrize("lookahead", [1, 2, 3, 8, 30])
@pytest.mark.parametrize("paths", [2, 5])
def test_exactly_one_first_step_reaches_the_goal_and_it_is_as_far_as_the_lookahead_says(
    lookahead: int, paths: int
) -> None:
    for record in build("graph", "train", 5, 6, {"lookahead": lookahead, "paths": paths, "detours": 1.0}):
        roads, start, goal = read_graph(record)
        right = [first for first in roads[start] if distance(roads, first, goal) is not None]
        assert right == [record.answer]
        assert len(roads[start]) == paths
        assert distance(roads, start, goal) == lookahead


def test_the_first_steps_order_says_nothing() -> None:
    places = []
    for record in build("graph", "train", 120, 7, {"lookahead": 3, "paths": 3}):
        roads, start, _ = read_graph(record)
        places.append(roads[start].index(record.answer))
    assert {place: places.count(place) > 20 for place in range(3)} == {0: True, 1: True, 2: True}


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        ("ordering", {"objects": 8}),
        ("zebra", {"houses": 9}),
        ("graph", {"lookahead": 0}),
        ("graph", {"paths": 1}),
    ],
)
def test_settings_out_of_range_are_refused(source: str, settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        build(source, "train", 1, 0, settings)
