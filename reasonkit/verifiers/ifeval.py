"""Instruction following: IFEval's 25 checkable instructions, strict and loose.

Own code after the published definitions, without nltk, langdetect and their downloads. What differs: keywords are
plain text and not regular expressions; sentences are split by a rule that knows common abbreviations; a token for
counting capital words is a run of letters, digits, hyphens and apostrophes; languages are told apart as in
ifeval_language.py, and a text without letters is in no language. Everything is linear in the length of the reply.

`answer` is `{"instruction_id_list": [...], "kwargs": [...]}`, or the list of kwargs with the ids in the metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from reasonkit.records import Record, Verdict
from reasonkit.verifiers.extract import after_thinking
from reasonkit.verifiers.ifeval_language import detect_language

Check = Callable[[str, Mapping[str, Any]], bool]

_ABBREVIATIONS = (
    "mr mrs ms dr prof sr jr st vs etc e.g i.e u.s u.k a.m p.m inc ltd co no vol fig al jan feb mar apr "
    "jun jul aug sep sept oct nov dec gen col sgt capt rev hon dept est approx min max p.s p.p.s "
)
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]”’]*(?=\s|$)")
_CAPITALISABLE = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")


def verify_ifeval(record: Record, text: str) -> Verdict:
    """Every instruction is followed to the letter. With `partial` in the metadata, the share that is."""
    ids, arguments = _instructions(record)
    reply = after_thinking(text)
    if not reply.strip():
        return Verdict.no_answer("the reply is empty after its thinking")
    strict = follow(reply, ids, arguments)
    loose = [
        any(flags) for flags in zip(*(follow(form, ids, arguments) for form in loosened(reply)), strict=True)
    ]
    details = {"strict": strict, "loose": loose}
    if all(strict):
        return Verdict.correct(None, "every instruction is followed", **details)
    broken = ", ".join(name for name, followed in zip(ids, strict, strict=True) if not followed)
    score = sum(strict) / len(strict) if record.metadata.get("partial") else 0.0
    return Verdict.wrong(None, f"not followed: {broken}", score, **details)


def follow(reply: str, ids: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which of the instructions `reply` follows."""
    return [
        bool(reply.strip()) and CHECKS[name](reply, kwargs)
        for name, kwargs in zip(ids, arguments, strict=True)
    ]


def loosened(reply: str) -> Iterator[str]:
    """The forms of a reply that the loose score tries: without its first or last line, without asterisks."""
    lines = reply.split("\n")
    for form in (lines, lines[1:], lines[:-1], lines[1:-1]):
        joined = "\n".join(form).strip()
        yield reply if form is lines else joined
        yield joined.replace("*", "")


def _instructions(record: Record) -> tuple[list[str], list[dict[str, Any]]]:
    if isinstance(record.answer, Mapping):
        ids, raw = record.answer["instruction_id_list"], record.answer["kwargs"]
    else:
        ids, raw = record.metadata["instruction_id_list"], record.answer
    unknown = [name for name in ids if name not in CHECKS]
    if unknown or not ids:
        raise ValueError(
            f"unknown instruction '{unknown[0]}'" if unknown else "the record lists no instruction"
        )
    return list(ids), [{key: value for key, value in kwargs.items() if value is not None} for kwargs in raw]


def _compare(count: int, goal: int, relation: str) -> bool:
    if relation == "less than":
        return count < goal
    if relation == "at least":
        return count >= goal
    raise ValueError(f"unknown relation '{relation}'; known: less than, at least")


def _has_keywords(text: str, kwargs: Mapping[str, Any]) -> bool:
    return all(word.lower() in text.lower() for word in kwargs["keywords"])


def _keyword_frequency(text: str, kwargs: Mapping[str, Any]) -> bool:
    count = text.lower().count(kwargs["keyword"].lower())
    return _compare(count, kwargs["frequency"], kwargs["relation"])


def _forbids_words(text: str, kwargs: Mapping[str, Any]) -> bool:
    return not any(
        re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in kwargs["forbidden_words"]
    )


def _letter_frequency(text: str, kwargs: Mapping[str, Any]) -> bool:
    return _compare(
        text.lower().count(kwargs["letter"].lower()), kwargs["let_frequency"], kwargs["let_relation"]
    )


def _is_in_language(text: str, kwargs: Mapping[str, Any]) -> bool:
    return detect_language(text) == str(kwargs["language"]).partition("-")[0]


def _sentence_count(text: str, kwargs: Mapping[str, Any]) -> bool:
    return _compare(len(sentences(text)), kwargs["num_sentences"], kwargs["relation"])


def sentences(text: str) -> list[str]:
    """The sentences of `text`. A full stop ends none after an abbreviation, an initial or a list's number."""
    found, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        last = text[max(start, match.start() - 12) : match.start()].split()[-1:]
        word = last[0].lstrip("(\"'“[").lower() if last else ""
        following = text[match.end() : match.end() + 40].lstrip()[:1]
        is_dot = match.group().startswith(".") and len(match.group().rstrip("\"')]”’")) == 1
        if is_dot and (
            word in ABBREVIATIONS or (len(word) == 1 and word != "i") or (word.isdigit() and start == 0)
        ):
            continue
        if following.islower():  # "Stop!" he said.
            continue
        found.append(text[start : match.end()].strip())
        start = match.end()
    return [sentence for sentence in [*found, text[start:].strip()] if any(map(str.isalnum, sentence))]


def _paragraph_count(text: str, kwargs: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in text.split("***")]
    if any(not part for part in parts[1:-1]):
        return False
    return sum(bool(part) for part in parts) == int(kwargs["num_paragraphs"])


def _word_count(text: str, kwargs: Mapping[str, Any]) -> bool:
    return _compare(len(re.findall(r"\w+", text)), kwargs["num_words"], kwargs["relation"])


def _first_word_of_paragraph(text: str, kwargs: Mapping[str, Any]) -> bool:
    paragraphs = [part.strip() for part in text.split("\n\n")]
    number = int(kwargs["nth_paragraph"])
    if sum(map(bool, paragraphs)) != int(kwargs["num_paragraphs"]) or number > len(paragraphs):
        return False
    words = paragraphs[number - 1].split(maxsplit=1)
    if not words:
        return False
    return (
        re.split(r"[.,?!'\"]", words[0].lstrip("'\""), maxsplit=1)[0].lower()
        == str(kwargs["first_word"]).lower()
    )


def _placeholder_count(text: str, kwargs: Mapping[str, Any]) -> bool:
    return sum(_pairs_in(line, "[", "]") for line in text.split("\n")) >= int(kwargs["num_placeholders"])


def _pairs_in(line: str, opening: str, closing: str) -> int:
    """How many spans of `line`, one after the other, go from an opening mark to the next closing one."""
    count, at = 0, line.find(opening)
    while at >= 0:
        end = line.find(closing, at)
        if end < 0:
            break
        count, at = count + 1, line.find(opening, end + 1)
    return count


def _has_postscript(text: str, kwargs: Mapping[str, Any]) -> bool:
    marker = kwargs["postscript_marker"]
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _bullet_count(text: str, kwargs: Mapping[str, Any]) -> bool:
    lines = [line.lstrip() for line in text.split("\n")]
    stars = sum(line.startswith("*") and line[1:2] not in ("", "*") for line in lines)
    return stars + sum(line.startswith("-") for line in lines) == int(kwargs["num_bullets"])


def _is_constrained(text: str, _: Mapping[str, Any]) -> bool:
    return any(option in text for option in CONSTRAINED)


def _highlight_count(text: str, kwargs: Mapping[str, Any]) -> bool:
    single = [span for span in re.findall(r"\*[^\n*]*\*", text) if span.strip("*").strip()]
    double = [span for span in re.findall(r"\*\*[^\n*]*\*\*", text) if span.strip("*").strip()]
    return len(single) + len(double) >= int(kwargs["num_highlights"])


def _section_count(text: str, kwargs: Mapping[str, Any]) -> bool:
    splitter = re.escape(kwargs["section_spliter"].strip())
    return len(re.findall(rf"{splitter}\s?\d", text)) >= int(kwargs["num_sections"])


def _is_json(text: str, _: Mapping[str, Any]) -> bool:
    body = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        body = body.removeprefix(fence)
    try:
        json.loads(body.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _has_title(text: str, _: Mapping[str, Any]) -> bool:
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end and line[start:end].strip("<> \t"):
            return True
    return False


def _is_two_responses(text: str, _: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in text.split("******")]
    if any(not part for part in parts[1:-1]):
        return False
    filled = [part for part in parts if part]
    return len(filled) == 2 and filled[0] != filled[1]


def _repeats_prompt(text: str, kwargs: Mapping[str, Any]) -> bool:
    return text.strip().lower().startswith(str(kwargs["prompt_to_repeat"]).strip().lower())


def _ends_with(text: str, kwargs: Mapping[str, Any]) -> bool:
    return text.strip().strip('"').lower().endswith(str(kwargs["end_phrase"]).strip().lower())


def _capital_word_count(text: str, kwargs: Mapping[str, Any]) -> bool:
    count = sum(word.isupper() for word in _CAPITALISABLE.findall(text))
    return _compare(count, int(kwargs["capital_frequency"]), kwargs["capital_relation"])


def _is_english_capital(text: str, _: Mapping[str, Any]) -> bool:
    return text.isupper() and detect_language(text) == "en"


def _is_english_lowercase(text: str, _: Mapping[str, Any]) -> bool:
    return text.islower() and detect_language(text) == "en"


def _has_no_comma(text: str, _: Mapping[str, Any]) -> bool:
    return "," not in text


def _is_quoted(text: str, _: Mapping[str, Any]) -> bool:
    body = text.strip()
    return len(body) > 1 and body.startswith('"') and body.endswith('"')


CHECKS: dict[str, Check] = {
    "change_case:capital_word_frequency": _capital_word_count,
    "change_case:english_capital": _is_english_capital,
    "change_case:english_lowercase": _is_english_lowercase,
    "combination:repeat_prompt": _repeats_prompt,
    "combination:two_responses": _is_two_responses,
    "detectable_content:number_placeholders": _placeholder_count,
    "detectable_content:postscript": _has_postscript,
    "detectable_format:constrained_response": _is_constrained,
    "detectable_format:json_format": _is_json,
    "detectable_format:multiple_sections": _section_count,
    "detectable_format:number_bullet_lists": _bullet_count,
    "detectable_format:number_highlighted_sections": _highlight_count,
    "detectable_format:title": _has_title,
    "keywords:existence": _has_keywords,
    "keywords:forbidden_words": _forbids_words,
    "keywords:frequency": _keyword_frequency,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _is_in_language,
    "length_constraints:nth_paragraph_first_word": _first_word_of_paragraph,
    "length_constraints:number_paragraphs": _paragraph_count,
    "length_constraints:number_sentences": _sentence_count,
    "length_constraints:number_words": _word_count,
    "punctuation:no_comma": _has_no_comma,
    "startend:end_checker": _ends_with,
    "startend:quotation": _is_quoted,
}
