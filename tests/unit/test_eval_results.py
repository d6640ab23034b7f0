"""From samples to numbers, against counts made by hand; two models compared on the same items."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from reasonkit.engines import Sampling
from reasonkit.errors import UsageError
from reasonkit.evaluate.compare import compare
from reasonkit.evaluate.results import TaskResult, read_results, results_json, suites
from reasonkit.evaluate.samples import Sample, Samples
from reasonkit.evaluate.stats import paired_difference, wilson
from reasonkit.evaluate.table import rows, warnings
from reasonkit.evaluate.work import Pair, TaskPlan, rejudged
from reasonkit.records import Message, Record, Verdict
from reasonkit.rundir import write_json
from reasonkit.tasks import Task

RIGHT = Verdict.correct("2")
WRONG = Verdict.wrong("3", "3 is not 2")
HALF = Verdict.wrong("2?", "half", score=0.5)
NONE = Verdict.no_answer("nothing")
ERROR = Verdict.error("the grader broke")


def result(
    verdicts: Sequence[Sequence[Verdict | str | None]],
    *,
    model: str = "m",
    name: str = "sums",
    metric: str = "accuracy",
    rooms: Sequence[str] | None = None,
    pass_at: int | None = None,
    question: str = "1+{}=",
) -> TaskResult:
    """A verdict a sample, or why it failed, or None where nothing was sampled."""
    k = max(map(len, verdicts))
    records = [
        Record(
            f"u{number}",
            "s",
            (Message(role="user", content=question.format(number)),),
            "2",
            "exact",
            {"room": rooms[number] if rooms else str(number), "level": number % 2},
        )
        for number in range(len(verdicts))
    ]
    task = Task.model_validate(
        {"name": name, "source": "s", "metric": metric, "cluster": "room", "breakdown": ("level",), "k": k}
    )
    pair = Pair(model, model, TaskPlan(task, records, k, Sampling(8), pass_at=pass_at), Samples())
    for record, row in zip(records, verdicts, strict=True):
        for number, found in enumerate(row):
            if found is None:
                continue
            key = pair.key(record, number)
            failure = found if isinstance(found, str) else None
            reason = "abort" if failure else "length" if found is NONE else "stop"
            pair.samples.add(Sample(key, record.uid, number, "2", reason, 5, 3, 0.1, failure=failure))  # type: ignore[arg-type]
            if isinstance(found, Verdict):
                pair.samples.judge(key, "strict", found)
    return pair.result("strict")


class TestScores:
    def test_the_mean_is_over_items_and_what_failed_is_no_evidence(self) -> None:
        found = result([[RIGHT, WRONG], [RIGHT, "generate: down"], [ERROR, "generate: down"], [WRONG, NONE]])
        scores = found.scores["strict"]
        assert scores.score.mean == pytest.approx((0.5 + 1.0 + 0.0) / 3), "the third item has no verdict"
        assert scores.score.n == 3
        assert (found.drawn, found.judged, found.complete) == (6, 5, False)
        rates = scores.rates
        assert (rates.no_answer, rates.truncated, rates.grader_error, rates.failed) == (
            1 / 8,
            1 / 8,
            1 / 8,
            2 / 8,
        )

    def test_accuracy_counts_what_is_wholly_right_and_score_averages_credit(self) -> None:
        assert result([[HALF], [RIGHT]]).score.mean == 0.5  # type: ignore[union-attr]
        assert result([[HALF], [RIGHT]], metric="score").score.mean == 0.75  # type: ignore[union-attr]

    def test_pass_at_k_by_enumeration(self) -> None:
        at_k = result([[RIGHT, RIGHT, WRONG, WRONG], [WRONG] * 4], pass_at=2).scores["strict"].at_k
        assert at_k["pass@1"] == pytest.approx(0.25)
        assert at_k["pass@2"] == pytest.approx((1 - 1 / 6) / 2), (
            "of 6 pairs of the first item, 1 has no right one"
        )
        assert at_k["pass^4"] == 0.0
        assert at_k["maj@4"] == pytest.approx(0.25), "'2' and '3' tie on the first item"

    def test_items_of_one_room_are_kin(self) -> None:
        verdicts = [[RIGHT], [RIGHT], [WRONG], [WRONG], [RIGHT], [RIGHT]]
        alone = result(verdicts).score
        kin = result(verdicts, rooms="aabbcc").score
        assert alone is not None
        assert kin is not None
        assert (kin.method, alone.method) == ("clustered t", "t")
        assert kin.high - kin.low > alone.high - alone.low

    def test_all_wrong_gets_wilsons_interval_and_so_does_the_mean_of_tasks(self) -> None:
        found = result([[WRONG]] * 10)
        assert found.score is not None
        assert (found.score.low, found.score.high) == wilson(0, 10)
        mean = suites([found, replace(found, task="other")])["m"]
        assert mean.low == 0.0
        assert 0.05 < mean.high < wilson(0, 10)[1], "two tasks say more than one, but not everything"

    def test_the_breakdown_scores_each_part(self) -> None:
        parts = result([[RIGHT], [WRONG], [RIGHT], [WRONG]]).scores["strict"].breakdown["level"]
        assert {value: estimate.mean for value, estimate in parts.items()} == {"0": 1.0, "1": 0.0}

    def test_the_bootstrap_stands_beside_a_small_task_only(self) -> None:
        few, many = [[RIGHT], [WRONG]] * 10, [[RIGHT], [WRONG]] * 60
        assert result(few).scores["strict"].bootstrap is not None
        assert result(many).scores["strict"].bootstrap is None

    def test_more_samples_that_would_not_help_are_said_to(self) -> None:
        assert result([[RIGHT] * 4, [WRONG] * 4]).scores["strict"].sampling_share == 0.0
        assert result([[RIGHT], [WRONG]]).scores["strict"].sampling_share is None

    def test_nothing_judged_is_no_score(self) -> None:
        found = result([["generate: down"], [ERROR]])
        assert found.score is None
        assert [row[3] for row in rows([found])] == ["–"]

    def test_what_went_wrong_often_is_said(self) -> None:
        said = " ".join(warnings([result([[RIGHT], [NONE], ["generate: down"]])]))
        assert "33.3 % of the samples were cut at the length limit" in said
        assert "33.3 % of the samples failed" in said


class TestFiles:
    @pytest.mark.parametrize("several", [True, False])
    def test_a_results_file_reads_back_as_it_was(self, tmp_path: Path, several: bool) -> None:
        found = [
            result([[RIGHT, WRONG], [HALF, NONE]] * 2, metric="score"),
            result([[RIGHT], [WRONG]] * 2, name="other"),
        ]
        found = found if several else found[:1]
        write_json(tmp_path / "r.json", results_json(found) if several else found[0].as_json())
        assert read_results(tmp_path / "r.json") == found

    def test_an_error_that_is_not_known_is_null_and_comes_back_as_unknown(self, tmp_path: Path) -> None:
        found = result([[RIGHT, WRONG]])
        write_json(tmp_path / "r.json", found.as_json())
        assert "NaN" not in (tmp_path / "r.json").read_text()
        [again] = read_results(tmp_path / "r.json")
        assert again.score is not None
        assert math.isnan(again.score.error)

    @pytest.mark.parametrize("content", ["not json", "[]", '{"format": 99}'])
    def test_another_file_is_refused(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(UsageError, match="no results file"):
            read_results(tmp_path / "x.json")

    def test_new_verdicts_stand_beside_the_old(self) -> None:
        found = result([[RIGHT], [WRONG]])
        samples = Samples()
        for row, verdict in zip(found.items, (WRONG, WRONG), strict=True):
            samples.add(Sample(f"{row['key']}-0", row["uid"], 0, "2", "stop"))
            samples.judge(f"{row['key']}-0", "strict", RIGHT)
            samples.judge(f"{row['key']}-0", "reasoning360", verdict)
        again = rejudged(found, samples, "reasoning360")
        assert {mode: scores.score.mean for mode, scores in again.scores.items()} == {
            "reasoning360": 0.0,
            "strict": 1.0,
        }
        assert again.items[0]["scores"] == [0.0]


class TestCompare:
    A = ((RIGHT,), (RIGHT,), (RIGHT,), (WRONG,), (RIGHT,))
    B = ((WRONG,), (RIGHT,), (WRONG,), (RIGHT,), (WRONG,))

    def test_it_pairs_by_item_and_says_which_flipped(self) -> None:
        [task] = compare([result(self.A, model="a")], [result(self.B, model="b")]).tasks
        assert task.difference == paired_difference([1, 1, 1, 0, 1], [0, 1, 0, 1, 0])
        assert task.difference.test == "McNemar"
        assert [(flip.uid, flip.a, flip.b) for flip in task.flips] == [
            ("u0", 1.0, 0.0), ("u2", 1.0, 0.0), ("u4", 1.0, 0.0), ("u3", 0.0, 1.0),
        ]  # fmt: skip

    def test_several_tasks_are_adjusted_for(self) -> None:
        names = ("x", "y", "z")
        sides = [[result(verdicts, model=model, name=name) for name in names]
                 for model, verdicts in (("a", self.A), ("b", self.B))]  # fmt: skip
        compared = compare(*sides)
        assert [task.holm_p for task in compared.tasks] == [
            min(1.0, 3 * task.difference.p) for task in compared.tasks
        ]
        assert compared.suite is not None
        assert compared.suite.mean == pytest.approx(0.4)

    def test_items_that_one_was_not_asked_are_left_out_and_counted(self) -> None:
        [task] = compare([result(self.A, model="a")], [result(self.B[:3], model="b")]).tasks
        assert (task.difference.n, task.unpaired) == (3, 2)

    def test_the_same_item_under_another_prompt_is_not_the_same(self) -> None:
        with pytest.raises(UsageError, match="one prompt in the one evaluation"):
            compare([result(self.A, model="a")], [result(self.B, model="b", question="what is 1+{}?")])

    def test_nothing_in_common_is_an_error(self) -> None:
        with pytest.raises(UsageError, match="a was asked x, b y"):
            compare([result(self.A, model="a", name="x")], [result(self.B, model="b", name="y")])

    def test_equal_replies_leave_room_for_what_was_not_asked(self) -> None:
        [task] = compare([result(self.A, model="a")], [result(self.A, model="b")]).tasks
        assert task.difference.p == 1.0
        assert task.detectable > 0.3, "five items without a difference rule out little"

    def test_it_is_plain_json(self) -> None:
        from reasonkit.evaluate.compare import as_json

        compared = compare([result(self.A, model="a")], [result(self.B, model="b")])
        assert json.loads(json.dumps(as_json(compared)))["tasks"][0]["difference"]["better"] == 3
