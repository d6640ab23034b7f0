"""Record files: what is written comes back, byte-identically and all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonkit.data.files import SCHEMA, count_records, read_records, write_records
from reasonkit.errors import ReasonkitError
from reasonkit.records import Message, Record

text = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


def some_records(count: int) -> list[Record]:
    return [
        Record(f"u{i}", "made", (Message(role="user", content=f"question {i}"),), [i], None, {"index": i})
        for i in range(count)
    ]


@given(answer=json_values, note=json_values, question=text)
def test_any_json_answer_and_metadata_survive(tmp_path_factory, answer, note, question) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("files") / "one.parquet"
    record = Record("u", "made", (Message(role="user", content=question),), answer, "exact", {"note": note})
    write_records([record], path)
    assert list(read_records(path)) == [record]


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        assert write_records(some_records(2500), tmp_path / name) == 2500
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert count_records(tmp_path / "a") == 2500


def test_rows_are_grouped_and_the_schema_is_the_common_one(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    write_records(some_records(2500), path)
    with pq.ParquetFile(path) as file:
        assert file.metadata.num_row_groups == 3
        assert file.schema_arrow.equals(SCHEMA)
        assert file.metadata.row_group(0).column(0).has_offset_index


def test_a_limit_stops_early(tmp_path: Path) -> None:
    write_records(some_records(30), tmp_path / "r")
    assert [record.uid for record in read_records(tmp_path / "r", limit=2)] == ["u0", "u1"]


def test_an_empty_set_is_a_file_without_rows(tmp_path: Path) -> None:
    assert write_records([], tmp_path / "r") == 0
    assert list(read_records(tmp_path / "r")) == []


def test_a_failed_build_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    write_records(some_records(3), path)
    before = path.read_bytes()

    def failing() -> Iterator[Record]:
        yield from some_records(1500)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_records(failing(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ReasonkitError, match="does not exist"):
        list(read_records(tmp_path / "absent.parquet"))
    (tmp_path / "text").write_text("no parquet")
    with pytest.raises(ReasonkitError, match="is not parquet"):
        list(read_records(tmp_path / "text"))
    foreign = tmp_path / "foreign.parquet"
    import pyarrow as pa

    pq.write_table(pa.table({"question": ["?"], "answer": ["!"]}), foreign)
    with pytest.raises(ReasonkitError, match="lacks uid, data_source"):
        list(read_records(foreign))
