"""Recipes: the only YAML reader. Preset < recipe files < environment < --set, one schema, no generated flags.

A recipe is a YAML file. `_base_` names what it builds on: a shipped recipe or fragment, a path
relative to the file, or a list of them, merged left to right; dictionaries merge deeply, lists and
scalars replace. Every value remembers where it came from, so that an error can name the file and line,
and `reasonkit show NAME --origins` can print it. The schema itself is recipe.py; nothing here knows what
the keys mean.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from reasonkit.errors import ConfigError, nearest
from reasonkit.recipe import Part, Recipe


class Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-6 for text, because it has no dot; nobody who writes it means text."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)

RECIPES = Path(__file__).parent / "recipes"
ENVIRONMENT_PREFIX = "REASONKIT__"

KeyPath = tuple[str, ...]

ON_RESUME = ("cluster", "train.token_budget", "train.save_memory", "checkpoint", "log")
"""What a run may be told anew when it is resumed: where it is computed, in how much memory, what is kept of it."""


@dataclass(slots=True)
class Tree:
    """Nested plain values, and for each key path where its value came from (`file:line`, `--set`, …)."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def merge(self, over: Tree) -> None:
        """Lay `over` on top of this tree."""
        _merge(self.values, over.values, ())
        self.origins.update(over.origins)

    def origin(self, path: KeyPath) -> str:
        """Where the value at `path` came from: its own origin, that of a key above it, or of one below."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        below = (origin for key, origin in self.origins.items() if key[: len(path)] == path)
        return next(below, "default")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A validated recipe, with each value's origin."""

    recipe: Recipe
    tree: Tree

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """(dotted key, value, origin) of every leaf of the recipe, defaults included."""
        yield from _leaves(self.recipe.model_dump(mode="json"), (), self.tree)


def resolve_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Resolved:
    """The recipe that a preset's name or a file's path means, with environment and `--set` laid over it."""
    tree = read_tree(locate(name_or_path, Path.cwd(), "recipe"))
    for variable, text in sorted(os.environ.items()):
        if variable.startswith(ENVIRONMENT_PREFIX):
            path = tuple(part.lower() for part in variable.removeprefix(ENVIRONMENT_PREFIX).split("__"))
            tree.merge(_single(path, text, f"environment {variable}"))
    for override in overrides:
        tree.merge(_overriding(override))
    return validate(tree, name_or_path)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A resolved recipe as a run folder keeps it: no environment applies any more, and few overrides do."""
    tree = read_tree(path)
    for override in overrides:
        over = _overriding(override)
        (changed,) = over.origins
        if not any(changed[: len(may)] == may for may in (tuple(key.split(".")) for key in ON_RESUME)):
            raise ConfigError(
                f"--set {override}: with another '{'.'.join(changed)}' it would be another run; a resumed one may "
                f"change {', '.join(ON_RESUME)}",
                f"reasonkit train {path} --set {override}",
            )
        tree.merge(over)
    return validate(tree, str(path)).recipe


def _overriding(override: str) -> Tree:
    """What one `--set` says."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(
            f"--set '{override}' is not of the form key=value", "for example --set train.steps=20"
        )
    return _single(tuple(key.strip().split(".")), text, f"--set {override}")


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that can be loaded again; keys at their default are left out."""
    return yaml.safe_dump(
        recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True, width=100
    )


def preset_names() -> list[str]:
    """Shipped recipes that are whole; fragments (in subfolders) are for `_base_` only."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def fragment_names() -> list[str]:
    return sorted(str(path.relative_to(RECIPES).with_suffix("")) for path in RECIPES.glob("*/*.yaml"))


def locate(name: str, folder: Path, what: str) -> Path:
    """The file that `name` means: a path (relative to `folder`), or a shipped recipe or fragment."""
    if name.endswith((".yaml", ".yml")):
        path = (folder / Path(name).expanduser()).resolve()
        if not path.is_file():
            raise ConfigError(f"{what} file '{name}' does not exist", "reasonkit list presets")
        return path
    shipped = RECIPES / f"{name}.yaml"
    if shipped.is_file() and shipped.resolve().is_relative_to(RECIPES.resolve()):
        return shipped
    known = preset_names() if what == "recipe" else preset_names() + fragment_names()
    raise ConfigError(
        f"unknown {what} '{name}': {nearest(name, known)}".rstrip(": "), "reasonkit list presets"
    )


def read_tree(path: Path, chain: tuple[Path, ...] = ()) -> Tree:
    """A recipe file with everything that its `_base_` names underneath it."""
    if path in chain:
        names = " -> ".join(link.name for link in (*chain[chain.index(path) :], path))
        raise ConfigError(f"_base_ forms a cycle: {names}", f"remove one of these links, say in {path}")
    tree = Tree()
    own = _parse(path)
    bases = own.values.pop("_base_", [])
    own.origins.pop(("_base_",), None)
    for base in [bases] if isinstance(bases, str) else bases:
        tree.merge(read_tree(locate(base, path.parent, "_base_"), (*chain, path)))
    tree.merge(own)
    return tree


def validate(tree: Tree, name: str) -> Resolved:
    try:
        return Resolved(Recipe.model_validate(tree.values), tree)
    except ValidationError as invalid:
        raise _explain(invalid, tree, name) from None


def _explain(invalid: ValidationError, tree: Tree, name: str) -> ConfigError:
    """All problems of a recipe at once, each with its key, its value and where that value was written."""
    lines: list[str] = []
    hint = f"reasonkit show {name} --origins"
    for error in invalid.errors():
        path = tuple(str(part) for part in error["loc"])
        key, where = ".".join(path) or "recipe", tree.origin(path)
        if error["type"] == "extra_forbidden":
            suggestion = nearest(path[-1], _fields_at(path[:-1]))
            lines.append(f"unknown key '{key}' ({where}): {suggestion}".rstrip(": "))
        elif error["type"] == "value_error":
            lines.append(f"{key}: {error['ctx']['error']}" + ("" if where == "default" else f" ({where})"))
        else:
            lines.append(f"{key} = {error['input']!r} ({where}): {error['msg'][0].lower()}{error['msg'][1:]}")
    return ConfigError("\n".join(lines), hint)


def _fields_at(path: KeyPath) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in path:
        if part not in model.model_fields:
            return []
        inner = _model_in(model.model_fields[part].annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The settings model inside an annotation such as `Model` or `Model | None`."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _single(path: KeyPath, text: str, origin: str) -> Tree:
    """A tree of one value given as text: read as YAML, but kept as text where the schema wants text."""
    value: Any = text
    if _annotation_at(path) is not str:
        try:
            value = yaml.load(text, Loader)
        except yaml.YAMLError:
            value = text
    nested: dict[str, Any] = {path[-1]: value}
    for part in reversed(path[:-1]):
        nested = {part: nested}
    return Tree(nested, {path: origin})


def _annotation_at(path: KeyPath) -> Any:
    """The type of the key at `path`; None where the schema has no such key."""
    fields = Recipe.model_fields
    for part in path[:-1]:
        inner = _model_in(fields[part].annotation) if part in fields else None
        if inner is None:
            return None
        fields = inner.model_fields
    return fields[path[-1]].annotation if path[-1] in fields else None


def _parse(path: Path) -> Tree:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable as YAML: {error}", "mend the file at that place") from None
    if root is None:
        return Tree()
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path} holds no mapping of keys to values", "reasonkit show tiny > my.yaml")
    tree = Tree()
    tree.values = _construct(root, (), path, tree.origins)
    return tree


def _construct(
    node: yaml.MappingNode, above: KeyPath, file: Path, origins: dict[KeyPath, str]
) -> dict[str, Any]:
    constructor = Loader("")
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(constructor.construct_object(key_node, deep=True))
        path, where = (*above, key), f"{file}:{key_node.start_mark.line + 1}"
        if key in values:
            raise ConfigError(
                f"key '{'.'.join(path)}' is written twice: {origins[path]} and {where}", "keep one"
            )
        origins[path] = where
        if isinstance(value_node, yaml.MappingNode):
            values[key] = _construct(value_node, path, file, origins)
        else:
            values[key] = constructor.construct_object(value_node, deep=True)
    return values


def _merge(under: dict[str, Any], over: Mapping[str, Any], above: KeyPath) -> None:
    for key, value in over.items():
        path, below = (*above, key), under.get(key)
        if not (isinstance(value, dict) and isinstance(below, dict)):
            under[key] = value
        elif below.keys() != value.keys() and _annotation_at(path) is Part:
            under[key] = value  # another part: the options of the first are none of its own
        else:
            _merge(below, value, path)


def _leaves(values: Mapping[str, Any], above: KeyPath, tree: Tree) -> Iterator[tuple[str, Any, str]]:
    for key, value in values.items():
        path = (*above, key)
        if isinstance(value, dict) and value:
            yield from _leaves(value, path, tree)
        else:
            yield ".".join(path), value, tree.origin(path) if _is_set(path, tree.values) else "default"


def _is_set(path: KeyPath, values: Any) -> bool:
    """Whether the tree gives a value at `path`, rather than only for a section that holds it."""
    for key in path:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True
