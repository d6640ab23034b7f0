"""Foreign rows become Records and come back unchanged; rows that do not fit say why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reasonkit.data.adapters import (
    READERS,
    WRITERS,
    BadRow,
    Row,
    columns_as,
    read_alpaca,
    read_ii_thought,
    read_messages,
    read_preference,
    read_sharegpt,
    read_verl,
    recognise,
    stable_uid,
)
from reasonkit.errors import UsageError
from reasonkit.records import Message, Record, from_row, to_row

USER = {"role": "user", "content": "What is 6 × 7?"}
BAKED = "<|im_start|>user\nWho is a knave?<|im_end|>\n<|im_start|>assistant\n<think>"

VERL = {
    "data_source": "math__deepscaler",
    "prompt": [{"role": "system", "content": "Think."}, USER],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "42"},
    "extra_info": {"index": 7, "split": "train"},
}
GURU_ZEBRA = VERL | {
    "data_source": "zebra_puzzle_dataset",
    "reward_model": {"style": "rule", "ground_truth": {"header": ["House"], "rows": [["1"], ["2"]]}},
    "qwen2.5_7b_pass_rate": 0.25,
}
GURU_ARC = VERL | {"reward_model": {"style": "rule", "ground_truth": [[1, 2], [3, 4]]}}
GURU_STRINGS = VERL | {
    "reward_model": json.dumps(VERL["reward_model"]),
    "extra_info": json.dumps({"index": 7}),
}
LOGIC_RL = {
    "data_source": "kk_logic",
    "prompt": [{"role": "user", "content": BAKED}],
    "ability": "logic",
    "reward_model": {
        "style": "rule",
        "ground_truth": {"solution_text_format": "(1) A is a knight", "statements": "x"},
    },
    "extra_info": {"index": 0, "split": "train"},
}
REASON_IO = {
    "data_source": "reason_io",
    "prompt": [{"role": "user", "content": BAKED}],
    "reward_model": {
        "ground_truth": {
            "solution": '{"output": 3}',
            "task_type": "deductive",
            "io_pair": '{"input": {}, "output": 3}',
            "reference_code_length": 120,
        }
    },
}
II_THOUGHT = {
    "uid": "q1",
    "messages": [USER],
    "verification_info": json.dumps({"answer": "42", "type": "math_verifiable"}, separators=(",", ":")),
    "domain": "math",
}
ALPACA = {
    "uid": "a",
    "instruction": "Add 1.",
    "input": "",
    "output": "2",
    "history": [["One?", "1"]],
    "system": "Count.",
}
SHAREGPT = {
    "uid": "s",
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
    ],
}
ANSWERED = {"role": "assistant", "content": "42"}
MESSAGES: dict[str, Any] = {
    "uid": "m",
    "messages": [
        USER,
        {"role": "assistant", "content": "41", "train": False},
        {"role": "user", "content": "Again."},
        ANSWERED,
    ],
}
PREFERENCE = {
    "uid": "p",
    "prompt": [USER],
    "chosen": [{"role": "assistant", "content": "42"}],
    "rejected": [{"role": "assistant", "content": "41"}],
}


@pytest.mark.parametrize(
    ("format_name", "row"),
    [
        ("verl", VERL | {"extra_info": {"index": 7, "split": "train", "uid": "u"}}),
        ("reason_io", REASON_IO),
        ("ii_thought", II_THOUGHT),
        ("alpaca", ALPACA),
        ("sharegpt", SHAREGPT),
        ("messages", MESSAGES),
        ("preference", PREFERENCE),
    ],
)
def test_a_foreign_row_comes_back_unchanged(format_name: str, row: dict[str, Any]) -> None:
    assert WRITERS[format_name](READERS[format_name](row)) == row


@pytest.mark.parametrize(
    ("format_name", "row"),
    [
        ("verl", VERL),
        ("verl", GURU_ZEBRA),
        ("verl", GURU_ARC),
        ("verl", GURU_STRINGS),
        ("logic_rl", LOGIC_RL),
        ("reason_io", REASON_IO),
        ("ii_thought", II_THOUGHT),
        ("alpaca", ALPACA),
        ("sharegpt", SHAREGPT),
        ("messages", MESSAGES),
        ("preference", PREFERENCE),
    ],
)
def test_a_record_survives_its_own_format_and_the_record_file(format_name: str, row: dict[str, Any]) -> None:
    record = READERS[format_name](row)
    assert READERS[format_name](WRITERS[format_name](record)).prompt == record.prompt
    assert READERS[format_name](WRITERS[format_name](record)).answer == record.answer
    assert from_row(to_row(record)) == record


def test_gold_answers_keep_their_shape() -> None:
    assert read_verl(VERL).answer == "42"
    assert read_verl(GURU_ZEBRA).answer == {"header": ["House"], "rows": [["1"], ["2"]]}
    assert read_verl(GURU_ARC).answer == [[1, 2], [3, 4]]
    assert read_verl(GURU_STRINGS).answer == "42"
    assert read_verl(GURU_ZEBRA).metadata["qwen2.5_7b_pass_rate"] == 0.25


def test_a_prompt_with_a_baked_template_is_raw_and_is_not_baked_twice() -> None:
    for row in (LOGIC_RL, REASON_IO):
        record = read_verl(row)
        assert record.is_raw
        assert WRITERS["logic_rl"](record)["prompt"] == row["prompt"]
    assert not read_verl(VERL).is_raw


def test_writing_for_logic_rl_bakes_chatml_that_opens_a_thought() -> None:
    row = WRITERS["logic_rl"](read_verl(VERL))
    (message,) = row["prompt"]
    assert message["content"] == (
        "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\nWhat is 6 × 7?<|im_end|>\n"
        "<|im_start|>assistant\n<think>"
    )
    assert read_verl(row).is_raw


def test_ii_thought_is_routed_by_its_verification_type() -> None:
    record = read_ii_thought(II_THOUGHT)
    assert (record.source, record.answer, record.verifier) == ("math_verifiable", "42", None)
    code = II_THOUGHT | {
        "verification_info": {"type": "code_verifiable", "answer": "", "tests": ["assert f(1)"]}
    }
    assert read_ii_thought(code).answer == {"answer": "", "tests": ["assert f(1)"]}


def test_alpaca_joins_instruction_and_input_and_keeps_history() -> None:
    record = read_alpaca(ALPACA | {"input": "5"})
    assert [turn["role"] for turn in record.prompt] == ["system", "user", "assistant", "user"]
    assert record.prompt[-1]["content"] == "Add 1.\n\n5"


def test_preference_without_a_prompt_takes_what_both_share() -> None:
    row = {
        "chosen": [USER, {"role": "assistant", "content": "42"}],
        "rejected": [USER, {"role": "assistant", "content": "41"}],
    }
    assert read_preference(row).prompt == (Message(role="user", content=USER["content"]),)
    assert read_preference(row).answer == {"chosen": "42", "rejected": "41"}


def test_named_columns_make_records() -> None:
    read = columns_as({"question": "problem", "answer": "solution", "uid": "id"}, "my_set", "math")
    record = read({"problem": "1+1?", "solution": 2, "id": 9})
    assert (record.uid, record.source, record.verifier, record.answer) == ("9", "my_set", "math", 2)


def test_the_uid_is_the_problems_not_the_files() -> None:
    moved = VERL | {"extra_info": {"index": 99, "split": "test"}}
    assert read_verl(VERL).uid == read_verl(moved).uid == stable_uid(read_verl(VERL).prompt, "42")
    assert read_verl(VERL).uid != read_verl(VERL | {"reward_model": {"ground_truth": "43"}}).uid


@pytest.mark.parametrize(
    ("read", "row", "reason"),
    [
        (read_verl, VERL | {"prompt": None}, "prompt is missing"),
        (read_verl, VERL | {"prompt": []}, "prompt is empty"),
        (read_verl, VERL | {"prompt": 7}, "prompt is a int"),
        (read_verl, VERL | {"prompt": [{"role": "user", "content": None}]}, "turn without a role or a text"),
        (read_verl, VERL | {"data_source": 3}, "data_source is a int"),
        (read_verl, VERL | {"reward_model": {"style": "rule"}}, "no ground_truth; it has style"),
        (read_verl, VERL | {"reward_model": "{"}, "reward_model is no JSON"),
        (read_verl, VERL | {"extra_info": {"image": b"\x00"}}, "what JSON cannot"),
        (read_verl, VERL | {"reward_model": {"ground_truth": float("nan")}}, "what JSON cannot"),
        (read_ii_thought, II_THOUGHT | {"verification_info": "{}"}, "type is None"),
        (read_alpaca, {"instruction": "x"}, "output is missing"),
        (read_sharegpt, {"conversations": [{"from": "bot", "value": "x"}]}, "from 'bot'"),
        (read_sharegpt, {"conversations": SHAREGPT["conversations"][:2]}, "does not end with a reply"),
        (read_messages, {"messages": MESSAGES["messages"][:1]}, "does not end with a reply"),
        (read_messages, {**MESSAGES, "tools": [{"name": "search"}]}, "has tools"),
        (read_messages, {"messages": MESSAGES["messages"][:2]}, "leaves nothing to learn"),
        (read_messages, {"messages": [USER, USER | {"role": "assistant", "train": "no"}]}, "train is 'no'"),
        (read_preference, PREFERENCE | {"rejected": PREFERENCE["chosen"]}, "are equal"),
        (columns_as({"question": "q", "answer": "a"}, "s"), {"q": "1?", "a": None}, "column a is empty"),
    ],
)
def test_a_row_that_does_not_fit_says_why(read: Any, row: Row, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        read(row)


def test_of_a_prompt_and_its_completion_the_completion_is_learned() -> None:
    given = MESSAGES["messages"][:3]
    row: Row = {"uid": "m", "prompt": [{**turn, "train": None} for turn in given], "completion": [ANSWERED]}
    assert READERS[recognise(list(row))](row) == read_messages(MESSAGES)
    short = READERS["completion"]({"prompt": "6 x 7?", "completion": "42"})
    assert (short.prompt, short.answer, short.unlearned) == (
        (Message(role="user", content="6 x 7?"),),
        "42",
        (),
    )


def test_formats_are_recognised_by_their_columns() -> None:
    record_row = to_row(Record("u", "s", (Message(role="user", content="x"),), 1))
    samples = {"reasonkit": record_row, "verl": REASON_IO, "ii_thought": II_THOUGHT, "alpaca": ALPACA}
    samples |= {"sharegpt": SHAREGPT, "messages": MESSAGES, "preference": PREFERENCE}
    assert {name: recognise(list(row)) for name, row in samples.items()} == {name: name for name in samples}
    with pytest.raises(UsageError, match="a, b are those of no known format"):
        recognise(["a", "b"])
