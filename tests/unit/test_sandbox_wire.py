"""Frames survive any chopping; any bytes are frames or a BrokenFrame; answers count only in order."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonkit.sandbox.callrun import read_answers
from reasonkit.sandbox.jobs import CallJob, CallResult, RunStatus
from reasonkit.sandbox.wire import BrokenFrame, FrameReader, frame

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=8
)
ANSWER_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(-2, 5) | SCALARS,
        "status": st.sampled_from([*RunStatus, "ok", "wrong", ""]) | SCALARS,
        "value": ANYTHING,
        "stdout": st.text(max_size=5) | SCALARS,
        "error": st.text(max_size=5) | SCALARS,
        "cpu": st.floats(allow_nan=False) | SCALARS,
        "all": st.booleans(),
        "loaded": st.booleans(),
    },
)
JOB = CallJob("", "f", ([1], [2], [3]))


def chopped(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(
    st.lists(st.tuples(ANYTHING.filter(lambda value: value == value), st.binary(max_size=20))),
    st.lists(st.integers(0, 999)),
)
def test_frames_arrive_whole_however_they_are_chopped(
    messages: list[tuple[Any, bytes]], cuts: list[int]
) -> None:
    finite = [(message, blob) for message, blob in messages if "inf" not in repr(message)]
    data = b"".join(frame(message, blob) for message, blob in finite)
    reader = FrameReader(1 << 20)
    assert [message for part in chopped(data, cuts) for message in reader.feed(part)] == finite


@given(st.lists(st.binary(max_size=64)))
def test_any_bytes_are_frames_or_a_broken_frame(parts: list[bytes]) -> None:
    reader = FrameReader(1000)
    try:
        for part in parts:
            reader.feed(part)
    except BrokenFrame:
        pass


def test_an_announced_size_is_refused_before_it_is_stored() -> None:
    with pytest.raises(BrokenFrame, match="4294967295 bytes, more than 1000"):
        FrameReader(1000).feed(struct.pack("!II", 2**32 - 1, 0))


@settings(max_examples=300)
@given(st.lists(ANSWER_LIKE | ANYTHING, max_size=8))
def test_whatever_a_job_writes_gives_at_most_one_well_formed_result_per_input(frames: list[Any]) -> None:
    results: list[CallResult] = []
    read_answers(frames, JOB, results)
    assert len(results) <= len(JOB.inputs)
    for result in results:
        assert isinstance(result.status, RunStatus)
        assert result.status not in (RunStatus.SANDBOX_ERROR, RunStatus.CPU_TIMEOUT, RunStatus.WALL_TIMEOUT)
        assert isinstance(result.stdout, str)
        assert isinstance(result.error, str)


def answer(index: int, value: Any = 0) -> dict[str, Any]:
    return {"index": index, "status": "ok", "value": value, "stdout": "", "error": "", "cpu": 0.0}


def test_answers_out_of_order_end_the_reading() -> None:
    results: list[CallResult] = []
    read_answers([answer(0, "a"), answer(2, "c"), answer(1, "b")], JOB, results)
    assert [result.value for result in results] == ["a"]


def test_a_job_cannot_call_its_failure_one_of_the_sandbox() -> None:
    results: list[CallResult] = []
    read_answers([{**answer(0), "status": "sandbox_error"}], JOB, results)
    assert results == []
