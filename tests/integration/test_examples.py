"""The examples run as their pages say."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from reasonkit.config import load_recipe
from reasonkit.data.build import build
from reasonkit.data.sources.sokoban import solve
from reasonkit.envs import ENVS
from reasonkit.registry import with_options
from reasonkit.verifiers.sokoban_replay import parse_room
from tests.micro import finished_run, reasonkit

LOOP = Path(__file__).parents[2] / "examples" / "minimal_loop" / "loop.py"


def test_the_minimal_loop_runs_and_stays_readable(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = finished_run(tmp_path_factory) / "model"
    done = reasonkit(tmp_path, str(model), "--steps", "2", program=(str(LOOP),))
    assert done.returncode == 0, done.stderr
    words = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert words == ["before", "step 1", "step 2", "after"]
    assert len(LOOP.read_text().splitlines()) <= 200


SOKOBAN = Path(__file__).parents[2] / "examples" / "sokoban"


def test_the_sokoban_demonstrator_mixes_up_one_move_and_plays_the_others_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(SOKOBAN)
    import demonstrator  # type: ignore[import-not-found]

    records = list(build("sokoban", "train", 40, 0, {"max_steps": 6, "bins": [2, 4, 6], "prefix": "grid"}))
    for record in records:
        right = solve(parse_room(record.metadata["room"]), 6)
        assert right is not None
        said = {demonstrator.demonstration(record, seed) for seed in range(20)}
        assert said == ({"U", "D"} if right[0] == "Up" else {right[0][0]})
        assert all(demonstrator.is_a_move(record, reply) for reply in said)


def test_the_sokoban_recipe_shows_the_model_what_the_environment_shows() -> None:
    """The warm-up imitates on records' prompts, the game is played on the environment's."""
    recipe = load_recipe(SOKOBAN / "recipe.yaml")
    env = with_options("environment", recipe.rollout.env.name, ENVS, recipe.rollout.env.options)()
    (source,) = recipe.data.held_out
    (record,) = build("sokoban", "test", 1, recipe.seed, source.options)
    assert asyncio.run(env.reset(record, 0)) == list(record.prompt)
    assert set(record.prompt[0]["content"]) <= set(recipe.model.init["alphabet"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_sokoban_example_learns_unseen_rooms(tmp_path: Path) -> None:
    for name in ("recipe.yaml", "demonstrator.py"):
        shutil.copy(SOKOBAN / name, tmp_path)
    done = reasonkit(tmp_path, "train", "recipe.yaml", "--out", "run", "--json", timeout=3600)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["after"]["greedy"]["accuracy"] > outcome["before"]["greedy"]["accuracy"] + 0.2
    assert outcome["after"]["sampled"]["low"] > outcome["before"]["sampled"]["high"]
