"""A batch script for Slurm that brings Ray up on the nodes of a job and runs a reasonkit command beside its head.

One `ray start` a node, the head's first; the command starts once all nodes have joined, and finds them by
RAY_ADDRESS. When Slurm announces the end of the job's time, only the command hears of it: it saves a checkpoint
while its actors still live. Left out: containers and modules, which differ from site to site (`--setup` is where
they go).
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reasonkit.errors import ReasonkitError, UsageError

PORT = 6379
JOINING = 600
"""Seconds in which all nodes must have joined."""
WARNING = 300
"""Seconds before the end of the job's time in which a checkpoint must be saved."""

_SCRIPT = """\
#!/bin/bash
{directives}

# Written by `reasonkit slurm`. Submit it with: sbatch {path}
set -euo pipefail
cd {folder}
{setup}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${{nodes[0]}}
on=(srun --overlap --nodes=1 --ntasks=1)   # an array, so that in the background it is srun that signals reach
address=$("${{on[@]}}" --nodelist="$head" {python} -c 'import ray; print(ray.util.get_node_ip_address())')
export RAY_ADDRESS="$address:{port}" RAY_USAGE_STATS_ENABLED=0
# Who knows the token may use the job's Ray: nobody else on these nodes does.
RAY_AUTH_TOKEN=$({python} -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

rays=()
end() {{ kill "${{rays[@]}}" 2> /dev/null || true; wait "${{rays[@]}}" 2> /dev/null || true; }}
trap end EXIT
"${{on[@]}}" --nodelist="$head" {ray} start --head --node-ip-address="$address" --port={port} \\
    --include-dashboard=false --block &
rays+=($!)
for node in "${{nodes[@]:1}}"; do
    "${{on[@]}}" --nodelist="$node" {ray} start --address="$RAY_ADDRESS" --block &
    rays+=($!)
done
"${{on[@]}}" --nodelist="$head" {python} -m reasonkit.cluster_survey {nodes} {joining}

"${{on[@]}}" --nodelist="$head" {python} -m reasonkit {command} &
run=$!
trap 'kill -TERM "$run"' TERM   # the end of the job's time: the command saves a checkpoint
code=0
wait "$run" || code=$?
if kill -0 "$run" 2> /dev/null; then code=0; wait "$run" || code=$?; fi
exit "$code"
"""


@dataclass(frozen=True, slots=True)
class Job:
    command: Sequence[str]
    """What follows `reasonkit`."""
    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_node: int | None = None
    time: str = ""
    partition: str = ""
    account: str = ""
    name: str = "reasonkit"
    setup: str = ""
    """A line of shell before anything else."""
    options: Sequence[str] = field(default_factory=tuple)
    """Further options of sbatch."""

    def script(self, path: Path) -> str:
        python = shlex.quote(sys.executable)
        return _SCRIPT.format(
            directives="\n".join(f"#SBATCH {each}" for each in self._directives()),
            path=path,
            folder=shlex.quote(str(Path.cwd())),
            setup=self.setup,
            port=PORT,
            ray=shlex.quote(str(Path(sys.executable).with_name("ray"))),
            python=python,
            nodes=self.nodes,
            joining=JOINING,
            command=shlex.join(self.command),
        )

    def _directives(self) -> list[str]:
        named = {
            "gpus-per-node": self.gpus_per_node or "",
            "cpus-per-task": self.cpus_per_node or "",
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
        }
        return [
            f"--job-name={self.name}",
            f"--nodes={self.nodes}",
            "--ntasks-per-node=1",
            "--exclusive",
            f"--signal=B:TERM@{WARNING}",
            "--output=%x-%j.log",
            *(f"--{name}={value}" for name, value in named.items() if value),
            *self.options,
        ]


def submit(path: Path) -> str:
    """What sbatch answers."""
    try:
        done = subprocess.run(["sbatch", str(path)], check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise UsageError(
            "sbatch is not on this machine's PATH", f"copy {path} to a login node and run: sbatch {path}"
        ) from None
    if done.returncode:
        raise ReasonkitError(
            f"sbatch refused {path}: {done.stderr.strip()}", f"edit {path}, then sbatch {path}"
        )
    return done.stdout.strip()
