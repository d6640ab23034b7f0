"""Values on their way from a solution to its tests: they arrive as they were, and anything else is refused."""

from __future__ import annotations

import collections
import contextlib
import datetime
import decimal
import fractions
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonkit.sandbox.worker.typed import MAX_DEPTH, Malformed, TooDeep, Writer, builtin_exception, read

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.dates()
    | st.timedeltas()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.lists(inner, max_size=4).map(collections.deque)
        | st.dictionaries(SCALARS, inner, max_size=4)
        | st.sets(SCALARS, max_size=4)
        | st.frozensets(SCALARS, max_size=4)
    ),
    max_leaves=12,
)
TAGS = [
    "t",
    "v",
    "dict",
    "tuple",
    "set",
    "int",
    "float",
    "bytes",
    "complex",
    "Decimal",
    "Fraction",
    "range",
    "date",
]
TAGS += [
    "ndarray",
    "namedtuple",
    "object",
    "class",
    "callable",
    "builtin",
    "borrowed",
    "timedelta",
    "<i8",
    "0x1",
    "_",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(TAGS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(TAGS), inner, max_size=3)
        | st.builds(lambda tag, content: {"t": tag, "v": content}, st.sampled_from(TAGS), inner)
    ),
    max_leaves=10,
)


def refuse(kind: str, _content: Any) -> Any:
    raise Malformed(kind)


def carried(value: Any) -> Any:
    return read(json.loads(json.dumps(Writer().write(value))), refuse)


@settings(max_examples=300)
@given(VALUES)
def test_a_value_arrives_as_it_was(value: Any) -> None:
    arrived = carried(value)
    assert arrived == value
    assert type(arrived) is type(value)
    assert repr(arrived) == repr(value) or isinstance(
        value, set | frozenset | dict | list | tuple | collections.deque
    )


@settings(max_examples=500)
@given(JSON)
def test_whatever_is_written_is_a_value_or_malformed(written: Any) -> None:
    with contextlib.suppress(Malformed):
        read(written, refuse)


class Sly(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__
    __int__ = __index__ = lambda self: 42  # type: ignore[assignment]


class SlyText(str):
    __str__ = __repr__ = lambda self: "42"


class SlyList(list):  # type: ignore[type-arg]
    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter([42])


@pytest.mark.parametrize(
    ("value", "held"),
    [(Sly(7), 7), (SlyText("x"), "x"), (SlyList([1]), [1]), ([Sly(7)], [7]), ({Sly(7): 1}, {7: 1})],
)
def test_a_subclass_leaves_as_what_it_holds(value: Any, held: Any) -> None:
    arrived = carried(value)
    assert arrived == held
    assert type(arrived) in (int, str, list, dict)


def test_named_tuples_ranges_and_what_is_no_data() -> None:
    pair = carried(collections.namedtuple("Pair", "left right")(1, (2,)))
    assert pair == (1, (2,))
    assert (pair.left, type(pair).__name__) == (1, "Pair")
    assert carried(range(1, 9, 2)) == range(1, 9, 2)
    assert carried(datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.UTC)).tzinfo is not None
    assert carried([decimal.Decimal("1.10"), fractions.Fraction(1, 3)]) == [
        decimal.Decimal("1.1"),
        fractions.Fraction(1, 3),
    ]
    for what in (object(), lambda: 0, type("Own", (), {}), json, iter([])):
        with pytest.raises(Malformed):
            carried(what)


def test_the_same_object_has_the_same_number() -> None:
    writer, one, other = Writer(), object(), object()
    assert writer.write(one) == writer.write(one) != writer.write(other)
    assert writer.objects[writer.write(one)["v"][0]] is one


def test_depth_is_bounded_on_both_sides() -> None:
    deep: Any = []
    for _ in range(MAX_DEPTH + 2):
        deep = (deep,)
    with pytest.raises(TooDeep):
        Writer().write(deep)
    written: Any = 0
    for _ in range(5000):
        written = {"t": "tuple", "v": [written]}
    with pytest.raises(Malformed):
        read(written, refuse)


@pytest.mark.parametrize(
    "name", ["GeneratorExit", "KeyboardInterrupt", "BaseException", "open", "nothing", None, 7]
)
def test_only_errors_that_a_program_may_raise_are_raised(name: Any) -> None:
    assert builtin_exception(name) is Exception
    assert builtin_exception("ValueError") is ValueError
