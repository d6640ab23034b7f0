"""The examples run as their pages say."""

from __future__ import annotations

from pathlib import Path

from tests.micro import reasonkit, write_micro

LOOP = Path(__file__).parents[2] / "examples" / "minimal_loop" / "loop.py"


def test_the_minimal_loop_runs_and_stays_readable(tmp_path: Path) -> None:
    write_micro(tmp_path)
    made = reasonkit(tmp_path, "train", "micro.yaml", "--out", "run", "--set", "train.steps=1")
    assert made.returncode == 0, made.stderr
    done = reasonkit(tmp_path, "run/model", "--steps", "2", program=(str(LOOP),))
    assert done.returncode == 0, done.stderr
    words = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert words == ["before", "step 1", "step 2", "after"]
    assert len(LOOP.read_text().splitlines()) <= 200
