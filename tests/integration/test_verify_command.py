"""`reasonkit verify`: JSONL in, JSONL out."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from reasonkit.cli.verify import ModeName, verify
from reasonkit.errors import PartlyDone, UsageError
from reasonkit.records import Record, to_row


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def write(path: Path, *items: object) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return str(path)


def test_one_reply_by_options(capsys: pytest.CaptureFixture[str]) -> None:
    verify(source="openai/gsm8k", answer="42", response="so\n#### 42")
    (verdict,) = lines(capsys)
    assert (verdict["status"], verdict["score"], verdict["answer"]) == ("correct", 1.0, "42")


def test_an_answer_may_be_json(capsys: pytest.CaptureFixture[str]) -> None:
    verify(verifier="list", answer='["a", "b"]', response="<answer>a, b</answer>")
    assert lines(capsys)[0]["status"] == "correct"


def test_a_file_of_all_three_shapes_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Record("r", "math", ({"role": "user", "content": "q"},), "4")
    path = write(
        tmp_path / "in.jsonl",
        {
            "record": {"uid": "a", "source": "math", "answer": "4"},
            "response": r"\boxed{\binom{10000000}{5000000}}",
        },
        {**to_row(record), "response": r"\boxed{2+2}"},
        {"uid": "c", "source": "openai/gsm8k", "answer": "4", "response": ""},
        {"uid": "d", "verifier": "exact", "answer": "4", "response": "5"},
    )
    verify(path)
    assert [(line["uid"], line["status"]) for line in lines(capsys)] == [
        ("a", "timeout"),
        ("r", "correct"),
        ("c", "no_answer"),
        ("d", "wrong"),
    ]


def test_standard_input_and_another_verifier(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    item = {"source": "math", "answer": "B", "response": "Answer: B"}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(item) + "\n\n"))
    verify(verifier="choice")
    assert lines(capsys)[0]["status"] == "correct"


def test_the_mode_changes_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    for mode in ModeName:
        verify(source="math", answer="0.5", response=r"\boxed{50}", mode=mode)
    assert [line["status"] for line in lines(capsys)] == ["wrong", "correct"]


def test_verdicts_that_are_errors_end_in_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        tmp_path / "in.jsonl",
        {"source": "openai/gsm8k", "answer": "none", "response": "#### 4"},
        {"source": "openai/gsm8k", "answer": "4", "response": "#### 4"},
    )
    with pytest.raises(PartlyDone, match="1 of the verdicts") as caught:
        verify(path)
    assert caught.value.exit_code == 3
    assert [line["status"] for line in lines(capsys)] == ["error", "correct"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: this is not JSON"),
        ("[]", "line 2: there is no text under 'response'"),
        ('{"response": 5}', "line 2: there is no text under 'response'"),
        ('{"response": "x", "source": "math"}', "line 2: a record needs 'answer'"),
        ('{"response": "x", "record": 5}', "line 2: 'record' is not an object"),
        ('{"response": "x", "source": "mathe", "answer": 1}', None),
        ('{"response": "x", "source": "tabel", "answer": 1}', "line 2: no verifier is routed"),
        ('{"response": "x", "verifier": "maths", "answer": 1}', "line 2: unknown verifier 'maths'"),
    ],
)
def test_an_unusable_line_is_named(tmp_path: Path, line: str, message: str | None) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"verifier": "exact", "answer": "x", "response": "x"}\n' + line + "\n", encoding="utf-8")
    if message is None:
        verify(str(path))
    else:
        with pytest.raises(UsageError, match=message):
            verify(str(path))


@pytest.mark.parametrize(
    "options",
    [{"file": "missing.jsonl"}, {"response": "x"}, {"response": "x", "answer": "1"}, {"source": "math"}],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        verify(**options)
