"""`reasonkit chat-template`: a model folder whose replies open with a thought."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from reasonkit.cli.output import JsonFlag, emit_json, say
from reasonkit.errors import UsageError


def chat_template(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A Hugging Face model folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write the new one.")],
    think: Annotated[bool, typer.Option("--think", help="Ask for <think> … </think>, and open it.")] = False,
    json_: JsonFlag = False,
) -> None:
    """Write a copy of a model folder with a `<think>`-aware chat template, and show what changed.

    Weights are hard links. Example: reasonkit chat-template ./Qwen2.5-7B ./Qwen2.5-7B-think --think
    """
    if not think:
        raise UsageError(
            "chat-template does nothing without --think", f"reasonkit chat-template {source} {target} --think"
        )
    from reasonkit.data.chat_template import open_with_thought

    change = open_with_thought(source, target)
    if json_:
        emit_json(asdict(change) | {"changed": change.changed})
        return
    print(change.diff or "the template opens a thought already; it stays as it is")
    print(f"\nend of turn: {change.eos_before} -> {change.eos_after}")
    print(f"\n--- a prompt before\n{change.before}\n--- a prompt after\n{change.after}")
    say(f"{change.folder}: {change.linked} files hard-linked, {change.copied} copied")
