"""What a run over Ray cannot survive, it says, and goes on from there when it is resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from reasonkit.cluster import SILENT
from reasonkit.rundir import RunDir
from tests.cluster_runs import PATIENCE, STEPS, Running, command, ended, rows, uids, write_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run in one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_runs(folder)
    command(folder, "train", "here.yaml", "--out", "run")
    return RunDir(folder / "run")


def accounted_for(run: RunDir, undisturbed: RunDir) -> None:
    """Every step is trained once, on the records that an undisturbed run trains it on."""
    assert [row["step"] for row in rows(run)] == list(range(1, STEPS + 1))
    assert uids(run) == uids(undisturbed)
    assert run.info()["state"] == "finished"


PAUSE = "CHAOS_PAUSE"
SLOW_REWARD = f'''\
import os
import time


def digits(record, rollout, verdict):
    time.sleep(float(os.environ.get("{PAUSE}", 0)))
    return sum(character.isdigit() for character in rollout.text) / 12
'''


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, with a short name: Ray has its sockets there."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_run_whose_ray_loses_its_head_says_so_leaves_nothing_behind_and_is_resumed(
    sign: int, tmp_path: Path, temporary: Path, undisturbed: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would end the run's process after a minute, without a word; or never, where its head hangs."""
    write_runs(tmp_path)
    (tmp_path / "micro_reward.py").write_text(SLOW_REWARD)
    monkeypatch.setenv(PAUSE, "0.25")  # so that the run is not over before it knows
    with Running(tmp_path, "async.yaml", "--out", "run") as running:
        running.until_step(2)
        family = running.family()
        running.kill("gcs_server", sign)
        assert running.process.wait(PATIENCE) == 1, running.said()
        last = running.said()[running.said().rindex("error:") :]
        assert "Ray's head" in last
        assert "reasonkit train --resume" in last
        assert ended(family)
    assert list(temporary.glob("ray-*")) == []
    assert running.run.info()["state"] == "failed"
    monkeypatch.delenv(PAUSE)
    command(tmp_path, "train", "--resume", "run")
    accounted_for(running.run, undisturbed)


def test_an_engine_stopped_for_longer_than_its_deadline_is_replaced_and_the_run_goes_on(
    tmp_path: Path, undisturbed: RunDir
) -> None:
    """It is neither dead nor does it answer. It is ended, too: nobody would ever do so afterwards."""
    write_runs(tmp_path)
    with Running(tmp_path, "async.yaml", "--out", "run") as running:
        running.until_step(2)
        stopped = psutil.Process(running.pid("engine-0"))
        started = time.monotonic()
        stopped.suspend()
        running.until(lambda: running.pid("engine-0") != stopped.pid)
        assert (
            time.monotonic() - started > SILENT / 2
        )  # its deadline, and nothing sooner, said that it was lost
        family = running.family()
        assert running.process.wait(PATIENCE) == 0, running.said()
        assert "engine 0 is started anew" in running.said()
        assert f"engine-0 (process {stopped.pid} on " in running.said()
        assert ended([stopped, *family])
    accounted_for(running.run, undisturbed)


def test_a_run_whose_ray_loses_its_daemon_is_known_to_have_ended_and_is_resumed(
    tmp_path: Path, undisturbed: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either the command hears first that its actors are gone, or Ray ends it, and nobody writes down the state."""
    write_runs(tmp_path)
    (tmp_path / "micro_reward.py").write_text(SLOW_REWARD)
    monkeypatch.setenv(PAUSE, "0.25")
    with Running(tmp_path, "async.yaml", "--out", "runs/run", run="runs/run") as running:
        running.until_step(2)
        family = running.family()
        running.kill("raylet")
        running.process.wait(PATIENCE)
        assert ended(family)
    monkeypatch.delenv(PAUSE)
    listed = subprocess.run(
        [sys.executable, "-m", "reasonkit", "list", "runs", "--json"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    [row] = json.loads(listed.stdout)
    assert row["state"] in ("killed", "failed")
    assert row["state"] == "killed" or "reasonkit train --resume" in running.said()
    command(tmp_path, "train", "--resume", "runs/run")
    accounted_for(running.run, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Of four MiB."""
    if os.geteuid() != 0:
        pytest.skip("a disk of its own takes the right to mount one")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_run_whose_disk_is_full_says_so_and_is_resumed(
    tmp_path: Path, small_disk: Path, undisturbed: RunDir
) -> None:
    write_runs(tmp_path)
    with Running(tmp_path, "async.yaml", "--out", "disk/run", run="disk/run") as running:
        running.until_step(3)
        family = running.family()
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        assert running.process.wait(PATIENCE) == 1, running.said()
        last = running.said()[running.said().rindex("error:") :]
        assert "No space left" in last or "disk full" in last
        assert "Traceback" not in last
        assert ended(family)
    ballast.unlink()
    command(tmp_path, "train", "--resume", "disk/run")
    accounted_for(running.run, undisturbed)
