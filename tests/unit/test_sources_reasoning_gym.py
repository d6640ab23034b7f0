"""reasoning-gym tasks as sources: any item can be drawn again alone, and the library's scorer takes the gold."""

from __future__ import annotations

import json

import pytest

from reasonkit.data.build import build
from reasonkit.data.sources.reasoning_gym import REUSED, _dataset, _loaded, entry, task_names
from reasonkit.errors import UsageError


def test_every_task_of_the_library_but_its_mixer_is_there() -> None:
    names = task_names()
    assert "leg_counting" in names
    assert "composite" not in names
    assert len(names) > 100


def test_a_record_can_be_drawn_again_from_its_task_seed() -> None:
    for record in build("rg:leg_counting", "train", 5, 0, {"config": {"max_animals": 4}}):
        again = entry("leg_counting", record.metadata["task_seed"], record.metadata["config"])
        assert again == record.metadata["entry"]
        assert again["answer"] == record.answer


def test_neighbouring_seeds_share_no_items() -> None:
    first, second = (
        {r.prompt[0]["content"] for r in build("rg:base_conversion", "train", 40, s)} for s in (0, 1)
    )
    assert len(first & second) <= 1


def test_a_tasks_own_settings_reach_it() -> None:
    for record in build("rg:chain_sum", "train", 5, 0, {"config": {"min_terms": 5, "max_terms": 5}}):
        assert record.metadata["entry"]["metadata"]["num_terms"] == 5


@pytest.mark.parametrize("task", ["chain_sum", "word_ladder"])
def test_a_setting_that_the_task_does_not_have_names_the_nearest(task: str) -> None:
    with pytest.raises(UsageError, match=f"rg:{task} has no setting config.mn_terms") as caught:
        build(f"rg:{task}", "train", 1, 0, {"config": {"mn_terms": 2}})
    assert "min_terms" in caught.value.hint or "known: " in caught.value.hint


@pytest.mark.parametrize(
    "config", [{"min_terms": 5, "max_terms": 2}, {"min_terms": "many"}, {"min_digits": 0}]
)
def test_a_value_that_the_task_refuses_is_a_usage_error(config: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="rg:chain_sum refuses min_"):
        build("rg:chain_sum", "train", 1, 0, {"config": config})


@pytest.mark.parametrize("task", sorted(REUSED - {"arc_agi", "codeio", "figlet_font", "group_anagrams"}))
def test_a_reused_set_gives_the_items_of_a_fresh_one(task: str) -> None:
    import reasoning_gym

    for seed in (3, 2**31 - 1):
        fresh = reasoning_gym.create_dataset(task, size=1, seed=seed)[0]
        assert json.dumps(_dataset(task, seed, {})[0], default=repr) == json.dumps(fresh, default=repr)
    _loaded.cache_clear()


def test_an_integral_that_the_library_could_not_do_is_no_problem_to_set() -> None:
    settings = {"config": {"problem_type_weights": [0, 0, 0, 0, 0, 1, 0, 0]}}
    answers = [record.answer for record in build("rg:intermediate_integration", "train", 6, 0, settings)]
    assert not [answer for answer in answers if "Integral" in answer]


def test_the_callers_random_numbers_are_left_alone() -> None:
    import random

    random.seed(1)
    expected = random.random()
    random.seed(1)
    list(build("rg:gcd", "train", 3, 0))
    assert random.random() == expected
