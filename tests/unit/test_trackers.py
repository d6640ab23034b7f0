"""Trackers get the rows of metrics.jsonl, know a resumed run again, and never stop a run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from reasonkit.errors import ConfigError
from reasonkit.trackers import Tracked, Trackers

FAKE_WANDB = """
import json, pathlib

class Run:
    def __init__(self, said):
        self.file = pathlib.Path(said["dir"]) / "calls.jsonl"
        self.say("init", **said)

    def say(self, what, **more):
        with self.file.open("a") as file:
            file.write(json.dumps({"call": what, **more}) + "\\n")

    def log(self, numbers, step):
        if "broken" in numbers:
            raise ConnectionError("no route to host")
        self.say("log", numbers=numbers, step=step)

    def finish(self):
        self.say("finish")

def init(**said):
    return Run(said)
"""


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracked:
    (tmp_path / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    return Tracked("puzzles", "tiny", "ab12", tmp_path, {"seed": 3})


def calls(tracked: Tracked) -> list[str]:
    return (tracked.folder / "calls.jsonl").read_text().splitlines()


def test_a_row_arrives_flat_with_numbers_only(tracked: Tracked) -> None:
    trackers = Trackers(["wandb"], tracked)
    trackers.write({"step": 4, "reward": 0.5, "parts": {"format": 1.0}, "note": "text", "bad": None})
    trackers.close()
    begun, logged, finished = calls(tracked)
    assert '"project": "puzzles"' in begun
    assert '"id": "ab12", "resume": "allow"' in begun, "a resumed run is the same run"
    assert logged == '{"call": "log", "numbers": {"reward": 0.5, "parts/format": 1.0}, "step": 4}'
    assert finished == '{"call": "finish"}'


def test_a_tracker_that_fails_is_said_so_once_and_never_stops_the_run(
    tracked: Tracked, caplog: pytest.LogCaptureFixture
) -> None:
    trackers = Trackers(["wandb"], tracked)
    with caplog.at_level(logging.WARNING):
        trackers.write({"step": 1, "broken": 1.0})
        trackers.write({"step": 2, "reward": 1.0})
        trackers.close()
    assert [record.getMessage() for record in caplog.records] == [
        "wandb is left alone from here on: ConnectionError: no route to host"
    ]
    assert len(calls(tracked)) == 1


def test_a_tracker_that_is_not_installed_is_an_error_with_the_line_that_mends_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names nothing_of_this_name, which is not installed") as caught:
        Trackers(["nothing_of_this_name"], Tracked("p", "n", "i", tmp_path, {}))
    assert "reasonkit[nothing_of_this_name]" in str(caught.value.hint)
