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


def with_instruction(question: str, add_instructions: bool) -> str:
    return ANSWER_INSTRUCTION + question if add_instructions else question
