"""Where output goes: JSON and tables on stdout, everything else on stderr, decoration on terminals only."""

from __future__ import annotations

import json
import math
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from reasonkit.cli import output
from reasonkit.cli.runs import find_run, split_step
from reasonkit.errors import UsageError
from tests.synthetic_run import write_run

PRINT_TABLE = """
from reasonkit.cli.output import print_table, progress, say
print_table(("name", "about"), [("a", "first"), ("[b]", "second")])
with progress("working", 2) as advance:
    advance(1)
say("done")
"""


def on_a_terminal(script: str, **environment: str) -> str:
    """What the script writes to a terminal, which is all that it has."""
    ours, theirs = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=theirs,
        stderr=theirs,
        env={**clean, "TERM": "xterm", **environment},
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Linux says so when the last writer has gone
            break
        if not chunk:
            break
        written += chunk
    os.close(ours)
    assert process.wait() == 0
    return written.decode()


def test_json_is_one_document_and_nothing_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_json({"a": math.nan, "b": [1.5, math.inf], "path": Path("x/y"), "text": "ä"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": None, "b": [1.5, None], "path": "x/y", "text": "ä"}
    assert "ä" in out


def test_a_word_to_the_user_is_not_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("by the way")
    assert capsys.readouterr() == ("", "by the way\n")


def test_a_pipe_gets_aligned_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("name", "about"), [("long name", "x"), ("b", "")], title="things")
    assert capsys.readouterr().out == "things\nname       about\nlong name  x\nb\n"


def test_a_terminal_gets_a_drawn_table_and_a_bar() -> None:
    shown = on_a_terminal(PRINT_TABLE)
    assert "\x1b[" in shown
    assert "working" in shown
    assert "[b]" in shown, "text in brackets is text, not markup"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_none_gets_plain_lines(environment: dict[str, str]) -> None:
    shown = on_a_terminal(PRINT_TABLE, **environment)
    assert shown.splitlines() == ["name  about", "a     first", "[b]   second", "done"]


class TestRunNames:
    def test_a_path_or_a_name_in_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        write_run(tmp_path / "runs" / "mine", steps=1)
        assert find_run("mine").path == Path("runs/mine")
        assert find_run("runs/mine").path == Path("runs/mine")
        with pytest.raises(UsageError, match="there is no run 'mime'") as error:
            find_run("mime")
        assert error.value.hint == "did you mean 'mine'?"

    def test_a_step_after_the_at_sign(self) -> None:
        assert split_step("runs/mine@40") == ("runs/mine", 40)
        assert split_step("runs/mine") == ("runs/mine", None)
        with pytest.raises(UsageError, match="no step number"):
            split_step("runs/mine@last")
