"""The command line as a user meets it: exit codes, messages, streams. Every test runs the real command.

All but two, which train, in an interpreter of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import micro

FULL_DISK = "a file system that fills up needs root to be mounted"


def reasonkit(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reasonkit", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=200,
    )


def test_the_version_is_printed(tmp_path: Path) -> None:
    done = reasonkit("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "reasonkit", "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "--preset", "tinny"], 2, ["unknown recipe 'tinny'", "did you mean 'tiny'?"]),
        (
            ["train", "--preset", "tiny", "--set", "train.stpes=3"],
            2,
            ["train.stpes", "did you mean 'steps'?"],
        ),
        (["train", "--preset", "tiny", "--set", "train.steps"], 2, ["key=value"]),
        (["train", "--preset", "tiny", "--set", "rollout.max_tokens=10000"], 2, ["10000", "model.context"]),
        (["train"], 2, ["--preset tiny"]),
        (["train", "missing.yaml"], 2, ["missing.yaml", "does not exist"]),
        (["train", "--resume", "nowhere"], 2, ["nowhere", "run.json"]),
        (["trian"], 2, ["trian"]),
        (["show", "tinny"], 2, ["tiny"]),
        (["report", "nowhere"], 2, ["nowhere"]),
        (["export", "nowhere", "out"], 2, ["nowhere"]),
    ],
)
def test_bad_input_is_one_clear_message(
    tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    done = reasonkit(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback_of_a_known_failure(tmp_path: Path) -> None:
    done = reasonkit("train", "--preset", "tinny", cwd=tmp_path, REASONKIT_DEBUG="1")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_folder_that_is_not_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    recipe = "_base_: tiny\nmodel: {path: empty, init: null}\nwarmup: null\n"
    (tmp_path / "a.yaml").write_text(recipe)
    done = micro.reasonkit(tmp_path, "train", "a.yaml", "--out", "run")
    assert done.returncode == 2, done.stderr
    assert "empty" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


def test_an_existing_run_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"state": "finished"}')
    done = reasonkit("train", "--preset", "tiny", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "reasonkit train --resume run" in done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    done = reasonkit("train", "--preset", "tiny", "--out", "/proc/run", cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot write to /proc/run" in done.stderr
    assert "--out" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason=FULL_DISK)
def test_a_full_disk_ends_with_a_clear_message_and_no_half_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(FULL_DISK)
    try:
        done = micro.reasonkit(tmp_path, "train", "--preset", "tiny", "--out", str(disk / "run"))
        assert done.returncode == 1, done.stderr
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert [path.name for path in disk.rglob(".tmp-*")] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_help_of_every_command_names_it(tmp_path: Path) -> None:
    root = reasonkit("--help", cwd=tmp_path)
    assert root.returncode == 0
    for command in ("train", "list", "show", "report", "export", "doctor"):
        assert f"  {command} " in root.stdout
        assert f"reasonkit {command}" in reasonkit(command, "--help", cwd=tmp_path).stdout
