"""Texts that are recalled before their worker got to read them, as happens on a machine that is overloaded."""

from __future__ import annotations

import time

import pytest

from reasonkit.records import Record, Status
from reasonkit.verifiers.pool import VerifierPool
from reasonkit.verifiers.routing import VERIFIERS


def test_a_text_that_is_recalled_before_it_was_begun_is_judged_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every batch is recalled as soon as it is sent. No text may wait for the limit on wall time."""
    monkeypatch.setattr("reasonkit.verifiers.pool.RECALL_SECONDS", 0.0)
    with VerifierPool(1, wall_seconds=600) as pool:
        began = time.monotonic()
        waiting = [
            pool.submit(VERIFIERS["exact"], Record("", "", (), str(n)), f"<answer>{n}</answer>")
            for n in range(400)
        ]
        found = [future.result(timeout=200) for future in waiting]
        assert {verdict.status for verdict in found} == {Status.CORRECT}
        assert time.monotonic() - began < 300, "nobody waited for the limit of ten minutes"
