"""Values leave the sandbox as plain data of exact types, and nothing else can come back in their place."""

from __future__ import annotations

import collections
import contextlib
import enum
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonkit.sandbox.plain import MAX_DEPTH, NotJson, NotPlain, parse, plain

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class EqualToAll(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "42"

    def __int__(self) -> int:
        return 42


class LyingList(list[int]):
    def __iter__(self) -> Any:
        return iter([42])


class Colour(enum.IntEnum):
    RED = 3


@given(JSON)
def test_plain_values_pass_through_unchanged(value: Any) -> None:
    assert plain(value) == value
    assert parse(json.dumps(plain(value)).encode()) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (collections.deque([1, 2]), [1, 2]),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        ({1: "a", None: "b", 2.5: "c", False: "d"}, {"1": "a", "null": "b", "2.5": "c", "false": "d"}),
        ({(1, 2): 3}, {"$dict": [[[1, 2], 3]]}),
        ({3, 1, 2}, {"$set": [1, 2, 3]}),
        (frozenset(), {"$set": []}),
        (float("nan"), {"$float": "nan"}),
        (float("-inf"), {"$float": "-inf"}),
        (b"\x00\xff", {"$bytes": "00ff"}),
        (1 + 2j, {"$complex": [1.0, 2.0]}),
        (Colour.RED, 3),
        (np.int64(7), 7),
        (np.array([[1.5, 2.0]]), [[1.5, 2.0]]),
    ],
)
def test_python_values_have_one_plain_form(value: Any, expected: Any) -> None:
    assert plain(value) == expected


def test_subclasses_are_read_from_their_storage() -> None:
    number = plain(EqualToAll(7))
    assert type(number) is int
    assert number == 7
    assert number != 42
    assert plain(LyingList([1, 2])) == [1, 2]


@pytest.mark.parametrize("value", [object(), iter([]), lambda: 0, {"a": object()}, range(3)])
def test_what_is_not_data_is_refused(value: Any) -> None:
    with pytest.raises(NotPlain):
        plain(value)


def test_depth_is_bounded_also_for_a_value_that_contains_itself() -> None:
    deep: list[Any] = []
    deep.append(deep)
    with pytest.raises(NotPlain, match=str(MAX_DEPTH)):
        plain(deep)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nonsense",
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b"[-1e999]",
        b"\xff",
        b'{"a":',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[" * 200 + b"]" * 200,
        b"9" * 5000,
    ],
)
def test_hostile_json_is_one_kind_of_error(text: bytes) -> None:
    with pytest.raises(NotJson):
        parse(text)


@given(st.binary())
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(NotJson):
        json.dumps(parse(data), allow_nan=False)
