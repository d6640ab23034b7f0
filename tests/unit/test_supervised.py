"""Learning from given replies: what is scored, DPO against its definition, and the real command."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from reasonkit.data.adapters import read_any
from reasonkit.dialogue import Dialogue
from reasonkit.errors import ConfigError, ReasonkitError
from reasonkit.recipe import LossConfig, Recipe, TrainConfig
from reasonkit.records import Message, Record
from reasonkit.rundir import RunDir, read_metrics
from reasonkit.train.dpo import REFERENCE, Preference
from reasonkit.train.learner import LocalLearner
from reasonkit.train.rank import LearnerSettings, Rank
from reasonkit.train.sft import Imitation, demonstrated
from reasonkit.train.supervised import learning, make_objective
from tests.killed_train import __file__ as killed_train
from tests.learners import local_learner
from tests.micro import reasonkit, write_micro
from tests.tiny_models import tiny_model, tiny_tokenizer

CONTEXT = 128
DIALOGUE = Dialogue(tiny_tokenizer())
RAISED = 0.05


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def recipe(algorithm: Any, **keys: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "model": {"path": "m", "context": CONTEXT},
            "rollout": {"max_tokens": 16},
            "algorithm": algorithm,
            **keys,
        }
    )


def learner_of(algorithm: Any) -> LocalLearner:
    return local_learner(
        tiny_model("llama"),
        loss=learning(recipe(algorithm)).loss,
        train=TrainConfig(lr=1e-2, token_budget=64),
        total_updates=20,
        max_tokens=16,
    )


def test_every_assistant_turn_is_learned_and_nothing_else() -> None:
    turns = (user("1+1"), assistant("2"), user("2+2"))
    [sample] = demonstrated(DIALOGUE, Record("a", "chat", turns, None), "4", CONTEXT)
    tokenizer = tiny_tokenizer()
    learned = tokenizer.decode(sample.ids[sample.scored])
    assert learned == "2<|im_end|>4<|im_end|>"
    whole = tokenizer.apply_chat_template([*turns, assistant("4")], tokenize=False)
    assert str(whole).startswith(str(tokenizer.decode(sample.ids)))


def test_a_turn_with_train_false_is_read_and_not_learned() -> None:
    wrong = {**assistant("3"), "train": False}
    turns = [user("1+1"), wrong, user("2+2"), assistant("4"), user("5"), assistant("6")]
    record = read_any({"messages": turns})
    [sample] = demonstrated(DIALOGUE, record, record.answer, CONTEXT)
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(sample.ids[sample.scored]) == "4<|im_end|>6<|im_end|>"
    assert "3<|im_end|>" in str(tokenizer.decode(sample.ids))
    apart = Dialogue(tiny_tokenizer())
    apart.appends_after = lambda roles: False  # type: ignore[method-assign]
    assert len(demonstrated(apart, record, record.answer, CONTEXT)) == 2, "no sequence of the turn left out"


def test_a_sequence_is_cut_at_the_context_and_dropped_where_nothing_is_left() -> None:
    record = Record("a", "chat", (user("1"),), None)
    prompt = len(DIALOGUE.prompt_ids([user("1")]))
    [sample] = demonstrated(DIALOGUE, record, "123456", prompt + 2)
    assert sample.scored.numel() == 2
    assert demonstrated(DIALOGUE, record, "123456", prompt) == []


def test_a_record_that_leaves_nothing_to_learn_is_an_error_that_names_it() -> None:
    imitation = Imitation.of(recipe("sft"), DIALOGUE, learner_of("sft"))
    records = [Record("a", "chat", (user("1+1"),), "2"), Record("b", "chat", (user("9" * CONTEXT),), "2")]
    with pytest.raises(ReasonkitError, match=rf"record b of chat leaves nothing to learn .* \({CONTEXT}\)"):
        asyncio.run(imitation.batch(records, 1))
    # An earlier turn within the context is something to learn, whatever becomes of the last one.
    turns = (user("1"), assistant("2"), user("9" * CONTEXT))
    batch, _ = asyncio.run(imitation.batch([Record("c", "chat", turns, "2")], 1))
    assert batch.tokens == 2


def test_imitation_takes_the_answer_or_asks_a_demonstrator() -> None:
    imitation = Imitation.of(recipe("sft"), DIALOGUE, learner_of("sft"))
    batch, _ = asyncio.run(imitation.batch([Record("a", "chat", (user("1+1"),), "2")], 1))
    assert (len(batch.samples), batch.tokens) == (1, 2)
    with pytest.raises(ReasonkitError, match="has no reply to imitate: its answer is dict"):
        asyncio.run(imitation.batch([Record("c", "chat", (user("1"),), {"a": 1})], 1))
    with pytest.raises(ConfigError, match="does not know demonstrater"):
        Imitation.of(recipe({"sft": {"demonstrater": "x:y"}}), DIALOGUE, learner_of("sft"))


PAIRS = [
    Record("p1", "preference", (user("1+1"),), {"chosen": "2", "rejected": "33"}),
    Record("p2", "preference", (user("2+3"), assistant("5"), user("+1")), {"chosen": "06", "rejected": "9"}),
    Record("p3", "preference", (user("7"),), {"chosen": "777", "rejected": "1"}),
]


def token_logprobs(learner: LocalLearner, record: Record, name: str) -> Tensor:
    """Of a reply, from whole logits of it alone."""
    model = learner.rank.policy.model
    model.set_attn_implementation("eager")
    prompt = DIALOGUE.prompt_ids(record.prompt)
    reply = [*DIALOGUE.reply_ids(record.answer[name]), DIALOGUE.end_of_turn]
    logits = model(input_ids=torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
    logprobs: Tensor = logits.log_softmax(-1).gather(1, torch.tensor(reply)[:, None])[:, 0]
    return logprobs


def by_definition(
    learner: LocalLearner, options: dict[str, float], reference: Sequence[tuple[float, float]]
) -> Tensor:
    """DPO's loss from its definition."""
    losses = []
    for record, (better_before, worse_before) in zip(PAIRS, reference, strict=True):
        replies = [token_logprobs(learner, record, name) for name in ("chosen", "rejected")]
        scores = [tokens.mean() if options.get("normalised") else tokens.sum() for tokens in replies]
        means = [tokens.mean() for tokens in replies]
        h = options.get("beta", 0.1) * ((scores[0] - better_before) - (scores[1] - worse_before))
        smoothing = options.get("smoothing", 0.0)
        loss = -(1 - smoothing) * logsigmoid(h) - smoothing * logsigmoid(-h)
        losses.append(loss - options.get("nll", 0.0) * means[0])
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    "options",
    [{}, {"beta": 5.0, "normalised": True}, {"nll": 0.5}, {"beta": 0.7, "smoothing": 0.2}],
    ids=["plain", "normalised", "with imitation", "smoothed"],
)
def test_the_weighted_imitation_has_the_gradient_of_dpo(options: dict[str, Any], tmp_path: Path) -> None:
    algorithm = {"dpo": options}
    learner = learner_of(algorithm)
    preference = Preference.of(recipe(algorithm), DIALOGUE, learner, tmp_path)
    asyncio.run(preference.prepare(lambda: PAIRS))
    with torch.no_grad():  # away from the reference, where the margins are not all 0
        for parameter in learner.rank.policy.model.parameters():
            parameter.mul_(1 + RAISED)
    batch, measured = asyncio.run(preference.batch(PAIRS, 1))
    model = learner.rank.policy.model
    model.zero_grad(set_to_none=False)
    learner.rank.accumulate(batch)
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    kept = json.loads((tmp_path / REFERENCE).read_text())
    model.zero_grad(set_to_none=False)
    loss = by_definition(learner, options, [kept[record.uid] for record in PAIRS])
    loss.backward()
    scale = max(parameter.grad.abs().max().item() for parameter in model.parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-5 * scale, msg=name)
    assert measured["loss"] == pytest.approx(loss.item(), rel=1e-4)
    for place, name in enumerate(("chosen", "rejected")):
        replies = [token_logprobs(learner, record, name).detach() for record in PAIRS]
        now = [float(each.mean() if options.get("normalised") else each.sum()) for each in replies]
        before = [kept[record.uid][place] for record in PAIRS]
        assert measured[f"logprob_{name}"] == pytest.approx(sum(now) / 3, rel=1e-4)
        assert measured[f"gain_{name}"] == pytest.approx((sum(now) - sum(before)) / 3, rel=1e-3)
        assert measured[f"length_{name}"] == pytest.approx(sum(map(len, replies)) / 3)


def test_dpo_makes_the_better_replies_likelier_than_the_reference_does(tmp_path: Path) -> None:
    learner = learner_of("dpo")
    preference = Preference.of(recipe("dpo"), DIALOGUE, learner, tmp_path)
    asyncio.run(preference.prepare(lambda: PAIRS))
    first: dict[str, float] = {}
    for step in range(15):
        batch, measured = asyncio.run(preference.batch(PAIRS, step))
        first = first or measured
        asyncio.run(learner.step(batch))
    assert (first["loss"], first["margin"]) == (pytest.approx(0.6931, abs=1e-3), pytest.approx(0.0, abs=1e-4))
    assert measured["preferred"] == 1.0
    assert measured["gain_chosen"] > measured["gain_rejected"]


def test_a_pair_whose_reply_would_be_cut_or_that_prefers_nothing_is_left_out_whole(tmp_path: Path) -> None:
    long = Record("long", "preference", (user("1"),), {"chosen": "1" * CONTEXT, "rejected": "2"})
    preference = Preference.of(recipe("dpo"), DIALOGUE, learner_of("dpo"), tmp_path)
    same = Record("same", "preference", (user("1"),), {"chosen": "2", "rejected": "2"})
    asyncio.run(preference.prepare(lambda: [long, same, PAIRS[0]]))
    batch, measured = asyncio.run(preference.batch([long, same, PAIRS[0]], 1))
    assert (batch.sequences, len(batch.samples), measured["left_out"]) == (1, 2, 2.0)
    with pytest.raises(ReasonkitError, match="no pair of a chosen and a rejected reply"):
        asyncio.run(preference.batch([Record("x", "chat", (user("1"),), "2")], 1))


def test_given_replies_take_one_update_a_step() -> None:
    with pytest.raises(ConfigError, match=r"makes one update a step, but train.mini_batch \(2\)"):
        learning(recipe("sft", train={"prompts": 4, "mini_batch": 2}))
    assert learning(recipe("sft", loss={"kl": 0.1})).loss.kl == 0.0
    assert learning(recipe("grpo")).loss == LossConfig()


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_given_replies_are_learned_at_temperature_one(algorithm: str, tmp_path: Path) -> None:
    """Whatever temperature validation samples at: the loss is cross-entropy, the reference the model's own."""
    cool = recipe(algorithm, rollout={"max_tokens": 16, "temperature": 0.6}, train={"token_budget": 64})
    learner = LocalLearner(Rank(tiny_model("llama"), LearnerSettings.of(learning(cool))))
    objective = make_objective(cool, DIALOGUE, learner, tmp_path)
    pair = PAIRS[0]
    if algorithm == "dpo":
        asyncio.run(objective.prepare(lambda: [pair]))
        measured = json.loads((tmp_path / REFERENCE).read_text())["p1"][0]
    else:
        batch, _ = asyncio.run(objective.batch([replace(pair, answer=pair.answer["chosen"])], 1))
        measured = learner.rank.accumulate(batch)["loss"] * -batch.tokens
    assert measured == pytest.approx(token_logprobs(learner, pair, "chosen").sum().item(), rel=1e-5)


SUPERVISED = """\
_base_: micro.yaml
name: {name}
algorithm: {algorithm}
data:
  train: [{{name: {file}}}]
  held_out: [{{name: arithmetic_chain, size: 6}}]
train: {{steps: 6, prompts: 4, mini_batch: null, updates_per_rollout: null}}
"""
ROWS = {
    "sft": [{"instruction": f"{n}+{n}=", "input": "", "output": f"{2 * n} #{2 * n}"} for n in range(1, 10)],
    "dpo": [
        {"prompt": f"{n}+{n}=", "chosen": f"{2 * n} #{2 * n}", "rejected": f"{n} #{n}"} for n in range(1, 10)
    ],
}


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_the_real_command_learns_and_resumes_exactly(algorithm: str, tmp_path: Path) -> None:
    write_micro(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[algorithm]))
    text = SUPERVISED.format(name=algorithm, algorithm=algorithm, file="rows.jsonl")
    (tmp_path / "given.yaml").write_text(text)
    done = reasonkit(tmp_path, "train", "given.yaml", "--out", "whole")
    assert done.returncode == 0, done.stderr
    whole = RunDir(tmp_path / "whole")
    losses = [row["loss"] for row in read_metrics(whole.metrics)]
    assert losses[-1] < losses[0]
    arguments = ("in the optimizer", "5", "--", "train", "given.yaml", "--out", "run")
    killed = reasonkit(tmp_path, *arguments, program=(killed_train,))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = reasonkit(tmp_path, "train", "--resume", "run")
    assert resumed.returncode == 0, resumed.stderr
    weights = [
        (RunDir(tmp_path / name).checkpoint(6) / "model.safetensors").read_bytes()
        for name in ("whole", "run")
    ]
    assert weights[0] == weights[1]
    report = reasonkit(tmp_path, "report", "whole")
    assert report.returncode == 0, report.stderr
