"""Unified diffs, read and applied in memory: what a model's patch makes of a repository's files.

As `git apply` does, a hunk must match the file to the letter, at the line that it names or at the nearest other
place where it fits; counts in hunk headers, which models get wrong, are not relied upon. Paths stay inside the
repository. Nothing is run and no file of this machine is touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

MAX_CHARACTERS = 1_000_000
MAX_HUNKS = 500
_HUNK = re.compile(r"@@ -(\d{1,9})(?:,\d{1,9})? \+\d{1,9}(?:,\d{1,9})? @@")
_NOTHING = "/dev/null"
_NO_NEWLINE = "\\ No newline"


class BadPatch(ValueError):
    """The text is no patch, or does not fit the files; says where."""


@dataclass
class Hunk:
    line: int
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    unended: bool = False
    """The new text's last line has no newline."""


@dataclass
class FilePatch:
    old: str | None
    new: str | None
    hunks: list[Hunk] = field(default_factory=list)


def read_patch(text: str) -> list[FilePatch]:
    """The changes of each file, in order."""
    if len(text) > MAX_CHARACTERS:
        raise BadPatch(f"it has {len(text)} characters, more than {MAX_CHARACTERS}")
    patches: list[FilePatch] = []
    old: str | None = None
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        current = patches[-1] if patches else None
        if line.startswith("diff --git "):
            names = re.fullmatch(r"diff --git a/(.+) b/(.+)", line)
            patches.append(FilePatch(names[1] if names else None, names[2] if names else None))
        elif line.startswith(("GIT binary patch", "Binary files ")):
            raise BadPatch(f"line {number}: binary changes cannot be applied")
        elif line.startswith("rename from ") and current:
            current.old = line.removeprefix("rename from ")
        elif line.startswith("rename to ") and current:
            current.new = line.removeprefix("rename to ")
        elif line.startswith("deleted file mode") and current:
            current.new = None
        elif line.startswith("new file mode") and current:
            current.old = None
        elif line.startswith("--- ") and not _within(current, lines[number : number + 2]):
            old = _name(line)
        elif line.startswith("+++ ") and not (current and current.hunks and old is None):
            if current is None or current.hunks:
                patches.append(current := FilePatch(None, None))
            current.old, current.new, old = old or None, _name(line) or None, None
        elif found := _HUNK.match(line):
            if current is None:
                raise BadPatch(f"line {number}: a hunk before any file is named")
            current.hunks.append(Hunk(int(found[1])))
        elif current and current.hunks:
            _add(current.hunks[-1], line, lines[number - 2])
    if not any(patch.hunks or patch.old != patch.new for patch in patches):
        raise BadPatch("it changes no file")
    if sum(len(patch.hunks) for patch in patches) > MAX_HUNKS:
        raise BadPatch(f"it has more than {MAX_HUNKS} hunks")
    return patches


def _within(current: FilePatch | None, following: list[str]) -> bool:
    """Whether a line that begins with `--- ` is one that a hunk removes. A file's header has two lines more."""
    header = len(following) == 2 and following[0].startswith("+++ ") and _HUNK.match(following[1])
    return current is not None and bool(current.hunks) and not header


def _name(line: str) -> str:
    """The path of a `---` or `+++` line; empty for /dev/null."""
    name = line[4:].split("\t")[0].strip().strip('"')
    if name == _NOTHING:
        return ""
    return name[2:] if name[:2] in ("a/", "b/") else name


def _add(hunk: Hunk, line: str, previous: str) -> None:
    if line.startswith("+"):
        hunk.after.append(line[1:])
        hunk.unended = False
    elif line.startswith("-"):
        hunk.before.append(line[1:])
    elif line.startswith(_NO_NEWLINE):
        hunk.unended = previous[:1] in ("+", " ")
    elif line.startswith(" ") or not line:  # editors strip the blank of an empty line
        hunk.before.append(line[1:])
        hunk.after.append(line[1:])


def apply_patch(text: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The repository after the patch. Files that it does not name are the same."""
    result = dict(files)
    for patch in read_patch(text):
        for name in (patch.old, patch.new):
            _check_path(name)
        if patch.old is None and patch.new is None:
            raise BadPatch("a change of no file")
        if patch.old is None:
            if patch.new in result:
                raise BadPatch(f"{patch.new} exists already")
            original = ""
        else:
            if patch.old not in result:
                raise BadPatch(f"there is no file {patch.old}")
            original = _text(patch.old, result.pop(patch.old))
        changed = _applied(patch, original)
        if patch.new is not None:
            result[patch.new] = changed.encode("utf-8", "surrogateescape")
        elif changed.strip():
            raise BadPatch(f"{patch.old} is deleted, but not all of its lines are")
    return result


def _check_path(name: str | None) -> None:
    if name is None:
        return
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0] == ".git" or "\0" in name:
        raise BadPatch(f"{name!r:.100} is not a path in the repository")


def _text(name: str, content: bytes) -> str:
    if b"\0" in content:
        raise BadPatch(f"{name} is a binary file")
    return content.decode("utf-8", "surrogateescape")


def _applied(patch: FilePatch, original: str) -> str:
    lines = original.split("\n")
    ended = lines[-1] == ""
    if ended:
        lines.pop()
    shift = 0
    for hunk in patch.hunks:
        wanted = hunk.line - 1 + shift if hunk.before else hunk.line + shift
        at = _place(lines, hunk.before, max(0, wanted))
        while at is None and hunk.before[-1:] == [""] == hunk.after[-1:]:  # a blank line behind the hunk
            hunk.before.pop(), hunk.after.pop()
            at = _place(lines, hunk.before, max(0, wanted))
        if at is None:
            raise BadPatch(f"a hunk at line {hunk.line} of {patch.old or patch.new} does not fit")
        if at + len(hunk.before) == len(lines):
            ended = not hunk.unended
        lines[at : at + len(hunk.before)] = hunk.after
        shift = at - wanted + shift + len(hunk.after) - len(hunk.before)
    return "\n".join(lines) + ("\n" if ended and lines else "")


def _place(lines: list[str], before: list[str], wanted: int) -> int | None:
    """The line where `before` stands, nearest to `wanted`. Linear: text search, forwards and backwards."""
    if lines[wanted : wanted + len(before)] == before:
        return min(wanted, len(lines))
    if not before:
        return len(lines)
    text = "\n" + "\n".join(lines) + "\n"
    needle = "\n" + "\n".join(before) + "\n"
    from_here = sum(len(line) + 1 for line in lines[:wanted])
    after = text.find(needle, from_here)
    length = len(text)
    behind = text[::-1].find(needle[::-1], max(0, length - from_here - len(needle)))
    found = [
        position
        for position in (after, length - behind - len(needle) if behind >= 0 else -1)
        if position >= 0
    ]
    if not found:
        return None
    nearest = min(found, key=lambda position: abs(position - from_here))
    return text.count("\n", 0, nearest)
