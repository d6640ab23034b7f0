r"""Where a reply's answer stands, on honest and on hostile text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonkit.verifiers.extract import (
    after_marker,
    after_thinking,
    answer_line,
    fences,
    final_answer,
    last_box,
    last_line,
    last_tagged,
    reply_of,
)

BALANCED = st.recursive(
    st.text(st.characters(exclude_characters="{}\\", exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: "".join(f"{{{part}}}" for part in parts)),
    max_leaves=8,
)
ANYTHING = st.text(alphabet=st.sampled_from(list("\\{}<>/#`\n answerboxdthink5")), max_size=200)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{4} and \boxed{5", "4"),
        (r"a stray } and { then \boxed{6}", "6"),
        (r"\boxed{}", ""),
        (r"\boxed{5", None),
        ("no box", None),
        ("", None),
    ],
)
def test_the_last_complete_box_counts(text: str, content: str | None) -> None:
    assert last_box(text) == content


@given(BALANCED, ANYTHING)
def test_whatever_is_boxed_last_is_found(content: str, before: str) -> None:
    assert last_box(before.replace("\\", "") + r" \boxed{" + content + "}") == content


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<answer>5</answer>", "5"),
        ("<answer>1</answer> <answer>2</answer>", "2"),
        ("<answer>1</answer> <answer>2", "1"),
        ("<answer>a\nb</answer>", "a\nb"),
        ("</answer><answer>", None),
        ("5</answer>", None),
    ],
)
def test_the_last_closed_answer_tag_counts(text: str, content: str | None) -> None:
    assert last_tagged(text) == content


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>a</think>b", "b"),
        ("<think>a</think>b</think>c", "c"),
        ("<think>never closed", ""),
        ("no thinking", "no thinking"),
        ("a stray <think> in prose", "a stray <think> in prose"),
    ],
)
def test_thinking_holds_no_answer(text: str, rest: str) -> None:
    assert after_thinking(text) == rest


def test_the_end_of_thinking_is_configurable() -> None:
    assert after_thinking("[THINK]a[/THINK]b", "[/THINK]") == "b"
    assert after_thinking("[THINK]a", "[/THINK]") == ""


@pytest.mark.parametrize(
    "marker",
    [
        "<｜Assistant｜>",
        "<|im_start|>assistant\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<start_of_turn>model\n",
        "\nAssistant:",
    ],
)
def test_a_transcript_is_cut_at_its_last_assistant_turn(marker: str) -> None:
    assert reply_of(f"prompt with \\boxed{{1}}{marker}5").strip() == "5"
    assert reply_of(f"prompt{marker}first{marker}second").strip() == "second"


def test_a_bare_reply_is_left_whole() -> None:
    assert reply_of("just a reply") == "just a reply"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("work\n#### 72", "72"),
        ("work # 7", "7"),
        ("<answer>3</answer> #### 4", "3"),
        (r"\boxed{9} #### 4", "9"),
        ("first\nlast line\n\n", "last line"),
        ("<think>#### 5</think>6", "6"),
        (" \n ", None),
    ],
)
def test_the_plainest_mark_wins(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_lines_and_markers() -> None:
    assert after_marker("#### 1\n#### 2 \nmore") == "2"
    assert last_line("a\n b \n\n") == "b"
    assert answer_line("text\n**Answer: 5**") == "5"
    assert answer_line("The final answer is: 5") == "5"
    assert answer_line("my answer was: 5") is None


def test_fences_close_on_a_line_of_their_own() -> None:
    text = "```python\nx = '```'\n```\nthen\n```\nplain\n```\n```cpp\nopen"
    assert list(fences(text)) == [("python", "x = '```'\n"), ("", "plain\n")]


@given(ANYTHING)
def test_no_text_makes_an_extractor_raise(text: str) -> None:
    for extract in (last_box, last_tagged, after_thinking, final_answer, last_line, answer_line, reply_of):
        extract(text)
    list(fences(text))


HOSTILE = [
    "\\boxed{" * 5000,
    "\\boxed{1}" * 20_000,
    "<answer>" * 50_000,
    "</answer>" * 50_000,
    "{" * 500_000,
    "}" * 500_000,
    "\\" * 500_000,
    "<think>" * 70_000,
    "```" * 150_000,
    "```\n" * 100_000,
    "#" * 500_000,
    "Answer: " * 60_000,
    "<|im_start|>assistant" * 20_000,
]


@pytest.mark.timeout(20)  # what is not linear takes many minutes
@pytest.mark.parametrize("text", HOSTILE, ids=[repr(text[:10]) for text in HOSTILE])
def test_extraction_is_linear_in_time(text: str) -> None:
    for extract in (last_box, last_tagged, after_thinking, final_answer, last_line, answer_line, reply_of):
        assert len(extract(text) or "") <= len(text)
    assert len(list(fences(text))) <= len(text)
