"""The command line's frame: one literal table of commands, one place where errors become exit codes.

A command's module is imported only when that command runs, and imports heavy packages only inside its
body, so that no `--help` ever loads them. Nothing here does any work of its own.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from reasonkit import __version__
from reasonkit.errors import ReasonkitError, Stopped
from reasonkit.registry import load


@dataclass(frozen=True, slots=True)
class Command:
    target: str
    """`module:attribute` of a function, or of a Typer app for a group of commands."""
    help: str
    group: bool = False


COMMANDS: dict[str, Command] = {
    "doctor": Command(
        "reasonkit.cli.doctor:doctor", "Say what this machine can do, and how to mend the rest."
    ),
    "list": Command("reasonkit.cli.discover:list_names", "List every name that another command takes."),
    "show": Command("reasonkit.cli.discover:show", "Print one preset, run or name in full."),
    "data": Command("reasonkit.cli.data:app", "Build data sets and look at them.", group=True),
    "filter": Command(
        "reasonkit.cli.filter:filter_records", "Sample models on records; keep what they solve sometimes."
    ),
    "verify": Command("reasonkit.cli.verify:verify", "Judge replies: JSONL in, verdicts out."),
    "serve-judge": Command(
        "reasonkit.cli.serve_judge:serve_judge", "Serve verdicts over HTTP to trainers of all kinds."
    ),
    "train": Command("reasonkit.cli.train:train", "Train a model by a preset or a recipe file."),
    "eval": Command("reasonkit.cli.eval:evaluate", "Evaluate models on tasks, with intervals."),
    "compare": Command(
        "reasonkit.cli.compare:compare", "Say which of two evaluated models is better, and where."
    ),
    "rescore": Command("reasonkit.cli.rescore:rescore", "Judge an evaluation's old replies again."),
    "play": Command("reasonkit.cli.play:play", "Play an environment turn by turn, or watch a model do it."),
    "report": Command(
        "reasonkit.cli.report:report", "Write a report of runs or evaluations: a page, charts."
    ),
    "steer": Command(
        "reasonkit.cli.steer:app", "Guide a TaskLLM between code and text; collect data of it.", group=True
    ),
    "chat-template": Command(
        "reasonkit.cli.chat_template:chat_template", "Make a model's replies open with <think>."
    ),
    "slurm": Command("reasonkit.cli.slurm:slurm", "Write a Slurm job that runs a command."),
    "export": Command("reasonkit.cli.export:export", "Turn a run's checkpoint into a plain model folder."),
}

COMPLETION_VARIABLE = "_REASONKIT_COMPLETE"


def build_app(arguments: list[str]) -> typer.Typer:
    """The app for this invocation: the wanted command is real, the others are names with a line of help."""
    app = typer.Typer(
        name="reasonkit",
        help="Reinforcement learning with verifiable rewards: data, verifiers, training, evaluation, judge.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="reasonkit train --preset tiny   trains a model on this machine's CPU in minutes.",
    )
    app.callback()(_root)
    completing = COMPLETION_VARIABLE in os.environ
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, command in COMMANDS.items():
        if name != wanted and not completing:
            app.command(name, help=command.help)(_not_loaded)
        elif command.group:
            app.add_typer(load(command.target), name=name, help=command.help)
        else:
            app.command(name, help=command.help)(load(command.target))
    return app


def _not_loaded() -> NoReturn:
    raise AssertionError("only the command that was asked for is ever run")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reasonkit {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more (-vv: all).")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say only what went wrong.")] = False,
) -> None:
    del version  # its callback has already printed and exited
    from reasonkit.log import configure

    configure(-1 if quiet else verbose)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 known failure, 2 usage, 3 partly done, 128 + a signal."""
    signal.signal(signal.SIGTERM, _terminated)
    debug = os.environ.get("REASONKIT_DEBUG") == "1"
    try:
        build_app(sys.argv[1:])(prog_name="reasonkit", standalone_mode=True)
    except ReasonkitError as error:
        if debug:
            raise
        fail(error)
    except KeyboardInterrupt:
        fail(Stopped(signal.SIGINT, "stopped by Ctrl-C"))
    except BrokenPipeError:
        # The reader of a pipe (head, less) went away; nothing is wrong, and nobody is there to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if debug or error.strerror is None:
            raise
        where = f": {error.filename}" if error.filename else ""
        fail(ReasonkitError(f"{error.strerror}{where}", "check free space (df -h) and permissions (ls -ld)"))
    finally:
        # What ends with the process is not searched for cycles: after torch that takes 1.5 s.
        gc.freeze()
    sys.exit(0)


def fail(error: ReasonkitError) -> NoReturn:
    """Print what happened and the next command on stderr, and exit with the error's code."""
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  try: {error.hint}", file=sys.stderr)
    sys.exit(error.exit_code)


def _terminated(signum: int, _frame: FrameType | None) -> Any:
    raise Stopped(signum, f"stopped by {signal.Signals(signum).name}")
