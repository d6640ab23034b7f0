"""Steering as an Env: the steerer's reply is the move, what the TaskLLM then did is the observation.

One move: the guidance is handed to the TaskLLM, its program, if it wrote one, is run, its answer is checked, and
the steerer is shown all of it. The TaskLLM itself sees what its program printed only with `show_output`. The
attempt ends when the steerer accepts an answer or after `turns` answers. What the verifier is shown is what the
last program printed, or the last answer in text where none ran well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from reasonkit.engines import Chat, Reply, Sampling
from reasonkit.envs import Env, Step
from reasonkit.records import Message, Record
from reasonkit.sandbox import RunStatus, Sandbox
from reasonkit.steer import checks
from reasonkit.steer.texts import (
    EXTRACT,
    OPENING,
    TEXT,
    Guidance,
    feedback,
    first_ask,
    question_of,
    read_guidance,
    shortened,
)
from reasonkit.verifiers.extract import after_thinking

EXTRACT_TOKENS = 1000


@dataclass(frozen=True, slots=True)
class Roles:
    """Who plays, beside the steerer, and by which rules."""

    task: Chat
    sandbox: Sandbox
    checker: Chat | None = None
    """Writes programs that check answers; without one they are not checked."""
    extractor: Chat | None = None
    """States the final answer for the verifier; without one it is shown the output or the answer itself."""
    turns: int = 5
    task_tokens: int = 2000
    show_output: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """What a guidance led to."""

    kind: str
    """Of the guidance."""
    asked: str
    response: str
    """The TaskLLM's, without its thinking."""
    cut: bool
    """Its reply reached its limit of tokens."""
    program: str | None
    status: str
    """How the program ended; empty where there was none."""
    printed: str
    output: str
    """What the program printed, if it ended well."""
    complexity: str
    checked: str

    @property
    def answer(self) -> str:
        return self.output or self.response


@dataclass(slots=True)
class Steering(Env):
    """`before`: turns of an earlier attempt, from whose end this one goes on; (guidance, what was shown, round)."""

    roles: Roles
    before: Sequence[tuple[str, str, Round]] = ()
    rounds: list[Round] = field(default_factory=list)
    record: Record | None = None

    async def reset(self, record: Record, seed: int) -> list[Message]:  # noqa: ARG002 - nothing is drawn
        self.record = record
        self.rounds = [each for _, _, each in self.before]
        turns = [Message(role="user", content=OPENING.format(question=question_of(record)))]
        for guidance, shown, _ in self.before:
            turns += [Message(role="assistant", content=guidance), Message(role="user", content=shown)]
        return turns

    async def step(self, reply: Reply) -> Step:
        kind, ask = read_guidance(reply.text)
        if kind is Guidance.RETURN and self.rounds:
            return Step(done=True, answer=await self._final())
        if kind is Guidance.RETURN:  # there is nothing to accept yet
            kind, ask = Guidance.TEXT, TEXT
        played = await self._round(kind, ask)
        self.rounds.append(played)
        info = asdict(played)
        if len(self.rounds) >= self.roles.turns:
            return Step(truncated=True, info=info, answer=await self._final())
        said = feedback(
            played.response + (" [cut: too long]" if played.cut else ""),
            None if played.program is None else played.printed,
            played.complexity,
            played.checked,
        )
        return Step([Message(role="user", content=said)], info=info)

    async def _round(self, kind: Guidance, ask: str) -> Round:
        roles = self.roles
        reply = await roles.task.reply(
            self._task_turns(ask), Sampling(max_tokens=roles.task_tokens, temperature=0.0)
        )
        response = after_thinking(reply.text).strip()
        program = checks.program_in(response)
        status = shown = output = complexity = ""
        if program is not None:
            result = await checks.run(roles.sandbox, program)
            status, shown = result.status.value, checks.printed(result)
            output = result.stdout if result.status is RunStatus.OK else ""
            complexity = checks.complexity(program).in_words()
        checked = ""
        if roles.checker is not None:
            checked = await checks.self_check(
                roles.checker, roles.sandbox, question_of(self._record()), output or response
            )
        cut = reply.finish_reason == "length"
        return Round(kind.value, ask, response, cut, program, status, shown, output, complexity, checked)

    def _task_turns(self, ask: str) -> list[Message]:
        """The TaskLLM's own conversation: guidance is its user."""
        turns: list[Message] = []
        for each in [*self.rounds, None]:
            said = ask if each is None else each.asked
            if not turns:
                turns = first_ask(self._record(), said)
            else:
                turns.append(Message(role="user", content=said))
            if each is not None:
                turns.append(Message(role="assistant", content=each.response or "(no answer)"))
                if self.roles.show_output and each.program is not None:
                    turns[-1] = Message(
                        role="assistant", content=f"{each.response}\n\nThe program printed:\n{each.printed}"
                    )
        return turns

    async def _final(self) -> str:
        """What the verifier is shown."""
        answer = self.rounds[-1].answer
        if self.roles.extractor is None:
            return answer
        asked = EXTRACT.format(question=question_of(self._record()), answer=shortened(answer))
        reply = await self.roles.extractor.reply(
            [Message(role="user", content=asked)], Sampling(max_tokens=EXTRACT_TOKENS, temperature=0.0)
        )
        return after_thinking(reply.text)

    def _record(self) -> Record:
        assert self.record is not None, "reset() comes first"
        return self.record
