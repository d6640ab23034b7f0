"""The tests' half of a tested solution: runs a script of tests, with stand-ins for what the solution defines.

The solution lives in another process, with which this one shares nothing but a line to ask over. A call sends its
arguments; what comes back is built-in data (`typed`) or a stand-in for an object that stayed there. So nothing that
the solution does reaches the expected values, the assertions or the report.

What a stand-in does not do: it is equal to nothing but itself and other stand-ins, and takes no part in arithmetic
or in an order with data, for the solution would be told what is expected of it and asked whether it is. Where two
of the solution's own objects are compared, its own word decides, and the report says so (`tamperable`).
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import io
import os
import pickle
import random
import sys
import threading
import traceback
import types
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import islice
from typing import Any, Literal, NoReturn, TypeVar

from reasonkit.sandbox.wire import frame, read_frame, write_all
from reasonkit.sandbox.worker import programs, typed

TESTS = "test_solution"
HELPERS = {
    "math": "math", "np": "numpy", "numpy": "numpy", "pd": "pandas", "pytest": "pytest", "re": "re", "json": "json",
    "itertools": "itertools", "functools": "functools", "collections": "collections", "copy": "copy", "sys": "sys",
    "random": "random", "isclose": "math.isclose", "string": "string", "datetime": "datetime", "time": "time",
    "typing": "typing", "operator": "operator", "heapq": "heapq", "bisect": "bisect", "unittest": "unittest",
}  # fmt: skip
"""What scripts use without importing it, leaving that to the solution. They get the real ones, whatever the
solution calls by these names."""
BETWEEN_OBJECTS = (
    *(
        "__add__",
        "__sub__",
        "__mul__",
        "__truediv__",
        "__floordiv__",
        "__mod__",
        "__matmul__",
        "__and__",
        "__or__",
    ),
    *("__xor__", "__iadd__", "__isub__", "__lt__", "__le__", "__gt__", "__ge__"),
)
"""Asked where both sides are the solution's."""
OF_ONE = (
    *("__len__", "__iter__", "__next__", "__getitem__", "__setitem__", "__delitem__", "__int__", "__float__"),
    *("__index__", "__abs__", "__neg__", "__pos__", "__invert__", "__reversed__", "__enter__", "__round__"),
)
READABLE = ("__name__", "__doc__", "__dict__")


class Inseparable(Exception):
    """The script does what it cannot do from another process."""


class SolutionFailed(Exception):
    """The solution answered with what is no answer."""


class Asking:
    """The line to the solution, and the stand-ins for what is at its other end."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._line = threading.RLock()
        self._objects: dict[int, Any] = {}
        self._callbacks: list[Callable[..., Any]] = []
        self._asserting: list[ast.Assert] = []
        self.tamperable = False
        self.inseparable = ""

    def watch(self, script: str) -> None:
        """Learn where the script asserts: there, what a call does to its arguments is not taken over."""
        self._asserting = [node for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Assert)]

    def ask(
        self, op: str, target: int, given: tuple[Any, ...] = (), keywords: Any = None, name: str = ""
    ) -> Any:
        keywords = keywords or {}
        with self._line:
            self._send({"op": op, "target": target, "name": name}, (list(given), keywords))
            while True:
                reply, _ = read_frame(self._channel)
                sys.stdout.write(reply["printed"] if type(reply.get("printed")) is str else "")
                if "callback" not in reply:
                    break
                self._call_back(reply)
        if "raised" in reply:
            raise self._exception(reply)
        if "value" not in reply:
            raise SolutionFailed("the solution did not answer")
        self._change(reply.get("changed"), given, keywords)
        return self.read(reply["value"])

    def _send(self, message: dict[str, Any], content: Any) -> None:
        held = io.BytesIO()
        try:
            _Pickler(held, self).dump(content)
        except Inseparable:
            raise
        except Exception as error:  # not `refuse`: what the solution gave may be the cause
            raise TypeError(f"an argument cannot be handed to the solution ({error})") from error
        write_all(self._channel, frame(message, held.getvalue()))

    def refuse(self, why: str) -> NoReturn:
        self.inseparable = self.inseparable or why
        raise Inseparable(why)

    def _call_back(self, reply: Mapping[str, Any]) -> None:
        number = reply["callback"]
        if type(number) is not int or not 0 <= number < len(self._callbacks):
            raise SolutionFailed("the solution called back what it was not given")
        given = [self.read(each) for each in _list(reply.get("given"))]
        keywords = {str(name): self.read(each) for name, each in _dict(reply.get("keywords")).items()}
        try:
            result = self._callbacks[number](*given, **keywords)
        except Inseparable:
            raise
        except Exception as error:
            self._send({"op": "raised", "kind": type(error).__name__, "text": str(error)}, None)
        else:
            self._send({"op": "returned"}, result)

    def _exception(self, reply: Mapping[str, Any]) -> BaseException:
        kind = self.read(reply["raised"])
        said = [self.read(each) for each in _list(reply.get("args"))]
        if not isinstance(kind, type) or not issubclass(kind, Exception | SystemExit):
            return SolutionFailed(str(reply.get("text"))[-2000:])
        try:
            return kind(*said)
        except Exception:
            return SolutionFailed(f"{kind.__name__}: {str(reply.get('text'))[-2000:]}")

    def _change(self, changed: Any, given: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        if not changed or self._asserts():
            return
        arguments = {**{str(index): each for index, each in enumerate(given)}, **keywords}
        for key, written in _dict(changed).items():
            argument: Any = arguments.get(key)
            now = self.read(written)
            if type(argument) is not type(now):
                continue
            if isinstance(argument, list | bytearray):
                argument[:] = now
            elif isinstance(argument, dict | set):
                argument.clear()
                argument.update(now)

    def _asserts(self) -> bool:
        current: types.FrameType | None = sys._getframe(1)
        while current is not None and current.f_globals.get("__name__") != TESTS:
            current = current.f_back
        if current is None:
            return False
        line, _, column, _ = next(islice(current.f_code.co_positions(), current.f_lasti // 2, None))
        at = (line or 0, column or 0)
        return any(
            (node.lineno, node.col_offset) <= at < (node.end_lineno or 0, node.end_col_offset or 0)
            for node in self._asserting
        )

    # What the solution's values are here

    def read(self, written: Any) -> Any:
        try:
            return typed.read(written, self._special)
        except typed.Malformed as error:
            raise SolutionFailed(str(error)) from None

    def _special(self, kind: str, content: Any) -> Any:
        if kind == "builtin":
            found = vars(builtins).get(content)
            return found if isinstance(found, type) else typed.builtin_exception(content)
        if kind == "borrowed":
            return borrowed(*content)
        if kind == "module":
            raise typed.Malformed(f"the module {content!r:.50}")
        number = content[0]
        if type(number) is not int:
            raise typed.Malformed("a number that is none")
        if number not in self._objects:
            self._objects[number] = self._stand_in(kind, number, content)
        return self._objects[number]

    def _stand_in(self, kind: str, number: int, content: Any) -> Any:
        if kind == "callable":
            return _Callable(self, number, str(content[1]))
        if kind == "class":
            return self._class(number, typed._identifier(content[1]), content[2])
        if kind == "object":
            of = typed.read(content[1], self._special)
            made = object.__new__(of if isinstance(of, type) and issubclass(of, Object) else Object)
            made.__dict__.update(_asking=self, _number=number)
            return made
        raise typed.Malformed(f"{kind!r:.50} is nothing that is sent")

    def _class(self, number: int, name: str, bases: Any) -> type:
        parents = tuple(typed.read(base, self._special) for base in _list(bases))
        if any(isinstance(parent, type) and issubclass(parent, BaseException) for parent in parents):
            errors = tuple(
                each for each in parents if isinstance(each, type) and issubclass(each, BaseException)
            )
            return type(name, errors, {"__module__": "solution"})
        known = tuple(parent for parent in parents if isinstance(parent, _Class))
        return _Class.make(name, known or (Object,), self, number)


def borrowed(where: Any, name: Any) -> Any:
    """What the solution took from a module that these tests can take it from as well."""
    if where not in typed.MODULES - {"sys", "time"} or typed._identifier(name).startswith("_"):
        raise typed.Malformed(f"{where!r:.50}.{name!r:.50} is not borrowed")
    found = getattr(importlib.import_module(where), name)
    if not callable(found):
        raise typed.Malformed(f"{where}.{name} cannot be called")
    return found


class _Callable:
    """Stands for a function."""

    def __init__(self, asking: Asking, number: int, name: str) -> None:
        self._asking, self._number, self.__name__ = asking, number, name.rpartition(".")[2]

    def __call__(self, *given: Any, **keywords: Any) -> Any:
        return self._asking.ask("call", self._number, given, keywords)

    def __get__(self, _owner: Any, _kind: Any = None) -> _Callable:
        return self  # kept as an attribute of a class of the tests, it does not become a method

    def __getattr__(self, name: str) -> Any:
        return _attribute(self._asking, self._number, name)


class _Class(type):
    """Stands for a class: calling it makes an object over there."""

    _asking: Asking
    _number: int

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **_: Any) -> Any:
        if bases:
            next(each for each in bases if isinstance(each, _Class))._asking.refuse(
                f"the script derives the class {name} from one of the solution's"
            )
        return super().__new__(cls, name, bases, namespace)

    @classmethod
    def make(cls, name: str, bases: tuple[type, ...], asking: Asking, number: int) -> type:
        made = type.__new__(cls, name, bases, {"__module__": "solution"})
        type.__setattr__(made, "_asking", asking)
        type.__setattr__(made, "_number", number)
        return made

    def __call__(cls, *given: Any, **keywords: Any) -> Any:
        return cls._asking.ask("call", cls._number, given, keywords)

    def __getattr__(cls, name: str) -> Any:
        if name in ("_asking", "_number"):
            raise AttributeError(name)
        return _attribute(cls._asking, cls._number, name)

    def __iter__(cls) -> Iterator[Any]:  # an Enum
        return iter(cls._asking.ask("special", cls._number, (), name="__iter__"))

    def __getitem__(cls, key: Any) -> Any:
        return cls._asking.ask("special", cls._number, (key,), name="__getitem__")

    def __len__(cls) -> int:
        return _exactly(int, cls._asking.ask("special", cls._number, (), name="__len__"))


class Object(metaclass=_Class):
    """Stands for an object of a class of the solution's."""

    _asking: Asking
    _number: int

    def __getattr__(self, name: str) -> Any:
        return _attribute(self._asking, self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._asking.ask("set", self._number, (value,), name=name)

    def __call__(self, *given: Any, **keywords: Any) -> Any:
        return self._asking.ask("call", self._number, given, keywords)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Object) and bool(self._decide("__eq__", other) is True)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return self._number

    def __bool__(self) -> bool:
        return _exactly(bool, self._asking.ask("bool", self._number))

    def __str__(self) -> str:
        return _exactly(str, self._asking.ask("str", self._number))

    def __repr__(self) -> str:
        return _exactly(str, self._asking.ask("repr", self._number))

    def __await__(self) -> Generator[None, None, Any]:
        yield from ()
        return self._asking.ask("await", self._number)

    def __exit__(self, *raised: Any) -> Literal[False]:
        self._asking.ask("special", self._number, (None, None, None), name="__exit__")
        return False

    def _decide(self, name: str, other: Object) -> Any:
        self._asking.tamperable = True
        return self._asking.ask("between", self._number, (other,), name=name)


Kind = TypeVar("Kind")


def _exactly(kind: type[Kind], value: Any) -> Kind:
    if type(value) is not kind:
        raise SolutionFailed(f"a {type(value).__name__} where a {kind.__name__} belongs")
    found: Kind = value
    return found


def _attribute(asking: Asking, number: int, name: str) -> Any:
    if name.startswith("__") and name not in READABLE:
        raise AttributeError(name)
    return asking.ask("get", number, name=name)


def _of_one(name: str) -> Callable[..., Any]:
    def special(self: Object, *given: Any) -> Any:
        return self._asking.ask("special", self._number, given, name=name)

    return special


def _between(name: str) -> Callable[..., Any]:
    def special(self: Object, other: Any) -> Any:
        return self._decide(name, other) if isinstance(other, Object) else NotImplemented

    return special


for _name in OF_ONE:
    type.__setattr__(Object, _name, _of_one(_name))
for _name in BETWEEN_OBJECTS:
    type.__setattr__(Object, _name, _between(_name))


class _Pickler(pickle.Pickler):
    """Arguments go by value, the solution's own objects by number, and functions of the script as callbacks."""

    def __init__(self, file: io.BytesIO, asking: Asking) -> None:
        super().__init__(file, protocol=5)
        self._asking = asking

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Object | _Callable | _Class):
            return "object", value._number
        if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            self._asking._callbacks.append(value)
            return "callback", len(self._asking._callbacks) - 1
        if TESTS in (type(value).__module__, isinstance(value, type) and value.__module__):
            self._asking.refuse("the script hands objects of its own classes to the solution")
        return None


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise SolutionFailed("no list where one belongs")
    return value


def _dict(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise SolutionFailed("no object where one belongs")
    return value


# Running the script


def serve(header: dict[str, Any], channel: int) -> NoReturn:
    asking = Asking(channel)
    report: dict[str, Any]
    try:
        asking.watch(header["script"])
        names = _names(asking, header)
        if header["pytest"]:
            ran = programs.pytest_here([f"{TESTS}.py"])
            report = {"passed": ran.all_passed, "error": ran.first_failure or f"pytest: {ran.counts}"}
        else:
            random.seed(0)
            exec(compile(header["script"], f"{TESTS}.py", "exec", dont_inherit=True), names)  # noqa: S102
            report = {"passed": True, "error": ""}
    except BaseException as error:
        report = {"passed": False, "error": _last_lines(error)}
    report |= {"tamperable": asking.tamperable, "inseparable": asking.inseparable}
    write_all(channel, frame({"verdict": report}))
    os._exit(0)


def _last_lines(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=-2))[-1500:]


def _names(asking: Asking, header: dict[str, Any]) -> dict[str, Any]:
    """What the script can name: its source's own prefix, the real helpers, and the solution's through stand-ins."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    for name, written in header["exports"].items():
        if isinstance(written, dict) and written.get("t") == "borrowed" and written["v"][1:] != [name]:
            continue  # under another name it could be anything, a comparison that is always true for one
        try:
            module.__dict__[name] = asking.read(written)
        except SolutionFailed:
            continue  # a module, or what could not be told of
    own = dict(_own_of_prefix(header["prefix"], module))
    module.__dict__.update(own)
    hidden = HELPERS.keys() | vars(builtins).keys()
    names = {name: value for name, value in module.__dict__.items() if name not in hidden or name in own}
    module.__dict__["__all__"] = [name for name in names if not name.startswith("_")]
    needed = {node.id for node in ast.walk(ast.parse(header["script"])) if isinstance(node, ast.Name)}
    for name in needed & HELPERS.keys() - own.keys():
        names[name] = _helper(HELPERS[name])
    return {**names, "__name__": TESTS, "__file__": f"{TESTS}.py", "__builtins__": builtins}


def _helper(where: str) -> Any:
    module, _, name = where.partition(".")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


def _own_of_prefix(prefix: str, module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    """What the prefix defines by itself. Stubs, which the solution is to fill, are not among it."""
    try:
        tree = ast.parse(prefix)
    except SyntaxError:
        return  # the beginning of the solution
    stubs = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and _is_stub(node)}
    scratch = {"__name__": module.__name__}
    exec(compile(tree, "prefix.py", "exec", dont_inherit=True), scratch)  # noqa: S102  it comes with the tests
    yield from (
        (name, value) for name, value in scratch.items() if not name.startswith("__") and name not in stubs
    )


def _is_stub(node: ast.FunctionDef) -> bool:
    return all(isinstance(each, ast.Pass | ast.Raise) or _is_constant(each) for each in node.body)


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
