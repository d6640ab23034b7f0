"""LiveBench's reasoning, language and data-analysis questions of 2024, written anew from their published rules.

`answer` is the gold text; `task` in the metadata says which of the nine rules applies. Three give partial credit.
What a reply says last is its answer: the published graders take the best of several bold texts for spatial
puzzles and word groups, or any trailing word for a zebra puzzle, and so reward a reply that names everything.
That is kept in mode `reasoning360`, with one more fault: `tablereformat` is dispatched under another name there,
and scores 0.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking, fences, last_box, last_line, last_tagged
from reasonkit.verifiers.literals import parse_literal
from reasonkit.verifiers.livebench_tables import same_table

Rule = Callable[[Record, str], Verdict]

# fmt: off
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)
# fmt: on
SHAPES = ("tetrahedra", "tetrahedron", "triangle", "square")
"""Answers that may stand with one more word: `two tetrahedra`, `equilateral triangle`."""
TRUTHS = ("yes", "no", "unknown")
GROUP = 4
MOST_SENTENCES = 200
_WORD = re.compile(r"\w+")


def verify_livebench(record: Record, text: str) -> Verdict:
    """By the rule of the record's task, on what the reply says last."""
    return _by_task(record, RULES)(record, after_thinking(text))


def verify_livebench_reasoning360(record: Record, text: str) -> Verdict:
    """As published, with its faults."""
    return _by_task(record, RULES | PUBLISHED)(record, after_thinking(text))


def _by_task(record: Record, rules: dict[str, Rule]) -> Rule:
    task = record.metadata.get("task")
    if task not in rules:
        raise ValueError(f"no rule for LiveBench's task {task!r}; there are {', '.join(sorted(rules))}")
    return rules[str(task)]


def bold_texts(text: str) -> list[str]:
    """What stands between pairs of double or triple asterisks, within lines, in order."""
    found = (part.strip().strip("*") for line in text.splitlines() for part in line.split("**")[1::2])
    return [part.strip() for part in found if part.strip()]


def _marked(reply: str) -> str | None:
    """The answer by the plainest mark: a tag, a box, the last bold text."""
    for found in (last_tagged(reply, "solution"), last_tagged(reply), last_box(reply)):
        if found is not None and found.strip():
            return found.strip().removeprefix("\\text{").rstrip("}")
    bold = bold_texts(reply)
    return bold[-1] if bold else None


def _exactly(answer: str | None, right: bool, gold: str) -> Verdict:
    if answer is None:
        return Verdict.no_answer("the reply marks no answer, in bold or otherwise")
    return Verdict.correct(answer) if right else Verdict.wrong(answer[:200], f"it is not '{gold[:200]}'")


def _graded(answer: str, score: float) -> Verdict:
    if score >= 1:
        return Verdict.correct(answer[:200])
    return Verdict.wrong(answer[:200], f"{score:.0%} of it is right", max(score, 0.0))


# Reasoning


def _truths(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word in TRUTHS]


def _web_of_lies(record: Record, reply: str) -> Verdict:
    """The truths that are marked last: in one text, or each in bold on the last line that has some."""
    gold = _truths(str(record.answer))
    marked = last_tagged(reply, "solution") or last_tagged(reply) or last_box(reply)
    if marked is None:
        lines = [" ".join(bold_texts(line)) for line in reply.splitlines()]
        marked = next((line for line in reversed(lines) if _truths(line)), None)
    return _exactly(marked, marked is not None and _truths(marked) == gold, str(record.answer))


def _same_word(answer: str, gold: str) -> bool:
    folded, wanted = (" ".join(_WORD.findall(each.lower())) for each in (answer, gold))
    if folded.isdecimal() and int(folded) < len(NUMBERS):
        folded = NUMBERS[int(folded)]
    if wanted.isdecimal() and int(wanted) < len(NUMBERS):
        wanted = NUMBERS[int(wanted)]
    return folded == wanted or f"{folded} movies" == wanted


def _same_shape(answer: str, gold: str) -> bool:
    folded, wanted = answer.strip().lower(), gold.strip().lower()
    return _same_word(answer, gold) or (
        wanted in SHAPES and wanted in folded and len(folded) < 2 * len(wanted) + 5
    )


def _zebra(record: Record, reply: str) -> Verdict:
    answer, gold = _marked(reply), str(record.answer)
    return _exactly(answer, answer is not None and _same_word(answer, gold), gold)


def _zebra_published(record: Record, reply: str) -> Verdict:
    """The last text between three asterisks, or else the last word of all."""
    bold = re.findall(r"\*\*\*(\w+)\*\*\*", reply)
    words = bold or _WORD.findall(reply)
    return _exactly(
        words[-1] if words else None,
        bool(words) and _same_word(words[-1], str(record.answer)),
        str(record.answer),
    )


def _spatial(record: Record, reply: str) -> Verdict:
    answer, gold = _marked(reply), str(record.answer)
    return _exactly(answer, answer is not None and _same_shape(answer, gold), gold)


def _spatial_published(record: Record, reply: str) -> Verdict:
    """Any of the last three bold texts."""
    bold, gold = bold_texts(reply)[-3:], str(record.answer)
    right = [text for text in bold if _same_shape(text, gold)]
    last = (right or bold)[-1] if bold else None
    return _exactly(last, bool(right), gold)


# Language


def _groups(words: Sequence[str]) -> list[frozenset[str]]:
    folded = [word.strip().lower() for word in words]
    return [frozenset(folded[start : start + GROUP]) for start in range(0, len(folded), GROUP)]


def _connections(record: Record, reply: str) -> Verdict:
    """The share of groups of four that are right, of the words that are marked last."""
    gold = str(record.answer).split(",")
    marked = last_tagged(reply, "solution") or last_tagged(reply) or last_box(reply)
    texts = bold_texts(reply) if marked is None else [marked]
    words = [word for text in texts for word in text.replace("\n", ",").split(",") if word.strip()][
        -len(gold) :
    ]
    if not words:
        return Verdict.no_answer("the reply marks no words, in bold or otherwise")
    found, wanted = _groups(words), _groups(gold)
    return _graded(", ".join(words), sum(group in found for group in wanted) / len(wanted))


def _connections_published(record: Record, reply: str) -> Verdict:
    """The best of all bold texts."""
    texts = reply.replace("\n", "").split("**")[1::2]
    if not texts:
        return Verdict.no_answer("the reply has no bold text")
    wanted = _groups(str(record.answer).split(","))
    shares = {
        text: sum(any(group <= other for other in _groups(text.split(","))) for group in wanted) / len(wanted)
        for text in texts
    }
    best = max(shares, key=lambda text: shares[text])
    return _graded(best, shares[best])


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in text.split(".") if part.strip()]


def _plot(record: Record, reply: str) -> Verdict:
    """How far the order of sentences is from the right one, in edits; sentences are matched by likeness."""
    gold = _sentences(str(record.answer))
    told = _sentences(reply.partition("<PLOT_SUMMARY>")[2].partition("</PLOT_SUMMARY>")[0] or reply)
    if not told:
        return Verdict.no_answer("the reply is empty after its thinking")
    if len(told) > max(MOST_SENTENCES, 4 * len(gold)):
        return Verdict.wrong(None, f"{len(told)} sentences are given for {len(gold)}")
    places = {sentence: place for place, sentence in reversed(list(enumerate(told)))}
    order = [
        places[sentence]
        if sentence in places
        else places[difflib.get_close_matches(sentence, told, n=1, cutoff=0.0)[0]]
        for sentence in gold
    ]
    return _graded(told[0], 1 - _edits(list(range(len(gold))), order) / len(gold))


def _edits(left: list[int], right: list[int]) -> int:
    """Levenshtein's distance."""
    row = list(range(len(right) + 1))
    for i, item in enumerate(left, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (item != other))
    return row[-1]


def _typos(record: Record, reply: str) -> Verdict:
    """The corrected text stands in the reply, line breaks aside."""
    joined, gold = (" ".join(filter(None, text.split("\n"))) for text in (reply, str(record.answer)))
    if not joined.strip():
        return Verdict.no_answer("the reply is empty after its thinking")
    return _exactly(joined[-len(gold) - 200 :], gold in joined, gold)


# Data analysis


def _letters(text: str) -> str:
    return "".join(_WORD.findall(text.lower())).replace("_", "")


def _column_type(record: Record, reply: str) -> Verdict:
    answer, gold = _marked(reply) or last_line(reply), str(record.answer)
    return _exactly(answer, answer is not None and _letters(answer) == _letters(gold), gold)


def _column_type_published(record: Record, reply: str) -> Verdict:
    """The box, or else the whole reply."""
    answer, gold = last_box(reply) or reply.strip() or None, str(record.answer)
    return _exactly(answer, answer is not None and _letters(answer) == _letters(gold), gold)


def _table_join(record: Record, reply: str) -> Verdict:
    """F1 of the pairs of columns."""
    gold = record.answer if isinstance(record.answer, dict) else parse_literal(str(record.answer))
    blocks = [body for _, body in fences(reply) if body.strip()]
    stated = next(
        (
            found
            for found in (
                blocks[-1] if blocks else None,
                last_tagged(reply, "solution"),
                last_box(reply),
                reply,
            )
            if found
        ),
        "",
    )
    try:
        pairs = parse_literal(stated.strip())
    except ValueError as error:
        return Verdict.no_answer(f"the reply states no dictionary: {error}")
    if not isinstance(pairs, dict) or not pairs:
        return Verdict.no_answer("the reply states no dictionary, or an empty one")
    right = sum(gold.get(left) == other for left, other in pairs.items() if gold.get(left))
    missed = sum(1 for left in gold if not pairs.get(left)) + sum(
        bool(gold.get(left)) and gold[left] != other for left, other in pairs.items()
    )
    return _graded(stated.strip(), 2 * right / (2 * right + (len(pairs) - right) + missed))


def _table_reformat(record: Record, reply: str) -> Verdict:
    asked = record.prompt[-1]["content"].lower()
    _, _, rest = asked.partition("please convert the input table from ")
    wanted = rest.partition(" format to ")[2].partition(" format")[0].strip()
    if not wanted:
        raise ValueError("the question does not say into which format the table is to be converted")
    blocks = [body for _, body in fences(reply) if body.strip()]
    answer = last_tagged(reply, "solution") or (blocks[-1] if blocks else reply)
    if not answer.strip():
        return Verdict.no_answer("the reply is empty after its thinking")
    difference = same_table(wanted, answer, str(record.answer))
    return (
        Verdict.wrong(answer.strip()[:200], difference)
        if difference
        else Verdict.correct(answer.strip()[:200])
    )


def _misnamed(_: Record, __: str) -> Verdict:
    return Verdict.wrong(None, "the published grader looks for this task under another name")


RULES: dict[str, Rule] = {
    "web_of_lies_v2": _web_of_lies,
    "zebra_puzzle": _zebra,
    "spatial": _spatial,
    "connections": _connections,
    "plot_unscrambling": _plot,
    "typos": _typos,
    "cta": _column_type,
    "tablejoin": _table_join,
    "tablereformat": _table_reformat,
}
PUBLISHED: dict[str, Rule] = {
    "zebra_puzzle": _zebra_published,
    "spatial": _spatial_published,
    "connections": _connections_published,
    "cta": _column_type_published,
    "tablereformat": _misnamed,
}
