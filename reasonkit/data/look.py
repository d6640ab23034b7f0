"""Look at records: one in full with the verdict on its own gold answer, or many in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from reasonkit.data.gold import gold_answer, gold_reply
from reasonkit.errors import UsageError
from reasonkit.records import Record
from reasonkit.verifiers import verify


@dataclass(frozen=True, slots=True)
class Look:
    """A record as a person wants to see it."""

    uid: str
    source: str
    prompt: str
    gold: str | None
    verdict: str
    """Of the verifier on the gold answer; anything but `correct` is a defect of the data or the verifier."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure over the records."""

    mean: float
    median: int
    p95: int
    largest: int


@dataclass(frozen=True, slots=True)
class Stats:
    records: int
    sources: dict[str, int]
    abilities: dict[str, int]
    difficulties: dict[str, int]
    repeated_uids: int
    repeated_prompts: int
    prompt_characters: Spread | None
    """None where there are no records."""


def look(record: Record) -> Look:
    """`record` with its prompt as text and the verdict on its gold answer."""
    reply = gold_reply(record)
    if reply is None:
        verdict = "the source gives no gold answer"
    else:
        try:
            found = verify(record, reply)
            verdict = f"{found.status}: {found.reason}".rstrip(": ")
        except UsageError as error:
            verdict = f"not judged: {error.message}"
    return Look(record.uid, record.source, prompt_text(record), gold_answer(record), verdict)


def prompt_text(record: Record) -> str:
    """The prompt with a heading for each role; a raw one as it is."""
    if record.is_raw:
        return "".join(message["content"] for message in record.prompt)
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in record.prompt)


def stats(records: Iterable[Record]) -> Stats:
    """Figures over `records` in one pass; memory grows with the number of records, not with their texts."""
    sources: Counter[str] = Counter()
    abilities: Counter[str] = Counter()
    difficulties: Counter[str] = Counter()
    lengths: list[int] = []
    uids: set[tuple[str, str]] = set()
    prompts: set[int] = set()
    for record in records:
        text = "".join(message["content"] for message in record.prompt)
        sources[record.source] += 1
        abilities[str(record.metadata.get("ability", ""))] += 1
        if "difficulty" in record.metadata:
            difficulties[str(record.metadata["difficulty"])] += 1
        lengths.append(len(text))
        uids.add((record.source, record.uid))
        prompts.add(hash(text))
    return Stats(
        len(lengths),
        dict(sources.most_common()),
        dict(abilities.most_common()),
        dict(sorted(difficulties.items(), key=lambda item: (len(item[0]), item[0]))),
        len(lengths) - len(uids),
        len(lengths) - len(prompts),
        _spread(lengths),
    )


def _spread(values: list[int]) -> Spread | None:
    if not values:
        return None
    ordered = sorted(values)
    return Spread(
        sum(ordered) / len(ordered),
        ordered[len(ordered) // 2],
        ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)],
        ordered[-1],
    )
