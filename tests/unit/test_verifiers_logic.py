"""The logic verifiers: gold is right, everything else is not, and nothing that a model writes gets past them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonkit.data.build import SOURCES, build
from reasonkit.data.gold import gold_reply
from reasonkit.records import Record, Status, Verdict
from reasonkit.registry import load
from reasonkit.verifiers.arc import verify_arc, verify_arc_reasoning360
from reasonkit.verifiers.countdown import verify_countdown
from reasonkit.verifiers.graph import verify_graph, verify_graph_reasoning360
from reasonkit.verifiers.knights import verify_knights
from reasonkit.verifiers.literals import parse_literal, published_answer
from reasonkit.verifiers.ordering import verify_ordering, verify_ordering_reasoning360
from reasonkit.verifiers.routing import REASONING360, VERIFIERS, route
from reasonkit.verifiers.zebra import verify_zebra, verify_zebra_reasoning360

LOGIC = ("arc", "countdown", "graph", "knights", "ordering", "sokoban", "zebra")
OURS = ("countdown", "graph", "knights", "ordering", "sokoban", "zebra")


def record_of(answer: object, **metadata: object) -> Record:
    return Record("u", "s", (), answer, None, metadata)


def tagged(answer: str) -> str:
    return f"<think>hm</think>\n<answer>{answer}</answer>"


ONE_OF_EACH: dict[str, Record] = {
    "arc": record_of([[0, 1], [2, 3]]),
    "countdown": record_of({"numbers": [2, 3, 4], "target": 24, "solution": "2 * 3 * 4"}),
    "graph": record_of("molbis"),
    "knights": record_of({"solution_text_format": "(1) Zoey is a knight\n(2) Oliver is a knave"}),
    "ordering": record_of(["crow", "owl", "hawk"]),
    "sokoban": record_of({"solution": "Right"}, room="#####\n#PXO#\n#####", max_steps=5),
    "zebra": record_of(
        {"header": ["House", "Name", "Pet"], "rows": [["1", "Bob", "cat"], ["2", "Alice", "dog"]]}
    ),
}


class TestGold:
    @pytest.mark.parametrize("source", OURS)
    def test_gold_scores_one_and_another_records_gold_does_not(self, source: str) -> None:
        verify: Callable[[Record, str], Verdict] = load(VERIFIERS[route(source)])
        records = list(build(source, "train", 12, 11))
        for record, other in zip(records, [*records[1:], records[0]], strict=True):
            gold, wrong = gold_reply(record), gold_reply(other)
            assert gold is not None
            assert wrong is not None
            assert verify(record, gold).score == 1.0
            assert verify(record, f"<think>so\n</think>\n\n{gold}").status is Status.CORRECT
            if source != "sokoban":  # a short list of moves may well solve two rooms
                assert verify(record, wrong).status is not Status.CORRECT

    @pytest.mark.parametrize("name", LOGIC)
    def test_the_hand_made_gold_is_right_in_both_modes(self, name: str) -> None:
        record = ONE_OF_EACH[name]
        reply = gold_reply(record)
        assert reply is not None
        for where in {VERIFIERS[name], REASONING360.get(name, VERIFIERS[name])}:
            verdict = load(where)(record, reply)
            assert verdict.status is Status.CORRECT, (where, verdict)

    def test_every_source_routes_to_a_verifier(self) -> None:
        for source in set(SOURCES) & set(OURS):
            assert route(source) in VERIFIERS


HOSTILE: dict[str, str] = {
    "empty": "",
    "no tag": "the answer is 42",
    "empty tag": "<answer></answer>",
    "unclosed tag": "<answer>1",
    "fifty thousand tags": "<answer>" * 50_000,
    "fifty thousand pairs": "<answer></answer>" * 50_000,
    "answer inside thinking only": "<think><answer>molbis</answer>",
    "NUL": "<answer>\x00</answer>",
    "right-to-left": "<answer>\u202esiblom</answer>",
    "homoglyph digits": "<answer>[[٠,١],[٢,٣]]</answer>",
    "deep json": tagged("[" * 100_000 + "]" * 100_000),
    "deep braces": tagged('{"header":' * 5_000),
    "deep brackets of an expression": tagged("(" * 100 + "24" + ")" * 100),
    "minus signs": tagged("-" * 19_000 + "1"),
    "sums": tagged("+".join(["1"] * 9_000)),
    "spaces": tagged(" " * 300_000 + "x"),
    "commas": tagged("," * 300_000),
    "opening brackets": "<answer>" + "[," * 100_000 + "]</answer>",
    "closing brackets": "<answer>" + "[a" * 50_000 + "]" * 50_000 + "</answer>",
    "digits": tagged("9" * 100_000),
    "power": tagged("9**9**9"),
    "import": tagged("__import__('os').system('true')"),
    "call": tagged("exec('raise SystemExit')"),
    "letters": tagged("a" * 300_000),
    "roles": tagged("knight " * 50_000),
    "nan": tagged("[[NaN, Infinity], [1e999, null]]"),
    "braces of a template": tagged("{question}{0.__class__}"),
    "lone surrogate": tagged("\ud800"),
    "moves": tagged("Up " * 100_000),
}


@pytest.mark.timeout(60)  # all of them take a tenth of a second; one that backtracks would take minutes
@pytest.mark.parametrize("name", LOGIC)
@pytest.mark.parametrize("mode", ["strict", "reasoning360"])
def test_hostile_replies_earn_nothing_and_end_soon(name: str, mode: str) -> None:
    where = REASONING360.get(name, VERIFIERS[name]) if mode == "reasoning360" else VERIFIERS[name]
    verify = load(where)
    for label, text in HOSTILE.items():
        if name == "graph" and label == "answer inside thinking only" and mode == "reasoning360":
            continue
        verdict = verify(ONE_OF_EACH[name], text)
        assert verdict.score == 0, (label, verdict)
        assert verdict.status in (Status.WRONG, Status.NO_ANSWER), (label, verdict)
        assert verdict.reason, label


@given(text=st.text(max_size=200), answer=st.text(max_size=60))
def test_no_text_makes_a_logic_verifier_raise(text: str, answer: str) -> None:
    for name in LOGIC:
        for where in {VERIFIERS[name], REASONING360.get(name, VERIFIERS[name])}:
            assert load(where)(ONE_OF_EACH[name], f"{text}<answer>{answer}</answer>").score <= 1.0


class TestKnights:
    gold = ONE_OF_EACH["knights"]

    @pytest.mark.parametrize(
        "answer",
        [
            "(1) Zoey is a knight (2) Oliver is a knave",
            "Oliver is a knave, and zoey IS A KNIGHT.",
            "Zoey is a knight\n\nOliver is a knave",
            "**Zoey** is a **knight**\n**Oliver** is a **knave**",
            "Zoey: knight; Oliver: knave",
        ],
    )
    def test_any_order_and_layout_is_read(self, answer: str) -> None:
        assert verify_knights(self.gold, tagged(answer)).status is Status.CORRECT

    @pytest.mark.parametrize(
        ("answer", "status"),
        [
            ("Zoey is a knight, Oliver is a knight", Status.WRONG),
            ("Zoey is a knave, Oliver is a knave", Status.WRONG),
            ("Zoey is a knight", Status.NO_ANSWER),
            ("Zoey is a knight, Zoey is a knight", Status.NO_ANSWER),
            ("Zoey is a knight, Oliver is a knave, Oliver is a knight", Status.NO_ANSWER),
            ("Zoey is a knight or knave, Oliver is a knave", Status.NO_ANSWER),
            ("Zoey is not a knight, Oliver is a knave", Status.NO_ANSWER),
            ("Zoey isn't a knight, Oliver is a knave", Status.NO_ANSWER),
            ("Zoey\nis a knight, Oliver is a knave", Status.NO_ANSWER),
            ("knight, knave", Status.NO_ANSWER),
            ("Zoey and Oliver are knights", Status.NO_ANSWER),
            ("Zoey is a knight, Mia is a knave", Status.NO_ANSWER),
        ],
    )
    def test_unreadable_and_wrong_are_told_apart_and_nothing_is_half_right(
        self, answer: str, status: Status
    ) -> None:
        verdict = verify_knights(self.gold, tagged(answer))
        assert (verdict.status, verdict.score) == (status, 0.0)


class TestZebra:
    gold = ONE_OF_EACH["zebra"]

    def reply(self, header: list[str], rows: list[list[object]]) -> str:
        return tagged(json.dumps({"header": header, "rows": rows}, indent=2))

    def test_columns_and_rows_may_come_in_any_order_over_several_lines(self) -> None:
        text = self.reply(["Pet", "house", "Name"], [["DOG", 2, "alice"], ["cat", 1, "Bob"]])
        assert verify_zebra(self.gold, text).status is Status.CORRECT

    def test_a_fence_around_the_table_is_looked_through(self) -> None:
        table = json.dumps(self.gold.answer)
        assert verify_zebra(self.gold, tagged(f"\n```json\n{table}\n```\n")).status is Status.CORRECT

    def test_the_house_column_earns_nothing(self) -> None:
        text = self.reply(["House", "Name", "Pet"], [["1", "", ""], ["2", "", ""]])
        assert verify_zebra(self.gold, text).score == 0
        published = verify_zebra_reasoning360(
            self.gold, text.replace("\n  ", "").replace("\n", "").replace("hm</think>", "")
        )
        assert published.score == pytest.approx(1 / 3)

    def test_three_of_four_cells_are_three_quarters(self) -> None:
        verdict = verify_zebra(
            self.gold, self.reply(["House", "Name", "Pet"], [["1", "Bob", "cat"], ["2", "Alice", "cow"]])
        )
        assert (verdict.status, verdict.score) == (Status.WRONG, 0.75)
        assert "3 of 4" in verdict.reason

    @pytest.mark.parametrize(
        "table",
        [
            {"header": ["House", "Name", "Pet"], "rows": [["1", "Bob", "cat"], ["1", "Alice", "dog"]]},
            {"header": ["Name", "Name"], "rows": [["Bob", "Bob"]]},
            {"header": ["House", "Name", "Pet"], "rows": [["1", "Bob"]]},
            {"header": "House", "rows": []},
            {"rows": []},
            [["1", "Bob", "cat"]],
        ],
    )
    def test_what_is_no_table_is_no_answer(self, table: object) -> None:
        assert verify_zebra(self.gold, tagged(json.dumps(table))).status is Status.NO_ANSWER

    def test_the_published_grader_reads_one_line_only(self) -> None:
        pretty = self.reply(self.gold.answer["header"], self.gold.answer["rows"])
        assert verify_zebra(self.gold, pretty).score == 1
        assert verify_zebra_reasoning360(self.gold, pretty).score == 0


class TestOrdering:
    gold = ONE_OF_EACH["ordering"]

    @pytest.mark.parametrize(
        "answer", ["['crow', 'owl', 'hawk']", '["Crow","Owl","Hawk"]', "crow, owl, hawk", "[crow, owl, hawk]"]
    )
    def test_lists_with_and_without_quotes_are_read(self, answer: str) -> None:
        assert verify_ordering(self.gold, tagged(answer)).status is Status.CORRECT

    @pytest.mark.parametrize(
        "answer", ["['owl', 'crow', 'hawk']", "crow, owl", "crow, owl, hawk, hawk", "crow owl hawk"]
    )
    def test_everything_else_is_wrong(self, answer: str) -> None:
        assert verify_ordering(self.gold, tagged(answer)).score == 0

    def test_the_published_grader_takes_any_words_between_brackets(self) -> None:
        assert verify_ordering_reasoning360(self.gold, "<answer>So: [Crow, 'owl', hawk]</answer>").score == 1
        assert verify_ordering_reasoning360(self.gold, "<answer>crow, owl, hawk</answer>").score == 0
        assert verify_ordering_reasoning360(self.gold, "<answer>['crow', ['owl', 'hawk']</answer>").score == 1
        assert verify_ordering_reasoning360(self.gold, "<answer>[crow,, owl, hawk]</answer>").score == 0
        assert verify_ordering_reasoning360(self.gold, "<answer>[,] [crow, owl, hawk]</answer>").score == 1


class TestGraph:
    gold = ONE_OF_EACH["graph"]

    @pytest.mark.parametrize("answer", ["molbis", " Molbis. ", "`MOLBIS`"])
    def test_case_and_edges_do_not_matter(self, answer: str) -> None:
        assert verify_graph(self.gold, tagged(answer)).status is Status.CORRECT

    @pytest.mark.parametrize("answer", ["molbix", "molbis or santon", "not molbis"])
    def test_hedging_does_not_pay(self, answer: str) -> None:
        assert verify_graph(self.gold, tagged(answer)).score == 0

    def test_the_published_grader_looks_into_the_thinking_too(self) -> None:
        text = "<think><answer>molbis</answer></think> no idea"
        assert verify_graph_reasoning360(self.gold, text).score == 1
        assert verify_graph(self.gold, text).score == 0


class TestArc:
    gold = ONE_OF_EACH["arc"]

    @pytest.mark.parametrize("answer", ["[[0,1],[2,3]]", "[[0, 1],\n [2, 3]]", "[0, 1]\n[2, 3]", "0 1\n2 3"])
    def test_a_grid_may_be_one_list_or_rows_on_lines(self, answer: str) -> None:
        assert verify_arc(self.gold, tagged(answer)).status is Status.CORRECT

    @pytest.mark.parametrize(
        "answer", ["[[0,1],[2,4]]", "[[0,1]]", "[[0,1,2],[2,3]]", "[[false,true],[2,3]]", "[[0.0,1.0],[2,3]]"]
    )
    def test_a_cell_a_shape_or_a_type_off_is_not_right(self, answer: str) -> None:
        assert verify_arc(self.gold, tagged(answer)).score == 0

    def test_no_answer_is_not_a_grid_of_one_zero(self) -> None:
        zero = record_of([[0]])
        for verify in (verify_arc, verify_arc_reasoning360):
            assert verify(zero, "I do not know").status is Status.NO_ANSWER
            assert verify(zero, tagged("[[0]]")).status is Status.CORRECT


class TestCountdown:
    gold = ONE_OF_EACH["countdown"]

    @pytest.mark.parametrize("answer", ["2*3*4", "(4 × 3) × 2", "4*(3*2) = 24", "2 * 3 * 4 =24"])
    def test_any_right_expression_will_do(self, answer: str) -> None:
        assert verify_countdown(self.gold, tagged(answer)).status is Status.CORRECT

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ("24", "not each of"),
            ("2*3*4*1", "not each of"),
            ("2*3+4", "makes 10"),
            ("2*3*4 = 25", "claims"),
            ("4/(3-3)", "divides by zero"),
            ("2**3*4", "Pow"),
            ("4(3*2)", "Call"),
            ("2 3 4", "cannot be read"),
            ("-2*-3*4", "UnaryOp"),
            ("2//3", "FloorDiv"),
        ],
    )
    def test_what_is_wrong_is_said(self, answer: str, reason: str) -> None:
        verdict = verify_countdown(self.gold, tagged(answer))
        assert verdict.score == 0
        assert reason in verdict.reason

    def test_fractions_are_exact(self) -> None:
        record = record_of({"numbers": [8, 3, 8, 3], "target": 24})
        assert verify_countdown(record, tagged("8/(3-8/3)")).status is Status.CORRECT


def test_literals_are_data() -> None:
    assert parse_literal('{"a": [1, null]}') == {"a": [1, None]}
    assert parse_literal("{'a': (1, 2)}") == {"a": (1, 2)}
    for text in ("f(1)", "1 +", "[" * 30, "x" * 30_000):
        with pytest.raises(ValueError, match="it "):
            parse_literal(text)


def test_the_published_answer_is_the_last_pair_and_may_be_bound_to_a_line() -> None:
    text = "<answer>a</answer> <answer>b</answer>\n<answer>c\nd</answer>"
    assert published_answer(text, one_line=True) == "b"
    assert published_answer(text, one_line=False) == "c\nd"
    assert published_answer("<answer>", one_line=True) is None
