"""`reasonkit train`: resolve the recipe, start or resume the run, show it, write the report."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reasonkit.errors import ReasonkitError, UsageError

if TYPE_CHECKING:
    from reasonkit.rundir import RunDir
    from reasonkit.train.dryrun import DryRun, SourceCheck
    from reasonkit.train.launch import Outcome


def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe file.", show_default=False)] = None,
    preset: Annotated[str | None, typer.Option(help="A shipped recipe (reasonkit list presets).")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Override a key: --set train.steps=20", metavar="A.B=C"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; default ./runs/<recipe>-<time>.", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue this run folder from its last checkpoint.", show_default=False),
    ] = None,
    max_restarts: Annotated[
        int,
        typer.Option(
            min=0, help="In a cluster: go back to the last checkpoint so often when a process is lost."
        ),
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Resolve, check and print what would run; load no model.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON object.")] = False,
) -> None:
    """Train a model by a preset or a recipe file, or continue a run.

    Examples:

      reasonkit train --preset tiny

      reasonkit train my.yaml --set train.steps=50 --out runs/mine

      reasonkit train --resume runs/mine

      reasonkit train --resume runs/mine --set cluster.learners=1
    """
    from reasonkit.cli.live import print_outcome
    from reasonkit.cli.output import emit_json

    if sum(given is not None for given in (recipe, preset, resume)) != 1:
        raise UsageError(
            "give exactly one of: a recipe file, --preset NAME, --resume RUN", "reasonkit train --preset tiny"
        )
    if resume is not None and (out or dry_run):
        raise UsageError("--resume continues a run where it is: --out and --dry-run do not go with it")
    if dry_run:
        _dry_run(preset or str(recipe), set_ or [], json_)
        return
    outcome = _run(preset or recipe, set_ or [], out, resume, max_restarts)
    if json_:
        emit_json(outcome.as_json())
    else:
        print_outcome(outcome)


def _run(
    name: str | None, overrides: list[str], out: Path | None, resume: Path | None, restarts: int
) -> Outcome:
    from reasonkit.cli.live import watch
    from reasonkit.config import resolve_recipe
    from reasonkit.report import write_report
    from reasonkit.rundir import RunDir, create

    if resume is None:
        assert name is not None
        recipe = resolve_recipe(name, overrides).recipe
        folder = create(recipe.name, out)
    else:
        folder = RunDir(resume)
        if folder.info()["state"] == "finished":
            return _already_finished(folder, overrides)

    with watch(f"reasonkit train: {folder.path}") as observer:
        observer.phase("loading torch")
        from reasonkit.train.launch import resume_run, start_run

        try:
            outcome = (
                start_run(recipe, folder, observer, restarts)
                if resume is None
                else resume_run(folder, observer, restarts, overrides)
            )
        except ReasonkitError:
            with suppress(OSError):
                folder.path.rmdir()  # refused before it held anything
            raise
        observer.phase("writing the report")
        write_report([folder.path], folder.report, images=False)
        observer.phase("done")
    return outcome


def _already_finished(folder: RunDir, overrides: list[str]) -> Outcome:
    from reasonkit.cli.output import say
    from reasonkit.train.launch import outcome_of

    outcome = outcome_of(folder)
    say(f"{folder.path} is finished ({outcome.steps} steps); nothing was changed")
    if overrides:
        say(f"  to train its model on: reasonkit train RECIPE --set model.path={folder.path}")
    return outcome


def _dry_run(name: str, overrides: list[str], json_: bool) -> None:
    from reasonkit.cli.output import emit_json, print_table, say
    from reasonkit.config import resolve_recipe
    from reasonkit.train.dryrun import dry_run

    found = dry_run(resolve_recipe(name, overrides).recipe)
    if json_:
        emit_json(found.as_json())
    else:
        print_table(["recipe", found.recipe], _dry_run_rows(found))
        for each in found.unchecked:
            say(f"not checked: {each}")
    if found.problems:
        raise ReasonkitError(
            "\n".join(found.problems), "reasonkit data head FILE shows a record with its verdict"
        )


def _dry_run_rows(found: DryRun) -> list[tuple[str, str]]:
    return [
        ("steps", f"{found.steps} × {found.samples_a_step} samples = {found.samples:,} samples"),
        ("optimizer updates a step", str(found.updates_a_step)),
        ("sampled tokens a step", f"at most {found.most_tokens_a_step:,}"),
        ("parameters", f"{found.parameters:,}"),
        ("placement", found.placement),
        *_memory_rows(found),
        *((f"verifier on {check.source}", _check_words(check)) for check in found.checks),
        *_prompt_rows(found),
    ]


def _prompt_rows(found: DryRun) -> list[tuple[str, str]]:
    if not found.prompt_ids:
        return []
    return [
        ("longest prompt seen", f"{found.longest_prompt} tokens"),
        ("a prompt", repr(found.prompt)),
        ("its tokens", " ".join(map(str, found.prompt_ids))),
    ]


def _memory_rows(found: DryRun) -> list[tuple[str, str]]:
    """The learner's share of a device, the engine's, and how many devices it takes."""
    total = sum(found.learner_gib.values())
    rows = [(f"learner: {name}", f"{size:.3f} GiB") for name, size in found.learner_gib.items()]
    rows.append((f"learner, each of {found.learners}", f"{total:.3f} GiB"))
    rows += [(name, f"{size:.3f} GiB") for name, size in found.engine_gib.items()]
    fewest = found.fewest_learners
    if fewest is None:
        rows.append(("80 GiB cards for the learner", "more than 1024: set train.save_memory"))
    elif fewest > 1:
        rows.append(("80 GiB cards for the learner", f"{fewest}, --set cluster.learners={fewest}"))
    return rows


def _check_words(check: SourceCheck) -> str:
    return (
        f"right: gold {check.gold_right}/{check.gold_given}, empty {check.empty_right}/{check.records}, "
        f"another record's gold {check.other_right}/{check.records}"
    )
