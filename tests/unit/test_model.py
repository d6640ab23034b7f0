"""New models and tokenizers, loading, and demonstrations made with them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from reasonkit.dialogue import Dialogue
from reasonkit.errors import ConfigError, ReasonkitError
from reasonkit.recipe import LossConfig, ModelConfig, TrainConfig
from reasonkit.records import Message, Record
from reasonkit.train.model import check_context, load_config, load_model, load_tokenizer, make_model
from reasonkit.train.sft import sft_batch
from tests.learners import local_learner

ALPHABET = "0123456789+-="
FIELDS = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
}


def config(**fields: Any) -> ModelConfig:
    return ModelConfig(init={"alphabet": ALPHABET, **FIELDS, **fields}, context=64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model(config(), tmp_path, seed=0)
    return tmp_path


def user(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def test_the_seed_decides_the_weights_and_nothing_else_is_disturbed(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_model(config(), tmp_path / "again", seed=0)
    make_model(config(), tmp_path / "other", seed=1)
    assert torch.equal(torch.rand(3), expected)
    again, other = tmp_path / "again", tmp_path / "other"
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (other / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()
    assert (again / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()


def test_fields_reach_the_model_and_the_rest_follows_from_tokenizer_and_context(folder: Path) -> None:
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    spread = torch.cat([p.flatten() for p in model.parameters() if p.dim() == 2]).std().item()
    assert spread == pytest.approx(0.1, rel=0.05)
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.max_position_embeddings == 64
    assert model.config.eos_token_id == tokenizer.eos_token_id != model.config.pad_token_id
    assert model.dtype == torch.float32


def test_a_field_may_override_what_follows(tmp_path: Path) -> None:
    make_model(config(max_position_embeddings=128, tie_word_embeddings=True), tmp_path, seed=0)
    model = load_model(tmp_path)
    assert model.config.max_position_embeddings == 128
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_one_token_a_character_there_and_back(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("12+3=15", add_special_tokens=False)
    assert len(ids) == 7
    assert tokenizer.decode(ids) == "12+3=15"
    assert tokenizer.encode("é", add_special_tokens=False) == [tokenizer.pad_token_id]


def test_its_template_can_be_appended_to_turn_by_turn(folder: Path) -> None:
    dialogue = Dialogue(load_tokenizer(folder))
    assert dialogue.appends
    rendered = load_tokenizer(folder).decode(dialogue.prompt_ids(user("1+2=")))
    assert rendered == "<|im_start|>user\n1+2=<|im_end|>\n<|im_start|>assistant\n"


def test_a_misspelt_field_is_named_with_its_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hiden_size") as raised:
        make_model(config(hiden_size=3), tmp_path, seed=0)
    assert "hidden_size" in raised.value.hint


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lama"):
        make_model(config(model_type="lama"), tmp_path, seed=0)


def asked(text: str) -> Record:
    return Record(text, "test", tuple(user(text)), "")


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_folder_that_is_no_model_says_so(load: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(ReasonkitError, match="no language model could be loaded"):
        load(tmp_path)


def test_only_the_reply_and_its_end_are_learned(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    dialogue = Dialogue(tokenizer)
    batch = sft_batch([(asked("1+2="), "3"), (asked("10-1="), "09")], dialogue, context=64)
    assert (batch.tokens, batch.sequences) == (5, 2)
    learned = [tokenizer.decode(sample.ids[sample.scored]) for sample in batch.samples]
    assert learned == ["3<|im_end|>", "09<|im_end|>"]
    assert batch.samples[0].ids[: batch.samples[0].prefix].tolist() == dialogue.prompt_ids(user("1+2="))


def test_a_reply_is_cut_at_the_context_and_a_prompt_that_fills_it_is_refused(folder: Path) -> None:
    dialogue = Dialogue(load_tokenizer(folder))
    prompt = len(dialogue.prompt_ids(user("1")))
    [sample] = sft_batch([(asked("1"), "123456")], dialogue, context=prompt + 2).samples
    assert len(sample.scored) == 2
    with pytest.raises(ReasonkitError, match=rf"nothing to learn within model.context \({prompt}\)"):
        sft_batch([(asked("1"), "123456")], dialogue, context=prompt)


def test_imitation_through_the_learners_own_step_learns_a_rule(folder: Path) -> None:
    """Nine demonstrations of a successor: the model must come to give each digit's reply nearly all of its mass."""
    dialogue = Dialogue(load_tokenizer(folder))
    batch = sft_batch([(asked(f"{digit}="), str(digit + 1)) for digit in range(9)], dialogue, context=64)
    learner = local_learner(
        load_model(folder),
        loss=LossConfig(policy="nll"),
        train=TrainConfig(lr=1e-2),
        total_updates=60,
        max_tokens=8,
    )
    losses = [asyncio.run(learner.step(batch)).metrics["loss"] for _ in range(60)]
    assert losses[0] > 2.0
    assert losses[-1] < 0.1


def test_a_context_beyond_the_models_positions_names_both(folder: Path) -> None:
    check_context(load_config(folder), 64, folder)
    with pytest.raises(ConfigError, match=r"model.context \(65\) .* allows \(64\)"):
        check_context(load_config(folder), 65, folder)
