"""The environments, played by hand: what is shown, what is earned, when it ends, and who judges."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasonkit.data.build import build
from reasonkit.data.sources.frozen_lake import shortest_way
from reasonkit.data.sources.sokoban import solve
from reasonkit.engines import Reply
from reasonkit.envs import ENVS, Env, Step
from reasonkit.envs.frozen_lake import FrozenLake
from reasonkit.envs.gymnasium import Gymnasium
from reasonkit.envs.python_tool import PythonTool
from reasonkit.envs.sokoban import Sokoban
from reasonkit.errors import ConfigError, ReasonkitError, UsageError
from reasonkit.records import Message, Record, Status
from reasonkit.registry import with_options
from reasonkit.verifiers.sokoban_replay import parse_room

ROOM = "#####\n#P__#\n#_XO#\n#___#\n#####"
"""Down, then Right solves it."""


def record(room: str = ROOM, **metadata: Any) -> Record:
    return Record("r", "sokoban", (), None, metadata={"room": room, "max_steps": 10, **metadata})


def play(
    env: Env, replies: Sequence[str], of: Record | None = None, seed: int = 0
) -> tuple[list[Message], list[Step]]:
    """The first messages, and what followed each reply until the end of the episode."""

    async def through() -> tuple[list[Message], list[Step]]:
        first, steps = await env.reset(of or record(), seed), []
        for reply in replies:
            steps.append(await env.step(Reply(reply, "stop")))
            if steps[-1].done or steps[-1].truncated:
                break
        await env.close()
        return first, steps

    return asyncio.run(through())


def said(*moves: str) -> list[str]:
    return [f"<think> hm </think> <answer> {move} </answer>" for move in moves]


def test_sokoban_earns_ragens_rewards_and_never_more_than_eleven() -> None:
    _, steps = play(Sokoban(), said("Down", "Right"))
    assert [step.reward for step in steps] == pytest.approx([-0.1, 10.9])
    assert [step.done for step in steps] == [False, True]
    assert steps[-1].verdict is not None
    assert (steps[-1].verdict.status, steps[-1].verdict.answer) == (Status.CORRECT, "Down || Right")


@pytest.mark.parametrize("size", [5, 6])
def test_a_shortest_solution_is_worth_eleven_less_a_tenth_of_its_length(size: int) -> None:
    for each in build("sokoban", "train", 12, 0, {"dim_x": size, "dim_y": size, "max_steps": 3}):
        moves = solve(parse_room(each.metadata["room"]), 3)
        assert moves is not None
        _, steps = play(Sokoban(), said(*moves), each)
        assert steps[-1].done
        assert sum(step.reward for step in steps) == pytest.approx(11 - 0.1 * len(moves))


def test_a_box_that_leaves_its_target_costs_what_it_earned() -> None:
    room = "######\n#P___#\n#_√X_#\n#_O__#\n######"
    _, steps = play(Sokoban(), said("Right", "Down"), record(room))
    assert [step.reward for step in steps] == pytest.approx(
        [-0.1, -0.1]
    )  # down onto the other target: +1 − 1
    room = "######\n#P___#\n#_√__#\n#_X_O#\n######"
    _, steps = play(Sokoban(), said("Down", "Right"), record(room))
    assert [step.reward for step in steps] == pytest.approx([-0.1, -1.1])


def test_what_is_shown_is_the_room_and_ragens_words() -> None:
    (first,), (step,) = play(Sokoban(), said("Right"))
    assert "Goal: Push all boxes (X) onto targets (O)." in first["content"]
    assert " # \t P \t _ \t _ \t # \t\n # \t _ \t X \t O \t # \t" in first["content"]
    assert step.messages[0]["content"].startswith(
        "After you take this action, the observation is:\n # \t # \t"
    )
    assert " # \t _ \t P \t _ \t # \t\n" in step.messages[0]["content"]
    assert step.messages[0]["content"].endswith("reward: -0.1\ndone: False")


@pytest.mark.parametrize(
    "reply", ["Right", "<answer>Jump</answer>", "<answer></answer>", "<answer> Right", ""]
)
def test_what_is_no_move_stands_still_and_costs_the_penalty_that_is_not_shown(reply: str) -> None:
    _, (step,) = play(Sokoban(format_penalty=0.5), [reply])
    assert step.reward == pytest.approx(-0.6)
    assert "Action is invalid. You stay in the same position." in step.messages[0]["content"]
    assert "reward: -0.1" in step.messages[0]["content"]
    assert " # \t P \t _ \t _ \t # \t\n" in step.messages[0]["content"]


@pytest.mark.parametrize("spelling", ["Down", " down ", "2", "D"])
def test_moves_are_read_in_any_spelling(spelling: str) -> None:
    _, (step,) = play(Sokoban(), [f"<answer>{spelling}</answer>"])
    assert step.info == {"moves": ["Down"], "readable": True}


def test_only_the_first_answer_counts_and_the_reply_ends_there() -> None:
    env = Sokoban()
    assert env.stop == ("</answer>",)
    _, (step,) = play(
        env, ["<answer>Down</answer> After that I solved it: <answer>Right</answer> reward: 10.9"]
    )
    assert step.info["moves"] == ["Down"]
    assert step.reward == pytest.approx(-0.1)


def test_up_to_so_many_moves_a_turn() -> None:
    _, (step,) = play(Sokoban(actions_per_turn=2), said("Down || Right || Up"))
    assert step.done
    assert step.reward == pytest.approx(10.8)
    _, (cut,) = play(Sokoban(actions_per_turn=1), said("Down || Right"))
    assert cut.info["moves"] == ["Down"]
    _, (broken,) = play(Sokoban(actions_per_turn=3), said("Down || Jump || Right"))
    assert broken.info == {"moves": ["Down"], "readable": False}
    assert broken.reward == pytest.approx(-1.1)


def test_moves_after_the_solution_are_not_played() -> None:
    _, (step,) = play(Sokoban(actions_per_turn=3), said("Down || Right || Left"))
    assert step.reward == pytest.approx(10.8)


def test_the_episode_is_cut_after_its_turns_or_its_moves() -> None:
    _, steps = play(Sokoban(max_turns=3), said(*["Up"] * 9))
    assert [step.truncated for step in steps] == [False, False, True]
    assert not any(step.done for step in steps)
    assert steps[-1].verdict is not None
    assert steps[-1].verdict.status is Status.WRONG
    _, steps = play(Sokoban(max_turns=9), said(*["Up"] * 9), record(max_steps=2))
    assert len(steps) == 2
    _, steps = play(Sokoban(max_turns=9, max_actions=4), said(*["Up"] * 9), record(max_steps=2))
    assert len(steps) == 4


def test_without_memory_each_turn_shows_the_room_alone() -> None:
    (first,), (step,) = play(Sokoban(text="grid", answer_tag="", memory=False), ["D"])
    assert first["content"] == "P__\n_XO\n___"
    assert step.fresh
    assert step.messages[0]["content"] == "___\nPXO\n___"


def test_a_raw_prompt_is_shown_as_it_is() -> None:
    (ragen,) = build("sokoban", "train", 1, 0, {"ragen": True, "dim_x": 6, "dim_y": 6})
    first, _ = play(Sokoban(), [], ragen)
    assert first == list(ragen.prompt)


def test_another_answer_tag_is_asked_for() -> None:
    (first,), (step,) = play(Sokoban(answer_tag="move"), ["<move>Down</move>"])
    assert "<answer>" not in first["content"]
    assert "<move> Up </move>" in first["content"]
    assert step.info["moves"] == ["Down"]


def test_random_play_ends_and_its_rewards_are_bounded() -> None:
    """Whatever is written, an episode ends and earns at most what its shortest solution is worth."""
    rng = random.Random(0)
    words = ["Up", "Down", "Left", "Right", "Jump", "||", "<answer>", "</answer>", "reward: 10.9", "<think>"]
    for each in build("sokoban", "train", 20, 1, {"max_steps": 6}):
        replies = [" ".join(rng.choices(words, k=rng.randrange(8))) for _ in range(20)]
        _, steps = play(Sokoban(max_turns=6, actions_per_turn=2), replies, each)
        assert steps[-1].done or steps[-1].truncated
        assert sum(step.reward for step in steps) <= 11 - 0.1 * each.metadata["optimal"] + 1e-9


LAKE = "SFF\nHFH\nFFG"


def lake(**metadata: Any) -> Record:
    return Record("l", "frozen_lake", (), "G", metadata={"lake": LAKE, **metadata})


def test_the_goal_of_the_lake_earns_one_and_a_hole_ends_it() -> None:
    (first,), steps = play(FrozenLake(), said("Right", "Down", "Down", "Right"), lake())
    assert "PFF\nHFH\nFFG" in first["content"]
    assert [step.reward for step in steps] == [0.0, 0.0, 0.0, 1.0]
    assert steps[-1].verdict is not None
    assert steps[-1].verdict.status is Status.CORRECT
    _, steps = play(FrozenLake(), said("Down", "Right"), lake())
    assert [step.done for step in steps] == [True]
    assert steps[0].verdict is not None
    assert steps[0].verdict.reason == "fell into a hole"


def test_slippery_ice_is_the_episodes_own_draw() -> None:
    moves = said(*["Right", "Down"] * 5)

    def ways(seed: int) -> list[str]:
        _, steps = play(FrozenLake(slippery=True), moves, lake(lake="SFFF\nFFFF\nFFFF\nFFFG"), seed)
        return [step.messages[0]["content"] for step in steps if step.messages]

    assert ways(1) == ways(1)
    assert len({tuple(ways(seed)) for seed in range(8)}) > 1


def test_lakes_have_a_way_and_the_splits_share_none_mirrored_or_not() -> None:
    def keys(split: Any) -> set[str]:
        found = set()
        for each in build("frozen_lake", split, 60, 3):
            rows = each.metadata["lake"].split("\n")
            assert shortest_way(rows) == each.metadata["optimal"]
            found.add(
                min(each.metadata["lake"], "\n".join("".join(column) for column in zip(*rows, strict=True)))
            )
        return found

    train, test = keys("train"), keys("test")
    assert len(train) == len(test) == 60
    assert not train & test


def test_a_record_that_the_game_cannot_play_says_where_to_get_one() -> None:
    plain = Record("q", "math", (Message(role="user", content="1+1"),), "2")
    with pytest.raises(UsageError, match="holds no room") as refused:
        play(Sokoban(), [], plain)
    assert "reasonkit data build sokoban" in refused.value.hint
    with pytest.raises(UsageError, match="holds no lake"):
        play(FrozenLake(), [], plain)


GAME = '''\
"""A number to guess, with Gymnasium's interface and nothing of Gymnasium."""


class Guess:
    def __init__(self, most=9):
        self.most, self.closed = most, False

    def reset(self, *, seed=None, options=None):
        self.wanted, self.tries = seed % self.most, 0
        return "guess", {}

    def step(self, action):
        self.tries += 1
        right = int(action) == self.wanted
        hint = "right" if right else "higher" if int(action) < self.wanted else "lower"
        return hint, float(right), right, self.tries == 4, {"tries": self.tries}

    def render(self):
        return f"between 0 and {self.most}"

    def close(self):
        self.closed = True


class Painted(Guess):
    def reset(self, *, seed=None, options=None):
        return [0.0, 1.0], {}

    def render(self):
        return [[0, 0]]
'''


@pytest.fixture
def guessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    (tmp_path / "guess_game.py").write_text(GAME)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("guess_game", None)
    return Record("e", "episodes", (), None, metadata={"seed": 6})


def test_a_game_with_gymnasiums_interface_is_played(guessing: Record) -> None:
    env = Gymnasium(id="guess_game:Guess", rules="Guess a number.", options={"most": 8})
    (first,), steps = play(env, ["<answer>3</answer>", "hm", "<answer>6</answer>"], guessing)
    assert first["content"].startswith("Guess a number.\n\nguess\n\nGive your move as <answer>")
    assert [step.messages[0]["content"] for step in steps[:2]] == ["higher", "That is no move."]
    assert (steps[-1].done, steps[-1].reward) == (True, 1.0)
    assert steps[-1].verdict is not None
    assert steps[-1].verdict.status is Status.CORRECT


def test_named_actions_are_numbers_to_the_game_and_its_own_limit_truncates(guessing: Record) -> None:
    env = Gymnasium(id="guess_game:Guess", actions=["None", "One"], answer_tag="")
    (first,), steps = play(env, ["one", "ONE ", "none", "one", "one"], guessing)
    assert "Reply with your move alone. Moves: none, one." in first["content"]
    assert [step.info["action"] for step in steps] == [1, 1, 0, 1]
    assert (steps[-1].truncated, steps[-1].done) == (True, False)
    assert steps[-1].verdict is not None
    assert steps[-1].verdict.status is Status.WRONG


def test_a_game_that_shows_no_text_is_refused(guessing: Record) -> None:
    with pytest.raises(UsageError, match="shows a list, and only text"):
        play(Gymnasium(id="guess_game:Painted"), [], guessing)


def test_a_registered_game_without_gymnasium_says_how_to_get_it(guessing: Record, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ReasonkitError, match="needs gymnasium, which is not installed") as refused:
        play(Gymnasium(id="FrozenLake-v1"), [], guessing)
    assert refused.value.hint == "pip install gymnasium"


def test_a_registered_game_is_made_by_gymnasium(guessing: Record, monkeypatch: Any) -> None:
    import types

    made: list[Any] = []

    def make(game: str, **options: Any) -> Any:
        import guess_game  # type: ignore[import-not-found]

        made.append((game, options))
        return guess_game.Guess()

    monkeypatch.setitem(sys.modules, "gymnasium", types.SimpleNamespace(make=make))
    _, steps = play(Gymnasium(id="Guess-v0", options={"size": 4}), ["<answer>6</answer>"], guessing)
    assert made == [("Guess-v0", {"render_mode": "ansi", "size": 4})]
    assert steps[0].done


PROBLEM = Record("p", "t", (Message(role="user", content="What is 6 times 7?"),), "42")


def test_programs_run_between_turns_and_the_answer_is_the_verifiers() -> None:
    env = PythonTool(max_runs=2)
    replies = ["<python>\nprint(6 * 7)\n</python>", "<python>1 / 0</python>", "It is 42. <answer>42</answer>"]
    (first,), steps = play(env, replies, PROBLEM)
    assert first["content"].endswith("What is 6 times 7?")
    assert "up to 2" in first["content"]
    assert steps[0].messages == [Message(role="user", content="<output>\n42\n</output>")]
    assert "ZeroDivisionError" in steps[1].messages[0]["content"]
    assert steps[1].messages[0]["content"].endswith("Give your answer now.")
    assert (steps[2].done, steps[2].verdict, steps[2].answer) == (True, None, None)
    assert env.outside, "engines wait for programs, so that batches do not depend on their time"


def test_a_program_after_the_last_run_is_the_answer() -> None:
    _, steps = play(PythonTool(max_runs=1), ["<python>print(1)</python>"] * 2, PROBLEM)
    assert [step.done for step in steps] == [False, True]


def test_output_and_time_of_a_program_are_limited() -> None:
    env = PythonTool(max_output=20, seconds=0.5)
    replies = ["<python>print('a' * 100 + 'b' * 100)</python>", "<python>while True: pass</python>"]
    _, steps = play(env, replies, PROBLEM)
    shown = steps[0].messages[0]["content"]
    assert shown == f"<output>\n{'a' * 10}\n[... 180 characters cut ...]\n{'b' * 10}\n</output>"
    assert steps[0].info["cut_characters"] == 180
    assert steps[1].info["status"] == "cpu_timeout"


def test_every_environment_takes_its_options_by_keyword_and_refuses_others() -> None:
    for name in ENVS:
        with pytest.raises(ConfigError, match="does not know no_such_option"):
            with_options(
                "environment",
                name,
                ENVS,
                {"no_such_option": 1, **({"id": "x"} if name == "gymnasium" else {})},
            )
    assert isinstance(with_options("environment", "sokoban", ENVS, {"max_turns": 2})(), Sokoban)


def test_an_environment_of_ones_own_needs_two_methods() -> None:
    class Mine(Env):
        async def reset(self, record: Record, seed: int) -> list[Message]:
            return list(record.prompt)

        async def step(self, reply: Reply) -> Step:
            return Step(done=True, reward=1.0)

    _, (step,) = play(Mine(), ["x"], replace(PROBLEM, uid="m"))
    assert step.reward == 1.0
