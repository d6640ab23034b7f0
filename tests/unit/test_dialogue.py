"""Chat templates as models ship them: either turns append to exactly what one rendering gives, or it is said aloud.

The templates are short forms with the traits that matter here: what opens and closes a turn, what is written around
a reply, what happens to thinking that has become history.
"""

from __future__ import annotations

import asyncio
import logging

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from reasonkit.dialogue import Dialogue
from reasonkit.engines import Reply, Sampling, WeightSource
from reasonkit.envs import Env, Step
from reasonkit.recipe import RolloutConfig
from reasonkit.records import Completion, Message, Record, Rollout, Verdict
from reasonkit.rewards import RewardSum
from reasonkit.rollouts import Draw, Rollouts
from tests.tiny_models import CHAT_TEMPLATE, tiny_tokenizer

LLAMA_3 = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN_25 = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif %}"
    + CHAT_TEMPLATE
)
QWEN_3 = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set content = m.content %}{% if m.role == 'assistant' %}{% set thought = '' %}"
    "{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > ns.last %}"
    "{{ '<|im_start|>assistant\n<think>\n' + thought + '\n</think>\n\n' + content + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}{% endif %}"
    "{% elif m.role == 'tool' %}{{ '<|im_start|>user\n<r>' + content + '</r><|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
R1 = (
    "{{ '<|begin|>' }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% else %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
MISTRAL = (
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ '<bos>' }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
THINKING_KEPT = CHAT_TEMPLATE.replace("assistant\n'", "assistant\n<think>\n'")
"""As `reasonkit chat-template --think` makes them: the reply opens with <think>, and history keeps it."""

TEMPLATES = {
    "chatml": (CHAT_TEMPLATE, [], "<|im_end|>"),
    "llama-3": (
        LLAMA_3,
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|eot_id|>",
    ),
    "qwen-2.5": (QWEN_25, [], "<|im_end|>"),
    "gemma": (GEMMA, ["<bos>", "<start_of_turn>", "<end_of_turn>"], "<end_of_turn>"),
    "thinking kept": (THINKING_KEPT, [], "<|im_end|>"),
}
REWRITING = {
    "qwen-3": (QWEN_3, [], "<|im_end|>"),
    "deepseek-r1": (R1, ["<|begin|>", "<|User|>", "<|Assistant|>", "<|end|>"], "<|end|>"),
    "mistral": (MISTRAL, ["<s>", "</s>"], "</s>"),
}


def tokenizer_of(template: str, specials: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [AddedToken(text, special=True) for text in specials]},
        replace_extra_special_tokens=False,
    )
    tokenizer.chat_template = template
    return tokenizer


class Asks(Env):
    """Two more questions after the first."""

    def __init__(self) -> None:
        self._left = 3

    async def reset(self, record: Record, seed: int) -> list[Message]:
        return list(record.prompt)

    async def step(self, reply: Reply) -> Step:
        self._left -= 1
        return Step([Message(role="user", content=f"And {self._left}?")], done=self._left == 0)


REPLIES = ("<think>\nhm\n</think>\n\none", "two", "<think>\nwell\n</think>\n\nthree")


class Says:
    def __init__(
        self, dialogue: Dialogue, tokenizer: PreTrainedTokenizerFast, replies: tuple[str, ...]
    ) -> None:
        self._tokens = [
            (text, [*tokenizer.encode(text, add_special_tokens=False), dialogue.end_of_turn])
            for text in replies
        ]

    async def generate(self, prompt_ids: object, sampling: Sampling) -> Completion:
        text, tokens = self._tokens.pop(0)
        return Completion(tuple(tokens), (-1.0,) * len(tokens), "stop", (), text)

    async def load_weights(self, weights: WeightSource, version: int) -> None: ...

    async def close(self) -> None: ...


async def no_verdict(record: Record, text: str) -> Verdict:
    return Verdict.wrong(None, "")


def played(tokenizer: PreTrainedTokenizerFast, replies: tuple[str, ...] = REPLIES) -> Rollout:
    dialogue = Dialogue(tokenizer)
    rollouts = Rollouts(
        Says(dialogue, tokenizer, replies),
        dialogue,
        Asks,
        no_verdict,
        RewardSum({"correctness": 1.0}),
        RolloutConfig(max_tokens=50),
        context=1000,
        seed=0,
    )
    record = Record("r", "t", (Message(role="user", content="First?"),), None)
    rollout = asyncio.run(rollouts.one(record, Draw("eval", 0, 1), "r", 0))
    assert rollout.ok, rollout.failure
    return rollout


def conversation(replies: tuple[str, ...]) -> list[dict[str, str]]:
    """What was said before the last reply."""
    asked = ["And 2?", "And 1?"]
    turns = [{"role": "user", "content": "First?"}]
    for reply, question in zip(replies, asked, strict=False):
        turns += [{"role": "assistant", "content": reply}, {"role": "user", "content": question}]
    return turns


def shown(tokenizer: PreTrainedTokenizerFast, turns: list[dict[str, str]]) -> list[int]:
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("name", TEMPLATES)
def test_turns_appended_are_the_conversation_rendered_at_once(name: str) -> None:
    template, specials, end = TEMPLATES[name]
    tokenizer = tokenizer_of(template, specials)
    replies = (
        tuple(reply.removeprefix("<think>\n") for reply in REPLIES) if name == "thinking kept" else REPLIES
    )
    (segment,) = played(tokenizer, replies).segments
    history = tuple(f"<think>\n{reply}" for reply in replies) if name == "thinking kept" else replies
    closing = tokenizer.convert_tokens_to_ids(end)
    last = [*tokenizer.encode(replies[-1], add_special_tokens=False), closing]
    assert list(segment.ids) == [*shown(tokenizer, conversation(history)), *last]
    sampled = [token for token, mask in zip(segment.ids, segment.mask, strict=True) if mask]
    assert tokenizer.decode(sampled) == "".join(f"{reply}{end}" for reply in replies)


@pytest.mark.parametrize("name", REWRITING)
def test_a_template_that_rewrites_history_is_announced_and_gets_a_segment_a_turn(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    template, specials, _ = REWRITING[name]
    tokenizer = tokenizer_of(template, specials)
    begun = "<think>\n" if name == "deepseek-r1" else ""
    with caplog.at_level(logging.WARNING):
        rollout = played(tokenizer, tuple(reply.removeprefix(begun) for reply in REPLIES))
    assert sum("rewrites earlier turns" in message for message in caplog.messages) == 1
    assert len(rollout.segments) == 3
    last = rollout.segments[-1]
    history = tuple(begun + reply.removeprefix(begun) for reply in REPLIES)
    assert list(last.ids[: last.mask.index(1)]) == shown(tokenizer, conversation(history))
    assert [turn.segment for turn in rollout.turns] == [0, 1, 2]


def test_a_role_that_the_template_refuses_is_not_appended() -> None:
    refusing = CHAT_TEMPLATE.replace(
        "{{ '<|im_start|>' + message['role']",
        "{% if message['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ '<|im_start|>' + message['role']",
    )
    dialogue = Dialogue(tokenizer_of(refusing, []))
    assert dialogue.appends_after(["user"])
    assert not dialogue.appends_after(["tool"])


def test_the_end_of_a_turn_is_the_templates_not_the_tokenizers() -> None:
    tokenizer = tokenizer_of(GEMMA, ["<bos>", "<start_of_turn>", "<end_of_turn>"])
    assert Dialogue(tokenizer).end_of_turn == tokenizer.convert_tokens_to_ids("<end_of_turn>")


def test_a_long_text_loses_its_middle_and_says_how_much() -> None:
    dialogue = Dialogue(tiny_tokenizer())
    assert dialogue.shorten("0123456789", 10) == ("0123456789", 0)
    assert dialogue.shorten("0123456789", 5) == ("012\n[... 5 tokens cut ...]\n89", 5)
