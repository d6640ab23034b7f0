"""The solution's half of a tested solution: loads the code, then does what the tests in another process ask.

Requests come as pickles, from the tests' process, which is trusted; what goes back is data (`typed`), and objects
stay here. Everything in this process may be taken apart by the code in it: it holds inputs, and no expected value.
"""

from __future__ import annotations

import inspect
import io
import operator
import os
import pickle
import random
import sys
import types
from collections import deque
from typing import Any, NoReturn

from reasonkit.sandbox.wire import frame, read_frame, write_all
from reasonkit.sandbox.worker import calls, typed

CHANGEABLE = (list, dict, set, bytearray, deque)


class Asked:
    def __init__(self, channel: int, limit: int) -> None:
        self._channel = channel
        self._limit = limit
        self._writer = typed.Writer()
        self._printed = io.BytesIO()

    def send(self, message: dict[str, Any]) -> None:
        message["printed"] = self._printed.getvalue()[: self._limit].decode("utf-8", "replace")
        self._capture()
        encoded = frame(message)
        if len(encoded) > 7 * self._limit:
            encoded = frame(
                {"raised": typed._tag("builtin", "MemoryError"), "args": ["the result is too large"]}
            )
        write_all(self._channel, encoded)

    def _capture(self) -> None:
        self._printed = calls.Capture(self._limit)
        sys.stdout = io.TextIOWrapper(self._printed, encoding="utf-8", errors="replace", write_through=True)

    def load(self, source: str) -> bool:
        """Runs the solution and tells what it defines. False where it cannot be loaded."""
        module = types.ModuleType("solution")
        sys.modules["solution"] = module
        sys.stdin = io.StringIO("")
        self._capture()
        try:
            code = compile(source, "solution.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
            self.send({"failed": "compile_error", "error": calls.describe(error)})
            return False
        try:
            exec(code, module.__dict__)  # noqa: S102  this is what the sandbox is for
            names = [name for name in module.__dict__ if type(name) is str and not name.startswith("__")]
            exports = {name: self._writer.write(module.__dict__[name]) for name in names}
        except BaseException as error:  # whatever a program does is a result
            self.send({"failed": calls.status_of(error), "error": calls.describe(error)})
            return False
        self.send({"exports": exports})
        return True

    def serve(self) -> Any:
        """Answers requests until one hands back what a callback gave, or forever."""
        while True:
            message, blob = read_frame(self._channel)
            if message["op"] == "returned":
                return self._unpickled(blob)
            if message["op"] == "raised":
                raise typed.builtin_exception(message["kind"])(message["text"])
            self.send(self._answer(message, blob))

    def _answer(self, message: dict[str, Any], blob: bytes) -> dict[str, Any]:
        random.seed(0)
        try:
            given, keywords = self._unpickled(blob)
            changeable = {
                **{str(index): each for index, each in enumerate(given) if isinstance(each, CHANGEABLE)},
                **{name: each for name, each in keywords.items() if isinstance(each, CHANGEABLE)},
            }
            before = {key: self._writer.write(each) for key, each in changeable.items()}
            value = self._writer.write(self._do(message, given, keywords))
            after = {key: self._writer.write(each) for key, each in changeable.items()}
            return {"value": value, "changed": {key: now for key, now in after.items() if now != before[key]}}
        except BaseException as error:
            return self._raised(error)

    def _do(self, message: dict[str, Any], given: list[Any], keywords: dict[str, Any]) -> Any:
        target = self._writer.objects[message["target"]]
        match message["op"]:
            case "call":
                return target(*given, **keywords)
            case "get":
                return getattr(target, message["name"])
            case "set":
                return setattr(target, message["name"], *given)
            case "await":
                import asyncio  # large, and every job's fork would carry it

                return asyncio.run(_awaited(target))
            case "bool":
                return bool(target)
            case "str":
                return str(target)
            case "repr":
                return repr(target)
            case "between":
                return getattr(operator, message["name"])(target, *given)
            case _:
                return _special(target, message["name"], given)

    def _raised(self, error: BaseException) -> dict[str, Any]:
        try:
            kind = self._writer.class_(type(error))
            said = [self._writer.write(each) for each in error.args]
        except BaseException:
            kind, said = typed._tag("builtin", "Exception"), []
        return {"raised": kind, "args": said, "text": calls.describe(error)}

    def _unpickled(self, blob: bytes) -> Any:
        return _Unpickler(blob, self).load()

    def object(self, number: int) -> Any:
        return self._writer.objects[number]

    def call_back(self, number: int, given: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        arguments = [self._writer.write(each) for each in given]
        named = {name: self._writer.write(each) for name, each in keywords.items()}
        self.send({"callback": number, "given": arguments, "keywords": named})
        return self.serve()


def _special(target: Any, name: str, given: list[Any]) -> Any:
    method = getattr(type(target), name, None)
    result = NotImplemented if method is None else method(target, *given)
    if result is NotImplemented:
        raise TypeError(f"{type(target).__name__} does not support {name}")
    return result


async def _awaited(target: Any) -> Any:
    return await target if inspect.isawaitable(target) else target


class _Unpickler(pickle.Unpickler):
    def __init__(self, blob: bytes, asked: Asked) -> None:
        super().__init__(io.BytesIO(blob))
        self._asked = asked

    def persistent_load(self, stands_for: Any) -> Any:
        kind, number = stands_for
        if kind == "object":
            return self._asked.object(number)
        return lambda *given, **keywords: self._asked.call_back(number, given, keywords)


def serve(header: dict[str, Any], channel: int) -> NoReturn:
    asked = Asked(channel, header["output_bytes"])
    if asked.load(header["code"]):
        asked.serve()
    os._exit(0)
