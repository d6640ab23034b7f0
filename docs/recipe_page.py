"""Writes docs/reference/recipe.md from the schema, so that the page and the code cannot differ.

python docs/recipe_page.py           # write it
python docs/recipe_page.py --check   # exit 1 if it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from reasonkit.recipe import Part, Recipe

PAGE = Path(__file__).parent / "reference" / "recipe.md"

HEAD = """# Recipe keys

A recipe is a YAML file; unknown keys are errors. `reasonkit show tiny` prints a whole one, with `--origins` where
each value comes from. Precedence: `_base_` files, the file itself, `REASONKIT__SECTION__KEY` in the environment,
`--set section.key=value`. This page is written from the schema by `docs/recipe_page.py`.
"""


def section_in(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *get_args(annotation)]
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)


def shown(default: Any) -> Any:
    return default.name if isinstance(default, Part) else default


def table(model: type[BaseModel]) -> list[str]:
    rows = ["| key | default | what it does |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if section_in(field.annotation) and field.is_required():
            default = "required"
        elif section_in(field.annotation):
            default = "see below" if field.default is not None else "`null`"
        else:
            default = "required" if field.is_required() else f"`{shown(field.get_default())}`"
        words = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {words} |")
    return rows


def page() -> str:
    lines = [HEAD, *table(Recipe)]
    pending = [(name, section_in(field.annotation)) for name, field in Recipe.model_fields.items()]
    seen: set[type[BaseModel]] = set()
    while pending:
        name, model = pending.pop(0)
        if model is None or model in seen:
            continue
        seen.add(model)
        lines += ["", f"## {name}", "", *table(model)]
        pending[:0] = [
            (f"{name}.{key}", section_in(each.annotation)) for key, each in model.model_fields.items()
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit("docs/reference/recipe.md is out of date: python docs/recipe_page.py")
