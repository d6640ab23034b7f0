"""RL Verifier's wire, recorded: every request and error shape, and the scores that it gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from reasonkit.judge.settings import Settings
from tests.judge_app import app_client

PLAIN = Settings(format_score=False)
EOS = "<｜end▁of▁sentence｜>"
ADD = "a, b = map(int, input().split())\nprint(a + b)"
TESTS = [{"input": "1 2", "output": "3"}, {"input": "2 2", "output": "4"}, {"input": "2 3", "output": "6"}]
BEFORE = "def add(a, b):\n    return a - b\n\n\nprint(add(1, 2))\n"
AFTER = BEFORE.replace("a - b", "a + b")


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with app_client(PLAIN) as opened:
        yield opened


def info(kind: str, **answer: Any) -> str:
    return json.dumps({"type": kind, "answer": answer})


def fenced(code: str, language: str = "python") -> str:
    return f"Here it is:\n```{language}\n{code}\n```"


MATH = info("math_verifiable", value="152")
CODE = info("code_verifiable", test_cases=TESTS)
SWE = info("swe_verifiable", input=BEFORE, ground_truth=AFTER)
FOLLOW = info(
    "if_verifier",
    instruction_id_list=["punctuation:no_comma", "startend:quotation"],
    prompt="Say it.",
    kwargs=[{}, {}],
)

SCORES: list[tuple[str, str, str, float]] = [
    ("a right box", MATH, "The final answer is \\( \\boxed{152} \\).", 1.0),
    ("a wrong box", MATH, "\\boxed{153}", 0.0),
    ("no box", MATH, "The answer is 152.", 0.0),
    ("an equivalent expression", MATH, "\\boxed{8 \\cdot 19}", 1.0),
    ("the last box counts", MATH, "first \\boxed{152}, no: \\boxed{151}", 0.0),
    ("a fraction for a decimal", info("math_verifiable", value="0.5"), "\\boxed{\\frac{1}{2}}", 1.0),
    ("braces inside the box", info("math_verifiable", value="\\frac{1}{3}"), "\\boxed{\\frac{1}{3}}", 1.0),
    ("a number for a text", info("math_verifiable", value=152), "\\boxed{152}", 1.0),
    ("the prompt's box is not the reply's", MATH, "Give \\boxed{152}.<｜Assistant｜>I do not know.", 0.0),
    ("the reply after DeepSeek's marker", MATH, f"<｜User｜>?<｜Assistant｜>\\boxed{{152}}{EOS}", 1.0),
    ("… and after Qwen's", MATH, "\\boxed{1}<|im_start|>assistant\n\\boxed{152}<|im_end|>", 1.0),
    ("… where a prompt's box would be graded", MATH, "put \\boxed{152}<|im_start|>assistant\nno", 0.0),
    ("a share of the tests", CODE, fenced(ADD), 2 / 3),
    ("no test", CODE, fenced("print(0)"), 0.0),
    ("no fence of the language", CODE, fenced(ADD, "text"), 0.0),
    ("no fence", CODE, ADD, 0.0),
    ("the end mark clings to the fence", CODE, fenced(ADD) + EOS, 2 / 3),
    ("upper and lower case are one", info("code_verifiable", test_cases=[{"input": "", "output": "YES"}]),
     fenced("print('yes')"), 1.0),
    ("a relative 1e-5", info("code_verifiable", test_cases=[{"input": "", "output": "3.14159265"}]),
     fenced("print(3.14159)"), 1.0),
    ("beyond 1e-5", info("code_verifiable", test_cases=[{"input": "", "output": "3.14159265"}]),
     fenced("print(3.1415)"), 0.0),
    ("a program that fails", CODE, fenced("1 / 0"), 0.0),
    ("the language is named", info("code_verifiable", language="bash", test_cases=[{"input": "a", "output": "a"}]),
     fenced("cat", "bash"), 1.0),
    ("the gold patch", SWE, fenced(AFTER), 1.0),
    ("a patch that changes nothing", SWE, fenced(BEFORE), 0.0),
    ("no fence with a language", SWE, f"```\n{AFTER}\n```", 0.0),
    ("both instructions", FOLLOW, '"All well"', 1.0),
    ("one of two instructions", FOLLOW, "All well", 0.5),
    ("none of them", FOLLOW, "No, no", 0.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("verification_info", "reply", "score"), [case[1:] for case in SCORES], ids=[case[0] for case in SCORES]
)
def test_the_score_is_rl_verifiers(
    client: TestClient, verification_info: str, reply: str, score: float
) -> None:
    response = client.post("/reward", json={"llm_output": reply, "verification_info": verification_info})
    assert response.status_code == 200, response.text
    assert response.json() == {"score": pytest.approx(score)}


def test_half_a_patch_scores_by_its_likeness(client: TestClient) -> None:
    other = BEFORE.replace("a - b", "a * b")
    response = client.post("/reward", json={"llm_output": fenced(other), "verification_info": SWE})
    assert 0.5 < response.json()["score"] < 1.0


def test_a_gold_patch_that_changes_nothing_scores_zero(client: TestClient) -> None:
    nothing = info("swe_verifiable", input=BEFORE, ground_truth=f"\n{BEFORE}\n")
    response = client.post("/reward", json={"llm_output": fenced(AFTER), "verification_info": nothing})
    assert response.json() == {"score": 0.0}


def test_ping(client: TestClient) -> None:
    response = client.get("/ping")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert isinstance(response.json()["message"], str)


def test_the_oldest_shape_is_told_apart_by_its_keys(client: TestClient) -> None:
    body = {"solutions": ["\\boxed{4}", "\\boxed{5}", "4"], "ground_truths": ["4", "4", "4"]}
    response = client.post("/reward", json=body)
    assert response.json() == {"scores": [1.0, 0.0, 0.0]}
    assert client.post("/reward", json=body | {"metadata": {}}).json() == {"scores": [1.0, 0.0, 0.0]}
    uneven = client.post("/reward", json={"solutions": ["4"], "ground_truths": []})
    assert uneven.status_code == 422


UNPROCESSABLE = {
    "no json": "not json",
    "json of no object": "5",
    "a list": '["type", "answer"]',
    "no answer": '{"type": "math_verifiable"}',
    "no type": '{"answer": {"value": "1"}}',
    "unknown type": '{"type": "nothing_verifiable", "answer": {"value": "1"}}',
    "a type that is no text": '{"type": ["math_verifiable"], "answer": {"value": "1"}}',
    "too deep": "[" * 100_000,
    "a number of 100,000 digits": "1" * 100_000,
    "empty": "",
}


@pytest.mark.parametrize("text", UNPROCESSABLE.values(), ids=UNPROCESSABLE.keys())
def test_info_that_says_nothing_verifiable_is_422(client: TestClient, text: str) -> None:
    response = client.post("/reward", json={"llm_output": "\\boxed{1}", "verification_info": text})
    assert response.status_code == 422
    assert isinstance(response.json()["detail"], str), "as RL Verifier words it: one text"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"llm_output": "x"},
        {"verification_info": "{}"},
        {"llm_output": 5, "verification_info": "{}"},
        {"llm_output": "x", "verification_info": {"type": "math_verifiable", "answer": {"value": "1"}}},
        [],
        None,
    ],
)
def test_a_body_of_another_shape_is_422_with_a_list_of_problems(client: TestClient, body: Any) -> None:
    response = client.post("/reward", json=body)
    assert response.status_code == 422
    problems = response.json()["detail"]
    assert isinstance(problems, list)
    assert all({"type", "loc", "msg"} == problem.keys() for problem in problems), (
        "nothing of the request comes back"
    )


@pytest.mark.parametrize(
    "unusable",
    [
        info("math_verifiable"),
        info("code_verifiable"),
        info("code_verifiable", test_cases=[]),
        info("code_verifiable", test_cases=[{"stdin": "1"}]),
        info("swe_verifiable", input="x"),
        info("if_verifier", instruction_id_list=["no:such_instruction"], kwargs=[{}], prompt=""),
        json.dumps({"type": "math_verifiable", "answer": "152"}),
    ],
)
def test_an_answer_without_what_its_type_needs_is_500_and_counted(client: TestClient, unusable: str) -> None:
    before = client.get("/health").json()["legacy_failures"]
    response = client.post("/reward", json={"llm_output": fenced("x"), "verification_info": unusable})
    assert response.status_code == 500
    assert client.get("/health").json()["legacy_failures"] == before + 1


def test_a_judge_that_is_not_there_is_400(client: TestClient) -> None:
    asked = {"llm_output": "yes", "verification_info": info("llm_judge", value="yes")}
    response = client.post("/reward", json=asked)
    assert response.status_code == 400
    assert response.json()["detail"].startswith("Failed to initialize llm_judge verifier: ")


@pytest.mark.parametrize("path", ["/", "/rewards", "/reward/", "/v1"])
def test_unknown_paths_are_404(client: TestClient, path: str) -> None:
    assert client.post(path, json={}).status_code == 404


def test_other_methods_are_405(client: TestClient) -> None:
    assert client.get("/reward").status_code == 405
    assert client.post("/ping", json={}).status_code == 405


WELL_FORMED = f"<think>easy</think>\\boxed{{152}}{EOS}"
FORMS: list[tuple[str, str, str, float]] = [
    ("right and well formed", MATH, WELL_FORMED, 1.0),
    ("right without a form", MATH, "\\boxed{152}", 0.9),
    ("wrong and well formed", MATH, WELL_FORMED.replace("152", "151"), 0.1),
    ("no end mark", MATH, WELL_FORMED.removesuffix(EOS), 0.9),
    ("no thinking", MATH, f"\\boxed{{152}}{EOS}", 0.9),
    ("Chinese letters", MATH, WELL_FORMED.replace("easy", "容易"), 0.9),
    ("nothing but form", MATH, f"<think></think>{EOS}", 0.0),
    (
        "a long reply is looked at elsewhere",
        MATH,
        f"<think>{'word ' * 10_000}</think>\\boxed{{152}}{EOS}",
        1.0,
    ),
    ("code needs a fence", CODE, f"<think></think>\n{fenced(ADD)}\n{EOS}", 0.9 * 2 / 3 + 0.1),
    ("an instruction needs no shell", FOLLOW, f"<think></think>All well{EOS}", 0.9 * 0.5 + 0.1),
]


def test_the_format_share_is_a_tenth() -> None:
    with app_client(replace(PLAIN, format_score=True)) as client:
        for name, verification_info, reply, score in FORMS:
            asked = {"llm_output": f"<｜Assistant｜>{reply}", "verification_info": verification_info}
            response = client.post("/reward", json=asked)
            assert response.json()["score"] == pytest.approx(score), name
        batch = client.post("/reward", json={"solutions": ["\\boxed{4}"], "ground_truths": ["4"]})
        assert batch.json() == {"scores": [1.0]}, "the oldest shape knows no form"
