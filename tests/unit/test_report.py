"""The report's data: which curves, which rollouts, how large, and how the command is used."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from reasonkit.cli.report import report
from reasonkit.errors import UsageError
from reasonkit.evaluate.stats import paired_difference
from reasonkit.report import Written, write_picture, write_report
from reasonkit.report.page import render
from reasonkit.report.read import change, read_run, read_runs
from reasonkit.report.rollouts import pack_runs
from reasonkit.report.samples import OF_ROLLOUT, Packed
from reasonkit.report.series import MOST_POINTS, charts_of, moving_average
from reasonkit.rundir import RunDir, write_text
from tests.synthetic_run import write_run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A report as it lies in its run folder."""
    run = write_run(tmp_path_factory.mktemp("report") / "run", steps=2)
    return write_report([run.path], run.report)


def page_of(run: RunDir) -> str:
    runs = [read_run(run.path)]
    return render("a page", runs, charts_of(runs), pack_runs(runs, 1_000_000))


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def shown_rollouts(packed: Packed) -> list[dict[str, Any]]:
    """Every rollout of a page as the browser sees it: what the index says, and what its chunk holds."""
    index = unpacked(packed.index)
    texts = [row for chunk in packed.chunks for row in unpacked(chunk)["rollouts"]]
    return [
        {
            "step": index["step"][position],
            "place": index["place"][position],
            "status": index["statuses"][index["status"][position]],
            "reward": index["reward"][position],
            **dict(zip(OF_ROLLOUT, row[1:], strict=True)),
        }
        for position, row in enumerate(texts)
    ]


class TestCurves:
    def test_each_known_metric_has_its_chart_and_an_unknown_one_too(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run", steps=5)
        keys = [chart.key for chart in charts_of([read_run(tmp_path / "run")])]
        assert keys[:3] == ["reward", "accuracy", "parts"]
        assert {"entropy", "kl", "length", "zero_variance", "outcomes", "tokens_per_second", "mood"} <= set(
            keys
        )

    def test_only_what_was_measured_is_drawn(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", steps=2)
        rows = [
            {"step": 1, "reward": 0.5, "kl_old": None},
            {"step": 2, "reward": 0.75, "parts": {"correctness": 1.0}},
        ]
        write_text(run.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        for step in run.evaluation_steps():
            run.evaluation(step).unlink()
        [chart] = charts_of([read_run(run.path)])
        assert chart.key == "reward"
        assert chart.curves[0].points == [(1.0, 0.5), (2.0, 0.75)]

    def test_held_out_accuracy_is_drawn_as_measured_with_intervals(self, tmp_path: Path) -> None:
        run = read_run(write_run(tmp_path / "run", steps=5).path)
        chart = next(chart for chart in charts_of([run]) if chart.key == "accuracy")
        sampled = next(curve for curve in chart.curves if curve.label == "held out, sampled")
        assert [step for step, _ in sampled.points] == [0, 5]
        assert sampled.intervals[1] == (
            run.info["after"]["sampled"]["low"],
            run.info["after"]["sampled"]["high"],
        )

    def test_long_curves_are_thinned_by_means_of_neighbours(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", steps=1)
        write_text(
            run.metrics, "".join(json.dumps({"step": s, "reward": s % 2}) + "\n" for s in range(1, 10_001))
        )
        [curve] = next(chart for chart in charts_of([read_run(run.path)]) if chart.key == "reward").curves
        assert len(curve.points) == MOST_POINTS
        assert curve.points[0] == (5.0, pytest.approx(0.6)), "steps 1 to 5 have 1, 0, 1, 0, 1"
        assert curve.points[-1][0] == 10_000

    def test_the_moving_average_keeps_a_straight_line_and_both_ends(self) -> None:
        line = [(float(step), 2.0 * step) for step in range(200)]
        assert moving_average(line) == [(step, pytest.approx(value)) for step, value in line]

    def test_short_curves_are_not_averaged(self) -> None:
        assert moving_average([(1.0, 1.0), (2.0, 3.0)]) == []


class TestBeforeAndAfter:
    def test_the_change_is_paired_by_problem(self, tmp_path: Path) -> None:
        run = read_run(write_run(tmp_path / "run", steps=3, items=30).path)
        assert run.before is not None
        assert run.after is not None
        before, after = (
            {item["uid"]: item["greedy"]["score"] for item in look["items"]}
            for look in (run.before, run.after)
        )
        difference = change(run, "greedy")
        assert difference is not None
        assert difference == paired_difference([after[uid] for uid in before], list(before.values()))
        assert difference.test == "McNemar"

    def test_problems_that_only_one_look_has_are_left_out(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", steps=3, items=30)
        look = json.loads(run.evaluation(3).read_text())
        look["items"] = look["items"][:10]
        run.evaluation(3).write_text(json.dumps(look))
        difference = change(read_run(run.path), "sampled")
        assert difference is not None
        assert difference.n == 10

    def test_a_run_that_never_validated_has_no_table_and_still_a_page(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", steps=3, state="stopped")
        for step in run.evaluation_steps():
            run.evaluation(step).unlink()
        page = page_of(run)
        assert 'class="results"' not in page
        assert "stopped, step 3 of 3" in page

    def test_a_run_that_has_just_begun_has_a_page(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "run.json").write_text('{"state": "running", "steps": 9}')
        written = write_report([tmp_path / "run"], tmp_path / "run" / "report.html")
        assert "running, step 0 of 9" in written.page.read_text()
        assert written.charts == []
        assert written.total == 0


class TestSamples:
    def test_a_small_run_is_shown_whole_and_unchanged(self, tmp_path: Path) -> None:
        import pyarrow.parquet as pq

        run = write_run(tmp_path / "run", steps=6, items=5)
        packed = pack_runs([read_run(run.path)], 4_000_000)
        assert packed.shown == packed.total == 6 * 16 + 2 * 5 * 3
        written = [
            row for step in run.rollout_steps() for row in pq.read_table(run.rollouts(step)).to_pylist()
        ]
        shown = [row for row in shown_rollouts(packed) if row["place"] == 0]
        key = lambda row: (row["step"], row["text"], row["sample"], row["status"])  # noqa: E731
        assert sorted(map(key, shown)) == sorted(map(key, written))
        assert shown[0]["parts"]["brevity"] == -0.1

    def test_what_does_not_fit_is_left_out_evenly_and_the_size_holds(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", steps=20, prompts=8, words=200, items=2)
        room = 120_000
        packed = pack_runs([read_run(run.path)], room)
        assert len(packed.index) + sum(map(len, packed.chunks)) <= room
        assert 0 < packed.shown < packed.total
        steps = {row["step"] for row in shown_rollouts(packed) if row["place"] == 0}
        assert {1, 20} <= steps
        assert len(steps) >= 15, "spread over the run"

    def test_of_each_step_the_best_and_the_worst_come_first(self, tmp_path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        run = write_run(tmp_path / "run", steps=3, prompts=30, n=4, words=50)
        for step in run.rollout_steps():
            table = pq.read_table(run.rollouts(step)).to_pylist()
            table[57]["reward"], table[91]["reward"] = 7.0, -7.0
            pq.write_table(pa.Table.from_pylist(table), run.rollouts(step))
        rows = shown_rollouts(pack_runs([read_run(run.path)], 40_000))
        for step in (1, 2, 3):
            rewards = [row["reward"] for row in rows if row["step"] == step and row["place"] == 0]
            assert len(rewards) < 120
            assert {7.0, -7.0} <= set(rewards)
            assert len(rewards) % 4 == 0, "whole groups"

    def test_the_same_run_gives_the_same_page(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", steps=3)
        assert page_of(run) == page_of(run)
        images = [tmp_path / "a.svg", tmp_path / "b.svg"]
        for image in images:
            write_picture([run.path], image)
        assert images[0].read_bytes() == images[1].read_bytes()

    def test_a_rollout_that_failed_has_no_reward_and_says_why(self, tmp_path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        run = write_run(tmp_path / "run", steps=1)
        rows = pq.read_table(run.rollouts(1)).to_pylist()
        rows[0] |= {"status": "error", "score": None, "reward": None, "failure": "generate: deadline"}
        pq.write_table(pa.Table.from_pylist(rows), run.rollouts(1))
        failed = [row for row in shown_rollouts(pack_runs([read_run(run.path)], 4_000_000)) if row["failure"]]
        assert [(row["status"], row["reward"], row["failure"]) for row in failed] == [
            ("error", None, "generate: deadline")
        ]


class TestPage:
    def test_what_a_model_writes_cannot_become_markup(self, tmp_path: Path) -> None:
        evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
        run = write_run(tmp_path / evil.replace("/", "_"), steps=2)
        look = json.loads(run.evaluation(2).read_text())
        look["items"][0]["prompt"] = look["items"][0]["greedy"]["text"] = evil
        run.evaluation(2).write_text(json.dumps(look))
        first = json.loads(run.evaluation(0).read_text())
        first["items"][0]["prompt"] = first["items"][0]["greedy"]["text"] = evil
        run.evaluation(0).write_text(json.dumps(first))
        page = page_of(run)
        assert "<img src=x" not in page
        assert "<script>alert" not in page

    def test_it_needs_nothing_from_anywhere(self, written: Written) -> None:
        page = written.page.read_text()
        for marker in ("http://", "https://", '<link rel="stylesheet"', "src=", "@import", "url("):
            assert marker not in page.replace("http://www.w3.org/2000/svg", ""), marker

    def test_images_are_real(self, written: Written) -> None:
        names = {path.name for path in written.charts}
        assert {"reward.png", "reward.svg", "accuracy.png", "accuracy.svg"} <= names
        for path in written.charts:
            if path.suffix == ".png":
                assert path.read_bytes().startswith(b"\x89PNG\r\n")
            else:
                assert ElementTree.parse(path).getroot().tag.endswith("svg")


class TestCommand:
    @pytest.fixture
    def runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunDir]:
        monkeypatch.chdir(tmp_path)
        return [write_run(tmp_path / "runs" / name, steps=2) for name in ("a", "b")]

    def test_json_names_what_was_written(
        self, runs: list[RunDir], capsys: pytest.CaptureFixture[str]
    ) -> None:
        report(["a"], json_=True)
        content = json.loads(capsys.readouterr().out)
        assert Path(content["report"]) == Path("runs/a/report.html")
        assert all(Path(path).exists() for path in (content["report"], *content["charts"]))
        assert Path(content["charts"][0]).parent == Path("runs/a/charts")

    def test_renames_come_from_flags_and_from_a_file(self, runs: list[RunDir], tmp_path: Path) -> None:
        (tmp_path / "names").write_text("# old=new\na=first try\n\nb=second\n")
        report(["a", "b"], rename=["b=last try"], rename_file=tmp_path / "names", output=tmp_path / "x.html")
        page = (tmp_path / "x.html").read_text()
        assert "<b>first try</b>" in page
        assert "<b>last try</b>" in page
        assert "second" not in page.partition("<main>")[0]

    def test_a_picture_alone(self, runs: list[RunDir], tmp_path: Path) -> None:
        report(["a"], output=tmp_path / "curve.svg", title="Reward")
        assert ElementTree.parse(tmp_path / "curve.svg").getroot().tag.endswith("svg")
        assert not (tmp_path / "charts").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"runs": ["c"]}, "there is no run 'c'"),
            ({"runs": ["a"], "output": Path("page.pdf")}, "a page or a picture"),
            ({"runs": ["a"], "rename": ["a"]}, "not of the form A=B"),
            ({"runs": ["a"], "rename": ["z=y"]}, "no run is called 'z'"),
            ({"runs": ["a"], "rename_file": Path("missing")}, "missing does not exist"),
            ({"runs": ["a", "runs/a"]}, "two runs are called 'a'"),
        ],
    )
    def test_mistakes_are_named(self, runs: list[RunDir], arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            report(**arguments)

    def test_a_folder_that_is_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is not a run folder"):
            report([str(tmp_path)])

    def test_labels_are_the_folders_names(self, runs: list[RunDir]) -> None:
        assert [run.label for run in read_runs([run.path for run in runs], {})] == ["a", "b"]
