"""Takes a script of assertions apart: calls, which run in the sandbox, and expected values, which stay outside.

    assert candidate(nums=[2, 7], target=9) == [0, 1]

gives the call `Solution().twoSum(nums=[2, 7], target=9)` and the expected value `[0, 1]`.

Understood: assertions at the top level, in a `check(candidate)` that the script calls, and in `test_…`
functions; `==`, `is` with a constant, bare and negated calls, `and`; differences below a bound, `isclose`,
`approx`; linked lists and trees as LeetCodeDataset builds and compares them; names that were assigned once. One
statement that is anything else, a loop for instance, and the script stays whole. What decides is that no
expected value is in what is sent.

The scripts come with the data and are trusted; replies are never parsed here.
"""

from __future__ import annotations

import ast
import builtins
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from reasonkit.sandbox import NotPlain, plain
from reasonkit.verifiers.code_compare import TOLERANCE, same_value, truth

LONGEST_SCRIPT = 2_000_000
"""Characters; parsing more would hold up every other verdict."""

ENTRY = "_reasonkit_case"

Rule = Literal["equal", "either", "truth", "tree"]

_WRAPPERS = frozenset(
    {"set", "frozenset", "sorted", "list", "tuple", "dict", "len", "str", "int", "float", "bool"}
    | {"round", "sum", "min", "max", "abs", "Counter"}
)
"""Functions around a call under test that lose nothing by running in the sandbox."""
_BUILDERS = {"list_node": "list", "tree_node": "tree"}
_COMPARERS = {"is_same_list": "list", "is_same_tree": "tree"}
_CONTAINERS: dict[str, Callable[..., Any]] = {
    "set": set,
    "frozenset": frozenset,
    "list": list,
    "tuple": tuple,
}


@dataclass(frozen=True, slots=True)
class Check:
    """What a call's result must be. `either`: also the one item of the expected list."""

    expected: Any
    rule: Rule = "equal"
    relative: float = TOLERANCE
    absolute: float = 0.0

    def accepts(self, got: Any) -> bool:
        if self.rule == "truth":
            return truth(got) is self.expected
        if self.rule == "tree":
            return same_value(_trimmed(got), _trimmed(self.expected))
        if self.rule == "either" and same_value(got, self.expected[0]):
            return True
        return same_value(got, self.expected, self.relative, self.absolute)


@dataclass(frozen=True, slots=True)
class Cases:
    """Calls as source text. `code` goes behind the solution; its function makes the call of a number."""

    code: str
    checks: tuple[Check, ...]


class _Whole(Exception):
    """This script cannot be taken apart."""


_NODES = """
def _reasonkit_list(node):
    values = []
    while node is not None and len(values) < 100_000:
        values.append(node.val)
        node = node.next
    return values

def _reasonkit_tree(node):
    values, waiting = [], [node]
    while waiting and len(values) < 100_000:
        following = []
        for each in waiting:
            values.append(None if each is None else each.val)
            following += [] if each is None else [each.left, each.right]
        waiting = following
    return values
"""


@lru_cache(maxsize=1024)
def take_apart(script: str, prefix: str = "") -> Cases | None:
    """The script's cases, or None where it must stay whole."""
    if len(script) > LONGEST_SCRIPT:
        return None
    reader = _Reader(helpers=_defined(prefix) & (_BUILDERS.keys() | _COMPARERS.keys()))
    try:
        reader.read(ast.parse(script).body, {})
    except (_Whole, SyntaxError, RecursionError):
        return None
    if not reader.cases:
        return None
    calls = "".join(f"    lambda: {source},\n" for source, _ in reader.cases)
    imports = "".join(f"{line}\n" for line in reader.imports)
    code = f"{imports}{_NODES}\n{ENTRY}s = (\n{calls})\ndef {ENTRY}(number): return {ENTRY}s[number]()\n"
    return Cases(code, tuple(check for _, check in reader.cases))


def _defined(code: str) -> set[str]:
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return set()
    return {each.name for each in body if isinstance(each, ast.FunctionDef | ast.ClassDef)}


@dataclass
class _Reader:
    """Collects (source of a call, check) from statements. `candidate` is what `check` was called with."""

    helpers: set[str]
    imports: list[str] = field(default_factory=list)
    imported: set[str] = field(default_factory=set)
    cases: list[tuple[str, Check]] = field(default_factory=list)
    checkers: dict[str, ast.FunctionDef] = field(default_factory=dict)
    candidate: str | None = None

    def read(self, body: Sequence[ast.stmt], names: dict[str, ast.expr]) -> None:
        for statement in body:
            self._statement(statement, names)

    def _statement(self, statement: ast.stmt, names: dict[str, ast.expr]) -> None:
        match statement:
            case ast.Import() | ast.ImportFrom():
                self._import(statement)
            case ast.Expr(ast.Constant()) | ast.Pass():
                pass
            case ast.Assign([ast.Name(name)], value) if name not in names:
                names[name] = _inlined(value, names)
            case ast.Assert(test):
                self._assertion(_inlined(test, names), names)
            case ast.FunctionDef(name, ast.arguments([], [_], None, [], [], None, []), decorator_list=[]):
                self.checkers[name] = statement
            case ast.FunctionDef(name, ast.arguments([], [], None, [], [], None, []), decorator_list=[]):
                if not name.startswith("test"):
                    raise _Whole
                self.read(statement.body, dict(names))
            case ast.Expr(ast.Call(ast.Name(name), [argument], [])) if name in self.checkers:
                self._check(self.checkers[name], _inlined(argument, names), names)
            case _:
                raise _Whole

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        modules = [each.name for each in statement.names]
        source = statement.module if isinstance(statement, ast.ImportFrom) else None
        if source == "solution":
            return  # the code under test is in the same module
        if source == "pytest" or modules == ["pytest"]:
            return
        self.imported |= {(each.asname or each.name).partition(".")[0] for each in statement.names}
        self.imports.append(ast.unparse(statement))

    def _check(self, checker: ast.FunctionDef, argument: ast.expr, names: dict[str, ast.expr]) -> None:
        self.candidate = ast.unparse(argument)
        self.read(checker.body, {**names, checker.args.args[0].arg: argument})
        self.candidate = None

    def _assertion(self, test: ast.expr, names: dict[str, ast.expr]) -> None:
        match test:
            case ast.Constant(value) if value:
                pass
            case ast.BoolOp(ast.And(), parts):
                for part in parts:
                    self._assertion(part, names)
            case ast.Compare(left, [ast.Eq()], [right]):
                self._equality(left, right)
            case ast.Compare(left, [ast.Is()], [ast.Constant(None | True | False) as right]):
                self._equality(left, right)
            case ast.Compare(left, [ast.Lt() | ast.LtE()], [bound]):
                self._difference(left, bound)
            case ast.Call(ast.Name("is_same_list" | "is_same_tree" as name), [left, right], []):
                self._nodes(name, left, right)
            case ast.Call(function, [left, right], keywords) if _last_name(function) in (
                "isclose",
                "allclose",
            ):
                self._near(left, right, keywords)
            case ast.UnaryOp(ast.Not(), call):
                self._add(call, Check(False, "truth"))
            case _:
                self._add(test, Check(True, "truth"))

    def _equality(self, left: ast.expr, right: ast.expr) -> None:
        if not self._is_under_test(left):
            left, right = right, left
        match right:
            case ast.Call(function, [wanted], keywords) if _last_name(function) == "approx":
                self._near(left, wanted, keywords)
            case _:
                self._add(left, Check(_literal(right)))

    def _difference(self, left: ast.expr, bound: ast.expr) -> None:
        """`abs(call - expected) < bound`: the difference is taken outside."""
        match left:
            case ast.Call(function, [ast.BinOp(one, ast.Sub(), other)], []) if _last_name(function) in (
                "abs",
                "fabs",
            ):
                if not self._is_under_test(one):
                    one, other = other, one
                wanted = float(_number(other))
                self._add(one, Check(wanted, relative=0.0, absolute=float(_number(bound))))
            case _:
                raise _Whole

    def _near(self, left: ast.expr, right: ast.expr, keywords: Sequence[ast.keyword]) -> None:
        if not self._is_under_test(left):
            left, right = right, left
        tolerances = {str(each.arg)[:3]: float(_number(each.value)) for each in keywords}
        if tolerances.keys() - {"rel", "abs", "rto", "ato"}:
            raise _Whole
        relative = tolerances.get("rel", tolerances.get("rto", TOLERANCE))
        absolute = tolerances.get("abs", tolerances.get("ato", 0.0))
        wanted = _literal(right)
        self._add(left, Check(float(wanted) if type(wanted) is int else wanted, "equal", relative, absolute))

    def _nodes(self, comparer: str, left: ast.expr, right: ast.expr) -> None:
        """Linked lists and trees are flattened in the sandbox, by code that knows nothing of what is expected."""
        if comparer not in self.helpers:
            raise _Whole
        kind = _COMPARERS[comparer]
        match right:
            case ast.Call(ast.Name(builder), [values], []) if _BUILDERS.get(builder) == kind:
                wanted = _literal(values)
            case ast.Constant(None):
                wanted = []
            case _:
                raise _Whole
        check = Check(wanted, "tree" if kind == "tree" else "equal")
        self._add(left, check, around=f"_reasonkit_{kind}")

    def _add(self, call: ast.expr, check: Check, around: str = "") -> None:
        if not self._is_under_test(call):
            raise _Whole
        self.cases.append((f"{around}({ast.unparse(call)})", check))

    def _is_under_test(self, node: ast.expr) -> bool:
        """A call of the solution, maybe inside functions that pass it on, with nothing in it but its arguments."""
        match node:
            case ast.Call(ast.Name(name), [inner, *_]) if name in _WRAPPERS and name != self.candidate:
                return self._is_under_test(inner)
            case ast.Call(function, arguments, keywords):
                given = [*arguments, *(each.value for each in keywords)]
                return self._is_solution(function) and all(map(self._is_plain_argument, given))
            case ast.Subscript(inner) | ast.Attribute(inner):
                return self._is_under_test(inner)
            case _:
                return False

    def _is_solution(self, function: ast.expr) -> bool:
        if self.candidate is not None:
            return ast.unparse(function) == self.candidate
        root = function
        while isinstance(root, ast.Attribute | ast.Call):
            root = root.value if isinstance(root, ast.Attribute) else root.func
        return isinstance(root, ast.Name) and root.id not in (
            vars(builtins).keys() | self.imported | self.helpers | _COMPARERS.keys()
        )

    def _is_plain_argument(self, node: ast.expr) -> bool:
        """Arguments may be built by builtins, imports and node builders, but not by the solution: an expression
        around one of its calls may hold what is expected."""
        known = vars(builtins).keys() | self.imported | _BUILDERS.keys()
        roots = (_root_name(each.func) for each in ast.walk(node) if isinstance(each, ast.Call))
        return all(root in known for root in roots)


class _Inline(ast.NodeTransformer):
    def __init__(self, names: dict[str, ast.expr]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in self.names:
            return node
        if not isinstance(node.ctx, ast.Load):
            raise _Whole  # a loop variable or a walrus of the same name
        return copy.deepcopy(self.names[node.id])

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        if {each.arg for each in node.args.args} & self.names.keys():
            raise _Whole
        self.generic_visit(node)
        return node


def _inlined(node: ast.expr, names: dict[str, ast.expr]) -> ast.expr:
    """The expression with assigned names replaced by what they stand for."""
    done: ast.expr = _Inline(names).visit(copy.deepcopy(node))
    return done


def _last_name(function: ast.expr) -> str:
    match function:
        case ast.Attribute(attr=name) | ast.Name(name):
            return name
        case _:
            return ""


def _root_name(function: ast.expr) -> str:
    while isinstance(function, ast.Attribute | ast.Call):
        function = function.value if isinstance(function, ast.Attribute) else function.func
    return function.id if isinstance(function, ast.Name) else ""


def _literal(node: ast.expr) -> Any:
    """The plain value of a literal, of `float("inf")`, or of a container built from a literal."""
    match node:
        case ast.Call(ast.Name(name), arguments, []) if name in _CONTAINERS and len(arguments) <= 1:
            return _plain(_CONTAINERS[name](*map(_python_literal, arguments)))
        case _:
            return _plain(_python_literal(node))


def _python_literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(_Infinity().visit(copy.deepcopy(node)))
    except (ValueError, TypeError, SyntaxError, MemoryError) as error:
        raise _Whole from error


class _Infinity(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        match node:
            case ast.Call(ast.Name("float"), [ast.Constant(str(text))], []):
                return ast.Constant(float(text))
            case _:
                return node


def _plain(value: Any) -> Any:
    try:
        return plain(value)
    except NotPlain as error:
        raise _Whole from error


def _number(node: ast.expr) -> int | float:
    value = _literal(node)
    if type(value) not in (int, float):
        raise _Whole
    number: int | float = value
    return number


def _trimmed(values: Any) -> Any:
    """A tree's values, level by level, without the absent nodes at the end."""
    if not isinstance(values, list):
        return values
    end = len(values)
    while end and values[end - 1] is None:
        end -= 1
    return values[:end]
