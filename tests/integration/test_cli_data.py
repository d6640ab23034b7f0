"""`reasonkit data`: build, head and stats as a user types them, each in a folder of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reasonkit.cli.data import app
from reasonkit.cli.names import find_parts
from reasonkit.data.files import write_records
from reasonkit.errors import UsageError
from reasonkit.records import Record
from tests.hub_server import HubServer


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


class TestPublished:
    """Sets that were pulled, whole or in part, and parts that were not."""

    @pytest.fixture
    def pulled(self, home: Path) -> None:
        for part, count in (("math", 3), ("table", 2)):
            question = ({"role": "user", "content": f"one of {part}?"},)
            records = [Record(f"{part}{n}", "math__x", question, "1", "math") for n in range(count)]
            write_records(records, home / "guru" / part / "train.parquet")

    @pytest.mark.usefixtures("pulled")
    def test_a_part_and_all_parts_that_are_here(self, home: Path) -> None:
        (shown,) = json.loads(run("head", "guru:math", "-n", "1", "--json"))
        assert (shown["uid"], shown["verdict"]) == ("math0", "correct")
        assert json.loads(run("stats", "guru:table", "--json"))["records"] == 2
        assert json.loads(run("stats", "guru", "--json"))["records"] == 5

    @pytest.mark.parametrize(("name", "domains"), [("guru", ""), ("guru:logic", " --domains logic")])
    def test_figures_of_what_is_not_here_need_a_pull(self, name: str, domains: str) -> None:
        with pytest.raises(UsageError, match="has no train split on this machine") as caught:
            run("stats", name)
        assert caught.value.hint == f"reasonkit data pull guru{domains}"

    def test_the_first_few_come_from_the_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        people = [{"quiz": f"{n}?", "solution_text_format": "(1) A is a knight"} for n in range(4)]
        lines = "".join(json.dumps(row) + "\n" for row in people).encode()
        with HubServer() as server:
            files = {f"{split}/people3_num4.jsonl": lines for split in ("train", "test")}
            server.publish("K-and-K/knights-and-knaves", files)
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
            shown = json.loads(run("head", "kk:3ppl", "-n", "2", "--json"))
        assert len(shown) == 2
        assert {each["source"] for each in shown} == {"kk_logic"}

    def test_show_knows_parts(self) -> None:
        (part,) = find_parts("guru:math")
        assert "train/math__*.parquet" in part.about
        assert "reasonkit data pull guru --domains math" in part.about
        (part,) = find_parts("guru-online:math__aime")
        assert "online_eval/math__*.parquet" in part.about
        with pytest.raises(UsageError, match="unknown name 'guru:maths'"):
            find_parts("guru:maths")


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
