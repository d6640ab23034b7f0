"""Prints the verdicts on a fixed set of programs and patches, as JSON. A script: another user can start it too."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reasonkit.records import Record, Verdict
from reasonkit.verifiers import Grader, code, codeio

WORK = "def f(n):\n    total = 0\n    for i in range(n): total += i * i\n    return total"
LOOP = "def f(n):\n    while n: pass\n    return 0"
SLEEP = "import time\ndef f(n):\n    time.sleep(0.3)\n    return sum(i * i for i in range(n))"
ALMOST = WORK.replace("i * i", "i * i + (n > 10)")
CALLS = {"fn_name": "f", "inputs": [[10], [100_000]], "outputs": [285, 333328333350000]}
WHOLE = {
    "functional": "for n, wanted in {10: 285, 100_000: 333328333350000}.items():\n    assert f(n) == wanted"
}
PYTEST = {
    "pytest": "from solution import f\ndef test_f():\n    for n, wanted in {10: 285}.items(): assert f(n) == wanted"
}
PRINTED = {"inputs": ["10", "100000"], "outputs": ["285", "333328333350000"]}
SHARES = {"test_cases": [{"input": "10", "output": "285"}, {"input": "9", "output": "0"}]}
ENTRY = "\nprint(f(int(input())))"
PATCH = "--- a/m.py\n+++ b/m.py\n@@ -1 +1 @@\n-def f(n): return n\n+def f(n): return n * 2\n"
REPOSITORY = {
    "files": {"m.py": "def f(n): return n\n"},
    "tests": {"test_m.py": "from m import f\ndef test_f(): assert f(2) == 4\n"},
    "fail_to_pass": ["test_m.py::test_f"],
}


def fenced(text: str, tag: str = "python") -> str:
    return f"<think>hm</think>\n```{tag}\n{text}\n```\n"


def cases() -> dict[str, tuple[Record, str]]:
    found: dict[str, tuple[Record, str]] = {}
    programs = {"right": WORK, "wrong": ALMOST, "endless": LOOP, "sleeps": SLEEP}
    suites: dict[str, Any] = {"calls": CALLS, "whole": WHOLE, "pytest": PYTEST}
    for suite, answer in suites.items():
        for name, program in programs.items():
            if (suite, name) != ("pytest", "endless"):  # each of these costs its limit
                found[f"{suite}, {name}"] = (Record("u", "taco", (), answer, "code"), fenced(program))
    for suite, answer in {"printed": PRINTED, "shares": SHARES}.items():
        for name, program in programs.items():
            found[f"{suite}, {name}"] = (Record("u", "taco", (), answer, "code"), fenced(program + ENTRY))
    crux = Record(
        "u", "cruxeval-i", (), {"functional": "def f(a, b=1): return a * b"}, None, {"output": "'xx'"}
    )
    for text in ("assert f('x', 2) == 'xx'", "assert f('x') == 'xx'", "assert f('x', 10**9) == 'xx'"):
        found[f"cruxeval, {text}"] = (crux, fenced(text))
    about = {
        "output": 1,
        "entry_point": "g",
        "reference": "def g(x):\n    while x < 0: pass\n    return x % 3",
    }
    predicted = Record("u", "codeio", (), {"input": {"x": 4}}, "codeio", about)
    for x in (7, 5, -1):
        found[f"codeio, {x}"] = (predicted, fenced(json.dumps({"input": {"x": x}}), "json"))
    swe = Record("u", "swe_bench", (), REPOSITORY)
    for name, patch in {
        "right": PATCH,
        "wrong": PATCH.replace("* 2", "+ 1"),
    }.items():
        found[f"swe, {name}"] = (swe, fenced(patch.rstrip("\n"), "diff"))
    return found


async def verdicts() -> dict[str, Verdict]:
    chosen = cases()
    async with Grader(workers=1) as grader:
        judged = await asyncio.gather(*(grader.verify(*case) for case in chosen.values()))
    return dict(zip(chosen, judged, strict=True))


def comparable(verdict: Verdict) -> list[Any]:
    """All that a verdict says but the walls' name and measured times."""
    details = {name: value for name, value in verdict.details.items() if name != "tier"}
    return [verdict.status.value, verdict.score, verdict.answer, details]


def main() -> None:
    from reasonkit.sandbox import Limits
    from reasonkit.verifiers import swe_tests

    code.TEST_CPU, code.SUITE_CPU = 0.5, 1.5  # what never ends is given less time to do so
    codeio.LIMITS = Limits(cpu_seconds=0.5)
    swe_tests.LIMITS = Limits(cpu_seconds=3.0, wall_seconds=60.0, processes=True)
    print(json.dumps({name: comparable(verdict) for name, verdict in asyncio.run(verdicts()).items()}))


if __name__ == "__main__":
    main()
