"""`reasonkit slurm`: a batch script that brings Ray up on the nodes and runs any other command there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reasonkit.cli.output import JsonFlag, emit_json, say
from reasonkit.errors import UsageError


def slurm(
    command: Annotated[list[str], typer.Argument(help="What to run there, after --: train --preset …")],
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=0, help="GPUs of each.")] = 0,
    cpus_per_node: Annotated[
        int | None,
        typer.Option(min=1, help="CPU cores of each; Slurm's default otherwise.", show_default=False),
    ] = None,
    time: Annotated[str, typer.Option(help="The job's time limit, as Slurm writes it: 1-00:00:00.")] = "",
    partition: Annotated[str, typer.Option(help="Where to queue.")] = "",
    account: Annotated[str, typer.Option(help="Whose budget.")] = "",
    name: Annotated[str, typer.Option(help="The job's name.")] = "reasonkit",
    setup: Annotated[
        str, typer.Option(help="A line of shell that runs first: source env/bin/activate, module load …")
    ] = "",
    sbatch: Annotated[
        list[str] | None, typer.Option("--sbatch", help="A further option of sbatch: --sbatch=--qos=high")
    ] = None,
    out: Annotated[Path, typer.Option(help="The script to write.")] = Path("reasonkit.sbatch"),
    submit: Annotated[bool, typer.Option("--submit", help="Hand it to sbatch.")] = False,
    json_: JsonFlag = False,
) -> None:
    """Write an sbatch script that brings Ray up on the nodes and runs a command there.

    Examples:

      reasonkit slurm --nodes 2 --gpus-per-node 8 -- train my.yaml --out runs/mine

      reasonkit slurm --nodes 2 --gpus-per-node 8 --time 12:00:00 --submit -- train --resume runs/mine
    """
    from reasonkit.cli.app import COMMANDS
    from reasonkit.rundir import write_text
    from reasonkit.slurm import Job
    from reasonkit.slurm import submit as hand_over

    if command[0] not in COMMANDS or command[0] == "slurm":
        raise UsageError(
            f"'{command[0]}' is no command to run in a job",
            "reasonkit slurm --nodes 2 -- train --preset tiny",
        )
    job = Job(
        command=command,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        cpus_per_node=cpus_per_node,
        time=time,
        partition=partition,
        account=account,
        name=name,
        setup=setup,
        options=sbatch or (),
    )
    write_text(out, job.script(out))
    answer = hand_over(out) if submit else ""
    if json_:
        emit_json({"script": str(out), "submitted": answer})
    else:
        say(answer or f"wrote {out}; submit it with: sbatch {out}")
