"""`reasonkit list` and `show`: what they print, as people and programs read it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasonkit.cli.discover import list_names, show
from reasonkit.cli.names import Kind, entries, find_parts
from reasonkit.config import load_recipe, preset_names, resolve_recipe
from reasonkit.errors import UsageError
from tests.synthetic_run import trained_elsewhere, write_run


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    """The one JSON document on stdout; nothing else may be there."""
    return json.loads(capsys.readouterr().out)


class TestList:
    @pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.RUNS])
    def test_every_name_has_one_line_about_it(self, kind: Kind) -> None:
        listed = entries(kind)
        assert listed
        for entry in listed:
            assert entry.about, entry.name
            assert "\n" not in entry.about, entry.name

    def test_the_overview_counts_every_kind(self, capsys: pytest.CaptureFixture[str]) -> None:
        list_names(None, json_=True)
        overview = printed(capsys)
        assert set(overview) == {kind.value for kind in Kind}
        assert overview["presets"] == preset_names()
        assert overview["runs"] == []

    def test_names_are_those_that_a_recipe_may_use(self, capsys: pytest.CaptureFixture[str]) -> None:
        list_names(Kind.REWARDS, json_=True)
        assert {"correctness", "brevity"} <= {entry["name"] for entry in printed(capsys)}

    def test_without_a_terminal_lines_are_plain(self, capsys: pytest.CaptureFixture[str]) -> None:
        list_names(Kind.ALGORITHMS, json_=False)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["name", "about"]
        assert any(line.startswith("grpo ") for line in lines)
        assert "\x1b" not in "".join(lines)


class TestRuns:
    def test_runs_are_listed_newest_first_with_state_and_accuracy(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for position, name in enumerate(("old", "new")):
            run = write_run(tmp_path / "runs" / name, steps=3)
            os.utime(run.run_json, (position, position))
        list_names(Kind.RUNS, json_=True)
        rows = printed(capsys)
        assert [row["name"] for row in rows] == ["new", "old"]
        assert rows[0]["state"] == "finished"
        assert (rows[0]["step"], rows[0]["steps"]) == (3, 3)
        list_names(Kind.RUNS, json_=False)
        assert f"{100 * rows[0]['after']['sampled']['accuracy']:.1f} %" in capsys.readouterr().out

    def test_a_run_that_nobody_here_trains_is_called_killed_whoever_has_its_process_number_now(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("dead", "alive", "elsewhere"):
            run = write_run(tmp_path / "runs" / name, steps=2)
            run.update_info(state="running", pid=os.getpid(), host=socket.gethostname())
        run.update_info(host="another-machine")
        with trained_elsewhere(tmp_path / "runs" / "alive"):
            list_names(Kind.RUNS, json_=True)
        states = {row["name"]: row["state"] for row in printed(capsys)}
        assert states == {"dead": "killed", "alive": "running", "elsewhere": "running"}

    def test_no_runs_says_how_to_make_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        list_names(Kind.RUNS, json_=False)
        out, err = capsys.readouterr()
        assert out == ""
        assert "reasonkit train --preset tiny" in err

    def test_show_prints_state_numbers_and_checkpoints(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = write_run(tmp_path / "runs" / "mine", steps=3)
        run.checkpoint(2).mkdir(parents=True)
        show("mine", json_=True)
        content = printed(capsys)
        assert content["state"] == "finished"
        assert content["checkpoints"] == [2]
        assert content["after"] == run.info()["after"]
        show("mine", json_=False)
        assert "after, sampled" in capsys.readouterr().out


class TestShowRecipe:
    @pytest.mark.parametrize("preset", preset_names())
    def test_what_it_prints_is_a_recipe_that_means_the_same(
        self, preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        show(preset)
        (tmp_path / "my.yaml").write_text(capsys.readouterr().out)
        assert load_recipe(tmp_path / "my.yaml") == resolve_recipe(preset).recipe

    def test_origins_name_the_file_and_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "my.yaml").write_text("_base_: tiny\ntrain:\n  steps: 7\n")
        show("my.yaml", origins=True, json_=True)
        origins = {row["key"]: (row["value"], row["origin"]) for row in printed(capsys)}
        assert origins["train.steps"] == (7, f"{tmp_path / 'my.yaml'}:3")
        assert origins["name"][1].endswith("tiny.yaml:2")
        assert origins["rollout.top_p"] == (1.0, "default")

    def test_origins_of_something_else_is_an_error(self) -> None:
        with pytest.raises(UsageError, match="'brevity' is none"):
            show("brevity", origins=True)

    def test_a_fragment_is_shown_as_it_stands(self, capsys: pytest.CaptureFixture[str]) -> None:
        show("algorithms/grpo")
        assert yaml.safe_load(capsys.readouterr().out)["algorithm"] == "grpo"


class TestShowPart:
    def test_a_reward_is_shown_with_its_options(self, capsys: pytest.CaptureFixture[str]) -> None:
        show("brevity", json_=True)
        [part] = printed(capsys)
        assert part["kind"] == "rewards"
        assert [option["name"] for option in part["options"]] == ["target", "limit"]

    def test_an_engine_is_shown_with_the_options_that_open_it(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        show("vllm")
        shown = capsys.readouterr().out
        options = dict(
            line.split(maxsplit=1) for line in shown.partition("option ")[2].splitlines()[1:] if line
        )
        assert options["tensor_parallel"].split() == ["1", "int"]
        assert options["sequences"].split() == ["256", "int"], "constants are shown as what they stand for"
        assert "running" not in options, "a recipe cannot give what the constructor takes"
        assert "`lora_rank` is the highest rank" in shown

    def test_the_file_of_a_task_is_shown_as_a_task(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "mine.yaml").write_text(
            "source: {name: arithmetic_chain, size: 5}\nenv: {sokoban: {max_turns: 2}}\nk: 3\n"
        )
        show("mine.yaml", json_=True)
        [task] = printed(capsys)
        assert (task["name"], task["kind"]) == ("mine.yaml", "tasks")
        assert {option["name"]: option["default"] for option in task["options"]}["k"] == "3"
        show("mine.yaml")
        assert "max_turns" in capsys.readouterr().out
        (tmp_path / "wrong.yaml").write_text("source: arithmetic_chain\nkk: 3\n")
        with pytest.raises(UsageError, match="unknown key 'kk'"):
            show("wrong.yaml")

    def test_a_name_of_two_kinds_shows_both_unless_the_kind_is_given(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        show("knights", json_=True)
        assert [part["kind"] for part in printed(capsys)] == ["tasks", "data", "verifiers"]
        show("data/knights", json_=True)
        [part] = printed(capsys)
        assert "people" in {option["name"] for option in part["options"]}

    def test_a_reasoning_gym_task_is_a_source(self, capsys: pytest.CaptureFixture[str]) -> None:
        show("rg:leg_counting")
        assert "config" in capsys.readouterr().out

    def test_a_misspelt_name_gets_the_nearest(self) -> None:
        with pytest.raises(UsageError, match="unknown name 'brevty'") as error:
            show("brevty")
        assert error.value.hint == "did you mean 'brevity'?"


def test_show_knows_every_name_that_eval_takes() -> None:
    from reasonkit.tasks import ALIASES, SUITES

    for name in [*SUITES, *ALIASES]:
        assert Kind.TASKS in {part.kind for part in find_parts(name)}
