"""Every failure that reasonkit expects, so that the command line can end with one clear message.

    ReasonkitError            exit 1   a known failure: what happened, why, and the command that mends it
    ├── UsageError            exit 2   a name, flag or value that cannot be right
    │   └── ConfigError       exit 2   the same in a recipe; knows the file and line
    ├── MissingExtra          exit 1   an optional package is not installed
    ├── Broken                exit 1   a part of the program is of no use any more; another one may be
    ├── PartlyDone            exit 3   some samples failed; everything that succeeded is on disk
    └── Stopped               exit 128 + signal, after a checkpoint

Anything else that escapes is a bug and keeps its traceback. No cleverness here: an error carries
its message, a hint (the next thing to type) and an exit code; only the command line prints them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ReasonkitError(Exception):
    """A known failure. `hint` is the next command to type, or the change to make."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Between processes it travels as it is, whatever it was made of."""
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(kind: type[ReasonkitError], arguments: tuple[object, ...]) -> ReasonkitError:
    return kind.__new__(kind, *arguments)


class UsageError(ReasonkitError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class MissingExtra(ReasonkitError):
    """`extra` of reasonkit is needed for `purpose` but not installed."""

    def __init__(self, extra: str, purpose: str) -> None:
        spec = f'"reasonkit[{extra}]"'
        hint = f"pip install {spec}   or   pipx install --force {spec}   or   uv tool install --force {spec}"
        super().__init__(f"{purpose} needs the extra '{extra}', which is not installed", hint)


class Broken(ReasonkitError):
    """What was asked is of no use any more, whatever it is asked. Who started it may start another one."""


class PartlyDone(ReasonkitError):
    exit_code = 3


class Stopped(ReasonkitError):
    """A signal ended the work after what was finished had been saved."""

    def __init__(self, signum: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signum


def nearest(name: str, known: Iterable[str]) -> str:
    """The words to append to an unknown-name error: the nearest known name, or all of a short list."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    if len(names) <= 12:
        return f"known: {', '.join(names)}"
    return ""
