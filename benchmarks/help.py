"""CPU time of every `--help`, beside that of peers where they are installed.

    python benchmarks/help.py [--repeats 7]

CPU time of the process and its children, least of the repeats and median: wall time would measure the machine's
load. Peers are run by the name of their console script, `trl grpo --help` first of all.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from reasonkit.cli.app import COMMANDS

PEERS = (
    ["trl", "--help"],
    ["trl", "grpo", "--help"],
    ["hf", "--help"],
    ["lighteval", "--help"],
    ["lm_eval", "--help"],
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    ours = [
        [sys.executable, "-m", "reasonkit", *name, "--help"] for name in ([], *([each] for each in COMMANDS))
    ]
    scripts = Path(sys.executable).parent
    peers = [[found, *rest] for script, *rest in PEERS if (found := shutil.which(script, path=str(scripts)))]
    print(f"{'command':<28}  least  median  CPU-ms, {repeats} times, load {os.getloadavg()[0]:.1f}")
    for command in [[sys.executable, "-c", "pass"], *ours, *peers]:
        times = [cpu_milliseconds(command) for _ in range(repeats if command in ours else min(repeats, 3))]
        print(f"{shown(command):<28}  {min(times):>5.0f}  {statistics.median(times):>6.0f}")


def cpu_milliseconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        print(f"  {shown(command)} failed with exit code {done.returncode}")
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def shown(command: list[str]) -> str:
    first, *rest = command
    if rest[:2] == ["-m", "reasonkit"]:
        first, rest = "reasonkit", rest[2:]
    return " ".join([Path(first).name, *rest])


if __name__ == "__main__":
    main()
