"""CRUXEval: what a function returns for an input, or an input that makes it return an output.

    answer     {"functional": the code of `f`}
    metadata   input, output: as Python source; without them the output is `reference`, and the given half is read
               from the last `assert f(…) == …` of the prompt

The reply completes an assertion (in a fence, in `[ANSWER]` or `<answer>` tags) or gives the missing half alone.
Both are read as literals and never run: an assertion that would hold by itself, and one that tests nothing, say
nothing. An output is compared with the known one, types included. An input is handed to the function in the
sandbox, and what comes back is compared outside.

Mode `reasoning360` runs the function with the reply behind it and asks that nothing is raised, as the published
grader does; but a reply without an assertion earns nothing.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from reasonkit.errors import ReasonkitError
from reasonkit.records import Record, Verdict
from reasonkit.sandbox import CallJob, Limits, ProgramJob, RunStatus
from reasonkit.verifiers.code import (
    TIMEOUTS,
    failed_infrastructure,
    joined_fences,
    last_words,
    refused,
    shown,
)
from reasonkit.verifiers.code_tests import answer_of
from reasonkit.verifiers.extract import after_thinking, fences, last_box, last_tagged

if TYPE_CHECKING:
    from reasonkit.verifiers.grader import Grader

LIMITS = Limits(cpu_seconds=5.0, wall_seconds=15.0)
LONGEST = 20_000
UNKNOWN = "??"
CALLED = "_reasonkit_case"


async def verify_cruxeval(record: Record, text: str, grader: Grader) -> Verdict:
    """Whether the reply predicts what the function returns, or an input that makes it return that."""
    asked = asked_for(record)
    wanted = _output_of(record)
    stated = statement(text)
    if stated is None:
        return Verdict.no_answer(f"the reply states no {asked}")
    if asked == "output":
        return _judge_output(stated, wanted)
    arguments = _arguments(stated)
    if arguments is None:
        return Verdict.wrong(stated, "the input is no call of f with literal arguments")
    return await _judge_input(str(answer_of(record)["functional"]), arguments, wanted, grader)


def asked_for(record: Record) -> str:
    """`input` or `output`, by the metadata's `task`, or by the name of the source: `…cruxeval-i`, `…cruxeval-o`."""
    named = record.metadata.get("task")
    if named in ("input", "output"):
        return str(named)
    for ending, asked in (("-i", "input"), ("-o", "output")):
        if record.source.removesuffix("_800").endswith(ending):
            return asked
    raise ValueError(f"neither the metadata's task nor the source '{record.source}' says what is asked for")


def _output_of(record: Record) -> Any:
    """What the function returns."""
    known = record.metadata.get("output")
    if known is None and asked_for(record) == "output":
        known = record.metadata.get("reference")
    if known is None:
        known = _given_in_prompt(record)
    return ast.literal_eval(str(known))


def _given_in_prompt(record: Record) -> str:
    """The right side of the prompt's last assertion."""
    for line in reversed("\n".join(turn["content"] for turn in record.prompt).splitlines()):
        left, equals, right = line.strip().partition(" == ")
        if equals and left.startswith("assert f(") and right != UNKNOWN:
            return right
    raise ValueError("neither the metadata nor the prompt says what the function returns")


def statement(text: str) -> str | None:
    """The last assertion, or the last marked text where there is none."""
    reply = after_thinking(text)
    blocks = [body for _, body in fences(reply) if body.strip()]
    tagged = last_tagged(reply.replace("[ANSWER]", "<answer>").replace("[/ANSWER]", "</answer>"))
    for marked in (tagged, blocks[-1] if blocks else None, last_box(reply)):
        if marked is not None and marked.strip() and len(marked) <= LONGEST:
            lines = [line.strip() for line in marked.splitlines() if line.strip()]
            asserted = [line for line in lines if line.startswith("assert ")]
            return (
                asserted[-1] if asserted else "\n".join(line for line in lines if not line.startswith("```"))
            )
    return None


def _parsed(source: str) -> ast.expr | None:
    """The expression, or the test of the assertion, that `source` is."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    match body:
        case [ast.Assert(test)]:
            return test
        case [ast.Expr(value)]:
            return value
        case _:
            return None


def _python(node: ast.expr) -> tuple[Any] | None:
    try:
        return (ast.literal_eval(node),)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _judge_output(stated: str, wanted: Any) -> Verdict:
    match _parsed(stated):
        case ast.Compare(_, [ast.Eq()], [right]):
            found = _python(right)
        case None:
            found = None
        case whole:
            found = _python(whole)
    if found is None:
        return Verdict.wrong(stated, "the output is no literal")
    if same_literal(found[0], wanted):
        return Verdict.correct(shown(found[0]))
    return Verdict.wrong(shown(found[0]), f"f returns {shown(wanted)}")


def same_literal(got: Any, wanted: Any) -> bool:
    """Python's equality, but `True` is not 1, at any depth."""
    if isinstance(got, bool) or isinstance(wanted, bool):
        return got is wanted
    if isinstance(wanted, list | tuple):
        return type(got) is type(wanted) and len(got) == len(wanted) and all(map(same_literal, got, wanted))
    if isinstance(wanted, dict):
        return (
            isinstance(got, dict)
            and got.keys() == wanted.keys()
            and all(same_literal(got[key], value) for key, value in wanted.items())
        )
    return bool(got == wanted)


def _arguments(stated: str) -> str | None:
    """The source of the arguments, all of them literals: of the call of `f`, or what stands there alone."""
    test = _parsed(stated)
    if isinstance(test, ast.Compare):
        test = test.left
    match test:
        case ast.Call(ast.Name("f")):
            pass
        case _:
            test = _parsed(f"f({stated})")
    match test:
        case ast.Call(ast.Name("f"), arguments, keywords) as call:
            values = [*arguments, *(keyword.value for keyword in keywords)]
            if all(keyword.arg for keyword in keywords) and all(_python(value) for value in values):
                return ast.unparse(call).removeprefix("f(").removesuffix(")")
    return None


async def _judge_input(code: str, arguments: str, wanted: Any, grader: Grader) -> Verdict:
    """The result comes back as `repr` writes it, which keeps tuples and sets apart from lists."""
    source = f"{code}\n\ndef {CALLED}():\n    return repr(f({arguments}))\n"
    try:
        sandbox = await grader.sandbox()
        results = await sandbox.call(CallJob(source, CALLED, ([],), LIMITS))
    except ReasonkitError as error:
        return refused(error)
    failure, (result,) = failed_infrastructure(results), results
    if failure is not None:
        return Verdict.error(f"the sandbox failed: {failure}", tier=sandbox.tier)
    if result.status in TIMEOUTS:
        return Verdict.timeout("f does not return in time with this input", tier=sandbox.tier)
    if result.status is not RunStatus.OK:
        return Verdict.wrong(
            arguments, f"f fails with this input: {last_words(result.error)}", tier=sandbox.tier
        )
    returned = _parsed(str(result.value))
    found = None if returned is None else _python(returned)
    if found is not None and same_literal(found[0], wanted):
        return Verdict.correct(arguments, f"f returns {shown(wanted)}", tier=sandbox.tier)
    return Verdict.wrong(
        arguments, f"with this input f returns {result.value:.80}, not {shown(wanted)}", tier=sandbox.tier
    )


# The published grader


async def verify_cruxeval_reasoning360(record: Record, text: str, grader: Grader) -> Verdict:
    """As Reasoning360 scores it; a reply without an assertion earns nothing."""
    stated = joined_fences(text)
    if "assert" not in stated:
        return Verdict.no_answer("the reply asserts nothing")
    job = ProgramJob("python", f"{answer_of(record)['functional']}\n{stated}", limits=LIMITS)
    try:
        sandbox = await grader.sandbox()
        result = await sandbox.run(job)
    except ReasonkitError as error:
        return refused(error)
    details: dict[str, Any] = {"tier": sandbox.tier, "tamperable": True}
    failure = failed_infrastructure([result])
    if failure is not None:
        return Verdict.error(f"the sandbox failed: {failure}", **details)
    if result.status is not RunStatus.OK:
        return Verdict.wrong(stated, last_words(result.stderr) or "the assertion does not hold", **details)
    return Verdict.correct(stated, "nothing was raised", **details)
