"""The examples for other trainers, against the real server; TRL's by TRL's own trainer."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from reasonkit.records import Record, to_row
from tests.judge_server import JudgeServer, judging

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples" / "judge_clients"
KEY = "correct-horse-battery"

TRAIN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl_reward import judge_reward

seen = []
def watched(**given):
    scores = judge_reward(**given)
    seen.extend(zip(given["completions"], given["answer"], scores))
    return scores

rows = [{"prompt": f"{n}+1=", "data_source": "gsm8k", "answer": str(n + 1)} for n in range(8)]
config = GRPOConfig(
    output_dir=sys.argv[2] + "/out", per_device_train_batch_size=8, num_generations=4, max_completion_length=8,
    max_steps=2, save_strategy="no", report_to=[], use_cpu=True, bf16=False, logging_steps=1,
)
model, data = sys.argv[2] + "/model", Dataset.from_list(rows)
trainer = GRPOTrainer(model=model, reward_funcs=[watched], args=config, train_dataset=data)
trainer.train()
logged = [row["reward"] for row in trainer.state.log_history if "reward" in row]
print(json.dumps({"seen": seen, "logged": logged}))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JudgeServer]:
    with judging(tmp_path_factory.mktemp("judge"), "--api-key-env", "K", environment={"K": KEY}) as running:
        yield running


def example(name: str, server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("REASONKIT_JUDGE", server.url)
    monkeypatch.setenv("REASONKIT_JUDGE_KEY", KEY)
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_trls_function_scores_texts_and_conversations(
    server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = example("trl_reward", server, monkeypatch)
    texts = module.judge_reward(
        prompts=["?"] * 3, completions=["#### 4", "#### 5", "#### 4"],
        data_source=["gsm8k", "gsm8k", "unknown_source"],
        answer=["4", "4", "4"], completion_ids=[[1], [2], [3]], trainer_state=None,
    )  # fmt: skip
    assert texts == [1.0, 0.0, None], "what cannot be judged is None, which TRL leaves out"
    chats = module.judge_reward(
        prompts=[[{"role": "user", "content": "?"}]],
        completions=[[{"role": "assistant", "content": "\\boxed{4}"}]],
        data_source=["math"], ground_truth=["4"],
    )  # fmt: skip
    assert chats == [1.0]
    module.CLIENT.close()


def test_verls_function_scores_rows_as_verl_hands_them_over(
    server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = example("verl_reward", server, monkeypatch)
    row = to_row(Record("u", "math", (), "\\frac{1}{2}"))
    given = {"data_source": row["data_source"], "ground_truth": row["reward_model"]["ground_truth"]}
    right = module.compute_score(**given, solution_str="\\boxed{0.5}", extra_info=row["extra_info"])
    assert right == {"score": 1.0, "acc": True, "status": "correct"}
    assert module.compute_score(**given, solution_str="no")["score"] == 0.0
    with pytest.raises(RuntimeError, match="unknown_source"):
        module.compute_score("unknown_source", "x", "y")
    module.CLIENT.close()


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs trl: pip install --group bench")
def test_trl_trains_on_the_judges_scores(server: JudgeServer, tmp_path: Path) -> None:
    from tests.tiny_models import save_tiny_model

    save_tiny_model(tmp_path / "model")
    environment = {
        **os.environ,
        "REASONKIT_JUDGE": server.url,
        "REASONKIT_JUDGE_KEY": KEY,
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(EXAMPLES), str(tmp_path)],
        env=environment, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=230,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["seen"]) == 16
    assert all(score in (0.0, 1.0) for _, _, score in found["seen"])
    assert len(found["logged"]) == 2
