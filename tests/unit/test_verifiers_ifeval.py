"""IFEval's 25 instructions, each with a reply that follows it and one that does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonkit.records import Record, Status
from reasonkit.verifiers.ifeval import CHECKS, follow, sentences, verify_ifeval
from reasonkit.verifiers.ifeval_language import detect_language

EN = "the quick brown fox jumps over the lazy dog and it is happy with that"

CASES: list[tuple[str, dict[str, object], str, str]] = [
    ("keywords:existence", {"keywords": ["Fox", "dog"]}, "A fox, a DOG.", "A fox."),
    ("keywords:frequency", {"keyword": "fox", "frequency": 2, "relation": "at least"}, "Fox fox", "fox"),
    ("keywords:frequency", {"keyword": "fox", "frequency": 2, "relation": "less than"}, "fox", "fox foxes"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "a category", "a Cat!"),
    (
        "keywords:letter_frequency",
        {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
        "Quick quip",
        "quick",
    ),
    ("language:response_language", {"language": "de"}, "Das ist nicht der Hund, den ich kenne.", EN),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "Dr. Who is in. He waits!",
        "Dr. Who is in, e.g. at 5 p.m. today.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one two three", "one two"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        'one\n\n"then, two',
        "one\n\nafter then",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] and [date]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "text\nP.S. more", "text PS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "text\nP.P.S more", "text\nP.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", "* one\n** two **"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "maybe"),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        "*one* and *two*",
        "*one* and **",
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1 a SECTION 2 b",
        "SECTION 1 a",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >> text"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say A."}, "say a. B", "B. Say A."),
    ("startend:end_checker", {"end_phrase": "The end."}, '"this is the END."', "The end. Or not"),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "NASA and ESA",
        "NASA and Esa",
    ),
    ("change_case:english_capital", {}, EN.upper(), EN),
    ("change_case:english_lowercase", {}, EN, EN.upper()),
    ("punctuation:no_comma", {}, "no such mark", "one, two"),
    ("startend:quotation", {}, ' "quoted" ', '"open'),
]


def test_all_25_instructions_are_covered() -> None:
    assert len(CHECKS) == 25
    assert {name for name, *_ in CASES} == CHECKS.keys()


@pytest.mark.parametrize(("name", "kwargs", "good", "bad"), CASES)
def test_an_instruction_is_followed_or_not(name: str, kwargs: dict[str, object], good: str, bad: str) -> None:
    assert follow(good, [name], [kwargs]) == [True]
    assert follow(bad, [name], [kwargs]) == [False]


@pytest.mark.parametrize(("name", "kwargs"), [(name, kwargs) for name, kwargs, _, _ in CASES])
@pytest.mark.parametrize("reply", ["", " \n", "<think>endless"])
def test_an_empty_reply_follows_nothing(name: str, kwargs: dict[str, object], reply: str) -> None:
    record = Record("u", "ood__ifeval", (), {"instruction_id_list": [name], "kwargs": [kwargs]})
    assert verify_ifeval(record, reply).score == 0.0


def test_every_instruction_must_be_followed() -> None:
    answer = {"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}
    record = Record("u", "ood__ifeval", (), answer)
    assert verify_ifeval(record, '"a"').status is Status.CORRECT
    half = verify_ifeval(record, "a")
    assert half.score == 0.0
    assert half.details["strict"] == [True, False]
    assert "startend:quotation" in half.reason
    shared = Record("u", "if_verifier", (), answer, metadata={"partial": True})
    assert verify_ifeval(shared, "a").score == 0.5


def test_the_loose_score_forgives_a_first_line_and_asterisks() -> None:
    record = Record(
        "u", "s", (), {"instruction_id_list": ["startend:quotation"], "kwargs": [{"unused": None}]}
    )
    verdict = verify_ifeval(record, 'Sure!\n"quoted"')
    assert (verdict.score, verdict.details["loose"]) == (0.0, [True])


def test_ids_may_stand_in_the_metadata() -> None:
    record = Record("u", "s", (), [{}], metadata={"instruction_id_list": ["punctuation:no_comma"]})
    assert verify_ifeval(record, "fine").score == 1.0


def test_an_unknown_instruction_is_an_error_of_the_record() -> None:
    with pytest.raises(ValueError, match="count:haiku"):
        verify_ifeval(Record("u", "s", (), {"instruction_id_list": ["count:haiku"], "kwargs": [{}]}), "a")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("Mr. Smith paid 3.50 at 5 p.m. for it.", 1),
        ("He asked: who? She left...", 2),
        ('"Stop!" he said. Then he ran', 2),
        ("J. R. R. Tolkien wrote it.", 1),
        ("", 0),
        ("...", 0),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert len(sentences(text)) == count


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", EN),
        ("es", "El perro que está en la casa no quiere comer más, pero su dueño insiste."),
        ("pt", "O cão que está em casa não quer comer mais, mas o seu dono insiste muito."),
        ("fr", "Le chien qui est dans la maison ne veut pas manger, mais son maître insiste."),
        ("de", "Der Hund im Haus will nicht mehr fressen, aber sein Besitzer besteht darauf."),
        ("it", "Il cane che è nella casa non vuole più mangiare, ma il suo padrone insiste."),
        ("pl", "Pies w domu nie chce już jeść, ale jego właściciel nalega na to."),
        ("vi", "Con chó trong nhà không muốn ăn nữa nhưng chủ của nó vẫn cố gắng."),
        ("sw", "Mbwa yuko ndani ya nyumba na hataki kula tena, lakini mwenye wake anasisitiza."),
        ("fi", "Koira on talossa eikä se halua enää syödä, mutta sen omistaja vaatii sitä."),
        ("ru", "Собака в доме не хочет больше есть, но её хозяин настаивает на этом."),
        ("uk", "Собака в будинку не хоче більше їсти, але її господар наполягає на цьому."),
        ("bg", "Кучето в къщата не иска да яде повече, но неговият собственик настоява."),
        ("ar", "الكلب في المنزل لا يريد أن يأكل أكثر ولكن صاحبه يصر على ذلك"),
        ("ur", "گھر میں کتا مزید کھانا نہیں چاہتا لیکن اس کا مالک اصرار کرتا ہے"),
        ("fa", "سگ در خانه دیگر نمی خواهد غذا بخورد اما صاحبش اصرار دارد که این کار را بکند"),
        ("hi", "घर में कुत्ता और खाना नहीं चाहता है लेकिन उसका मालिक जोर देता है"),
        ("mr", "घरात असलेला कुत्रा आता खाऊ इच्छित नाही पण त्याचा मालक आग्रह करतो आहे"),
        ("ne", "घरमा कुकुर अब खान चाहँदैन तर उसको मालिकले जोड दिन्छ र यो राम्रो छ"),
        ("th", "สุนัขในบ้าน"),
        ("ta", "வீட்டில் உள்ள நாய்"),
        ("te", "ఇంట్లో కుక్క"),
        ("kn", "ಮನೆಯಲ್ಲಿ ನಾಯಿ"),
        ("ml", "വീട്ടിലെ നായ"),
        ("gu", "ઘરમાં કૂતરો"),
        ("pa", "ਘਰ ਵਿੱਚ ਕੁੱਤਾ"),
        ("bn", "বাড়িতে কুকুর"),
        ("he", "הכלב בבית"),
        ("ko", "집에 있는 개"),
        ("ja", "家にいる犬はもう食べたくない"),
    ],
)
def test_the_languages_that_ifeval_asks_for_are_told_apart(language: str, text: str) -> None:
    assert detect_language(text) == language


def test_a_text_without_letters_is_in_no_language() -> None:
    assert detect_language("123 !?") is None


@given(st.text(max_size=80))
def test_no_reply_makes_a_check_raise(reply: str) -> None:
    for name, kwargs, _, _ in CASES:
        follow(reply, [name], [kwargs])


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "reply",
    [
        "[" * 300000,
        "<" * 300000,
        "*" * 300000,
        "." * 300000,
        "p. " * 100000,
        "SECTION" * 40000,
        "a" * 300000,
        " " * 299999 + "a",
        "\n" * 300000 + "a",
        "x-" * 150000,
        "{" * 300000,
    ],
    ids=lambda reply: repr(reply[:3]),
)
def test_checks_are_linear_in_time(reply: str) -> None:
    for name, kwargs, _, _ in CASES:
        follow(reply, [name], [kwargs])
