"""What no run can honour is refused by the dry run and by a real start alike, before anything is made."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from reasonkit.config import dump_recipe, resolve_recipe
from reasonkit.errors import UsageError
from reasonkit.rundir import RunDir
from reasonkit.train.checks import check_recipe
from reasonkit.train.dryrun import dry_run
from reasonkit.train.launch import resume_run, start_run

REFUSED = {
    "algorithm=nosuch": "algorithm 'nosuch'",
    "algorithm.ppo.foo=1": "'ppo' does not know foo",
    "algorithm.ppo.critic.lrr=1": "critic .*does not know lrr",
    "algorithm.sft.foo=1 train.mini_batch=null": "'sft' does not know foo",
    "algorithm.sft.demonstrator=nosuch:reply train.mini_batch=null": "nosuch:reply",
    "algorithm=sft": r"sft makes one update a step.*train.mini_batch \(16\)",
    "loss.policy=nosuch": "policy loss 'nosuch'",
    "loss.policy.gspo.lox=1": "'gspo' does not know lox",
    "loss.correction.icepop.lox=1": "'icepop' does not know lox",
    "train.lr_schedule=foo": "schedule 'foo'",
    "train.optimizer=adamw8bit": "optimizer 'adamw8bit'",
    "train.stop_on.entropy=1": "train.stop_on has 'entropy'",
    "rollout.engine=nosuch": "engine 'nosuch'",
    "rollout.engine.vllm.tensorparallel=2": "'vllm' does not know tensorparallel",
    "rollout.env=nosuch": "environment 'nosuch'",
    "rollout.env.sokoban.foo=1": "'sokoban' does not know foo",
    "reward.nosuch=1": "reward 'nosuch'",
    "verifier=nosuch": "verifier 'nosuch'",
    "verifier.remote.timeout=3": "'remote' needs url",
    "validation.tasks=[nosuch]": "'nosuch' is no task",
    "validation.tasks=[rg:nosuch]": "nosuch",
    "warmup.copying=nosuch:copied": "nosuch:copied",
    "data.train=[{name: knights, size: 9, filter: nosuch:short}]": "nosuch:short",
    "model.lora.lora_dropout=0.1": "lora_dropout is 0.1",
    "model.lora.lora_alfa=1": "no field 'lora_alfa'",
    "log.trackers=[trackio]": "trackio, which is not installed",
    "cluster.parallel.tensor=3 cluster.learners=2": r"tensor \(3\) does not divide .*learners \(2\)",
    "cluster.parallel.tensor=2 cluster.parallel.sequence=2": "are both above 1",
}


@pytest.mark.parametrize("settings", REFUSED)
def test_what_no_run_can_honour_is_refused_before_anything_is_made(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    recipe = resolve_recipe("tiny", settings_of(settings)).recipe
    with pytest.raises(UsageError, match=REFUSED[settings]) as refused:
        dry_run(recipe)
    assert refused.value.hint
    with pytest.raises(UsageError, match=REFUSED[settings]):
        start_run(recipe, RunDir(tmp_path), Mock())
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("data.train=[{name: nosuch}]", "unknown data source 'nosuch'"),
        ("data.train=[{name: knights}]", "size is null"),
        ("data.held_out=[{name: nosuch, size: 9}]", "unknown data source 'nosuch'"),
        ("data.held_out=[{name: 'hf:org/sums'}]", "has no end: size is null"),
        ("data.held_out=[{name: knights, size: 9, options: {foo: 1}}]", "foo"),
    ],
)
def test_the_dry_run_refuses_a_source_that_cannot_be(source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dry_run(resolve_recipe("tiny", [source]).recipe)


def test_so_is_a_run_that_goes_on(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.recipe.write_text(dump_recipe(resolve_recipe("tiny").recipe))
    with pytest.raises(UsageError, match="does not divide"):
        resume_run(folder, Mock(), overrides=["cluster.parallel.tensor=3", "cluster.learners=2"])
    assert [*tmp_path.iterdir()] == [folder.recipe]


def test_names_that_mean_something_pass_without_being_here() -> None:
    """Tasks that are on the Hub or have to be obtained, and parts that take other machines."""
    tasks = "[aime23:4, guru17, sokoban, 'guru:math', 'hf:org/name@main', kk5, 'rg:leg_counting', knights]"
    settings = [f"validation.tasks={tasks}", "algorithm.ppo.critic.lr=1e-5", "rollout.engine.vllm.memory=0.5"]
    check_recipe(resolve_recipe("tiny", settings).recipe)


def settings_of(text: str) -> list[str]:
    return [text] if "[" in text else text.split()
