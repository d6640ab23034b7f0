"""Unified diffs: what difflib and git write is applied; what does not fit, or leaves the repository, is refused."""

from __future__ import annotations

import contextlib
import difflib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonkit.verifiers.patches import BadPatch, apply_patch, read_patch

LINES = st.lists(st.sampled_from(["a", "b", "", "-- c", "++ d", "@@ e", " f", "diff", "x" * 9]), max_size=14)
FILE = b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n"
CHANGE = "--- a/f\n+++ b/f\n@@ -2,3 +2,3 @@\n two\n-three\n+THREE\n four\n"


def written(lines: list[str], *, ended: bool = True) -> bytes:
    return ("\n".join(lines) + ("\n" if ended and lines else "")).encode()


@settings(max_examples=300)
@given(LINES, LINES)
def test_what_difflib_writes_is_applied(before: list[str], after: list[str]) -> None:
    diff = list(difflib.unified_diff(before, after, "a/f", "b/f", lineterm=""))
    if diff and before and after:
        assert apply_patch("\n".join(diff) + "\n", {"f": written(before)}) == {"f": written(after)}


@pytest.mark.parametrize("seed", range(4))
def test_what_git_writes_is_applied(tmp_path: Path, seed: int) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    import random

    rng = random.Random(seed)
    sides: list[dict[str, bytes]] = [{}, {}]
    for name in ("a.txt", "dir/b.txt", "c.txt", "d.txt"):
        lines = [rng.choice("abc") for _ in range(rng.randint(1, 30))]
        changed = [line for line in lines if rng.random() > 0.2] + [rng.choice("xyz")]
        ended = rng.random() > 0.3
        if name != "c.txt":
            sides[0][name] = written(lines, ended=rng.random() > 0.3)
        if name != "d.txt":
            sides[1][name] = written(changed, ended=ended)
    for folder, files in zip(("old", "new"), sides, strict=True):
        for name, content in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    command = ["git", "diff", "--no-index", "--no-color", "old", "new"]
    diff = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    diff = (
        diff.replace("a/old/", "a/").replace("b/new/", "b/").replace("a/new/", "a/").replace("b/old/", "b/")
    )
    assert apply_patch(diff, sides[0]) == sides[1]


@pytest.mark.parametrize("line", [1, 2, 40, 999])
def test_a_hunk_goes_to_the_nearest_place_where_it_fits(line: int) -> None:
    assert b"THREE" in apply_patch(CHANGE.replace("-2,3", f"-{line},3"), {"f": FILE})["f"]
    twice = FILE * 2
    patched = apply_patch(CHANGE.replace("-2,3", f"-{line},3"), {"f": twice})["f"]
    assert patched.index(b"THREE") < 14 if line <= 2 else patched.index(b"THREE") > 20


@pytest.mark.parametrize("counts", ["-2,3 +2,3", "-2 +2", "-2,99 +2,1"])
def test_counts_in_headers_do_not_matter(counts: str) -> None:
    assert b"THREE" in apply_patch(CHANGE.replace("-2,3 +2,3", counts), {"f": FILE})["f"]


def test_files_are_made_removed_and_renamed() -> None:
    new = "diff --git a/n b/n\nnew file mode 100644\n--- /dev/null\n+++ b/n\n@@ -0,0 +1,2 @@\n+x\n+y\n"
    assert apply_patch(new, {"f": FILE}) == {"f": FILE, "n": b"x\ny\n"}
    gone = "--- a/n\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-x\n-y\n"
    assert apply_patch(gone, {"f": FILE, "n": b"x\ny\n"}) == {"f": FILE}
    moved = "diff --git a/f b/g\nsimilarity index 100%\nrename from f\nrename to g\n"
    assert apply_patch(moved, {"f": FILE}) == {"g": FILE}


BAD = {
    "no patch": "hello",
    "empty": "",
    "does not fit": CHANGE.replace(" two", " zwei"),
    "no such file": CHANGE.replace("/f", "/g"),
    "exists already": CHANGE.replace("a/f", "/dev/null").replace("--- /dev/null", "--- /dev/null"),
    "outside": CHANGE.replace("/f", "/../../etc/passwd"),
    "absolute": CHANGE.replace("a/f", "/etc/passwd").replace("b/f", "/etc/passwd"),
    "version control": CHANGE.replace("/f", "/.git/hooks/pre-commit"),
    "binary": "diff --git a/f b/f\nGIT binary patch\nliteral 3\n",
    "hunk without a file": "@@ -1 +1 @@\n-one\n+two\n",
    "deletes in part": CHANGE.replace("+++ b/f", "+++ /dev/null"),
    "too large": CHANGE + "+x\n" * 600_000,
    "too many hunks": "--- a/f\n+++ b/f\n" + "@@ -1 +1 @@\n one\n" * 600,
    "NUL": CHANGE.replace("/f", "/f\0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_with_the_place(name: str) -> None:
    with pytest.raises(BadPatch):
        apply_patch(BAD[name], {"f": FILE})


@settings(max_examples=200)
@given(st.text(st.sampled_from(list("+- @\n/abf0123,dev")), max_size=200))
def test_any_text_is_a_patch_or_a_bad_one(text: str) -> None:
    for start in ("", "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n"):
        with contextlib.suppress(BadPatch):
            apply_patch(start + text, {"f": FILE})


@pytest.mark.timeout(20)
def test_hostile_hunks_are_placed_in_linear_time() -> None:
    files = {"f": b"x\n" * 200_000}
    hunk = "@@ -1 +1 @@\n" + " x\n" * 2_000 + " y\n"
    with pytest.raises(BadPatch, match="does not fit"):
        apply_patch("--- a/f\n+++ b/f\n" + hunk * 100, files)
    assert len(read_patch("--- a/f\n+++ b/f\n" + hunk * 100)[0].hunks) == 100
