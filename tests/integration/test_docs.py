"""The documentation does what it says: every command block of every page runs, in the page's order.

A page runs in a folder of its own, which holds a finished run as `runs/tiny`. A YAML or Python block opening with
a comment naming a file is written to that file; other Python blocks are run. A block that cannot run here has
`<!-- not run: reason -->` above it, and nothing else exempts it. `reasonkit` is the installed script, started warm.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.micro import finished_run
from tests.warm_start import warm_python

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?P<note>(?:<!--[^\n]*-->\n)*)^```(?P<language>bash|python|yaml)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FILE_COMMENT = re.compile(r"# (?P<name>[\w./-]+\.(?:yaml|py|jsonl))\n")


@dataclass(frozen=True)
class Block:
    language: str
    body: str
    reason: str
    """Why it is not run; empty where it is."""


def blocks(page: Path) -> Iterator[Block]:
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        note = re.search(r"<!-- not run: (.+) -->", match["note"] or "")
        yield Block(match["language"], match["body"], note[1] if note else "")


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if not block.reason and block.language in ("bash", "python")]


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.stem)
def test_every_block_of_the_page_runs(
    page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shutil.copytree(finished_run(tmp_path_factory), tmp_path / "runs" / "tiny")
    installed = Path(sys.executable).parent
    script = str(installed / "reasonkit")
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / '.bin'}:{installed}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "REASONKIT_DATA": str(tmp_path / "data"),
    }
    python = warm_python(environment)
    (tmp_path / ".bin").mkdir()
    (tmp_path / ".bin/reasonkit").write_text(f'#!/bin/sh\nexec {shlex.join([*python, script])} "$@"\n')
    (tmp_path / ".bin/reasonkit").chmod(0o755)
    for block in blocks(page):
        named = FILE_COMMENT.match(block.body)
        if named and block.language != "bash":
            (tmp_path / named["name"]).write_text(block.body, encoding="utf-8")
        elif not block.reason and block.language != "yaml":
            language = ["bash", "-euo", "pipefail"] if block.language == "bash" else python
            done = subprocess.run(
                [*language, "-c", block.body],
                cwd=tmp_path,
                env=environment,
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=180,
            )
            assert done.returncode == 0, f"{block.body}\n{done.stdout}\n{done.stderr}"


def test_links_between_pages_lead_somewhere() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert missing == []
