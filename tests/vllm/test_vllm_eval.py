"""`reasonkit eval` through vLLM: the same items and greedy replies as through transformers, no reply twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasonkit.cli.eval import evaluate
from reasonkit.evaluate.results import read_results
from reasonkit.evaluate.samples import read_samples
from tests.eval_models import LOCAL_TASKS, write_tasks
from tests.tiny_models import save_tiny_model

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),  # an engine takes up to minutes to start on a busy machine
    pytest.mark.filterwarnings("ignore"),  # vLLM and what it loads warn about themselves
]


def test_eleven_tasks_by_both_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path / "data"))
    write_tasks(tmp_path)
    save_tiny_model(tmp_path / "a", "qwen2", context=2048, hidden=128)

    def run() -> None:
        evaluate(
            LOCAL_TASKS.split(), model=["vllm:a", "hf:a"], out=Path("out"), limit=8, max_tokens=12,
            temperature=0.0, json_=True,
        )  # fmt: skip

    run()
    found = read_results(tmp_path / "out")
    assert [each.model for each in found] == ["vllm:a"] * 11 + ["transformers:a"] * 11
    assert [each.task for each in found[:11]] == [each.task for each in found[11:]]
    assert all(each.n == 8 and each.complete for each in found)
    for task in {each.task.replace(":", "-") for each in found}:
        by_vllm, by_transformers = (
            {
                (sample.uid, sample.number): sample.text
                for sample in read_samples(tmp_path / "out" / model / task).values()
            }
            for model in ("vllm-a", "transformers-a")
        )
        equal = sum(by_vllm[place] == by_transformers[place] for place in by_vllm)
        assert equal >= 0.9 * len(by_vllm), (
            "greedy replies differ where two tokens are equally likely, and nowhere else"
        )
    lines = [len(path.read_text().splitlines()) for path in sorted((tmp_path / "out").rglob("samples.jsonl"))]
    run()
    assert lines == [
        len(path.read_text().splitlines()) for path in sorted((tmp_path / "out").rglob("samples.jsonl"))
    ]
