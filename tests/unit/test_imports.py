"""What a command may load: help, completion and discovery load nothing heavy. Each case is a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasonkit.cli.app import COMMANDS

HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "pyarrow",
    "numpy",
    "ray",
    "vllm",
    "matplotlib",
    "scipy",
    "sklearn",
    "peft",
}
RUN = """
import sys
sys.argv = ["reasonkit", *sys.argv[1:]]
from reasonkit.cli.app import main
try:
    main()
finally:
    print("loaded:", *sorted(set(sys.modules)), file=sys.stderr)
"""


def run(*arguments: str, cwd: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """The finished process, and the modules that it had loaded when it ended."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    _, found, modules = done.stderr.rpartition("loaded:")
    assert found, done.stderr
    return done, set(modules.split())


def test_this_test_would_notice(tmp_path: Path) -> None:
    script = f"import numpy\n{RUN}"
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "numpy" in done.stderr.rpartition("loaded:")[2].split()


@pytest.mark.parametrize(
    "arguments", [[], *([name] for name in COMMANDS)], ids=lambda each: " ".join(each) or "root"
)
def test_help_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    done, modules = run(*arguments, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: reasonkit")
    assert not modules & HEAVY


def test_the_root_help_names_every_command(tmp_path: Path) -> None:
    done, _ = run("--help", cwd=tmp_path)
    for name, command in COMMANDS.items():
        assert any(line.split() == [name, *command.help.split()] for line in done.stdout.splitlines()), name


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["list", "presets"],
        ["list", "data"],
        ["list", "verifiers"],
        ["list", "engines"],
        ["show", "tiny"],
        ["show", "knights"],
        ["show", "transformers"],
    ],
    ids=" ".join,
)
def test_discovery_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    done, modules = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not modules & HEAVY


class TestCompletion:
    def complete(self, words: str, cwd: Path) -> list[str]:
        done, modules = run(
            cwd=cwd,
            _REASONKIT_COMPLETE="complete_bash",
            COMP_WORDS=words,
            COMP_CWORD=str(len(words.split(" ")) - 1),
        )
        assert not modules & HEAVY
        return done.stdout.split()

    def test_commands_complete(self, tmp_path: Path) -> None:
        assert self.complete("reasonkit rep", tmp_path) == ["report"]

    def test_options_of_a_command_complete(self, tmp_path: Path) -> None:
        assert self.complete("reasonkit report --re", tmp_path) == ["--rename", "--rename-file"]

    def test_kinds_of_names_complete(self, tmp_path: Path) -> None:
        assert self.complete("reasonkit list e", tmp_path) == ["envs", "engines"]

    def test_the_script_for_bash_calls_reasonkit(self, tmp_path: Path) -> None:
        command = f"{sys.executable} -m reasonkit --show-completion"
        done = subprocess.run(
            ["bash", "-c", f"{command}; true"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert "_REASONKIT_COMPLETE=complete_bash" in done.stdout
        assert done.stdout.rstrip().endswith("reasonkit")

    def test_bash_itself_completes_with_the_script(self, tmp_path: Path) -> None:
        """What a user's shell does: source the script, then ask for what follows `reasonkit sh`."""
        (tmp_path / "reasonkit").write_text(f'#!/bin/sh\nexec {sys.executable} -m reasonkit "$@"\n')
        (tmp_path / "reasonkit").chmod(0o755)
        steps = (
            'eval "$(reasonkit --show-completion)"; COMP_WORDS=(reasonkit sh); COMP_CWORD=1; '
            '_reasonkit_completion reasonkit; echo "${COMPREPLY[@]}"'
        )
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", steps],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["show"]
