"""Rows that others wrote, as Records, and Records as rows that others read.

    verl            Guru, Logic-RL and stock verl: `data_source, prompt, ability, reward_model, extra_info`
    reason_io       verl's without style, ability and extra_info; the chat template is already in the prompt
    ii_thought      `messages` and `verification_info`, a JSON string
    alpaca          `instruction, input, output`, with `system` and `history` where they exist
    sharegpt        `conversations` of `from` and `value`
    messages        `messages` of `role` and `content`, and `train: false` where a reply is not to be learned
    completion      `prompt` and `completion`, texts or messages, as TRL has them
    preference      `prompt, chosen, rejected`, or whole conversations in `chosen` and `rejected`
    map             any other row, by naming its columns (`columns_as`)

A row that does not fit raises `BadRow` with the reason; who reads decides whether to count or to stop.
Rows are not cleaned here, and nothing is guessed beyond what each format leaves open.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

import xxhash

from reasonkit.errors import UsageError, nearest
from reasonkit.records import Message, Record, dumps, from_row, to_row

Row = Mapping[str, Any]
Reader = Callable[[Row], Record]
Writer = Callable[[Record], dict[str, Any]]

CHATML = "<|im_start|>"
"""A prompt that holds this has been through a chat template already, and must not go through another."""

_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_SHAREGPT_NAMES = {"system": "system", "user": "human", "assistant": "gpt"}
_VERL_COLUMNS = frozenset({"uid", "data_source", "prompt", "ability", "reward_model", "extra_info"})
_VERL_KEPT = frozenset({"apply_chat_template", "qwen2.5_7b_pass_rate", "qwen3_30b_pass_rate"})


class BadRow(Exception):
    """Why a row is no record."""


def stable_uid(prompt: Sequence[Message], answer: Any) -> str:
    """The same for the same problem, in whatever file and place it stands."""
    return xxhash.xxh3_64_hexdigest(dumps([prompt, answer]).encode())


def read_verl(row: Row) -> Record:
    """A row of verl, Guru, Logic-RL or ReasonIO. Gold answers keep their shape; JSON columns are decoded."""
    model = _object(row, "reward_model")
    if "ground_truth" not in model:
        raise BadRow(f"reward_model has no ground_truth; it has {', '.join(sorted(model))}")
    prompt = _messages(row, "prompt")
    extra = _object(row, "extra_info") if row.get("extra_info") is not None else {}
    metadata = {key: value for key, value in extra.items() if key not in ("uid", "verifier")}
    metadata |= {key: row[key] for key in _VERL_KEPT if row.get(key) is not None}
    if row.get("ability"):
        metadata["ability"] = row["ability"]
    if model.get("style") not in (None, "rule"):
        metadata["style"] = model["style"]
    if any(CHATML in message["content"] for message in prompt) or row.get("apply_chat_template") is False:
        metadata["prompt_format"] = "raw"
    # LiveBench's rows have the date of their release.
    metadata = {
        key: value.isoformat() if isinstance(value, date) else value for key, value in metadata.items()
    }
    answer = _plain(model["ground_truth"], "ground_truth")
    uid = row.get("uid") or extra.get("uid") or stable_uid(prompt, answer)
    verifier = extra.get("verifier")
    return Record(
        str(uid), _text(row, "data_source"), prompt, answer, verifier, _plain(metadata, "extra_info")
    )


def write_verl(record: Record) -> dict[str, Any]:
    """As stock verl loads it: `ground_truth` keeps its shape, and `extra_info` is an object."""
    extra = {key: value for key, value in record.metadata.items() if key not in ("ability", "style")}
    extra["uid"] = record.uid
    if record.verifier is not None:
        extra["verifier"] = record.verifier
    return {
        "data_source": record.source,
        "prompt": [dict(message) for message in record.prompt],
        "ability": record.metadata.get("ability", ""),
        "reward_model": {"style": record.metadata.get("style", "rule"), "ground_truth": record.answer},
        "extra_info": extra,
    }


def write_reason_io(record: Record) -> dict[str, Any]:
    """As ReasonIO wrote it, and Logic-RL's trainer reads it: the template is in the prompt, no extra columns."""
    return {
        "data_source": record.source,
        "prompt": [Message(role="user", content=baked(record))],
        "reward_model": {"ground_truth": record.answer},
    }


def write_logic_rl(record: Record) -> dict[str, Any]:
    """verl's row with the chat template already in the prompt, opened for thinking."""
    row = write_verl(record)
    row["extra_info"] = {**row["extra_info"], "prompt_format": "raw"}
    return row | {"prompt": [Message(role="user", content=baked(record))]}


def baked(record: Record) -> str:
    """The prompt as ChatML text that ends where the assistant starts to think."""
    if record.is_raw:
        return "".join(message["content"] for message in record.prompt)
    turns = "".join(f"{CHATML}{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in record.prompt)
    return f"{turns}{CHATML}assistant\n<think>"


def read_ii_thought(row: Row) -> Record:
    """II-Thought's `verification_info.type` becomes the source, which is what verifiers are routed by."""
    info = _object(row, "verification_info")
    kind = info.get("type")
    if not isinstance(kind, str):
        raise BadRow(f"verification_info.type is {kind!r}, not a name")
    rest = {key: value for key, value in info.items() if key != "type"}
    answer = rest["answer"] if rest.keys() == {"answer"} else rest
    prompt = _messages(row, "messages")
    others = {key: value for key, value in row.items() if key not in ("messages", "verification_info", "uid")}
    uid = row.get("uid") or stable_uid(prompt, answer)
    return Record(str(uid), kind, prompt, answer, None, _plain(others, "the row"))


def write_ii_thought(record: Record) -> dict[str, Any]:
    answer = record.answer if isinstance(record.answer, dict) else {"answer": record.answer}
    return {
        **record.metadata,
        "uid": record.uid,
        "messages": [dict(message) for message in record.prompt],
        "verification_info": dumps({**answer, "type": record.source}),
    }


def read_alpaca(row: Row) -> Record:
    """`history` gives earlier turns; `input` follows the instruction after a blank line, as Alpaca prompts do."""
    turns: list[Message] = []
    if row.get("system"):
        turns.append(Message(role="system", content=_text(row, "system")))
    for pair in row.get("history") or []:
        if len(pair) != 2:
            raise BadRow(f"a history turn has {len(pair)} parts, not an instruction and a response")
        turns += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
    question = _text(row, "instruction")
    if row.get("input"):
        question += "\n\n" + _text(row, "input")
    turns.append(Message(role="user", content=question))
    answer = _text(row, "output")
    return Record(str(row.get("uid") or stable_uid(turns, answer)), "alpaca", tuple(turns), answer)


def write_alpaca(record: Record) -> dict[str, Any]:
    turns = list(record.prompt)
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else ""
    roles = [turn["role"] for turn in turns]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        raise BadRow(f"turns {', '.join(roles)} do not alternate from user to user, which Alpaca needs")
    contents = [turn["content"] for turn in turns]
    history = [list(pair) for pair in zip(contents[:-1:2], contents[1::2], strict=True)]
    output = record.answer if isinstance(record.answer, str) else dumps(record.answer)
    row = {"uid": record.uid, "instruction": contents[-1], "input": "", "output": output, "history": history}
    return row | {"system": system} if system else row


def read_sharegpt(row: Row) -> Record:
    """The last turn must be the assistant's: it is the answer, the turns before it are the prompt."""
    turns: list[Message] = []
    for turn in _list(row, "conversations"):
        role = _SHAREGPT_ROLES.get(_text(turn, "from"))
        if role is None:
            raise BadRow(f"a turn is from '{turn['from']}'; known: {', '.join(_SHAREGPT_ROLES)}")
        turns.append(Message(role=role, content=_text(turn, "value")))
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise BadRow("the conversation does not end with a reply")
    answer = turns.pop()["content"]
    return Record(str(row.get("uid") or stable_uid(turns, answer)), "sharegpt", tuple(turns), answer)


def write_sharegpt(record: Record) -> dict[str, Any]:
    return {
        "uid": record.uid,
        "conversations": [
            {"from": _SHAREGPT_NAMES[turn["role"]], "value": turn["content"]} for turn in _with_answer(record)
        ],
    }


def _with_answer(record: Record) -> list[Message]:
    answer = record.answer if isinstance(record.answer, str) else dumps(record.answer)
    return [*record.prompt, Message(role="assistant", content=answer)]


def read_messages(row: Row) -> Record:
    """The last turn must be the assistant's: it is the answer, the turns before it are the prompt."""
    if row.get("tools"):
        raise BadRow("the row has tools, which no prompt of ours can offer")
    turns, flags = list(_messages(row, "messages")), [turn.get("train") for turn in _list(row, "messages")]
    spoken = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    if len(turns) < 2 or spoken[-1:] != [len(turns) - 1]:
        raise BadRow("the conversation does not end with a reply")
    for flag in flags:
        if flag is not None and not isinstance(flag, bool):
            raise BadRow(f"a turn's train is {flag!r}, not true or false")
    unlearned = [place for place in spoken if flags[place] is False]
    if unlearned == spoken:
        raise BadRow("every reply has train: false, which leaves nothing to learn")
    answer = turns.pop()["content"]
    metadata = {"unlearned": unlearned} if unlearned else {}
    uid = str(row.get("uid") or stable_uid(turns, answer))
    return Record(uid, "messages", tuple(turns), answer, metadata=metadata)


def read_completion(row: Row) -> Record:
    """TRL's rows. The prompt's own replies are given; those of the completion are learned."""
    prompt = [{**turn, "train": False} for turn in _messages(row, "prompt")]
    completion: list[Any] = (
        [{"role": "assistant", "content": row["completion"]}]
        if isinstance(row.get("completion"), str)
        else _list(row, "completion")
    )
    return read_messages(
        {"uid": row.get("uid"), "messages": [*prompt, *completion], "tools": row.get("tools")}
    )


def write_messages(record: Record) -> dict[str, Any]:
    turns = [dict(turn) for turn in _with_answer(record)]
    for place in record.unlearned:
        turns[place]["train"] = False
    return {"uid": record.uid, "messages": turns}


def read_preference(row: Row) -> Record:
    """The answer is {"chosen", "rejected"}. Without a `prompt`, it is what both conversations begin with."""
    if row.get("prompt") is not None:
        prompt = list(_messages(row, "prompt"))
        chosen, rejected = (_reply(row, name) for name in ("chosen", "rejected"))
    else:
        left, right = (list(_messages(row, name)) for name in ("chosen", "rejected"))
        prompt = left[:-1]
        if not prompt or right[:-1] != prompt:
            raise BadRow("chosen and rejected do not share all turns but the last")
        chosen, rejected = left[-1]["content"], right[-1]["content"]
    if chosen == rejected:
        raise BadRow("chosen and rejected are equal")
    answer = {"chosen": chosen, "rejected": rejected}
    return Record(str(row.get("uid") or stable_uid(prompt, answer)), "preference", tuple(prompt), answer)


def write_preference(record: Record) -> dict[str, Any]:
    if not isinstance(record.answer, dict) or record.answer.keys() != {"chosen", "rejected"}:
        raise BadRow("the answer is no pair of a chosen and a rejected reply")
    reply = {name: [Message(role="assistant", content=text)] for name, text in record.answer.items()}
    return {"uid": record.uid, "prompt": [dict(message) for message in record.prompt], **reply}


def columns_as(mapping: Mapping[str, str], source: str, verifier: str | None = None) -> Reader:
    """A reader of rows whose columns are named by `mapping`: question and answer, and maybe system and uid."""
    unknown = mapping.keys() - {"question", "answer", "system", "uid"}
    if unknown or not {"question", "answer"} <= mapping.keys():
        raise UsageError(
            f"--map names {', '.join(sorted(mapping)) or 'nothing'}; it takes question and answer, and system, uid",
            "--map question=COLUMN,answer=COLUMN",
        )

    def read(row: Row) -> Record:
        question = row.get(mapping["question"])
        if isinstance(question, str):
            turns = [Message(role="user", content=_text(row, mapping["question"]))]
        else:
            turns = list(_messages(row, mapping["question"]))
        if "system" in mapping:
            turns.insert(0, Message(role="system", content=_text(row, mapping["system"])))
        answer = _plain(row.get(mapping["answer"]), mapping["answer"])
        if answer is None or answer == "":
            raise BadRow(f"column {mapping['answer']} is empty")
        uid = row.get(mapping["uid"]) if "uid" in mapping else None
        return Record(str(uid or stable_uid(turns, answer)), source, tuple(turns), answer, verifier)

    return read


def read_own(row: Row) -> Record:
    """A row that reasonkit wrote."""
    try:
        record = from_row(row)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadRow(f"not a row of a record file: {error!r}") from error
    if "\\ud" in f"{row['reward_model']['ground_truth']}{row['extra_info']}".lower():  # as in hub/tables.py
        _plain([record.answer, dict(record.metadata)], "ground_truth or extra_info")
    return record


READERS: dict[str, Reader] = {
    "reasonkit": read_own,
    "verl": read_verl,
    "logic_rl": read_verl,
    "reason_io": read_verl,
    "ii_thought": read_ii_thought,
    "alpaca": read_alpaca,
    "sharegpt": read_sharegpt,
    "messages": read_messages,
    "completion": read_completion,
    "preference": read_preference,
}
WRITERS: dict[str, Writer] = {
    "reasonkit": to_row,
    "verl": write_verl,
    "logic_rl": write_logic_rl,
    "reason_io": write_reason_io,
    "ii_thought": write_ii_thought,
    "alpaca": write_alpaca,
    "sharegpt": write_sharegpt,
    "messages": write_messages,
    "preference": write_preference,
}


def reader_named(name: str) -> Reader:
    if name not in READERS:
        raise UsageError(f"unknown row format '{name}'", nearest(name, READERS))
    return READERS[name]


def writer_named(name: str) -> Writer:
    if name not in WRITERS:
        raise UsageError(f"unknown row format '{name}'", nearest(name, WRITERS))
    return WRITERS[name]


def recognise(columns: Sequence[str]) -> str:
    """The format whose columns these are."""
    present = frozenset(columns)
    for name, needed in (
        ("reasonkit", _VERL_COLUMNS),
        ("verl", {"data_source", "prompt", "reward_model"}),
        ("ii_thought", {"messages", "verification_info"}),
        ("alpaca", {"instruction", "output"}),
        ("sharegpt", {"conversations"}),
        ("preference", {"chosen", "rejected"}),
        ("messages", {"messages"}),
        ("completion", {"prompt", "completion"}),
    ):
        if present >= needed:
            return name
    raise UsageError(
        f"the columns {', '.join(columns)} are those of no known format",
        "name them: --map question=COLUMN,answer=COLUMN",
    )


def read_any(row: Row) -> Record:
    """A row of whichever known format its columns are those of."""
    return READERS[recognise(list(row))](row)


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value:
        raise BadRow(f"column {column} is {_kind(value)}, not text")
    return value


def _list(row: Row, column: str) -> list[Any]:
    value = row.get(column)
    if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
        raise BadRow(f"column {column} is {_kind(value)}, not a list of turns")
    return value


def _messages(row: Row, column: str) -> tuple[Message, ...]:
    value = row.get(column)
    if isinstance(value, str) and value:
        return (Message(role="user", content=value),)
    turns = []
    for turn in _list(row, column):
        content = turn.get("content")
        if not isinstance(content, str) or not isinstance(turn.get("role"), str):
            raise BadRow(f"column {column} has a turn without a role or a text")
        turns.append(Message(role=turn["role"], content=content))
    return tuple(turns)


def _reply(row: Row, column: str) -> str:
    value = row.get(column)
    if isinstance(value, str) and value:
        return value
    turns = _messages(row, column)
    if len(turns) != 1:
        raise BadRow(f"column {column} has {len(turns)} turns beside a prompt, not one")
    return turns[0]["content"]


def _object(row: Row, column: str) -> dict[str, Any]:
    """A struct, or one that was written as a JSON string."""
    value = row.get(column)
    if isinstance(value, str):
        try:
            value = _plain(json.loads(value), f"column {column}")
        except (ValueError, RecursionError) as error:
            raise BadRow(f"column {column} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRow(f"column {column} is {_kind(value)}, not an object")
    return value


def _plain(value: Any, what: str) -> Any:
    """`value` if JSON can hold it."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow(f"{what} holds what JSON cannot: {error}") from error
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    return "empty" if value in ("", [], {}) else f"a {type(value).__name__}"
