"""The cleaning commands on real files: what they write, print and refuse."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from reasonkit.cli.data import app
from reasonkit.data.files import read_records, write_records
from reasonkit.errors import UsageError
from reasonkit.records import Message, Record

WORDS = [
    a + b for a in ("ba", "ce", "di", "fo", "gu", "ha", "je") for b in ("ren", "lo", "ti", "mus", "ke", "va")
]


def question(seed: int, length: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def record(uid: object, text: str, answer: Any = "1", **metadata: Any) -> Record:
    return Record(str(uid), "math__toy", (Message(role="user", content=text),), answer, metadata=metadata)


def call(*arguments: object) -> Any:
    """What a command prints with --json."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def uids(path: Path) -> list[str]:
    return [one.uid for one in read_records(path)]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    base = question(0)
    edited = " ".join([*base.split()[:-1], "edited"])
    rows = [
        record("a", base),
        record("again", base.upper()),
        record("near", edited),
        record("b", question(1)),
    ]
    rows.append(record("part", " ".join(question(1).split()[5:20])))
    write_records(rows, tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


def test_dedup_does_as_much_as_it_is_asked_for(train: Path) -> None:
    (plain,) = call("dedup", train)
    assert plain["reasons"] == {"same question": 1}
    (full,) = call("dedup", train, "--near", "--contained", "--out", train.with_name("full.parquet"))
    assert (full["rows_in"], full["rows_out"]) == (5, 2)
    assert full["reasons"] == {
        "same question": 1,
        "nearly the same question": 1,
        "contained in another question": 1,
    }
    assert uids(train.with_name("full.parquet")) == ["a", "b"]
    rejected = [json.loads(line) for line in train.with_name("full.rejected.jsonl").read_text().splitlines()]
    assert {(row["uid"], row["detail"]) for row in rejected} == {
        ("again", "first seen as a"),
        ("near", "as a"),
        ("part", "in b"),
    }


def test_decontaminate_against_files(train: Path, tmp_path: Path) -> None:
    write_records([record("e", f"Consider {question(1)} now")], tmp_path / "test.parquet")
    (report,) = call("decontaminate", train, "--against", tmp_path / "test.parquet")
    assert report["rows_out"] == 3
    assert uids(tmp_path / "train.clean.parquet") == ["a", "again", "near"]


def test_split_writes_both_halves_and_its_leaks(tmp_path: Path) -> None:
    rows = [record(f"{p}-{k}", f"{question(p, 90)} {k}", program=p) for p in range(20) for k in range(5)]
    write_records(rows, tmp_path / "all.parquet")
    torn = call("split", tmp_path / "all.parquet", "--test-size", 20, "--out", tmp_path / "torn")
    whole = call("split", tmp_path / "all.parquet", "--test-size", 20, "--by", "program")
    assert torn["leaks"]["shared_13_words"] > 10
    assert whole["leaks"]["shared_13_words"] == whole["leaks"]["same_group"] == 0
    assert whole["records"] == {"train": 80, "test": 20}
    halves = uids(tmp_path / "all-split/train.parquet") + uids(tmp_path / "all-split/test.parquet")
    assert sorted(halves) == sorted(row.uid for row in rows)


def test_mix_by_weight_and_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("left", "right"):
        write_records([record(f"{name}{n}", f"{name} {n}") for n in range(300)], tmp_path / f"{name}.parquet")
    parts = [f"{tmp_path}/left.parquet=3", f"{tmp_path}/right.parquet"]
    for out in ("one", "two"):
        assert call("mix", *parts, "--size", 200, "--out", tmp_path / f"{out}.parquet")["records"] == 200
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    found = uids(tmp_path / "one.parquet")
    assert len(set(found)) == 200
    assert 120 < sum(uid.startswith("left") for uid in found) < 180
    with pytest.raises(UsageError, match="no number for a weight"):
        call("mix", f"{tmp_path}/left.parquet=much", "--size", 2, "--out", tmp_path / "x.parquet")


def test_convert_writes_what_verl_reads(train: Path, tmp_path: Path) -> None:
    assert call("convert", train, "--to", "verl", "--out", tmp_path / "verl.parquet")["rows"] == 5
    row = pq.read_table(tmp_path / "verl.parquet").to_pylist()[0]
    assert row["reward_model"] == {"style": "rule", "ground_truth": "1"}
    assert row["prompt"][0]["content"] == question(0)
    lost = call("convert", train, "--to", "preference", "--out", tmp_path / "pairs.jsonl")
    assert (lost["rows"], sum(lost["rejected"].values())) == (0, 5)


def test_answers_of_several_shapes_need_jsonl(tmp_path: Path) -> None:
    write_records([record(1, "x", "text"), record(2, "y", {"a": 1})], tmp_path / "in.parquet")
    with pytest.raises(UsageError, match="do not fit into one parquet schema"):
        call("convert", tmp_path / "in.parquet", "--to", "verl", "--out", tmp_path / "out.parquet")
    call("convert", tmp_path / "in.parquet", "--to", "verl", "--out", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["text", {"a": 1}]


def test_limit_length_counts_the_models_own_tokens(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<unk>": 0, "<eos>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>")
    model.chat_template = (
        "{% for message in messages %}{{ message.role + ' : ' + message.content + ' <eos> ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
    )
    model.save_pretrained(tmp_path / "model")
    write_records([record(n, " ".join(["w"] * n)) for n in (4, 5, 6)], tmp_path / "in.parquet")
    arguments = ["limit-length", tmp_path / "in.parquet", "-m", tmp_path / "model", "--max-tokens", 10]
    (report,) = call(*arguments)
    # Five words, `user :`, <eos> and `assistant :` are ten tokens.
    assert report["reasons"] == {"prompt over 10 tokens": 1}
    assert uids(tmp_path / "in.short.parquet") == ["4", "5"]
