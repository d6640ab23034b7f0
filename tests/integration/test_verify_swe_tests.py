"""Patches judged by a project's own tests: right ones, wrong ones, and those that go for the tests."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasonkit.records import Record, Status, Verdict
from reasonkit.sandbox.local import LocalSandbox
from reasonkit.sandbox.tiers import open_sandbox
from reasonkit.verifiers import Grader

SOURCE = "def double(n):\n    return n + n + 1\n\n\ndef half(n):\n    return n // 2\n"
TESTS = "from shop.sums import double, half\n\n\ndef test_double():\n    assert double(4) == 8\n"
TESTS += "\n\ndef test_half():\n    assert half(4) == 2\n"
FILES = {
    "shop/__init__.py": "",
    "shop/sums.py": SOURCE,
    "tests/test_sums.py": TESTS.replace("== 8", "== 9"),
    "setup.cfg": "[tool:pytest]\n",
}
FIX = """--- a/shop/sums.py
+++ b/shop/sums.py
@@ -1,2 +1,2 @@
 def double(n):
-    return n + n + 1
+    return n + n
"""
BREAKS_HALF = FIX + "@@ -5,2 +5,2 @@\n def half(n):\n-    return n // 2\n+    return n\n"
NAMES = {
    "fail_to_pass": ["tests/test_sums.py::test_double"],
    "pass_to_pass": ["tests/test_sums.py::test_half"],
}
ANSWER: dict[str, Any] = {"files": FILES, "tests": {"tests/test_sums.py": TESTS}, **NAMES}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    opened = asyncio.run(open_sandbox(workers=1))
    assert isinstance(opened, LocalSandbox)
    yield opened
    opened.close_blocking()


def judge(sandbox: LocalSandbox, answer: Any, patch: str, **metadata: Any) -> Verdict:
    async def alone() -> Verdict:
        async with Grader(workers=1, sandbox=sandbox) as grader:
            record = Record("u", "swe_bench_lite", (), answer, None, metadata)
            return await grader.verify(record, f"<think>hm</think>\n```diff\n{patch}```\n")

    return asyncio.run(alone())


def new_file(name: str, text: str) -> str:
    body = "".join(f"+{line}\n" for line in text.splitlines())
    return f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{text.count(chr(10)) + 1} @@\n{body}"


def test_a_right_patch_a_wrong_one_and_none(sandbox: LocalSandbox) -> None:
    right = judge(sandbox, ANSWER, FIX)
    assert (right.status, right.score) == (Status.CORRECT, 1.0), right
    assert right.details["tamperable"] is True
    assert (right.details["fail_to_pass"], right.details["pass_to_pass"]) == ("1/1", "1/1")
    broken = judge(sandbox, ANSWER, BREAKS_HALF)
    assert (broken.status, broken.score) == (Status.WRONG, 0.0)
    assert broken.details["pass_to_pass"] == "0/1"
    useless = judge(sandbox, ANSWER, FIX.replace("+    return n + n", "+    return n + n + 2"))
    assert "test_double: failed" in useless.reason
    assert "does not apply" in judge(sandbox, ANSWER, FIX.replace("def double", "def triple")).reason
    assert judge(sandbox, ANSWER, "").status is Status.NO_ANSWER


CHEATS = {
    "edits the tests": "--- a/tests/test_sums.py\n+++ b/tests/test_sums.py\n@@ -4,2 +4,2 @@\n def test_double():\n"
                       "-    assert double(4) == 9\n+    assert True\n",
    "deletes the tests": "diff --git a/tests/test_sums.py b/tests/test_sums.py\ndeleted file mode 100644\n"
                         "--- a/tests/test_sums.py\n+++ /dev/null\n@@ -1,9 +0,0 @@\n"
                         + "".join(f"-{line}\n" for line in FILES["tests/test_sums.py"].splitlines()),
    "conftest that passes all": new_file("conftest.py", "import pytest\n@pytest.hookimpl(hookwrapper=True)\n"
                                "def pytest_runtest_makereport(item, call):\n    result = yield\n"
                                "    result.get_result().outcome = 'passed'"),
    "conftest below": new_file("tests/conftest.py", "def pytest_collection_modifyitems(items): items.clear()"),
    "own pytest": new_file("pytest.py", "def main(*a, **k): return 0"),
    "settings": new_file("pytest.ini", "[pytest]\naddopts = --co"),
    "start-up hook": new_file("sitecustomize.py", "import os; os._exit(0)"),
    "leaves early": FIX.replace("+    return n + n", "+    __import__('os')._exit(0)"),
    "raises SystemExit": FIX.replace("+    return n + n", "+    raise SystemExit(0)"),
    "prints PASSED": FIX.replace("+    return n + n", "+    print('PASSED tests/test_sums.py::test_double')"),
    "skips": FIX.replace("+    return n + n", "+    __import__('pytest').skip('done')"),
    "always equal": FIX.replace("+    return n + n", "+    return n"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
def test_a_patch_that_goes_for_the_tests_is_not_paid(sandbox: LocalSandbox, name: str) -> None:
    verdict = judge(sandbox, ANSWER, CHEATS[name])
    assert verdict.score == 0.0, verdict
    assert verdict.status in (Status.WRONG, Status.TIMEOUT), verdict


def test_a_snapshot_a_test_patch_and_swe_benchs_names(sandbox: LocalSandbox, tmp_path: Path) -> None:
    archive = tmp_path / "shop.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    test_patch = CHEATS["edits the tests"].replace("+    assert True", "+    assert double(4) == 8")
    row = {name.upper(): json.dumps(value) for name, value in NAMES.items()} | {"test_patch": test_patch}
    for repository in (archive, _unpacked(archive, tmp_path / "shop")):
        answer = json.dumps({**row, "repository": str(repository)})
        assert judge(sandbox, answer, FIX).status is Status.CORRECT
        assert judge(sandbox, answer, BREAKS_HALF).status is Status.WRONG


def _unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("python3 -m unittest -v tests.test_it", {"fail_to_pass": ["test_it (tests.test_it.It.test_it)"]}),
        ("python3 -m unittest tests.test_it", {}),
        ("python3 tests/test_it.py -v", {}),
    ],
)
def test_a_command_of_the_record(sandbox: LocalSandbox, command: str, names: dict[str, Any]) -> None:
    test = "import sys, unittest\nsys.path.insert(0, '.')\nfrom shop.sums import double\n"
    test += "class It(unittest.TestCase):\n"
    test += (
        "    def test_it(self): self.assertEqual(double(4), 8)\nif __name__ == '__main__': unittest.main()\n"
    )
    command = f"{command} 2>&1"
    answer = {"files": FILES, "tests": {"tests/test_it.py": test}, "command": command, **names}
    right = judge(sandbox, answer, FIX)
    assert right.status is Status.CORRECT, right
    assert judge(sandbox, answer, FIX.replace("+    return n + n", "+    return n")).status is Status.WRONG


def test_a_record_without_tests_or_repository_is_unusable(sandbox: LocalSandbox) -> None:
    for answer, words in (
        ({"files": FILES}, "no tests"),
        ({"tests": {"t.py": ""}}, "no repository"),
        ({"repository": "/nowhere", "tests": {"t.py": ""}}, "/nowhere"),
    ):
        verdict = judge(sandbox, answer, FIX)
        assert verdict.status is Status.ERROR
        assert words in verdict.reason


def test_there_is_no_network_and_no_way_out(sandbox: LocalSandbox) -> None:
    fix = FIX.replace(
        "+    return n + n", "+    __import__('socket').create_connection(('1.1.1.1', 80), 1); return n + n"
    )
    assert judge(sandbox, ANSWER, fix).score == 0.0
