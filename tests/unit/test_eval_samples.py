"""What an evaluation keeps: keys that say what is the same, files that survive a kill, folders of their models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reasonkit.engines import Sampling
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.evaluate.folder import EvaluationDir
from reasonkit.evaluate.samples import GAME, Sample, SampleFile, item_key, read_samples
from reasonkit.records import Message, Record, Verdict

RECORD = Record("u1", "s", (Message(role="user", content="1+1="),), "2", "exact", {"room": "a"})
SAMPLING = Sampling(max_tokens=10, temperature=1.0, top_p=0.7)


def key(**changes: object) -> str:
    given = {
        "identity": "m",
        "record": RECORD,
        "env": "single_turn",
        "sampling": SAMPLING,
        "seed": 0,
    } | changes
    return item_key(**given)  # type: ignore[arg-type]


def sample(name: str = "k-0", **changes: object) -> Sample:
    return replace(Sample(name, "u1", 0, "2", "stop", 4, 1, 0.5), **changes)  # type: ignore[arg-type]


class TestKey:
    @pytest.mark.parametrize(
        "change",
        [
            {"identity": "other weights"},
            {"seed": 1},
            {"env": "sokoban"},
            {"sampling": replace(SAMPLING, temperature=0.0)},
            {"sampling": replace(SAMPLING, top_p=1.0)},
            {"sampling": replace(SAMPLING, max_tokens=11)},
            {"sampling": replace(SAMPLING, stop=("\n",))},
            {"record": replace(RECORD, prompt=(Message(role="user", content="1+1 ="),))},
            {"record": replace(RECORD, uid="u2")},
            {"record": replace(RECORD, metadata={"prompt_format": "raw"})},
        ],
    )
    def test_whatever_changes_tokens_changes_it(self, change: dict[str, object]) -> None:
        assert key(**change) != key()

    @pytest.mark.parametrize(
        "change",
        [
            {"record": replace(RECORD, answer="3")},
            {"record": replace(RECORD, verifier="math")},
            {"sampling": replace(SAMPLING, seed=7)},
        ],
    )
    def test_what_only_judging_needs_does_not(self, change: dict[str, object]) -> None:
        assert key(**change) == key()

    def test_an_environment_depends_on_the_whole_record(self) -> None:
        assert key(env="e", record=replace(RECORD, answer="3")) != key(env="e")


class TestFile:
    def test_what_was_added_is_there_for_the_next_process(self, tmp_path: Path) -> None:
        told = sample(text="line\nbreak \u2028 \ud83d half, 字", turns=[["a", "b"]])
        with SampleFile(tmp_path) as file:
            file.add(told)
            file.judge("k-0", "strict", Verdict.wrong("2", "not 3", score=0.5, rows=3))
        [found] = read_samples(tmp_path).values()
        assert replace(found, verdicts={}) == told
        assert found.verdict("strict") == Verdict.wrong("2", "not 3", score=0.5, rows=3)
        assert found.verdict("reasoning360") is None

    @pytest.mark.parametrize("lost", [1, 30])
    def test_a_line_that_a_kill_cut_short_is_gone_and_the_rest_is_not(
        self, tmp_path: Path, lost: int
    ) -> None:
        with SampleFile(tmp_path) as file:
            file.add(sample("k-0"))
            file.add(sample("k-1"))
        path = tmp_path / "samples.jsonl"
        path.write_bytes(path.read_bytes()[:-lost])
        assert list(read_samples(tmp_path)) == ["k-0"], "a reader passes over it"
        with SampleFile(tmp_path) as file:
            file.add(sample("k-2"))
        assert list(read_samples(tmp_path)) == ["k-0", "k-2"]

    def test_a_torn_line_longer_than_a_block(self, tmp_path: Path) -> None:
        with SampleFile(tmp_path) as file:
            file.add(sample("k-0"))
        with (tmp_path / "samples.jsonl").open("a") as torn:
            torn.write('{"key": "' + "x" * 200_000)
        with SampleFile(tmp_path) as file:
            assert list(file.by_key) == ["k-0"]

    def test_a_file_of_one_torn_line_is_empty(self, tmp_path: Path) -> None:
        (tmp_path / "samples.jsonl").write_text('{"key": "k-0"')
        with SampleFile(tmp_path) as file:
            assert file.by_key == {}

    def test_a_reply_replaces_a_failure_and_never_the_other_way(self, tmp_path: Path) -> None:
        with SampleFile(tmp_path) as file:
            file.add(sample(failure="generate: down", text=""))
            file.add(sample(text="2"))
            file.add(sample(failure="generate: down", text=""))
        assert read_samples(tmp_path)["k-0"].text == "2"

    def test_the_newest_verdict_of_a_grader_stands_and_the_games_over_all(self, tmp_path: Path) -> None:
        with SampleFile(tmp_path) as file:
            file.add(sample())
            file.judge("k-0", "strict", Verdict.wrong("2", "no"))
            file.judge("k-0", "strict", Verdict.correct("2"))
            file.judge("k-0", "reasoning360", Verdict.wrong("2", "quirk"))
        kept = read_samples(tmp_path)["k-0"]
        assert [kept.verdict(mode).score for mode in ("strict", "reasoning360")] == [1.0, 0.0]  # type: ignore[union-attr]
        with SampleFile(tmp_path) as file:
            file.judge("k-0", GAME, Verdict.wrong(None, "the box is stuck"))
        assert read_samples(tmp_path)["k-0"].verdict("strict") == Verdict.wrong(None, "the box is stuck")

    def test_two_processes_cannot_add_to_it(self, tmp_path: Path) -> None:
        with (
            SampleFile(tmp_path),
            pytest.raises(ReasonkitError, match="another process"),
            SampleFile(tmp_path),
        ):
            pass


class TestFolder:
    def test_it_may_be_added_to_by_the_models_it_was_begun_with(self, tmp_path: Path) -> None:
        folder = EvaluationDir(tmp_path / "e")
        folder.claim({"a": "1"}, {})
        folder.claim({"a": "1"}, {})
        folder.claim({"b": "2", "a": "1"}, {})
        assert folder.read_about()["models"] == {"a": "1", "b": "2"}

    def test_other_weights_under_the_same_name_are_refused(self, tmp_path: Path) -> None:
        EvaluationDir(tmp_path / "e").claim({"a": "1"}, {})
        with pytest.raises(UsageError, match="another model called 'a': 1, and now it is 2"):
            EvaluationDir(tmp_path / "e").claim({"a": "2"}, {})

    def test_another_model_is_refused(self, tmp_path: Path) -> None:
        EvaluationDir(tmp_path / "e").claim({"a": "1"}, {})
        with pytest.raises(UsageError, match="is an evaluation of a, not of b"):
            EvaluationDir(tmp_path / "e").claim({"b": "2"}, {})

    def test_a_folder_of_something_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match="is no evaluation"):
            EvaluationDir(tmp_path).claim({"a": "1"}, {})

    def test_records_of_a_larger_evaluation_stay(self, tmp_path: Path) -> None:
        folder = EvaluationDir(tmp_path)
        others = [replace(RECORD, uid=f"u{number}") for number in range(3)]
        folder.keep_records("rg:task", others)
        folder.keep_records("rg:task", [replace(others[0], answer="3")])
        assert [(record.uid, record.answer) for record in folder.read_records("rg:task")] == [
            ("u0", "3"), ("u1", "2"), ("u2", "2"),
        ]  # fmt: skip
