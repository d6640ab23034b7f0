"""Learner ranks and engines that share the GPUs of a real Ray cluster.

Its two GPUs are numbers that Ray hands out: nothing here computes on one, but placement, what each process is
shown, and the order of turns are the real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reasonkit.rundir import RunDir
from tests.cluster_runs import command, ray_that_says_it_has_gpus, rows, uids, write_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ENGINE = '''\
"""The embedded engine on the CPU, with a diary, for a recipe that gives it GPUs."""

import json
import os
import sys
from pathlib import Path

from reasonkit.engines.transformers import TransformersEngine

VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")


class Diary(TransformersEngine):
    @classmethod
    def from_path(cls, path, *, device, dtype, context, diary, slots=16):
        assert device == "cuda"
        engine = super().from_path(path, dtype=dtype, context=context, slots=slots)
        engine.diary = Path(diary) / f"{VISIBLE}.jsonl"
        engine.asleep = False
        engine.note("opened")
        return engine

    def note(self, what):
        with self.diary.open("a") as file:
            file.write(json.dumps(what) + "\\n")

    async def generate(self, prompt_ids, sampling):
        assert not self.asleep, "asked while it sleeps"
        self.note("asked")
        return await super().generate(prompt_ids, sampling)

    async def sleep(self):
        assert not self._pending, "put to sleep while it works"
        self.asleep = True
        self.note("asleep")

    async def load_weights(self, weights, version):
        await super().load_weights(weights, version)
        self.asleep = False
        self.note(version)
'''


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with ray_that_says_it_has_gpus(2, tmp_path, monkeypatch):
        yield


@pytest.mark.usefixtures("two_gpus")
def test_engines_sit_beside_the_ranks_whose_gpus_they_see_and_take_turns_with_them(tmp_path: Path) -> None:
    write_runs(tmp_path)
    (tmp_path / "diaries.py").write_text(ENGINE)
    settings = ("train.steps=2", "validation.every=1", "checkpoint.every=1", "seed=3")
    words = [word for each in settings for word in ("--set", each)]
    shared = f"{{diaries:Diary: {{device: cuda, slots: 16, diary: {tmp_path}}}}}"
    command(
        tmp_path, "train", "here.yaml", "--out", "shared", *words, "--set", f"rollout.engine={shared}"
    )  # colocate: true and all GPUs are what a recipe says by saying nothing

    run = RunDir(tmp_path / "shared")
    devices = {each["name"]: each["devices"] for each in run.info()["placement"]}
    assert sorted(devices) == ["engine-0", "engine-1", "learner-0", "learner-1"]
    for number in (0, 1):
        assert devices[f"engine-{number}"] == devices[f"learner-{number}"]
    assert sorted(devices["learner-0"] + devices["learner-1"]) == ["GPU 0", "GPU 1"]
    for gpu in (0, 1):
        diary = [json.loads(line) for line in (tmp_path / f"{gpu}.jsonl").read_text().splitlines()]
        turns = [
            entry for place, entry in enumerate(diary) if entry != "asked" or diary[place - 1] != "asked"
        ]
        step = ["asked", "asleep"]
        assert turns == ["opened", "asleep", 0, *step, 1, *step, 2, "asked"]

    os.environ.pop("RAY_ADDRESS")
    command(tmp_path, "train", "here.yaml", "--out", "alone", *words)
    alone = RunDir(tmp_path / "alone")
    assert [set(step) for step in uids(run, 2)] == [set(step) for step in uids(alone, 2)]
    for mine, theirs in zip(rows(run), rows(alone), strict=True):
        for name in ("reward", "loss", "grad_norm", "entropy", "length_mean"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), (mine["step"], name)


@pytest.mark.usefixtures("two_gpus")
def test_working_at_the_same_time_on_shared_gpus_is_refused_before_anything_starts(tmp_path: Path) -> None:
    write_runs(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "reasonkit", "train", "here.yaml", "--out", "run",
         "--set", "rollout.engine.transformers.device=cuda", "--set", "rollout.max_staleness=1"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "cluster.colocate (true)" in done.stderr
    assert "rollout.max_staleness (1)" in done.stderr
    assert "--set cluster.colocate=false" in done.stderr
    assert "placement" not in RunDir(tmp_path / "run").info()
