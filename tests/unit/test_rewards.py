"""Reward parts: exact values, and how a recipe's parts are weighted and recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasonkit.errors import ConfigError, UsageError
from reasonkit.recipe import RewardPart
from reasonkit.records import Record, Rollout, Segment, Verdict
from reasonkit.rewards import RewardSum, logic_rl, overlong

RECORD = Record("r1", "test", ({"role": "user", "content": "?"},), "42")


def rollout(text: str = "", tokens: int = 0) -> Rollout:
    segment = Segment((7,) * tokens, (1,) * tokens, (-1.0,) * tokens)
    return Rollout("r1", 0, (segment,), text, "stop", None, 0.0)


def part(
    name: str, text: str = "", tokens: int = 0, verdict: Verdict | None = None, **options: object
) -> float:
    total = RewardSum({name: RewardPart(options=dict(options))})
    return total(RECORD, rollout(text, tokens), verdict or Verdict.correct("42"))[name]


WELL_FORMED = "<think>hm</think> <answer>42</answer>"


@pytest.mark.parametrize(
    ("text", "verdict", "value"),
    [
        (WELL_FORMED, Verdict.correct("42"), 3.0),
        (WELL_FORMED, Verdict.wrong("41", "differs"), -0.5),
        (WELL_FORMED, Verdict.no_answer("unreadable"), -1.0),
        ("42", Verdict.correct("42"), -3.0),
        ("hm</think><answer>42</answer>", Verdict.correct("42"), 3.0),
        ("<answer>42</answer><think>hm</think>", Verdict.correct("42"), -3.0),
        (WELL_FORMED + "<answer>42</answer>", Verdict.correct("42"), -3.0),
    ],
)
def test_logic_rl_has_exactly_its_published_values(text: str, verdict: Verdict, value: float) -> None:
    assert logic_rl(RECORD, rollout(text), verdict) == value


@pytest.mark.parametrize(
    ("tokens", "value"), [(0, 0.0), (16384, 0.0), (18432, -0.5), (20480, -1.0), (30000, -1.0)]
)
def test_overlong_is_dapos_ramp(tokens: int, value: float) -> None:
    given = rollout(tokens=tokens)
    assert overlong(RECORD, given, Verdict.correct("1"), max_tokens=20480, buffer=4096) == value


@pytest.mark.parametrize(("tokens", "value"), [(5, 0.0), (10, 0.0), (15, -0.5), (20, -1.0), (99, -1.0)])
def test_brevity_falls_from_target_to_limit(tokens: int, value: float) -> None:
    assert part("brevity", tokens=tokens, target=10, limit=20) == value


def test_brevity_never_punishes_a_wrong_answer_for_its_length() -> None:
    assert part("brevity", tokens=99, verdict=Verdict.wrong("1", "no"), target=10, limit=20) == 0.0


@pytest.mark.parametrize(("text", "value"), [("abc", 1.0), ("ab漢字", 0.5), ("123 …", 1.0), ("", 1.0)])
def test_language_is_the_share_of_letters_in_the_script(text: str, value: float) -> None:
    assert part("language", text) == value


def test_repetition_counts_repeated_ngrams() -> None:
    assert part("repetition", "a b c d", words=2) == 0.0
    assert part("repetition", "a b a b a", words=2) == -0.5
    assert part("repetition", "a", words=2) == 0.0


@pytest.mark.parametrize(("text", "value"), [(WELL_FORMED, 1.0), ("<think>hm</think>42", 0.0), ("", 0.0)])
def test_format_wants_each_tag_once_and_in_order(text: str, value: float) -> None:
    assert part("format", text) == value


def test_parts_are_weighted_and_recorded_apart() -> None:
    total = RewardSum({"correctness": 2.0, "format": RewardPart(weight=0.5)})
    assert total(RECORD, rollout(WELL_FORMED), Verdict.correct("42")) == {"correctness": 2.0, "format": 0.5}


def test_a_users_own_function_is_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def shout(record, rollout, verdict, *, mark):\n    return float(rollout.text.count(mark))\n"
    (tmp_path / "my_rewards.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert part("my_rewards:shout", "ha! ha!", mark="!") == 2.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"overlong": 1.0}, "needs max_tokens, buffer"),
        ({"correctness": RewardPart(options={"strict": True})}, "does not know strict"),
    ],
)
def test_missing_and_unknown_options_are_named(settings: dict[str, float | RewardPart], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RewardSum(settings)


def test_an_unknown_part_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        RewardSum({"corectness": 1.0})
    assert "correctness" in caught.value.hint
