"""`reasonkit play`, as it is typed: a model's episodes and one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from reasonkit.cli.app import build_app
from reasonkit.errors import ReasonkitError, UsageError
from tests.tiny_models import save_tiny_model


def play(*arguments: str, typed: str = "") -> Result:
    """In this process, so that torch is loaded once."""
    return CliRunner().invoke(build_app(["play"]), ["play", *arguments], input=typed)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("play") / "model", context=1024)


def test_a_models_episode_is_shown_with_its_masks_and_rewards(model: Path) -> None:
    options = ["-s", "max_turns=2", "--max-tokens", "9", "--seed", "3"]
    done = play("sokoban", "-m", str(model), *options)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    headers = [line for line in lines if line.startswith("--- tokens")]
    assert [header.partition("mask ")[2] for header in headers] == ["0: given", "1: sampled"] * 2
    assert sum("reward -1.1   moves []   readable False" in line for line in lines) == 2
    assert "Action is invalid. You stay in the same position." in done.stdout
    assert any(line.startswith("verdict: no_answer, score 0") for line in lines)
    assert "2 replies" in done.stdout


def test_the_same_as_json(model: Path) -> None:
    options = ["-s", "max_turns=2", "--max-tokens", "9", "--seed", "3", "--json"]
    done = play("sokoban", "-m", str(model), *options, "-n", "2")
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.stdout)
    assert first["uid"] != second["uid"]
    assert [turn["reward"] for turn in first["turns"]] == [-1.1, -1.1]
    (segment,) = first["segments"]
    assert len(segment["ids"]) == len(segment["mask"]) == len(segment["logprobs"])
    assert sum(segment["mask"]) == first["usage"]["completion_tokens"]


def test_a_question_is_asked_and_nothing_is_judged(model: Path) -> None:
    done = play("single_turn", "What is 1+1?", "-m", str(model), "--max-tokens", "5")
    assert done.exit_code == 0, done.output
    assert "What is 1+1?" in done.stdout
    assert "verdict" not in done.stdout
    typed = play("single_turn", "-m", str(model), "--max-tokens", "5", typed="What is 1+1?\n")
    assert typed.stdout == done.stdout


def test_one_plays_oneself(tmp_path: Path) -> None:
    """The real command, a reply a line."""
    done = subprocess.run(
        [sys.executable, "-m", "reasonkit", "play", "sokoban", "-s", "max_turns=3"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        input="Up\n<answer>Jump</answer>\n<answer>Up</answer>\n",
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Action is invalid") == 2
    assert "turn 3: '<answer>Up</answer>'" in done.stdout
    assert "verdict: correct, score 1: solved with move 1" in done.stdout
    assert "reward: 9.7 = correctness 1 + env 8.7" in done.stdout


def test_an_episode_that_is_not_played_to_its_end_has_failed() -> None:
    done = play("frozen_lake", typed="<answer>Right</answer>\n")
    assert isinstance(done.exception, ReasonkitError)
    assert "1 of 1 episodes failed: generate: ReasonkitError: standard input ended" in done.exception.message


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["sokoba"], "unknown environment 'sokoba'"),
        (["sokoban", "What is 1+1?"], "takes no question"),
        (["sokoban", "-s", "turns=3"], "does not know turns"),
        (["sokoban", "-s", "turns"], "has no value"),
    ],
)
def test_what_cannot_be_played_is_refused(arguments: list[str], complaint: str) -> None:
    refused = play(*arguments).exception
    assert isinstance(refused, UsageError)
    assert complaint in refused.message
