"""Messages to token ids, for prompts and for what follows a sampled turn. The only user of chat templates.

Token-in, token-out: sampled ids stay as they are. What an environment says next is rendered as the
difference that the template makes after a finished assistant turn, so that the ids of all turns equal one
rendering of the whole conversation. Some templates rewrite history (they drop earlier thinking, for one);
a self-test with a reply that thinks finds that, and such a model gets a new segment a turn instead.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from jinja2 import TemplateError

from reasonkit.errors import ReasonkitError
from reasonkit.records import Message, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOGGER = logging.getLogger(__name__)

_ASKED = Message(role="user", content="A?")
_SAID = "B."
_THOUGHT = "T.\n</think>\n\nB."
"""A reply that thinks, from where its thinking has begun: what templates treat differently once it is history."""


def cut_mark(tokens: int) -> str:
    """What stands in a text where its middle was cut."""
    return f"\n[... {tokens} tokens cut ...]\n"


class Dialogue:
    """Renders one model's conversations. `appends` says whether turns can be appended to one sequence."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ReasonkitError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template",
                "use the model's chat or instruct version, or put a chat_template.jinja into its folder",
            )
        self._tokenizer = tokenizer
        self._name = tokenizer.name_or_path or "the tokenizer"
        closed = self._render([_ASKED, Message(role="assistant", content=_SAID)], generation=False)
        header, _, tail = closed.rpartition(_SAID)
        self.end_of_turn: int = self._first_special(tail)
        asking = self._render([_ASKED], generation=True)
        self._begun = asking.removeprefix(header) if asking.startswith(header) else ""
        """What the template writes of the reply itself, such as an opening `<think>`."""
        self._appending: dict[tuple[str, ...], bool] = {}
        self._announced = False
        self.appends = self.appends_after(["user"])

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation up to where the assistant speaks."""
        return self._encode(self._render(messages, generation=True))

    def record_ids(self, record: Record, messages: Sequence[Message]) -> list[int]:
        """The same for a record's first turn, whose prompt may be rendered text already."""
        if record.is_raw:
            return self._encode("".join(message["content"] for message in messages))
        return self.prompt_ids(messages)

    def said(self, text: str) -> Message:
        """A sampled reply as the conversation's history has it."""
        return Message(role="assistant", content=f"{self._begun}{text}")

    def bridge_ids(self, messages: Sequence[Message], ended: bool) -> list[int]:
        """The ids between a sampled turn and the next: what the environment says, and the assistant's header.

        `ended` says whether the sampled turn closed itself; one that was cut at its limit is closed here.
        """
        probe = [_ASKED, self.said(_SAID)]
        whole = self._render([*probe, *messages], generation=True)
        cut = len(self._up_to_end(self._render(probe, generation=False)))
        return ([] if ended else [self.end_of_turn]) + self._encode(whole[cut:])

    def appends_after(self, roles: Sequence[str]) -> bool:
        """Whether appending what these roles say gives the ids of the whole conversation rendered at once."""
        key = tuple(roles)
        if key not in self._appending:
            self._appending[key] = self._self_test([Message(role=role, content="C?") for role in roles])
        return self._appending[key]

    def announce(self) -> None:
        """Say once that turns are not appended. Called where there is a second turn, as most problems have none."""
        if self._announced:
            return
        self._announced = True
        LOGGER.warning(
            "the chat template of %s rewrites earlier turns, so that each turn of an episode becomes a segment "
            "of its own, with the history as the template shows it",
            self._name,
        )

    def reply_ids(self, text: str) -> list[int]:
        """The ids of a reply that was written, not sampled: a demonstration to imitate."""
        return self._encode(text)

    def reply_text(self, ids: Sequence[int]) -> str:
        """A sampled reply as text, without its special tokens."""
        decoded = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        assert isinstance(decoded, str)
        return decoded

    def shorten(self, text: str, limit: int) -> tuple[str, int]:
        """The text with its middle cut, where it has more than `limit` tokens, and how many were cut.

        Beginning and end stay: an error's cause is often in the last line. The mark that stands for the rest comes
        on top of the limit.
        """
        ids = self._encode(text)
        if len(ids) <= limit:
            return text, 0
        head, tail = ids[: limit - limit // 2], ids[len(ids) - limit // 2 :]
        cut = len(ids) - limit
        return f"{self.reply_text(head)}{cut_mark(cut)}{self.reply_text(tail)}", cut

    def text_with_specials(self, ids: Sequence[int]) -> str:
        """The ids as text, special tokens in sight: what a person checks a prompt by."""
        decoded = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        assert isinstance(decoded, str)
        return decoded

    def _self_test(self, following: Sequence[Message]) -> bool:
        thought = _THOUGHT if "<think>" in self._begun else f"<think>\n{_THOUGHT}"
        for text in (_SAID, thought):
            probe = [_ASKED, self.said(text)]
            try:
                whole = self._render([*probe, *following], generation=True)
                base = self._up_to_end(self._render(probe, generation=False))
            except TemplateError:  # a role that this template refuses
                return False
            if not whole.startswith(base):
                return False
            reply = [*self._encode(text), self.end_of_turn]
            appended = [*self.prompt_ids([_ASKED]), *reply, *self.bridge_ids(following, ended=True)]
            if appended != self._encode(whole):
                return False
        return True

    def _up_to_end(self, rendered: str) -> str:
        """Without what the template writes after the last turn's end."""
        end = self.text_with_specials([self.end_of_turn])
        return rendered[: rendered.rfind(end) + len(end)]

    def _first_special(self, text: str) -> int:
        """The token that ends a turn: the first special one after its text. Not every template uses the EOS."""
        tokenizer = self._tokenizer
        special = {place for place, token in tokenizer.added_tokens_decoder.items() if token.special}
        found = [token for token in self._encode(text) if token in special]
        return found[0] if found else cast(int, tokenizer.eos_token_id)

    def _render(self, messages: Sequence[Message], generation: bool) -> str:
        rendered = self._tokenizer.apply_chat_template(
            cast(list[dict[str, str]], list(messages)), tokenize=False, add_generation_prompt=generation
        )
        assert isinstance(rendered, str)
        return rendered

    def _encode(self, text: str) -> list[int]:
        """Templates write their own special tokens, so the tokenizer must not add a second BOS."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids
