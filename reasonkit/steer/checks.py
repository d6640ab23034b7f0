"""What can be found out about a TaskLLM's answer without its gold answer: run it, look at it, have it checked.

All three are hints for the steerer; none of them decides a reward. Programs run in the sandbox with limits, whoever
wrote them. The symbolic check reads the syntax tree, so that a word such as `format` is no loop.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace

from reasonkit.engines import Chat, Sampling
from reasonkit.errors import ReasonkitError
from reasonkit.records import Message
from reasonkit.sandbox import Limits, ProgramJob, ProgramResult, RunStatus, Sandbox
from reasonkit.steer.texts import CHECK, CHECK_AGAIN, shortened
from reasonkit.verifiers.extract import after_thinking, fences

LIMITS = Limits(cpu_seconds=10.0, wall_seconds=20.0, memory_mb=512, output_bytes=200_000)
CHECK_ATTEMPTS = 3
CHECK_TOKENS = 2000
MOST_CODE = 100_000
SIMPLE = 2.0
"""Up to this score a program may hold no more than a result."""


@dataclass(frozen=True, slots=True)
class Complexity:
    kind: str
    """searching, symbolic, numerical or plain: what the program's syntax shows most of."""
    score: float
    """Loops, branches and handlers count 1 each, arithmetic 0.25."""

    def in_words(self) -> str:
        note = (
            "; it may hold no more than a result that was worked out before" if self.score <= SIMPLE else ""
        )
        return f"{self.kind}, complexity {self.score:g}{note}"


def program_in(text: str) -> str | None:
    """The first Python block of a reply."""
    return next((body for language, body in fences(text) if language in ("python", "py", "python3")), None)


def complexity(code: str) -> Complexity:
    """How much a program works out itself."""
    try:
        nodes = list(ast.walk(ast.parse(code[:MOST_CODE])))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Complexity("unreadable", 0.0)
    kind = "plain"
    if any(map(_searches, nodes)):
        kind = "searching"
    elif any(map(_is_symbolic, nodes)):
        kind = "symbolic"
    elif any(isinstance(node, ast.BinOp) for node in nodes):
        kind = "numerical"
    steps = sum(isinstance(node, _STEPS) for node in nodes)
    return Complexity(kind, steps + 0.25 * sum(isinstance(node, ast.BinOp) for node in nodes))


_STEPS = (
    ast.For, ast.AsyncFor, ast.While, ast.comprehension, ast.If, ast.IfExp, ast.Try, ast.ExceptHandler, ast.Match
)  # fmt: skip


def _searches(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] == "itertools" for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return node.module == "itertools"
    return isinstance(node, ast.For | ast.While | ast.comprehension)


def _is_symbolic(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        called = node.func
        return (isinstance(called, ast.Name) and called.id in ("eval", "exec")) or (
            isinstance(called, ast.Attribute) and called.attr == "format"
        )
    return isinstance(node, ast.JoinedStr)


async def run(sandbox: Sandbox, code: str) -> ProgramResult:
    result = await sandbox.run(ProgramJob("python", code, limits=LIMITS))
    if result.status is RunStatus.SANDBOX_ERROR:
        raise ReasonkitError(f"the sandbox failed: {result.stderr}", "reasonkit doctor")
    return replace(result, stdout=result.stdout.strip(), stderr=result.stderr.strip())


def printed(result: ProgramResult) -> str:
    """What a program printed, and how it ended if not well."""
    parts = [result.stdout, result.stderr]
    if result.status not in (RunStatus.OK, RunStatus.RUNTIME_ERROR):
        parts.append(f"(ended: {result.status.value.replace('_', ' ')})")
    return shortened("\n".join(part for part in parts if part)) or "(nothing was printed)"


async def self_check(checker: Chat, sandbox: Sandbox, question: str, answer: str) -> str:
    """What a program that the checker wrote says of the answer; it may write it three times."""
    asked: list[Message] = [
        {"role": "user", "content": CHECK.format(question=question, answer=shortened(answer))}
    ]
    for _ in range(CHECK_ATTEMPTS):
        reply = await checker.reply(asked, Sampling(max_tokens=CHECK_TOKENS, temperature=0.0))
        text = after_thinking(reply.text)
        code = program_in(text)
        said = "there was no ```python block"
        if code is not None:
            result = await run(sandbox, code)
            if result.status is RunStatus.OK and result.stdout:
                return shortened(result.stdout, 500)
            said = printed(result)
        again = CHECK_AGAIN.format(printed=shortened(said, 1000))
        asked = [*asked, {"role": "assistant", "content": text}, {"role": "user", "content": again}]
    return "no check could be run"
