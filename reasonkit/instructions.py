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


def with_instruction(question: str, add_instructions: bool) -> str:
    return ANSWER_INSTRUCTION + question if add_instructions else question
