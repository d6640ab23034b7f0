"""Messages to token ids, for prompts and for what follows a sampled turn. The only user of chat templates.

Token-in, token-out: sampled ids stay as they are. What an environment says next is rendered as the
difference that the template makes after a finished assistant turn, so that the ids of all turns equal one
rendering of the whole conversation. Some templates rewrite history (they drop earlier thinking, for one);
the self-test finds that at start-up, and such a model gets a new segment a turn instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from reasonkit.errors import ReasonkitError
from reasonkit.records import Message, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE: list[Message] = [Message(role="user", content="A?"), Message(role="assistant", content="B.")]
_PROBE_NEXT: list[Message] = [Message(role="user", content="C?")]


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
        self.end_of_turn: int = tokenizer.eos_token_id
        self.appends = self._self_test()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation up to where the assistant speaks."""
        return self._encode(self._render(messages, generation=True))

    def record_ids(self, record: Record, messages: Sequence[Message]) -> list[int]:
        """The same for a record's first turn, whose prompt may be rendered text already."""
        if record.is_raw:
            return self._encode("".join(message["content"] for message in messages))
        return self.prompt_ids(messages)

    def bridge_ids(self, messages: Sequence[Message], ended: bool) -> list[int]:
        """The ids between a sampled turn and the next: what the environment says, and the assistant's header.

        `ended` says whether the sampled turn closed itself; one that was cut at its limit is closed here.
        """
        base = self._render(_PROBE, generation=False)
        whole = self._render([*_PROBE, *messages], generation=True)
        closing = self._tokenizer.eos_token
        cut = base.rfind(closing) + len(closing)
        return ([] if ended else [self.end_of_turn]) + self._encode(whole[cut:])

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

    def _self_test(self) -> bool:
        """Whether appending turn by turn gives the ids of the whole conversation rendered at once."""
        base = self._render(_PROBE, generation=False)
        whole = self._render([*_PROBE, *_PROBE_NEXT], generation=True)
        closing = self._tokenizer.eos_token
        if closing not in base or not whole.startswith(base[: base.rfind(closing) + len(closing)]):
            return False
        reply = [*self._encode("B."), self.end_of_turn]
        appended = [*self.prompt_ids(_PROBE[:1]), *reply, *self.bridge_ids(_PROBE_NEXT, ended=True)]
        return appended == self.prompt_ids([*_PROBE, *_PROBE_NEXT])

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
