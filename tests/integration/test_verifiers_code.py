"""Programs judged in the sandbox: right ones, wrong ones, and those that attack the judging instead."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from reasonkit.data.build import build
from reasonkit.data.sources import Split
from reasonkit.records import Record, Status, Verdict
from reasonkit.sandbox import languages, toolchains
from reasonkit.sandbox.local import LocalSandbox
from reasonkit.sandbox.tiers import open_sandbox
from reasonkit.verifiers import Grader, code
from reasonkit.verifiers.grader import MAX_CHARACTERS
from reasonkit.verifiers.routing import Mode

ASSERTS = "assert double(21) == 42\nassert double(1000) == 2000"
WHOLE = "for given, wanted in {21: 42, 1000: 2000}.items():\n    assert double(given) == wanted"
SUITES: dict[str, Mapping[str, Any]] = {
    "calls": {"fn_name": "double", "inputs": [[21], [1000]], "outputs": [42, 2000]},
    "assertions": {"functional": ASSERTS},
    "check": {"functional": "def check(double):\n" + indent(ASSERTS, "    ") + "\ncheck(double)"},
    "pytest": {"pytest": "from solution import double\ndef test_it():\n    got = double(21)\n    assert got == 42"
                         "\n    assert double(1000) == 2000"},
    "stdio": {"inputs": ["21\n", "1000\n"], "outputs": ["42", "2000"]},
    "whole script": {"functional": WHOLE},
    "whole pytest": {"pytest": "from solution import double\n" + "def test_it():\n" + indent(WHOLE, "    ")},
}  # fmt: skip
GOLD = "def double(n):\n    return 2 * n"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    opened = asyncio.run(open_sandbox(workers=2))
    assert isinstance(opened, LocalSandbox)
    yield opened
    opened.close_blocking()


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never ends is given less time to do so."""
    monkeypatch.setattr(code, "TEST_CPU", 0.3)
    monkeypatch.setattr(code, "SUITE_CPU", 0.6)


def record(answer: Any, verifier: str = "code", source: str = "taco", **metadata: Any) -> Record:
    return Record("u", source, (), answer, verifier, metadata)


def fenced(program: str, language: str = "python") -> str:
    return f"<think>hm</think>Here it is:\n```{language}\n{program}\n```\n"


def judge(sandbox: LocalSandbox, given: Record, text: str, mode: Mode = "strict") -> Verdict:
    async def alone() -> Verdict:
        async with Grader(mode=mode, workers=1, sandbox=sandbox) as grader:
            return await grader.verify(given, text)

    return asyncio.run(alone())


def program_of(solution: str, suite: str) -> str:
    return f"{solution}\nprint(double(int(input())))" if suite == "stdio" else solution


@pytest.mark.parametrize("suite", SUITES)
def test_gold_wrong_and_missing_programs(sandbox: LocalSandbox, suite: str) -> None:
    given = record(SUITES[suite])
    right = judge(sandbox, given, fenced(program_of(GOLD, suite)))
    assert (right.status, right.score) == (Status.CORRECT, 1.0), right
    assert right.details["tier"] == sandbox.tier
    assert right.details["tamperable"] is False
    for wrong in (
        "def double(n): return 42",
        "def double(n): return str(2 * n) + ' '",
        "def other(n): return n",
        "x =",
    ):
        verdict = judge(sandbox, given, fenced(program_of(wrong, suite)))
        if suite == "stdio" and "str" in wrong:
            continue  # printed, it is the same
        assert (verdict.status, verdict.score) == (Status.WRONG, 0.0), (wrong, verdict)
        assert verdict.reason
    for missing in ("", "pass", "```\n\n```", "<think>```python\n" + GOLD + "\n```", f"```python\n{GOLD}"):
        assert judge(sandbox, given, missing).status is Status.NO_ANSWER


EQUAL = """
class Same{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
    __lt__ = __le__ = __gt__ = __ge__ = __eq__
    def __sub__(self, other): return 0
    __rsub__ = __abs__ = __sub__
    def __abs__(self): return 0
"""
CHEATS = {
    "34 sys.exit when loaded": "import sys\nsys.exit(0)",
    "34 sys.exit when called": "import sys\ndef double(n): sys.exit(0)",
    "35 os._exit when loaded": "import os\nos._exit(0)",
    "35 os._exit when called": "import os\ndef double(n): os._exit(0)",
    "36 equal to everything": EQUAL.format(base="") + "def double(n): return Same()",
    "37 int subclass": EQUAL.format(base="(int)") + "def double(n): return Same(7)",
    "37 float subclass": EQUAL.format(base="(float)") + "def double(n): return Same(7)",
    "37 str subclass": EQUAL.format(base="(str)") + "def double(n): return Same('7')",
    "37 list subclass": EQUAL.format(base="(list)") + "def double(n): return Same()",
    "38 atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef double(n): raise SystemExit(1)",
    "39 excepthook": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\ndef double(n): raise ValueError",
    "40 settrace": """
import sys
def tracer(frame, event, arg):
    for name in list(frame.f_locals):
        if isinstance(frame.f_locals[name], int): frame.f_locals[name] = 0
    return tracer
sys.settrace(tracer)
def double(n):
    frame = sys._getframe(1)
    while frame is not None:
        frame.f_trace = tracer
        frame = frame.f_back
    return 0""",
    "41 frame walk": """
import sys
def double(n):
    frame, seen = sys._getframe(1), []
    while frame is not None:
        seen += [c for c in frame.f_code.co_consts if type(c) is int]
        seen += [v for v in frame.f_locals.values() if type(v) is int]
        for value in list(frame.f_locals.values()):
            if type(value) in (list, tuple):
                seen += [v for v in value if type(v) is int]
        frame = frame.f_back
    found = [v for v in seen if v > n]
    return found[0] if found else -1""",
    "42 source re-read": """
import glob, re, linecache
def double(n):
    texts = []
    for name in [__name__ + ".py", "solution.py", "tests.py", *glob.glob("*")]:
        try: texts.append(open(name).read())
        except OSError: pass
        texts.append("".join(linecache.getlines(name)))
    try: texts.append(open("/proc/self/cmdline").read() + open("/proc/self/environ").read())
    except OSError: pass
    found = re.search(r"double\\(%d\\) == (\\d+)" % n, "".join(texts))
    return int(found[1]) if found else -1""",
    "43 conftest": """
try:
    open("conftest.py", "w").write(
        "import pytest\\n@pytest.hookimpl(tryfirst=True)\\n"
        "def pytest_runtest_makereport(item, call): call.excinfo = None"
    )
except OSError: pass
print("PASSED\\n2 passed in 0.01s")
def double(n):
    print("test_solution.py::test_it PASSED [100%]\\n============ 2 passed in 0.01s ============")
    return -1""",
    "45 symlink": """
import os
try: os.symlink("/etc/passwd", "result")
except OSError: pass
def double(n): return open("result").read()""",
    "boolean": "def double(n): return True",
    "text": "def double(n): return str(2 * n)",
    "not a number": "def double(n): return float('nan')",
    "infinity": "def double(n): return float('inf')",
    "everything at once": "def double(n): return [2 * n]",
    "generator": "def double(n): yield 2 * n",
    "lying class": "class L:\n    __class__ = int\n    def __int__(self): return 42\n    __index__ = __int__\n"
                   "def double(n): return L()",
    "metaclass": "class M(type):\n    def __eq__(c, o): return True\n    __hash__ = type.__hash__\n"
                 "class C(metaclass=M): pass\ndef double(n): return C",
    "patched json": "import json\njson.dumps = lambda *a, **k: '42'\ndef double(n): return -1",
    "patched plain": "import sys\nsys.modules['reasonkit.sandbox.plain'].plain = lambda *a: 42\n"
                     "def double(n): return object()",
    "patched builtins": "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.all = lambda *a: True\n"
                        "def double(n): return None",
    "forged answer": "import os, json, struct\nt = json.dumps({'index': 0, 'status': 'ok',"
                     " 'value': 42, 'stdout': '42', 'error': '', 'cpu': 0.0}).encode()\n"
                     "try: os.write(3, struct.pack('!II', len(t), 0) + t)\n"
                     "except OSError: pass\nos._exit(0)",
    "killed runner": "import os, signal\ndef double(n): os.kill(os.getppid(), signal.SIGKILL)",
    "recursion": "def double(n): return double(n)",
    "flood": "def double(n): return 'x' * 50_000_000",
    "deep": "def double(n):\n    d = []\n    for _ in range(100_000): d = [d]\n    return d",
    "cycle": "def double(n):\n    d = []\n    d.append(d)\n    return d",
}  # fmt: skip
ENDLESS = {
    "44 loop that ignores SIGTERM": "import signal\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\n"
                                    "def double(n):\n    while True: pass",
    "loop that ignores the timer": "import signal\nsignal.signal(signal.SIGPROF, signal.SIG_IGN)\n"
                                   "def double(n):\n    while True: pass",
    "loop when loaded": "while True: pass",
}  # fmt: skip


def judge_all(sandbox: LocalSandbox, suite: str, programs: Mapping[str, str]) -> dict[str, Verdict]:
    async def together() -> list[Verdict]:
        async with Grader(workers=1, sandbox=sandbox) as grader:
            texts = (fenced(program_of(each, suite)) for each in programs.values())
            return await asyncio.gather(*(grader.verify(record(SUITES[suite]), text) for text in texts))

    return dict(zip(programs, asyncio.run(together()), strict=True))


STARTED = ("34", "35", "36", "37 int", "38", "41", "43")
"""pytest takes a quarter of a second of CPU to start."""


@pytest.mark.parametrize("suite", SUITES)
def test_no_cheat_is_paid(sandbox: LocalSandbox, suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "SUITE_CPU", 3.0)  # one of them holds itself up
    tried = {
        name: each for name, each in CHEATS.items() if suite != "whole pytest" or name.startswith(STARTED)
    }
    for name, verdict in judge_all(sandbox, suite, tried).items():
        if suite == "stdio" and name == "text":
            assert verdict.score == 1.0, "what is printed is text"
            continue
        assert verdict.score == 0.0, (name, verdict)
        assert verdict.status in (Status.WRONG, Status.TIMEOUT), (name, verdict)


def test_tests_that_need_the_solution_in_their_own_process_make_the_record_unusable(
    sandbox: LocalSandbox,
) -> None:
    given = record({"functional": "class Own: pass\nfor n in (1,): assert double(Own()) == 2"})
    for program in (GOLD, "def double(n): return 2"):
        verdict = judge(sandbox, given, fenced(program))
        assert (verdict.status, verdict.details["unusable"]) == (Status.ERROR, True)
        assert "objects of its own classes" in verdict.reason


@pytest.mark.parametrize("suite", ["calls", "stdio", "whole script", "whole pytest"])
def test_what_never_ends_is_a_timeout(sandbox: LocalSandbox, suite: str, short_limit: None) -> None:
    for name, verdict in judge_all(sandbox, suite, ENDLESS).items():
        assert (verdict.status, verdict.score) == (Status.TIMEOUT, 0.0), (name, verdict)


def test_an_oversized_reply_is_refused_unread(sandbox: LocalSandbox) -> None:
    verdict = judge(sandbox, record(SUITES["calls"]), fenced(GOLD + "\n#" + "x" * MAX_CHARACTERS))
    assert (verdict.status, verdict.score) == (Status.TIMEOUT, 0.0)
    just_fits = judge(sandbox, record(SUITES["calls"]), fenced(GOLD + "\n#" + "x" * (MAX_CHARACTERS - 200)))
    assert just_fits.status is Status.CORRECT


def test_a_cheat_does_not_touch_the_next_verdict(sandbox: LocalSandbox) -> None:
    for name in ("patched plain", "patched builtins", "43 conftest", "forged answer"):
        judge(sandbox, record(SUITES["assertions"]), fenced(CHEATS[name]))
        assert judge(sandbox, record(SUITES["assertions"]), fenced(GOLD)).score == 1.0


# Sources

NODES = """
from typing import *
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next
def list_node(values):
    head = None
    for value in reversed(values): head = ListNode(value, head)
    return head
def is_same_list(left, right):
    return left is right
class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right
def tree_node(values):
    if not values: return None
    root, rest = TreeNode(values[0]), list(values[1:])
    waiting = [root]
    for node in waiting:
        for side in ("left", "right"):
            value = rest.pop(0) if rest else None
            if value is not None:
                setattr(node, side, TreeNode(value))
                waiting.append(getattr(node, side))
    return root
def is_same_tree(left, right):
    return left is right
"""
REVERSE = """class Solution:
    def go(self, head: Optional[ListNode]) -> Optional[ListNode]:
        done = None
        while head: head.next, done, head = done, head, head.next
        return done"""
MIRROR = """class Solution:
    def go(self, root):
        if root: root.left, root.right = self.go(root.right), self.go(root.left)
        return root"""


@pytest.mark.parametrize(
    ("asserted", "right", "wrong"),
    [
        ("candidate(head = list_node([1,2,3])), list_node([3,2,1])", REVERSE,
         REVERSE.replace("done, head,", "None, head,")),
        ("candidate(head = list_node([])), list_node([])", REVERSE,
         REVERSE.replace("return done", "return ListNode(1)")),
        ("candidate(root = tree_node([1,2,3,None,4])), tree_node([1,3,2,None,None,4])", MIRROR,
         "class Solution:\n    def go(self, root): return root"),
    ],
)  # fmt: skip
def test_lists_and_trees_of_leetcode(sandbox: LocalSandbox, asserted: str, right: str, wrong: str) -> None:
    """`is_same_…` of this prefix always says no: what compares is outside."""
    kind = "list" if "list_node" in asserted else "tree"
    script = f"def check(candidate):\n    assert is_same_{kind}({asserted})\n\n\ncheck(Solution().go)"
    given = record({"functional": script}, source="leetcode", prefix=NODES)
    verdict = judge(sandbox, given, fenced(right))
    assert (verdict.status, verdict.details["tamperable"]) == (Status.CORRECT, False), verdict
    assert judge(sandbox, given, fenced(wrong)).status is Status.WRONG
    assert (
        judge(
            sandbox,
            given,
            fenced(EQUAL.format(base="") + "class Solution:\n    def go(self, **k): return Same()"),
        ).score
        == 0
    )


def test_rl_verifiers_tests_each_earn_their_share(sandbox: LocalSandbox) -> None:
    answer = {"test_cases": [{"input": str(n), "output": str(2 * n)} for n in range(4)], "language": "python"}
    given = Record("u", "code_verifiable", (), answer)
    assert judge(sandbox, given, fenced("print(2 * int(input()))")).score == 1.0
    half = judge(sandbox, given, fenced("n = int(input())\nprint(2 * n if n < 2 else 0)"))
    assert (half.status, half.score, half.details["passed"]) == (Status.WRONG, 0.5, 2)


SUM = "print(sum(map(int, input().split())))"
RAW: dict[str, tuple[dict[str, Any], str]] = {
    "leetcode": (
        {"query": "Add.", "prompt": "import math", "entry_point": "Solution().add", "meta": {"difficulty": "Easy",
         "question_title": "Add"}, "test": "def check(candidate):\n    assert candidate(1, 2) == 3",
         "completion": "class Solution:\n    def add(self, a, b): return math.floor(a + b)"},
        "completion",
    ),
    "taco": (
        {"question": "Read two whole numbers and print their sum. " * 5, "source": "codeforces", "starter_code": "",
         "solutions": [SUM], "input_output": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\r\n"]})},
        "solutions",
    ),
    "primeintellect": (
        {"problem": "Add.", "solutions": ["```python\nadd = lambda a, b: a + b\n```"],
         "tests": json.dumps([{"type": "function_call", "fn_name": "add", "input": [1, 2], "output": [3]}])},
        "solutions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("source", RAW)
def test_sources_keep_problems_whose_own_solution_passes(source: str, tmp_path: Path) -> None:
    row, solution = RAW[source]
    wrong = "print(0)" if source != "leetcode" else "class Solution:\n    def add(self, a, b): return 0"
    broken = {**row, solution: wrong if source == "leetcode" else [wrong]}
    text = "query" if source == "leetcode" else "question" if source == "taco" else "problem"
    rows = [row, {**broken, text: "Another. " + row[text]}]
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    (tmp_path / "test.jsonl").write_text(json.dumps({**row, text: "A third. " + row[text]}))
    splits: tuple[Split, ...] = ("train", "test")
    kept = [each for split in splits for each in build(source, split, 9, 0, {"raw": str(tmp_path)})]
    assert kept
    assert not any(each.prompt[0]["content"].find("Another.") >= 0 for each in kept)


ADDERS = {
    "python": "print(sum(map(int, input().split())))",
    "cpp": "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }",
    "java": "import java.util.*; class Main { public static void main(String[] a) {"
    " Scanner s = new Scanner(System.in); System.out.println(s.nextInt() + s.nextInt()); } }",
    "javascript": "const [a, b] = require('fs').readFileSync(0, 'utf8').split(' ').map(Number); console.log(a + b)",
    "go": 'package main\nimport "fmt"\nfunc main() { var a, b int; fmt.Scan(&a, &b); fmt.Println(a + b) }',
    "rust": "use std::io::*;\nfn main() { let mut s = String::new(); stdin().read_to_string(&mut s).unwrap();"
    ' println!("{}", s.split_whitespace().map(|w| w.parse::<i64>().unwrap()).sum::<i64>()); }',
    "bash": "read -r a b; echo $((a + b))",
}


@pytest.mark.parametrize("language", ADDERS)
def test_every_language_through_the_same_interface(sandbox: LocalSandbox, language: str) -> None:
    if languages()[toolchains.language(language).name] is None:
        pytest.skip(f"no toolchain for {language} here")
    tests = {"inputs": ["2 3\n", "40 2\n"], "outputs": ["5", "42"], "language": language}
    right = judge(sandbox, record(tests), fenced(ADDERS[language], language))
    assert (right.status, right.details["passed"]) == (Status.CORRECT, 2), right
    wrong = judge(sandbox, record({**tests, "outputs": ["5", "43"]}), fenced(ADDERS[language], language))
    assert (wrong.status, wrong.details["passed"]) == (Status.WRONG, 1)
    assert "42" in wrong.reason


def test_what_does_not_compile_is_wrong_and_says_why(sandbox: LocalSandbox) -> None:
    tests = {"inputs": ["1", "2"], "outputs": ["1", "2"], "language": "cpp"}
    verdict = judge(sandbox, record(tests), fenced("int main() { return missing; }", "cpp"))
    assert verdict.status is Status.WRONG
    assert "compile error" in verdict.reason


def test_a_missing_toolchain_is_an_error_and_no_zero(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchains, "_toolchain", lambda name: None)
    tests = {"inputs": ["2 3"], "outputs": ["5"], "language": "rust"}
    verdict = judge(sandbox, record(tests), fenced(ADDERS["rust"], "rust"))
    assert verdict.status is Status.ERROR
    assert "no toolchain for 'rust'" in verdict.reason
    assert "apt-get install rustc" in verdict.reason


def test_an_unknown_language_is_an_error(sandbox: LocalSandbox) -> None:
    tests = {"inputs": ["1"], "outputs": ["1"], "language": "cobol"}
    verdict = judge(sandbox, record(tests), fenced("x", "cobol"))
    assert (verdict.status, "runs no 'cobol'" in verdict.reason) == (Status.ERROR, True), verdict


# The published grader


@pytest.mark.parametrize("suite", ["assertions", "stdio", "pytest", "whole script"])
def test_reasoning360_mode_scores_as_published(sandbox: LocalSandbox, suite: str) -> None:
    given = record(SUITES[suite], source="codegen__taco")
    right = judge(sandbox, given, fenced(program_of(GOLD, suite)), "reasoning360")
    assert (right.status, right.details["tamperable"]) == (Status.CORRECT, True), right
    wrong = judge(sandbox, given, fenced(program_of("def double(n): return 0", suite)), "reasoning360")
    assert wrong.status is Status.WRONG
    for text in ("", "no code", "```python\n```"):
        assert judge(sandbox, given, text, "reasoning360").status is Status.NO_ANSWER


def test_reasoning360_mode_joins_fences_and_trusts_the_exit_status(sandbox: LocalSandbox) -> None:
    given = record('{"functional": "assert double(21) == 42"}', source="codegen__mbpp")
    split = "```python\nimport math\n```\nand\n```python\ndef double(n): return int(math.ldexp(n, 1))\n```"
    assert judge(sandbox, given, split, "reasoning360").score == 1.0
    assert judge(sandbox, given, split).score == 0.0
    early = fenced("import sys\nsys.exit(0)")
    assert judge(sandbox, given, early, "reasoning360").score == 1.0, "as published"
    assert judge(sandbox, given, early).score == 0.0
    tests = record({"solution_file": "def double(n): return 2 * n"}, source="codegen__kodcode")
    assert (
        judge(
            sandbox,
            tests,
            fenced("from solution import double\ndef test_a(): assert double(1) == 2"),
            "reasoning360",
        ).score
        == 1.0
    )
    assert (
        judge(
            sandbox,
            tests,
            fenced("from solution import double\ndef test_a(): assert double(1) == 3"),
            "reasoning360",
        ).score
        == 0.0
    )
    assert judge(sandbox, tests, fenced("x")).status is Status.ERROR, (
        "strictly, a reply's own tests judge nothing"
    )


# Inputs that are run


ABDUCTIVE = record(
    {"input": {"x": 4, "y": 0}}, "codeio", "codeio", output=1, entry_point="main_solution",
    reference="def main_solution(x, y):\n    while x < 0: pass\n    return [x % 3, True][y]",
)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ('{"x": 4, "y": 0}', Status.CORRECT),
        ('{"x": 7, "y": 0}', Status.CORRECT),
        ('{"y": 0, "x": 10}', Status.CORRECT),
        ('{"x": 5, "y": 0}', Status.WRONG),
        ('{"x": 5, "y": 1}', Status.WRONG),
        ('{"x": 7}', Status.WRONG),
        ('{"x": 7, "y": 0, "z": 1}', Status.WRONG),
        ('{"x": "7", "y": 0}', Status.WRONG),
        ("[7, 0]", Status.WRONG),
        ("7", Status.WRONG),
        ("null", Status.WRONG),
        ('{"x": -1, "y": 0}', Status.TIMEOUT),
    ],
)
def test_a_predicted_input_is_run(
    sandbox: LocalSandbox, given: str, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reasonkit.sandbox import Limits
    from reasonkit.verifiers import codeio

    monkeypatch.setattr(codeio, "LIMITS", Limits(cpu_seconds=0.5))
    verdict = judge(sandbox, ABDUCTIVE, fenced(f'{{"input": {given}}}', "json"))
    assert verdict.status is status, verdict


CRUX = "def f(text, times=1):\n    return (text * times, len(text))"
INPUT = record({"functional": CRUX}, "cruxeval", "simulation__cruxeval-i", output="('abab', 2)")
PROMPTED = Record(
    "u", "simulation__cruxeval-i",
    ({"role": "user", "content": f"{CRUX}\nassert f(??) == ('abab', 2)\n[/PYTHON]"},),
    {"functional": CRUX}, None, {"reference": "('abab', 2)"},
)  # fmt: skip


@pytest.mark.parametrize("given", [INPUT, PROMPTED], ids=["metadata", "prompt"])
@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("assert f('ab', 2) == ('abab', 2)", 1.0),
        ("assert f('ab', times=2) == ('abab', 2)", 1.0),
        ("f('ab', 2)", 1.0),
        ("'ab', 2", 1.0),
        ("assert f('abab') == ('abab', 2)", 0.0),
        ("assert f('ab', True) == f('ab', True)", 0.0),
        ("assert f(1, 2) == ('abab', 2)", 0.0),
        ("assert f(*['ab', 2]) == ('abab', 2)", 0.0),
        ("assert f(__import__('os')._exit(0)) == ('abab', 2)", 0.0),
        ("assert f('ab', 2) == ('abab', 2)\nassert f('x') == 0", 0.0),
        ("pass", 0.0),
        ("assert True", 0.0),
        ("", 0.0),
        ("import sys; sys.exit(0)", 0.0),
        ("def f(*a): return ('abab', 2)", 0.0),
        ("assert f('ab', 2 ** 40) == ('abab', 2)", 0.0),
        ("assert f('ab', 99999999999) == ('abab', 2)", 0.0),
    ],
)
def test_a_predicted_argument_is_run(sandbox: LocalSandbox, given: Record, text: str, score: float) -> None:
    verdict = judge(sandbox, given, fenced(text))
    assert verdict.score == score, verdict
    assert verdict.status is not Status.ERROR


def test_reasoning360_mode_runs_the_assertion_and_pays_none_that_is_absent(sandbox: LocalSandbox) -> None:
    def score(text: str) -> float:
        return judge(sandbox, INPUT, text, "reasoning360").score

    assert score(fenced("assert f('ab', 2) == ('abab', 2)")) == 1.0
    assert score(fenced("assert f('ab', 2) == ('ab', 2)")) == 0.0
    assert score(fenced("assert f(1) == f(1)")) == 0.0, "it raises"
    assert score(fenced("assert f('') == f('')")) == 1.0, "as published"
    assert (score(""), score("pass"), score(fenced("pass")), score(fenced("f('a')"))) == (0, 0, 0, 0)
