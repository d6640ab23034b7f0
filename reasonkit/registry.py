"""One way to turn a name into an object: literal tables `name -> "module:attribute"`, imported on look-up.

Tables keep `--help` fast (nothing is imported to list names) and make every name greppable. Wherever
a table is used, a user's own `package.module:attribute` is accepted too, from the current directory as well.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reasonkit.errors import ConfigError, UsageError, nearest


def load(target: str) -> Any:
    """The object that `module:attribute` names."""
    module_name, _, attribute = target.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name and not module_name.startswith(f"{error.name}."):
            raise  # the module exists; something that it imports does not
        raise UsageError(
            f"'{target}' names a module that cannot be imported: {error}",
            "write it as package.module:attribute, importable from the current directory",
        ) from error
    if attribute not in vars(module):
        raise UsageError(
            f"module '{module_name}' has no attribute '{attribute}'", nearest(attribute, vars(module))
        )
    return vars(module)[attribute]


def resolve(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """The object registered under `name`, or the one that a user's `module:attribute` names."""
    if name in table:
        return load(table[name])
    if ":" in name:
        return load(name)
    raise UsageError(f"unknown {kind} '{name}'", nearest(name, table))


def with_options(
    kind: str, name: str, table: Mapping[str, str], options: Mapping[str, Any]
) -> Callable[..., Any]:
    """What `name` stands for, with its options filled in."""
    return bind(kind, name, resolve(kind, name, table), options)


def bind(
    kind: str, name: str, function: Callable[..., Any], options: Mapping[str, Any]
) -> Callable[..., Any]:
    """`function` with its keyword-only arguments filled in; missing and unknown ones are errors."""
    parameters = inspect.signature(function).parameters.values()
    wanted = [parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    known = [option.name for option in wanted]
    missing = [
        option.name for option in wanted if option.default is option.empty and option.name not in options
    ]
    unknown = [option for option in options if option not in known]
    if missing or unknown:
        problem = f"needs {', '.join(missing)}" if missing else f"does not know {', '.join(unknown)}"
        raise ConfigError(
            f"{kind} '{name}' {problem}; its options are: {', '.join(known) or 'none'}",
            f"write {{{name}: {{{', '.join(f'{each}: …' for each in known)}}}}}",
        )
    return functools.partial(function, **options) if options else function
