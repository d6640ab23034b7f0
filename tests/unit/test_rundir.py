"""The run folder: atomic writes, what a kill leaves, and cutting back to a checkpoint."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.rundir import RunDir, atomic_file, atomic_folder, create, find_runs, read_metrics, write_json
from tests.synthetic_run import trained_elsewhere


def test_a_failed_write_leaves_neither_the_file_nor_a_trace(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "step_1") as temporary:
        (temporary / "weights").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "step_1") as temporary:
        (temporary / "weights").write_text("all")
        assert not (tmp_path / "step_1").exists()
    assert (tmp_path / "step_1" / "weights").read_text() == "all"


def test_leftovers_of_a_kill_are_not_seen_and_can_be_removed(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    (tmp_path / "checkpoints" / "step_2").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".tmp-step_4.123").mkdir()
    (tmp_path / ".tmp-run.json.123").write_text("{")
    assert run.checkpoints() == [2]
    run.remove_leftovers()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "step_2"]


def test_cutting_back_keeps_what_the_checkpoint_had_seen(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 6)) + '{"step": 6')
    for step in (2, 4, 6):
        for path in (run.rollouts(step), run.evaluation(step)):
            path.parent.mkdir(exist_ok=True)
            path.write_text("{}")
    run.forget_after(4)
    assert [row["step"] for row in read_metrics(run.metrics)] == [1, 2, 3, 4]
    assert run.rollout_steps() == run.evaluation_steps() == [2, 4]


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"state": "finished"})
    with pytest.raises(UsageError) as caught:
        create("tiny", tmp_path)
    assert f"--resume {tmp_path}" in caught.value.hint


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        create("tiny", tmp_path)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        create("tiny", tmp_path / "file")


def test_an_unwritable_place_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReasonkitError, match="cannot write") as caught:
        create("tiny", tmp_path / "file" / "run")
    assert "--out" in caught.value.hint


def test_runs_are_found_newest_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old")):
        write_json(tmp_path / name / "run.json", {})
        os.utime(tmp_path / name / "run.json", (1000 - age, 1000 - age))
    assert [run.path.name for run in find_runs(tmp_path)] == ["new", "old"]


def test_a_folder_without_run_json_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        RunDir(tmp_path).info()


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.update_info(state="running", pid=77, host="this-machine")
    assert not run.is_held()
    with trained_elsewhere(tmp_path) as other:
        assert run.is_held()
        with pytest.raises(UsageError, match="trained already, by process 77 on this-machine"), run.held():
            pytest.fail("two hold it")
        other.kill()  # as by kill -9: it cannot let go by itself
        until = time.monotonic() + 60
        while run.is_held() and time.monotonic() < until:
            time.sleep(0.01)
    with run.held():
        pass
