"""Sokoban by replay: the rules, the ways to write moves, and the end of the game."""

from __future__ import annotations

import pytest

from reasonkit.records import Record, Status, Verdict
from reasonkit.verifiers.sokoban_replay import Room, parse_moves, parse_room, render_room, verify_sokoban

ROOM = "######\n#P___#\n#_X_O#\n#____#\n######"


def judged(answer: str, room: str = ROOM, max_steps: int = 10) -> Verdict:
    record = Record("u", "sokoban", (), {}, None, {"room": room, "max_steps": max_steps})
    return verify_sokoban(record, f"<answer>{answer}</answer>")


def played(room: str, moves: str) -> str:
    state = parse_room(room)
    for move in parse_moves(moves):
        state = state.after(move)
    return render_room(state)


class TestRules:
    def test_the_player_walks_and_walls_stop_it(self) -> None:
        assert played(ROOM, "Right") == ROOM.replace("#P___#", "#_P__#")
        assert played(ROOM, "Up || Left") == ROOM

    def test_a_box_is_pushed_but_not_into_a_wall_or_another_box(self) -> None:
        assert played("#####\n#PX_#\n#_O_#\n#####", "Right").split("\n")[1] == "#_PX#"
        assert played("#####\n#PX_#\n#_O_#\n#####", "Right Right").split("\n")[1] == "#_PX#"
        assert played("######\n#PXX_#\n#OO__#\n######", "Right").split("\n")[1] == "#PXX_#"

    def test_boxes_are_never_pulled(self) -> None:
        assert played("######\n#_PX_#\n#O___#\n######", "Left").split("\n")[1] == "#P_X_#"

    def test_targets_show_under_boxes_and_the_player(self) -> None:
        assert played("#####\n#PXO#\n#O__#\n#_X_#\n#####", "Right").split("\n")[1] == "#_P√#"
        assert played("#####\n#P__#\n#O__#\n#_X_#\n#####", "Down").split("\n")[2] == "#S__#"

    def test_rendering_and_parsing_are_inverse(self) -> None:
        text = "#######\n#_PX√O#\n#_____#\n#######"
        assert render_room(parse_room(text)) == text
        assert isinstance(parse_room(text), Room)

    @pytest.mark.parametrize(
        ("room", "message"),
        [
            ("####\n#P#\n####", "equally long"),
            ("#####\n#P?X#\n#####", "no symbol"),
            ("#####\n#PXO_\n#####", "border"),
            ("#####\n#_XO#\n#####", "exactly one player"),
            ("#####\n#PXX#\n#####", "2 boxes for 0 targets"),
        ],
    )
    def test_a_room_that_is_none_is_an_error(self, room: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            parse_room(room)


class TestMoves:
    @pytest.mark.parametrize(
        "text",
        [
            "Up || Down",
            "up,down",
            "U D",
            "1 2",
            "UP -> DOWN",
            "[Up, Down]",
            "Up\nDown.",
            "Up ;Down",
            "Up||Down||",
        ],
    )
    def test_moves_are_read_in_many_spellings(self, text: str) -> None:
        assert parse_moves(text) == ["Up", "Down"]

    @pytest.mark.parametrize("text", ["Jump", "Up Upp", "UpDown", "5", "0", "up and down"])
    def test_other_words_are_no_moves(self, text: str) -> None:
        with pytest.raises(ValueError, match="is no move"):
            parse_moves(text)


class TestVerdicts:
    def test_a_solution_is_right_and_its_length_is_told(self) -> None:
        verdict = judged("Down Right Right")
        assert (verdict.status, verdict.details["moves"]) == (Status.CORRECT, 3)

    def test_the_game_ends_when_it_is_solved(self) -> None:
        assert judged("Down Right Right Left Up Up").status is Status.CORRECT

    def test_moves_beyond_the_limit_are_not_played(self) -> None:
        assert judged("Down Right Right", max_steps=3).status is Status.CORRECT
        verdict = judged("Down Right Right", max_steps=2)
        assert (verdict.status, verdict.reason) == (Status.WRONG, "not solved within 2 moves")

    def test_an_unsolved_room_says_how_far_it_got(self) -> None:
        assert judged("Right").reason == "0 of 1 boxes are on targets after 1 moves"

    def test_no_moves_and_no_answer_earn_nothing(self) -> None:
        assert judged("").score == 0
        assert judged("fly").status is Status.NO_ANSWER
        record = Record("u", "sokoban", (), {}, None, {"room": ROOM, "max_steps": 5})
        assert verify_sokoban(record, "Down Right Right").status is Status.NO_ANSWER

    def test_a_room_with_no_border_to_run_over_is_required(self) -> None:
        with pytest.raises(ValueError, match="border"):
            judged("Up", room="_____\n_PXO_\n_____")
