"""vLLM in an actor of a Ray cluster: the real command samples ahead, and weights arrive by vLLM's own transfer."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from reasonkit.rundir import RunDir, read_metrics
from tests.cluster_runs import (
    PATIENCE,
    STEPS,
    Running,
    assert_learns,
    command,
    ended,
    ray_that_says_it_has_gpus,
    uids,
    write_runs,
)
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
    assert_loaded(run, range(4))


def core_of(engine: psutil.Process) -> psutil.Process:
    """vLLM's own process, in which its model is."""
    [core] = [each for each in engine.children(recursive=True) if "EngineCore" in each.name()]
    return core


def until_replaced(running: Running, pid: int) -> None:
    running.until(lambda: running.pid("engine-0") != pid)


def test_vllm_whose_own_process_dies_or_hangs_is_replaced_and_every_step_is_trained_once(
    tmp_path: Path,
) -> None:
    """Its actor lives, and answers every pulse."""
    write_runs(tmp_path)
    settings = (
        "rollout.engine={vllm: {bucket_mb: 1, stalled: 30, update_deadline: 30}}",
        "cluster.learners=1",
        SETTINGS[3],
    )
    words = [word for each in settings for word in ("--set", each)]
    with Running(tmp_path, "async.yaml", "--out", "run", *words) as running:
        lost: list[psutil.Process] = []
        for step, what in ((1, "kill"), (4, "suspend")):
            running.until_step(step)
            engine = psutil.Process(running.pid("engine-0"))
            core = core_of(engine)
            lost += [engine, core]
            getattr(core, what)()
            until_replaced(running, engine.pid)
        assert running.process.wait(PATIENCE) == 0, running.said()
        for engine in lost[::2]:
            assert f"engine-0 (process {engine.pid} on " in running.said()
        assert running.said().count("is broken: engine-0 ") == 2
        assert ended(lost)
    rows = list(read_metrics(running.run.metrics))
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert max(row["failed"] for row in rows) == 0
    command(tmp_path, "train", "here.yaml", "--out", "undisturbed")
    assert uids(running.run) == uids(RunDir(tmp_path / "undisturbed"))


def test_vllm_that_shares_a_gpu_with_a_rank_sleeps_wakes_and_has_the_weights_of_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU is a number that Ray hands out; the order of vLLM's calls is that of a real one."""
    write_micro(tmp_path)
    settings = (
        "rollout.engine={vllm: {name: the sampler, bucket_mb: 1, memory: 0.05}}",
        "cluster={learners: 1}",
        "validation.every=1",
        *SETTINGS[3:-1],
    )
    words = [word for each in settings for word in ("--set", each)]
    with ray_that_says_it_has_gpus(1, tmp_path, monkeypatch):
        command(tmp_path, "train", "micro.yaml", "--out", "run", *words)
    run = RunDir(tmp_path / "run")
    assert {each["name"]: each["devices"] for each in run.info()["placement"]} == {
        "learner-0": ["GPU 0"],
        "engine-0": ["GPU 0"],
    }
    rows = list(read_metrics(run.metrics))
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert max(row["failed"] for row in rows) == 0
    assert max(row["mismatch_kl"] for row in rows) < 1e-3
    assert_loaded(run, range(4))


@pytest.mark.parametrize("preset", ["tiny-ray", "tiny-async"])
def test_the_shipped_recipes_learn_as_tiny_does(preset: str, tmp_path: Path) -> None:
    assert_learns(tmp_path, preset, "rollout.engine=vllm")


def assert_loaded(run: RunDir, versions: range) -> None:
    log = (run.path / "logs" / "engine-0.log").read_text()
    for version in versions:
        assert f"weights of version {version} to the sampler: " in log
