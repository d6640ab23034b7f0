"""Sources that convert downloads, each on a few rows made by hand in the shape of the real files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasonkit.data.build import SOURCES, build, source_named
from reasonkit.data.gold import gold_reply
from reasonkit.data.sources.raw import Skip
from reasonkit.data.sources.tables import html_rows, markdown
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Record
from reasonkit.registry import load
from reasonkit.verifiers.routing import VERIFIERS, route

RAW = sorted(name for name in SOURCES if "raw" in source_named(name).settings.model_fields)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def both_splits(name: str, folder: Path, **settings: Any) -> list[Record]:
    given = {"raw": str(folder), **settings}
    return [record for split in ("train", "test") for record in build(name, split, 1000, 0, given)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RAW)
class TestEveryRawSource:
    def test_without_a_folder_it_says_what_to_download_how_large_and_under_which_licence(
        self, name: str
    ) -> None:
        with pytest.raises(UsageError, match="licence") as caught:
            list(build(name, "train", 1, 0, {}))
        assert "--set raw=FOLDER" in caught.value.hint

    def test_a_folder_without_the_files_is_named(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ReasonkitError, match="holds no file that matches"):
            list(build(name, "train", 1, 0, {"raw": str(tmp_path)}))


class TestMath:
    DAPO = (
        "Solve the following math problem step by step. The last line of your response should be of the form "
        "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\nWhat is $2+3$?\n\n"
        'Remember to put your answer on its own line after "Answer:".'
    )

    def raw(self, folder: Path) -> Path:
        dapo = {"prompt": [{"role": "user", "content": self.DAPO}], "reward_model": {"ground_truth": "5"}}
        skywork = {
            "prompt": [{"role": "user", "content": "What is 7*6?"}],
            "reward_model": {"ground_truth": '["42"]'},
        }
        several = {
            "prompt": [{"role": "user", "content": "Roots?"}],
            "reward_model": {"ground_truth": '["1", "2"]'},
        }
        pq.write_table(pa.Table.from_pylist([dapo, dapo, skywork, several]), folder / "rl.parquet")
        write_lines(
            folder / "deepscaler.jsonl",
            [
                {"problem": "what  is $2+3$?", "answer": "5", "solution": "…"},
                {"problem": "Big one", "answer": "1" * 100},
                {"problem": "What is 10/4?", "answer": "5/2", "source": "hand", "llama8b_solve_rate": 0.5},
                {"problem": "", "answer": "1"},
            ],
        )
        return folder

    def test_questions_are_freed_of_their_instructions_and_counted_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            records = both_splits("math", self.raw(tmp_path))
        prompts = {
            record.prompt[0]["content"].lower().replace("  ", " "): record.answer for record in records
        }
        assert prompts == {
            "what is $2+3$? please output the final answer within \\boxed{}.": "5",
            "what is 7*6? please output the final answer within \\boxed{}.": "42",
            "what is 10/4? please output the final answer within \\boxed{}.": "5/2",
        }
        assert "1 with 2 answers" in caplog.text
        assert "1 with an answer of 100 characters or more" in caplog.text
        assert "1 without question or answer" in caplog.text

    def test_gold_verifies(self, tmp_path: Path) -> None:
        from reasonkit.verifiers.math import verify_math

        for record in both_splits("math", self.raw(tmp_path)):
            assert verify_math(record, f"So \\boxed{{{record.answer}}}").score == 1
            assert verify_math(record, "So \\boxed{-17}").score == 0


class TestSampling:
    def raw(self, folder: Path, order: int) -> Path:
        rows = [{"problem": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(400)]
        write_lines(folder / "rows.jsonl", rows[::order])
        return folder

    def test_the_same_seed_picks_the_same_problems_whatever_their_order(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        picked = [
            {r.uid for r in build("math", "train", 50, seed, {"raw": str(self.raw(tmp_path / name, order))})}
            for name, order, seed in (("a", 1, 0), ("b", -1, 0), ("a", 1, 1))
        ]
        assert len(picked[0]) == 50
        assert picked[0] == picked[1] != picked[2]

    def test_train_and_test_share_nothing_and_lose_nothing(self, tmp_path: Path) -> None:
        given = {"raw": str(self.raw(tmp_path, 1))}
        train, test = ({r.uid for r in build("math", split, 1000, 0, given)} for split in ("train", "test"))
        assert not train & test
        assert len(train) + len(test) == 400
        assert 40 < len(test) < 130

    def test_a_share_of_a_mixture_that_cannot_be_filled_is_an_error(self, tmp_path: Path) -> None:
        settings = {"math": {"raw": str(self.raw(tmp_path, 1))}}
        assert len(list(build("math,countdown", "train", 100, 0, settings))) == 100
        with pytest.raises(ReasonkitError, match="math has fewer than the 1000 train records"):
            list(build("math,countdown", "train", 2000, 0, settings))

    def test_a_broken_line_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").write_text('{"problem": "?", "answer": "1"}\n{"problem": \n')
        with pytest.raises(ReasonkitError, match=r"rows\.jsonl line 2 is no JSON"):
            list(build("math", "train", 5, 0, {"raw": str(tmp_path)}))


class TestArc:
    TASK: ClassVar[dict[str, Any]] = {
        "train": [{"input": [[n, 0]], "output": [[0, n]]} for n in range(1, 9)],
        "test": [{"input": [[9, 0]], "output": [[0, 9]]}, {"input": [[1, 1]], "output": [[1, 1]]}],
    }

    def test_the_folders_are_the_splits_and_the_first_test_pair_is_asked_for(self, tmp_path: Path) -> None:
        for folder, name in (("training", "aa"), ("evaluation", "bb")):
            (tmp_path / "data" / folder).mkdir(parents=True)
            task = {**self.TASK, "test": self.TASK["test"][folder == "evaluation" :]}
            (tmp_path / "data" / folder / f"{name}.json").write_text(json.dumps(task))
        (train,) = build("arc", "train", 10, 0, {"raw": str(tmp_path)})
        (test,) = build("arc", "test", 10, 0, {"raw": str(tmp_path)})
        assert (train.answer, test.answer) == ([[0, 9]], [[1, 1]])
        assert (train.metadata["task"], test.metadata["task"]) == ("aa", "bb")
        assert train.metadata["examples"] == 6
        assert "Example 6" in train.prompt[0]["content"]
        assert "Example 7" not in train.prompt[0]["content"]
        gold = gold_reply(train)
        assert gold is not None
        assert load(VERIFIERS[route("arc")])(train, gold).score == 1

    def test_barc_asks_for_its_last_pair(self, tmp_path: Path) -> None:
        pairs = [[[[float(n), 0.0]], [[0.0, float(n)]]] for n in range(3)]
        write_lines(
            tmp_path / "data_100k.jsonl", [{"examples": pairs, "source": "…"}, {"examples": pairs[:1]}]
        )
        (record,) = both_splits("barc", tmp_path)
        assert record.answer == [[0, 2]]
        assert "[[2,0]]" in record.prompt[0]["content"]
        assert load(VERIFIERS[route("barc")])(record, "<answer>[[0,2]]</answer>").score == 1


class TestTables:
    def test_hitab_joins_answers_and_shows_the_table(self, tmp_path: Path) -> None:
        sample = {"table_id": "7", "question": "Which years rose?", "answer": [2013, "2014"]}
        write_lines(tmp_path / "data" / "train_samples.jsonl", [sample, {**sample, "table_id": "absent"}])
        table = {"title": "Sales", "texts": [["", "2013", "2014"], ["total", "1|2", "3"]]}
        (tmp_path / "data" / "tables" / "raw").mkdir(parents=True)
        (tmp_path / "data" / "tables" / "raw" / "7.json").write_text(json.dumps(table))
        (record,) = build("hitab", "train", 10, 0, {"raw": str(tmp_path)})
        assert record.answer == "2013|2014"
        assert (
            "Sales\n\n|  | 2013 | 2014 |\n| --- | --- | --- |\n| total | 1/2 | 3 |"
            in record.prompt[0]["content"]
        )
        assert record.metadata["group"] == "7"
        assert load(VERIFIERS[route("hitab")])(record, "\\boxed{2014|2013}").score == 1

    def test_multihiertt_keeps_arithmetic_over_tables_alone(self, tmp_path: Path) -> None:
        html = "<table><tr><td></td><td colspan='2'>2019</td></tr><tr><td>a</td><td>1</td><td>2</td></tr></table>"

        def entry(uid: str, kind: str, evidence: list[int]) -> dict[str, Any]:
            asked = {
                "question": f"Sum of {uid}?",
                "answer": 3,
                "question_type": kind,
                "text_evidence": evidence,
            }
            return {"uid": uid, "tables": [html], "paragraphs": [], "qa": asked}

        rows = [entry("x", "arithmetic", []), entry("y", "span_selection", []), entry("z", "arithmetic", [1])]
        (tmp_path / "train.json").write_text(json.dumps(rows))
        (record,) = build("multihiertt", "train", 10, 0, {"raw": str(tmp_path)})
        assert record.answer == "3"
        assert "|  | 2019 |  |\n| --- | --- | --- |\n| a | 1 | 2 |" in record.prompt[0]["content"]
        assert load(VERIFIERS[route("multihiertt")])(record, "\\boxed{3.0}").score == 1

    def test_html_tables_may_be_untidy(self) -> None:
        assert html_rows("<tr><th>a<td colspan=x>b &amp; c</td></tr><tr></tr>text") == [["a", "b & c"]]
        with pytest.raises(Skip, match="empty table"):
            markdown([])


class TestStem:
    def test_only_university_questions_with_short_free_answers_stay(self, tmp_path: Path) -> None:
        good = {
            "question": "What is the SI unit of force?",
            "answer": "newton",
            "category": "Physics",
            "difficulty": "University",
            "answer_type": "String",
        }
        bad = [
            {"category": "Mathematics"},
            {"difficulty": "Primary School"},
            {"answer_type": "Boolean"},
            {"answer": "B"},
            {"answer": "(c)"},
            {"answer": "3.14159"},
            {"answer": "long " * 40},
            {"answer": None},
        ]
        rows = [good, *({**good, "question": f"q{n}", **change} for n, change in enumerate(bad))]
        write_lines(tmp_path / "train.jsonl", rows)
        (record,) = both_splits("stem", tmp_path)
        assert (record.answer, record.metadata["question"]) == ("newton", "What is the SI unit of force?")
        assert route(record.source) == "judge"


class TestCodeio:
    def test_one_pair_a_program_and_either_side_may_be_asked_for(self, tmp_path: Path) -> None:
        rows = [
            {
                "problem_description": "Add one.",
                "io_requirements": "x is an int",
                "refcode": f"def main_solution(x):\n    return x + {n}",
                "funcname": "main_solution",
                "ios": [{"input": {"x": 1}, "output": 1 + n}, {"input": {"x": 2}, "output": 2 + n}][
                    : 2 * (n != 3)
                ],
            }
            for n in range(40)
        ]
        write_lines(tmp_path / "0_368500_filtered_v2_ds25.sced.jsonl", rows)
        records = both_splits("codeio", tmp_path)
        assert len(records) == 39
        assert {record.metadata["task"] for record in records} == {"input", "output"}
        for record in records:
            assert record.answer in ({"input": {"x": 1}}, {"output": record.metadata["output"]})
            other = {"input": '{"x":1}', "output": str(record.metadata["output"])}
            given = "input" if record.metadata["task"] == "output" else "output"
            assert f"Given this {given}:\n\n{other[given]}\n" in record.prompt[0]["content"]


class TestPrograms:
    def test_leetcode_keeps_its_check_function_and_the_code_before_the_solution(self, tmp_path: Path) -> None:
        row = {
            "query": "### Question: add ### Answer: (use the provided format with backticks)",
            "prompt": "import math",
            "entry_point": "Solution().add ",
            "test": "def check(candidate):\n    assert candidate(1, 2) == 3",
            "completion": "class Solution:\n    def add(self, a, b):\n        return a + b",
            "meta": {"difficulty": "Easy", "question_title": "Add"},
        }
        write_lines(tmp_path / "LeetCodeDataset-train.jsonl", [row])
        write_lines(tmp_path / "LeetCodeDataset-test.jsonl", [{**row, "query": "another"}])
        (record,) = build("leetcode", "train", 5, 0, {"raw": str(tmp_path), "check": False})
        assert record.prompt[0]["content"] == "### Question: add"
        assert record.answer["functional"].endswith("check(Solution().add)")
        assert record.metadata["prefix"] == "import math"
        scope: dict[str, Any] = {}
        exec(f"import math\n{record.metadata['reference']}\n{record.answer['functional']}", scope)

    LONG = "Read two whole numbers from the input and print their sum on one line. " * 3

    def test_taco_keeps_tests_as_data_and_drops_what_guru_dropped(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def row(question: str, source: str = "codeforces", **cases: Any) -> dict[str, Any]:
            return {
                "question": question,
                "source": source,
                "starter_code": "def f(x):" if "fn_name" in cases else "",
                "solutions": ["print(sum(map(int, input().split())))"],
                "input_output": json.dumps(cases),
            }

        stdio = {"inputs": [f"{n} 1\n" for n in range(30)], "outputs": [f"{n + 1}\r\n" for n in range(30)]}
        rows = [
            row(self.LONG, **stdio),
            row("Double it. " + self.LONG, "codewars", fn_name="f", inputs=[[1], [2]], outputs=[[2], [4]]),
            row(self.LONG + "image", **stdio),
            row("short", **stdio),
            row("A site. " + self.LONG, "leetcode", **stdio),
            row("Huge. " + self.LONG, inputs=["1" * 5000], outputs=["1"]),
        ]
        write_lines(tmp_path / "train.jsonl", rows)
        with caplog.at_level(logging.INFO):
            records = both_splits("taco", tmp_path, check=False)
        by_kind = {"fn_name" in record.answer: record for record in records}
        assert len(records) == 2
        assert by_kind[True].answer == {"fn_name": "f", "inputs": [[1], [2]], "outputs": [2, 4]}
        assert "starter code:\n```python\ndef f(x):" in by_kind[True].prompt[0]["content"]
        programs = by_kind[False].answer
        assert len(programs["inputs"]) == 8
        assert all(
            int(given.split()[0]) + 1 == int(got) and "\r" not in got
            for given, got in zip(programs["inputs"], programs["outputs"], strict=True)
        )
        for reason in ("with an image", "with too short a text", "badly formed", "without a usable test"):
            assert reason in caplog.text

    def test_primeintellect_reads_calls_and_programs(self, tmp_path: Path) -> None:
        calls = [
            {"type": "function_call", "fn_name": "add", "input": [1, n], "output": [1 + n]} for n in range(3)
        ]
        programs = [{"type": "stdin_stdout", "input": "1 2", "output": "3"}]
        rows = [
            {
                "problem": "Add numbers",
                "solutions": ["```python\nadd = sum\n```"],
                "tests": json.dumps(calls),
            },
            {"problem": "Add lines", "solutions": ["print(3)"], "tests": json.dumps(programs)},
            {"problem": "Input: nothing else", "solutions": ["x"], "tests": json.dumps(programs)},
            {"problem": "No tests", "solutions": ["x"], "tests": "[]"},
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000.parquet")
        records = {r.prompt[0]["content"]: r for r in both_splits("primeintellect", tmp_path, check=False)}
        assert records.keys() == {"Add numbers", "Add lines"}
        assert records["Add numbers"].answer == {
            "fn_name": "add",
            "inputs": [[1, 0], [1, 1], [1, 2]],
            "outputs": [1, 2, 3],
        }
        assert records["Add numbers"].metadata["reference"] == "add = sum\n"
        assert records["Add lines"].answer == {"inputs": ["1 2"], "outputs": ["3"]}
