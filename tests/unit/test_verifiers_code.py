"""Programs' tests: how they are read, taken apart and compared. Nothing runs here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonkit.records import Record
from reasonkit.sandbox import plain
from reasonkit.verifiers.code import joined_fences, solution_in
from reasonkit.verifiers.code_asserts import Cases, Check, take_apart
from reasonkit.verifiers.code_compare import same_output, same_output_reasoning360, same_value, truth
from reasonkit.verifiers.code_tests import Calls, Programs, Script, suite_of
from reasonkit.verifiers.routing import route

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


# Comparing


@given(PLAIN)
def test_a_value_is_the_same_as_itself_and_not_as_itself_in_a_list(value: Any) -> None:
    assert same_value(value, value)
    assert not same_value([value], value)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (True, 1),
        (1, True),
        (0, False),
        ("3", 3),
        (3, "3"),
        (None, 0),
        ([], None),
        ([], {}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ([1, 2], [2, 1]),
        ({"$set": [1]}, [1]),
        (3.0000001, 3),
        (10**400, 1.0),
        (0.1, 0.2),
    ],
)
def test_what_is_not_the_same(got: Any, expected: Any) -> None:
    assert not same_value(got, expected)


@pytest.mark.parametrize(
    ("got", "expected"), [(3, 3.0), (3.0, 3), (0.1 + 0.2, 0.3), ([1, [2.0]], [1, [2]]), ({"b": 1}, {"b": 1})]
)
def test_numbers_are_the_same_by_value(got: Any, expected: Any) -> None:
    assert same_value(got, expected)


@pytest.mark.parametrize(
    "value", [0, 1, "", "a", [], [0], None, 0.0, set(), {1}, b"", b"a", 0j, 1j, {}, {(1,): 2}, {"$set": []}]
)
def test_truth_survives_plainness(value: Any) -> None:
    if value != {"$set": []}:
        assert truth(plain(value)) is bool(value)


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("5\n", "5", True),
        ("  5 \n\n", "5", True),
        ("1 2\n3", "1 2 \n 3\n", True),
        ("1.50", "1.5", True),
        ("0.333333", "0.33333333333", True),
        ("1e-7", "0.0", True),
        ("1000000.5", "1000000.0", True),
        ("3", "2.9999999", True),
        ("3.0", "3", True),
        ("3.0000001", "3", False),
        ("0.34", "0.33333", False),
        ("1 2 3", "1 2\n3", False),
        ("1\n\n2", "1\n2", False),
        ("yes", "YES", False),
        ("nan", "nan", True),
        ("inf", "1.0", False),
        ("1e999999999", "1.5", False),
        ("", "5", False),
        ("5 6", "5", False),
        ("9" * 500, "9" * 499 + "8", False),
    ],
)
def test_printed_text(printed: str, expected: str, same: bool) -> None:
    assert same_output(printed, expected) is same


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("yes", "YES", True),
        ("3.0000001", "3", True),
        ("a", "b", False),
        ("1 2", "1", False),
        ("x", "1", False),
    ],
)
def test_printed_text_as_the_published_grader_compares(printed: str, expected: str, same: bool) -> None:
    assert same_output_reasoning360(printed, expected) is same


# Taking assertions apart


def checks(script: str, prefix: str = "") -> list[Any]:
    cases = take_apart(script, prefix)
    assert isinstance(cases, Cases), script
    compile(cases.code, "cases", "exec")
    return [check.expected for check in cases.checks]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("assert f(1, 2) == 3", [3]),
        ("assert 3 == f(1, 2)", [3]),
        ("def check(candidate):\n    assert candidate(1) == (1, 2), 'why'\n\ncheck(f)", [[1, 2]]),
        ("def check(candidate):\n    assert candidate(x=[1]) == inf\n\ncheck(Solution().g)", [{"$float": "inf"}]),
        ("METADATA = {'a': 1}\ndef check(c):\n    assert True, 'ok'\n    assert c(1) is None\ncheck(f)", [None]),
        ("from solution import f\ndef test_a():\n    x = f(2)\n    assert x == 4\ndef test_b():\n    assert f(3)",
         [4, True]),
        ("import math\nassert math.isclose(f(2), 1.5, rel_tol=0.001)", [1.5]),
        ("assert abs(f(2) - 1.5) < 1e-6 and not f(3)", [1.5, False]),
        ("import pytest\nassert f(2) == pytest.approx(1.5)", [1.5]),
        ("assert set(f(2)) == set([1, 2])\nassert sorted(f(3))[0] == -1", [{"$set": [1, 2]}, -1]),
        ("x = [3, 1]\nassert f(x) == 'x'", ["x"]),
        ("assert f(float('inf'), {1: (2,)}) == float('-inf')", [{"$float": "-inf"}]),
    ],
)  # fmt: skip
def test_assertions_become_calls_and_expected_values(script: str, expected: list[Any]) -> None:
    assert checks(script) == expected


NODES = """
class ListNode: pass
def list_node(values): ...
def is_same_list(left, right): ...
def tree_node(values): ...
def is_same_tree(left, right): ...
"""


def test_nodes_are_flattened_in_the_sandbox() -> None:
    script = (
        "def check(candidate):\n"
        "    assert is_same_list(candidate(head=list_node([1, 2])), list_node([2, 1]))\n"
        "    assert is_same_tree(candidate(tree_node([1])), tree_node([1, None, 2]))\n"
        "check(Solution().go)"
    )
    assert checks(script, NODES) == [[2, 1], [1, None, 2]]
    assert take_apart(script) is None, "nobody said what is_same_list is"
    tree = Check([1, None, 2], "tree")
    assert tree.accepts([1, None, 2, None, None])
    assert not tree.accepts([1, 2])


@pytest.mark.parametrize(
    "script",
    [
        "for i in range(3):\n    assert f(i) == i",
        "assert f(1) != 2",
        "assert f(1) == f(2)",
        "assert f(1) == g",
        "assert f(1) - 3 == 0",
        "assert same(f(1), 3)",
        "assert f(g(1)) == 3",
        "assert len([1]) == 1",
        "x = [1]\nf(x)\nassert x == [2]",
        "x = 1\nx = 2\nassert f(x) == 2",
        "x = 1\nassert f([x for x in range(3)]) == 2",
        "x = 1\nassert f(lambda x: x) == 2",
        "import random\nassert random.random() == 1",
        "def helper(a, b):\n    return a\nassert helper(f(1), 2) == 1",
        "def check(candidate):\n    assert other(candidate(1), 5) == 5\ncheck(f)",
        "with open('x') as x:\n    pass\nassert f(1) == 1",
        "assert f(1) == 1 or f(2) == 2",
        "not python",
        "",
        "f(1)",
    ],
)
def test_a_script_that_does_more_stays_whole(script: str) -> None:
    assert take_apart(script) is None


@given(st.integers(), PLAIN)
def test_no_expected_value_is_in_what_is_sent(argument: int, value: Any) -> None:
    marked = ["expected-value-marker", value]
    cases = take_apart(f"assert f({argument}) == {marked!r}")
    assert cases is not None
    assert "expected-value-marker" not in cases.code
    assert cases.checks[0].accepts(json.loads(json.dumps(plain(marked))))


# Reading records


def record(answer: Any, **metadata: Any) -> Record:
    return Record("u", "taco", (), answer, None, metadata)


def test_every_shape_of_tests_is_read() -> None:
    stdio = suite_of(record({"inputs": ["1\n"], "outputs": ["2"]}))
    assert stdio.tests == Programs(("1\n",), ("2",))
    assert suite_of(record('{"inputs": [["1", "2"]], "outputs": ["2"]}')).tests == Programs(("1\n2",), ("2",))
    named = suite_of(record({"fn_name": "f", "inputs": [[1]], "outputs": [5]})).tests
    assert named == Calls("f", ([1],), (Check(5),))
    lines = suite_of(record({"fn_name": "f", "inputs": ['1\n"a"'], "outputs": ["[5]"]})).tests
    assert isinstance(lines, Calls)
    assert lines.inputs == ([1, "a"],)
    ours = suite_of(record({"test_cases": [{"input": "1", "output": "2"}], "language": "python"}))
    assert (ours.tests, ours.partial) == (Programs(("1",), ("2",)), True)
    assert suite_of(record({"functional": "for i in x: assert f(i)"})).tests == Script(
        "for i in x: assert f(i)", False
    )
    assert suite_of(record({"pytest": "for i in x: assert f(i)"})).tests == Script(
        "for i in x: assert f(i)", True
    )


def test_a_result_in_a_list_of_its_own_may_come_bare() -> None:
    tests = suite_of(record({"fn_name": "f", "inputs": [[1], [2]], "outputs": [[5], [6]]})).tests
    assert isinstance(tests, Calls)
    assert tests.checks[0].accepts(5)
    assert tests.checks[0].accepts([5])
    assert not tests.checks[0].accepts(6)
    assert not tests.checks[0].accepts([[5]])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({}, "no tests among nothing"),
        ({"inputs": [], "outputs": []}, "make no tests"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs and 0 outputs"),
        ({"functional": "assert f(1)", "language": "cpp"}, "give inputs and outputs"),
        ([1], "a list, not an object"),
        ({"solution_file": "x"}, "no tests among solution_file"),
    ],
)
def test_a_record_without_tests_is_unusable(answer: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        suite_of(record(answer))


@pytest.mark.parametrize(
    "source", ["codegen__leetcode2k", "codegen__livecodebench", "leetcode", "taco", "primeintellect", "apps",
               "codecontests", "codeforces", "code_verifiable", "mbpp", "humaneval"],
)  # fmt: skip
def test_sources_of_programs_are_routed(source: str) -> None:
    assert route(source) == "code"


# Finding the program


FENCES = (
    "<think>```python\nthought\n```</think>\n"
    "```python\nfirst\n```\nthen\n```py\nsecond\n```\n```bash\nls\n```\n"
)


def test_the_last_fence_of_the_language_after_the_thinking_counts() -> None:
    assert solution_in(FENCES, "python") == "second\n"
    assert solution_in(FENCES, "bash") == "ls\n"
    assert solution_in(FENCES, "c++") is None
    assert solution_in("```\nplain\n```", "cpp") == "plain\n"
    assert solution_in('```js title="a.js"\nx\n```', "javascript") == "x\n"


@pytest.mark.parametrize(
    "text", ["", "code", "```python\nunclosed", "<think>```python\nx\n```", "```python\n \n```"]
)
def test_no_program(text: str) -> None:
    assert solution_in(text, "python") is None


def test_the_published_grader_joins_fences() -> None:
    assert joined_fences("```python\na\n```\ntext\n```\nb\n```") == "a\nb"
    assert joined_fences("</think>```python\na\n```</think>") == "a"
    assert joined_fences("```python\na```") == ""
    assert joined_fences("``` python\na\n```") == ""


@pytest.mark.parametrize(
    "unit", ["`", "```", "x```\n", "```\n", "```a", "``` \n", "```python\nx\n", "```\n\n```\n"]
)
@pytest.mark.timeout(60)
def test_a_flood_of_fences_is_read_in_one_pass(unit: str) -> None:
    flood = unit * 200_000
    assert len(joined_fences(flood)) <= len(flood)
    assert len(solution_in(flood, "python") or "") <= len(flood)
