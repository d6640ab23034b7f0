"""`reasonkit play`: an environment's episodes turn by turn, from a model or typed by whoever sits here.

Runs the very loop that training samples with, so that what is shown is what would be trained on: each stretch of
tokens with its mask, each turn's reward, the verdict and the reward's parts. Nothing is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
import yaml

from reasonkit.cli.output import JsonFlag, decorated, emit_json, say
from reasonkit.errors import ReasonkitError, UsageError

if TYPE_CHECKING:
    from reasonkit.dialogue import Dialogue
    from reasonkit.engines import Reply, Sampling
    from reasonkit.envs import Env
    from reasonkit.recipe import Recipe, RolloutConfig
    from reasonkit.records import Message, Record, Rollout, Turn
    from reasonkit.rollouts import Grade, Rollouts

RECORDS: dict[str, str] = {"sokoban": "sokoban", "frozen_lake": "frozen_lake"}
"""Where an environment's problems come from, unless --data or the run says otherwise."""
ANY_RECORDS = "episodes"
ASKED = frozenset({"single_turn", "python_tool"})
"""Environments that a question typed by the user is a problem for."""
PATIENCE = 86_400.0
"""Seconds that whoever types may think."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be played, before anything heavy is loaded."""

    make_env: Callable[[], Env]
    records: Sequence[Record]
    settings: RolloutConfig
    reward: dict[str, Any]
    context: int | None
    """That the run was trained with; None takes the model's."""
    judged: bool
    """Whether there is anything to judge by; a question that was typed has no gold answer."""
    seed: int


def play(
    env: Annotated[str, typer.Argument(help="An environment (reasonkit list envs), or module:Class.")],
    question: Annotated[
        str | None, typer.Argument(help="For single_turn and python_tool: what to ask.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="RUN, RUN@STEP, a folder, hf:…, vllm:…, openai:NAME@URL, …; without it you play.",
            show_default=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", help="An option of the environment: -s max_turns=3", metavar="OPTION=VALUE"
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Where problems come from: a source, a file, hf:…; default the environment's own."),
    ] = None,
    episodes: Annotated[int, typer.Option("-n", "--episodes", help="How many to play.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Decides the problems and every draw.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(help="Of sampling; 0 is greedy. Default the run's, or 1.", min=0.0)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Of each reply. Default the run's, or 1024.", min=1)
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Play an environment turn by turn: a model does with -m, without it you type the replies.

    Of a run's model, the environment, its options, the problems and the reward are those that it was trained with.

    Examples:

      reasonkit play sokoban

      reasonkit play sokoban -m runs/sokoban -n 3

      reasonkit play single_turn "3-1+6=" -m runs/tiny
    """
    recipe = None if model is None else _recipe_of(model)
    plan = _plan(env, question, set_ or [], data, episodes, seed, recipe)
    plan = replace(plan, settings=_sampled(plan.settings, temperature, max_tokens))
    asyncio.run(_play(plan, model, greedy=temperature == 0, json_=json_))


def _recipe_of(model: str) -> Recipe | None:
    """What a run was trained by; None where `model` is no run."""
    from reasonkit.config import load_recipe
    from reasonkit.rundir import locate_run

    run = locate_run(model.rpartition("@")[0] or model)
    return None if run is None else load_recipe(run.recipe)


def _plan(
    env: str,
    question: str | None,
    overrides: Sequence[str],
    data: str | None,
    episodes: int,
    seed: int,
    recipe: Recipe | None,
) -> Plan:
    from reasonkit.envs import ENVS
    from reasonkit.recipe import RolloutConfig
    from reasonkit.registry import with_options

    options: dict[str, Any] = {}
    as_trained = recipe is not None and recipe.rollout.env.name == env
    if recipe is not None and as_trained:
        options = dict(recipe.rollout.env.options)
    for override in overrides:
        name, separator, value = override.partition("=")
        if not separator:
            raise UsageError(f"--set {override} has no value", f"--set {name}=…")
        options[name] = yaml.safe_load(value)
    records, judged = _records(env, question, data, episodes, seed, recipe if as_trained else None)
    return Plan(
        make_env=with_options("environment", env, ENVS, options),
        records=records,
        settings=RolloutConfig() if recipe is None else recipe.rollout,
        reward=dict(recipe.reward) if recipe is not None and as_trained and judged else {"correctness": 1.0},
        context=None if recipe is None else recipe.model.context,
        judged=judged,
        seed=seed,
    )


def _records(
    env: str, question: str | None, data: str | None, episodes: int, seed: int, recipe: Recipe | None
) -> tuple[list[Record], bool]:
    """The problems, and whether there is anything to judge replies to them by."""
    from reasonkit.data.load import sample
    from reasonkit.recipe import SourceConfig
    from reasonkit.records import Message, Record

    if question is None and data is None and recipe is None and env in ASKED:
        say("your question:")
        question = sys.stdin.readline().strip()
    if question is not None:
        if env not in ASKED:
            raise UsageError(
                f"'{env}' makes its own problems and takes no question", f"reasonkit play {env} --seed 1"
            )
        if not question:
            raise UsageError("the question is empty", f'reasonkit play {env} "What is 7 times 8?" -m MODEL')
        record = Record("typed", "typed", (Message(role="user", content=question),), None, "by_env")
        return [record] * episodes, False
    if data is None and recipe is not None:
        sources = [*recipe.data.held_out, *recipe.data.train]
        if sources:
            return sample(sources[0], "test" if recipe.data.held_out else "train", seed, episodes), True
    return sample(SourceConfig(name=data or RECORDS.get(env, ANY_RECORDS)), "test", seed, episodes), True


def _sampled(settings: RolloutConfig, temperature: float | None, max_tokens: int | None) -> RolloutConfig:
    given = {"temperature": temperature or None, "max_tokens": max_tokens}
    return settings.model_copy(update={name: value for name, value in given.items() if value is not None})


async def _play(plan: Plan, model: str | None, *, greedy: bool, json_: bool) -> None:
    from reasonkit.rollouts import Draw
    from reasonkit.verifiers import Grader

    async with contextlib.AsyncExitStack() as stack:
        grader = await stack.enter_async_context(Grader())
        grader.check(plan.records)
        rollouts, dialogue = await _player(
            plan, model, grader.verify, stack, sys.stderr if json_ else sys.stdout
        )
        played: list[dict[str, Any]] = []
        failures: list[str] = []
        for number, record in enumerate(plan.records):
            rollout = await rollouts.one(record, Draw("play", 0, 1, greedy=greedy), number, 0)
            if rollout.failure is not None:
                failures.append(f"{rollout.failure.stage}: {rollout.failure.cause}")
            if json_:
                played.append(_as_json(record, rollout))
            else:
                _show(plan, record, rollout, dialogue)
    if json_:
        emit_json(played)
    if failures:
        raise ReasonkitError(f"{len(failures)} of {len(plan.records)} episodes failed: {failures[0]}")


async def _player(
    plan: Plan, model: str | None, grade: Grade, stack: contextlib.AsyncExitStack, shown_on: TextIO
) -> tuple[Rollouts, Dialogue | None]:
    """The loop over the model, or over whoever types."""
    from reasonkit.rewards import RewardSum
    from reasonkit.rollouts import Rollouts

    reward = RewardSum(plan.reward)
    if model is None:
        patient = plan.settings.model_copy(update={"deadline": PATIENCE})
        typist = Typist(shown_on)
        return Rollouts.over_chat(
            typist, plan.make_env, grade, reward, patient, context=0, seed=plan.seed
        ), None
    from reasonkit.models import find_model, open_model

    opened = await stack.enter_async_context(open_model(find_model(model), in_flight=1))
    rollouts = Rollouts(
        opened.model,
        opened.dialogue,
        plan.make_env,
        grade,
        reward,
        plan.settings,
        context=min(opened.context, plan.context or opened.context),
        seed=plan.seed,
    )
    return rollouts, opened.dialogue


class Typist:
    """A Chat whose replies are lines of standard input."""

    def __init__(self, shown_on: TextIO) -> None:
        self._shown_on = shown_on
        self._ended = False

    async def reply(self, messages: list[Message], sampling: Sampling) -> Reply:  # noqa: ARG002 - people do as they like
        from reasonkit.engines import Reply

        if not self._ended:
            self._print(messages)
            line = await asyncio.to_thread(sys.stdin.readline)
            self._ended = not line
        if self._ended:
            raise ReasonkitError("standard input ended before the episode did", "type a reply a line")
        return Reply(line.rstrip("\n"), "stop")

    def _print(self, messages: list[Message]) -> None:
        new = itertools.takewhile(lambda message: message["role"] != "assistant", reversed(messages))
        for message in reversed(list(new)):
            print(f"[{message['role']}]\n{message['content']}\n", file=self._shown_on)
        print("> ", end="", file=self._shown_on, flush=True)

    async def close(self) -> None: ...


def _show(plan: Plan, record: Record, rollout: Rollout, dialogue: Dialogue | None) -> None:
    print(f"=== {record.source} {record.uid} ===")
    if dialogue is None:
        for number, turn in enumerate(rollout.turns, 1):
            print(f"turn {number}: {turn.text!r}   {_earned(turn)}")
    else:
        _show_tokens(rollout, dialogue)
    if rollout.failure is not None:
        print(f"failed ({rollout.failure.stage}): {rollout.failure.cause}")
    elif rollout.verdict is not None and plan.judged:
        verdict = rollout.verdict
        print(f"verdict: {verdict.status}, score {verdict.score:g}: {verdict.reason}")
        parts = " + ".join(f"{name} {value:g}" for name, value in rollout.parts.items())
        print(f"reward: {rollout.reward:g} = {parts}")
    usage = rollout.usage
    print(f"{usage.requests} replies, {rollout.sampled_tokens} tokens, ended by {rollout.finish_reason}\n")


def _show_tokens(rollout: Rollout, dialogue: Dialogue) -> None:
    """Every stretch of tokens with its mask; after what was sampled, what it earned."""
    turns = {(turn.segment, turn.end): turn for turn in rollout.turns}
    for place, segment in enumerate(rollout.segments):
        start = 0
        for mask, run in itertools.groupby(segment.mask):
            end = start + len(list(run))
            said = "sampled" if mask else "given"
            where = f"segment {place + 1}, " if len(rollout.segments) > 1 else ""
            print(f"--- {where}tokens {start} to {end - 1}, mask {mask}: {said}")
            _print_text(dialogue.text_with_specials(segment.ids[start:end]), sampled=bool(mask))
            if (place, end) in turns:
                print(f"    {_earned(turns[place, end])}")
            start = end


def _earned(turn: Turn) -> str:
    info = "".join(f"   {name} {value}" for name, value in turn.info.items())
    return f"reward {turn.reward:g}{info}"


def _print_text(text: str, *, sampled: bool) -> None:
    if not decorated(sys.stdout):
        print(text)
        return
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(text, style="bold green" if sampled else "dim"))


def _as_json(record: Record, rollout: Rollout) -> dict[str, Any]:
    return {
        "uid": record.uid,
        "source": record.source,
        "turns": [asdict(turn) for turn in rollout.turns],
        "segments": [asdict(segment) for segment in rollout.segments],
        "verdict": None if rollout.verdict is None else asdict(rollout.verdict),
        "reward": rollout.reward,
        "parts": dict(rollout.parts),
        "finish_reason": rollout.finish_reason,
        "usage": asdict(rollout.usage),
        "failure": None if rollout.failure is None else asdict(rollout.failure),
    }
