"""Size ceilings that lint enforces: a file ≤ 600 lines, a function ≤ 60, waivers ≤ 2 % of functions, no TODO.

A waiver is a comment `# long: <reason>` on the line of the `def`. Run from the repository's root.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

FILE_LINES = 600
FUNCTION_LINES = 60
WAIVERS = 0.02


def problems(root: Path) -> list[str]:
    found: list[str] = []
    functions = waived = 0
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        if len(lines) > FILE_LINES:
            found.append(f"{path}: {len(lines)} lines, more than {FILE_LINES}")
        found += [
            f"{path}:{number}: unfinished work"
            for number, line in enumerate(lines, 1)
            if re.search(r"\b(TODO|FIXME|XXX)\b", line)
        ]
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            functions += 1
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length <= FUNCTION_LINES:
                continue
            if re.search(r"# long: \S", lines[node.lineno - 1]):
                waived += 1
            else:
                found.append(
                    f"{path}:{node.lineno}: {node.name} has {length} lines, more than {FUNCTION_LINES}"
                )
    if functions and waived / functions > WAIVERS:
        found.append(f"{waived} of {functions} functions are waived, more than {WAIVERS:.0%}")
    return found


if __name__ == "__main__":
    complaints = problems(Path("reasonkit"))
    print("\n".join(complaints) or "sizes are within their ceilings")
    sys.exit(bool(complaints))
