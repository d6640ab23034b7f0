"""Writes docs/reference/sources.md from the sources' own settings, so that the page and the code cannot differ.

python docs/sources_page.py           # write it
python docs/sources_page.py --check   # exit 1 if it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from reasonkit.data.build import SOURCES, AnySource, source_named
from reasonkit.data.sources.reasoning_gym import task_names

PAGE = Path(__file__).parent / "reference" / "sources.md"

HEAD = """# Data sources

What `reasonkit data build NAME` takes, and `name:` under `data.train` of a recipe. Settings are given as
`--set key=value`, or under `options:` in a recipe; `reasonkit show NAME` prints them. This page is written from the
sources by `docs/sources_page.py`.

A mixture is written `knights=2,countdown,rg:gcd`; its settings are given as `--set SOURCE.key=value`.
"""

REASONING_GYM = """## rg:TASK

Every task of reasoning-gym, judged by the library's own scorer with guards. The task's own settings go under
`config`: `--set config.min_terms=3`. `rg:gcd=2,lcm` is a mixture.
"""


def table(source: AnySource) -> list[str]:
    rows = ["| setting | default | what it does |", "|---|---|---|"]
    for name, field in source.settings.model_fields.items():
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
        words = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {words} |")
    return rows


def page() -> str:
    lines = [HEAD]
    for name in sorted(SOURCES):
        source = source_named(name)
        lines += [f"## {name}", "", f"{source.about}.", "", *table(source), ""]
    lines += [REASONING_GYM, *table(source_named("rg:leg_counting")), "", "Tasks:"]
    lines += [", ".join(f"`{task}`" for task in task_names()) + "."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    written = page()
    if sys.argv[1:] == ["--check"]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != written:
            sys.exit(f"{PAGE} is out of date: python docs/sources_page.py")
    else:
        PAGE.write_text(written, encoding="utf-8")
