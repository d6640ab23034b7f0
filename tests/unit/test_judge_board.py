"""Counters of several processes in one file: summed, kept across a restart, readable by Prometheus."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from reasonkit.errors import ReasonkitError
from reasonkit.judge.board import CACHED, COLUMNS, HELD, STARTS, Board, requests, verdicts
from reasonkit.records import Status

COUNT_AND_DIE = """
import os, sys
from pathlib import Path
from reasonkit.judge.board import CACHED, HELD, Board
board = Board(Path(sys.argv[1]), 2)
board.add(CACHED, 5)
board.set(HELD, 7)
os._exit(0)
"""
LINE = re.compile(r'[a-z_]+(?:\{(?:[a-z]+="[^"\\]*"(?:,(?=[a-z]))?)+\})? (?:[0-9.e+-]+|\+Inf)')


def _count_in_another_process(path: Path) -> None:
    subprocess.run([sys.executable, "-c", COUNT_AND_DIE, str(path)], check=True)


def test_a_successor_goes_on_in_the_row_of_the_dead(tmp_path: Path) -> None:
    path = tmp_path / "board"
    path.touch()
    mine = Board(path, 2)
    mine.add(CACHED, 1)
    _count_in_another_process(path)
    assert mine.total(CACHED) == 6
    _count_in_another_process(path)
    assert mine.total(CACHED) == 11, "a counter never falls"
    assert mine.total(STARTS) == 3
    dead = [worker for worker in mine.workers() if not worker.alive]
    assert [(worker.starts, worker.alive) for worker in dead] == [(2, False)]
    assert mine.total(HELD) == 7, "the dead still hold it, until a successor starts over"
    mine.close()


def test_more_processes_than_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "board"
    path.touch()
    program = COUNT_AND_DIE.replace("os._exit(0)", "print(flush=True); input()").replace(", 2)", ", 1)")
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ReasonkitError, match="all 1 rows"):
            Board(path, 1)
        holder.communicate(b"\n")
    Board(path, 1).close()


def test_every_line_is_prometheus_text() -> None:
    board = Board()
    board.add(requests("/reward", 200), 3)
    board.add(verdicts("math", Status.CORRECT))
    board.observe("/reward", 0.02)
    board.observe("/reward", 1e9)
    board.observe("other", 1.0)
    lines = board.exposition().splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert all(LINE.fullmatch(line) for line in samples), [
        line for line in samples if not LINE.fullmatch(line)
    ]
    assert 'reasonkit_judge_requests_total{route="/reward",code="200"} 3' in samples
    assert 'reasonkit_judge_verdicts_total{verifier="math",status="correct"} 1' in samples
    buckets = [
        line for line in samples if line.startswith('reasonkit_judge_request_seconds_bucket{route="/reward"')
    ]
    counts = [float(line.rpartition(" ")[2]) for line in buckets]
    assert counts == sorted(counts), "buckets are cumulative"
    assert (counts[0], counts[-2], counts[-1]) == (0, 1, 2)
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    named = {re.split(r"[ {]", line, maxsplit=1)[0] for line in samples}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} == typed
    board.close()


def test_columns_are_distinct() -> None:
    assert len(set(COLUMNS)) == len(COLUMNS)
