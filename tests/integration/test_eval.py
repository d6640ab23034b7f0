"""`reasonkit eval` end to end: real tiny models, killed and begun again, and everything that can be wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasonkit.cli.compare import compare
from reasonkit.cli.eval import GraderName, evaluate
from reasonkit.cli.report import report
from reasonkit.cli.rescore import rescore
from reasonkit.errors import PartlyDone, ReasonkitError, UsageError
from reasonkit.evaluate.results import read_results
from reasonkit.evaluate.samples import Sample, read_samples
from tests.chat_server import Refuse, serve_chat
from tests.eval_models import LOCAL_TASKS, serve_model, write_tasks
from tests.micro import reasonkit
from tests.synthetic_evaluation import write_evaluation
from tests.tiny_models import save_tiny_model
from tests.warm_start import warm_python


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("a", "b")):
        save_tiny_model(folder / name, "llama", seed=number, context=2048)
    return folder


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the two models and two tasks of a user's own, in which commands are run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path / "data"))
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(models / name)
    write_tasks(tmp_path)
    return tmp_path


def run(tasks: str, models: Sequence[str] = ("a",), **options: Any) -> None:
    given = {"model": list(models), "out": Path("out"), "max_tokens": 12, "json_": True} | options
    evaluate(tasks.split(), **given)


def replies(folder: Path) -> dict[str, Sample]:
    """What the model said, without how long it took."""
    return {key: replace(sample, seconds=0.0) for key, sample in read_samples(folder).items()}


def sampled(folder: Path) -> int:
    return len((folder / "samples.jsonl").read_text().splitlines())


def make_run(here: Path, *checkpoints: str, source: str = "") -> None:
    """A run called `mine` in ./runs, whose checkpoints are the models named."""
    folder = here / "runs" / "mine"
    for step, name in enumerate(checkpoints, start=1):
        shutil.copytree(here / name, folder / "checkpoints" / f"step_{step}")
    (folder / "run.json").write_text('{"state": "finished", "best": 1}')
    (folder / "recipe.yaml").write_text(
        "name: mine\nmodel: {path: a, context: 512}\nrollout: {max_tokens: 64}\n"
        f"data: {{train: [{source}]}}\n"
    )


class TestResults:
    def test_tasks_times_models_into_one_folder(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run("arithmetic_chain:2 sums.yaml words.yaml", ("a", "hf:b"), limit=6)
        printed = json.loads(capsys.readouterr().out)
        found = read_results(here / "out")
        assert [(each.model, each.task, each.n, each.k) for each in found] == [
            (model, *task) for model in ("a", "b")
            for task in (("arithmetic_chain", 6, 2), ("sums", 6, 1), ("words", 6, 2))
        ]  # fmt: skip
        assert all(each.complete for each in found)
        assert [row["score"] for row in printed["results"][0]["scores"].values()]
        assert set(printed["suites"]) == {"a", "b"}
        assert read_results(here / "out" / "a" / "sums" / "results.json") == [found[1]]
        assert found[2].scores["strict"].breakdown["operations"].keys() == {"1", "2"}
        assert (here / "out" / "report.html").exists()
        assert {"tasks.svg", "tasks.png", "summary.svg", "words-operations.svg"} <= {
            path.name for path in (here / "out" / "charts").iterdir()
        }
        about = json.loads((here / "out" / "evaluation.json").read_text())
        assert about["models"].keys() == {"a", "b"}
        assert about["packages"]["torch"]

    def test_more_samples_and_items_reuse_what_is_there(self, here: Path) -> None:
        pair = here / "out" / "a" / "arithmetic_chain"
        run("arithmetic_chain:1", limit=4)
        first = replies(pair)
        run("arithmetic_chain:3", limit=6)
        assert sampled(pair) == 18, "4 were there, 14 are new"
        assert {key: replies(pair)[key] for key in first} == first
        run("arithmetic_chain:3", limit=6, temperature=0.0)
        assert sampled(pair) == 36, "other sampling is another sample"
        run("arithmetic_chain:2", limit=5)
        assert sampled(pair) == 36
        assert [(each.n, each.k) for each in read_results(here / "out")] == [(5, 2)]

    def test_results_and_report_hold_all_that_the_folder_was_asked(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("sums.yaml", limit=3)
        run("arithmetic_chain", limit=2)
        capsys.readouterr()
        run("sums.yaml", ("a", "b"), limit=4)
        assert [(row["model"], row["task"]) for row in json.loads(capsys.readouterr().out)["results"]] == [
            ("a", "sums"), ("b", "sums"),
        ]  # fmt: skip
        held = [(each.model, each.task, each.n) for each in read_results(here / "out")]
        assert held == [("a", "sums", 4), ("a", "arithmetic_chain", 2), ("b", "sums", 4)]
        assert "arithmetic_chain" in (here / "out" / "report.html").read_text()
        compare(["out"], json_=True)
        assert [task["task"] for task in json.loads(capsys.readouterr().out)["tasks"]] == ["sums"]

    def test_only_the_items_named(self, here: Path) -> None:
        run("arithmetic_chain", limit=5)
        uids = [item["uid"] for item in read_results(here / "out")[0].items]
        run("arithmetic_chain", ids=f"{uids[3]},{uids[1]}", out=Path("two"))
        assert [item["uid"] for item in read_results(here / "two")[0].items] == [uids[1], uids[3]]
        with pytest.raises(UsageError, match=r"an item called nobody, no one$") as unknown:
            run("arithmetic_chain", ids=f"nobody,{uids[3]},no one", out=Path("three"))
        assert uids[0] in unknown.value.hint

    def test_a_dry_run_writes_and_loads_nothing(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run("arithmetic_chain:4 knights", ("a", "openai:m@http://127.0.0.1:1/v1"), limit=10, dry_run=True)
        rows = json.loads(capsys.readouterr().out)
        assert [(row["model"], row["task"], row["missing"]) for row in rows] == [
            (model, *task) for model in ("a", "m") for task in (("arithmetic_chain", 40), ("knights", 10))
        ]
        assert rows[0]["most_tokens"] == 40 * 12
        assert 0.2 < rows[0]["detectable"] < rows[1]["detectable"]
        assert not (here / "out").exists()

    def test_the_newest_runs_best_checkpoint_is_the_default(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_run(here, "a", "b")
        run("arithmetic_chain", (), limit=2)
        assert "runs/mine@1, the best checkpoint" in capsys.readouterr().err
        run("arithmetic_chain", ("runs/mine@2", "mine@1"), limit=2, out=Path("two"))
        assert [each.model for each in read_results(here / "two")] == ["mine@2", "mine@1"]
        by_hand = Path("b")
        run("arithmetic_chain", (str(by_hand),), limit=2, out=Path("three"))
        texts = [[s.text for s in replies(pair).values()] for pair in
                 (here / "two/mine@2/arithmetic_chain", here / "three/b/arithmetic_chain")]  # fmt: skip
        assert texts[0] == texts[1], "a checkpoint is its folder"

    def test_a_run_that_was_trained_on_the_items_is_told_of(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = "what is the sum of all whole numbers from one up to and including the number"
        (here / "seen.jsonl").write_text(
            "".join(f'{{"question": "{words} {n}?", "answer": "#### {n}"}}\n' for n in (10, 20, 30))
        )
        source = (
            f"{{name: {here / 'seen.jsonl'}, map: {{question: question, answer: answer}}, verifier: gsm8k}}"
        )
        (here / "seen.yaml").write_text(f"source: {source}\n")
        make_run(here, "a", source=source)
        run("seen.yaml", ("mine",), limit=2)
        assert "training records hold an item of seen" in capsys.readouterr().err
        run("sums.yaml", ("mine",), limit=2)
        assert "hold an item" not in capsys.readouterr().err

    def test_an_adapter_is_merged_into_its_base(self, here: Path) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        base = AutoModelForCausalLM.from_pretrained(here / "a")
        adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        adapted.peft_config["default"].base_model_name_or_path = str((here / "a").resolve())
        adapted.save_pretrained(here / "lora")
        AutoTokenizer.from_pretrained(here / "a").save_pretrained(here / "lora")
        adapted.merge_and_unload().save_pretrained(here / "merged")
        AutoTokenizer.from_pretrained(here / "a").save_pretrained(here / "merged")
        run("arithmetic_chain", ("lora", "merged", "a"), limit=3, temperature=0.0)
        said = [
            [sample.text for sample in replies(here / "out" / name / "arithmetic_chain").values()]
            for name in ("lora", "merged", "a")
        ]
        assert said[0] == said[1]
        assert said[0] != said[2]


class TestGraders:
    def test_another_grader_judges_old_replies_and_stands_beside(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        answers = {"3+4=?": "#### 7", "5+6=?": r"\boxed{11}", "0+1=?": "no"}
        with serve_chat(
            lambda body: next((a for q, a in answers.items() if q in body["messages"][-1]["content"]), "?")
        ) as server:
            run("sums.yaml", (f"openai:m@{server.url}",), limit=8)
            asked = len(server.seen)
            run("sums.yaml", (f"openai:m@{server.url}",), limit=8, grader=GraderName.REASONING360)
            assert len(server.seen) == asked == 8, "a grader asks no model"
        both = read_results(here / "out")[0].scores
        assert {mode: scores.score.mean for mode, scores in both.items()} == {
            "strict": 2 / 8,
            "reasoning360": 1 / 8,
        }, "the published grader saw no box"
        capsys.readouterr()
        rescore(Path("out"), grader=GraderName.STRICT, json_=True)
        again = json.loads(capsys.readouterr().out)
        assert again["results"][0]["grader"] == "strict"
        assert again["changed"] == {"m, sums": 0}
        assert again["results"][0]["scores"]["strict"]["score"]["mean"] == both["strict"].score.mean


class TestReadingResults:
    @pytest.fixture
    def evaluations(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        write_evaluation(tmp_path / "out", tasks=2, items=10)
        write_evaluation(tmp_path / "alone", models={"small": 0.3}, tasks=1, items=10)
        return tmp_path

    def test_compare_and_report_take_folders_and_files(
        self, evaluations: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        compare(["out"], json_=True)
        both = json.loads(capsys.readouterr().out)
        assert (both["a"], both["b"], len(both["tasks"])) == ("small", "large", 2)
        compare(["out/large/task0/results.json", "alone"], json_=True)
        assert len(json.loads(capsys.readouterr().out)["tasks"]) == 1
        report(["out"], title="Two", rename=["small=first"], output=evaluations / "two.html", json_=True)
        page = (evaluations / "two.html").read_text()
        assert "<h1>Two</h1>" in page
        assert "large against first" in page
        report(["alone/results.json", "out/large/task1/results.json"], output=evaluations / "picture.svg")
        assert (evaluations / "picture.svg").read_text().startswith("<?xml")
        rescore(Path("alone"), grader=GraderName.REASONING360)
        report(["alone", "out"], output=evaluations / "three.html")
        page = (evaluations / "three.html").read_text()
        assert "small (alone)" in page, "two models of one name are told apart"
        assert "is not compared with" in page, "two graders are no comparison"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((["out", "alone", "out"],), "3 evaluations are named"),
            ((["out"], ["small", "z"]), "holds no model 'z'"),
            ((["out", "alone"],), "holds several models: small, large"),
            ((["nothing"],), "holds no results"),
        ],
    )
    def test_mistakes_are_named(self, evaluations: Path, arguments: tuple[Any, ...], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            compare(*arguments)


class TestFailures:
    def test_an_endpoint_that_dies_half_way_keeps_what_it_gave(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gone = Refuse(404, body='{"error": {"message": "the model was unloaded"}}')
        with serve_chat(lambda _: "7", [*[None] * 10, *[gone] * 1000]) as server:
            name = f"openai:m@{server.url}"
            with pytest.raises(PartlyDone) as stopped:
                run("sums.yaml", (name,), limit=30, concurrency=2)
            assert stopped.value.exit_code == 3
            assert "failed, more than --fail-on-error 0.1 allows" in stopped.value.message
            assert "the model was unloaded" in stopped.value.message
            assert len(server.seen) < 30, "no more is asked of a dead endpoint"
        kept = [sample for sample in read_samples(here / "out/m/sums").values() if sample.failure is None]
        assert len(kept) == 10
        assert read_results(here / "out")[0].judged == 10
        capsys.readouterr()
        with serve_chat(lambda _: "7") as server:
            again = f"openai:m@{server.url}"
            if again != name:  # another port is another model: the old address is what it is kept under
                about = here / "out" / "evaluation.json"
                about.write_text(about.read_text().replace(name.partition("@")[2], server.url))
            run("sums.yaml", (again,), limit=30)
        assert read_results(here / "out")[0].complete

    def test_a_prompt_that_fails_is_one_failure_and_not_the_end(self, here: Path) -> None:
        def answer(body: Mapping[str, Any]) -> str:
            return "7"

        with serve_chat(answer, [Refuse(400, body='{"error": {"message": "filtered"}}')] * 2) as server:
            with pytest.raises(PartlyDone, match="1 samples have no verdict"):
                run("sums.yaml", (f"openai:m@{server.url}",), limit=12, concurrency=1)
            found = read_results(here / "out")[0]
            assert (found.judged, found.scores["strict"].rates.failed) == (11, 1 / 12)

    def test_a_ceiling_on_cost_stops_before_it_is_passed(self, here: Path) -> None:
        with serve_chat(lambda _: "7 " * 12) as server:
            name = f"openai:m@{server.url}"
            with pytest.raises(PartlyDone, match=r"of \$0.1 are spent"):
                run("sums.yaml", (name,), limit=30, concurrency=1, price=[f"{name}=0,1000"], max_cost=0.1)
            assert 0 < len(server.seen) <= 8, "12 tokens at a tenth of a cent each"
        assert (read_results(here / "out")[0].cost or 0) <= 0.1

    def test_without_a_price_a_ceiling_cannot_be_kept(self, here: Path) -> None:
        with pytest.raises(UsageError, match="the price of"):
            run("sums.yaml", ("openai:m@http://127.0.0.1:1/v1",), max_cost=1.0)

    def test_a_grader_that_fails_is_not_the_model(self, here: Path) -> None:
        (here / "graders.py").write_text(
            "from reasonkit.records import Verdict\n"
            "def broken(record, text):\n    raise OSError('no license')\n"
            "def mended(record, text):\n    return Verdict.correct(text)\n"
        )
        task = (here / "sums.yaml").read_text()
        (here / "sums.yaml").write_text(task.replace("verifier: gsm8k", "verifier: graders:broken"))
        with pytest.raises(PartlyDone, match="4 samples have no verdict"):
            run("sums.yaml", limit=4)
        [found] = read_results(here / "out")
        assert (found.drawn, found.judged, found.score) == (4, 0, None)
        (here / "sums.yaml").write_text(task.replace("verifier: gsm8k", "verifier: graders:mended"))
        run("sums.yaml", limit=4)
        assert sampled(here / "out/a/sums") == 4, "judged again, not sampled again"
        assert read_results(here / "out")[0].score.mean == 1.0  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("tasks", "named", "options", "message"),
        [
            ("arithmetic_chain", ("bare",), {}, "bare has no tokenizer"),
            ("arithmetic_chain", ("words",), {}, "is no model folder"),
            ("arithmetic_chain", ("nowhere",), {}, "no folder of that name exists"),
            ("arithmetic_chain", ("a", "a"), {}, "a model is named twice"),
            ("arithmetic_chain:2", ("a",), {"pass_at": 3}, "pass@3 cannot be estimated from 2 samples"),
            ("arithmetic_chain", ("a",), {"ids": "nobody"}, "none of the tasks has an item called nobody"),
            ("arithmetic_chain", ("a",), {"preset": "gruu"}, "unknown sampling preset 'gruu'"),
            ("unknown.yaml", ("a",), {}, "no_such_verifier"),
            ("nothing_such", ("a",), {}, "nothing_such"),
        ],
    )
    def test_mistakes_are_named_before_anything_is_loaded(
        self, here: Path, tasks: str, named: tuple[str, ...], options: dict[str, Any], message: str
    ) -> None:
        (here / "words").mkdir()
        (here / "bare").mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copy(here / "a" / name, here / "bare")
        (here / "unknown.yaml").write_text(
            (here / "sums.yaml").read_text().replace("gsm8k", "no_such_verifier")
        )
        with pytest.raises(ReasonkitError, match=re.escape(message)):
            run(tasks, named, limit=2, **options)
        assert not list((here / "out").rglob("samples.jsonl"))

    def test_the_folder_of_another_model_is_refused(self, here: Path) -> None:
        run("arithmetic_chain", limit=2)
        with pytest.raises(UsageError, match="is an evaluation of a, not of b"):
            run("arithmetic_chain", ("b",), limit=2)
        (here / "a").unlink()
        (here / "a").symlink_to((here / "b").resolve())
        with pytest.raises(UsageError, match="another model called 'a'"):
            run("arithmetic_chain", limit=2)
        assert sampled(here / "out/a/arithmetic_chain") == 2


class TestKilled:
    """Slow on purpose: so few replies at once that a kill finds the evaluation at work."""

    TASK, TOKENS = "words.yaml:4", 20
    COMMAND = (TASK, "-m", "a", "--out", "out", "--concurrency", "2", "--max-tokens", str(TOKENS), "--json")

    def begin(self, here: Path, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*warm_python(environment), "-m", "reasonkit", "eval", *arguments],
            cwd=here, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def wait_for(self, file: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
        while not file.exists() or len(file.read_bytes().splitlines()) < lines:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.02)

    def test_kill_9_and_the_same_again_gives_what_an_undisturbed_run_gives(self, here: Path) -> None:
        process = self.begin(here, *self.COMMAND)
        pair = here / "out/a/words"
        self.wait_for(pair / "samples.jsonl", 10, process)
        process.kill()
        process.communicate()
        left = read_samples(pair)
        assert 10 <= len(left) < 48
        run(self.TASK, max_tokens=self.TOKENS, concurrency=2)
        assert sampled(pair) == 48, "what was finished is not sampled again"
        assert {key: sample.seconds for key, sample in read_samples(pair).items() if key in left} == {
            key: sample.seconds for key, sample in left.items()
        }
        run(self.TASK, max_tokens=self.TOKENS, concurrency=2, out=Path("undisturbed"))
        assert replies(pair) == replies(here / "undisturbed/a/words")
        one, other = (read_results(folder)[0] for folder in (here / "out", here / "undisturbed"))
        assert one == other

    @pytest.mark.slow
    def test_a_signal_ends_it_with_partial_results(self, here: Path) -> None:
        process = self.begin(here, *self.COMMAND)
        self.wait_for(here / "out/a/words/samples.jsonl", 5, process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        assert b"every finished sample is in out" in said
        assert b"the same command goes on" in said
        assert 0 < read_results(here / "out")[0].judged < 48


@pytest.mark.slow
def test_eleven_tasks_by_two_engines_killed_on_the_way(here: Path) -> None:
    """The transformers engine and HTTP, two models, all tasks that need no network."""
    tasks = LOCAL_TASKS.split()
    with serve_model(here / "b") as server:
        models = ["-m", "a", "-m", f"openai:b@{server.url}"]
        options = ["--limit", "12", "--max-tokens", "40", "--concurrency", "8"]

        def command(out: str) -> list[str]:
            return [*tasks, *models, *options, "--out", out]

        killer = TestKilled()
        for after in ("a/graph", "b/rg-chain_sum"):
            process = killer.begin(here, *command("out"))
            killer.wait_for(here / "out" / after / "samples.jsonl", 3, process)
            process.kill()
            process.communicate()
        for out in ("out", "undisturbed"):
            done = reasonkit(here, "eval", *command(out))
            assert done.returncode == 0, done.stderr
        found, expected = read_results(here / "out"), read_results(here / "undisturbed")
        assert len(found) == 22
        assert found == expected
        for each in found:
            name = each.task.replace(":", "-")
            assert replies(here / "out" / each.model / name) == replies(
                here / "undisturbed" / each.model / name
            )
