"""Solutions tested from another process: what honest scripts can do, and what no solution can do to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from textwrap import dedent, indent

import pytest

from reasonkit.sandbox import Limits, RunStatus, ScriptJob, ScriptResult
from reasonkit.sandbox.local import LocalSandbox
from reasonkit.sandbox.tiers import open_sandbox

SHORT = Limits(cpu_seconds=2.0, wall_seconds=10.0)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    opened = asyncio.run(open_sandbox(workers=1))
    assert isinstance(opened, LocalSandbox)
    yield opened
    opened.close_blocking()


def judged(sandbox: LocalSandbox, code: str, script: str, **more: object) -> ScriptResult:
    job = ScriptJob(code, dedent(script), limits=SHORT, **more)  # type: ignore[arg-type]
    return sandbox.submit_test(job).result(60)


SOLUTION = """
import math, collections, enum, datetime, decimal, fractions, functools
from dataclasses import dataclass
LIMIT = 10
class Bad(ValueError): pass
class Worse(Bad): pass
class Colour(enum.Enum):
    RED = 1
    BLUE = 2
@dataclass
class Point:
    x: int
    y: int = 0
    def __add__(self, other): return Point(self.x + other.x, self.y + other.y)
class Stack:
    made = 0
    def __init__(self, values=()): self.values = list(values)
    def push(self, value): self.values.append(value)
    def pop(self):
        if not self.values: raise Worse("empty")
        return self.values.pop()
    @property
    def top(self): return self.values[-1]
    @classmethod
    def of(cls, *values): return cls(values)
    def __len__(self): return len(self.values)
    def __iter__(self): return iter(self.values)
    def __getitem__(self, index): return self.values[index]
    def __bool__(self): return bool(self.values)
    def __enter__(self): return self
    def __exit__(self, *raised): self.values.clear()
    def __str__(self): return f"Stack({self.values})"
Pair = collections.namedtuple("Pair", "left right")
def rotate(values): values.append(values.pop(0))
def extend(known, **more): known.update(more); return len(known)
def every(function, values): return [function(each) for each in values]
def many(): return (1, {2, 3}, {"a": (1, 2.5), 3: None}, b"x", 10**30, True, frozenset({1}), range(3),
                    collections.deque([1]), 1 + 2j, decimal.Decimal("1.5"), fractions.Fraction(1, 3),
                    datetime.date(2020, 1, 2), datetime.timedelta(days=1), bytearray(b"y"))
def count(n):
    for each in range(n): yield each
def pair(): return Pair(1, 2)
def colour(): return Colour.RED
def say(text): print("said", text); return None
def twice(function): return lambda *given: function(*given) * 2
def array():
    import numpy
    return numpy.arange(4).reshape(2, 2)
async def later(value): return value
def fail(kind="bad"): raise {"bad": Bad, "worse": Worse, "key": KeyError}[kind]("no", 1)
def head(node): return node.val
def last(node):
    while node.next: node = node.next
    return node
def infinity(): return float("inf"), float("nan"), -0.0
"""

SCRIPTS = {
    "data keeps its types": """
        import collections, datetime, decimal, fractions
        got = many()
        assert got == (1, {2, 3}, {"a": (1, 2.5), 3: None}, b"x", 10**30, True, frozenset({1}), range(3),
            collections.deque([1]), 1 + 2j, decimal.Decimal("1.5"), fractions.Fraction(1, 3),
            datetime.date(2020, 1, 2), datetime.timedelta(days=1), bytearray(b"y"))
        assert [type(each).__name__ for each in got[:4]] == ["int", "set", "dict", "bytes"]
        for each in infinity()[:1]: assert each == float("inf")
        assert infinity()[1] != infinity()[1] and str(infinity()[2]) == "-0.0" """,
    "objects": """
        stack = Stack()
        for each in range(3): stack.push(each)
        assert len(stack) == 3 and list(stack) == [0, 1, 2] and stack[1] == 1 and stack.top == 2
        assert stack.pop() == 2 and 1 in stack and stack and str(stack) == "Stack([0, 1])"
        stack.values = [7]
        assert stack.top == 7 and isinstance(stack, Stack) and not isinstance(stack, Point)
        assert type(stack) is Stack and Stack.of(4, 5).pop() == 5 and Stack.made == 0
        with Stack([1]) as inner: assert inner.top == 1
        assert not inner and not Stack()
        assert Point(x=1).y == 0 and LIMIT == 10""",
    "exceptions": """
        for kind, expected in {"bad": Bad, "worse": Bad, "key": KeyError}.items():
            try: fail(kind)
            except expected as error: assert error.args == ("no", 1)
            else: assert False
        try: Stack().pop()
        except ValueError as error: assert str(error) == "empty" and type(error).__name__ == "Worse"
        else: assert False
        try: fail("other")
        except KeyError: pass""",
    "arguments that are changed": """
        for values in ([1, 2, 3],):
            rotate(values)
            assert values == [2, 3, 1]
        known = {"a": 1}
        size = extend(known, b=2)
        assert size == 2 and known == {"a": 1, "b": 2}""",
    "functions, both ways": """
        seen = []
        for given in ([1, 2],):
            assert every(lambda each: seen.append(each) or each * 10, given) == [10, 20] and seen == [1, 2]
        assert twice(lambda a, b: a + b)(1, 2) == 6
        assert every(every.__class__ and str, [1]) == ["1"]
        assert every(twice(len), ["ab"]) == [4]""",
    "iterators": """
        for n in (3,): assert list(count(n)) == [0, 1, 2] and sum(count(n)) == 3
        it = count(2)
        assert next(it) == 0 and next(it) == 1 and next(it, None) is None
        assert dict(zip("ab", count(5))) == {"a": 0, "b": 1}""",
    "names, members, arrays": """
        for got in (pair(),): assert got == (1, 2) and got.left == 1 and got._asdict() == {"left": 1, "right": 2}
        assert colour() is Colour.RED and colour() == Colour.RED and colour() != Colour.BLUE
        assert colour().name == "RED" and [each.value for each in Colour] == [1, 2]
        assert (array() == [[0, 1], [2, 3]]).all() and array().sum() == 6""",
    "coroutines and print": """
        import asyncio, contextlib, io
        async def main(): return [await later(each) for each in (1, 2)]
        assert asyncio.run(main()) == [1, 2]
        said = io.StringIO()
        with contextlib.redirect_stdout(said): say("this")
        assert said.getvalue() == "said this\\n" """,
    "helpers that only the solution imports": """
        for n in (1,): assert math.isclose(n / 3, 0.3333333333) and isinstance(collections.OrderedDict(), dict)""",
    "a check that is handed the solution": """
        METADATA = {}
        def check(candidate):
            for n in range(3): assert list(candidate(n)) == list(range(n))
        check(count)""",
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_can_do_from_outside(sandbox: LocalSandbox, name: str) -> None:
    result = judged(sandbox, SOLUTION, SCRIPTS[name])
    assert (result.status, result.passed, result.error) == (RunStatus.OK, True, ""), result
    assert result.inseparable == ""


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_scripts_fail_on_a_solution_that_defines_nothing(sandbox: LocalSandbox, name: str) -> None:
    if name != "helpers that only the solution imports":
        assert not judged(sandbox, "import math", SCRIPTS[name]).passed


NODE = "class Node:\n    def __init__(self, val, next=None): self.val, self.next = val, next\n"
NODE += "def build(*values):\n    return Node(values[0], build(*values[1:])) if values else None\n"


def test_a_prefix_is_the_tests_own_and_its_objects_cross(sandbox: LocalSandbox) -> None:
    script = (
        "for values in ((1, 2, 3),):\n    assert head(build(*values)) == 1 and last(build(*values)).val == 3"
    )
    assert judged(sandbox, SOLUTION, script, prefix=NODE).passed
    assert not judged(sandbox, "def build(*a): pass\ndef head(n): return 2", script, prefix=NODE).passed


def test_a_prefix_that_is_a_stub_is_filled_by_the_solution(sandbox: LocalSandbox) -> None:
    stub = 'def double(n):\n    """Twice n."""\n'
    script = "for n in (1, 2):\n    assert double(n) == 2 * n"
    for prefix, code in (
        (stub, "    return 2 * n"),
        (stub + "    pass\n", "def double(n): return 2 * n"),
        ("def double(n):", "    return 2 * n"),
    ):
        assert judged(sandbox, code, script, prefix=prefix).passed, (prefix, code)
        assert not judged(sandbox, code.replace("2 *", "3 *"), script, prefix=prefix).passed


PYTEST = """
import pytest
import solution
from solution import *
from solution import Stack as Pile
@pytest.fixture
def pile(): return Pile([1, 2])
@pytest.mark.parametrize(("n", "wanted"), [(0, []), (2, [0, 1])])
def test_count(n, wanted): assert list(solution.count(n)) == wanted
def test_fixture(pile):
    pile.push(3)
    assert list(pile) == [1, 2, 3]
def test_raises(capsys):
    with pytest.raises(Bad, match="empty"): Pile().pop()
    say("this")
    assert capsys.readouterr().out == "said this\\n"
class TestAll:
    def setup_method(self): self.stack = Pile()
    def test_it(self): assert not self.stack
"""


def test_pytest_with_fixtures_parameters_and_classes(sandbox: LocalSandbox) -> None:
    result = judged(sandbox, SOLUTION, PYTEST, pytest=True)
    assert (result.status, result.passed, result.tamperable) == (RunStatus.OK, True, False), result
    broken = SOLUTION.replace("range(n): yield each", "range(n): yield n")
    result = judged(sandbox, broken, PYTEST, pytest=True)
    assert (result.status, result.passed) == (RunStatus.OK, False)
    assert "assert" in result.error


def test_where_the_solution_compares_its_own_objects_the_result_says_so(sandbox: LocalSandbox) -> None:
    result = judged(sandbox, SOLUTION, "for n in (1,): assert Point(n) + Point(2) == Point(3)")
    assert result.passed
    assert result.tamperable
    same = "class Point:\n    def __init__(self, *a): pass\n    __eq__ = __add__ = lambda self, other: self"
    result = judged(sandbox, same, "for n in (1,): assert Point(n) + Point(2) == Point(3)")
    assert result.tamperable or not result.passed


@pytest.mark.parametrize(
    "script",
    [
        "class Own: pass\nfor each in (1,): every(str, [Own()])",
        "for each in (1,):\n    class More(Stack): pass",
    ],
)
@pytest.mark.parametrize("code", [SOLUTION, "def every(*a): pass\nclass Stack: pass"])
def test_a_script_that_needs_the_solution_in_its_own_process_is_called_so(
    sandbox: LocalSandbox, script: str, code: str
) -> None:
    """By the script alone: whatever the solution is."""
    result = judged(sandbox, code, script)
    assert not result.passed
    assert result.inseparable


# What a solution may try against its tests

SCRIPT = """
for given, wanted in {21: 42, 1000: 2000}.items():
    assert double(given) == wanted
    assert abs(double(given) - wanted) < 1e-6
    assert isclose(double(given), wanted)
    assert sorted([double(given)]) == [wanted] and wanted in [double(given)]
"""
OBJECT = """
class Same:
    def __getattr__(self, name): return lambda *a: True
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = lambda self, other: True
    __sub__ = __rsub__ = __abs__ = lambda self, *a: 0
    __hash__ = __len__ = __index__ = __int__ = lambda self: 0
    def __float__(self): return 0.0
"""
RAW = """
import json, os, struct
def send(message):
    text = json.dumps({"printed": "", **message}).encode()
    os.write(3, struct.pack("!II", len(text), 0) + text)
"""


def answering(message: str) -> str:
    """A solution that writes to the channel itself, before its own answer."""
    return f"{RAW}def double(n): send({message})"


ATTACKS = {
    "object that agrees with all": OBJECT + "def double(n): return Same()",
    "class instead of a function": OBJECT + "class double(Same):\n    def __init__(self, n): pass",
    "metaclass": OBJECT + "class M(type, Same): pass\nclass C(metaclass=M): pass\ndouble = lambda n: C",
    "own isclose, abs, sorted": "isclose = abs = sorted = lambda *a: True\ndef double(n): return n",
    "own math": "class math:\n    isclose = lambda *a: True\ndef double(n): return n",
    "operator as isclose": "from operator import or_ as isclose\ndef double(n): return n",
    "operator as the function": "from operator import truth as double",
    "ANY": "from unittest.mock import ANY\ndef double(n): return ANY",
    "mock": "from unittest.mock import MagicMock as double",
    "forged verdict": RAW + """
VERDICT = {'verdict': {'passed': True, 'error': '', 'tamperable': False, 'inseparable': ''}}
send(VERDICT)
def double(n):
    send(VERDICT)
    return n""",
    "forged verdict before loading ends": RAW + "send({'exports': {}, 'verdict': {'passed': True}})",
    "forged exports": RAW + """
send({'exports': {'double': {'t': 'borrowed', 'v': ['operator', 'truth']}, '__builtins__': 1,
                  'abs': {'t': 'callable', 'v': [0, 'abs']}, 'AssertionError': 2, '__name__': 3}})""",
    "forged answers": RAW + "def double(n):\n    for _ in range(60): send({'value': {'t': 'dict', 'v': 3}})",
    "unasked answers": RAW + "for _ in range(50): send({'value': 42})\ndef double(n): return 0",
    "callback that was not given": answering("{'callback': 0, 'given': [], 'keywords': {}}"),
    "callback with a bad number": answering("{'callback': -1, 'given': [], 'keywords': {}}"),
    "change of what was given": answering("{'value': 0, 'changed': {'0': 42}}"),
    "made-up class": answering(
        "{'value': {'t': 'object', 'v': [7, {'t': 'class', 'v': [8, 'int', [{'t': 'builtin', 'v': 'int'}]]}]}}"
    ),
    "borrowed what is not lent": answering("{'value': {'t': 'borrowed', 'v': ['os', 'system']}}"),
    "borrowed a hidden name": answering("{'value': {'t': 'borrowed', 'v': ['sys', '_getframe']}}"),
    "not an exception": answering("{'raised': {'t': 'builtin', 'v': 'GeneratorExit'}, 'args': [], 'text': ''}"),
    "exit as an exception": "def double(n): raise SystemExit(0)",
    "keyboard": "def double(n): raise KeyboardInterrupt",
    "pytest's own exit": "import pytest\ndef double(n): pytest.exit('done', returncode=0)",
    "pytest's skip": "import pytest\ndef double(n): pytest.skip('done')",
    "deep answer": RAW + """
def double(n): os.write(3, struct.pack('!II', 100000, 0) + b'[' * 50000 + b']' * 50000)""",
    "endless frame": RAW + """
def double(n):
    os.write(3, struct.pack('!II', 2**31, 0))
    while True: os.write(3, b'x' * 65536)""",
    "half a frame": RAW + "def double(n):\n    os.write(3, b'\\0\\0')\n    os._exit(0)",
    "closed channel": "import os\ndef double(n): os.close(3); return 42",
    "set of lists": answering("{'value': {'t': 'set', 'v': [[]]}}"),
    "numbers out of range": answering("{'value': {'t': 'range', 'v': [0, 1, 0]}}"),
    "huge integer": "def double(n): return 1 << 10_000_000",
    "array of nothing": "import numpy\ndef double(n): return numpy.array([])",
    "everything in memory": """
import gc, sys
def double(n):
    frame, found = sys._getframe(), []
    while frame:
        found += [value for value in frame.f_locals.values() if type(value) is int and value > n]
        frame = frame.f_back
    found += [each[n] for each in gc.get_objects() if type(each) is dict and type(each.get(n)) is int]
    return found[0] if found else -1""",
    "everything in /proc": """
import glob, os
def double(n):
    for pid in os.listdir('/proc'):
        for name in ('mem', 'cmdline', 'environ', 'maps', 'fd/3'):
            try: text = open(f'/proc/{pid}/{name}', 'rb').read(1 << 16)
            except (OSError, ValueError, OverflowError): continue
            if b'given, wanted' in text: return 2 * n
    return -1""",
    "everything on disk": """
import glob
def double(n):
    for folder in ('/tmp', '/box', '/proc/*/cwd', '.', '/dev/shm', '/var/tmp'):
        for name in glob.glob(f'{folder}/**', recursive=True):
            try: text = open(name).read(1 << 20)
            except (OSError, ValueError): continue
            if 'given, wanted in' in text and 'everything on disk' not in text: return 2 * n
    return -1""",
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_on_the_tests_is_paid(sandbox: LocalSandbox, name: str) -> None:
    result = judged(sandbox, ATTACKS[name], SCRIPT)
    assert not result.passed, result
    assert result.status is not RunStatus.SANDBOX_ERROR, result
    assert not result.inseparable, "a solution cannot make its record unusable"
    assert judged(sandbox, "def double(n): return 2 * n", SCRIPT).passed, "the next one is not touched"


@pytest.mark.parametrize(
    "name", ["pytest's own exit", "pytest's skip", "exit as an exception", "keyboard", "ANY"]
)
def test_no_attack_on_pytest_is_paid(sandbox: LocalSandbox, name: str) -> None:
    script = f"from solution import double\nfrom math import isclose\ndef test_it():{indent(SCRIPT, '    ')}"
    assert judged(sandbox, "def double(n): return 2 * n", script, pytest=True).passed
    assert not judged(sandbox, ATTACKS[name], script, pytest=True).passed


@pytest.mark.parametrize("side", ["solution", "tests"])
def test_what_never_ends_is_a_timeout_on_either_side(sandbox: LocalSandbox, side: str) -> None:
    code, script = "def go(): return 1", "for each in (1,): assert go() == 1\nwhile True: pass"
    if side == "solution":
        code, script = "def go():\n    while True: pass", "for each in (1,): assert go() == 1"
    result = sandbox.submit_test(ScriptJob(code, script, limits=Limits(0.4, 5.0))).result(60)
    assert (result.status, result.passed) == (RunStatus.CPU_TIMEOUT, False)


def test_a_test_that_is_cancelled_leaves_its_workers_usable(sandbox: LocalSandbox) -> None:
    endless = ScriptJob(
        "import time\ndef go(): time.sleep(60)", "for each in (1,): go()", limits=Limits(60, 60)
    )
    future = sandbox.submit_test(endless)
    time.sleep(0.3)
    future.cancel()
    assert judged(sandbox, "def double(n): return 2 * n", SCRIPT).passed
