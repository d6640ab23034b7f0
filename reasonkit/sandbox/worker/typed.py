"""Values between a script of tests and the solution in another process, types and all.

The solution's side writes JSON (`Writer`), read from the storage of built-in base classes as `plain` does, so no
method of the solution's own runs; what is no data stays where it is and is written as a number that stands for it.
The tests' side builds exact built-in values (`read`) and hands those numbers to a reader of its own. It trusts
nothing: whatever is not in this form is a Malformed.

Loaded inside the sandbox: standard library only, but for numpy where the solution already used it.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import keyword
import math
import re
import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

MAX_DEPTH = 45
"""Every level takes two of JSON."""
_SMALL = 1 << 63
_DTYPE = re.compile(r"[<>|=]?[biufc]\d{1,2}")
MODULES = frozenset(
    {"bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "itertools", "json"}
    | {"math", "numpy", "operator", "pandas", "random", "re", "statistics", "string", "sys", "time", "typing"}
)  # fmt: skip
"""What a name of the solution may turn out to be, besides its own: the tests then take theirs."""


class Malformed(ValueError):
    """Not what an honest writer sends."""


class TooDeep(ValueError):
    pass


class Writer:
    """The solution's side. Objects that are no data get a number, the same object the same one."""

    def __init__(self) -> None:
        self.objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return self._numbers[id(value)]

    def write(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if depth > MAX_DEPTH:
            raise TooDeep(f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(value, int):
            held = int.__int__(value)
            return bool(held) if isinstance(value, bool) else _integer(held)
        if isinstance(value, float):
            number = float.__float__(value)
            return self._numpy(value) or (number if math.isfinite(number) else _tag("float", repr(number)))
        if isinstance(value, str):
            return str.__str__(value)
        for base, name in _SEQUENCES:
            if isinstance(value, base):
                return self._sequence(value, base, name, depth)
        if isinstance(value, dict):
            pairs = [
                [self.write(key, depth + 1), self.write(item, depth + 1)] for key, item in dict.items(value)
            ]
            return _tag("dict", pairs)
        return self._uncommon(value, depth)

    def _sequence(self, value: Any, base: Any, name: str, depth: int) -> Any:
        items = [self.write(item, depth + 1) for item in base.__iter__(value)]
        fields = getattr(type(value), "_fields", None) if base is tuple else None
        if (
            type(fields) is tuple
            and all(type(field) is str for field in fields)
            and len(fields) == len(items)
        ):
            return _tag("namedtuple", [type(value).__name__, list(fields), items])
        return items if name == "list" else _tag(name, items)

    def _uncommon(self, value: Any, depth: int) -> Any:
        if isinstance(value, bytes | bytearray):
            return _tag(
                "bytearray" if isinstance(value, bytearray) else "bytes", bytes(memoryview(value)).hex()
            )
        if isinstance(value, complex):
            parts = complex.real.__get__(value), complex.imag.__get__(value)
            return _tag("complex", [repr(part) for part in parts])
        for exact, parts_of in _EXACT.items():
            if type(value) is exact:
                return _tag(exact.__name__, parts_of(value))
        if isinstance(value, type):
            return self.class_(value)
        if isinstance(value, types.ModuleType):
            return _tag("module", str(value.__name__))
        found = self._numpy(value)
        if found is not None:
            return found
        if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
            where, name = (
                str(getattr(value, "__module__", "")).lstrip("_"),
                getattr(value, "__qualname__", ""),
            )
            if where in MODULES and not isinstance(value, types.MethodType):
                return _tag("borrowed", [where, name])
            return _tag("callable", [self.number(value), str(name)])
        return _tag("object", [self.number(value), self.class_(type(value), depth)])

    def class_(self, value: type, depth: int = 0) -> Any:
        if value.__module__ == "builtins":
            return _tag("builtin", value.__name__)
        if value.__module__ in MODULES:
            return _tag("borrowed", [value.__module__, value.__qualname__])
        if depth > MAX_DEPTH:
            raise TooDeep("a class with too many ancestors")
        bases = [self.class_(base, depth + 1) for base in value.__bases__ if base is not object]
        return _tag("class", [self.number(value), value.__name__, bases])

    def _numpy(self, value: Any) -> Any:
        """An array or scalar of numpy, of numbers; None for anything else."""
        if type(value).__module__ != "numpy":
            return None
        kind, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
        if kind is None or not _DTYPE.fullmatch(kind.str):
            return None
        flat = value.reshape(-1).tolist()
        return _tag("ndarray", [kind.str, list(shape or ()), [self.write(each) for each in flat]])


_SEQUENCES: tuple[tuple[Any, str], ...] = (
    (list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "frozenset"), (collections.deque, "deque"),
)  # fmt: skip
_EXACT: dict[type, Callable[[Any], Any]] = {
    decimal.Decimal: str,
    fractions.Fraction: lambda value: [_integer(value.numerator), _integer(value.denominator)],
    datetime.datetime: lambda value: value.isoformat(),
    datetime.date: lambda value: value.isoformat(),
    datetime.time: lambda value: value.isoformat(),
    datetime.timedelta: lambda value: [value.days, value.seconds, value.microseconds],
    range: lambda value: [_integer(value.start), _integer(value.stop), _integer(value.step)],
}


def _tag(kind: str, content: Any) -> dict[str, Any]:
    return {"t": kind, "v": content}


def _integer(value: int) -> Any:
    return value if -_SMALL < value < _SMALL else _tag("int", hex(value))


def read(written: Any, special: Callable[[str, Any], Any]) -> Any:
    """The value. `special` makes what stands for an object, callable, class or module of the other side."""
    try:
        return _read(written, special)
    except Malformed:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise Malformed(f"not a value: {error}") from error


def _read(written: Any, special: Callable[[str, Any], Any]) -> Any:
    if written is None or type(written) in (bool, int, float, str):
        return written
    if type(written) is list:
        return [_read(item, special) for item in written]
    kind, content = written["t"], written["v"]
    if kind == "dict":
        return {_read(key, special): _read(item, special) for key, item in content}
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](_read(item, special) for item in content)
    if kind == "namedtuple":
        name, fields, items = content
        return _named(_identifier(name), tuple(map(_identifier, fields)))(
            *(_read(item, special) for item in items)
        )
    if kind in _SIMPLE:
        return _SIMPLE[kind](content)
    if kind == "ndarray":
        return _array(*content)
    return special(kind, content)


def _whole(content: Any) -> int:
    return content if type(content) is int else int(content["v"], 16)


_CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque,
}  # fmt: skip
_SIMPLE: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda parts: complex(*map(float, parts)),
    "Decimal": decimal.Decimal,
    "Fraction": lambda parts: fractions.Fraction(*map(_whole, parts)),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "range": lambda parts: range(*map(_whole, parts)),
}


def _identifier(name: Any) -> str:
    if type(name) is not str or not name.isidentifier() or keyword.iskeyword(name):
        raise Malformed(f"{name!r:.50} is not a name")
    return name


@lru_cache(maxsize=256)
def _named(name: str, fields: tuple[str, ...]) -> Any:
    return collections.namedtuple(name, fields)


def _array(kind: str, shape: list[int], flat: list[Any]) -> Any:
    import numpy as np

    if not _DTYPE.fullmatch(kind):
        raise Malformed("a type of array that is not sent")
    values = [_read(item, _no_special) for item in flat]
    return np.array(values, dtype=kind).reshape(shape)[()]


def _no_special(kind: str, _content: Any) -> Any:
    raise Malformed(f"a {kind} in an array")


def builtin_exception(name: Any) -> type[BaseException]:
    found = vars(builtins).get(name)
    if isinstance(found, type) and issubclass(found, Exception | SystemExit):
        return found
    return Exception
