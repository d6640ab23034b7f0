"""`reasonkit filter` on real models: a band, killed and run again, more samples, other bounds, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reasonkit.cli.app import build_app
from reasonkit.data.files import read_records, write_records
from reasonkit.errors import ReasonkitError
from reasonkit.records import Record
from tests.micro import reasonkit
from tests.tiny_models import save_tiny_model

VERIFIER = '''\
"""Right where the reply holds a character: random models do that now and then."""

from reasonkit.records import Verdict


def holds(record, text):
    if "broken" in record.metadata:
        raise RuntimeError("this gold answer cannot be compared")
    return Verdict.correct(record.answer) if record.answer in text else Verdict.wrong(text[:20], "it is not there")
'''
LETTERS = "abcdefghijkl"
COMMON = ("--n", "4", "--max-tokens", "20", "--top-p", "1", "--top-k", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filter")
    save_tiny_model(folder / "small", seed=1)
    save_tiny_model(folder / "large", seed=2)
    (folder / "marks.py").write_text(VERIFIER)
    write_records(
        [
            Record(
                letter,
                "ab"[place % 2],
                ({"role": "user", "content": f"Say {letter}"},),
                letter,
                "marks:holds",
            )
            for place, letter in enumerate(LETTERS)
        ],
        folder / "train.parquet",
    )
    return folder


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process, which has torch loaded already."""
    monkeypatch.chdir(folder)

    def run(*arguments: str, file: str = "train.parquet", code: int = 0) -> Done:
        capsys.readouterr()
        try:
            build_app(["filter"])(["filter", file, *arguments], standalone_mode=False)
            ended, words = 0, ""
        except ReasonkitError as error:
            ended, words = error.exit_code, f"{error.message}\n{error.hint}"
        printed = capsys.readouterr()
        done = Done(ended, printed.out, printed.err + words)
        assert done.code == code, done.stderr
        return done

    return run


def both(*arguments: str) -> tuple[str, ...]:
    return ("-m", "weak=small", "-m", "strong=hf:./large", *COMMON, *arguments)


def samples(folder: Path, label: str) -> list[dict[str, Any]]:
    path = folder / label / label / "filter" / "samples.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def test_two_models_bound_a_band(folder: Path, run: Run) -> None:
    done = run(*both("--json"))
    result = json.loads(done.stdout)
    kept = list(read_records(folder / "train.filtered.parquet"))
    rejected = [
        json.loads(line) for line in (folder / "train.filtered.rejected.jsonl").read_text().splitlines()
    ]
    assert (len(kept), len(kept) + len(rejected)) == (result["kept"], len(LETTERS))
    for record in kept:
        rates = record.metadata["pass_rates"]
        assert rates["strong"]["rate"] > 1e-5
        assert rates["weak"]["rate"] < 0.9
        assert rates["weak"]["samples"] == 4
    assert {row["reason"] for row in rejected} <= {"too hard", "too easy"}
    assert sum(result["rates"]["weak"].values()) == len(LETTERS)
    assert all(Path(folder / picture).stat().st_size > 1000 for picture in result["pictures"])
    shown = [json.loads(line) for line in (folder / "train.filter" / "rates.jsonl").read_text().splitlines()]
    assert {(line["data_source"], line["uid"]) for line in shown} == {
        ("ab"[place % 2], letter) for place, letter in enumerate(LETTERS)
    }
    # Other bounds, caps and sizes need no more sampling, and with --rates no model.
    again = run("--rates", "train.filter/rates.jsonl", "--out", "again.parquet", "--json")
    assert json.loads(again.stdout)["dropped"] == result["dropped"]
    assert (folder / "again.parquet").read_bytes() == (folder / "train.filtered.parquet").read_bytes()
    before = samples(folder / "train.filter", "weak")
    capped = run(*both("--cap", "1", "--low", "0", "--out", "capped.parquet"))
    assert samples(folder / "train.filter", "weak") == before
    assert "over the cap of its source" in capped.stdout
    assert {record.source for record in read_records(folder / "capped.parquet")} <= {"a", "b"}


@pytest.mark.slow
def test_killed_and_run_again_it_comes_to_the_same(folder: Path) -> None:
    whole = reasonkit(folder, "filter", "train.parquet", *both("--work", "whole", "--out", "whole.parquet"))
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", "reasonkit", "filter", "train.parquet"]
    command += [*both("--work", "killed", "--out", "killed.parquet", "--concurrency", "4")]
    written = folder / "killed" / "weak" / "weak" / "filter" / "samples.jsonl"
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not written.exists() or written.read_bytes().count(b"\n") < 10:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finished = samples(folder / "killed", "weak")
    assert 10 <= len(finished) < 4 * len(LETTERS)
    again = reasonkit(folder, "filter", "train.parquet", *both("--work", "killed", "--out", "killed.parquet"))
    assert again.returncode == 0, again.stderr
    assert samples(folder / "killed", "weak")[: len(finished)] == finished
    assert len(samples(folder / "killed", "weak")) == 4 * len(LETTERS)
    assert again.stdout == whole.stdout
    for name in ("killed.parquet", "killed.rejected.jsonl", "killed/rates.jsonl"):
        assert (folder / name).read_bytes() == (folder / name.replace("killed", "whole")).read_bytes()


def test_more_samples_are_added_to_those_there_are(folder: Path, run: Run) -> None:
    one = ("-m", "small", "--max-tokens", "20", "--work", "more", "--out", "more.parquet", "--low", "0")
    run(*one, "--n", "1")
    first = samples(folder / "more", "small")
    run(*one, "--n", "2")
    assert samples(folder / "more", "small")[: len(first)] == first
    assert len(samples(folder / "more", "small")) == 2 * len(first)


def test_a_record_whose_grader_fails_is_dropped_and_the_run_is_partly_done(folder: Path, run: Run) -> None:
    records = list(read_records(folder / "train.parquet"))[:2]
    broken = Record(
        "broken",
        "a",
        ({"role": "user", "content": "?"},),
        "a",
        "marks:holds",
        {"broken": 1},
    )
    write_records([*records, broken], folder / "broken.parquet")
    done = run("-m", "small", *COMMON, "--low", "0", file="broken.parquet", code=3)
    assert "1 records have samples without a verdict" in done.stderr
    (row,) = (
        json.loads(line)
        for line in (folder / "broken.filtered.rejected.jsonl").read_text().splitlines()
        if "broken" in line
    )
    assert (row["reason"], row["detail"]) == ("samples without a verdict", "small: 4 of 4")


def test_a_dry_run_loads_no_model(folder: Path, run: Run) -> None:
    done = run(*both("--work", "dry", "--dry-run", "--max-tokens", "strong=50", "--json"))
    assert [(row["model"], row["missing"], row["most_tokens"]) for row in json.loads(done.stdout)] == [
        ("weak", 48, 48 * 20),
        ("strong", 48, 48 * 50),
    ]
    assert not (folder / "dry").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give models to sample (-m), or the rates of an earlier run"),
        (("-m", "small", "-m", "large"), "of several models (small, large) one must be called weak"),
        (("-m", "weak=small", "-m", "weak=large"), "two models are called the same"),
        (("-m", "nowhere"), "'nowhere' is no run, and no folder of that name exists"),
        (("-m", "small", "--low", "0.9", "--high", "0.1"), "leave no band of pass rates"),
        (("-m", "small", "--max-tokens", "large=5"), "--max-tokens names 'large', which is no model's label"),
        (("-m", "small", "--cap", "many"), "--cap 'many' is no number above 0"),
        (("--rates", "r.jsonl", "--max-prompt-tokens", "9"), "--max-prompt-tokens needs a tokenizer"),
    ],
)
def test_wrong_arguments(run: Run, arguments: tuple[str, ...], message: str) -> None:
    assert message in run(*arguments, code=2).stderr


def test_a_work_folder_of_another_model_is_refused(folder: Path, run: Run) -> None:
    run("-m", "m=small", *COMMON, "--n", "1", "--work", "own", "--out", "own.parquet", "--low", "0")
    done = run("-m", "m=large", *COMMON, "--work", "own", code=2)
    assert "holds samples of another model called 'm'" in done.stderr
    assert "--work FOLDER" in done.stderr
