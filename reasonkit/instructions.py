"""Instruction texts that several stages must agree on to the byte: building, training, evaluating.

They live below all of them, so that a model is asked in evaluation exactly as it was asked in
training. Texts that only one source uses stay with that source.
"""

from __future__ import annotations

ANSWER_INSTRUCTION = (
    "Think step by step and solve the problem carefully. When you have your final answer, "
    "format it as: <answer>your answer here</answer>\n\n"
)
"""Stands before the question wherever `add_instructions` is set; the same for every kind of answer."""

LOGIC_RL_SYSTEM = (
    "You are a helpful assistant. The assistant first thinks about the reasoning process in the mind and "
    "then provides the user with the answer. The reasoning process and answer are enclosed within <think> "
    "</think> and<answer> </answer> tags, respectively, i.e., <think> reasoning process here </think>"
    "<answer> answer here </answer>.  Now the user asks you to solve a logical reasoning problem. After "
    "thinking, when you finally reach a conclusion, clearly state the identity of each character within "
    "<answer> </answer> tags. i.e., <answer> (1) Zoey is a knight\n(2) ... </answer>."
)
"""Logic-RL's system text to the byte, the missing space after `and` included."""

RAGEN_SOKOBAN = """You are a Sokoban solver.

Sokoban Quick Guide
Goal: Push all boxes (X) onto targets (O).

Symbols:
# Wall | _ Floor | O Target | X Box | P You | √ = Box on Target | S = You on Target

Rules:
1. Push boxes (can't pull).
2. Avoid walls (#).

Answers:
<answer> Up </answer> | <answer> Down </answer> | <answer> Left </answer> | <answer> Right </answer>

Rewards:
Move: -0.1
Box on target: +1.0
All boxes placed: +10.0


[Current Observation]:
{observation}
Decide the next action:"""
"""RAGEN's words to the byte, as its models were trained on them; `{observation}` is where the room goes."""


def with_instruction(question: str, add_instructions: bool) -> str:
    return ANSWER_INSTRUCTION + question if add_instructions else question
