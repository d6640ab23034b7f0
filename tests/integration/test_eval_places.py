"""Evaluation and filtering by engines in processes of their own, on Ray: the same samples, whoever draws them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from reasonkit.cli.app import build_app
from reasonkit.cli.eval import evaluate
from reasonkit.data.evaluation_sets import open_task
from reasonkit.data.files import write_records
from reasonkit.evaluate.folder import EvaluationDir
from reasonkit.evaluate.results import read_results
from reasonkit.evaluate.run import Nobody, Options
from reasonkit.evaluate.run import evaluate as carry_out
from reasonkit.evaluate.samples import Sample, read_samples
from reasonkit.evaluate.work import Pair, TaskPlan
from reasonkit.models import find_model
from reasonkit.placement import Places, placed
from reasonkit.tasks import expand
from tests.eval_models import write_tasks
from tests.tiny_models import save_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path / "data"))
    for number, name in enumerate(("a", "b", "c")):
        save_tiny_model(tmp_path / name, "llama", seed=number, context=2048)
    write_tasks(tmp_path)
    return tmp_path


def replies(folder: Path) -> dict[str, dict[str, Sample]]:
    """By model and task what was said, without how long it took."""
    found = {}
    for file in sorted(folder.rglob("samples.jsonl")):
        samples = read_samples(file.parent)
        found[str(file.parent.relative_to(folder))] = {
            key: replace(sample, seconds=0.0) for key, sample in samples.items()
        }
    return found


def engine_processes() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [
        each
        for each in children
        if each.cmdline()[:1] == ["ray::WaitingHost"] or "WaitingHost" in each.name()
    ]


def test_three_models_over_two_engines_give_what_one_process_gives(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of them at a time; a fourth is behind no place at all. The dry run says where."""

    def run(out: str, engines: int | None, *models: str, dry_run: bool = False) -> None:
        evaluate(
            ["sums.yaml", "words.yaml:3"], model=list(models), out=Path(out), limit=8, max_tokens=12,
            engines=engines, dry_run=dry_run, json_=True,
        )  # fmt: skip

    run("one", None, "a", "b", "c")
    run("two", 2, "a", "b", "c")
    assert replies(here / "two") == replies(here / "one")
    assert read_results(here / "two") == read_results(here / "one")
    assert sorted(path.name for path in (here / "two/logs").iterdir()) == ["engine-0.log", "engine-1.log"]
    assert engine_processes() == []
    capsys.readouterr()
    run("three", 2, "a", dry_run=True)
    [first, *_] = json.loads(capsys.readouterr().out)
    assert first["placement"] == "2 engines, each transformers on CPU, 512 at once"
    logs = {path: path.stat().st_mtime_ns for path in (here / "two/logs").iterdir()}
    run("two", 2, "a", "b", "c")
    assert {path: path.stat().st_mtime_ns for path in logs} == logs, (
        "nothing is missing, so nothing is started"
    )


class Killer(Nobody):
    """Kills an engine's process when so many samples are there."""

    def __init__(self, after: int) -> None:
        self.killed: list[int] = []
        self._left = after

    def sampled(self, pair: Pair, sample: Sample) -> None:
        assert sample.failure is None
        self._left -= 1
        if self._left == 0:
            victim = engine_processes()[0]
            self.killed.append(victim.pid)
            victim.kill()


def test_an_engine_that_is_killed_loses_nothing(here: Path) -> None:
    """One model on two engines: what the dead one was asked is asked again, of whichever is there."""
    [ref] = expand(["words.yaml"])
    plan = TaskPlan(ref.task, open_task(ref, seed=0), 4, replace(ref.task.sampled_as(), max_tokens=60))
    [found] = Places(2, actors=True).share([find_model("a")])
    assert found.engines == 2

    def run(out: str, watcher: Nobody, places: Places) -> None:
        folder = EvaluationDir(here / out)
        folder.claim({found.label: found.identity}, {})
        with placed(places, folder.logs) as opener:
            options = Options(concurrency=8)
            done = asyncio.run(carry_out([found], [plan], folder, options, watcher, opener))
        assert done.stopped == []

    killer = Killer(after=10)
    run("killed", killer, Places(2, actors=True))
    assert len(killer.killed) == 1
    run("undisturbed", Nobody(), Places())
    assert replies(here / "killed") == replies(here / "undisturbed")
    lines = (here / "killed/a/words/samples.jsonl").read_text().splitlines()
    assert len(lines) == plan.samples, "nothing twice, nothing lost"


def test_filter_samples_with_two_engines(here: Path) -> None:
    write_records(open_task(expand(["words.yaml"])[0], seed=0), here / "train.parquet")

    def run(work: str, *more: str) -> None:
        command = [
            "filter",
            "train.parquet",
            "-m",
            "weak=a",
            "-m",
            "strong=b",
            "--n",
            "2",
            "--max-tokens",
            "12",
        ]
        build_app(["filter"])(
            [*command, "--low", "0", "--work", work, "--out", f"{work}.parquet", *more], standalone_mode=False
        )

    run("one")
    run("two", "--engines", "2")
    assert sorted(replies(here / "two")) == ["strong/strong/filter", "weak/weak/filter"]
    assert replies(here / "two") == replies(here / "one")
    assert (here / "two.parquet").read_bytes() == (here / "one.parquet").read_bytes()
