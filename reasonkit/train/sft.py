"""Given replies as a batch for the learner: imitation is the same step, with another loss.

A conversation is rendered exactly as sampling would have put it (prompt, the reply's own ids, the end of turn, what
is said next), so that the model imitates what it will later be asked to sample. Every assistant turn is learned,
unless its row leaves it out, and nothing else. Where a chat template rewrites earlier turns, each assistant turn
becomes a sequence of its own.
Left out: packing, which is the learner's business; its rows have no padding to avoid.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Self

import torch

from reasonkit.dialogue import Dialogue
from reasonkit.errors import ReasonkitError
from reasonkit.recipe import LossConfig, Part, Recipe
from reasonkit.records import Message, Record
from reasonkit.registry import bind, load
from reasonkit.seeding import derive_seed
from reasonkit.train.learner import Learner
from reasonkit.train.packing import Batch, Sample, make_batch

LOGGER = logging.getLogger(__name__)

Demonstrator = Callable[[Record, int], str]


class Imitation:
    """`algorithm: sft`. A record's answer is the reply to imitate, unless a demonstrator writes one.

    `demonstrator` names a function `(record, seed) -> str` as `module:function`.
    """

    def __init__(
        self, recipe: Recipe, dialogue: Dialogue, learner: Learner, *, demonstrator: str | None = None
    ) -> None:
        del learner  # demonstrations can be prepared without the model
        self._dialogue = dialogue
        self._context = recipe.model.context
        self._seed = recipe.seed
        self._demonstrate: Demonstrator | None = load(demonstrator) if demonstrator else None

    @classmethod
    def of(cls, recipe: Recipe, dialogue: Dialogue, learner: Learner) -> Self:
        imitation: Self = bind("algorithm", "sft", cls, recipe.algorithm.options)(recipe, dialogue, learner)
        return imitation

    @staticmethod
    def loss(loss: LossConfig) -> LossConfig:
        """Of the recipe's loss, what imitation has a use for."""
        return LossConfig(policy=Part("nll"), aggregation=loss.aggregation, correction=Part("none"))

    async def prepare(self, records: Callable[[], Sequence[Record]]) -> None:
        """Nothing has to be known beforehand."""

    async def batch(self, records: Sequence[Record], step: int) -> tuple[Batch, dict[str, float]]:
        pairs = [
            (record, self._reply(record, derive_seed(self._seed, "demonstration", step, place)))
            for place, record in enumerate(records)
        ]
        return sft_batch(pairs, self._dialogue, self._context), {}

    def _reply(self, record: Record, seed: int) -> str:
        if self._demonstrate is not None:
            return self._demonstrate(record, seed)
        if not isinstance(record.answer, str):
            raise ReasonkitError(
                f"record {record.uid} of {record.source} has no reply to imitate: its answer is "
                f"{type(record.answer).__name__}",
                "train on a set of conversations (Alpaca, ShareGPT, messages), or name a function that writes "
                "replies: --set algorithm.sft.demonstrator=module:function",
            )
        return record.answer


def demonstrated(dialogue: Dialogue, record: Record, reply: str, context: int) -> list[Sample]:
    """A record's conversation with `reply` as its last turn. Sequences are cut at the context."""
    messages = [*record.prompt, Message(role="assistant", content=reply)]
    spoken = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    sequences: list[tuple[list[int], list[int]]] = []
    ids: list[int] = []
    mask: list[int] = []
    for turn, place in enumerate(spoken):
        between = messages[spoken[turn - 1] + 1 : place] if turn else []
        if turn and dialogue.appends_after([message["role"] for message in between]):
            said = dialogue.bridge_ids(between, ended=True)
        else:
            if turn:
                sequences.append((ids, mask))
            ids, mask = [], []
            said = (
                dialogue.record_ids(record, record.prompt)
                if record.is_raw
                else dialogue.prompt_ids(messages[:place])
            )
        answer = [*dialogue.reply_ids(messages[place]["content"]), dialogue.end_of_turn]
        learned = [int(place not in record.unlearned)] * len(answer)
        ids, mask = [*ids, *said, *answer], [*mask, *[0] * len(said), *learned]
    sequences.append((ids, mask))
    samples = [sample_of(ids[:context], mask[:context], 1.0) for ids, mask in sequences]
    return [sample for sample in samples if sample.scored.numel()]


def sample_of(ids: Sequence[int], mask: Sequence[int], advantage: float) -> Sample:
    """A sequence whose masked tokens nobody sampled: they weigh `advantage` each."""
    scored = torch.tensor(mask, dtype=torch.bool).nonzero().flatten()
    nothing = torch.zeros(len(scored))
    return Sample(
        ids=torch.tensor(ids),
        scored=scored,
        old_logprobs=nothing,
        sampler_logprobs=nothing,
        advantages=torch.full((len(scored),), advantage),
        rollout_tokens=len(scored),
    )


def sft_batch(pairs: Sequence[tuple[Record, str]], dialogue: Dialogue, context: int) -> Batch:
    """(record, reply) pairs as one update of the `nll` loss. A record without a token to learn is an error: merely
    left out, a file full of them would pass for training."""
    samples: list[Sample] = []
    for record, reply in pairs:
        found = demonstrated(dialogue, record, reply, context)
        if not found:
            raise ReasonkitError(
                f"the prompt of record {record.uid} of {record.source} leaves nothing to learn within "
                f"model.context ({context})",
                "raise model.context, or leave long prompts out: --set data.filter_overlong_prompts=true",
            )
        samples += found
    return make_batch(samples)
