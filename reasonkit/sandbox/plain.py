"""One form for values on both sides of the sandbox: plain JSON, exact types, nothing that runs code when compared.

A job's return value is rewritten from the *storage* of its built-in base class (an `int` subclass with its own
`__eq__` leaves as the integer that it holds), so a comparison outside compares data. Tuples and deques become
lists; dictionary keys become strings as `json.dumps` writes them. What JSON lacks is tagged: `{"$set": [sorted]}`,
`{"$float": "nan"}`, `{"$bytes": hex}`, `{"$complex": [re, im]}`, `{"$dict": [[key, value]]}` for other keys.
Whoever compares passes the expected value through `plain` too.

Loaded inside the sandbox as well: standard library only.
"""

from __future__ import annotations

import collections
import json
import math
from typing import Any

MAX_DEPTH = 100


class NotPlain(TypeError):
    """A value, or something in it, that has no plain form."""


def plain(value: Any, depth: int = 0) -> Any:
    """`value` as plain JSON; NotPlain for anything that is not made of built-in values, or nested too deep."""
    kind = type(value)
    if value is None or kind is bool or kind is int or kind is str:
        return value
    if depth > MAX_DEPTH:
        raise NotPlain(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return _number(float.__float__(value))
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [plain(item, depth + 1) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return [plain(item, depth + 1) for item in tuple.__iter__(value)]
    if isinstance(value, dict):
        return _mapping(value, depth)
    return _uncommon(value, depth)


def _number(value: float) -> Any:
    return value if math.isfinite(value) else {"$float": str(value)}


def _uncommon(value: Any, depth: int) -> Any:
    if isinstance(value, collections.deque):
        return [plain(item, depth + 1) for item in collections.deque.__iter__(value)]
    if isinstance(value, set):
        return {"$set": sorted((plain(item, depth + 1) for item in set.__iter__(value)), key=_canonical)}
    if isinstance(value, frozenset):
        return {
            "$set": sorted((plain(item, depth + 1) for item in frozenset.__iter__(value)), key=_canonical)
        }
    if isinstance(value, bytes | bytearray):
        return {"$bytes": bytes(memoryview(value)).hex()}
    if isinstance(value, complex):
        return {"$complex": [_number(complex.real.__get__(value)), _number(complex.imag.__get__(value))]}
    if type(value).__module__.partition(".")[0] == "numpy":
        return plain(value.tolist(), depth + 1)
    raise NotPlain(f"a value of type {type(value).__name__} is not plain data")


def _mapping(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    pairs = [(key, plain(item, depth + 1)) for key, item in dict.items(value)]
    if all(key is None or isinstance(key, str | int | float) for key, _ in pairs):
        named = {_key(key): item for key, item in pairs}
        if len(named) == len(pairs):
            return named
    listed = [[plain(key, depth + 1), item] for key, item in pairs]
    return {"$dict": sorted(listed, key=_canonical)}


def _key(key: Any) -> str:
    return str.__str__(key) if isinstance(key, str) else json.dumps(plain(key))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


class NotJson(ValueError):
    """Text from the other side that is not the plain JSON that was agreed."""


def parse(text: bytes) -> Any:
    """Strict JSON from an untrusted writer: bounded depth, finite numbers. Raises NotJson and nothing else."""
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotJson(f"not JSON: {error}") from error
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > MAX_DEPTH + 10:
            raise NotJson(f"nested more than {MAX_DEPTH} levels deep")
        if type(item) is float and not math.isfinite(item):
            raise NotJson("a number out of range")
        if type(item) is list:
            pending.extend((inner, depth + 1) for inner in item if type(inner) in (list, dict, float))
        elif type(item) is dict:
            pending.extend(
                (inner, depth + 1) for inner in item.values() if type(inner) in (list, dict, float)
            )
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
