"""Which verifier judges a record: the table of verifiers, and the routes from a data source to one of them.

A record that names its verifier needs no route. Published files only carry a `data_source`, and the
names in them disagree with the prefixes that their own graders test for, so `ALIASES` maps what the
files say to what the routes know. An unknown source is an error: scoring it with a default grader
would train on noise. Nothing here imports a verifier.
"""

from __future__ import annotations

from typing import Literal

from reasonkit.errors import UsageError, nearest
from reasonkit.records import Record

Mode = Literal["strict", "reasoning360"]
"""`strict` is right; `reasoning360` reproduces published scores, quirks included."""

VERIFIERS: dict[str, str] = {
    "exact": "reasonkit.verifiers.exact:verify_exact",
    "gsm8k": "reasonkit.verifiers.gsm8k:verify_gsm8k",
    "math": "reasonkit.verifiers.math:verify_math",
    "choice": "reasonkit.verifiers.choice:verify_choice",
    "code": "reasonkit.verifiers.code:verify_code",
    "codeio": "reasonkit.verifiers.codeio:verify_codeio",
    "cruxeval": "reasonkit.verifiers.cruxeval:verify_cruxeval",
    "list": "reasonkit.verifiers.lists:verify_list",
    "search": "reasonkit.verifiers.search:verify_search",
    "set": "reasonkit.verifiers.lists:verify_set",
    "number": "reasonkit.verifiers.numbers:verify_number",
    "table": "reasonkit.verifiers.tables:verify_table",
    "format": "reasonkit.verifiers.format:verify_format",
    "ifeval": "reasonkit.verifiers.ifeval:verify_ifeval",
    "livebench": "reasonkit.verifiers.livebench:verify_livebench",
    "swe": "reasonkit.verifiers.swe:verify_swe",
    "swe_tests": "reasonkit.verifiers.swe_tests:verify_swe_tests",
    "judge": "reasonkit.verifiers.judge:verify_by_judge",
    "reasoning_gym": "reasonkit.verifiers.reasoning_gym:verify_reasoning_gym",
    "arc": "reasonkit.verifiers.arc:verify_arc",
    "countdown": "reasonkit.verifiers.countdown:verify_countdown",
    "graph": "reasonkit.verifiers.graph:verify_graph",
    "knights": "reasonkit.verifiers.knights:verify_knights",
    "ordering": "reasonkit.verifiers.ordering:verify_ordering",
    "sokoban": "reasonkit.verifiers.sokoban_replay:verify_sokoban",
    "zebra": "reasonkit.verifiers.zebra:verify_zebra",
    "by_env": "reasonkit.verifiers.by_env:verify_by_env",
}

REASONING360: dict[str, str] = {
    "gsm8k": "reasonkit.verifiers.gsm8k:verify_gsm8k_reasoning360",
    "math": "reasonkit.verifiers.math_reasoning360:verify_math_reasoning360",
    "choice": "reasonkit.verifiers.choice:verify_choice_reasoning360",
    "code": "reasonkit.verifiers.code:verify_code_reasoning360",
    "codeio": "reasonkit.verifiers.codeio:verify_codeio_reasoning360",
    "cruxeval": "reasonkit.verifiers.cruxeval:verify_cruxeval_reasoning360",
    "livebench": "reasonkit.verifiers.livebench:verify_livebench_reasoning360",
    "table": "reasonkit.verifiers.tables:verify_table_reasoning360",
    "arc": "reasonkit.verifiers.arc:verify_arc_reasoning360",
    "graph": "reasonkit.verifiers.graph:verify_graph_reasoning360",
    "ordering": "reasonkit.verifiers.ordering:verify_ordering_reasoning360",
    "zebra": "reasonkit.verifiers.zebra:verify_zebra_reasoning360",
}
"""The verifiers that mode `reasoning360` swaps in; a name that is missing here is judged alike in both modes."""

INLINE = frozenset(
    {
        "exact",
        "gsm8k",
        "choice",
        "list",
        "search",
        "set",
        "number",
        "format",
        "countdown",
        "graph",
        "knights",
        "sokoban",
        "by_env",
    }
)
"""Verifiers that run in the caller's thread: one pass over the text with string methods and no third-party
parser, so a process hop would cost more than the verdict and nothing a model writes can make them slow."""

ROUTES: dict[str, str] = {
    "math*": "math",
    "numina_*": "math",
    "aime*": "math",
    "amc*": "math",
    "lighteval/MATH": "math",
    "DigitalLearningGmbH/MATH-lighteval": "math",
    "HuggingFaceH4/MATH-500": "math",
    "HuggingFaceH4/aime_2024": "math",
    "hiyouga/geometry3k": "math",
    "math_verifiable": "math",
    "openai/gsm8k": "gsm8k",
    "gsm8k*": "gsm8k",
    "table*": "table",
    "stem__gpqa*": "choice",
    "stem__supergpqa*": "choice",
    "stem_web": "judge",
    "llm_judge": "judge",
    "ood__ifeval*": "ifeval",
    "ood__livebench*": "livebench",
    "if_verifier": "ifeval",
    "searchR1_*": "search",
    "swe_verifiable": "swe",
    "swe_bench*": "swe_tests",
    "princeton-nlp/SWE-bench*": "swe_tests",
    "reasoning_gym": "reasoning_gym",
    "rg:*": "reasoning_gym",
    "codegen*": "code",
    "leetcode": "code",
    "taco": "code",
    "primeintellect": "code",
    "codecontests": "code",
    "apps": "code",
    "codeforces": "code",
    "code_verifiable": "code",
    "humaneval*": "code",
    "mbpp*": "code",
    "livecodebench*": "code",
    "simulation__codeio*": "codeio",
    "codeio": "codeio",
    "reason_io": "codeio",
    "simulation__cruxeval*": "cruxeval",
    "cruxeval*": "cruxeval",
    "arc": "arc",
    "barc": "arc",
    "hitab": "table",
    "multihiertt": "table",
    "stem": "judge",
    "countdown": "countdown",
    "graph": "graph",
    "kk_logic": "knights",
    "knights": "knights",
    "logic__graph*": "graph",
    "logic__ordering_puzzle*": "ordering",
    "logic__zebra_puzzle*": "zebra",
    "episodes": "by_env",
    "frozen_lake": "by_env",
    "ordering": "ordering",
    "simulation__arcagi*": "arc",
    "simulation__barc*": "arc",
    "sokoban": "sokoban",
    "zebra": "zebra",
}
"""Data source to verifier. A key that ends in `*` is a prefix; the longest that fits wins."""

ALIASES: dict[str, str] = {
    "graph_logical_dataset": "logic__graph_logical",
    "ordering_puzzle_dataset": "logic__ordering_puzzle",
    "zebra_puzzle_dataset": "logic__zebra_puzzle",
    "logic__arcagi1": "simulation__arcagi1",
    "logic__arcagi2": "simulation__arcagi2",
    "logic__barc": "simulation__barc",
    "stem__web": "stem_web",
}
"""What published files call a source, where that differs from the name that its grader is routed by."""


UNJUDGED: dict[str, tuple[str, str]] = {
    "ood__ifbench": (
        "IFBench's 58 instruction types are checked by code that comes with that benchmark, and by none here",
        "name your own in the record's `verifier`: package.module:function; `ifeval` knows IFEval's 25 types",
    ),
}
"""Prefixes of published sources that no verifier judges: why, and what to do. A verdict by guess would be noise."""


def route(source: str) -> str:
    """The name of the verifier that judges records of `source`."""
    name = ALIASES.get(source, source)
    for prefix, (why, hint) in UNJUDGED.items():
        if name.startswith(prefix):
            raise UsageError(f"no verifier for the data source '{source}': {why}", hint)
    if name in ROUTES:
        return ROUTES[name]
    fitting = [key for key in ROUTES if key.endswith("*") and name.startswith(key[:-1])]
    if fitting:
        return ROUTES[max(fitting, key=len)]
    known = {key.rstrip("*").rstrip("_") for key in ROUTES} | ALIASES.keys()
    family = nearest(name.partition("__")[0], {key.partition("__")[0] for key in known})
    raise UsageError(
        f"no verifier is routed for the data source '{source}'",
        nearest(name, known) or family or "name one in the record's `verifier`: reasonkit list verifiers",
    )


def verifier_name(record: Record) -> str:
    """The verifier that `record` names, or else the one that its source routes to."""
    return record.verifier or route(record.source)


def target(name: str, mode: Mode) -> str:
    """The `module:attribute` of verifier `name`, which may itself be a user's `package.module:function`."""
    if mode == "reasoning360" and name in REASONING360:
        return REASONING360[name]
    if name in VERIFIERS:
        return VERIFIERS[name]
    if ":" in name:
        return name
    raise UsageError(
        f"unknown verifier '{name}'", nearest(name, VERIFIERS) or "reasonkit list verifiers shows them"
    )
