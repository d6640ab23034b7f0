"""Every data source finds its verifier, and an unknown one says so."""

import inspect

import pytest

from reasonkit.errors import UsageError
from reasonkit.records import Record
from reasonkit.registry import load
from reasonkit.verifiers.routing import (
    ALIASES,
    INLINE,
    REASONING360,
    ROUTES,
    VERIFIERS,
    route,
    target,
    verifier_name,
)


@pytest.mark.parametrize(
    ("source", "verifier"),
    [
        ("openai/gsm8k", "gsm8k"),
        ("math__deepscaler_preview", "math"),
        ("math_dapo", "math"),
        ("aime2024", "math"),
        ("table__hitab", "table"),
        ("stem__gpqa_diamond", "choice"),
        ("stem__web", "judge"),
        ("stem_web", "judge"),
        ("ood__ifeval", "ifeval"),
        ("rg:leg_counting", "reasoning_gym"),
        ("logic__arcagi1", "arc"),
        ("logic__barc", "arc"),
        ("zebra_puzzle_dataset", "zebra"),
        ("ordering_puzzle_dataset", "ordering"),
        ("graph_logical_dataset", "graph"),
        ("swe_verifiable", "swe"),
        ("if_verifier", "ifeval"),
        ("searchR1_nq", "search"),
        ("princeton-nlp/SWE-bench_Lite", "swe_tests"),
    ],
)
def test_published_sources_are_routed(source: str, verifier: str) -> None:
    assert route(source) == verifier


def test_an_unknown_source_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="tabel__hitab") as caught:
        route("tabel__hitab")
    assert "table" in caught.value.hint


def test_a_source_that_nothing_judges_says_why_and_what_to_do() -> None:
    with pytest.raises(UsageError, match="58 instruction types") as caught:
        route("ood__ifbench")
    assert "package.module:function" in caught.value.hint


def test_an_unknown_verifier_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        target("choise", "strict")
    assert "choice" in caught.value.hint


def test_a_record_may_name_its_verifier_or_a_function() -> None:
    assert verifier_name(Record("u", "nowhere", (), "", "exact")) == "exact"
    assert target("my.module:judge", "strict") == "my.module:judge"


def test_modes_differ_only_where_a_published_verdict_does() -> None:
    assert target("math", "strict") != target("math", "reasoning360")
    assert target("exact", "strict") == target("exact", "reasoning360")


def test_tables_agree_with_each_other() -> None:
    assert set(ROUTES.values()) <= VERIFIERS.keys()
    assert REASONING360.keys() <= VERIFIERS.keys()
    assert VERIFIERS.keys() >= INLINE
    assert all(route(alias) in VERIFIERS for alias in ALIASES)


@pytest.mark.parametrize("where", sorted(VERIFIERS.values()))
def test_every_verifier_says_in_a_line_what_it_judges(where: str) -> None:
    assert inspect.getdoc(load(where))


@pytest.mark.parametrize("where", sorted({*VERIFIERS.values(), *REASONING360.values()}))
def test_every_entry_loads_and_has_the_shape_of_a_verifier(where: str) -> None:
    verifier = load(where)
    parameters = list(inspect.signature(verifier).parameters)
    assert parameters == (
        ["record", "text", "grader"] if inspect.iscoroutinefunction(verifier) else ["record", "text"]
    )
