"""The parts of steering that need no model: reading guidance, judging programs, what attempts teach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reasonkit.data.adapters import read_any
from reasonkit.errors import UsageError
from reasonkit.records import Record, to_row
from reasonkit.steer.checks import complexity, program_in
from reasonkit.steer.env import Round
from reasonkit.steer.texts import CODE, TEXT, Guidance, feedback, first_ask, read_guidance, shortened
from reasonkit.steer.training import demonstrations, preferences
from reasonkit.steer.trajectories import Folder, Trajectory, Turn, problem_hash, read_trajectories

ROUND = Round("code", CODE, "r", False, "print(1)", "ok", "1", "1", "plain", "")
RECORD = Record("u", "s", ({"role": "system", "content": "S"}, {"role": "user", "content": "Q?"}), "42")


class TestGuidance:
    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("<<<Code>>>", Guidance.CODE),
            ("I would rather use <<<code>>> here", Guidance.CODE),
            ("<<<Text>>>", Guidance.TEXT),
            ("First <<<Code>>>, no: <<<Text>>>", Guidance.TEXT),
            ("<<< Return Answer. >>>", Guidance.RETURN),
            ("<<<Terminate>>>", Guidance.RETURN),
            ("The answer holds.\nReturn Answer", Guidance.RETURN),
            ("Code", Guidance.CODE),
            ("<think><<<Text>>></think><<<Code>>>", Guidance.CODE),
            ("", Guidance.TEXT),
            ("<<<>>>", Guidance.TEXT),
        ],
    )
    def test_the_last_mark_counts_and_a_tuned_steerer_needs_none(self, text: str, kind: Guidance) -> None:
        assert read_guidance(text)[0] is kind

    def test_own_words_are_handed_on_as_they_are(self) -> None:
        assert read_guidance("so <<<Try all 24 orders.>>> ok") == (Guidance.OWN, "Try all 24 orders.")
        assert read_guidance("Try all 24 orders.") == (Guidance.OWN, "Try all 24 orders.")

    def test_a_word_within_guidance_ends_nothing(self) -> None:
        said = "Make sure that the loop can terminate, and do not return answer strings."
        assert read_guidance(f"<<<{said}>>>") == (Guidance.OWN, said)

    def test_code_and_text_stand_for_prompts(self) -> None:
        assert read_guidance("<<<Code>>>")[1] == CODE
        assert read_guidance("<<<Text>>>")[1] == TEXT

    @pytest.mark.timeout(20)
    @pytest.mark.parametrize("text", ["<<<" * 300_000, ">>>" * 300_000, "<<<>>>" * 150_000, "<" * 900_000])
    def test_hostile_guidance_is_read_in_linear_time(self, text: str) -> None:
        read_guidance(text)

    def test_the_question_keeps_its_own_turns(self) -> None:
        asked = first_ask(RECORD, "Do it.")
        assert asked == [RECORD.prompt[0], {"role": "user", "content": "Do it.\n\nQ?"}]


class TestPrograms:
    @pytest.mark.parametrize(
        ("code", "kind", "score"),
        [
            ("print(42)", "plain", 0),
            ("print(6 * 7 + 1)", "numerical", 0.5),
            ("print(f'{6 * 7}')", "symbolic", 0.25),
            ("print('{}'.format(1))", "symbolic", 0),
            ("print(eval('6*7'))", "symbolic", 0),
            ("for i in range(3):\n  if i:\n    print(i)", "searching", 2),
            ("import itertools\nprint(1)", "searching", 0),
            ("from itertools import permutations", "searching", 0),
            ("print(sum(i for i in range(9) if i % 2))", "searching", 1.25),
            ("information = 'for if try while'", "plain", 0),
            ("print(", "unreadable", 0),
            ("\x00", "unreadable", 0),
            ("(" * 10_000, "unreadable", 0),
            ("x = " + "-" * 50_000 + "1", "unreadable", 0),
        ],
    )
    def test_what_a_program_does_is_read_from_its_syntax(self, code: str, kind: str, score: float) -> None:
        found = complexity(code)
        assert (found.kind, found.score) == (kind, score)
        assert ("no more than a result" in found.in_words()) == (score <= 2)

    def test_the_first_python_block_is_the_program(self) -> None:
        text = "```text\nno\n```\n```python\nprint(1)\n```\n```python\nprint(2)\n```"
        assert program_in(text) == "print(1)\n"
        assert program_in("print(1)") is None


def test_long_replies_are_shown_without_their_middle() -> None:
    assert shortened("a" * 100, 40) == "a" * 20 + "\n[... 60 characters cut ...]\n" + "a" * 20
    assert len(feedback("x" * 100_000, "y", "z", "")) < 10_000


def attempt(id: str, *turns: tuple[str, str], solved: bool = False) -> Trajectory:
    """`turns` are (guidance, what was shown)."""
    played = tuple(Turn(guidance, shown, ROUND if shown else None) for guidance, shown in turns)
    status = "correct" if solved else "wrong"
    return Trajectory(id, "u", "s", "h", "Q", played, "", status, float(solved), "")


class TestPreferences:
    def rows(self, *attempts: Trajectory, margin: float = 1.0) -> list[tuple[int, str, str, float, float]]:
        return [
            (
                len(row["prompt"]), row["chosen"][0]["content"], row["rejected"][0]["content"],
                row["score_chosen"], row["score_rejected"],
            )
            for row in preferences(attempts, margin)
        ]  # fmt: skip

    def test_a_solved_attempt_is_worth_15_less_its_turns_and_a_failed_one_minus_them(self) -> None:
        good = attempt("u#0", ("<<<Code>>>", "shown"), ("<<<Return Answer>>>", ""), solved=True)
        bad = attempt("u#1", ("<<<Text>>>", "other"), ("<<<Text>>>", "x"), ("<<<Return Answer>>>", ""))
        assert self.rows(good, bad) == [(1, "<<<Code>>>", "<<<Text>>>", 13.0, -3.0)]

    def test_a_guidance_is_worth_the_mean_of_what_it_led_to(self) -> None:
        start = ("<<<Text>>>", "seen")
        tree = [
            attempt("u#0", start, ("A", "a"), ("R", ""), solved=False),
            attempt("u#0/1.0", start, ("B", ""), solved=False),
            attempt("u#0/1.1", start, ("C", "c"), ("R", ""), solved=True),
            attempt("u#0/0.0", ("<<<Code>>>", ""), solved=False),
        ]
        rows = self.rows(*tree)
        inner, outer = rows[:-1], rows[-1]
        assert inner == [(3, "C", "A", 12.0, -3.0), (3, "C", "B", 12.0, -2.0)]
        assert outer == (1, "<<<Text>>>", "<<<Code>>>", pytest.approx((12 - 3 - 2) / 3), -1.0)

    def test_fewer_turns_are_preferred_and_the_margin_decides_how_many_fewer(self) -> None:
        quick = attempt("u#0", ("A", "a"), ("R", ""), solved=True)
        slow = attempt("u#1", ("B", "b"), ("C", "c"), ("R", ""), solved=True)
        assert self.rows(quick, slow) == [(1, "A", "B", 13.0, 12.0)]
        assert self.rows(quick, slow, margin=1.5) == []

    def test_attempts_that_failed_to_be_made_teach_nothing(self) -> None:
        good = attempt("u#0", ("A", ""), solved=True)
        broken = replace(attempt("u#1", ("B", "")), failure="generate: down")
        assert self.rows(good, broken) == []

    def test_attempts_at_different_problems_are_not_compared(self) -> None:
        one = attempt("u#0", ("A", ""), solved=True)
        other = replace(attempt("u#1", ("B", "")), problem="another")
        assert self.rows(one, other) == []

    def test_rows_are_what_the_adapters_read(self) -> None:
        good = attempt("u#0", ("S", "seen"), ("A", ""), solved=True)
        bad = attempt("u#0/1.0", ("S", "seen"), ("B", ""))
        (row,) = preferences([good, bad], 1.0)
        record = read_any(row)
        assert record.source == "preference"
        assert [turn["content"] for turn in record.prompt] == ["Q", "S", "seen"]
        assert record.answer == {"chosen": "A", "rejected": "B"}


class TestDemonstrations:
    def test_every_guidance_of_solved_attempts_once(self) -> None:
        one = attempt("u#0", ("S", "seen"), ("R", ""), solved=True)
        same_start = attempt("u#1", ("S", "seen"), ("T", ""), solved=True)
        wrong = attempt("u#2", ("W", ""))
        records = list(demonstrations([one, same_start, wrong]))
        assert [record.answer for record in records] == ["S", "R", "T"]
        assert [turn["role"] for turn in records[1].prompt] == ["user", "assistant", "user"]
        assert read_any(to_row(records[1])) == records[1]


class TestFolder:
    def test_attempts_are_kept_and_half_a_line_is_not(self, tmp_path: Path) -> None:
        done, failed = attempt("u#0", ("A", "")), replace(attempt("u#1"), failure="env: down")
        with Folder(tmp_path, {"turns": 5}) as folder:
            folder.add(done)
            folder.add(failed)
        with (tmp_path / "trajectories.jsonl").open("a") as file:
            file.write('{"id": "u#2", "uid"')
        with Folder(tmp_path, {"turns": 5}) as folder:
            assert folder.find("u#0", "h") == done
            assert folder.find("u#1", "h") is None, "what failed is made again"
            folder.add(attempt("u#1", ("B", "")))
        assert [(each.id, each.failure) for each in read_trajectories(tmp_path)] == [
            ("u#0", None),
            ("u#1", None),
        ]

    def test_other_settings_need_another_folder(self, tmp_path: Path) -> None:
        Folder(tmp_path, {"turns": 5}).__exit__()
        with pytest.raises(UsageError, match="with turns 5, and now it is 6"):
            Folder(tmp_path, {"turns": 6})

    def test_another_problem_under_the_same_uid_is_noticed(self, tmp_path: Path) -> None:
        assert problem_hash(RECORD) != problem_hash(replace(RECORD, answer="43"))
        with Folder(tmp_path, {}) as folder:
            folder.add(attempt("u#0", ("A", "")))
            with pytest.raises(UsageError, match="another problem"):
                folder.find("u#0", "other")

    def test_a_folder_without_attempts_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="holds no trajectories"):
            list(read_trajectories(tmp_path))
