"""Sokoban rooms: the recorded length is the shortest there is, found here by a separate walk over dictionaries."""

from __future__ import annotations

from collections import Counter, deque

import pytest

from reasonkit.data.build import build, source_named
from reasonkit.data.sources.sokoban import canonical
from reasonkit.errors import UsageError
from reasonkit.verifiers.sokoban_replay import parse_room, verify_sokoban

STEPS = {"Up": (-1, 0), "Down": (1, 0), "Left": (0, -1), "Right": (0, 1)}


def shortest(room: str, limit: int = 60) -> int | None:
    """Fewest moves that solve a room, by breadth-first search over sets of coordinates."""
    cells = {(r, c): symbol for r, row in enumerate(room.split("\n")) for c, symbol in enumerate(row)}
    walls = {at for at, symbol in cells.items() if symbol == "#"}
    targets = frozenset(at for at, symbol in cells.items() if symbol in "O√S")
    start = (
        next(at for at, symbol in cells.items() if symbol in "PS"),
        frozenset(at for at, symbol in cells.items() if symbol in "X√"),
    )
    seen, waiting = {start}, deque([(start, 0)])
    while waiting:
        (player, boxes), steps = waiting.popleft()
        if boxes == targets:
            return steps
        if steps == limit:
            return None
        for dr, dc in STEPS.values():
            cell, beyond = (player[0] + dr, player[1] + dc), (player[0] + 2 * dr, player[1] + 2 * dc)
            if cell in walls or (cell in boxes and (beyond in walls or beyond in boxes)):
                continue
            after = (cell, boxes - {cell} | {beyond} if cell in boxes else boxes)
            if after not in seen:
                seen.add(after)
                waiting.append((after, steps + 1))
    return None


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 60),
        ({"num_boxes": 2, "max_steps": 20}, 12),
        ({"dim_x": 5, "dim_y": 8}, 20),
        ({"dim_x": 8, "dim_y": 8}, 15),
    ],
)
def test_the_recorded_length_is_the_shortest(settings: dict[str, int], count: int) -> None:
    for record in build("sokoban", "train", count, 1, settings):
        assert shortest(record.metadata["room"]) == record.metadata["optimal"]
        verdict = verify_sokoban(record, f"<answer>{record.answer['solution']}</answer>")
        assert verdict.score == 1.0
        assert verdict.details["moves"] == record.metadata["optimal"] <= record.metadata["max_steps"]


def test_bins_have_equal_shares_and_hold_what_they_say() -> None:
    records = list(build("sokoban", "train", 60, 2, {"bins": [2, 5, 10]}))
    assert Counter(record.metadata["bin"] for record in records) == {"1-2": 20, "3-5": 20, "6-10": 20}
    for record in records:
        first, last = map(int, record.metadata["bin"].split("-"))
        assert first <= record.metadata["optimal"] <= last


def test_no_room_is_another_ones_mirror_image_or_turn() -> None:
    rooms = [parse_room(record.metadata["room"]) for record in build("sokoban", "train", 300, 3)]
    assert len({canonical(room) for room in rooms}) == 300


def test_all_eight_images_of_a_room_are_the_same_room() -> None:
    rows = ["######", "#PX_O#", "##___#", "######"]
    images = set()
    for flipped in (rows, rows[::-1]):
        turned = flipped
        for _ in range(4):
            turned = ["".join(column) for column in zip(*turned[::-1], strict=True)]
            images.add("\n".join(turned))
    assert len(images) == 8
    assert len({canonical(parse_room(image)) for image in images}) == 1


def test_a_rooms_walls_and_targets_stand_in_one_split_only() -> None:
    def rooms(split: str) -> set[str]:
        starts = (record.metadata["room"] for record in build("sokoban", split, 150, 4))  # type: ignore[arg-type]
        empty = (start.translate(str.maketrans("XP√S", "__OO")) for start in starts)
        return {min(room, *(images(room))) for room in empty}

    def images(room: str) -> list[str]:
        rows, found = room.split("\n"), []
        for _ in range(4):
            rows = ["".join(column) for column in zip(*rows[::-1], strict=True)]
            found += ["\n".join(rows), "\n".join(row[::-1] for row in rows)]
        return found

    assert not rooms("train") & rooms("test")


def test_the_five_variables_are_defaults_and_settings_override_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {
        "DIM_X": 7,
        "DIM_Y": 8,
        "NUM_BOXES": 2,
        "MAX_STEPS": 12,
        "SEARCH_DEPTH": 9,
    }.items():
        monkeypatch.setenv(variable, str(value))
    (record,) = build("sokoban", "train", 1, 0, {"num_boxes": 1})
    rows = record.metadata["room"].split("\n")
    assert (len(rows), len(rows[0])) == (7, 8)
    assert record.metadata["room"].count("X") == 1
    assert record.metadata["max_steps"] == 12
    assert record.metadata["optimal"] <= 9


def test_a_variable_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIM_X", "six")
    with pytest.raises(UsageError, match="DIM_X='six'"):
        build("sokoban", "train", 1)


def test_prompts_are_messages_or_rendered_for_a_base_model() -> None:
    (chat,) = build("sokoban", "train", 1, 0, {"prefix": "chat"})
    (base,) = build("sokoban", "train", 1, 0, {"prefix": "base"})
    assert not chat.is_raw
    assert base.is_raw
    assert base.prompt[0]["content"] == f"User: {chat.prompt[0]['content']}\nAssistant: <think>"


def test_ragen_rows_have_ragens_shape() -> None:
    records = list(build("sokoban", "train", 5, 10_000, {"ragen": True}))
    assert [record.metadata["index"] for record in records] == list(range(10_000, 10_005))
    assert all(record.answer == {"target": 0, "numbers": [0, 0]} for record in records)
    assert all(record.is_raw and record.metadata["ability"] == "bfs" for record in records)
    assert all(record.prompt[0]["content"].endswith("<|im_start|>assistant\n<think>") for record in records)
    grid = "\n".join(
        "".join(f" {cell} \t" for cell in row) for row in records[0].metadata["room"].split("\n")
    )
    assert (
        f"[Current Observation]:\n{grid}\nDecide the next action:\nAlways" in records[0].prompt[0]["content"]
    )
    assert all(shortest(record.metadata["room"]) in range(1, 11) for record in records)
    again = list(build("sokoban", "train", 4, 10_001, {"ragen": True}))
    assert [record.metadata["room"] for record in again] == [
        record.metadata["room"] for record in records[1:]
    ]


@pytest.mark.parametrize(
    "settings",
    [{"dim_x": 4}, {"num_boxes": 0}, {"num_boxes": 6}, {"bins": [5, 3]}, {"bins": [0, 3]}, {"bins": [3, 11]}],
)
def test_settings_that_no_room_can_meet_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="sokoban"):
        build("sokoban", "train", 1, 0, settings)
    assert source_named("sokoban").name == "sokoban"
