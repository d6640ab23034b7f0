"""Countdown: every target can be reached, and is worth reaching."""

from __future__ import annotations

import ast
from fractions import Fraction

import pytest

from reasonkit.data.build import build


def value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() as number):
            return Fraction(number)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return value(left) + value(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return value(left) - value(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return value(left) * value(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return value(left) / value(right)
    raise AssertionError(ast.dump(node))


@pytest.mark.parametrize("count", [2, 3, 4, 6, 8])
def test_the_recorded_solution_uses_every_number_once_and_reaches_the_target(count: int) -> None:
    for record in build("countdown", "train", 50, 1, {"numbers": count}):
        tree = ast.parse(record.answer["solution"], mode="eval").body
        used = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        assert value(tree) == record.answer["target"]
        assert sorted(used) == sorted(record.answer["numbers"])
        assert len(used) == count


def test_the_target_is_never_a_given_number_and_stays_within_its_limit() -> None:
    for record in build("countdown", "train", 200, 1, {"largest_target": 50, "largest": 20}):
        assert record.answer["target"] not in record.answer["numbers"]
        assert 0 < record.answer["target"] <= 50
        assert max(record.answer["numbers"]) <= 20
