"""A recipe's data section: what its names mean, how sources combine, and which combinations are refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from reasonkit.data.files import read_records, write_records
from reasonkit.data.load import Data, identities, open_data, prepare, sample
from reasonkit.data.mixture import ListFeed, MixedFeed
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.hub.client import Patience, Unreachable
from reasonkit.recipe import DataConfig, Recipe, TrainSourceConfig
from reasonkit.records import Record


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


def numbers(source: str, count: int) -> list[Record]:
    return [
        Record(f"{source}-{i}", source, ({"role": "user", "content": "+" * i},), i, "numeric")
        for i in range(count)
    ]


def even(record: Record) -> bool:
    return bool(record.answer % 2 == 0)


EVEN = f"{__name__}:even"


def config(*train: dict[str, Any], **others: Any) -> DataConfig:
    return DataConfig.model_validate({"train": train, **others})


def opened(data: DataConfig, folder: Path, fits: Any = None, seed: int = 7) -> Data:
    """What a run draws on; sources in memory need no closing."""
    train = prepare(data.train, "train", folder, seed)
    held_out = prepare(data.held_out, "test", folder, seed)
    with open_data(data, train, held_out, seed, fits) as found:
        return found


def uids(records: Sequence[Record]) -> list[str]:
    return [record.uid for record in records]


def test_one_source_is_fed_in_the_order_of_a_plain_feed_with_the_runs_seed(tmp_path: Path) -> None:
    data = opened(config({"name": "arithmetic_chain", "size": 30}), tmp_path)
    plain = ListFeed(list(read_records(tmp_path / "train-0.parquet")), seed=7)
    assert uids(data.feed.next(70)) == uids(plain.next(70))


def test_several_sources_are_mixed_by_their_weights(tmp_path: Path) -> None:
    for name in ("common", "rare"):
        write_records(numbers(name, 20), tmp_path / f"{name}.parquet")
    data = opened(
        config(
            {"name": str(tmp_path / "common.parquet"), "weight": 9},
            {"name": str(tmp_path / "rare.parquet"), "weight": 1},
        ),
        tmp_path / "run",
    )
    shares = Counter(record.source for record in data.feed.next(2000))
    assert abs(shares["rare"] - 200) < 50


def test_a_curriculum_moves_through_its_stages(tmp_path: Path) -> None:
    data = opened(
        config(
            *(
                {"name": "knights", "label": f"{n}ppl", "size": 8, "options": {"people": n}}
                for n in (3, 4, 5)
            ),
            stages=[
                {"weights": {"3ppl": 1}, "records": 10},
                {"weights": {"3ppl": 1, "4ppl": 1}, "pass_rate": 0.5},
                {"weights": {"5ppl": 1}},
            ],
        ),
        tmp_path,
    )
    feed = data.feed
    assert isinstance(feed, MixedFeed)

    def people(count: int) -> set[int]:
        return {record.metadata["people"] for record in feed.next(count)}

    assert people(10) == {3}
    assert people(20) == {3, 4}
    for rate in (0.4, *[0.5] * 9):
        feed.observe(rate)
    assert people(20) == {3, 4}
    feed.observe(0.6)
    assert people(20) == {5}


def test_a_filter_and_a_limit_leave_records_out_and_count_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_records(numbers("n", 20), tmp_path / "n.parquet")
    data = opened(
        config(
            {"name": str(tmp_path / "n.parquet"), "size": 15, "filter": EVEN},
            held_out=[{"name": str(tmp_path / "n.parquet"), "label": "all"}],
        ),
        tmp_path / "run",
        fits=lambda record: "too long" if len(record.prompt[0]["content"]) > 9 else None,
    )
    [kept] = data.finite.values()
    assert [record.answer for record in kept] == [0, 2, 4, 6, 8]
    assert [record.answer for record in data.held_out] == list(range(10))
    assert data.dropped == {
        f"train {tmp_path / 'n.parquet'}": {f"filter {EVEN}": 7, "too long": 3},
        "held_out all": {"too long": 10},
    }
    assert "all: left out 10 records and kept 10 (too long: 10)" in caplog.text


def test_rows_of_any_file_are_read_by_naming_their_columns(tmp_path: Path) -> None:
    lines = [json.dumps({"q": f"{n}?", "a": n if n != 3 else None}) for n in range(6)]
    (tmp_path / "sums.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")
    source = {"name": str(tmp_path / "sums.jsonl"), "map": {"question": "q", "answer": "a"}}
    data = opened(config(source | {"verifier": "numeric"}), tmp_path / "run")
    [kept] = data.finite.values()
    assert [record.answer for record in kept] == [0, 1, 2, 4, 5]
    assert {(record.source, record.verifier) for record in kept} == {("sums", "numeric")}
    [reasons] = data.dropped.values()
    assert reasons["column a is empty"] == 1
    assert sum(reasons.values()) == 2


def test_a_set_that_was_built_is_used_where_the_recipe_does_not_ask_for_a_new_one(
    tmp_path: Path, home: Path
) -> None:
    write_records(numbers("built", 5), home / "knights/train.parquet")
    write_records(numbers("own", 5), home / "mine/train.parquet")
    data = opened(config({"name": "knights"}, {"name": "mine", "size": 3}), tmp_path / "run")
    assert uids(data.finite["knights"]) == uids(numbers("built", 5))
    assert uids(data.finite["mine"]) == uids(numbers("own", 3))
    asked = opened(config({"name": "knights", "size": 2}), tmp_path / "other")
    assert {record.source for record in asked.finite["knights"]} == {"knights"}


def test_a_published_set_that_was_pulled_whole_is_read_from_all_its_parts(tmp_path: Path, home: Path) -> None:
    for people in range(2, 9):
        write_records(numbers(f"{people}ppl", 2), home / f"kk/{people}ppl/train.parquet")
    data = opened(config({"name": "kk"}, {"name": "kk:3ppl"}), tmp_path / "run")
    assert {record.source for record in data.finite["kk"]} == {f"{people}ppl" for people in range(2, 9)}
    assert {record.source for record in data.finite["kk:3ppl"]} == {"3ppl"}


def pulled(home: Path, read: str) -> None:
    write_records(numbers("pulled", 4), home / "hf/org/sums/train.parquet")
    manifest = {
        "revision": "abcdef",
        "files": {"train": {"signature": {"read": read, "sources": {"main/train.parquet": "x"}}}},
    }
    (home / "hf/org/sums/dataset.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "source",
    [
        {"name": "hf:org/sums"},
        {"name": "hf:org/sums@abc"},
        {"name": "hf:org/sums", "options": {"files": ["main/*"]}},
        {"name": "hf:org/sums", "map": {"answer": "a", "question": "q"}, "verifier": "numeric"},
    ],
)
def test_a_hub_set_that_was_pulled_as_the_recipe_says_needs_no_network(
    tmp_path: Path, home: Path, source: dict[str, Any]
) -> None:
    pulled(home, "question=q,answer=a numeric")
    data = opened(config(source), tmp_path / "run")
    assert uids(data.finite[source["name"]]) == uids(numbers("pulled", 4))


def test_a_run_stays_with_the_files_that_it_found_first(tmp_path: Path, home: Path) -> None:
    write_records(numbers("first", 4), tmp_path / "a/train.parquet")
    sources = [TrainSourceConfig(name=str(tmp_path / "a"))]
    first = prepare(sources, "train", tmp_path / "run", 0)
    assert prepare(sources, "train", tmp_path / "run", 0) == first
    assert list(identities(first)) == [str(tmp_path / "a/train.parquet")]
    (tmp_path / "a/train.parquet").unlink()
    with pytest.raises(ReasonkitError, match="does not exist any more"):
        prepare(sources, "train", tmp_path / "run", 0)


def test_a_sample_makes_no_more_than_it_shows(tmp_path: Path, home: Path) -> None:
    write_records(numbers("built", 50), home / "knights/train.parquet")
    assert len(sample(TrainSourceConfig(name="arithmetic_chain", size=10**9), "train", 0, 5)) == 5
    assert uids(sample(TrainSourceConfig(name="knights"), "train", 0, 5)) == uids(numbers("built", 5))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"name": "knights"}, "size is null"),
        ({"name": "knihgts"}, "unknown data source 'knihgts'"),
        ({"name": "knights", "size": 3, "map": {"question": "q", "answer": "a"}}, "no columns to name"),
        ({"name": "nowhere.parquet"}, "does not exist"),
        ({"name": "hf:org/sums", "options": {"people": 3}}, "does not take options"),
        ({"name": "codeio-pyedu"}, "raw material"),
        ({"name": "guru:math", "map": {"question": "q", "answer": "a"}}, "rows of 'guru' are known"),
        ({"name": "arithmetic_chain", "size": 3, "filter": "no_such_module:keep"}, "cannot be imported"),
    ],
)
def test_a_source_that_cannot_be_is_an_error(tmp_path: Path, source: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(config(source), tmp_path)


def test_a_held_out_stream_is_an_error_that_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no end: size is null") as caught:
        opened(DataConfig(held_out=[TrainSourceConfig(name="hf:org/sums@v1")]), tmp_path)
    assert caught.value.hint == "write size: 500 beside its name, or fetch it: reasonkit data pull org/sums"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("guru", "reasonkit data pull guru"),
        ("guru:math", "reasonkit data pull guru --domains math"),
        ("guru-online:codegen__humaneval", "reasonkit data pull guru-online --domains codegen"),
        ("hf:org/sums@v1", "reasonkit data pull org/sums"),
    ],
)
@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_the_error_says_what_to_type_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str, offline: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "reasonkit.hub.client.Patience", lambda: Patience(first_wait=0.001, longest_wait=0.01)
    )
    with pytest.raises(Unreachable) as caught:
        prepare([TrainSourceConfig(name=name, size=4)], "train", tmp_path / "run", 0)
    assert caught.value.hint == f"fetch it where there is a network: {command}"
    assert ("HF_HUB_OFFLINE is set" if offline else "no connection to http://127.0.0.1:9") in str(
        caught.value
    )


def test_a_source_of_which_nothing_is_left_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    write_records(numbers("n", 3), tmp_path / "n.parquet")
    with pytest.raises(ReasonkitError, match=r"no record of .*n.parquet is left \(never: 3\)"):
        opened(config({"name": str(tmp_path / "n.parquet")}), tmp_path / "run", fits=lambda _: "never")


A, B = {"name": "a.parquet"}, {"name": "b.parquet"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": [A, A]}, "'a.parquet' twice; give each its own label"),
        ({"train": [A | {"weight": 0}]}, "every source of train has weight 0"),
        ({"held_out": [A | {"weight": 2}]}, "Extra inputs are not permitted"),
        ({"train": [A | {"verifier": "math"}]}, r"verifier \(math\) belongs to map"),
        ({"train": [A | {"filter": "even"}]}, "'even' is not of the form module:function"),
        ({"train": [A], "stages": [{"weights": {"a.parqet": 1}}]}, "did you mean 'a.parquet'"),
        ({"train": [A, B], "stages": [{"weights": {"a.parquet": 1}}]}, "no stage gives source 'b.parquet'"),
        (
            {"train": [A | {"weight": 2}], "stages": [{"weights": {"a.parquet": 1}}]},
            "stages give the weights",
        ),
        ({"train": [A], "stages": [{"weights": {"a.parquet": 0}}]}, "gives no source a weight"),
        (
            {"train": [A], "stages": [{"weights": {"a.parquet": 1}}, {"weights": {"a.parquet": 1}}]},
            r"stages\[0\] never ends",
        ),
        (
            {"train": [A], "stages": [{"weights": {"a.parquet": 1}, "records": 5}]},
            "is the last and never ends",
        ),
    ],
)
def test_a_data_section_that_cannot_be_is_an_error(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate(data)


@pytest.mark.parametrize(("asked", "limit"), [(False, None), (True, 40), (7, 7)])
def test_the_limit_on_prompts_is_what_the_reply_leaves_or_less(asked: bool | int, limit: int | None) -> None:
    assert recipe(asked).prompt_limit == limit


def test_a_limit_on_prompts_that_do_not_fit_is_an_error() -> None:
    with pytest.raises(ValidationError, match=r"filter_overlong_prompts \(41\) is more than .* \(60\)"):
        recipe(41)


def recipe(limit: bool | int) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "model": {"path": "m", "context": 100},
            "rollout": {"max_tokens": 60},
            "data": {"filter_overlong_prompts": limit},
        }
    )
