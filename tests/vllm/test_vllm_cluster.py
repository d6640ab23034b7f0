"""vLLM in an actor of a Ray cluster: the real command samples ahead, and weights arrive by vLLM's own transfer."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasonkit.rundir import RunDir, read_metrics
from tests.cluster_runs import command
from tests.micro import write_micro

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore"),
]

SETTINGS = (
    "rollout.engine={vllm: {name: the sampler, bucket_mb: 1}}",
    "rollout.max_staleness=1",
    "cluster={learners: 1, engines: 1, colocate: false}",
    "model.init.head_dim=64",
    "train.steps=3",
    "train.threads=2",
    "validation.every=0",
)


def test_vllm_samples_in_an_actor_from_the_weights_that_training_makes(tmp_path: Path) -> None:
    write_micro(tmp_path)
    words = [word for each in SETTINGS for word in ("--set", each)]
    command(tmp_path, "train", "micro.yaml", "--out", "run", *words)
    run = RunDir(tmp_path / "run")
    rows = list(read_metrics(run.metrics))
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert max(row["staleness_max"] for row in rows) == 1
    assert max(row["failed"] for row in rows) == 0
    for row in rows:
        assert row["bytes_weights"] > 0
    assert rows[0]["mismatch_kl"] < 1e-3  # it has the learner's weights; later samples lag behind
    log = (run.path / "logs" / "engine-0.log").read_text()
    for version in range(4):
        assert f"weights of version {version} to the sampler: " in log
