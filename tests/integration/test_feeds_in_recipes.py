"""Sources of a recipe that come from the Hub: streamed, drawn, mixed, checked without a run, resumed exactly."""

from __future__ import annotations

import io
import json
import random
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasonkit.data.files import write_records
from reasonkit.data.load import identities, open_data, prepare
from reasonkit.data.mixture import MixedFeed
from reasonkit.errors import UsageError
from reasonkit.recipe import DataConfig, TrainSourceConfig
from reasonkit.records import Record
from reasonkit.rundir import RunDir, read_metrics
from tests.hub_server import HubServer
from tests.micro import reasonkit, write_micro

KILLED_TRAIN = str(Path(__file__).parents[1] / "killed_train.py")
SUMS = "org/sums"
MAP = {"question": "q", "answer": "a"}
CLOCKS = ("time", "seconds_", "tokens_per_second", "gb_per_second")


def parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink, row_group_size=16)
    return sink.getvalue()


def sums(first: int, count: int) -> bytes:
    """Rows whose every fifth question is too long for a short prompt."""
    return parquet(
        [
            {"q": f"{n}+1=" + "0" * (40 if n % 5 == 0 else 0), "a": str(n + 1)}
            for n in range(first, first + count)
        ]
    )


FILES = {
    "data/train-[0].parquet": sums(0, 60),
    "data/train-1.parquet": sums(60, 40),
    "data/test-0.parquet": sums(100, 30),
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub for this process and for those it starts, and a data folder with nothing in it."""
    with HubServer() as server:
        server.publish(SUMS, FILES)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("REASONKIT_DATA", str(tmp_path / "home"))
        yield server


def source(name: str = f"hf:{SUMS}", **others: Any) -> TrainSourceConfig:
    return TrainSourceConfig.model_validate({"name": name, "map": MAP, "verifier": "exact"} | others)


def drawn(data: DataConfig, folder: Path, count: int) -> list[Record]:
    prepared = prepare(data.train, "train", folder, 0)
    with open_data(data, prepared, [], 0, None) as opened:
        return opened.feed.next(count)


def answers(records: Sequence[Record]) -> list[int]:
    return sorted(int(record.answer) for record in records)


def test_a_hub_set_is_streamed_from_the_files_of_its_train_split(server: HubServer, tmp_path: Path) -> None:
    records = drawn(DataConfig(train=[source()]), tmp_path / "run", 100)
    assert answers(records) == list(range(1, 101)), "every row once, none of the test split"
    assert {(record.source, record.verifier) for record in records} == {(SUMS, "exact")}


def test_what_data_pull_fetched_is_read_without_the_hub(server: HubServer, tmp_path: Path) -> None:
    columns = ("--map", "question=q,answer=a", "--verifier", "exact")
    pulled = reasonkit(tmp_path, "data", "pull", SUMS, *columns, warm=False)
    assert pulled.returncode == 0, pulled.stderr
    asked = sum(server.requests.values())
    data = DataConfig(train=[source()], held_out=[source()])
    train = prepare(data.train, "train", tmp_path / "run", 0)
    held_out = prepare(data.held_out, "test", tmp_path / "run", 0)
    with open_data(data, train, held_out, 0, None) as opened:
        assert answers(opened.feed.next(100)) == list(range(1, 101))
        assert answers(opened.held_out) == list(range(101, 131))
    assert sum(server.requests.values()) == asked


def test_only_the_files_that_options_name_are_streamed(server: HubServer, tmp_path: Path) -> None:
    data = DataConfig(train=[source(options={"files": ["data/train-1*"]})])
    assert answers(drawn(data, tmp_path / "run", 40)) == list(range(61, 101))


@pytest.mark.parametrize(
    ("pulled_as", "revision"), [("question=q2,answer=a exact", ""), ("question=q,answer=a exact", "@main")]
)
def test_a_set_that_was_pulled_otherwise_is_not_used(
    server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, pulled_as: str, revision: str
) -> None:
    folder = tmp_path / "home/hf" / SUMS
    write_records([], folder / "train.parquet")
    signature = {"read": pulled_as, "sources": {"data/train-1.parquet": "x"}}
    commit = server.datasets[SUMS].refs["main"]
    manifest = {"revision": commit, "files": {"train": {"signature": signature}}}
    (folder / "dataset.json").write_text(json.dumps(manifest))
    data = DataConfig(train=[source(f"hf:{SUMS}{revision}")])
    assert answers(drawn(data, tmp_path / "run", 100)) == list(range(1, 101))
    assert f"read as '{pulled_as}', which is not what the recipe says: not used" in caplog.text


def test_columns_that_the_map_does_not_name_are_not_fetched(server: HubServer, tmp_path: Path) -> None:
    noise = random.Random(0)
    rows = [{"q": f"{n}+1=", "a": str(n + 1), "tests": noise.randbytes(20_000).hex()} for n in range(60)]
    content = parquet(rows)
    server.publish("org/wide", {"train.parquet": content})
    for size in (None, 60):
        data = DataConfig(train=[source("hf:org/wide", size=size)])
        assert answers(drawn(data, tmp_path / f"run {size}", 60)) == list(range(1, 61))
    assert server.served < len(content) / 2, "although it was read twice"


def test_a_map_that_names_no_column_is_an_error_that_lists_them(server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no column question; it has q, a"):
        drawn(DataConfig(train=[source(map={"question": "question", "answer": "a"})]), tmp_path / "run", 1)


def test_a_run_stays_at_the_commit_that_it_opened(server: HubServer, tmp_path: Path) -> None:
    data = DataConfig(train=[source()])
    before = drawn(data, tmp_path / "run", 30)
    commit = server.datasets[SUMS].refs["main"]
    server.publish(SUMS, {"other/train.parquet": sums(900, 20)})
    assert drawn(data, tmp_path / "run", 30) == before
    assert identities(prepare(data.train, "train", tmp_path / "run", 0)) == {f"hf:{SUMS}": commit}
    assert min(answers(drawn(data, tmp_path / "new run", 20))) > 900


def test_a_size_draws_distinct_records_once_and_keeps_them(
    server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few, all_of_it = source(size=12), source(size=500)
    first = prepare([few], "test", tmp_path / "run", 0)
    asked = sum(server.requests.values())
    assert prepare([few], "test", tmp_path / "run", 0) == first
    assert sum(server.requests.values()) == asked, "the second look needs no network"
    data = DataConfig(train=[source()], held_out=[few])
    with open_data(data, prepare(data.train, "train", tmp_path / "run", 0), first, 0, None) as opened:
        assert len(set(answers(opened.held_out))) == 12
        assert set(answers(opened.held_out)) <= set(range(101, 131))
    whole = DataConfig(train=[all_of_it])
    assert answers(drawn(whole, tmp_path / "whole", 100)) == list(range(1, 101))
    assert "has only 100 records; size asks for 500" in caplog.text


def test_a_streams_filter_and_limit_count_what_they_leave_out(
    server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = DataConfig(train=[source(filter=f"{__name__}:small")])
    prepared = prepare(data.train, "train", tmp_path / "run", 0)

    def fits(record: Record) -> str | None:
        return "too long" if len(record.prompt[0]["content"]) > 20 else None

    with open_data(data, prepared, [], 0, fits) as opened:
        assert len(opened.some_records()) == 8
        assert opened.streams[f"hf:{SUMS}"].dropped == {}, "looking ahead leaves no trace"
        kept = opened.feed.next(40)
        with pytest.raises(UsageError, match=f"hf:{SUMS} is streamed"):
            opened.training_records()
    assert answers(kept) == [n + 1 for n in range(50) if n % 5]
    state = opened.streams[f"hf:{SUMS}"].state()
    assert set(state["dropped"]) == {"too long", f"filter {__name__}:small"}
    assert sum(state["dropped"].values()) + len(kept) == state["rows"]["position"], (
        "every row is accounted for"
    )
    assert f"left out {sum(state['dropped'].values())} records (" in caplog.text


def small(record: Record) -> bool:
    return int(record.answer) <= 50


def knights(people: int, count: int) -> bytes:
    rows = [
        {
            "quiz": f"{people} people, puzzle {n}",
            "solution_text_format": "\n".join(f"({i + 1}) P{i} is a knight" for i in range(people)),
            "names": [f"P{i}" for i in range(people)],
            "statements": str(n),
        }
        for n in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_a_curriculum_over_the_parts_of_a_published_set(server: HubServer, tmp_path: Path) -> None:
    files = {
        f"{split}/people{people}_num{count}.jsonl": knights(people, count)
        for split, count in (("train", 9), ("test", 4))
        for people in range(2, 9)
    }
    server.publish("K-and-K/knights-and-knaves", files)
    stages = [{"weights": {f"kk:{people}ppl": 1}, "pass_rate": 0.7} for people in range(3, 7)]
    data = DataConfig.model_validate(
        {
            "train": [{"name": f"kk:{people}ppl"} for people in range(3, 8)],
            "held_out": [{"name": "kk:7ppl", "size": 4}],
            "stages": [*stages, {"weights": {"kk:7ppl": 1}}],
        }
    )
    seen = []
    train = prepare(data.train, "train", tmp_path, 0)
    held_out = prepare(data.held_out, "test", tmp_path, 0)
    with open_data(data, train, held_out, 0, None) as opened:
        assert isinstance(opened.feed, MixedFeed)
        for rate in (0.8, 0.2, 0.9, 0.7, 1.0, 1.0):
            seen.append({record.metadata["people"] for record in opened.feed.next(6)})
            for _ in range(10):
                opened.feed.observe(rate)
        assert [record.metadata["people"] for record in opened.held_out] == [7] * 4
    assert seen == [{3}, {4}, {4}, {5}, {6}, {7}]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("kk:9ppl", "train", "names no part of kk"),
        ("hf:org/only-train", "test", "has no test split; it has train"),
    ],
)
def test_what_the_hub_does_not_have_is_an_error(
    server: HubServer, tmp_path: Path, name: str, split: Any, message: str
) -> None:
    server.publish("org/only-train", {"a.parquet": sums(0, 3)})
    listed = {
        f"{part}/people{n}_num1.jsonl": knights(n, 1) for part in ("train", "test") for n in range(2, 9)
    }
    server.publish("K-and-K/knights-and-knaves", listed)
    with pytest.raises(UsageError, match=message):
        prepare([TrainSourceConfig(name=name, size=3)], split, tmp_path, 0)


def write_mixed(folder: Path) -> None:
    """The micro recipe, fed by a generator and a stream in turns that depend on how the run goes."""
    write_micro(folder)
    (folder / "mixed.yaml").write_text(
        f"""\
_base_: micro.yaml
name: mixed
data:
  train:
    - {{name: arithmetic_chain, label: chains, size: 40}}
    - {{name: "hf:{SUMS}", label: sums, map: {{question: q, answer: a}}, verifier: exact}}
  stages:
    - {{weights: {{chains: 3, sums: 1}}, records: 12}}
    - {{weights: {{chains: 1, sums: 3}}, records: 6}}
    - {{weights: {{chains: 1, sums: 1}}}}
  filter_overlong_prompts: 30
"""
    )


def what_it_did(run: RunDir) -> tuple[Any, ...]:
    rows = [
        {key: value for key, value in row.items() if not key.startswith(CLOCKS)}
        for row in read_metrics(run.metrics)
    ]
    prompts = [pq.read_table(run.rollouts(step)).to_pylist() for step in run.rollout_steps()]
    return rows, prompts, (run.checkpoint(6) / "model.safetensors").read_bytes()


def test_a_killed_and_resumed_mixture_equals_an_undisturbed_one(server: HubServer, tmp_path: Path) -> None:
    write_mixed(tmp_path)
    looked = reasonkit(tmp_path, "train", "mixed.yaml", "--dry-run", "--json")
    assert looked.returncode == 0, looked.stderr
    checks = json.loads(looked.stdout)["checks"]
    assert [(check["source"], check["records"], check["gold_right"]) for check in checks] == [
        ("chains", 8, 8),
        ("sums", 8, 8),
        ("arithmetic_chain (held out)", 6, 6),
    ]
    done = reasonkit(tmp_path, "train", "mixed.yaml", "--out", "whole")
    assert done.returncode == 0, done.stderr
    assert "sums: left out" in done.stderr
    arguments = ("between two steps", "5", "--", "train", "mixed.yaml", "--out", "run")
    killed = reasonkit(tmp_path, *arguments, program=(KILLED_TRAIN,))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    server.publish(SUMS, {"data/train.parquet": sums(500, 9)})
    resumed = reasonkit(tmp_path, "train", "--resume", "run")
    assert resumed.returncode == 0, resumed.stderr
    whole, run = RunDir(tmp_path / "whole"), RunDir(tmp_path / "run")
    assert what_it_did(run) == what_it_did(whole)
    prompts = {row["prompt"] for rows in what_it_did(whole)[1] for row in rows}
    assert {prompt.endswith("+1=") for prompt in prompts} == {True, False}, "both sources were drawn on"
    assert "the curriculum moves to stage 2" in whole.log.read_text()
