"""`reasonkit export`: a run's checkpoint as a model folder that any tool loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reasonkit.cli.output import JsonFlag, emit_json, say


def export(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's folder or its name in ./runs; @STEP picks a checkpoint.", metavar="RUN[@STEP]"
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to make.", metavar="OUT")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge a run's adapters (LoRA) into the model they belong to.")
    ] = False,
    json_: JsonFlag = False,
) -> None:
    """Turn a run's checkpoint into a plain Hugging Face model folder, with a model card.

    Examples:

      reasonkit export runs/mine models/mine

      reasonkit export runs/mine@40 models/mine-40

      reasonkit export runs/with-lora models/whole --merge
    """
    from reasonkit.cli.runs import find_run, split_step
    from reasonkit.export import export_checkpoint

    name, step = split_step(run)
    exported = export_checkpoint(find_run(name), step, out, merge=merge)
    if json_:
        emit_json({"path": str(exported.path), "step": exported.step})
    else:
        what = "adapters" if exported.adapters else "model"
        say(f"wrote the {what} of step {exported.step} to {exported.path}")
        say(f'  load it: AutoModelForCausalLM.from_pretrained("{exported.path}")')
