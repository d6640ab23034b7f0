"""Demonstrations as a batch for the learner: imitation is the same step, with another loss.

The prompt is rendered and the reply appended exactly as sampling would have put them (the reply's own ids, then
the end of turn), so that the model imitates what it will later be asked to sample. Only the reply is learned.
Left out: conversations of several turns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reasonkit.dialogue import Dialogue
from reasonkit.errors import ReasonkitError
from reasonkit.records import Message
from reasonkit.train.packing import Batch, Sample, make_batch


def sft_batch(pairs: Sequence[tuple[Sequence[Message], str]], dialogue: Dialogue, context: int) -> Batch:
    """(messages, reply) pairs as one optimizer update of the `nll` loss. Replies are cut at the context."""
    samples = []
    for messages, reply in pairs:
        prompt = dialogue.prompt_ids(messages)
        answer = [*dialogue.reply_ids(reply), dialogue.end_of_turn]
        if len(prompt) >= context:
            raise ReasonkitError(
                f"a demonstration's prompt has {len(prompt)} tokens, which leaves nothing to learn within the "
                f"context of {context}",
                "raise model.context, or leave out long problems",
            )
        ids = [*prompt, *answer][:context]
        scored = torch.arange(len(prompt), len(ids))
        samples.append(
            Sample(
                ids=torch.tensor(ids),
                scored=scored,
                old_logprobs=torch.zeros(len(scored)),
                sampler_logprobs=torch.zeros(len(scored)),
                advantages=torch.ones(len(scored)),
                rollout_tokens=len(scored),
            )
        )
    return make_batch(samples)
