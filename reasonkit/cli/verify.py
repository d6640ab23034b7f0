"""`reasonkit verify`: replies in, verdicts out, one JSON line each, in the order of the input.

The command line around `Grader.verify`. Input lines come in three shapes: `{"record": …, "response": …}`, a row
of a record file with a `response` beside its columns, or `{"source": …, "answer": …, "response": …}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from reasonkit.errors import PartlyDone, UsageError
from reasonkit.records import Record, from_row, messages

if TYPE_CHECKING:
    from reasonkit.records import Verdict
    from reasonkit.verifiers import Grader

IN_FLIGHT = 256
RECORD_KEYS = frozenset({"uid", "source", "answer", "prompt", "verifier", "metadata"})


class ModeName(StrEnum):
    STRICT = "strict"
    REASONING360 = "reasoning360"


def verify(
    file: Annotated[
        str, typer.Argument(help="JSONL of records and responses; - reads standard input.", metavar="FILE")
    ] = "-",
    source: Annotated[str | None, typer.Option(help="Judge one reply: the data source it answers.")] = None,
    answer: Annotated[
        str | None, typer.Option(help="The gold answer; JSON where it is no plain text.")
    ] = None,
    response: Annotated[str | None, typer.Option(help="The reply to judge.")] = None,
    verifier: Annotated[
        str | None,
        typer.Option(help="Judge with this verifier, or package.module:function, whatever the source."),
    ] = None,
    mode: Annotated[
        ModeName, typer.Option(help="`reasoning360` scores as the published grader did, quirks included.")
    ] = ModeName.STRICT,
    workers: Annotated[
        int | None, typer.Option(help="Processes that judge; one a core unless given.")
    ] = None,
    sandbox_url: Annotated[
        str | None, typer.Option(help="A SandboxFusion server, for code where this machine offers no walls.")
    ] = None,
    unsafe_sandbox: Annotated[
        bool, typer.Option("--unsafe-sandbox", help="Run code without walls where there are none.")
    ] = False,
) -> None:
    """Judge replies: JSONL of records and responses in, JSONL of verdicts out."""
    from reasonkit.verifiers import Grader

    async def run() -> int:
        async with Grader(
            mode=mode.value, workers=workers, unsafe_sandbox=unsafe_sandbox, sandbox_url=sandbox_url
        ) as grader:
            if response is not None:
                return await _judge_one(grader, _single(source, answer, verifier), response)
            if source is not None or answer is not None:
                raise UsageError(
                    "--source and --answer judge one reply, and there is none", "add --response TEXT"
                )
            with ExitStack() as closing:
                stream = sys.stdin if file == "-" else closing.enter_context(_open(Path(file)))
                return await _judge_lines(grader, stream, verifier)

    failed = asyncio.run(run())
    if failed:
        raise PartlyDone(f"{failed} of the verdicts have status 'error'", "their `reason` says what failed")


def _single(source: str | None, answer: str | None, verifier: str | None) -> Record:
    if answer is None or (source is None and verifier is None):
        raise UsageError(
            "one reply needs --answer, and --source or --verifier, beside --response",
            "reasonkit verify --source openai/gsm8k --answer 42 --response 'so #### 42'",
        )
    gold = json.loads(answer) if answer.lstrip().startswith(("{", "[")) else answer
    return Record("", source or "", (), gold, verifier)


def _open(path: Path) -> TextIO:
    if not path.is_file():
        raise UsageError(f"'{path}' is not a file", "give a JSONL file, or pipe one in")
    return path.open(encoding="utf-8")


async def _judge_one(grader: Grader, record: Record, response: str) -> int:
    grader.check([record])
    verdict = await grader.verify(record, response)
    _print(record, verdict)
    return verdict.status.is_failure


async def _judge_lines(grader: Grader, stream: TextIO, verifier: str | None) -> int:
    """Judge line by line, many at a time; returns how many verdicts are errors."""
    waiting: deque[tuple[Record, asyncio.Task[Verdict]]] = deque()
    failed = number = 0
    while line := await asyncio.to_thread(stream.readline):
        number += 1
        if not line.strip():
            continue
        try:
            record, response = _read(line, verifier)
            grader.check([record])
        except UsageError as error:
            raise UsageError(f"line {number}: {error.message}", error.hint) from error
        waiting.append((record, asyncio.create_task(grader.verify(record, response))))
        await asyncio.sleep(0)
        while waiting and (len(waiting) >= IN_FLIGHT or waiting[0][1].done()):
            failed += await _finish(*waiting.popleft())
    while waiting:
        failed += await _finish(*waiting.popleft())
    return failed


async def _finish(record: Record, task: asyncio.Task[Verdict]) -> bool:
    verdict = await task
    _print(record, verdict)
    return verdict.status.is_failure


def _read(line: str, verifier: str | None) -> tuple[Record, str]:
    try:
        item: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(f"this is not JSON: {error}") from error
    if not isinstance(item, Mapping) or not isinstance(item.get("response"), str):
        raise UsageError("there is no text under 'response'", "one JSON object a line, with a response")
    fields = item.get("record", {key: value for key, value in item.items() if key != "response"})
    if not isinstance(fields, Mapping):
        raise UsageError("'record' is not an object")
    if verifier is not None:
        fields = {**fields, "verifier": verifier}
    return _record(fields), item["response"]


def _record(fields: Mapping[str, Any]) -> Record:
    if "reward_model" in fields:
        row = {"uid": "", "prompt": [], "ability": "", "extra_info": "{}", **fields}
        record = from_row(row)
        return replace(record, verifier=fields.get("verifier", record.verifier))
    if "answer" not in fields or not ({"source", "verifier"} & fields.keys()):
        known = ", ".join(sorted(RECORD_KEYS))
        raise UsageError(
            f"a record needs 'answer', and 'source' or 'verifier'; it has {', '.join(fields)}",
            f"the keys of a record are {known}; rows of a record file are taken too",
        )
    return Record(
        uid=str(fields.get("uid", "")),
        source=str(fields.get("source", "")),
        prompt=messages(fields.get("prompt", ())),
        answer=fields["answer"],
        verifier=fields.get("verifier"),
        metadata=fields.get("metadata", {}),
    )


def _print(record: Record, verdict: Verdict) -> None:
    line = {
        "uid": record.uid,
        "status": verdict.status,
        "score": verdict.score,
        "answer": verdict.answer,
        "reason": verdict.reason,
        "details": dict(verdict.details),
    }
    print(json.dumps(line, ensure_ascii=False, default=str), flush=True)
