"""`reasonkit data`: build, head and stats as a user types them, each in a folder of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reasonkit.cli.data import app
from reasonkit.errors import UsageError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


class TestBuild:
    def test_both_splits_and_a_manifest_are_written_where_the_name_says(self, home: Path) -> None:
        built = json.loads(run("build", "rg:gcd", "--size", "12", "--test-size", "3", "--json"))
        folder = home / "rg" / "gcd"
        assert sorted(path.name for path in folder.iterdir()) == [
            "dataset.json",
            "test.parquet",
            "train.parquet",
        ]
        assert {split: file["records"] for split, file in built["files"].items()} == {"train": 12, "test": 3}
        manifest = json.loads((folder / "dataset.json").read_text())
        assert manifest["files"]["train"]["sha256"] == built["files"]["train"]["sha256"]

    def test_the_same_command_writes_the_same_bytes(self, tmp_path: Path) -> None:
        for out in ("a", "b"):
            run("build", "countdown", "--size", "30", "--out", out, "--set", "numbers=[3,4]")
        for name in ("train.parquet", "test.parquet", "dataset.json"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def test_one_split_alone(self, tmp_path: Path) -> None:
        run("build", "knights", "--split", "test", "--size", "5", "--out", "only")
        assert sorted(path.name for path in (tmp_path / "only").iterdir()) == ["dataset.json", "test.parquet"]

    def test_sokoban_takes_train_size_and_prefix(self) -> None:
        run("build", "sokoban", "--train-size", "4", "--test-size", "2", "--prefix", "base")
        (shown,) = json.loads(run("head", "sokoban", "-n", "1", "--json"))
        assert shown["prompt"].startswith("User: ")

    def test_a_wrong_setting_is_a_usage_error_before_anything_is_written(self, home: Path) -> None:
        with pytest.raises(UsageError, match="no setting 'colour'"):
            run("build", "knights", "--set", "colour=red")
        assert not home.exists() or not list(home.rglob("*.parquet"))


class TestHead:
    def test_the_gold_answer_of_every_shown_record_is_judged_correct(self) -> None:
        shown = json.loads(
            run("head", "knights,countdown,zebra,ordering,graph,sokoban", "-n", "12", "--json")
        )
        assert len(shown) == 12
        assert {each["verdict"].partition(":")[0] for each in shown} == {"correct"}

    def test_people_get_prompt_gold_and_verdict(self) -> None:
        text = run("head", "ordering", "-n", "1")
        assert "[user]" in text
        assert "[gold]" in text
        assert "[verdict on the gold]\ncorrect" in text

    def test_a_built_set_is_preferred_to_a_fresh_draw(self) -> None:
        run("build", "knights", "--size", "2", "--seed", "9")
        built = json.loads(run("head", "knights", "-n", "2", "--json"))
        fresh = json.loads(run("head", "knights", "-n", "2", "--json", "--set", "people=[3,4,5,6,7]"))
        assert built != fresh

    def test_a_file_that_does_not_exist_is_named(self) -> None:
        with pytest.raises(UsageError, match=r"absent\.parquet"):
            run("head", "absent.parquet")


class TestStats:
    def test_figures_add_up(self) -> None:
        run("build", "knights=2,countdown", "--size", "30", "--out", "mixed")
        figures = json.loads(run("stats", "mixed/train.parquet", "--json"))
        assert figures["records"] == 30
        assert figures["sources"] == {"knights": 20, "countdown": 10}
        assert sum(figures["difficulties"].values()) == 30
        assert (figures["repeated_uids"], figures["repeated_prompts"]) == (0, 0)
        assert figures["prompt_characters"]["median"] <= figures["prompt_characters"]["largest"]
        assert "source knights" in run("stats", "mixed")

    def test_a_set_that_was_not_built_is_no_set(self) -> None:
        with pytest.raises(UsageError, match="neither a record file nor a set"):
            run("stats", "knights")


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from reasonkit.cli.data import app\n"
        "heavy = {'pyarrow', 'numpy', 'reasoning_gym', 'torch', 'datasets', 'yaml'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "app(['build', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--train-size" in done.stdout
