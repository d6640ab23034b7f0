"""Which records stay, and why each of the others does not.

In this order: what cannot be trusted (verdicts, length, language, answers), what is out of the band of pass
rates, what is over the cap of its source, what a sample of the rest leaves out. Every dropped record has one
reason, the first that applies.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from reasonkit.data.cleaning import Rejection, prompt_text
from reasonkit.errors import UsageError
from reasonkit.filter.rates import Key, Rate, Rates, key_of
from reasonkit.records import Record, dumps
from reasonkit.seeding import derive_seed
from reasonkit.verifiers.ifeval_language import detect_language

WEAK, STRONG = "weak", "strong"
NO_VERDICT = "samples without a verdict"
BINS = ("impossible", "very hard", "hard", "medium", "easy", "very easy", "perfect")
"""Never solved; five fifths of what lies between; always solved."""

Balance = Literal["source", "rate"]
Reason = Callable[[Record], Rejection | None]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a record must satisfy to stay."""

    low: float = 1e-5
    high: float = 0.9
    inverted: bool = False
    """Drop what the weak model solves more often than the strong one."""
    most_missing: float = 0.0
    """The share of a record's samples that may lack a verdict."""
    most_truncated: float = 1.0
    """The share of a record's samples that may be cut at the length limit."""
    most_tokens: int | None = None
    """Of a prompt."""
    count_tokens: Callable[[Record], int] | None = None
    language: str | None = None
    same_answer: int | None = None
    """How many records of a source may have one and the same answer."""
    cap: int | None = None
    """Records of a source."""
    caps: Mapping[str, int] = field(default_factory=dict)
    """The same for single sources."""
    size: int | None = None
    """Records in all."""
    balance: Balance = "source"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1 + 1e-9:
            raise UsageError(
                f"--low {self.low:g} and --high {self.high:g} leave no band of pass rates",
                "--low 1e-5 --high 0.9",
            )


@dataclass(frozen=True, slots=True)
class Choice:
    """A file's records, parted. Kept ones are in the order of the file."""

    kept: list[Record]
    dropped: list[tuple[Record, Rejection]]

    def reasons(self) -> Counter[str]:
        return Counter(rejection.reason for _, rejection in self.dropped)


def roles(labels: Sequence[str]) -> tuple[str, str]:
    """Whose rates bound the band: the model that must not solve a record too often, the one that must at all."""
    if len(labels) == 1:
        return labels[0], labels[0]
    if WEAK in labels and STRONG in labels:
        return WEAK, STRONG
    raise UsageError(
        f"of several models ({', '.join(labels)}) one must be called {WEAK} and one {STRONG}",
        f"-m {WEAK}=MODEL -m {STRONG}=MODEL",
    )


def choose(records: Sequence[Record], rates: Rates, rules: Rules) -> Choice:
    dropped: dict[Key, Rejection] = {}

    def drop_if(reason: Reason) -> None:
        for record in records:
            if key_of(record) not in dropped and (rejection := reason(record)) is not None:
                dropped[key_of(record)] = rejection

    def drop_others(drawn: Sequence[Record], rejection: Rejection) -> None:
        keys = {key_of(record) for record in drawn}
        drop_if(lambda record: None if key_of(record) in keys else rejection)

    for reason in _reasons(rates, rules):
        drop_if(reason)
    if rules.cap is not None or rules.caps:
        left = [record for record in records if key_of(record) not in dropped]
        drop_others(_capped(left, rules), Rejection("over the cap of its source"))
    if rules.size is not None:
        left = [record for record in records if key_of(record) not in dropped]
        drop_others(_balanced(left, rates, rules, rules.size), Rejection("left out of the sample"))
    return Choice(
        [record for record in records if key_of(record) not in dropped],
        [(record, dropped[key_of(record)]) for record in records if key_of(record) in dropped],
    )


def _reasons(rates: Rates, rules: Rules) -> Iterable[Reason]:
    """In the order in which they are asked; each sees what the ones before left."""
    for label, of in rates.items():
        yield _without_verdict(label, of, rules.most_missing)
        if rules.most_truncated < 1:
            yield _truncated(label, of, rules.most_truncated)
    if rules.most_tokens is not None:
        yield _too_long(rules)
    if rules.language is not None:
        yield _other_language(rules.language)
    yield _asked_before()
    yield _band(rates, rules)
    if rules.same_answer is not None:
        yield _over(rules.same_answer, "as many records of its source have this answer", _source_and_answer)


def _without_verdict(label: str, of: Mapping[Key, Rate], most: float) -> Reason:
    def reason(record: Record) -> Rejection | None:
        rate = of[key_of(record)]
        if rate.judged and rate.missing <= most * rate.asked:
            return None
        return Rejection(NO_VERDICT, f"{label}: {rate.missing} of {rate.asked}")

    return reason


def _truncated(label: str, of: Mapping[Key, Rate], most: float) -> Reason:
    def reason(record: Record) -> Rejection | None:
        rate = of[key_of(record)]
        if rate.truncated <= most * rate.asked:
            return None
        return Rejection("replies cut at the length limit", f"{label}: {rate.truncated} of {rate.asked}")

    return reason


def _too_long(rules: Rules) -> Reason:
    count, most = rules.count_tokens, rules.most_tokens
    assert count is not None
    assert most is not None

    def reason(record: Record) -> Rejection | None:
        length = count(record)
        return Rejection(f"prompt over {most} tokens", f"{length} tokens") if length > most else None

    return reason


def _other_language(language: str) -> Reason:
    def reason(record: Record) -> Rejection | None:
        found = detect_language(prompt_text(record))
        return None if found == language else Rejection(f"not in language {language}", str(found))

    return reason


def _asked_before() -> Reason:
    """A question to the letter as before: once is enough, and two answers to it cannot both be right."""
    first: dict[str, Record] = {}

    def reason(record: Record) -> Rejection | None:
        known = first.setdefault(prompt_text(record).strip(), record)
        if known is record:
            return None
        same = dumps(known.answer) == dumps(record.answer)
        return Rejection("asked before" if same else "asked before, with another answer", known.uid)

    return reason


def _band(rates: Rates, rules: Rules) -> Reason:
    weak, strong = roles(list(rates))

    def reason(record: Record) -> Rejection | None:
        easy, hard = rates[weak][key_of(record)].value, rates[strong][key_of(record)].value
        if hard <= rules.low:
            return Rejection("too hard", f"{strong} solves {hard:g} ≤ {rules.low:g}")
        if easy >= rules.high:
            return Rejection("too easy", f"{weak} solves {easy:g} ≥ {rules.high:g}")
        if rules.inverted and easy > hard:
            return Rejection("inverted", f"{weak} solves {easy:g} > {strong} {hard:g}")
        return None

    return reason


def _source_and_answer(record: Record) -> str:
    return f"{record.source}\x1f{dumps(record.answer)}"


def _over(most: int, why: str, group: Callable[[Record], str]) -> Reason:
    """All but the first `most` of each group."""
    seen: Counter[str] = Counter()

    def reason(record: Record) -> Rejection | None:
        seen[group(record)] += 1
        return Rejection(why, f"more than {most}") if seen[group(record)] > most else None

    return reason


def _capped(records: Sequence[Record], rules: Rules) -> list[Record]:
    """A source that is over its cap keeps a random part of its records."""
    drawn: list[Record] = []
    for source, members in _grouped(records, lambda record: record.source).items():
        drawn += _some(members, rules.caps.get(source, rules.cap), rules.seed, f"cap {source}")
    return drawn


def _balanced(records: Sequence[Record], rates: Rates, rules: Rules, size: int) -> list[Record]:
    """`size` records, as many of each source (or bin of pass rates) as of any other, as far as they go."""
    _, strong = roles(list(rates))
    groups = _grouped(
        records,
        lambda record: (
            record.source if rules.balance == "source" else BINS[bin_of(rates[strong][key_of(record)].value)]
        ),
    )
    drawn: list[Record] = []
    # The smallest first: what it lacks, the others share.
    for place, name in enumerate(sorted(groups, key=lambda name: (len(groups[name]), name))):
        share = (size - len(drawn)) // (len(groups) - place)
        drawn += _some(groups[name], share, rules.seed, f"sample {name}")
    return drawn


def _grouped(records: Sequence[Record], name: Callable[[Record], str]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(name(record), []).append(record)
    return groups


def _some(records: Sequence[Record], count: int | None, seed: int, purpose: str) -> list[Record]:
    """At most `count` of the records: the same ones for the same seed, in whatever order they come."""
    members = sorted(records, key=key_of)
    random.Random(derive_seed(seed, "filter", purpose)).shuffle(members)
    return members[:count]


def bin_of(rate: float) -> int:
    """The bin of BINS that a pass rate falls into."""
    if rate <= 0:
        return 0
    return len(BINS) - 1 if rate >= 1 else 1 + min(int(rate * 5), 4)
