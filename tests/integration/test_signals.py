"""Ctrl-C and SIGTERM: a checkpoint first, then how to go on, and the exit code of the signal."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from reasonkit.rundir import RunDir, read_metrics
from tests.micro import reasonkit, write_micro
from tests.warm_start import warm_python


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*warm_python(environment), "-m", "reasonkit", *arguments],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_resume(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    write_micro(tmp_path)
    changes = ("train.steps=2000", "checkpoint.every=0", "validation.every=0")
    settings = [word for change in changes for word in ("--set", change)]
    running = started(tmp_path, "train", "micro.yaml", "--out", "run", *settings)
    run = RunDir(tmp_path / "run")
    deadline = time.monotonic() + 120
    while not (run.metrics.exists() and len(list(read_metrics(run.metrics))) >= 3):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < deadline, "the run made no three steps"
        time.sleep(0.05)
    running.send_signal(signum)
    _, messages = running.communicate(timeout=60)
    assert running.returncode == code, messages
    assert "Traceback" not in messages
    assert "reasonkit train --resume run" in messages
    assert run.info()["state"] == "stopped"
    # The checkpoint is that of the last step that was written down: nothing is lost.
    assert run.checkpoints()[-1] == list(read_metrics(run.metrics))[-1]["step"]
    assert list(run.path.rglob(".tmp-*")) == []


def test_a_signal_before_the_first_checkpoint_says_that_it_starts_again(tmp_path: Path) -> None:
    write_micro(tmp_path)
    running = started(tmp_path, "train", "--preset", "tiny", "--out", "run")
    assert running.stderr is not None
    while "warming up" not in (line := running.stderr.readline()):
        assert line, "the run ended before its warm-up"
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    _, messages = running.communicate(timeout=60)
    assert running.returncode == 130, messages
    assert "Traceback" not in messages
    assert "before the first checkpoint" in messages
    resumed = reasonkit(tmp_path, "show", "run")
    assert "stopped" in resumed.stdout
