"""Back-pressure: bounded, in order, and nobody's room is lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonkit.judge.admission import LEAST, Admission

LIMIT = 4 * LEAST


async def _hold(admission: Admission, size: int, held: list[int], release: asyncio.Event) -> None:
    async with admission.room(size):
        held.append(size)
        await release.wait()


def test_requests_beyond_the_limit_wait_and_then_enter_in_order() -> None:
    async def run() -> None:
        admission, held, release = Admission(LIMIT), list[int](), asyncio.Event()
        sizes = [2 * LEAST, 2 * LEAST, 3 * LEAST, LEAST]
        tasks = [asyncio.create_task(_hold(admission, size, held, release)) for size in sizes]
        await asyncio.sleep(0)
        assert held == sizes[:2]
        assert (admission.used, admission.waiting) == (LIMIT, 2)
        release.set()
        await asyncio.gather(*tasks)
        assert held == sizes, "the small one does not overtake the large one"
        assert (admission.used, admission.admitted, admission.waiting) == (0, 0, 0)

    asyncio.run(run())


def test_small_requests_are_bounded_in_number() -> None:
    async def run() -> None:
        admission, held, release = Admission(LIMIT), list[int](), asyncio.Event()
        tasks = [asyncio.create_task(_hold(admission, 1, held, release)) for _ in range(10)]
        await asyncio.sleep(0)
        assert len(held) == LIMIT // LEAST
        release.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_a_request_larger_than_everything_enters_alone() -> None:
    async def run() -> None:
        admission = Admission(LIMIT)
        async with admission.room(100 * LIMIT):
            assert admission.used == LIMIT

    asyncio.run(run())


@given(st.lists(st.tuples(st.integers(0, 5 * LEAST), st.booleans()), min_size=1, max_size=20), st.randoms())
def test_whoever_leaves_leaves_no_trace(requests: list[tuple[int, bool]], draw: object) -> None:
    """Some wait, some are cancelled while they wait or hold; in the end all room is free."""

    async def run() -> None:
        admission, held, release = Admission(LIMIT), list[int](), asyncio.Event()
        tasks = [asyncio.create_task(_hold(admission, size, held, release)) for size, _ in requests]
        await asyncio.sleep(0)
        for task, (_, leaves) in zip(tasks, requests, strict=True):
            if leaves:
                task.cancel()
        release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        assert (admission.used, admission.admitted, admission.waiting) == (0, 0, 0)

    asyncio.run(run())


def test_a_failure_inside_gives_the_room_back() -> None:
    async def run() -> None:
        admission = Admission(LIMIT)
        with pytest.raises(ValueError, match="inside"):
            async with admission.room(LEAST):
                raise ValueError("inside")
        assert admission.used == 0

    asyncio.run(run())
