"""Recipes: how they are found, merged, overridden, checked and printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasonkit.config import dump_recipe, load_recipe, preset_names, resolve_recipe
from reasonkit.errors import ConfigError
from reasonkit.recipe import Part, Recipe

MINIMAL = """\
name: mine
model: {path: some/model, context: 100}
rollout: {max_tokens: 50}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("REASONKIT__")]:
        monkeypatch.delenv(variable)
    return tmp_path


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return name


def error_of(name: str, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolve_recipe(name, overrides)
    return caught.value


def test_a_file_is_read_with_defaults_filled_in(folder: Path) -> None:
    recipe = resolve_recipe(write(folder, "a.yaml", MINIMAL)).recipe
    assert (recipe.name, recipe.rollout.max_tokens, recipe.algorithm) == ("mine", 50, Part("grpo"))


def test_bases_merge_deeply_left_to_right_and_the_file_wins(folder: Path) -> None:
    write(folder, "base1.yaml", MINIMAL + "train: {prompts: 8, lr: 0.1}\n")
    write(folder, "base2.yaml", "train: {lr: 0.2, steps: 3}\n")
    write(folder, "top.yaml", "_base_: [base1.yaml, base2.yaml]\ntrain: {steps: 4}\n")
    train = resolve_recipe("top.yaml").recipe.train
    assert (train.prompts, train.lr, train.steps) == (8, 0.2, 4)


def test_a_base_is_relative_to_the_file_that_names_it(folder: Path) -> None:
    (folder / "deep").mkdir()
    write(folder, "deep/base.yaml", MINIMAL)
    write(folder, "deep/mid.yaml", "_base_: base.yaml\nseed: 5\n")
    assert resolve_recipe(write(folder, "top.yaml", "_base_: deep/mid.yaml\n")).recipe.seed == 5


def test_a_cycle_of_bases_names_its_chain(folder: Path) -> None:
    write(folder, "a.yaml", "_base_: b.yaml\n")
    write(folder, "b.yaml", "_base_: c.yaml\n")
    write(folder, "c.yaml", "_base_: a.yaml\n")
    assert "a.yaml -> b.yaml -> c.yaml -> a.yaml" in error_of("a.yaml").message


def test_precedence_is_file_then_environment_then_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write(folder, "a.yaml", MINIMAL + "train: {steps: 1, prompts: 2, lr: 0.5}\n")
    monkeypatch.setenv("REASONKIT__TRAIN__STEPS", "2")
    monkeypatch.setenv("REASONKIT__TRAIN__PROMPTS", "4")
    train = resolve_recipe(name, ["train.steps=3"]).recipe.train
    assert (train.steps, train.prompts, train.lr) == (3, 4, 0.5)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.lr=1e-6", "train", "lr", 1e-6),
        ("loss.policy.gspo.low=3e-4", "loss", "policy", Part("gspo", {"low": 3e-4})),
        ("loss.policy.gspo.low=3E4", "loss", "policy", Part("gspo", {"low": 3e4})),
        ("train.mini_batch=null", "train", "mini_batch", None),
        ("log.project=123", "log", "project", "123"),
        ("log.project=yes", "log", "project", "yes"),
        ("train.compile=no", "train", "compile", False),
        ("rollout.stop=[a, b]", "rollout", "stop", ["a", "b"]),
        ("rollout.engine=vllm", "rollout", "engine", Part("vllm")),
        ("rollout.engine.vllm.share=0.5", "rollout", "engine", Part("vllm", {"share": 0.5})),
    ],
)
def test_set_is_typed_by_the_schema(
    folder: Path, override: str, section: str, key: str, value: object
) -> None:
    recipe = resolve_recipe(write(folder, "a.yaml", MINIMAL), [override]).recipe
    assert getattr(getattr(recipe, section), key) == value


def test_another_part_brings_its_own_options_and_the_same_part_keeps_the_others(folder: Path) -> None:
    base = MINIMAL + "loss: {policy: {clipped: {low: 0.1, dual: 3.0}}}\n"
    write(folder, "a.yaml", base)
    over = write(folder, "b.yaml", "_base_: a.yaml\nloss: {policy: {gspo: {low: 3.0e-4}}}\n")
    assert resolve_recipe(over).recipe.loss.policy == Part("gspo", {"low": 3e-4})
    kept = resolve_recipe(str(folder / "a.yaml"), ["loss.policy.clipped.high=0.28"]).recipe
    assert kept.loss.policy == Part("clipped", {"low": 0.1, "dual": 3.0, "high": 0.28})
    assert "policy:\n    clipped:" in dump_recipe(kept)


def test_a_part_is_a_name_or_a_name_with_options(folder: Path) -> None:
    two = MINIMAL + "loss: {policy: {clipped: {low: 0.1}, gspo: {}}}\n"
    assert "expected NAME or {NAME: {option: value}}" in error_of(write(folder, "a.yaml", two)).message


def test_an_unknown_key_names_the_nearest_and_its_file_and_line(folder: Path) -> None:
    error = error_of(write(folder, "a.yaml", MINIMAL + "train:\n  stpes: 3\n"))
    assert "unknown key 'train.stpes'" in error.message
    assert "a.yaml:5" in error.message
    assert "did you mean 'steps'?" in error.message
    assert error.exit_code == 2


def test_an_unknown_key_in_set_and_environment_is_found_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write(folder, "a.yaml", MINIMAL)
    assert "--set tarin.steps=3" in error_of(name, "tarin.steps=3").message
    monkeypatch.setenv("REASONKIT__ROLLOUT__TEMPRATURE", "1")
    message = error_of(name).message
    assert "REASONKIT__ROLLOUT__TEMPRATURE" in message
    assert "did you mean 'temperature'?" in message


def test_a_wrong_type_shows_the_value_and_where_it_stands(folder: Path) -> None:
    message = error_of(write(folder, "a.yaml", MINIMAL + "train: {steps: many}\n")).message
    assert "train.steps = 'many'" in message
    assert "a.yaml:4" in message


def test_all_problems_are_reported_at_once(folder: Path) -> None:
    message = error_of(write(folder, "a.yaml", MINIMAL + "train: {steps: 0, lr: -1, foo: 1}\n")).message
    assert all(key in message for key in ("train.steps", "train.lr", "train.foo"))


@pytest.mark.parametrize(
    ("extra", "values"),
    [
        ("train: {prompts: 10, mini_batch: 4}", ("10", "4")),
        ("train: {prompts: 8, mini_batch: 4, updates_per_rollout: 3}", ("3", "2")),
        ("seed: 1\n", None),
    ],
)
def test_conflicts_show_both_values(folder: Path, extra: str, values: tuple[str, str] | None) -> None:
    name = write(folder, "a.yaml", MINIMAL + extra + "\n")
    if values is None:
        assert resolve_recipe(name).recipe.seed == 1
        return
    message = error_of(name).message
    assert all(value in message for value in values)


def test_a_reply_as_long_as_the_context_is_a_conflict(folder: Path) -> None:
    message = error_of(write(folder, "a.yaml", MINIMAL), "rollout.max_tokens=100").message
    assert "rollout.max_tokens (100)" in message
    assert "model.context (100)" in message


def test_a_key_written_twice_is_an_error(folder: Path) -> None:
    message = error_of(write(folder, "a.yaml", MINIMAL + "seed: 1\nseed: 2\n")).message
    assert "'seed' is written twice" in message


@pytest.mark.parametrize(
    "text", ["- a\n- b\n", "a: [1\n", "name: \x00\n", "\tname: x\n"], ids=["list", "open", "nul", "tab"]
)
def test_what_is_no_mapping_is_a_clear_error(folder: Path, text: str) -> None:
    assert "a.yaml" in error_of(write(folder, "a.yaml", text)).message


def test_a_misspelt_preset_names_the_nearest(folder: Path) -> None:
    assert "did you mean 'tiny'?" in error_of("tinny").message


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_survives_dump_and_load(folder: Path, name: str) -> None:
    recipe = resolve_recipe(name).recipe
    write(folder, "dumped.yaml", dump_recipe(recipe))
    assert load_recipe(folder / "dumped.yaml") == recipe


def test_origins_name_file_set_and_default(folder: Path) -> None:
    resolved = resolve_recipe(write(folder, "a.yaml", MINIMAL), ["seed=4"])
    origins = {key: origin for key, _, origin in resolved.rows()}
    assert origins["seed"] == "--set seed=4"
    assert origins["model.path"].endswith("a.yaml:2")
    assert origins["train.lr"] == "default"


def test_the_schema_has_at_most_80_keys_each_documented() -> None:
    def leaves(model: type, above: str = "") -> list[tuple[str, str | None]]:
        found = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
            inner = next((each for each in candidates if hasattr(each, "model_fields")), None)
            found += leaves(inner, f"{above}{name}.") if inner else [(above + name, field.description)]
        return found

    keys = leaves(Recipe)
    assert len(keys) <= 80
    assert [name for name, description in keys if not description] == []


def test_the_page_of_keys_is_up_to_date() -> None:
    script = Path(__file__).parents[2] / "docs" / "recipe_page.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_resumed_run_may_be_computed_elsewhere_and_is_otherwise_the_same(folder: Path) -> None:
    kept = folder / write(folder, "recipe.yaml", MINIMAL)
    changes = ("cluster.learners=3", "train.token_budget=64", "checkpoint.every=5")
    recipe = load_recipe(kept, changes)
    assert (recipe.cluster.learners, recipe.train.token_budget, recipe.checkpoint.every) == (3, 64, 5)
    for change in ("train.lr=1.0", "train={steps: 5}", "clusters=1", "seed=1"):
        with pytest.raises(ConfigError) as caught:
            load_recipe(kept, [change])
        assert change in caught.value.message
        assert "cluster, train.token_budget" in caught.value.message
        assert f"--set {change}" in str(caught.value.hint)
