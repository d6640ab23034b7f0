"""Mathematics beside Guru's: competitions by year, and the usual benchmarks, from their usual places on the Hub."""

from __future__ import annotations

from reasonkit.recipe import SourceConfig
from reasonkit.tasks import Task

BOXED = "{question} Please output the final answer within \\boxed{}."

GSM8K = Task(
    name="gsm8k",
    about="1,319 word problems of primary school",
    source=(
        SourceConfig(
            name="hf:openai/gsm8k",
            options={"files": ["main/test-*.parquet"]},
            map={"question": "question", "answer": "answer"},
            verifier="gsm8k",
        ),
    ),
    prompt=BOXED,
    verifier="gsm8k",
)
