"""Training data that holds evaluation items is found before it is trained on, and afterwards in the run."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasonkit.cli.data_clean import decontaminate
from reasonkit.data.contamination import leaks, leaks_of_run, tasks_here
from reasonkit.data.files import read_records, write_records
from reasonkit.records import Record
from reasonkit.rundir import RunDir
from tests.task_rows import reason_io

ITEM = (
    "Every morning Aya goes for a nine kilometre walk and stops at a coffee shop, which takes her four hours. "
    "How many minutes does the walk take her?"
)
OTHER = "There are exactly three positive real numbers k for which a function has a minimum of two. Find their sum."


def record(uid: str, question: str) -> Record:
    return Record(uid, "math", ({"role": "user", "content": question},), "204")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder in which AIME 2024 and ReasonIO were fetched, and nothing else."""
    home = tmp_path / "home"
    monkeypatch.setenv("REASONKIT_DATA", str(home))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    write_records(
        [record("i", ITEM), record("j", OTHER)],
        home / "guru-offline" / "math__aime_repeated_8x" / "test.parquet",
    )
    rows = [reason_io(kind, length) for length, kind in enumerate(("deductive", "abductive", "inductive"))]
    (home / "reason_io").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), home / "reason_io" / "test.parquet")
    return home


@pytest.fixture
def train(tmp_path: Path) -> Path:
    records = [
        record(
            "clean",
            "Which number is the sum of the first nine odd numbers that are no multiples of any square?",
        ),
        record("leak", f"Solve this. {ITEM.upper()} Give a whole number."),
    ]
    path = tmp_path / "train.parquet"
    write_records(records, path)
    return path


def test_only_what_is_on_this_machine_is_compared(home: Path) -> None:
    here = tasks_here()
    assert list(here) == ["aime24", "reason_io-deductive", "reason_io-abductive", "reason_io-inductive"]
    assert [item.uid for item in here["aime24"]] == ["i", "j"]


def test_a_copied_question_is_named_with_the_words_that_it_shares(home: Path, train: Path) -> None:
    (leak,) = leaks(read_records(train), tasks_here())
    assert (leak.task, leak.records) == ("aime24", 1)
    assert str(leak).startswith(
        "1 training records hold an item of aime24, for example leak holds i: every morning aya"
    )
    assert leaks(read_records(train), {"aime24": tasks_here()["aime24"][1:]}) == []
    assert leaks(read_records(train), {}) == []


def test_a_run_is_asked_what_it_was_fed(home: Path, train: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.recipe.write_text(f"name: x\nmodel: {{path: m}}\ndata: {{train: [{{name: '{train}'}}]}}\n")
    (leak,) = leaks_of_run(run, tasks_here())
    assert leak.task == "aime24"


def test_tasks_and_suites_are_kept_apart_by_name(
    home: Path, train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decontaminate(train, ["aime24:8", "reason_io"], offline=True, json_=True)
    (report,) = json.loads(capsys.readouterr().out)
    assert report["reasons"] == {"holds an item of aime24": 1}
    assert [each.uid for each in read_records(tmp_path / "train.clean.parquet")] == ["clean"]
