"""Secrets and addresses from the environment, or from a `.env` file in the current directory.

What `.env` says is looked up and never exported: sandboxed programs and other children do not inherit it. The
environment wins over the file. No interpolation and no multi-line values.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

FILE = Path(".env")
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")


def variable(*names: str) -> str:
    """The value of the first of `names` that is set and not empty; empty where none is."""
    for values in (os.environ, read_dotenv(FILE)):
        for name in names:
            if values.get(name):
                return values[name]
    return ""


def read_dotenv(path: Path) -> dict[str, str]:
    """NAME=value lines; quotes around a value are dropped, and so is a comment behind an unquoted one."""
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _LINE.fullmatch(line)
        if match:
            found[match[1]] = _unquoted(match[2])
    return found


def _unquoted(value: str) -> str:
    if value[:1] in ("'", '"') and value.find(value[0], 1) > 0:
        return value[1 : value.index(value[0], 1)]
    return re.split(r"(?:^|\s)#", value, maxsplit=1)[0].strip()
