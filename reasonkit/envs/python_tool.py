"""A record's problem with a Python interpreter at hand: the model runs programs in the sandbox between its turns.

A reply that holds `<python>…</python>` is a request: the program runs within the sandbox's walls and limits, and
what it printed is the next observation. A reply without one is the answer, which the record's verifier judges.
Each program starts anew. The sandbox is opened once a process, by the first episode that needs it.
"""

from __future__ import annotations

import asyncio
import threading

from reasonkit.engines import Reply
from reasonkit.envs import Env, Step, closing, first_tagged
from reasonkit.errors import ReasonkitError
from reasonkit.records import Message, Record
from reasonkit.sandbox import Limits, ProgramJob, ProgramResult, RunStatus, Sandbox, open_sandbox

INSTRUCTION = (
    "You can run Python programs while you work on this: write one between <{tag}> and </{tag}>, and what it "
    "prints comes back to you. Each program starts anew, and you can run {runs}. Reply without one to give your "
    "answer.\n\n"
)
LAST = "\nThat was the last program that you could run. Give your answer now."

_lock = threading.Lock()
_opened: Sandbox | None = None


class PythonTool(Env):
    """A record's problem with a Python interpreter: programs run in the sandbox between turns."""

    outside = True

    def __init__(
        self,
        *,
        max_runs: int = 4,
        max_output: int = 4000,
        seconds: float = 10.0,
        memory_mb: int = 512,
        tag: str = "python",
        role: str = "user",
        instruct: bool = True,
    ) -> None:
        """Of longer output, `max_output` characters are shown; `seconds` of CPU time are one program's limit.
        `role` is who the output comes from: `tool` for templates that know one. `instruct` explains the tag in the
        prompt."""
        self.stop = closing(tag)
        self._runs = max_runs
        self._max_output = max_output
        self._limits = Limits(cpu_seconds=seconds, wall_seconds=2 * seconds, memory_mb=memory_mb)
        self._tag = tag
        self._role = role
        self._instruct = instruct

    async def reset(self, record: Record, seed: int) -> list[Message]:
        messages = list(record.prompt)
        if self._instruct:
            runs = "one" if self._runs == 1 else f"up to {self._runs}"
            said = INSTRUCTION.format(tag=self._tag, runs=runs)
            messages[-1] = Message(role=messages[-1]["role"], content=said + messages[-1]["content"])
        return messages

    async def step(self, reply: Reply) -> Step:
        program = first_tagged(reply.text, self._tag) if self._runs else None
        if program is None:
            return Step(done=True)
        self._runs -= 1
        result = await (await _sandbox()).run(ProgramJob("python", program.strip("\n"), limits=self._limits))
        if result.status is RunStatus.SANDBOX_ERROR:
            raise ReasonkitError(f"the sandbox failed: {result.stderr}", "reasonkit doctor")
        shown, cut = _middle_cut(_printed(result), self._max_output)
        said = f"<output>\n{shown}\n</output>{'' if self._runs else LAST}"
        return Step(
            [Message(role=self._role, content=said)],
            info={"status": result.status.value, "cut_characters": cut, "cpu_seconds": result.cpu_seconds},
        )


def _printed(result: ProgramResult) -> str:
    parts = [result.stdout.rstrip("\n"), result.stderr.rstrip("\n")]
    if result.status not in (RunStatus.OK, RunStatus.RUNTIME_ERROR):
        parts.append(f"(ended: {result.status.value.replace('_', ' ')})")
    return "\n".join(part for part in parts if part) or "(nothing was printed)"


def _middle_cut(text: str, room: int) -> tuple[str, int]:
    """Beginning and end, which names the error, and how many characters between them were left out."""
    cut = len(text) - room
    if cut <= 0:
        return text, 0
    head = text[: room - room // 2]
    return f"{head}\n[... {cut} characters cut ...]\n{text[len(text) - room // 2 :]}", cut


async def _sandbox() -> Sandbox:
    return _opened if _opened is not None else await asyncio.to_thread(_open_once)


def _open_once() -> Sandbox:
    """Shared by all episodes, whatever event loop they run in; its workers end with this process."""
    global _opened
    with _lock:
        if _opened is None:
            _opened = asyncio.run(open_sandbox())
        return _opened
